"""The checks of what a user gives to any function of `bellgrad.mdp`: numbers, counts and arrays.

Each returns the checked argument in the type that the solvers use, and refuses anything else in one sentence.
"""

from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bellgrad.core.errors import UsageError, unknown

Floats = NDArray[np.floating]
DTYPES = ("float64", "float32")
PROBABILITY_TOLERANCE = 1e-6  # largest error of a sum of probabilities: the rounding of float32 input
MAX_SHOWN = 60  # letters of an argument in a message
NUMBERS = (Real, Decimal, np.bool_)  # the types of objects that are real numbers


def check_gamma(gamma: Any, *, below_one: bool = False) -> float:
    """A discount in [0, 1], or in [0, 1).

    Raises:
        UsageError: it is not a number in this range; the message names it.
    """
    checked = number("gamma", gamma)
    if not (0 <= checked < 1 if below_one else 0 <= checked <= 1):
        raise UsageError(f"gamma = {gamma} is out of range [0, 1{')' if below_one else ']'}")
    return checked


def check_tolerance(tolerance: Any) -> float:
    """A tolerance: finite and above 0.

    Raises:
        UsageError: it is not.
    """
    checked = number("tolerance", tolerance)
    if not 0 < checked < np.inf:
        raise UsageError(f"tolerance = {tolerance} must be above 0 and finite")
    return checked


def check_stop(tolerance: Any, max_iterations: Any) -> tuple[float, int]:
    """The two arguments that say when a solver stops: see `check_tolerance` and `count`.

    Raises:
        UsageError: one of them is out of range.
    """
    return check_tolerance(tolerance), count("max_iterations", max_iterations)


def check_dtype(dtype: Any) -> str:
    """The name of the type of the values in sweeps, from a name or a NumPy type.

    Raises:
        UsageError: it is not one of `DTYPES`.
    """
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name not in DTYPES or dtype is None:
        raise unknown("dtype", str(dtype), DTYPES)
    return name


def number(name: str, value: Any) -> float:
    """One real number, as a float; never a flag or a string. NaN and infinity are left to the caller's range.

    Args:
        name: of the argument.
        value: what was given.

    Raises:
        UsageError: it is something else.
    """
    try:
        if type(value) is float:
            return value
        read = np.asarray(value)
        kind = read.dtype.kind if read.ndim == 0 and not np.ma.is_masked(value) else ""
        if kind in ("f", "i", "u") or (kind == "O" and isinstance(value, NUMBERS)):
            return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        pass
    raise UsageError(f"{name} = {_shown(value)} must be a number")


def count(name: str, value: Any, least: int = 1) -> int:
    """A whole number, `least` or more; 1e4 counts as 10000.

    Args:
        name: of the argument.
        value: what was given.
        least: the smallest that is accepted.

    Raises:
        UsageError: it is something else.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        checked = value
    else:
        read = number(name, value)
        if not read.is_integer():
            raise UsageError(f"{name} = {_shown(value)} must be a whole number")
        checked = int(read)
    if checked < least:
        raise UsageError(f"{name} = {_shown(value)} must be {least} or more")
    return checked


def array(name: str, value: Any, shape: tuple[int, ...] | None = None, *, minus_inf: bool = False) -> Floats:
    """An array of finite numbers.

    Args:
        name: of the argument.
        value: anything that NumPy can read.
        shape: that it must have; None for any.
        minus_inf: whether entries may be -inf, as the action values of illegal actions are.

    Returns:
        float64, or the floats that were given; a copy only where the type had to change.

    Raises:
        UsageError: it has another shape, or an entry is not a finite number; names the first such entry.
    """
    read = as_numbers(name, value)
    if shape is not None and read.shape != shape:
        raise UsageError(f"{name} has shape {read.shape}; expected {shape}")
    wrong = ~np.isfinite(read)
    if minus_inf:
        wrong &= read != -np.inf
    if wrong.any():
        place = ", ".join(map(str, np.unravel_index(int(wrong.argmax()), read.shape)))
        raise UsageError(f"{name}[{place}] is {read[wrong][0]}; every entry must be a finite number")
    return read if read.dtype.kind == "f" else read.astype(float)


def as_numbers(name: str, value: Any) -> NDArray[Any]:
    """An array of integers, floats or flags, as NumPy reads it; objects that are all real numbers, such as
    fractions, become floats.

    Raises:
        UsageError: it cannot be read, or its entries are something else: text, complex or masked.
    """
    if np.ma.is_masked(value):
        raise UsageError(f"{name} has masked entries; fill them with numbers")
    try:
        read = np.asarray(value)
        if read.dtype == object and read.size and all(isinstance(entry, NUMBERS) for entry in read.flat):
            read = np.asarray(read.tolist())  # integers stay integers
            read = read.astype(np.float64) if read.dtype == object else read
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise UsageError(f"{name} cannot be read as an array of numbers: {error}") from None
    if read.dtype.kind not in "fiub":
        raise UsageError(f"{name} must be an array of numbers, got {read.dtype}: {_shown(value)}")
    return read


def flags(name: str, value: Any) -> NDArray[np.bool_]:
    """An array of flags, also as 0 and 1.

    Raises:
        UsageError: it is something else.
    """
    read = as_numbers(name, value)
    if read.dtype != bool and not ((read == 0) | (read == 1)).all():
        raise UsageError(f"{name} must contain only true and false, or 0 and 1")
    return read.astype(bool, copy=False).view()


def indices(name: str, value: Any, limit: int | None = None) -> NDArray[np.int64]:
    """`[N]` whole numbers from 0 to `limit - 1`; None is no limit.

    Raises:
        UsageError: it is something else; names the first entry that is out of range.
    """
    read = as_numbers(name, value)
    whole = read.dtype.kind in "iu" or (read.dtype.kind == "f" and (read == np.floor(read)).all())
    if read.ndim != 1 or not (whole or read.size == 0):
        raise UsageError(f"{name} must be a list of integers, [N]; got shape {read.shape} of {read.dtype}")
    greatest = np.iinfo(np.int64).max // 2 if limit is None else limit - 1
    wrong = (read < 0) | (read > greatest)
    if wrong.any():
        bound = "0 or more" if limit is None and read[wrong.argmax()] < 0 else f"0 to {greatest}"
        raise UsageError(f"{name}[{wrong.argmax()}] = {read[wrong.argmax()]} is out of range {bound}")
    return read.astype(np.int64)


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."
