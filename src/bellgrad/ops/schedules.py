"""Numbers that change with the step: frozen dataclasses whose `value(step)` is pure, so they compile into the
update."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bellgrad.core.errors import check_range


@dataclass(frozen=True)
class Constant:
    """The same number at every step."""

    level: float

    def value(self, step: Tensor) -> Tensor:
        """The number at `step` (int64, any shape), in torch's default dtype."""
        return torch.zeros_like(step, dtype=torch.get_default_dtype()) + self.level


@dataclass(frozen=True)
class Linear:
    """A straight line from `start` at step 0 to `end` at step `steps`, then `end`."""

    start: float
    end: float
    steps: int  # 1 or more

    def __post_init__(self) -> None:
        check_range(self, steps=(1, math.inf))

    def value(self, step: Tensor) -> Tensor:
        """The number at `step` (int64, any shape), in torch's default dtype."""
        start, end = Constant(self.start).value(step), Constant(self.end).value(step)
        return torch.lerp(start, end, (step / self.steps).clamp(0.0, 1.0))


@dataclass(frozen=True)
class Exponential:
    """`end + (start - end) * exp(-step / decay)`: `decay` steps close 63% of the gap."""

    start: float
    end: float
    decay: float  # steps, above 0

    def __post_init__(self) -> None:
        check_range(self, decay=(math.ulp(0.0), math.inf))

    def value(self, step: Tensor) -> Tensor:
        """The number at `step` (int64, any shape), in torch's default dtype."""
        return self.end + (self.start - self.end) * (-step / self.decay).exp()


Schedule = Constant | Linear | Exponential
