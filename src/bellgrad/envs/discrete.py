"""States as whole numbers, for tables: bins over a Box, one number for a tuple of categories; and exact dynamics, where known."""

import math
from dataclasses import dataclass, replace
from typing import Self

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Tuple
from gymnasium.wrappers import OrderEnforcing, TimeLimit
from torch import Tensor

from bellgrad.core.errors import UsageError
from bellgrad.core.records import EnvSpec
from bellgrad.core.tree import Tree, leaves
from bellgrad.envs.transforms import Transform
from bellgrad.mdp.model import FiniteMDP

PLAIN_WRAPPERS = (TimeLimit, OrderEnforcing)  # around an environment whose dynamics are still what its `P` says


@dataclass(frozen=True)
class DiscreteStates(Transform):
    """One whole number for an observation: its cell in a grid over a Box, or its place among all tuples of categories.

    The last dimension counts fastest, as in `numpy.ravel_multi_index`.

    Attributes:
        bins: of a Box, intervals of equal width in each dimension; one number serves all dimensions.
        low: of a Box, where the first interval begins, in each dimension, by default the space's; what lies below is in it.
        high: likewise where the last one ends.
    """

    bins: tuple[int, ...] | None = None
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None

    def bind(self, spec: EnvSpec) -> Self:
        """Refuses a Box without bins or bounds, and what has no fixed number of states."""
        space = spec.observation_space
        if not isinstance(space, Box):
            if self.bins is not None:
                raise UsageError(f"bins are for observations in a Box, not for {space}")
            sizes_of(space)
            return replace(self, inner=spec)
        d = math.prod(space.shape)
        if self.bins is None:
            raise UsageError(f"a table needs finitely many states: say how many --bins each of the {d} numbers of {space} gets")
        bins = self.bins * d if len(self.bins) == 1 else self.bins
        low = tuple(space.low.ravel().tolist()) if self.low is None else self.low
        high = tuple(space.high.ravel().tolist()) if self.high is None else self.high
        if not len(bins) == len(low) == len(high) == d:
            raise UsageError(
                f"the observation has {d} numbers; there are {len(bins)} bins, {len(low)} low and {len(high)} high bounds"
            )
        if min(bins) < 1:
            raise UsageError(f"bins = {bins}: each must be 1 or more")
        wide = [i for i in range(d) if not 0 < high[i] - low[i] < 1e30]
        if wide:
            raise UsageError(f"number {wide[0]} of the observation lies between {low[wide[0]]:g} and {high[wide[0]]:g}: "
                             "give --bin-low and --bin-high for every number")  # fmt: skip
        return replace(self, inner=spec, bins=bins, low=low, high=high)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many values each part of an observation takes."""
        return self.bins if self.bins is not None else sizes_of(self.inner.observation_space)

    @property
    def spec(self) -> EnvSpec:
        """Discrete observations."""
        return replace(self.inner, observation_space=Discrete(math.prod(self.sizes)))

    def step(self, state: Tree, step, frozen: bool):
        """Both observations as whole numbers."""
        return state, step._replace(obs=self.observe(state, step.obs), next_obs=self.observe(state, step.next_obs))

    def observe(self, state: Tree, obs: Tree) -> Tensor:
        """`[B]` int64."""
        parts = torch.cat([leaf.flatten(1) if leaf.dim() > 1 else leaf.unsqueeze(1) for leaf in leaves(obs)], 1)
        sizes = torch.tensor(self.sizes, device=parts.device)
        if self.bins is not None:
            low, high = (torch.tensor(side, dtype=torch.float64, device=parts.device) for side in (self.low, self.high))
            parts = ((parts.double() - low) / (high - low) * sizes).floor().clamp(torch.zeros_like(sizes), sizes - 1)
        weight = torch.cat([sizes.flip(0).cumprod(0).flip(0)[1:], torch.ones_like(sizes[:1])])
        return (parts.long() * weight).sum(1)


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
        return (2,) * math.prod(space.shape)
    raise UsageError(f"a table needs finitely many states; these observations are {space}")


def known_dynamics(env: gymnasium.Env) -> FiniteMDP | None:
    """The MDP behind an environment, where it tells: a `FiniteMDPEnv`, an environment with `P`, Blackjack.

    None where a wrapper stands around it that may change what happens.
    """
    while isinstance(env, PLAIN_WRAPPERS):
        env = env.env
    if isinstance(env, gymnasium.Wrapper):
        return None
    if isinstance(getattr(env, "mdp", None), FiniteMDP):
        return env.mdp
    try:
        return FiniteMDP.from_gymnasium(env)
    except UsageError:
        return None
