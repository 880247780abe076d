"""Proximal policy optimisation with the clipped objective.

    L(params) = E[ -min( ratio * A, clip(ratio, 1 - epsilon, 1 + epsilon) * A ) ] + value_coef * L_value - entropy_coef * H(pi)

with ratio = pi(a | s) / pi_old(a | s), advantages A by generalised advantage estimation, and the value loss against the
lambda-return A + V_old. A rollout is used for several epochs of minibatches; with `target_kl` the epochs stop once the policy has
moved that far.

Source: Schulman et al. 2017, arXiv 1707.06347, equations 7 and 9; GAE: Schulman et al. 2016, arXiv 1506.02438, equation 16.
Actor and critic are separate networks; advantages are normalised per minibatch, as in the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bellgrad.algos.actor_critic import ActorCritic, ActorCriticLearner, ActorCriticState
from bellgrad.core.errors import check_range
from bellgrad.core.protocols import Metrics
from bellgrad.core.records import EnvSpec, Minibatch
from bellgrad.ops.grads import value_and_grad
from bellgrad.ops.losses import clipped_value_loss, normalise_advantage, ppo_clip_loss, squared_error


@dataclass(frozen=True)
class PPO(ActorCritic):
    """Hyper-parameters of proximal policy optimisation, for discrete and continuous actions.

    Attributes:
        clip_epsilon: how far the ratio may usefully move from 1, above 0.
        value_clip: the same for the value prediction; None does not clip.
        value_coef: weight of the value loss.
        target_kl: stop the epochs of a rollout once the mean KL divergence exceeds this; None never stops.
    """

    epochs: int = 10
    minibatches: int = 32
    clip_epsilon: float = 0.2
    value_clip: float | None = None
    value_coef: float = 0.5
    target_kl: float | None = None

    memory: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, clip_epsilon=(1e-6, 100), value_clip=(0, 1e9), value_coef=(0, 1e6), target_kl=(0, 1e9))

    def build(self, spec: EnvSpec, steps: int | None = None) -> PPOLearner:
        """Join these hyper-parameters to an environment; `steps` planned are the horizon of a linear learning rate."""
        return PPOLearner(self, spec, steps)


class PPOLearner(ActorCriticLearner):
    """The pure functions of PPO for one environment."""

    def update(self, state: ActorCriticState, batch: Minibatch, noise: None = None) -> tuple[ActorCriticState, Metrics]:
        """One step down the gradient of the clipped objective."""
        c = self.config
        advantage = normalise_advantage(batch.advantage) if c.normalise_advantages else batch.advantage

        def loss(params: dict[str, Tensor]) -> tuple[Tensor, Metrics]:
            policy, value = self.judge(params, batch)
            actor, kl, clipped = ppo_clip_loss(policy.logprob(batch.action), batch.logprob, advantage, c.clip_epsilon)
            if c.value_clip is None:
                critic = 0.5 * squared_error(value - batch.return_).mean()
            else:
                critic = clipped_value_loss(value, batch.value, batch.return_, c.value_clip)
            entropy = policy.entropy().mean()
            metrics = {"policy_loss": actor, "value_loss": critic, "entropy": entropy, "approx_kl": kl, "clip_fraction": clipped}
            bonus = c.entropy_coef * entropy if c.entropy_coef else 0.0  # a bonus of 0 need not be differentiated
            return actor + c.value_coef * critic - bonus, metrics

        (_, metrics), grads = value_and_grad(loss, has_aux=True)(state.params)
        return self.descend(state, grads, metrics)
