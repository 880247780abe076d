"""Proximal policy optimization, with the clipped objective or with a penalty on the KL divergence.

    L(params) = L_policy + value_coef * L_value - entropy_coef * H(pi)
    clip:  L_policy = E[ -min( ratio * A, clip(ratio, 1 - epsilon, 1 + epsilon) * A ) ]
    kl:    L_policy = E[ -ratio * A + beta * KL(pi_old(. | s) || pi(. | s)) ]

with ratio = pi(a | s) / pi_old(a | s), advantages A by generalized advantage estimation, and the value loss
against the lambda-return A + V_old. A rollout is used for several epochs of minibatches; with `target_kl` the
epochs stop once the policy has moved that far. Between rollouts beta is doubled if the policy moved more than
1.5 `penalty_target`, and halved if less than `penalty_target` / 1.5.

Source: Schulman et al. 2017, arXiv 1707.06347, equations 7 to 9; GAE: Schulman et al. 2016, arXiv 1506.02438,
equation 16. Actor and critic are separate networks; advantages are normalized per minibatch, as in the
authors' code. The KL divergence is estimated from the taken actions, and beta follows its estimate on the
rollout's last minibatch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from bellgrad.algos.actor_critic import ActorCritic, ActorCriticLearner
from bellgrad.core.errors import check_range
from bellgrad.core.records import EnvSpec, Metrics, Minibatch, Rollout
from bellgrad.core.tree import Tree, to_device
from bellgrad.ops.grads import Params, value_and_grad
from bellgrad.ops.losses import (
    adapted_kl_coef,
    clipped_value_loss,
    normalize_advantage,
    ppo_clip_loss,
    ppo_kl_loss,
)
from bellgrad.ops.targets import squared_error

ALGORITHMS = {"ppo": "PPO"}


@dataclass(frozen=True)
class PPO(ActorCritic):
    """Hyper-parameters of proximal policy optimization, for discrete and continuous actions.

    Attributes:
        epochs: passes over a rollout.
        minibatches: parts into which each pass splits it; must divide `rollout_steps` times the number of
            environments.
        objective: what keeps the policy near the one that acted: `clip` the ratio, or penalize the `kl`
            divergence.
        clip_epsilon: beyond this distance of the ratio from 1 nothing more is gained, above 0; for `clip`.
        penalty_target: how far the epochs on a rollout should move the policy, nats, above 0; for `kl`, one
            of the paper's three.
        initial_penalty: beta at the start, above 0; for `kl`.
        value_clip: beyond this distance of the value from the old one nothing more is gained, in its own
            unit; None does not clip.
        value_coef: weight of the value loss.
        target_kl: stop the epochs of a rollout once the mean KL divergence exceeds this; None never stops.
    """

    epochs: int = 10
    minibatches: int = 32
    objective: Literal["clip", "kl"] = "clip"
    clip_epsilon: float = 0.2
    penalty_target: float = 0.01
    initial_penalty: float = 1.0
    value_clip: float | None = None
    value_coef: float = 0.5
    target_kl: float | None = None

    memory: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(
            self,
            epochs=(1, 1e4),
            minibatches=(1, 1e6),
            penalty_target=(1e-12, 1e9),
            initial_penalty=(1e-9, 1e9),
        )
        check_range(
            self, clip_epsilon=(1e-6, 100), value_clip=(0, 1e9), value_coef=(0, 1e6), target_kl=(0, 1e9)
        )

    def build(self, spec: EnvSpec, steps: int | None = None) -> PPOLearner:
        """Join these hyper-parameters to an environment; `steps` planned are the horizon of a linear learning
        rate."""
        return PPOLearner(self, spec, steps)


class PPOState(NamedTuple):
    """Everything that changes while it learns."""

    params: Params  # those of `Policy` and "critic.*"
    optimizer: Tree
    learning_rate: Tensor  # [] of the updates on the current rollout
    # [] "coef", beta, and "kl", how far the policy had moved by the latest minibatch; empty with `clip`
    penalty: dict[str, Tensor]
    updates: Tensor  # [] int64
    steps: Tensor  # [] int64, environment steps; the driver advances it


class PPOLearner(ActorCriticLearner):
    """The pure functions of PPO for one environment."""

    config: PPO

    def __init__(self, config: PPO, spec: EnvSpec, steps: int | None = None):
        super().__init__(config, spec, steps)
        self.max_kl = config.target_kl

    def init(self, rng: torch.Generator) -> PPOState:
        """Random parameters; the policy begins close to uniform (discrete) or to a centered Gaussian."""
        c, penalty = self.config, {}
        params, optimizer, learning_rate, *counters = super().init(rng)
        if c.objective == "kl":  # the KL divergence begins at its target, so that the first beta is kept
            penalty = {"coef": torch.tensor(c.initial_penalty), "kl": torch.tensor(c.penalty_target)}
        return PPOState(params, optimizer, learning_rate, to_device(penalty, rng.device), *counters)

    def prepare(
        self, state: PPOState, rollout: Rollout, noise: None = None
    ) -> tuple[PPOState, Minibatch, Metrics]:
        """Advantages and value targets, `[T, B]`; and the coefficient of the penalty."""
        state, whole, metrics = super().prepare(state, rollout)
        if state.penalty:
            coef = adapted_kl_coef(state.penalty["coef"], state.penalty["kl"], self.config.penalty_target)
            state, metrics = state._replace(penalty=state.penalty | {"coef": coef}), {"kl_coef": coef}
        return state, whole, metrics

    def update(self, state: PPOState, batch: Minibatch, noise: None = None) -> tuple[PPOState, Metrics]:
        """One step down the gradient of the objective."""
        c = self.config
        advantage = normalize_advantage(batch.advantage) if c.normalize_advantages else batch.advantage

        def loss(params: Params) -> tuple[Tensor, Metrics]:
            policy, value = self.policy_and_value(params, batch)
            logprob, metrics = policy.logprob(batch.action), {}
            if c.objective == "clip":
                actor, kl, metrics["clip_fraction"] = ppo_clip_loss(
                    logprob, batch.logprob, advantage, c.clip_epsilon
                )
            else:
                actor, kl = ppo_kl_loss(logprob, batch.logprob, advantage, state.penalty["coef"])
            if c.value_clip is None:
                critic = 0.5 * squared_error(value - batch.return_).mean()
            else:
                critic = clipped_value_loss(value, batch.value, batch.return_, c.value_clip)
            entropy = policy.entropy().mean()
            metrics |= {"policy_loss": actor, "value_loss": critic, "entropy": entropy, "approx_kl": kl}
            bonus = c.entropy_coef * entropy if c.entropy_coef else 0.0  # 0 need not be differentiated
            return actor + c.value_coef * critic - bonus, metrics

        (_, metrics), grads = value_and_grad(loss, has_aux=True)(state.params)
        if state.penalty:
            state = state._replace(penalty=state.penalty | {"kl": metrics["approx_kl"]})
        return self.optimizer_step(state, grads, metrics)
