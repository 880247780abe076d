"""What the algorithms share that learn the values of discrete actions from a replay: hyper-parameters, state,
epsilon-greedy actions, the update.

A member says what its network is, what the network's action values are, and what is to be made small:

    network()                                 the module, by default with one output per action
    q(params, obs)                            [B, A] action values, by which it acts
    target(state, batch, noise)               what the prediction moves towards
    losses(params, batch, target, noise)      per transition, and how wrong the prediction was

The rest is here: L(params) = E[ weight * loss ], one step of the optimizer, then the target network's move.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from gymnasium.spaces import Discrete
from torch import Tensor, nn

from bellgrad.algos.counters import zero_counters
from bellgrad.algos.from_replay import FromReplayLearner, WithTargetNetwork
from bellgrad.core.errors import UsageError, check_range
from bellgrad.core.masks import has_mask
from bellgrad.core.records import Acted, Batch, EnvSpec, Metrics, Updated
from bellgrad.core.rng import Noise
from bellgrad.core.tree import Tree, map_tree
from bellgrad.nets.build import build, init_params, skeleton
from bellgrad.nets.layers import apply
from bellgrad.nets.specs import MLP, Spec
from bellgrad.ops.exploration import epsilon_greedy
from bellgrad.ops.grads import Params, clip_by_value, value_and_grad
from bellgrad.ops.polyak import move_every
from bellgrad.ops.schedules import Exponential, Linear, Schedule


@dataclass(frozen=True)
class EpsilonGreedy:
    """How often a uniform action is taken in place of the greedy one.

    Attributes:
        epsilon_initial: probability of a uniform action at the start, in [0, 1].
        epsilon_final: the same at the end.
        epsilon_steps: environment steps of the decay: its length if linear, its time constant if exponential.
        epsilon_decay: `linear`, or `exponential` as in the PyTorch tutorial.
    """

    epsilon_initial: float = 1.0
    epsilon_final: float = 0.05
    epsilon_steps: int = 5_000
    epsilon_decay: Literal["linear", "exponential"] = "linear"

    def __post_init__(self) -> None:
        check_range(self, epsilon_initial=(0, 1), epsilon_final=(0, 1), epsilon_steps=(1, 1e12))

    def epsilon_schedule(self) -> Schedule:
        """The probability after so many environment steps."""
        decay = Linear if self.epsilon_decay == "linear" else Exponential
        return decay(self.epsilon_initial, self.epsilon_final, self.epsilon_steps)


@dataclass(frozen=True)
class DeepQ(WithTargetNetwork, EpsilonGreedy):
    """Hyper-parameters that these algorithms share.

    Attributes:
        max_grad_value: each entry of a gradient is clipped to this size, before the norm is; None leaves
            them.
        network: from an observation to the values of the actions; an `MLP`, a `CNN`, or a user's own
            `nn.Module` class.
    """

    learning_rate: float = 5e-4
    buffer_size: int = 100_000
    batch_size: int = 128
    target_period: int = 250
    tau: float = 1.0
    max_grad_norm: float | None = 10.0
    max_grad_value: float | None = None
    network: Spec = field(default_factory=lambda: MLP((128, 128), activation="relu", initialization="torch"))

    def __post_init__(self) -> None:
        WithTargetNetwork.__post_init__(self)
        EpsilonGreedy.__post_init__(self)
        check_range(self, max_grad_value=(0, math.inf))


class DeepQState(NamedTuple):
    """Everything that changes while it learns."""

    params: Params
    target: Params  # of the target network
    optimizer: Tree
    updates: Tensor  # [] int64
    steps: Tensor  # [] int64, environment steps; the driver advances it


class Losses(NamedTuple):
    """What a batch says of the parameters."""

    loss: Tensor  # [B] to be made small, not yet weighted
    td_error: Tensor  # [B] 0 or more, how wrong the prediction was: the transition's priority in the replay
    metrics: Metrics


class DeepQLearner(FromReplayLearner):
    """The pure functions that these algorithms share for one environment; the subclass adds `target` and
    `losses`.

    Attributes:
        actions: A.
        module: the network without numbers.

    Raises:
        UsageError: the action space is not Discrete, or actions are forbidden.
    """

    def __init__(self, config: Any, spec: EnvSpec):
        name, space = type(config).__name__, spec.action_space
        if not isinstance(space, Discrete):
            raise UsageError(f"{name} needs a Discrete action space; {spec.id} has {space}. Try sac or ppo.")
        if has_mask(spec.observation_space, space) or spec.legal is not None:
            raise UsageError(f"{name} does not know of forbidden actions; {spec.id} forbids some. Try ppo.")
        self.config, self.spec = config, spec
        self.actions = int(space.n)
        self.module = skeleton(self.network)
        self._epsilon = config.epsilon_schedule()

    def network(self) -> nn.Module:
        """The network, with random parameters: `obs [B, *O]` to `[B, A]`."""
        return build(self.config.network, self.spec.observation_space, self.actions)

    def init(self, rng: torch.Generator) -> DeepQState:
        """Random parameters; the target network begins as their copy."""
        params = init_params(self.network, rng)
        target, optimizer = map_tree(torch.clone, params), self.config.optimizer.init(params)
        return DeepQState(params, target, optimizer, *zero_counters(rng.device))

    def q(self, params: Params, obs: Tree) -> Tensor:
        """`Q(obs, .)`: `[B, A]`."""
        return apply(self.module, params, obs)

    def act_noise(self, num_envs: int) -> Tree:
        """Two uniforms per environment: whether to explore, and where to."""
        return Noise("uniform", (num_envs, 2))

    def act(self, state: DeepQState, carry: Tree, obs: Tree, noise: Tree, explore: bool = True) -> Acted:
        """Epsilon-greedy if it explores, else greedy; `action [B]` int64."""
        q = self.q(state.params, obs)
        action = epsilon_greedy(q, self._epsilon.value(state.steps), noise) if explore else q.argmax(-1)
        return Acted(action, None, None)

    def target(self, state: DeepQState, batch: Batch, noise: Tree) -> Tensor:
        """What the prediction moves towards, `[B, ...]`; no gradient flows through it."""
        raise NotImplementedError

    def losses(self, params: Params, batch: Batch, target: Tensor, noise: Tree) -> Losses:
        """How far the prediction is from its `target [B, ...]`; differentiated with respect to `params`."""
        raise NotImplementedError

    def update(self, state: DeepQState, batch: Batch, noise: Tree = None) -> Updated:
        """One step down the gradient of the mean loss, then the target network's move."""
        c = self.config
        target = self.target(state, batch, noise)

        def mean_loss(params: Params) -> tuple[Tensor, tuple[Tensor, Metrics]]:
            loss, td_error, metrics = self.losses(params, batch, target, noise)
            return (batch.weight * loss).mean(), (td_error, metrics)

        (loss, (td_error, metrics)), grads = value_and_grad(mean_loss, has_aux=True)(state.params)
        params, optimizer = self.descend(state.params, grads, state.optimizer)
        updates = state.updates + 1
        moved = move_every(params, state.target, updates, c.target_period, c.tau)
        state = DeepQState(params, moved, optimizer, updates, state.steps)
        return Updated(state, {"loss": loss} | metrics, td_error)

    def clip(self, grads: Params) -> Params:
        """First each entry of the gradient by its size, then all by their norm."""
        c = self.config
        return super().clip(grads if c.max_grad_value is None else clip_by_value(grads, c.max_grad_value))
