"""Running means and variances of a stream of batches."""

from typing import NamedTuple

import torch
from torch import Tensor

from bellgrad.ops.checks import has_shape


class RunningMoments(NamedTuple):
    """Mean and variance of everything seen so far, per entry of an item `*O`; in float64, since float32
    stalls at 2^24 items."""

    mean: Tensor  # [*O] float64
    m2: Tensor  # [*O] float64, sum of squared deviations from the mean
    count: Tensor  # type: ignore[assignment]  # [] float64, items seen; hides `tuple.count`

    @classmethod
    def init(cls, shape: tuple[int, ...], device: torch.device | str = "cpu") -> "RunningMoments":
        """Nothing seen yet; `shape` is that of one item."""
        return cls(*(torch.zeros(size, dtype=torch.float64, device=device) for size in (shape, shape, ())))

    def update(self, batch: Tensor, mask: Tensor | None = None) -> "RunningMoments":
        """Take in `batch [B, *O]`; only the items whose `mask [B]` bool is True, if given.

        Raises:
            ValueError: the items' shape differs.

        Source: Chan, Golub and LeVeque 1979, equation 2.1 (pairwise update).
        """
        has_shape((batch.shape[0], *self.mean.shape), batch=batch)
        items: int | Tensor = batch.shape[0]
        batch = batch.to(torch.float64)
        if mask is not None:
            has_shape(batch.shape[:1], mask=mask)
            items = mask.sum()
            inside = mask.reshape(-1, *[1] * (batch.dim() - 1))
            mean = torch.where(inside, batch, 0.0).sum(0) / items.clamp(min=1)
            batch = torch.where(inside, batch, mean)  # items at the mean change nothing
        batch_mean = batch.mean(0)
        batch_m2 = (batch - batch_mean).square().sum(0)
        count = self.count + items
        shift, total = batch_mean - self.mean, count.clamp(min=1.0)
        mean = self.mean + shift * (items / total)
        return RunningMoments(mean, self.m2 + batch_m2 + shift.square() * (self.count * items / total), count)

    def std(self) -> Tensor:
        """Population standard deviation `[*O]` float64, at least 1e-4; 1 before anything was seen."""
        variance = self.m2 / self.count.clamp(min=1.0)
        return torch.where(self.count > 0, (variance + 1e-8).sqrt(), 1.0)

    def normalize(self, x: Tensor, clip: float = 10.0) -> Tensor:
        """`(x - mean) / std` clipped to `[-clip, clip]`.

        Args:
            x: `[..., *O]`.
            clip: in standard deviations.

        Returns:
            Like `x`; float32 if `x` is of integers.

        Raises:
            ValueError: the items' shape differs.
        """
        dtype = self._check(x)
        return ((x - self.mean.to(dtype)) / self.std().to(dtype)).clamp(-clip, clip)

    def rescale(self, x: Tensor, clip: float = 10.0) -> Tensor:
        """`x / std` clipped to `[-clip, clip]`: for rewards, whose mean must not change. Arguments as in
        `normalize`."""
        dtype = self._check(x)
        return (x / self.std().to(dtype)).clamp(-clip, clip)

    def _check(self, x: Tensor) -> torch.dtype:
        has_shape((*x.shape[: x.dim() - self.mean.dim()], *self.mean.shape), x=x)
        return x.dtype if x.is_floating_point() else torch.float32
