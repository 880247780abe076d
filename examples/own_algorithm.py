"""An algorithm of your own, trained, stopped, resumed, compared and exported: DQN with the mellowmax.

    mm(q) = log( mean_a exp(omega * q_a) ) / omega

takes the place of the maximum. A frozen dataclass of hyper-parameters whose `build` gives a learner is all
that it needs. Its runs name it as `own_algorithm:MellowDQN`, so that they can be opened if this file can be
imported:

    bellgrad evaluate runs/own/mellow/seed-0 --trust-imports
    bellgrad train own_algorithm:MellowDQN --env CartPole-v1 --steps 50k --algo.omega 10

Source: Asadi and Littman 2017, "An alternative softmax operator for reinforcement learning", arXiv
1612.05628.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch

import bellgrad as bg
from bellgrad.algos.dqn import DQNLearner
from bellgrad.core.errors import check_range

STEPS = 4_000


@dataclass(frozen=True)
class MellowDQN(bg.DQN):
    """Hyper-parameters of DQN with the mellowmax, for discrete actions.

    Attributes:
        omega: how near the mellowmax is to the maximum, above 0; near 0 it is the mean.
    """

    omega: float = 5.0

    def __post_init__(self):
        super().__post_init__()
        check_range(self, omega=(1e-6, 1e6))

    def build(self, spec, steps=None):
        """The learner for an environment."""
        return MellowLearner(self, spec)


class MellowLearner(DQNLearner):
    """DQN's learner with another target."""

    def target(self, state, batch, noise=None):
        """`[B]`: the reward, and the discounted mellowmax of the next state's values `[B, A]`."""
        omega, q = self.config.omega, self.q(state.target, batch.next_obs)
        mellow = (torch.logsumexp(omega * q, -1) - math.log(self.actions)) / omega
        return batch.reward + batch.discount * mellow


def main():
    """Train both on two seeds, and compare them."""
    root = Path("runs/own")
    shared = {"learning_starts": 500, "epsilon_steps": 2_000, "batch_size": 32, "target_period": 100}
    quiet = {"env": "CartPole-v1", "progress": "off", "engine": "eager", "checkpoints": 2}
    runs = []
    for name, algorithm in {"mellow": MellowDQN(**shared), "dqn": bg.DQN(**shared)}.items():
        for seed in (0, 1):
            folder = root / name / f"seed-{seed}"
            bg.train(algorithm, steps=STEPS // 2, seed=seed, out=folder, **quiet)
            runs.append(bg.resume(folder, STEPS, progress="off"))  # from the folder, as after a stop
            print(f"{name}, seed {seed}: {bg.evaluate(runs[-1], episodes=20).return_mean:.1f} of 500")
    (pair,) = bg.compare(runs)["improvement"]
    print(f"a run of {pair['x']} beats one of {pair['y']} with probability {pair['probability']:.2f}")
    print(f"the policy as ONNX: {bg.export(runs[0], root / 'mellow.onnx')}")
    print(f"Look at {bg.plot(runs, root / 'curves.png')}: both learn")


if __name__ == "__main__":
    from own_algorithm import main  # under the file's own name, by which its runs are opened again

    main()
