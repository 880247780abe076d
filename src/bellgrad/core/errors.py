"""Errors that a user can act on: one clear line, an exit code, and no traceback on the command line."""

import difflib
import os
import types
import typing
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal


class BellgradError(Exception):
    """Base of every error that Bellgrad raises on purpose. `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(BellgradError):
    """The user asked for something impossible: a wrong name, a value out of range, a missing extra."""

    exit_code = 2


class EnvironmentFault(BellgradError):
    """An environment broke its contract: it raised, died, hung, or returned a NaN or a wrong shape."""

    exit_code = 3


class CheckpointError(BellgradError):
    """A checkpoint or run folder is damaged, of another program or unsafe, and was refused."""

    exit_code = 4


class CompilationError(BellgradError):
    """A function could not be compiled on this machine. Nothing of it was run.

    Args:
        message: one line.
        whole: all that the compiler said.
    """

    exit_code = 2

    def __init__(self, message: str, whole: str = ""):
        super().__init__(message)
        self.whole = whole


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """A `UsageError` for a wrong name that offers the nearest right ones, or says that there are none.

    Args:
        kind: what the name is a name of, for example `"algorithm"`.
        name: what the user wrote.
        known: every right name.
    """
    names = sorted(known)
    if not names:
        return UsageError(f"unknown {kind} {name!r}; there is none that could be named")
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
    return UsageError(f"unknown {kind} {name!r}; {hint}")


def missing_extra(package: str, extra: str) -> UsageError:
    """A `UsageError` that names the exact command which installs an optional dependency."""
    return UsageError(f"this needs the package {package!r}; install it with: pip install 'bellgrad[{extra}]'")


def check_range(owner: object, **bounds: tuple[float, float]) -> None:
    """Check that numeric fields of a dataclass lie in closed ranges; None is left to `check_types`.

    Args:
        owner: the dataclass instance.
        bounds: field name to `(low, high)`, both inclusive.

    Raises:
        UsageError: naming the field, its value and its range.
    """
    for name, (low, high) in bounds.items():
        value = getattr(owner, name)
        if value is not None and not low <= value <= high:  # also catches NaN
            raise UsageError(f"{type(owner).__name__}.{name} = {value!r} is out of range [{low:g}, {high:g}]")


def python_number(value: Any) -> Any:
    """A number or word of NumPy as one of Python; everything else, arrays too, as it is."""
    is_scalar = type(value).__module__ == "numpy" and hasattr(value, "item") and type(value).__hash__
    return value.item() if is_scalar else value  # arrays cannot be hashed


def check_types(owner: object) -> None:
    """Check that the numbers, flags, words and dictionaries of a dataclass fit its annotations. Numbers of
    NumPy become Python's.

    Raises:
        UsageError: naming the field and its value; for a wrong word also the nearest choices.
    """
    hints = typing.get_type_hints(type(owner))
    for name in (f.name for f in fields(owner)):  # type: ignore[arg-type]  # any dataclass
        given = getattr(owner, name)
        value = checked_type(f"{type(owner).__name__}.{name}", given, hints[name])
        if value is not given:
            object.__setattr__(owner, name, value)


def checked_type(name: str, value: Any, hint: Any) -> Any:
    """A value that fits its annotation, as far as that is of numbers, flags, words and dictionaries, or of a
    path; numbers of NumPy become Python's.

    Args:
        name: for the message.
        value: what a user gave.
        hint: the annotation; one of another kind is not checked.

    Raises:
        UsageError: naming the value; for a wrong word also the nearest choices.
    """
    value = python_number(value)
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            raise unknown(name, str(value), typing.get_args(hint))
        return value
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = typing.get_args(hint) if is_union else (hint,)
    if Path in kinds:  # with whatever else may stand for one
        known = all(isinstance(kind, type) for kind in kinds)
    else:
        known = all(
            kind in (int, float, bool, type(None)) or typing.get_origin(kind) in (dict, Literal)
            for kind in kinds
        )
    if known and not any(_is_a(value, kind) for kind in kinds):
        raise UsageError(f"{name} = {value!r} must be {' or '.join(map(_shown, kinds))}")
    if isinstance(value, str) and Path in kinds and "\0" in value:
        raise UsageError(f"{name} = {value!r} is not a path: it holds a zero byte")
    return value


def _shown(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return " or ".join(map(repr, typing.get_args(kind)))
    return "None" if kind is type(None) else getattr(kind, "__name__", str(kind))


def _is_a(value: Any, kind: Any) -> bool:
    """`isinstance`, but an int is also a float, and a bool is neither."""
    if typing.get_origin(kind) is Literal:
        return isinstance(value, str) and value in typing.get_args(kind)
    if typing.get_origin(kind) is dict:
        return isinstance(value, dict)
    if kind is Path:
        return isinstance(value, os.PathLike)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
