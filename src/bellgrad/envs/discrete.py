"""States as whole numbers, for tables: bins or tiles over a Box, one number for a tuple of categories; and
known dynamics."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Self

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Tuple
from torch import Tensor

from bellgrad.core.errors import UsageError
from bellgrad.core.machine_code import cached_njit
from bellgrad.core.records import EnvSpec
from bellgrad.core.tree import Tree, leaves
from bellgrad.envs.given import EpisodeLimit
from bellgrad.envs.transforms import ObsTransform
from bellgrad.mdp.model import FiniteMDP


@dataclass(frozen=True)
class DiscreteStates(ObsTransform):
    """One whole number for an observation: its cell in a grid over a Box, or its place among all tuples of
    categories.

    The last dimension counts fastest, as in `numpy.ravel_multi_index`. With several tilings an observation is
    as many numbers: its tile in each of them. Tiling k of n is shifted by k (1, 3, 5, ...) / n tiles, whole
    tiles left out, and has one tile more in each dimension than there are bins. Every tile has a number of
    its own: nothing is hashed.

    Source: Sutton and Barto (2018), section 9.5.4.

    Attributes:
        bins: of a Box, intervals of equal width in each dimension; one number serves all dimensions.
        low: of a Box, the beginning of the first interval, in each dimension, by default the space's; what is
            below counts as in it.
        high: likewise the end of the last one.
        tilings: over a Box, how many grids; 1 is the plain one.
    """

    bins: tuple[int, ...] | None = None
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    tilings: int = 1

    def bind(self, spec: EnvSpec) -> Self:
        """Refuses a Box without bins or bounds, and what has no fixed number of states."""
        space = spec.observation_space
        if not isinstance(space, Box):
            given = {"bins": self.bins, "bin_low": self.low, "bin_high": self.high}
            for name, value in {**given, "tilings": self.tilings > 1}.items():
                if value:
                    raise UsageError(f"{name} are for observations in a Box, not for {space}")
            _check_count(math.prod(sizes_of(space)), str(space))
            return replace(self, inner=spec)
        d = math.prod(space.shape)
        if self.bins is None:
            raise UsageError(
                f"a table needs finitely many states: say how many --bins each of the {d} numbers of {space}"
                " gets"
            )
        bins = self.bins * d if len(self.bins) == 1 else self.bins
        low = tuple(space.low.ravel().tolist()) if self.low is None else self.low
        high = tuple(space.high.ravel().tolist()) if self.high is None else self.high
        if not len(bins) == len(low) == len(high) == d:
            raise UsageError(
                f"the observation has {d} numbers; there are {len(bins)} bins, {len(low)} low and {len(high)}"
                " high bounds"
            )
        if min(bins) < 1:
            raise UsageError(f"bins = {bins}: each must be 1 or more")
        _check_count(self.tilings * math.prod(size + 1 for size in bins), f"bins = {bins}")
        wide = [i for i in range(d) if not 0 < high[i] - low[i] < 1e30]
        if wide:
            raise UsageError(
                f"number {wide[0]} of the observation lies between {low[wide[0]]:g} and {high[wide[0]]:g}: "
                "give --bin-low and --bin-high for every number"
            )
        return replace(self, inner=spec, bins=bins, low=low, high=high)

    @property
    def keeps_dynamics(self) -> bool:
        """Every tuple of categories has a number of its own; a cell of a grid is many observations."""
        return self.bins is None

    @property
    def spec(self) -> EnvSpec:
        """Discrete observations; with several tilings MultiDiscrete ones, each part counting the tiles of all
        tilings."""
        cells = self.tilings * math.prod(self.grid.size.tolist())
        space = Discrete(cells) if self.tilings == 1 else MultiDiscrete([cells] * self.tilings)
        return replace(self.inner, observation_space=space, frame_stack=1)

    @cached_property
    def grid(self) -> "Grid":
        """The numbers that place an observation in each tiling."""
        if self.bins is None:
            size = np.array(sizes_of(self.inner.observation_space))
            return Grid(np.zeros(len(size)), np.ones(len(size)), size, np.zeros((1, len(size))))
        bins, low, high = np.array(self.bins), np.array(self.low), np.array(self.high)
        shift = np.outer(np.arange(self.tilings), 2 * np.arange(len(bins)) + 1) % self.tilings / self.tilings
        return Grid(low, bins / (high - low), bins + (self.tilings > 1), shift)

    def observe(self, state: Tree, obs: Tree) -> Tensor:
        """`[B]` int64; `[B, tilings]` if there are several."""
        parts = torch.cat(
            [leaf.flatten(1) if leaf.dim() > 1 else leaf.unsqueeze(1) for leaf in leaves(obs)], 1
        )
        low, scale, size, shift = (torch.from_numpy(array).to(parts.device) for array in self.grid)
        cell = ((parts.double() - low) * scale).unsqueeze(1) + shift  # [B, tilings, d]
        cell = cell.floor().clamp(torch.zeros_like(size), size - 1).long()
        weight = torch.cat([size.flip(0).cumprod(0).flip(0), torch.ones_like(size[:1])])
        number = (cell * weight[1:]).sum(-1) + torch.arange(self.tilings, device=parts.device) * weight[0]
        return number if self.tilings > 1 else number.squeeze(1)

    def observe_one(self, present: tuple[np.ndarray, ...]) -> int | np.ndarray:
        """`observe` of an only environment, from its arrays `[1, ...]`, without tensors: they would take
        longer than a step."""
        parts = (
            present[0].ravel() if len(present) == 1 else np.concatenate([array.ravel() for array in present])
        )
        numbers = _cells(parts, *self.grid)
        return numbers if self.tilings > 1 else int(numbers[0])


class Grid(NamedTuple):
    """The positions of the cells of `n` tilings over `d` numbers."""

    low: np.ndarray  # [d] float64
    scale: np.ndarray  # [d] float64, cells in a unit
    size: np.ndarray  # [d] int64, cells
    shift: np.ndarray  # [n, d] float64, in cells


@cached_njit
def _cells(parts, low, scale, size, shift):
    numbers = np.empty(len(shift), np.int64)
    for k in range(len(shift)):
        number = k
        for i in range(len(size)):
            cell = np.floor((parts[i] - low[i]) * scale[i] + shift[k, i])
            number = number * size[i] + int(min(max(cell, 0.0), size[i] - 1.0))
        numbers[k] = number
    return numbers


def _check_count(states: int, what: str) -> None:
    if states > 2**62:
        raise UsageError(f"a table of more than 4e18 states cannot be counted: {what}")


def sizes_of(space: gymnasium.Space) -> tuple[int, ...]:
    """How many values each part of a space of categories takes.

    Raises:
        UsageError: the space has parts that are not categories.
    """
    if isinstance(space, Tuple):
        return tuple(size for child in space.spaces for size in sizes_of(child))
    if isinstance(space, gymnasium.spaces.Dict):
        return tuple(size for child in space.spaces.values() for size in sizes_of(child))
    if isinstance(space, Discrete):
        return (int(space.n),)
    if isinstance(space, MultiDiscrete):
        return tuple(int(n) for n in np.ravel(space.nvec))
    if isinstance(space, MultiBinary):
        n = math.prod(space.shape)
        _check_count(2 ** min(n, 100), str(space))
        return (2,) * n
    raise UsageError(f"a table needs finitely many states; these observations are {space}")


def known_dynamics(env: gymnasium.Env) -> FiniteMDP | None:
    """The MDP behind an environment that shows it: a `FiniteMDPEnv`, an environment with `P`, Blackjack.

    None if a wrapper or a subclass may change what happens.
    """
    if type(env) is EpisodeLimit:  # the learner's, which every user of the MDP applies
        env = env.env
    try:
        return FiniteMDP.from_gymnasium(env)
    except UsageError:
        return None
