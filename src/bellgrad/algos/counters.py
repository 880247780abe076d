"""The two counters that are in every learner's state."""

import torch
from torch import Tensor


def zero_counters(device: torch.device) -> tuple[Tensor, Tensor]:
    """`updates` and `steps` before the first of either: `[]` int64, each with memory of its own."""
    zero = torch.zeros((), dtype=torch.int64, device=device)
    return zero, zero.clone()
