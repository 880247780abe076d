"""The bounds of actions in a Box: which of them can be learned in, and how no action leaves them."""

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray


def unusable_bounds(space: Box) -> str | None:
    """What is wrong with the bounds of actions, to follow the words "the action space has"; None if a learner
    can act between them.

    A learner acts in [-1, 1], in float32, and the action is that point between the bounds.
    """
    low, high = (side.astype(np.float64) for side in (space.low, space.high))
    if low.size == 0:
        return "no dimension"
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return "infinite bounds"  # or NaN
    if (low > high).any():
        return "a low bound above its high one"
    with np.errstate(over="ignore", invalid="ignore"):
        low32, high32 = low.astype(np.float32), high.astype(np.float32)
        width = high32 - low32
    if not np.isfinite(width).all():
        return "bounds too far apart for float32, which ends at 3.4e38"
    if ((width == 0) & (low < high)).any():
        return "bounds too close together for float32, which has 7 digits"
    return None


def within_bounds(space: Box, action: NDArray[np.float32]) -> NDArray[np.floating]:
    """Actions `[..., *A]` as the environment takes them: of the space's dtype, none beyond its bounds.

    A bound is rounded in float32, in which learners act, and may then lie beyond the space's. That of a
    space of float32 is exact.
    """
    if space.dtype == np.float32:
        return action
    return np.asarray(np.clip(action.astype(space.dtype), space.low, space.high))
