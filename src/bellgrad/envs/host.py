"""Environments that keep their state themselves, behind the signature of those that do not."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bellgrad.core.protocols import BatchedEnv
from bellgrad.core.records import EnvSpec, Step
from bellgrad.core.tree import Tree


class HostEnv:
    """A `PureEnv` around any `BatchedEnv`, so that a driver steps all environments by the same call.

    Args:
        env: keeps its own state.

    Attributes:
        env: the environment inside.
        compilable: False: a step changes the environment inside.
        noise: None: the environment draws its own random numbers.
        state: None.
    """

    compilable: bool = False
    noise: Tree = None
    state: Tree = None

    def __init__(self, env: BatchedEnv):
        self.env = env
        self.spec: EnvSpec = env.spec
        self.num_envs: int = env.num_envs
        self.device: torch.device = env.device
        self.workers: int = env.workers
        self.observation_space: gymnasium.Space[Any] = env.observation_space
        self.action_space: gymnasium.Space[Any] = env.action_space

    def pure_step(
        self, state: Tree, action: Tensor, noise: Tree, active: Tensor | None = None
    ) -> tuple[Tree, Step]:
        """`step` of the environment inside; `state` and `noise` are not looked at, and the state returned is
        None."""
        return None, self.env.step(action, active)

    def as_pure(self) -> "HostEnv":
        """This object."""
        return self

    def reset(self, seed: int) -> Tree:
        """As `BatchedEnv.reset`."""
        return self.env.reset(seed)

    def step(self, action: Tensor, active: Tensor | None = None) -> Step:
        """As `BatchedEnv.step`."""
        return self.env.step(action, active)

    def snapshot(self) -> dict[str, Any]:
        """As `BatchedEnv.snapshot`."""
        return self.env.snapshot()

    def restore(self, tree: dict[str, Any]) -> Tree:
        """As `BatchedEnv.restore`."""
        return self.env.restore(tree)

    def snapshot_rows(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """As `BatchedEnv.snapshot_rows`."""
        return self.env.snapshot_rows(rows)

    def restore_rows(self, rows: Sequence[int], snapshots: Sequence[dict[str, Any]]) -> Tree:
        """As `BatchedEnv.restore_rows`."""
        return self.env.restore_rows(rows, snapshots)

    def render(self) -> list[NDArray[np.uint8]]:
        """As `BatchedEnv.render`."""
        return self.env.render()

    @property
    def render_fps(self) -> float:
        """As `BatchedEnv.render_fps`."""
        return self.env.render_fps

    def known_dynamics(self) -> Any:
        """As `BatchedEnv.known_dynamics`."""
        return self.env.known_dynamics()

    def close(self) -> None:
        """Close the environment inside."""
        self.env.close()
