"""Files that are whole or not there: atomic writing, and reading that does not trust what it reads."""

import json
import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from bellgrad.core.errors import CheckpointError, UsageError
from bellgrad.core.files import fsync_folder as fsync_folder
from bellgrad.core.files import reason as reason
from bellgrad.core.files import write_atomic as write_atomic
from bellgrad.core.files import write_synced as write_synced

JSON_LIMIT = 16 * 2**20  # bytes; far more than a manifest or run.json needs


def absolute(path: Path | str) -> Path:
    """A path that stays the same when the current folder changes, as an environment may do.

    Raises:
        UsageError: the current folder does not exist any more.
    """
    try:
        return Path(os.path.abspath(path))
    except FileNotFoundError:
        raise UsageError(
            "the current folder was deleted or moved; go to another one, or give whole paths"
        ) from None


def quoted(path: Path | str) -> str:
    """A path as a shell, and a command after it, reads it."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raise a failure to read inside the block as a `CheckpointError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason(error)}") from error


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents, durably; an existing folder is left as it is."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    fsync_folder(folder.parent)


def new_folder(folder: Path) -> Path:
    """Make a folder of this name, or `NAME-2`, `NAME-3`, ...: the first that is free. No other process can
    be given the same one.

    Raises:
        CheckpointError: it cannot be made.
    """
    name, attempt = folder, 1
    try:
        make_folder(absolute(folder).parent)
        while True:
            try:
                absolute(name).mkdir()
                return name
            except FileExistsError:
                attempt += 1
                name = folder.with_name(f"{folder.name}-{attempt}")
    except OSError as error:
        raise CheckpointError(f"{name} could not be made: {reason(error)}") from error


def write_json_atomic(path: Path, value: Any) -> None:
    """Replace a JSON file atomically. NaN and infinities are written as `NaN` and `Infinity`, which
    `read_json` reads."""
    write_atomic(path, json.dumps(value, indent=2) + "\n")


def open_regular(path: Path) -> FileIO:
    """Open an ordinary file for unbuffered reading.

    Raises:
        CheckpointError: there is no such file, or it is a folder, a symbolic link, a pipe, a device, or has a
            second name.
    """
    if path.is_symlink():
        raise CheckpointError(f"{path} is a symbolic link")
    with readable(path):
        # NOFOLLOW: it may have become a link since. Without NONBLOCK, opening a pipe would wait forever for
        # a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path} is not an ordinary file")
        if status.st_nlink != 1:
            raise CheckpointError(
                f"{path} is a hard link shared with another file; make a plain copy instead"
            )
        return FileIO(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of an ordinary file.

    Raises:
        CheckpointError: as `open_regular`, or the file is larger than `limit` bytes.
    """
    with readable(path), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise CheckpointError(f"{path} is too large: {size} bytes, at most {limit} expected")
        return file.read(limit)


def parse_json(data: bytes, path: Path) -> Any:
    """Decode JSON; `path` is only named in errors.

    Raises:
        CheckpointError: not JSON, nested too deep, or a key occurs twice in one object.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        named = dict(pairs)
        if len(named) != len(pairs):
            raise ValueError("a name occurs twice")
        return named

    try:
        return json.loads(data.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def read_json(path: Path, limit: int = JSON_LIMIT) -> Any:
    """The value in a JSON file.

    Raises:
        CheckpointError: no such file, not an ordinary one, larger than `limit` bytes, or damaged.
    """
    return parse_json(read_bytes(path, limit), path)
