"""Which actions an observation allows: the key of the mask, and its shape."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from bellgrad.core.errors import UsageError

KEY = "action_mask"  # of a Dict observation: not 0 for each action that is allowed


def choices(action_space: gymnasium.Space[Any]) -> tuple[int, ...] | None:
    """The number of actions, in each dimension of a MultiDiscrete space; None for any other space."""
    if isinstance(action_space, spaces.Discrete):
        return (int(action_space.n),)
    if isinstance(action_space, spaces.MultiDiscrete):
        return tuple(int(n) for n in np.ravel(action_space.nvec))
    return None


def has_mask(observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]) -> bool:
    """Whether observations contain a mask of the actions: `[A]`, or for MultiDiscrete the masks of all
    dimensions in one row.

    Raises:
        UsageError: the mask does not fit the actions.
    """
    if not isinstance(observation_space, spaces.Dict) or KEY not in observation_space.spaces:
        return False
    sizes = choices(action_space)
    if sizes is None:
        raise UsageError(
            f"an observation's {KEY!r} needs Discrete or MultiDiscrete actions, not {action_space}"
        )
    shape = observation_space[KEY].shape
    if shape != (sum(sizes),):
        raise UsageError(
            f"the observation's {KEY!r} has shape {shape}; the actions {action_space} need ({sum(sizes)},)"
        )
    return True


def nothing_allowed(mask: NDArray[Any], sizes: tuple[int, ...]) -> NDArray[np.bool_]:
    """Whether masks `[B, sum(sizes)]` allow no action in some dimension: `[B]` bool."""
    starts = np.cumsum((0, *sizes[:-1]))
    allowed = np.logical_or.reduceat(mask != 0, starts, axis=1)  # [B, D]
    return np.asarray(~allowed.all(axis=1), np.bool_)
