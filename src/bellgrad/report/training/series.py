"""One metric of a run as a series over environment steps."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bellgrad.runs.reading import read_metrics

# steps [T], strictly increasing; values [T]
Series: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]


def read_series(run: Path, key: str) -> Series:
    """One metric of a run; lines in which it is absent, null or not finite are left out."""
    return series_of(read_metrics(run), key)


def series_of(rows: Iterable[Mapping[str, Any]], key: str) -> Series:
    """Like `read_series`, from lines already read. Of two lines at one step the later one counts."""
    points = {row["step"]: row[key] for row in rows if _is_finite_number(row.get(key)) and "step" in row}
    steps = sorted(points)
    return np.array(steps, dtype=float), np.array([points[step] for step in steps], dtype=float)


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
