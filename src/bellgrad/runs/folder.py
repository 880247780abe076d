"""A run on the disk: its folder, its record, its lock and its checkpoints."""

import contextlib
import fcntl
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from bellgrad.core.codec import foreign
from bellgrad.core.errors import CheckpointError, UsageError
from bellgrad.core.output import warn
from bellgrad.envs.names import env_name, is_found_by_name, is_registered_here, requires_import
from bellgrad.runs.checkpoint import Checkpoint, checkpoints, open_latest
from bellgrad.runs.files import absolute, make_folder, new_folder, quoted, reason, write_json_atomic
from bellgrad.runs.reading import FORMAT, METRICS, RECORD, read_record
from bellgrad.runs.settings import Settings

# Which checkpoint: the newest, the one with the best evaluation, or the one at this step.
Which = Literal["last", "best"] | int
TEMPORARY = f".tmp-{RECORD}-"  # the beginning of the name of a half-written run.json
LOCK = ".lock"


class Best(NamedTuple):
    """The best evaluation of a run so far."""

    step: int  # environment steps
    return_mean: float


def best_of(checkpoint: Checkpoint) -> Best | None:
    """The best evaluation up to a checkpoint; None before the first one.

    Raises:
        CheckpointError: the checkpoint's values are damaged.
    """
    best = checkpoint.values.get("best")
    if best is None:
        return None
    if (
        not isinstance(best, dict)
        or best.keys() != set(Best._fields)
        or type(best["step"]) is not int
        or type(best["return_mean"]) not in (int, float)
    ):
        raise CheckpointError(f"{checkpoint.path} is damaged: best is {best!r}")
    return Best(**best)


class RunFolder:
    """A run folder and what is in it.

    Attributes:
        folder: its path, which stays right when the current folder changes.
        shown: the path as it was given, for messages and commands.
        settings: what was asked for.
    """

    def __init__(self, folder: Path, settings: Settings, record: dict[str, Any]):
        self.folder, self.shown = absolute(folder), folder
        self.settings, self._record = settings, record
        self._warned: set[str] = set()
        self._locked: os.stat_result | None = None

    @classmethod
    def create(
        cls, settings: Settings, folder: Path, command: str | None = None, free_name: bool = False
    ) -> Self:
        """Make a run folder; an empty folder, or one of a run that saved nothing, is used again.

        Args:
            settings: of the run.
            folder: its path.
            command: recorded as what repeats this run.
            free_name: make a new folder, of the first free name like this one.

        Raises:
            UsageError: the folder holds a run already, or something else, or another process is training in
                it; or the settings cannot be recorded, and then no folder was made.
            CheckpointError: the folder cannot be made or written.
        """
        record = {
            "format": FORMAT,
            **settings.recorded(env_name(settings.env)),
            "env_by_name": is_found_by_name(settings.env),
            "versions": _versions(),
            "status": "started",
            "command": command or shlex.join(["bellgrad", *sys.argv[1:]]),
            "started": _now(),
            "finished": None,
        }
        folder = new_folder(folder) if free_name else folder
        run = cls(folder, settings, record)
        own = {RECORD, METRICS, "checkpoints", "tensorboard", LOCK}
        try:
            if run.saved():
                raise run.holds_a_run()
            if run.folder.exists() and any(
                p.name not in own and not p.name.startswith(TEMPORARY) for p in run.folder.iterdir()
            ):
                raise UsageError(f"{folder} exists and is not a run; choose another --out")
            make_folder(run.folder)
        except (NotADirectoryError, FileExistsError):
            raise UsageError(f"{folder} is not a folder; choose another --out") from None
        except OSError as error:
            raise CheckpointError(f"{folder} could not be made: {reason(error)}") from error
        with run.lock():
            if run.saved():  # another process was faster
                raise run.holds_a_run()
            run.save_record()
        return run

    @classmethod
    def open(cls, folder: Path | str, trust_imports: bool = False, env: Any = None) -> Self:
        """Read a run folder. Nothing in it is executed.

        Args:
            folder: the run.
            trust_imports: whether a user's own classes, named in `run.json`, may be imported.
            env: the environment, if it cannot be found by its name.

        Raises:
            UsageError: it is not a run folder, or names code that is not trusted.
            CheckpointError: `run.json` is damaged.
        """
        folder = Path(folder)
        record = read_record(folder)
        settings = Settings.from_json(record, trust_imports)
        if env is not None:
            settings = replace(settings, env=env)
        elif record.get("env_by_name") is False:
            raise UsageError(
                f"{folder} was trained in an environment that was given as an object, {settings.env}; give it"
                f" again in Python: {in_python('resume', folder, needs_env=True)}, or the same with evaluate"
                " or record"
            )
        elif requires_import(settings.env) and not trust_imports:
            raise UsageError(
                f"{folder} uses the environment {settings.env}, which is not part of Bellgrad; if you trust"
                " it, run again with --trust-imports (or trust_imports=True)"
            )
        return cls(folder, settings, record)

    # ------------------------------------------------------------------------------------------- the record
    @property
    def status(self) -> str:
        """`started`, `running`, `interrupted`, `failed` or `finished`."""
        return str(self._record["status"])

    @property
    def record(self) -> dict[str, Any]:
        """What `run.json` says."""
        return dict(self._record)

    def save_record(self, **changes: Any) -> None:
        """Change entries of `run.json`.

        Raises:
            CheckpointError: the disk is full or read-only; the old record is intact.
        """
        self._record |= changes
        write_json_atomic(self.folder / RECORD, self._record)

    def extend(self, steps: int, target_return: float | None) -> None:
        """A new total of environment steps and a new return at which to stop. The caller holds the lock."""
        self.settings = replace(self.settings, steps=steps, target_return=target_return)
        self.save_record(steps=steps, target_return=target_return, status="interrupted", finished=None)

    def finish(self) -> None:
        """Record that the training is over."""
        self.save_record(status="finished", finished=_now())

    def resume_command(self) -> str:
        """The command that continues the run."""
        return self.command("resume")

    def command(self, verb: str) -> str:
        """What does something with the run, such as `resume` or `evaluate`: a command if one can, which finds
        the run's own classes and environment by their names; otherwise a line of Python, for the script or
        notebook that has them."""
        if verb == "report":  # needs nothing but the folder
            return f"bellgrad report {quoted(self.shown)}"
        if self._is_script_only():
            return in_python(verb, self.shown, needs_env=self._record.get("env_by_name") is False)
        return f"bellgrad {verb} {quoted(self.shown)}{self.trust_flag()}"

    def _is_script_only(self) -> bool:
        """Whether another process cannot find what the run is made of."""
        own = [*foreign(self._record["algorithm"]), *foreign(self._record.get("transforms"))]
        return (
            self._record.get("env_by_name") is False
            or any(name.startswith("__main__:") for name in [*own, self._record["env"]])
            or is_registered_here(self._record["env"])
        )

    def holds_a_run(self) -> UsageError:
        """The error if a new run is asked for in this folder."""
        return UsageError(f"{self.shown} already holds a run; continue it with: {self.resume_command()}")

    def trust_flag(self) -> str:
        """The flag that commands on this run need after its folder, if it uses a user's own classes."""
        own = [*foreign(self._record["algorithm"]), *foreign(self._record.get("transforms"))]
        return " --trust-imports" if own or ":" in self._record["env"] else ""

    # ------------------------------------------------------------------------------------------- the folder
    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from training this run.

        Raises:
            UsageError: another process is training it.
            CheckpointError: the folder cannot be written.
        """
        try:
            handle = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise CheckpointError(f"{self.folder} cannot be written: {reason(error)}") from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"another process is training {self.shown}") from None
            # A read-only disk: the first write that is needed gives a better message.
            with contextlib.suppress(OSError):
                for left in self.folder.glob(f"{TEMPORARY}*"):  # by a process that was killed
                    left.unlink()
            self._locked = os.fstat(handle)
            yield
        finally:
            self._locked = None
            os.close(handle)

    def check_place(self) -> None:
        """Before something is saved: the folder must be the one that was locked.

        Raises:
            CheckpointError: it was moved or deleted meanwhile.
        """
        with contextlib.suppress(OSError):
            if self._locked is None or os.path.samestat(self._locked, os.lstat(self.folder / LOCK)):
                return
        raise CheckpointError(
            f"{self.shown} was moved, deleted or replaced while the run was training; nothing more can be"
            " saved there"
        )

    def discard(self) -> None:
        """Remove the folder of a run that never began, unless something was saved or another process trains
        in it."""
        with contextlib.suppress(UsageError), self.lock():
            if not self.saved():
                shutil.rmtree(self.folder)

    # -------------------------------------------------------------------------------------- the checkpoints
    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    def saved(self) -> list[int]:
        """The steps of the checkpoints, which are not verified."""
        return [step for step, _ in checkpoints(self.checkpoints)]

    def standing(self) -> str:
        """What is saved of the run, and the command that continues it."""
        saved = self.saved()
        there = f"the checkpoint of step {saved[-1]:,} is whole" if saved else "nothing was saved yet"
        return f"{there}; go on with: {self.resume_command()}"

    def checkpoint(self, which: Which = "last", tensors: Sequence[str] = ("",)) -> Checkpoint:
        """One of the run's checkpoints.

        Args:
            which: `last`, the newest undamaged one; `best`, that of the best evaluation; or the step of one.
            tensors: how the names of the tensors begin that must be whole; by default all of them. The files
                of the other tensors are not read.

        Raises:
            UsageError: the checkpoint does not exist.
            CheckpointError: it is damaged; for `last`, all are damaged.
        """
        if which == "last":
            checkpoint, warnings = open_latest(self.checkpoints, tensors)
            for line in [line for line in warnings if line not in self._warned]:
                self._warned.add(line)
                warn(line)
            return checkpoint
        step = self._best_step() if which == "best" else which
        if step not in self.saved():
            raise UsageError(
                f"{self.shown} has no checkpoint at step {step}; it has"
                f" {', '.join(map(str, self.saved())) or 'none'}"
            )
        checkpoint = Checkpoint.open(dict(checkpoints(self.checkpoints))[step])
        checkpoint.verify(tensors)
        return checkpoint

    def _best_step(self) -> int:
        best = best_of(self.checkpoint("last", tensors=()))
        if best is None:
            raise UsageError(f"{self.shown} has no best checkpoint: no evaluation has been made yet")
        return best.step


def in_python(verb: str, folder: Path | str, needs_env: bool) -> str:
    """The line of Python that does something with a run."""
    out = ", 'agent.mp4'" if verb == "record" else ""
    return f"bellgrad.{verb}({str(folder)!r}{out}{', env=...' if needs_env else ''})"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "processor": platform.processor() or platform.machine()}
    for package in ("bellgrad", "torch", "numpy", "gymnasium"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
