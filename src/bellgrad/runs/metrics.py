"""The run's measurements: one JSON object per line, and also TensorBoard events if that is installed."""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bellgrad.core.errors import CheckpointError
from bellgrad.runs.files import fsync_folder, make_folder, reason
from bellgrad.runs.reading import METRICS, read_metrics


def _plain(value: Any) -> Any:
    """What JSON can hold: scalars of PyTorch and NumPy become numbers, NaN and infinities None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


class MetricsWriter:
    """Appends records to `metrics.jsonl` and to `tensorboard/` in a run folder.

    The operating system has each record when `write` returns, so that a killed process loses none; `size`
    makes them durable.

    Args:
        folder: the run folder; made if missing.
        resume_bytes: what `size` was at the checkpoint from which the run goes on. What was written after it
            is removed: the resumed run writes it again. None: a new run, which removes everything.

    Raises:
        CheckpointError: the disk is full or read-only, or the file is not the one of the checkpoint.
    """

    def __init__(self, folder: Path, resume_bytes: int | None = None):
        self._path = folder / METRICS
        try:
            make_folder(folder)
            self._file = open(self._path, "a+b", opener=_open_no_link)  # noqa: SIM115 (closed by close)
            self._cut(resume_bytes or 0)
            fsync_folder(folder)
            steps = [record["step"] for record in read_metrics(folder)]
            self._board = _open_board(folder / "tensorboard", max(steps, default=-1) + 1)
        except OSError as error:
            raise self._failure(error) from error

    def _cut(self, size: int) -> None:
        self._file.seek(max(0, size - 1))
        if size and self._file.read(1) != b"\n":
            found = os.fstat(self._file.fileno()).st_size
            raise CheckpointError(
                f"{self._path} does not belong to the checkpoint: it has {found} bytes and no line that ends"
                f" at byte {size}"
            )
        self._file.truncate(size)

    def _failure(self, error: OSError) -> CheckpointError:
        return CheckpointError(f"{self._path} could not be written: {reason(error)}")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record.

        Args:
            record: `step` (environment steps) and measurements: numbers, scalar tensors, text, or lists and
                dicts of them. Floats keep every bit; NaN and infinities become null.

        Raises:
            CheckpointError: the disk is full or read-only.
        """
        plain = _plain(record)
        line = json.dumps(plain, allow_nan=False).encode() + b"\n"
        try:
            self._file.write(line)
            self._file.flush()
            if self._board is not None:
                self._board.write(plain)
        except OSError as error:
            raise self._failure(error) from error

    @property
    def size(self) -> int:
        """Bytes of `metrics.jsonl`, all of them on the disk: what a checkpoint remembers."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            return os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Release the files. May be called twice."""
        self._file.close()
        if self._board is not None:
            self._board.close()
            self._board = None


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o644)


class _Board:
    """A TensorBoard event file. TensorBoard's own writer writes in a thread, whose errors cannot be caught.

    Args:
        folder: of the file and of older ones.
        first_step: from this step on, TensorBoard ignores what older files say.

    Raises:
        ImportError: TensorBoard is not installed.
        OSError: the file cannot be made.
    """

    def __init__(self, folder: Path, first_step: int):
        from tensorboard.compat.proto.event_pb2 import (  # type: ignore[import-untyped]
            Event,
            SessionLog,
        )
        from tensorboard.summary.writer.record_writer import (  # type: ignore[import-untyped]
            RecordWriter,
        )

        make_folder(folder)
        file = open(folder / f"events.out.tfevents.{time.time_ns()}", "xb")  # noqa: SIM115 (closed by close)
        self._records = RecordWriter(file)
        self._add(Event(file_version="brain.Event:2"))
        self._add(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, record: Mapping[str, Any]) -> None:
        """Add the record's numbers at its step."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        numbers = {
            name: value for name, value in record.items() if name != "step" and isinstance(value, int | float)
        }
        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        self._add(Event(step=record.get("step"), summary=Summary(value=values)))

    def _add(self, event: Any) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._records.flush()

    def close(self) -> None:
        """Release the file."""
        self._records.close()


def _open_board(folder: Path, first_step: int) -> _Board | None:
    """An event file; None if TensorBoard is not installed."""
    try:
        return _Board(folder, first_step)
    except ImportError:
        return None
