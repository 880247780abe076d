"""Files of a `FiniteMDP` or a `Solution`: the arrays as safetensors, everything else as JSON in its header.

Nothing in such a file is executed, every bit comes back, and any reader of safetensors can open it. A file is
whole or not there.
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bellgrad.core.errors import CheckpointError, UsageError
from bellgrad.core.files import file_path, reason, write_atomic

T = TypeVar("T")
VERSION = 1


def save(path: str | Path, kind: str, record: Any) -> None:
    """Write a file; an older one of this name is replaced.

    Args:
        path: the file.
        kind: what it holds, in words.
        record: a dataclass of arrays, and of values that JSON can hold; infinities are allowed.

    Raises:
        CheckpointError: the file cannot be written; an older one is then intact.
    """
    from safetensors.numpy import save as as_bytes

    given = {field.name: getattr(record, field.name) for field in fields(record)}
    arrays = {
        name: np.ascontiguousarray(value) for name, value in given.items() if isinstance(value, np.ndarray)
    }
    rest = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in given.items()
        if name not in arrays
    }
    header = {"format": f"bellgrad {kind}", "version": str(VERSION), "fields": json.dumps(rest)}
    write_atomic(file_path(path), as_bytes(arrays, header))


def load(path: str | Path, kind: str, record: type[T]) -> T:
    """What a file holds; lists come back as tuples.

    Args:
        path: the file.
        kind: what it must hold.
        record: the dataclass that was saved.

    Raises:
        CheckpointError: it cannot be read, is damaged, is of a newer version, or holds something else.
    """
    from safetensors import SafetensorError, safe_open

    path = file_path(path)
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path} is not an ordinary file")
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            arrays: dict[str, NDArray[Any]] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {_reason(error)}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or was not saved by Bellgrad: {error}") from error
    found, version = header.get("format", ""), header.get("version", "")
    if found != f"bellgrad {kind}":
        held = f"a {found}" if found.startswith("bellgrad ") else "something that Bellgrad did not save"
        raise CheckpointError(f"{path} holds {held}, not a {kind}")
    if not version.isdecimal() or int(version) > VERSION:
        raise CheckpointError(
            f"{path} has version {version!r}; this Bellgrad reads up to {VERSION}: install a newer one"
        )
    try:
        rest = json.loads(header.get("fields", ""))
        found_fields = arrays | {name: _tuples(value) for name, value in rest.items()}
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    strange = found_fields.keys() - {field.name for field in fields(record)}  # type: ignore[arg-type]
    if strange:
        raise CheckpointError(f"{path} has unknown fields: {', '.join(sorted(strange))}")
    try:
        return record(**found_fields)
    except (TypeError, UsageError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _reason(error: OSError) -> str:
    return "there is no such file" if isinstance(error, FileNotFoundError) else reason(error)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
