"""Deep Q-network.

    L(params) = E[ loss( Q(s, a; params) - y ) ]
    y = r + gamma * Q(s', argmax_a' Q(s', a'; selector); target)

with the target parameters as the selector (DQN) or the online ones (Double DQN), zero discount where the
episode terminated, and a behavior policy that is epsilon-greedy. The target parameters are a hard copy every
`target_period` updates, or, with `tau` below 1, move by `tau` towards the online ones.

Source: Mnih et al. 2015, "Human-level control through deep reinforcement learning", algorithm 1; double
target: van Hasselt et al. 2016, equation 4. Deviates from the 2015 recipe by default in the optimizer (Adam),
the Huber loss on the whole error (the paper clips the error's derivative, which is the same thing) and the
small network; the preset `atari` restores the paper's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from bellgrad.core.errors import UsageError, check_range, check_types
from bellgrad.core.masks import has_mask
from bellgrad.core.records import Acted, Batch, EnvSpec, Metrics
from bellgrad.core.registry import NETWORKS, OPTIMIZERS, take_names
from bellgrad.core.rng import Noise
from bellgrad.core.tree import Tree, map_tree
from bellgrad.data.replay import RANGES as REPLAY_RANGES
from bellgrad.nets.build import build, init_params, skeleton
from bellgrad.nets.layers import apply
from bellgrad.nets.specs import MLP, Spec, check_spec
from bellgrad.ops.exploration import epsilon_greedy, value_of_action
from bellgrad.ops.grads import clip_by_norm, clip_by_value, value_and_grad
from bellgrad.ops.losses import huber, squared_error
from bellgrad.ops.optim import Adam, Optimizer
from bellgrad.ops.polyak import move_every
from bellgrad.ops.schedules import Exponential, Linear
from bellgrad.ops.targets import double_q_target, q_learning_target

ALGORITHMS = {"dqn": "DQN"}


@dataclass(frozen=True)
class DQN:
    """Hyper-parameters of a deep Q-network, for discrete actions.

    Attributes:
        learning_rate: of the optimizer, above 0.
        gamma: discount per environment step, in [0, 1].
        double: choose the next action with the online parameters (van Hasselt et al. 2016).
        loss: of the TD error: `huber` (quadratic within 1, linear beyond) or `squared`.
        epsilon_initial: chance of a uniform action at the start, in [0, 1].
        epsilon_final: the same at the end.
        epsilon_steps: environment steps of the decay: its length where linear, its time constant where
            exponential.
        epsilon_decay: `linear`, or `exponential` as in the PyTorch tutorial.
        buffer_size: transitions that the replay holds.
        learning_starts: environment steps with uniform actions before the first update.
        batch_size: transitions in an update.
        update_period: environment steps between updates.
        updates_per_period: updates at each of those moments.
        target_period: updates between moves of the target parameters.
        tau: how far a move goes: 1 is a hard copy.
        optimizer: how gradients become steps; its learning rate is replaced by the field above.
        max_grad_norm: gradients are scaled down to this global norm; None leaves them.
        max_grad_value: each gradient entry is clipped to this size; None leaves them.
        network: from an observation to one Q-value an action; an `MLP`, a `CNN`, or a user's own `nn.Module`
            class.
    """

    learning_rate: float = 5e-4
    gamma: float = 0.99
    double: bool = True
    loss: Literal["huber", "squared"] = "huber"
    epsilon_initial: float = 1.0
    epsilon_final: float = 0.05
    epsilon_steps: int = 5_000
    epsilon_decay: Literal["linear", "exponential"] = "linear"
    buffer_size: int = 100_000
    learning_starts: int = 1_000
    batch_size: int = 128
    update_period: int = 1
    updates_per_period: int = 1
    target_period: int = 250
    tau: float = 1.0
    optimizer: Optimizer = field(default_factory=Adam)
    max_grad_norm: float | None = 10.0
    max_grad_value: float | None = None
    network: Spec = field(default_factory=lambda: MLP((128, 128), activation="relu", initialization="torch"))

    default_num_envs: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_types(self)
        take_names(self, optimizer=OPTIMIZERS, network=NETWORKS)
        check_spec(self.network)
        check_range(
            self,
            learning_rate=(1e-12, 10),
            gamma=(0, 1),
            epsilon_initial=(0, 1),
            epsilon_final=(0, 1),
            tau=(0, 1),
        )
        check_range(self, epsilon_steps=(1, 1e12), target_period=(1, 1e12), **REPLAY_RANGES)
        check_range(self, max_grad_norm=(0, math.inf), max_grad_value=(0, math.inf))

    def build(self, spec: EnvSpec, steps: int | None = None) -> DQNLearner:
        """Join these hyper-parameters to an environment; no schedule here depends on the planned `steps`."""
        return DQNLearner(self, spec)


class DQNState(NamedTuple):
    """Everything that changes while a DQN learns."""

    params: dict[str, Tensor]
    target: dict[str, Tensor]
    optimizer: Tree
    updates: Tensor  # [] int64
    steps: Tensor  # [] int64, environment steps; the driver advances it


class DQNLearner:
    """The pure functions of DQN for one environment."""

    driver = "off_policy"

    def __init__(self, config: DQN, spec: EnvSpec):
        if not isinstance(spec.action_space, Discrete):
            raise UsageError(
                f"DQN needs a Discrete action space; {spec.id} has {spec.action_space}. Try sac or ppo."
            )
        if has_mask(spec.observation_space, spec.action_space) or spec.legal is not None:
            raise UsageError(f"DQN knows of no forbidden actions, and {spec.id} forbids some. Try ppo.")
        self.config = config
        self.actions = int(spec.action_space.n)
        self._make = lambda: build(config.network, spec.observation_space, self.actions)
        self._net = skeleton(self._make)
        decay = Linear if config.epsilon_decay == "linear" else Exponential
        self._epsilon = decay(config.epsilon_initial, config.epsilon_final, config.epsilon_steps)

    def init(self, rng: torch.Generator) -> DQNState:
        """Random parameters; the target begins as their copy."""
        params = init_params(self._make, rng)
        zero = torch.zeros((), dtype=torch.int64, device=rng.device)
        return DQNState(
            params, map_tree(torch.clone, params), self.config.optimizer.init(params), zero, zero.clone()
        )

    def init_carry(self, num_envs: int) -> None:
        """DQN's actor has no memory."""

    def q(self, params: dict[str, Tensor], obs: Tree) -> Tensor:
        """`Q(obs, .)`: `[B, A]`."""
        return apply(self._net, params, obs)

    def act_noise(self, num_envs: int) -> Noise:
        """Two uniforms an environment: whether to explore, and where to."""
        return Noise("uniform", (num_envs, 2))

    def act(self, state: DQNState, carry: None, obs: Tree, noise: Tensor, explore: bool = True) -> Acted:
        """Epsilon-greedy where it explores, else greedy; `action [B]` int64."""
        q = self.q(state.params, obs)
        action = epsilon_greedy(q, self._epsilon.value(state.steps), noise) if explore else q.argmax(-1)
        return Acted(action, None, None)

    def target_q(self, state: DQNState, batch: Batch) -> Tensor:
        """The temporal-difference target y: `[B]`."""
        next_q_target = self.q(state.target, batch.next_obs)
        if self.config.double:
            return double_q_target(
                batch.reward, batch.discount, self.q(state.params, batch.next_obs), next_q_target
            )
        return q_learning_target(batch.reward, batch.discount, next_q_target)

    def update_noise(self) -> None:
        """An update of DQN is deterministic."""

    def update(self, state: DQNState, batch: Batch, noise: None = None) -> tuple[DQNState, Metrics]:
        """One step down the gradient of the TD loss, then the target's turn."""
        c = self.config
        y = self.target_q(state, batch)
        loss_of = huber if c.loss == "huber" else squared_error

        def loss(params: dict[str, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            q = value_of_action(self.q(params, batch.obs), batch.action)
            return (batch.weight * loss_of(q - y)).mean(), (q, q - y)

        (loss_value, (q, td_error)), grads = value_and_grad(loss, has_aux=True)(state.params)
        if c.max_grad_value is not None:
            grads = clip_by_value(grads, c.max_grad_value)
        if c.max_grad_norm is not None:
            grads, _ = clip_by_norm(grads, c.max_grad_norm)
        params, optimizer = c.optimizer.step(state.params, grads, state.optimizer, c.learning_rate)
        updates = state.updates + 1
        target = move_every(params, state.target, updates, c.target_period, c.tau)
        metrics = {"loss": loss_value, "q": q.mean(), "td_error": td_error}
        return DQNState(params, target, optimizer, updates, state.steps), metrics
