"""Numbers that change with the step: frozen dataclasses whose `value(step)` is pure, so they compile into the
update."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bellgrad.core.errors import UsageError, check_range


@dataclass(frozen=True)
class Constant:
    """The same number at every step."""

    level: float

    def value(self, step: Tensor) -> Tensor:
        """The number at `step` (int64, any shape), in torch's default dtype."""
        return torch.full_like(step, self.level, dtype=torch.get_default_dtype())


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
        return torch.lerp(*_ends(self, step), _progress(self, step))


@dataclass(frozen=True)
class Cosine:
    """Half a cosine wave from `start` at step 0 to `end` at step `steps`, then `end`.

    Source: Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5, without restarts.
    """

    start: float
    end: float
    steps: int  # 1 or more

    def __post_init__(self) -> None:
        check_range(self, steps=(1, math.inf))

    def value(self, step: Tensor) -> Tensor:
        """The number at `step` (int64, any shape), in torch's default dtype."""
        return torch.lerp(*_ends(self, step), 0.5 - 0.5 * (math.pi * _progress(self, step)).cos())


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


@dataclass(frozen=True)
class Piecewise:
    """`levels[i]` from step `boundaries[i - 1]` on; `levels[0]` before the first boundary."""

    boundaries: tuple[int, ...]  # steps, rising
    levels: tuple[float, ...]  # one more than boundaries

    def __post_init__(self) -> None:
        if len(self.levels) != len(self.boundaries) + 1:
            raise UsageError(
                f"Piecewise needs {len(self.boundaries) + 1} levels for {len(self.boundaries)} boundaries"
            )
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise UsageError(f"Piecewise.boundaries = {self.boundaries} must rise")

    def value(self, step: Tensor) -> Tensor:
        """The number at `step` (int64, any shape), in torch's default dtype."""
        number = Constant(self.levels[0]).value(step)
        for boundary, level in zip(self.boundaries, self.levels[1:], strict=True):
            number = torch.where(step >= boundary, level, number)
        return number


Schedule = Constant | Linear | Cosine | Exponential | Piecewise


def as_schedule(number: float | Schedule) -> Schedule:
    """A schedule as it is; a number as a `Constant`."""
    return Constant(float(number)) if isinstance(number, int | float) else number


def _progress(schedule: Linear | Cosine, step: Tensor) -> Tensor:
    return (step / schedule.steps).clamp(0.0, 1.0)


def _ends(schedule: Linear | Cosine, step: Tensor) -> tuple[Tensor, Tensor]:
    return Constant(schedule.start).value(step), Constant(schedule.end).value(step)
