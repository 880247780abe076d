"""Advantage actor-critic: after every few steps of all environments, one gradient step for policy and value
together.

    L(params) = E[ -A * log pi(a | s) ] + value_coef * E[ (R - V(s))^2 ] - entropy_coef * H(pi)

with R the discounted rewards up to the rollout's end and the value there, and A = R - V(s) (lambda = 1; less
than 1 gives GAE).

Source: Mnih et al. 2016, arXiv 1602.01783, algorithm S3 and equation S2 (RMSprop with epsilon inside the
root), here synchronous, as in the A2C of OpenAI Baselines, whose rates, clipping and running squares that
begin at 1 are the defaults. Deviates in the network, which actor and critic do not share, and in the entropy
bonus, which is 0.01 there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor

from bellgrad.algos.actor_critic import ActorCriticState
from bellgrad.algos.policy_gradient import PolicyGradient, PolicyGradientLearner
from bellgrad.core.errors import check_range
from bellgrad.core.records import EnvSpec, Metrics, Minibatch
from bellgrad.ops.grads import Params, value_and_grad
from bellgrad.ops.optim import Optimizer, RMSprop
from bellgrad.ops.targets import squared_error

ALGORITHMS = {"a2c": "A2C"}


@dataclass(frozen=True)
class A2C(PolicyGradient):
    """Hyper-parameters of advantage actor-critic, for discrete and continuous actions.

    Attributes:
        value_coef: weight of the value's squared error.
    """

    learning_rate: float = 7e-4
    learning_rate_decay: Literal["constant", "linear"] = "linear"
    lambda_: float = 1.0
    rollout_steps: int = 5
    normalize_advantages: bool = field(default=False, metadata={"formerly": "normalise_advantages"})
    optimizer: Optimizer = field(
        default_factory=lambda: RMSprop(epsilon=1e-5, epsilon_in_root=True, initial_square=1.0)
    )
    value_coef: float = 0.5

    epochs: ClassVar[int] = 1
    minibatches: ClassVar[int] = 1
    memory: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, value_coef=(0, 1e6))

    def build(self, spec: EnvSpec, steps: int | None = None) -> A2CLearner:
        """Join these hyper-parameters to an environment; `steps` planned are the horizon of a linear learning
        rate."""
        return A2CLearner(self, spec, steps)


class A2CLearner(PolicyGradientLearner):
    """The pure functions of A2C for one environment."""

    config: A2C

    def update(
        self, state: ActorCriticState, batch: Minibatch, noise: None = None
    ) -> tuple[ActorCriticState, Metrics]:
        """One step down the gradient of policy and value."""

        def loss(params: Params) -> tuple[Tensor, Metrics]:
            policy, value = self.policy_and_value(params, batch)
            actor, metrics = self.policy_loss(policy, batch)
            critic = squared_error(value - batch.return_).mean()
            return actor + self.config.value_coef * critic, metrics | {"value_loss": critic}

        (_, metrics), grads = value_and_grad(loss, has_aux=True)(state.params)
        return self.optimizer_step(state, grads, metrics)
