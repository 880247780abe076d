"""One measurement of Tianshou: environment steps a second of learning, as one line of JSON.

The loop is that of its own on-policy trainer without evaluation and log: a `Collector` over a
`DummyVectorEnv` gathers a rollout, the algorithm learns from the buffer, the buffer begins anew. The clock
starts after `--warm` steps and stops after `--steps` more.
"""

import time

import gymnasium
import torch
from side import arguments, tell
from tianshou.algorithm import A2C, PPO
from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory, RMSpropOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.utils.net.common import Net
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic
from tianshou.utils.torch_utils import policy_within_training_step, torch_train_mode


def build(s: dict, env: gymnasium.Env) -> A2C | PPO:
    """The algorithm with the settings of a row: actor and critic are separate networks with tanh, as on the
    other sides."""

    def net() -> Net:
        return Net(
            state_shape=env.observation_space.shape, hidden_sizes=s["hidden"], activation=torch.nn.Tanh
        )

    policy = ProbabilisticActorPolicy(
        actor=DiscreteActor(preprocess_net=net(), action_shape=env.action_space.n, softmax_output=False),
        dist_fn=lambda logits: torch.distributions.Categorical(logits=logits),
        action_space=env.action_space, action_scaling=False, action_bound_method=None,
    )  # fmt: skip
    shared = {
        "policy": policy,
        "critic": DiscreteCritic(preprocess_net=net()),
        "gamma": s["gamma"],
        "gae_lambda": s["lambda"],
        "vf_coef": 0.5,
        "ent_coef": 0.0,
        "max_grad_norm": 0.5,
    }
    if s["algorithm"] == "ppo":
        return PPO(optim=AdamOptimizerFactory(lr=s["learning_rate"], eps=1e-5), eps_clip=0.2, **shared)
    return A2C(optim=RMSpropOptimizerFactory(lr=s["learning_rate"], alpha=0.99, eps=1e-5), **shared)


def main() -> None:
    args = arguments(__doc__)
    s, b = args.settings, args.settings["num_envs"]
    torch.manual_seed(s["seed"])
    algorithm = build(s, gymnasium.make(s["env"]))
    rollout = s["rollout_steps"] * b
    buffer = VectorReplayBuffer(rollout, b)
    collector = Collector(
        algorithm, DummyVectorEnv([lambda: gymnasium.make(s["env"]) for _ in range(b)]), buffer
    )
    collector.reset()

    def learn(steps: int) -> int:
        taken = 0
        with policy_within_training_step(algorithm.policy):
            while taken < steps:
                taken += collector.collect(n_step=rollout).n_collected_steps
                with torch_train_mode(algorithm):
                    algorithm.update(buffer=collector.buffer, batch_size=s["batch_size"], repeat=s["epochs"])
                collector.reset_buffer(keep_statistics=True)
        return taken

    learn(args.warm)
    start = time.perf_counter()
    steps = learn(args.steps)
    tell("tianshou", steps, time.perf_counter() - start)


if __name__ == "__main__":
    main()
