"""Target networks: parameters that follow others, slowly or at intervals."""

import torch
from torch import Tensor

from bellgrad.ops.checks import same_params
from bellgrad.ops.grads import Params


def polyak(params: Params, target: Params, tau: float) -> Params:
    """`target + tau * (params - target)`, by name.

    Args:
        params: that the target follows.
        target: by the same names.
        tau: share of the gap that is closed, in [0, 1]; 1 copies exactly.

    Returns:
        The new target.

    Raises:
        ValueError: names or shapes differ.

    Source: Lillicrap et al. 2016, arXiv 1509.02971, algorithm 1.
    """
    same_params(params=params, target=target)
    return {name: torch.lerp(old, params[name], tau) for name, old in target.items()}


def hard_copy_every(params: Params, target: Params, step: Tensor, period: int) -> Params:
    """A copy of `params` if `step` is a multiple of `period`, else the target as it was.

    Args:
        params: that the target copies.
        target: by the same names.
        step: `[]` int64.
        period: in the units of `step`, 1 or more.

    Returns:
        The new target.

    Raises:
        ValueError: names or shapes differ.

    Source: Mnih et al. 2015, algorithm 1.
    """
    same_params(params=params, target=target)
    copy = step % period == 0
    return {name: torch.where(copy, params[name], old) for name, old in target.items()}


def move_every(params: Params, target: Params, step: Tensor, period: int, tau: float) -> Params:
    """Move the target by `tau` towards `params` if `step` is a multiple of `period`; `tau` 1 is a copy.

    Args:
        params: that the target follows.
        target: by the same names.
        step: `[]` int64.
        period: in the units of `step`, 1 or more.
        tau: share of the gap that is closed, in [0, 1].

    Returns:
        The new target.

    Raises:
        ValueError: names or shapes differ.
    """
    moved = params if tau == 1.0 else polyak(params, target, tau)
    return moved if period == 1 else hard_copy_every(moved, target, step, period)
