"""Choosing actions that explore."""

import torch
from torch import Tensor

from bellgrad.ops.checks import has_shape


def epsilon_greedy(q: Tensor, epsilon: float | Tensor, noise: Tensor) -> Tensor:
    """The greedy action, or with probability epsilon a uniform one.

    Args:
        q: `[B, A]`.
        epsilon: `[]`, or `[B]` if every environment has its own.
        noise: `[B, 2]` uniform on [0, 1].

    Returns:
        `[B]` int64.

    Raises:
        ValueError: shapes do not match.

    Source: Mnih et al. 2015, algorithm 1.
    """
    batch, actions = q.shape
    has_shape((batch, 2), noise=noise)
    if isinstance(epsilon, Tensor) and epsilon.dim() > 0:
        has_shape((batch,), epsilon=epsilon)
    uniform = (noise[:, 1] * actions).long().clamp(max=actions - 1)  # the product can round up to `actions`
    return torch.where(noise[:, 0] < epsilon, uniform, q.argmax(-1))
