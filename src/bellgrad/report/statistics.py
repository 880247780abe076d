"""Robust statistics over a handful of seeds.

Source: Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice", section
4.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from bellgrad.core.errors import UsageError

_ELEMENTS = 4_000_000  # numbers resampled at once: 32 MB


class Estimate(NamedTuple):
    """A figure and its confidence interval."""

    value: float
    low: float
    high: float


def interquartile_mean(scores: ArrayLike, axis: int | None = None) -> np.ndarray:
    """The mean of the middle half: of `n` sorted scores, `floor(n / 4)` at each end are left out.

    It is less noisy than the median and, unlike the mean, one outlier does not move it. Of three scores or
    fewer it is the mean.

    Args:
        scores: float array of any shape.
        axis: the axis to reduce; None takes all scores of all tasks together, as the source does.

    Returns:
        float64, `scores` without `axis`.

    Raises:
        UsageError: there is no score, or one is not finite.
    """
    scores = _checked(scores)
    scores = (
        np.sort(scores.ravel(), axis=0) if axis is None else np.sort(np.moveaxis(scores, axis, 0), axis=0)
    )
    cut = len(scores) // 4
    return scores[cut : len(scores) - cut].mean(axis=0)


def bootstrap_interval(
    scores: ArrayLike,
    statistic: Callable[..., np.ndarray] = interquartile_mean,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval of a statistic over seeds.

    Args:
        scores: `[n, *R]`, one row per seed; all columns are resampled together.
        statistic: takes `(scores, axis=)` and reduces that axis, for example `interquartile_mean` or
            `numpy.mean`.
        confidence: the probability with which the interval should contain the true value, in (0, 1).
        resamples: how many times `n` rows are drawn with replacement.
        seed: of the random draws; the same seed gives the same interval.

    Returns:
        low `[*R]` and high `[*R]`, float64. With one seed both are its score: the spread is unknown.

    Raises:
        UsageError: there is no score, one is not finite, or an argument is out of range.
    """
    scores = _checked(scores)
    if not 0 < confidence < 1 or resamples < 1:
        raise UsageError(
            f"confidence {confidence} must lie inside (0, 1) and resamples {resamples} must be at least 1"
        )
    rows = np.random.default_rng(seed).integers(len(scores), size=(resamples, len(scores)))
    chunks = np.array_split(rows, min(resamples, 1 + resamples * scores.size // _ELEMENTS))
    drawn = np.concatenate([statistic(scores[chunk], axis=1) for chunk in chunks])
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high


def probability_of_improvement(
    x: ArrayLike, y: ArrayLike, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """The probability that a run of X beats a run of Y: `P(X > Y) + P(X = Y) / 2`.

    This is the Mann-Whitney statistic over `n m`.

    Args:
        x: `[n]` scores of X, one per seed.
        y: `[m]` scores of Y.
        confidence: of the percentile bootstrap interval, in (0, 1).
        resamples: how many times both sides are drawn with replacement, independently of each other.
        seed: of the random draws.

    Raises:
        UsageError: a side is empty, or a score is not finite, or an argument is out of range.
    """
    x, y = _checked(x), _checked(y)
    if not 0 < confidence < 1 or resamples < 1:
        raise UsageError(
            f"confidence {confidence} must lie inside (0, 1) and resamples {resamples} must be at least 1"
        )
    wins = (x[:, None] > y) + 0.5 * (x[:, None] == y)  # [n, m]
    rng = np.random.default_rng(seed)
    # [resamples, n] how often each was drawn
    times_x = rng.multinomial(len(x), np.full(len(x), 1 / len(x)), size=resamples)
    times_y = rng.multinomial(len(y), np.full(len(y), 1 / len(y)), size=resamples)  # [resamples, m]
    drawn = ((times_x @ wins) * times_y).sum(axis=1) / wins.size
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(wins.mean()), float(low), float(high))


def _checked(scores: ArrayLike) -> np.ndarray:
    """`scores` as float64. A NaN would be sorted to the end and trimmed silently, so it is refused."""
    scores = np.asarray(scores, dtype=float)
    if scores.ndim == 0 or scores.size == 0:
        raise UsageError("statistics need at least one score")
    if not np.isfinite(scores).all():
        raise UsageError(f"{int((~np.isfinite(scores)).sum())} of {scores.size} scores are not finite")
    return scores
