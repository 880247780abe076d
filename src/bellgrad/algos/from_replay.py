"""What the algorithms share that learn from a replay: hyper-parameters, and one gradient step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from bellgrad.core.errors import check_range, check_types
from bellgrad.core.protocols import Replay
from bellgrad.core.registry import NETWORKS, OPTIMIZERS, REPLAYS, take_names
from bellgrad.core.tree import Tree
from bellgrad.data.uniform import UniformReplay
from bellgrad.nets.specs import MLP, Spec, check_spec
from bellgrad.ops.grads import Params, clip_by_norm
from bellgrad.ops.optim import Adam, Optimizer


@dataclass(frozen=True)
class FromReplay:
    """Hyper-parameters that these algorithms share; each has its own defaults.

    Attributes:
        learning_rate: of the optimizer, above 0.
        gamma: discount per environment step, in [0, 1].
        buffer_size: transitions that the replay holds.
        learning_starts: environment steps with uniform actions before the first update.
        batch_size: transitions in an update.
        update_period: environment steps between updates.
        updates_per_period: updates at each of those moments.
        replay: how transitions are kept and sampled.
        optimizer: how gradients become steps; its learning rate is replaced by the field above.
        max_grad_norm: the gradients of a network are scaled down to this global norm; None leaves them.
        network: an `MLP`, a `CNN`, or a user's own `nn.Module` class.
    """

    learning_rate: float = 1e-3
    gamma: float = 0.99
    buffer_size: int = 1_000_000
    learning_starts: int = 1_000
    batch_size: int = 256
    update_period: int = 1
    updates_per_period: int = 1
    replay: Replay = field(default_factory=UniformReplay)
    optimizer: Optimizer = field(default_factory=Adam)
    max_grad_norm: float | None = None
    network: Spec = field(default_factory=lambda: MLP((256, 256), activation="relu", initialization="torch"))

    default_num_envs: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_types(self)
        take_names(self, replay=REPLAYS, optimizer=OPTIMIZERS, network=NETWORKS)
        check_spec(self.network)
        check_range(self, learning_rate=(1e-12, 10), gamma=(0, 1), max_grad_norm=(0, math.inf))
        check_range(self, buffer_size=(1, 1e10), learning_starts=(0, 1e12), batch_size=(1, 1e7))
        check_range(self, update_period=(1, 1e9), updates_per_period=(1, 1e6))


@dataclass(frozen=True)
class WithTargetNetwork(FromReplay):
    """The same, for algorithms whose targets come from a slower copy of the network that learns.

    Attributes:
        target_period: updates between moves of the target network.
        tau: how far it moves towards the network that learns, in (0, 1]; 1 is a copy.
    """

    target_period: int = 1
    tau: float = 0.005

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, target_period=(1, 1e12), tau=(1e-12, 1))


class FromReplayLearner:
    """What the learners share that the driver `off_policy` feeds; the subclass adds the state, `act` and
    `update`."""

    driver = "off_policy"
    config: Any

    def init_carry(self, num_envs: int) -> Tree:
        """The actor has no memory."""
        return None

    def update_noise(self) -> Tree:
        """An update is deterministic, given its batch."""
        return None

    def descend(self, params: Params, grads: Params, optimizer: Tree) -> tuple[Params, Tree]:
        """One step of the optimizer down the gradients of one network, clipped; its parameters and the
        optimizer's state after it."""
        c = self.config
        moved: tuple[Params, Tree] = c.optimizer.step(params, self.clip(grads), optimizer, c.learning_rate)
        return moved

    def clip(self, grads: Params) -> Params:
        """The gradients of one network, scaled down to the largest norm allowed."""
        c = self.config
        return grads if c.max_grad_norm is None else clip_by_norm(grads, c.max_grad_norm)[0]
