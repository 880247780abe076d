"""Native environments: physics as pure batched functions, so that acting, stepping and learning compile into
one graph.

A *dynamics* object says what the physics does; `reset_state` and `step_state` add what every environment
needs (time limit, automatic restart, episode totals); `NativeEnv` is a `PureEnv` made of them.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bellgrad.core.errors import UsageError
from bellgrad.core.records import EnvSpec, EpisodeTotals, Step
from bellgrad.core.rng import Noise, derive_seed, draw
from bellgrad.core.tree import map_tree, named_leaves, restore_tree, stack, where
from bellgrad.envs.arrays import check_rows
from bellgrad.envs.sampled import SampledMDP
from bellgrad.envs.screen import no_pictures
from bellgrad.mdp.model import FiniteMDP


class Dynamics(Protocol):
    """The physics of an environment: a frozen dataclass whose functions are pure. `P` sizes the physics, `O`
    the observation."""

    id: str
    max_episode_steps: int | None  # environment steps; None for no limit
    dtype: torch.dtype  # of the physics
    reset_noise: int  # uniform numbers that one environment's `initial` needs
    step_noise: int  # likewise `advance`; 0 if it is deterministic

    @property
    def observation_space(self) -> gymnasium.Space: ...  # noqa: D102

    @property
    def action_space(self) -> gymnasium.Space: ...  # noqa: D102

    def initial(self, noise: Tensor) -> Tensor:
        """First physics `[B, P]` from `noise [B, reset_noise]`, uniform on [0, 1)."""

    def advance(self, physics: Tensor, action: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step: `[B, P]`, `[B]` or `[B, D]`, `[B, step_noise]` to physics `[B, P]`, reward `[B]`,
        terminated `[B]` bool."""

    def observe(self, physics: Tensor) -> Tensor:
        """The observation of `physics [B, P]`: `[B, O]` float32, or `[B]` int64 in a Discrete space."""


class NativeState(NamedTuple):
    """The state of `B` native environments."""

    physics: Tensor  # [B, P]
    age: Tensor  # [B] int64, environment steps of the episode under way
    return_: Tensor  # [B] float32, its undiscounted return so far


def reset_state(dynamics: Dynamics, noise: Tensor) -> NativeState:
    """The state at the start of an episode in every environment; `noise [B, reset_noise]` uniform on [0,
    1)."""
    physics = dynamics.initial(noise)
    batch, device = noise.shape[0], noise.device
    return NativeState(
        physics, torch.zeros(batch, dtype=torch.int64, device=device), torch.zeros(batch, device=device)
    )


def step_state(
    dynamics: Dynamics, state: NativeState, action: Tensor, noise: Tensor, active: Tensor | None = None
) -> tuple[NativeState, Step]:
    """One step of every environment; after the end of an episode the new state is the first of a new one.
    Pure.

    Args:
        dynamics: the physics.
        state: of the environments.
        action: `[B]` int64, or `[B, D]` in the environment's own units.
        noise: `[B, step_noise + reset_noise]` uniform on [0, 1); the last ones begin an episode if one ended.
        active: `[B]` bool, False for environments that stand still; None if all move.

    Returns:
        The next state, and the step (termination wins if the time limit is reached with the same step).
    """
    during, first = noise.split([dynamics.step_noise, dynamics.reset_noise], -1)
    physics, reward, terminated = dynamics.advance(state.physics, action, during)
    reward = reward.to(torch.float32)
    age, return_ = state.age + 1, state.return_ + reward
    if dynamics.max_episode_steps is None:
        truncated = torch.zeros_like(terminated)
    else:
        truncated = (age >= dynamics.max_episode_steps) & ~terminated
    if active is not None:
        physics, age, return_ = where(active, (physics, age, return_), tuple(state))
        reward = torch.where(active, reward, 0.0)
        terminated, truncated = terminated & active, truncated & active
    ended = terminated | truncated
    after = NativeState(
        torch.where(ended.unsqueeze(-1), dynamics.initial(first), physics),
        torch.where(ended, 0, age),
        torch.where(ended, 0.0, return_),
    )
    obs, next_obs = dynamics.observe(after.physics), dynamics.observe(physics)
    return after, Step(obs, reward, terminated, truncated, next_obs, EpisodeTotals(return_, age))


class NativeEnv:
    """A `PureEnv` over a dynamics object, which a driver can compile into its own loop.

    Args:
        dynamics: the physics.
        num_envs: environments that step together, 1 or more.
        device: of the tensors.
        max_episode_steps: replaces the dynamics' own time limit; None keeps it. In environment steps.

    Attributes:
        state: the `NativeState`, readable and assignable; None before the first `reset`.
        noise: the `Noise` that one `pure_step` needs.
        compilable: True.
        workers: 0.

    Raises:
        UsageError: `num_envs` or `max_episode_steps` is below 1.
    """

    compilable = True
    workers = 0
    render_fps = 30.0

    def __init__(
        self,
        dynamics: Dynamics,
        num_envs: int,
        device: torch.device | str = "cpu",
        max_episode_steps: int | None = None,
    ):
        if num_envs < 1:
            raise UsageError(f"num_envs = {num_envs} is out of range [1, inf]")
        if max_episode_steps is not None:
            if max_episode_steps < 1:
                raise UsageError(f"max_episode_steps = {max_episode_steps} is out of range [1, inf]")
            dynamics = replace(dynamics, max_episode_steps=max_episode_steps)
        self.dynamics = dynamics
        self.num_envs = num_envs
        self.device = torch.device(device)
        self.observation_space = dynamics.observation_space
        self.action_space = dynamics.action_space
        self.spec = EnvSpec(
            dynamics.id, self.observation_space, self.action_space, dynamics.max_episode_steps
        )
        self.noise = Noise("uniform", (num_envs, dynamics.step_noise + dynamics.reset_noise))
        self._reset_noise = Noise("uniform", (num_envs, dynamics.reset_noise))
        self.state: NativeState | None = None
        self._generator = torch.Generator(self.device)
        self._action_shape = torch.Size((num_envs, *self.action_space.shape))

    def reset(self, seed: int) -> Tensor:
        """Start every environment anew; all later randomness follows from `seed`. Returns `obs [B, O]`."""
        self._generator.manual_seed(derive_seed(seed, "native"))
        self.state = reset_state(self.dynamics, draw(self._reset_noise, self._generator))
        return self.observe(self.state)

    def step(self, action: Tensor, active: Tensor | None = None) -> Step:
        """Act in every environment; `action [B]` int64, or `[B, D]` float32 in the environment's own units.

        If `active [B]` bool is given, environments for which it is False stand still.
        """
        if self.state is None:
            raise UsageError("reset the environment before its first step")
        self.state, step = self.pure_step(self.state, action, draw(self.noise, self._generator), active)
        return step

    def pure_step(
        self, state: NativeState, action: Tensor, noise: Tensor, active: Tensor | None = None
    ) -> tuple[NativeState, Step]:
        """`step_state` of this environment's dynamics; touches nothing that the object holds."""
        if action.shape != self._action_shape:  # [B, 1] for [B] would broadcast to [B, B] without a word
            raise UsageError(
                f"{self.spec.id} takes an action of shape {list(self._action_shape)}, not"
                f" {list(action.shape)}"
            )
        return step_state(self.dynamics, state, action, noise, active)

    def observe(self, state: NativeState) -> Tensor:
        """The observation `[B, O]` to act on in `state`; pure."""
        return self.dynamics.observe(state.physics)

    def snapshot(self) -> dict[str, Any]:
        """The state and the random stream, copied."""
        if self.state is None:
            raise UsageError("reset the environment before taking a snapshot")
        state = {name: leaf.clone() for name, leaf in named_leaves(self.state).items()}
        return {"state": state, "generator": self._generator.get_state()}

    def restore(self, tree: dict[str, Any]) -> Tensor:
        """Continue from a snapshot; returns the observation to act on next."""
        template = self._any_state(self.num_envs)
        self.state = map_tree(torch.clone, restore_tree(template, named_leaves(tree["state"])))
        self._generator.set_state(tree["generator"].cpu())
        return self.observe(self.state)

    def snapshot_rows(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """The states of some environments, copied."""
        if self.state is None:
            raise UsageError("reset the environment before taking a snapshot")
        check_rows(rows, self.num_envs)
        named = named_leaves(self.state)
        return [{name: leaf[row].clone() for name, leaf in named.items()} for row in rows]

    def restore_rows(self, rows: Sequence[int], snapshots: Sequence[dict[str, Any]]) -> Tensor:
        """Give environments the states of `snapshots`; the random stream goes on.

        Raises:
            UsageError: rows that are not there or named twice; or the environment was never reset.
            CheckpointError: a snapshot of another environment.
        """
        if self.state is None:
            raise UsageError("the environment must be reset first")
        check_rows(rows, self.num_envs, distinct=True)
        if rows:
            earlier = restore_tree(self._any_state(len(rows)), stack(list(snapshots)))
            index = torch.tensor(rows, device=self.device)
            self.state = map_tree(lambda now, then: now.index_copy(0, index, then), self.state, earlier)
        return self.observe(self.state)

    def render(self) -> list[NDArray[np.uint8]]:
        """Always refuses.

        Raises:
            UsageError: saying which environments draw pictures.
        """
        raise no_pictures(self.spec.id)

    def known_dynamics(self) -> FiniteMDP | None:
        """The MDP of a `SampledMDP` that is seen in full."""
        dynamics = self.dynamics
        full = isinstance(dynamics, SampledMDP) and dynamics.observation is None
        return dynamics.mdp if full else None

    def as_pure(self) -> "NativeEnv":
        """This object."""
        return self

    def close(self) -> None:
        """Nothing to release."""

    def _any_state(self, num_envs: int) -> NativeState:
        """A state of `num_envs` environments, for its shapes and dtypes."""
        return reset_state(
            self.dynamics, torch.zeros(num_envs, self.dynamics.reset_noise, device=self.device)
        )
