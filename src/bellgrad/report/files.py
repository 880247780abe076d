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
        CheckpointError: the file cannot be made, or its folder.
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
    except OSError as error:  # perhaps of something else in the block, such as an environment
        if error.filename is None or Path(error.filename) not in (temporary, *out.parents):
            raise
        raise CheckpointError(f"{out} could not be written: {reason(error)}") from error
