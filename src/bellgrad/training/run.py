"""A run: its folder, its loop, and everything around the loop - log, evaluation, checkpoints, interruption, resume."""

import contextlib
import fcntl
import math
import os
import platform
import shlex
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch

from bellgrad.core.errors import BellgradError, CheckpointError, EnvironmentFault, UsageError
from bellgrad.core.tree import named_leaves, restore_tree
from bellgrad.envs.make import env_name, make_env, requires_import
from bellgrad.envs.transforms import FrameStack, NormaliseObs, NormaliseReward, TransformedEnv
from bellgrad.training.checkpoint import Checkpoint, checkpoints, open_latest, prune, save_checkpoint
from bellgrad.training.driver import Driver, Report
from bellgrad.training.engine import Engine, choose_engine, compiler_available
from bellgrad.training.evaluate import evaluate_policy
from bellgrad.training.files import make_folder, read_json, reason, write_json_atomic
from bellgrad.training.metrics import MetricsWriter
from bellgrad.training.off_policy import OffPolicy
from bellgrad.training.on_policy import OnPolicy
from bellgrad.training.progress import TrainingProgress
from bellgrad.training.settings import Settings, algorithm_name

FORMAT = 1  # of run.json
LOG_LINES = 200  # lines of metrics.jsonl in a run
EVAL_ENVS = 16  # environments that step together in an evaluation
RECENT_EPISODES = 100  # episodes behind episode_return_mean
KEPT_CHECKPOINTS = 3
TEMPORARY = ".tmp-run.json-"  # how a half-written run.json is called
PENDING_REPORTS = 1_000  # calls whose tensors wait to be read: few enough to take no memory, many enough to wait rarely


class DivergedError(BellgradError):
    """A parameter or a metric of the algorithm became NaN or infinite."""


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
    transforms = []
    if settings.normalise_obs:
        transforms.append(NormaliseObs())
    if settings.frame_stack > 1:
        transforms.append(FrameStack(settings.frame_stack))
    if settings.normalise_reward:
        transforms.append(NormaliseReward(settings.algorithm.gamma))
    options = {"backend": settings.backend} | options
    env = make_env(
        settings.env,
        num_envs=num_envs,
        device=device,
        max_episode_steps=settings.max_episode_steps,
        env_kwargs=settings.env_kwargs,
        transforms=transforms,
        **options,
    )
    return env if isinstance(env, TransformedEnv) else TransformedEnv(env, ())


class Tracker:
    """The recent episodes and the metrics since the last line of the log. Reads tensors only when asked for a line."""

    def __init__(self) -> None:
        self.returns: deque[float] = deque(maxlen=RECENT_EPISODES)
        self.lengths: deque[int] = deque(maxlen=RECENT_EPISODES)
        self.sums: dict[str, list[float]] = {}  # metric -> [sum, count]
        self._pending: list[Report] = []

    def add(self, report: Report) -> None:
        """Remember a call's report, mostly without waiting for its tensors."""
        self._pending.append(report)
        if len(self._pending) >= PENDING_REPORTS:
            self.flush()

    def flush(self) -> None:
        """Read what is pending. One by one, so that the sums do not depend on when they are flushed."""
        for report in self._pending:
            ended = report.ended.ended
            if ended.any():
                self.returns.extend(report.ended.return_[ended].tolist())
                self.lengths.extend(report.ended.length[ended].tolist())
        for name in self._pending[-1].metrics if self._pending else ():
            column = torch.stack([report.metrics[name] for report in self._pending if report.metrics])
            total = self.sums.setdefault(name, [0.0, 0])
            for value in column.tolist():
                total[0] += value
                total[1] += 1
        self._pending.clear()

    def line(self) -> dict[str, Any]:
        """The log's figures; the metrics begin anew."""
        self.flush()
        figures: dict[str, Any] = {"episode_return_mean": None, "episode_length_mean": None}
        if self.returns:
            figures["episode_return_mean"] = sum(self.returns) / len(self.returns)
            figures["episode_length_mean"] = sum(self.lengths) / len(self.lengths)
        figures |= {name: total / count for name, (total, count) in self.sums.items()}
        self.sums.clear()
        return figures

    def snapshot(self) -> dict[str, Any]:
        """JSON-able."""
        self.flush()
        return {"returns": list(self.returns), "lengths": list(self.lengths), "sums": self.sums}

    def restore(self, saved: dict[str, Any]) -> None:
        """Continue from a snapshot."""
        self.returns.extend(saved["returns"])
        self.lengths.extend(saved["lengths"])
        self.sums = saved["sums"]


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
            UsageError: the folder holds a run already, or something else, or another process is training in it.
            CheckpointError: the folder cannot be made or written.
        """
        record = {"format": FORMAT, **settings.to_json(env_name(settings.env)), "versions": _versions(), "status": "started",
                  "command": command or shlex.join(["bellgrad", *sys.argv[1:]]), "started": _now(), "finished": None}  # fmt: skip
        run = cls(folder, settings, record, resolve_device(settings.device))
        own = {"run.json", "metrics.jsonl", "checkpoints", "tensorboard", ".lock"}
        try:
            if run._saved():
                raise UsageError(f"{folder} already holds a run; continue it with: {run.resume_command()}")
            if folder.exists() and any(p.name not in own and not p.name.startswith(TEMPORARY) for p in folder.iterdir()):
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
            trust_imports: whether a user's own environment or network, named in `run.json`, may be imported.
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
                f"{folder} uses the environment {settings.env}, which is code of its own; if you trust it, run again with "
                "--trust-imports (or trust_imports=True)"
            )
        device = resolve_device("cpu" if settings.device == "cpu" else "auto")  # of CUDA's agents a CPU can use every one
        return cls(folder, settings, record, device)

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
        """A new total of environment steps; the horizon of schedules stays. A target return that was reached stops it no more.

        Raises:
            UsageError: another process is training this run.
        """
        target = self.settings.target_return
        if target is not None and self._saved() and _reached(target, self.checkpoint().values["best"]):
            target = None
        self.settings = replace(self.settings, steps=steps, target_return=target)
        with self._lock():
            self.save_record(steps=steps, target_return=target, status="interrupted", finished=None)

    def resume_command(self) -> str:
        """What to type to go on."""
        return f"bellgrad resume {shlex.quote(str(self.folder))}{self.trust_flag()}"

    def trust_flag(self) -> str:
        """What commands on this run need beside its folder: a flag, where it uses a user's own classes."""
        own_code = ":" in str(self._record["env"]) or self._record["algorithm"]["fields"]["network"]["kind"] == "module"
        return " --trust-imports" if own_code else ""

    # ---------------------------------------------------------------------------------------- learner and driver
    def build_learner(self, env: TransformedEnv) -> Any:
        """The learner for this run's environment."""
        return self.settings.algorithm.build(env.spec, steps=self._record.get("horizon") or self.settings.steps)

    def make_env(self, num_envs: int, **options: Any) -> TransformedEnv:
        """This run's environment with its wrappers."""
        return make_run_env(self.settings, self.device, num_envs, **options)

    def load(
        self, which: Literal["last", "best"] | int = "last", env: TransformedEnv | None = None
    ) -> tuple[Any, Any, TransformedEnv]:
        """The learner, its state, and an environment with the run's frozen normalisers.

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
            raise UsageError(f"{self.folder} has no checkpoint at step {step}; it has {', '.join(map(str, there)) or 'none'}")
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
                    self.device = resolve_device(self._record["device_used"])  # another one would give other bits
                env = self.make_env(self.settings.num_envs)
                session = Session(self, env, resumed, progress)
                session.run()
            except BaseException as error:
                # Ctrl-C reaches a compiler at work too, which then fails: that is the user's stop, not an error.
                failed_by_stop = session is not None and session.stopping and not isinstance(error, BellgradError)
                stopped = isinstance(error, KeyboardInterrupt) or failed_by_stop
                with contextlib.suppress(BellgradError):  # the first error is the one to show
                    self.save_record(status="interrupted" if stopped else "failed")
                if stopped:
                    raise KeyboardInterrupt(f"stopped; {self._standing()}") from None
                if session is None or not isinstance(error, BellgradError) or isinstance(error, UsageError | CheckpointError):
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
            with contextlib.suppress(OSError):  # of a read-only disk: whatever must be written says so in better words
                for left in self.folder.glob(f"{TEMPORARY}*"):  # by a process that was killed
                    left.unlink()
            yield
        finally:
            os.close(handle)


class Session:
    """One stretch of training: from where the run stands until it ends, is interrupted or fails.

    Whatever is remembered here and can be seen in the results is in the checkpoint: `_save` and the last lines of `__init__`.
    """

    def __init__(self, run: Run, env: TransformedEnv, resumed: bool, progress: Literal["auto", "off"]):
        self.run_, self.settings, self.env = run, run.settings, env
        checkpoint = run.checkpoint() if resumed else None
        learner = run.build_learner(env)
        self.engine = self._choose_engine(learner) if checkpoint is None else _recorded_engine(run)
        self.engine.start()
        kind = OnPolicy if hasattr(learner, "prepare") else OffPolicy
        self.driver: Driver = kind(learner, env, self.engine, self.settings.seed, run.device)
        self.tracker = Tracker()
        self.best: dict[str, Any] | None = None  # step and return_mean of the best evaluation
        self.seconds = 0.0  # of training, over all sessions
        metrics_bytes = self._restore(checkpoint) if checkpoint else None
        if checkpoint is None:
            s = self.settings
            every = {"log_every": -(-s.steps // LOG_LINES), "checkpoint_every": -(-s.steps // s.checkpoints)}
            run.save_record(horizon=s.steps, **every)
        run.save_record(engine_used=self.engine.to_json(), status="running", device_used=run.device.type)
        self.metrics = MetricsWriter(run.folder, metrics_bytes)
        self.progress = TrainingProgress(self.settings.steps, self.driver.steps, progress)
        self._stop = threading.Event()
        self._saved_at = self.driver.steps if resumed else None

    @property
    def stopping(self) -> bool:
        """Whether the user asked to stop."""
        return self._stop.is_set()

    def _choose_engine(self, learner: Any) -> Engine:
        c, s = learner.config, self.settings
        state = learner.init(torch.Generator(self.run_.device).manual_seed(0))
        networks = [tree for name, tree in state._asdict().items() if name in ("params", "actor", "critic")]
        parameters = sum(leaf.numel() for tree in networks for leaf in named_leaves(tree).values())
        if hasattr(learner, "prepare"):
            batch = c.rollout_steps * s.num_envs // c.minibatches
            updates = s.steps // (c.rollout_steps * s.num_envs) * c.epochs * c.minibatches
        else:
            batch = c.batch_size
            updates = max(0, s.steps - c.learning_starts) // c.update_period * c.updates_per_period
        busy = getattr(self.env.env, "workers", 0)
        return choose_engine(
            s.engine,
            planned_updates=updates,
            batch_size=batch,
            parameters=parameters,
            busy_processes=busy,
            device=self.run_.device,
        )

    def run(self) -> None:
        """The loop, and what happens at fixed steps of it.

        Raises:
            KeyboardInterrupt: the user stopped it; a checkpoint was written.
        """
        run, driver, record, total = self.run_, self.driver, self.run_.record, self.settings.steps
        self.progress.say(f"{algorithm_name(self.settings.algorithm)} on {record['env']}, {self.settings.num_envs} environments, "
                          f"engine {self.engine.reason}; {run.folder}")  # fmt: skip
        self._since = time.perf_counter()
        self._logged = (driver.steps, self.seconds)
        try:
            with self._interruptible():
                if self._saved_at is None:
                    self._save()
                while not self._over() and not self.stopping:
                    before = driver.steps
                    self.tracker.add(driver.advance())
                    last = driver.steps >= total
                    if last or driver.steps // record["log_every"] > before // record["log_every"]:
                        self._log()
                    if last or driver.steps // record["checkpoint_every"] > before // record["checkpoint_every"]:
                        self._count_time()
                        self._evaluate()
                        self._save()
                        self._since = time.perf_counter()
            self._count_time()
            if self._saved_at != driver.steps:
                self._save()
            if not self._over():
                raise KeyboardInterrupt
            run.save_record(status="finished", finished=_now())
        finally:
            with contextlib.suppress(OSError):  # of a full disk, which has been told already; a checkpoint synced all that counts
                self.metrics.close()
            self.progress.close()

    def _over(self) -> bool:
        return self.driver.steps >= self.settings.steps or _reached(self.settings.target_return, self.best)

    def _count_time(self) -> None:
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + now - self._since, now

    def _log(self) -> None:
        self._count_time()
        steps, seconds = self._logged
        rate = (self.driver.steps - steps) / (self.seconds - seconds)
        self._logged = (self.driver.steps, self.seconds)
        figures = self.tracker.line()
        for name, value in figures.items():
            if value is not None and not math.isfinite(value):
                raise self._diverged(name, value)
        line = {"step": self.driver.steps, "time": self.seconds, "updates": self.driver.updates, "steps_per_second": rate}
        self.metrics.write(line | figures)
        self.progress.update(self.driver.steps, rate, figures["episode_return_mean"])

    def _diverged(self, name: str, value: float) -> DivergedError:
        return DivergedError(f"{name} became {value} by step {self.driver.steps:,}; a lower learning rate often helps")

    def _evaluate(self) -> None:
        """Evaluate and remember the best. The environments are new each time, so that no evaluation depends on another."""
        s, driver = self.settings, self.driver
        if not s.eval_episodes:
            return
        try:
            env = self.run_.make_env(min(s.eval_episodes, EVAL_ENVS))
            try:
                env.frozen = True
                driver.sync_env()
                env.transform_state = self.env.transform_state
                result = evaluate_policy(driver.learner, driver.loop.state, env, s.eval_episodes, s.seed)
            finally:
                env.close()
        except EnvironmentFault as fault:
            raise EnvironmentFault(f"in the evaluation at step {driver.steps:,}: {fault}") from fault
        self.metrics.write({"step": driver.steps, "eval_return_mean": result.return_mean, "eval_return_std": result.return_std,
                            "eval_length_mean": result.length_mean})  # fmt: skip
        if self.best is None or result.return_mean > self.best["return_mean"]:
            self.best = {"step": driver.steps, "return_mean": result.return_mean}

    def _save(self) -> None:
        """Write a checkpoint of everything, then forget old ones.

        Raises:
            DivergedError: the learner's state is not finite; a checkpoint of it would be of no use.
        """
        values, tensors = self.driver.snapshot()
        for name, tensor in tensors.items():
            if name.startswith("loop/state/") and tensor.is_floating_point() and not tensor.isfinite().all():
                raise self._diverged(name.removeprefix("loop/state/"), tensor[~tensor.isfinite()][0].item())
        everything = {"driver": values, "tracker": self.tracker.snapshot(), "best": self.best, "seconds": self.seconds,
                      "metrics_bytes": self.metrics.size}  # fmt: skip
        root = self.run_.folder / "checkpoints"
        save_checkpoint(root, self.driver.steps, everything, tensors)
        prune(root, KEPT_CHECKPOINTS, keep=[self.best["step"]] if self.best else [], newest=self.driver.steps)
        self._saved_at = self.driver.steps

    def _restore(self, checkpoint: Checkpoint) -> int:
        """Everything that `_save` kept; returns the bytes of `metrics.jsonl`."""
        values = checkpoint.values
        try:
            self.driver.restore(checkpoint)
            self.tracker.restore(values["tracker"])
            self.best, self.seconds = values["best"], values["seconds"]
            return values["metrics_bytes"]
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise CheckpointError(f"{checkpoint.path} does not fit this run: {type(error).__name__}: {error}") from error

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """The first Ctrl-C (or SIGTERM) ends the loop after the call under way; the second one ends the process at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(signum: int, frame: Any) -> None:
            if self._stop.is_set():
                raise KeyboardInterrupt
            self._stop.set()
            with contextlib.suppress(RuntimeError):  # the interrupted code may have been printing itself
                self.progress.say("stopping after the call under way and saving; press Ctrl-C again to stop at once")

        previous = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for s, handler in previous.items():
                signal.signal(s, handler)


def _reached(target_return: float | None, best: dict[str, Any] | None) -> bool:
    return target_return is not None and best is not None and best["return_mean"] >= target_return


def _recorded_engine(run: Run) -> Engine:
    """The engine that `run.json` names: another one, or other steps to log and save at, would give other results."""
    record = run.record
    try:
        for name in ("log_every", "checkpoint_every", "horizon"):
            if type(record[name]) is not int or record[name] < 1:
                raise ValueError(f"{name} is {record[name]!r}")
        engine = Engine(**record["engine_used"])
        if engine.mode not in ("eager", "compiled") or engine.threads < 1 or engine.updates_per_call < 1:
            raise ValueError(f"engine_used is {record['engine_used']!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{run.folder / 'run.json'} is damaged: {type(error).__name__}: {error}") from error
    if engine.mode == "compiled" and run.device.type == "cpu" and not compiler_available():
        raise UsageError(f"{run.folder} was compiled and needs a C++ compiler (g++ or clang++) to go on exactly")
    return engine


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "processor": platform.processor() or platform.machine()}
    for package in ("bellgrad", "torch", "numpy", "gymnasium"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
