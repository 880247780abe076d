"""A run: its folder, its record, its checkpoints, and how it is trained, stopped and resumed."""

import contextlib
import fcntl
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from gymnasium.spaces import Discrete

from bellgrad.core.codec import foreign
from bellgrad.core.errors import BellgradError, CheckpointError, UsageError
from bellgrad.core.registry import TRANSFORMS
from bellgrad.core.tree import restore_tree
from bellgrad.envs.discrete import DiscreteStates, known_dynamics
from bellgrad.envs.make import env_name, make_env, requires_import
from bellgrad.envs.transforms import TransformedEnv
from bellgrad.runs.checkpoint import Checkpoint, checkpoints, open_latest
from bellgrad.runs.files import make_folder, read_json, reason, write_json_atomic
from bellgrad.runs.settings import Settings, algorithm_name
from bellgrad.tabular.common import Tabular
from bellgrad.training.evaluate import EPISODE_CAP
from bellgrad.training.session import Session, reached

FORMAT = 1  # of run.json
TEMPORARY = ".tmp-run.json-"  # how a half-written run.json is called


def device_of(settings: Settings) -> torch.device:
    """Where the tensors of a run live; tables stay with the processor that samples them."""
    if isinstance(settings.algorithm, Tabular):
        if settings.device == "cuda":
            raise UsageError(
                f"{algorithm_name(settings.algorithm)} learns a table, on the CPU; leave the device at auto"
            )
        return torch.device("cpu")
    return resolve_device(settings.device)


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one.

    Raises:
        UsageError: `cuda` was asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device (bellgrad doctor tells more)")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def make_run_env(settings: Settings, device: torch.device, num_envs: int, **options: Any) -> TransformedEnv:
    """The environment of a run with its wrappers: as the learner sees it."""
    if isinstance(settings.algorithm, Tabular):
        return _make_table_env(settings, num_envs, **options)
    if settings.bins is not None or settings.tilings > 1:
        given = "tilings" if settings.bins is None else "bins"
        raise UsageError(f"{given} are for tabular algorithms, not for {algorithm_name(settings.algorithm)}")
    options = {
        "backend": settings.backend,
        "env_kwargs": settings.env_kwargs,
        "transforms": settings.filled_transforms(),
    } | options
    env = make_env(
        settings.env,
        num_envs=num_envs,
        device=device,
        max_episode_steps=settings.max_episode_steps,
        **options,
    )
    if env.spec.max_episode_steps is None and hasattr(
        settings.algorithm, "episodes"
    ):  # one might wait for its end for ever
        env.close()
        env = make_env(
            settings.env, num_envs=num_envs, device=device, max_episode_steps=EPISODE_CAP, **options
        )
    return env if isinstance(env, TransformedEnv) else TransformedEnv(env, ())


def _make_table_env(settings: Settings, num_envs: int, **options: Any) -> TransformedEnv:
    """An environment whose observations are rows of a table; with its exact dynamics, where they are known
    and wanted."""
    s = settings
    if s.transforms:
        unfit = TRANSFORMS.name_of(type(s.transforms[0]))
        raise UsageError(f"{unfit} is for networks; {algorithm_name(s.algorithm)} learns a table")
    if s.backend == "subprocess" or s.num_envs != 1:
        raise UsageError(
            f"{algorithm_name(s.algorithm)} learns in one environment of this process: leave num_envs at 1"
            " and the backend at auto or gymnasium"
        )
    options = (
        {"max_episode_steps": s.max_episode_steps, "env_kwargs": s.env_kwargs}
        | options
        | {"backend": "gymnasium"}
    )
    made = make_env(s.env, num_envs=num_envs, **options)
    try:
        if not isinstance(made.action_space, Discrete):
            raise UsageError(
                f"{algorithm_name(s.algorithm)} learns a table and needs Discrete actions, not"
                f" {made.action_space}"
            )
        has_states = isinstance(made.observation_space, Discrete) and s.bins is None and s.tilings == 1
        env = TransformedEnv(
            made, () if has_states else (DiscreteStates(s.bins, s.bin_low, s.bin_high, s.tilings),)
        )
        mdp = known_dynamics(made.envs[0])
        if mdp is not None and env.observation_space == Discrete(mdp.num_states):
            env.mdp = mdp if s.backend in ("auto", "native") else None
            env.spec = replace(env.spec, legal=None if mdp.legal.all() else mdp.legal)
        if s.backend == "native" and env.mdp is None:
            raise UsageError(f"the dynamics of {env.spec.id} are not known; leave the backend at auto")
        return env
    except BaseException:
        made.close()
        raise


class Run:
    """A run folder and what is in it.

    Attributes:
        folder: where it lives.
        settings: what was asked for.
        device: where its tensors live.
    """

    def __init__(self, folder: Path, settings: Settings, record: dict[str, Any], device: torch.device):
        self.folder, self.settings, self._record, self.device = folder, settings, record, device
        self._warned: set[str] = set()

    # ------------------------------------------------------------------------------------------- the folder
    @classmethod
    def create(cls, settings: Settings, folder: Path, command: str | None = None) -> "Run":
        """Make a run folder; an empty or unfinished start is used again.

        Raises:
            UsageError: the folder holds a run already, or something else, or another process is training in
                it.
            CheckpointError: the folder cannot be made or written.
        """
        record = {
            "format": FORMAT,
            **settings.to_json(env_name(settings.env)),
            "versions": _versions(),
            "status": "started",
            "command": command or shlex.join(["bellgrad", *sys.argv[1:]]),
            "started": _now(),
            "finished": None,
        }
        run = cls(folder, settings, record, device_of(settings))
        own = {"run.json", "metrics.jsonl", "checkpoints", "tensorboard", ".lock"}
        try:
            if run._saved():
                raise UsageError(f"{folder} already holds a run; continue it with: {run.resume_command()}")
            if folder.exists() and any(
                p.name not in own and not p.name.startswith(TEMPORARY) for p in folder.iterdir()
            ):
                raise UsageError(f"{folder} exists and is not a run; choose another --out")
            make_folder(folder)
        except (NotADirectoryError, FileExistsError):
            raise UsageError(f"{folder} is not a folder; choose another --out") from None
        except OSError as error:
            raise CheckpointError(f"{folder} could not be made: {reason(error)}") from error
        with run._lock():
            run.save_record()
        return run

    @classmethod
    def open(cls, folder: Path | str, trust_imports: bool = False, env: Any = None) -> "Run":
        """Read a run folder. Nothing in it is executed.

        Args:
            folder: the run.
            trust_imports: whether a user's own classes, named in `run.json`, may be imported.
            env: the environment, where it cannot be found by its name.

        Raises:
            UsageError: it is no run folder, or names code that is not trusted.
            CheckpointError: `run.json` is damaged.
        """
        folder = Path(folder)
        if not (folder / "run.json").is_file():
            inside = sorted(p.name for p in folder.glob("seed-*")) if folder.is_dir() else []
            hint = f"; it holds the runs {', '.join(inside)}" if inside else ""
            raise UsageError(f"{folder} is not a run folder (no run.json in it){hint}")
        record = read_json(folder / "run.json")
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise CheckpointError(f"{folder / 'run.json'} has an unknown format")
        settings = Settings.from_json(record, trust_imports)
        if env is not None:
            settings = replace(settings, env=env)
        elif not isinstance(settings.env, str):
            raise CheckpointError(f"{folder / 'run.json'} is damaged: env is {settings.env!r}")
        elif requires_import(settings.env) and not trust_imports:
            raise UsageError(
                f"{folder} uses the environment {settings.env}, which is code of its own; if you trust it,"
                " run again with --trust-imports (or trust_imports=True)"
            )
        anywhere = replace(
            settings, device="cpu" if settings.device == "cpu" else "auto"
        )  # of CUDA's agents a CPU can use every one
        return cls(folder, settings, record, device_of(anywhere))

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
        write_json_atomic(self.folder / "run.json", self._record)

    def extend(self, steps: int) -> None:
        """A new total of environment steps; the horizon of schedules stays. A target return that was reached
        stops it no more.

        Raises:
            UsageError: another process is training this run.
        """
        target = self.settings.target_return
        if target is not None and self._saved() and reached(target, self.checkpoint().values["best"]):
            target = None
        self.settings = replace(self.settings, steps=steps, target_return=target)
        with self._lock():
            self.save_record(steps=steps, target_return=target, status="interrupted", finished=None)

    def discard(self) -> None:
        """Remove the folder of a run that never began; not where something was saved or another process
        trains in it."""
        with contextlib.suppress(UsageError), self._lock():
            if not self._saved():
                shutil.rmtree(self.folder)

    def resume_command(self) -> str:
        """What to type to go on."""
        return f"bellgrad resume {shlex.quote(str(self.folder))}{self.trust_flag()}"

    def trust_flag(self) -> str:
        """What commands on this run need besides its folder: a flag, if it uses a user's own classes."""
        own = [*foreign(self._record["algorithm"]), *foreign(self._record.get("transforms"))]
        return " --trust-imports" if own or ":" in str(self._record["env"]) else ""

    # ------------------------------------------------------------------------------------- learner and driver
    def build_learner(self, env: TransformedEnv) -> Any:
        """The learner for this run's environment."""
        return self.settings.algorithm.build(
            env.spec, steps=self._record.get("horizon") or self.settings.steps
        )

    def make_env(self, num_envs: int, **options: Any) -> TransformedEnv:
        """This run's environment with its wrappers."""
        return make_run_env(self.settings, self.device, num_envs, **options)

    def load(
        self, which: Literal["last", "best"] | int = "last", env: TransformedEnv | None = None
    ) -> tuple[Any, Any, TransformedEnv]:
        """The learner, its state, and an environment with the run's frozen normalizers.

        Args:
            which: the newest checkpoint, the one with the best evaluation, or the one at a step.
            env: the environment to use; by default a new one.
        """
        checkpoint = self.checkpoint(which)
        env = env or self.make_env(1)
        learner = self.build_learner(env)
        state = learner.init(torch.Generator(self.device).manual_seed(0))
        state = restore_tree(state, checkpoint.tensors("loop/state"), "loop/state")
        template = tuple(t.init(self.settings.num_envs, self.device) for t in env.transforms)
        env.transform_state = restore_tree(template, checkpoint.tensors("env/transforms"), "env/transforms")
        env.frozen = True
        return learner, state, env

    def checkpoint(self, which: Literal["last", "best"] | int = "last") -> Checkpoint:
        """One of the run's checkpoints, verified."""
        root = self.folder / "checkpoints"
        if which == "last":
            checkpoint, warnings = open_latest(root)
            for line in [line for line in warnings if line not in self._warned]:
                self._warned.add(line)
                print(f"warning: {line}", file=sys.stderr)
            return checkpoint
        step = which
        if which == "best":
            best = self.checkpoint("last").values.get("best")
            if best is None:
                raise UsageError(f"{self.folder} has no best checkpoint: no evaluation has been made yet")
            step = best["step"]
        there = [number for number, _ in self._saved()]
        if step not in there:
            raise UsageError(
                f"{self.folder} has no checkpoint at step {step}; it has"
                f" {', '.join(map(str, there)) or 'none'}"
            )
        return Checkpoint.open(root / f"step-{step}")

    def train(self, resumed: bool = False, progress: Literal["auto", "off"] = "auto") -> "Run":
        """Train to the end, from the start or from the newest checkpoint.

        Raises:
            UsageError: another process is training this run.
            EnvironmentFault: an environment broke; the last checkpoint is intact.
            DivergedError: so is it here.
            CheckpointError: no checkpoint is fit to resume from, or one could not be written.
            KeyboardInterrupt: the user stopped it; its message says what is saved and how to go on.
        """
        with self._lock():
            env = session = None
            try:
                if resumed and self._record.get("device_used") in ("cpu", "cuda"):
                    self.device = resolve_device(
                        self._record["device_used"]
                    )  # another one would give other bits
                env = self.make_env(self.settings.num_envs)
                session = Session(self, env, resumed, progress)
                session.run()
                self.save_record(status="finished", finished=_now())
            except BaseException as error:
                # Ctrl-C reaches a compiler at work too, which then fails: that is the user's stop, not an
                # error.
                failed_by_stop = (
                    session is not None and session.stopping and not isinstance(error, BellgradError)
                )
                stopped = isinstance(error, KeyboardInterrupt) or failed_by_stop
                with contextlib.suppress(BellgradError):  # the first error is the one to show
                    self.save_record(status="interrupted" if stopped else "failed")
                if stopped:
                    raise KeyboardInterrupt(f"stopped; {self._standing()}") from None
                if (
                    session is None
                    or not isinstance(error, BellgradError)
                    or isinstance(error, UsageError | CheckpointError)
                ):
                    raise
                raise type(error)(f"{error}; {self._standing()}") from error
            finally:
                if env is not None:
                    env.close()
        return self

    def _saved(self) -> list[tuple[int, Path]]:
        return checkpoints(self.folder / "checkpoints")

    def _standing(self) -> str:
        """Where the run stands on the disk, and how to go on from there."""
        saved = self._saved()
        there = f"the checkpoint of step {saved[-1][0]:,} is whole" if saved else "nothing was saved yet"
        return f"{there}; go on with: {self.resume_command()}"

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        try:
            handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise CheckpointError(f"{self.folder} cannot be written: {reason(error)}") from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"another process is training {self.folder}") from None
            with contextlib.suppress(
                OSError
            ):  # of a read-only disk: whatever must be written says so in better words
                for left in self.folder.glob(f"{TEMPORARY}*"):  # by a process that was killed
                    left.unlink()
            yield
        finally:
            os.close(handle)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "processor": platform.processor() or platform.machine()}
    for package in ("bellgrad", "torch", "numpy", "gymnasium"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
