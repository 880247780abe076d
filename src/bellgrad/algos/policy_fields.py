"""The hyper-parameters of every policy that learns by its gradient from what it did itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from bellgrad.core.errors import check_range, check_types
from bellgrad.core.records import EnvSpec
from bellgrad.core.registry import NETWORKS, OPTIMIZERS, take_names
from bellgrad.nets.policy import Head, LogStd, Policy
from bellgrad.nets.specs import MLP, Spec, check_spec
from bellgrad.ops.optim import Adam, Optimizer


@dataclass(frozen=True)
class PolicyFields:
    """Hyper-parameters that these algorithms share; each has its own defaults.

    Attributes:
        learning_rate: of the optimizer, above 0.
        gamma: discount per environment step, in [0, 1].
        lambda_: of the advantage estimate, in [0, 1].
        entropy_coef: weight of the entropy bonus.
        normalize_advantages: to mean 0 and standard deviation 1 over what an update sees.
        max_grad_norm: gradients are scaled down to this global norm; None leaves them.
        head: how a policy scores Discrete actions: `vector` gives one output per action, `score` one output
            for the observation joined with an action, computed for every action.
        log_std: of a Gaussian policy: `free` is a parameter of each action dimension, `shared` are further
            outputs of the mean's network, `separate` is a network of its own.
        initial_log_std: of a Gaussian policy.
        optimizer: how gradients become steps; its learning rate is replaced by the field above.
        network: of policy and critic alike: an `MLP`, a `CNN`, or a user's own `nn.Module` class.
    """

    learning_rate: float = 5e-4
    gamma: float = 0.99
    lambda_: float = 0.95
    entropy_coef: float = 0.0
    normalize_advantages: bool = field(default=True, metadata={"formerly": "normalise_advantages"})
    max_grad_norm: float | None = None
    head: Head = "vector"
    log_std: LogStd = "free"
    initial_log_std: float = 0.0
    optimizer: Optimizer = field(default_factory=Adam)
    network: Spec = field(default_factory=MLP)

    memory: ClassVar[bool] = False  # whether the updates unroll networks that remember

    def __post_init__(self) -> None:
        check_types(self)
        take_names(self, optimizer=OPTIMIZERS, network=NETWORKS)
        check_spec(self.network, memory=self.memory)
        check_range(self, learning_rate=(1e-12, 10), gamma=(0, 1), lambda_=(0, 1), entropy_coef=(0, 1e6))
        check_range(self, max_grad_norm=(0, math.inf), initial_log_std=(-20, 20))

    def policy(self, spec: EnvSpec) -> Policy:
        """The policy's network in an environment."""
        return Policy(self.network, spec, self.head, self.log_std, self.initial_log_std)
