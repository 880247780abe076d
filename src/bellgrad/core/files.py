"""Files that are whole or not there: atomic writing, for every room."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bellgrad.core.errors import CheckpointError, UsageError


def reason(error: OSError) -> str:
    """The operating system's message, without number and path."""
    return error.strerror or str(error)


def file_path(path: Any) -> Path:
    """A path that a user gave.

    Raises:
        UsageError: it is not a path.
    """
    try:
        return Path(path)
    except TypeError:
        raise UsageError(f"path = {path!r} must be the name of a file") from None


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_synced(path: Path, chunks: Iterable[bytes | memoryview]) -> tuple[int, str]:
    """Write a new file, chunk by chunk, and wait until it is on the disk.

    Returns:
        Its size in bytes and its SHA-256 in hexadecimal.

    Raises:
        OSError: the disk is full or read-only, or the file exists already.
    """
    size, digest = 0, hashlib.sha256()
    with open(path, "xb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return size, digest.hexdigest()


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replace a file so that a reader finds the old content or the new, never a mixture, even after a kill.

    Raises:
        CheckpointError: the disk is full or read-only; the old content is intact.
    """
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)  # of a dead process that had our process number
        try:
            write_synced(temporary, [data.encode() if isinstance(data, str) else data])
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        fsync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(f"{path} could not be written: {reason(error)}") from error
