"""Writing a file so that no reader ever sees half of it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bellgrad.core.errors import CheckpointError
from bellgrad.core.files import reason


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A temporary path next to `out`, with the same suffix; it replaces `out` at the end of the block.

    Missing parent folders are created. If the block raises, the temporary file is removed and an older `out`
    stays as it was.

    Raises:
        CheckpointError: the disk is full or read-only, or the folder cannot be made.
    """
    out = Path(out)
    temporary = out.with_name(f".{out.stem}.{os.getpid()}.tmp{out.suffix}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, out)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(f"{out} could not be written: {reason(error)}") from error
