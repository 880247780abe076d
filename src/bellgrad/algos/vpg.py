"""Vanilla policy gradient: one step of the policy from a whole rollout, then several of the value.

    policy:  g = E[ A * grad log pi(a | s) ] + entropy_coef * grad H(pi),   one step of the optimizer
    value:   L_V = E[ (V(s) - (A + V_old(s)))^2 ],                          `epochs` passes in minibatches

with advantages A by generalized advantage estimation, normalized over the rollout.

Source: Spinning Up, "Vanilla policy gradient" (Achiam 2018); Sutton et al. 2000, "Policy gradient methods for
reinforcement learning with function approximation", theorem 1; GAE: Schulman et al. 2016, arXiv 1506.02438,
equation 16. Deviates from Spinning Up in its learning rates, and in rollouts that are shorter and more
numerous, which suits runs of hundreds of thousands of steps better than runs of millions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bellgrad.algos.actor_critic import split
from bellgrad.algos.policy_gradient import PolicyGradient, PolicyGradientLearner
from bellgrad.core.errors import check_range
from bellgrad.core.records import EnvSpec, Metrics, Minibatch, Rollout
from bellgrad.core.tree import Tree, flat
from bellgrad.ops.grads import Params, value_and_grad

ALGORITHMS = {"vpg": "VPG"}


@dataclass(frozen=True)
class VPG(PolicyGradient):
    """Hyper-parameters of the vanilla policy gradient, for discrete and continuous actions.

    Attributes:
        learning_rate: of the policy, above 0.
        value_learning_rate: of the value, above 0; it falls together with the policy's.
        epochs: passes over a rollout, of the value alone.
        minibatches: parts into which each pass splits it; must divide `rollout_steps` times the number of
            environments.
        optimizer: how gradients become steps, separately for policy and value; its learning rate is replaced
            by those above.
        network: of actor and critic alike: an `MLP`, a `CNN`, or a user's own `nn.Module` class.
    """

    learning_rate: float = 5e-3
    learning_rate_decay: Literal["constant", "linear"] = "linear"
    rollout_steps: int = 64
    max_grad_norm: float | None = None
    value_learning_rate: float = 1e-3
    epochs: int = 5
    minibatches: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, value_learning_rate=(1e-12, 10), epochs=(1, 1e4), minibatches=(1, 1e6))

    def build(self, spec: EnvSpec, steps: int | None = None) -> VPGLearner:
        """Join these hyper-parameters to an environment; `steps` planned are the horizon of a linear learning
        rate."""
        return VPGLearner(self, spec, steps)


class VPGState(NamedTuple):
    """Everything that changes while it learns."""

    params: Params  # those of `Policy` and "critic.*"
    policy_optimizer: Tree
    optimizer: Tree  # of "critic.*"
    learning_rate: Tensor  # [] of the updates on the current rollout, which are the value's
    updates: Tensor  # [] int64
    steps: Tensor  # [] int64, environment steps; the driver advances it


class VPGLearner(PolicyGradientLearner):
    """The pure functions of VPG for one environment."""

    config: VPG

    def init(self, rng: torch.Generator) -> VPGState:
        """Random parameters; the policy begins close to uniform (discrete) or to a centered Gaussian."""
        params, _, learning_rate, *counters = super().init(rng)
        policy_optimizer, optimizer = map(self.config.optimizer.init, split(params))
        return VPGState(params, policy_optimizer, optimizer, learning_rate, *counters)

    def prepare(
        self, state: VPGState, rollout: Rollout, noise: Tensor | None = None
    ) -> tuple[VPGState, Minibatch, Metrics]:
        """Advantages and value targets, `[T, B]`; and the step of the policy."""
        c = self.config
        state, whole, _ = super().prepare(state, rollout, noise)
        batch = flat(whole)

        def loss(policy: Params) -> tuple[Tensor, Metrics]:
            return self.policy_loss(self.policy.distribution(policy, batch.obs), batch)

        (_, metrics), grads = value_and_grad(loss, has_aux=True)(split(state.params)[0])
        moved, metrics = self.optimizer_step(state._replace(optimizer=state.policy_optimizer), grads, metrics)
        rate = state.learning_rate * (c.value_learning_rate / c.learning_rate)
        return (
            moved._replace(policy_optimizer=moved.optimizer, optimizer=state.optimizer, learning_rate=rate),
            whole,
            metrics,
        )

    def update(self, state: VPGState, batch: Minibatch, noise: None = None) -> tuple[VPGState, Metrics]:
        """One step of the value down its squared error."""
        return self.value_step(state, batch)
