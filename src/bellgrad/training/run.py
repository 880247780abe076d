"""A run: its folder, its loop, and everything around the loop - log, evaluation, checkpoints, interruption, resume."""

import contextlib
import fcntl
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

from bellgrad.core.errors import BellgradError, CheckpointError, UsageError
from bellgrad.core.tree import named_leaves, restore_tree
from bellgrad.envs.make import env_name, make_env, requires_import
from bellgrad.envs.transforms import FrameStack, NormaliseObs, NormaliseReward, TransformedEnv
from bellgrad.training.checkpoint import Checkpoint, open_latest, prune, save_checkpoint
from bellgrad.training.driver import Driver, Report
from bellgrad.training.engine import Engine, choose_engine
from bellgrad.training.evaluate import evaluate_policy
from bellgrad.training.files import make_folder, read_json, write_json_atomic
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


class DivergedError(BellgradError):
    """A metric of the algorithm became NaN or infinite."""


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
        """Remember a call's report without waiting for its tensors."""
        self._pending.append(report)

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
    """

    def __init__(self, folder: Path, settings: Settings, record: dict[str, Any]):
        self.folder, self.settings, self._record = folder, settings, record
        self.device = resolve_device(settings.device)

    # ------------------------------------------------------------------------------------------- the folder
    @classmethod
    def create(cls, settings: Settings, folder: Path, command: str | None = None) -> "Run":
        """Make a run folder; an empty or unfinished start is used again.

        Raises:
            UsageError: the folder holds a run already, or something else.
        """
        if (folder / "run.json").exists() and (folder / "checkpoints").is_dir() and any((folder / "checkpoints").glob("step-*")):
            raise UsageError(f"{folder} already holds a run; continue it with: bellgrad resume {shlex.quote(str(folder))}")
        own = {"run.json", "metrics.jsonl", "checkpoints", "tensorboard", ".lock"}
        if folder.exists() and (not folder.is_dir() or {p.name for p in folder.iterdir()} - own):
            raise UsageError(f"{folder} exists and is not a run; choose another --out")
        make_folder(folder)
        record = {"format": FORMAT, **settings.to_json(env_name(settings.env)), "versions": _versions(), "status": "started",
                  "command": command or shlex.join(["bellgrad", *sys.argv[1:]]), "started": _now(), "finished": None}  # fmt: skip
        run = cls(folder, settings, record)
        run._write()
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
        return cls(folder, settings, record)

    @property
    def status(self) -> str:
        """`started`, `running`, `interrupted`, `failed` or `finished`."""
        return str(self._record["status"])

    @property
    def record(self) -> dict[str, Any]:
        """What `run.json` says."""
        return dict(self._record)

    def _write(self, **changes: Any) -> None:
        self._record |= changes
        write_json_atomic(self.folder / "run.json", self._record)

    def extend(self, steps: int) -> None:
        """A new total of environment steps; the horizon of schedules stays."""
        self.settings = replace(self.settings, steps=steps)
        self._write(steps=steps, finished=None)

    def resume_command(self) -> str:
        """What to type to go on."""
        return f"bellgrad resume {shlex.quote(str(self.folder))}"

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
            for line in warnings:
                print(f"warning: {line}", file=sys.stderr)
            return checkpoint
        step = which
        if which == "best":
            best = self.checkpoint("last").values.get("best")
            if best is None:
                raise UsageError(f"{self.folder} has no best checkpoint: no evaluation has been made yet")
            step = best["step"]
        return Checkpoint.open(root / f"step-{step}")

    def train(self, resumed: bool = False, progress: Literal["auto", "off"] = "auto") -> "Run":
        """Train to the end, from the start or from the newest checkpoint.

        Raises:
            UsageError: another process is training this run.
            EnvironmentFault: an environment broke; the last checkpoint is intact.
            CheckpointError: no checkpoint is fit to resume from, or one could not be written.
            KeyboardInterrupt: the user stopped it; a checkpoint was written.
        """
        with self._lock():
            env = self.make_env(self.settings.num_envs)
            try:
                Session(self, env, resumed, progress).run()
            except KeyboardInterrupt:
                self._write(status="interrupted")
                raise
            except Exception:
                with contextlib.suppress(BellgradError, OSError):  # the first error is the one to show
                    self._write(status="failed")
                raise
            finally:
                env.close()
        return self

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        with open(self.folder / ".lock", "w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"another process is training {self.folder}") from None
            yield


class Session:
    """One stretch of training: from where the run stands until it ends, is interrupted or fails."""

    def __init__(self, run: Run, env: TransformedEnv, resumed: bool, progress: Literal["auto", "off"]):
        self.run_, self.settings, self.env = run, run.settings, env
        checkpoint = run.checkpoint() if resumed else None
        learner = run.build_learner(env)
        self.engine = self._engine(learner, checkpoint)
        self.engine.start()
        kind = OnPolicy if hasattr(learner, "prepare") else OffPolicy
        self.driver: Driver = kind(learner, env, self.engine, self.settings.seed, run.device)
        self.tracker = Tracker()
        self.best: dict[str, Any] | None = None
        self.seconds = 0.0  # of training, over all sessions
        self.evaluation_env: TransformedEnv | None = None
        if checkpoint is not None:
            self.driver.restore(checkpoint)
            self.tracker.restore(checkpoint.values["tracker"])
            self.best, self.seconds = checkpoint.values["best"], checkpoint.values["seconds"]
        else:
            steps = self.settings.steps
            run._write(
                horizon=steps, log_every=max(1, steps // LOG_LINES), checkpoint_every=max(1, steps // self.settings.checkpoints)
            )
        run._write(engine_used=self.engine.to_json(), status="running", device_used=str(run.device))
        self.metrics = MetricsWriter(run.folder, checkpoint.values["metrics_bytes"] if checkpoint else None)
        self.progress = TrainingProgress(self.settings.steps, self.driver.steps, progress)
        self._stop = threading.Event()
        self._saved_at = self.driver.steps if resumed else None

    def _engine(self, learner: Any, checkpoint: Checkpoint | None) -> Engine:
        if checkpoint is not None:
            return Engine(**self.run_.record["engine_used"])
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
        busy = getattr(self.env, "workers", 0)
        return choose_engine(
            s.engine,
            planned_updates=updates,
            batch_size=batch,
            parameters=parameters,
            busy_processes=busy,
            device=self.run_.device,
        )

    def run(self) -> None:
        """The loop, and what happens at fixed steps of it."""
        run, driver, record = self.run_, self.driver, self.run_.record
        self.progress.say(f"{algorithm_name(self.settings.algorithm)} on {record['env']}, {self.settings.num_envs} environments, "
                          f"engine {self.engine.reason}; {run.folder}")  # fmt: skip
        status = "finished"
        try:
            with self._interruptible():
                if self._saved_at is None:
                    self._save()
                since, steps_then = time.perf_counter(), driver.steps
                while driver.steps < self.settings.steps:
                    before = driver.steps
                    self.tracker.add(driver.advance())
                    if driver.steps // record["log_every"] > before // record["log_every"] or driver.steps >= self.settings.steps:
                        now = time.perf_counter()
                        self.seconds += now - since
                        self._log((driver.steps - steps_then) / (now - since))
                        since, steps_then = now, driver.steps
                    if driver.steps // record["checkpoint_every"] > before // record["checkpoint_every"]:
                        reached = self._evaluate()
                        self._save()
                        since = time.perf_counter()
                        if reached:
                            break
                    if self._stop.is_set():
                        status = "interrupted"
                        break
            if self._saved_at != driver.steps:
                self._save()
            run._write(status=status, finished=_now() if status == "finished" else None)
        finally:
            self.metrics.close()
            self.progress.close()
            if self.evaluation_env is not None:
                self.evaluation_env.close()
        if status == "interrupted":
            raise KeyboardInterrupt

    def _log(self, rate: float) -> None:
        figures = self.tracker.line()
        for name, value in figures.items():
            if value is not None and value - value != 0:  # NaN or infinite
                raise DivergedError(
                    f"{name} became {value} at step {self.driver.steps:,}; a lower learning rate often helps. "
                    f"The last checkpoint is intact: {self.run_.resume_command()}"
                )
        line = {
            "step": self.driver.steps,
            "time": self.seconds,
            "updates": self.driver.updates,
            "steps_per_second": rate,
        } | figures
        self.metrics.write(line)
        self.progress.update(self.driver.steps, rate, figures["episode_return_mean"])

    def _evaluate(self) -> bool:
        """Evaluate, remember the best, and tell whether the target return is reached."""
        s, driver = self.settings, self.driver
        if not s.eval_episodes:
            return False
        if self.evaluation_env is None:
            backend = "gymnasium" if s.backend == "subprocess" else s.backend
            self.evaluation_env = self.run_.make_env(min(s.eval_episodes, EVAL_ENVS), backend=backend)
            self.evaluation_env.frozen = True
        driver.sync_env()
        self.evaluation_env.transform_state = self.env.transform_state
        result = evaluate_policy(driver.learner, driver.loop.state, self.evaluation_env, s.eval_episodes, s.seed)
        self.metrics.write({"step": driver.steps, "eval_return_mean": result.return_mean, "eval_return_std": result.return_std,
                            "eval_length_mean": result.length_mean})  # fmt: skip
        if self.best is None or result.return_mean > self.best["return_mean"]:
            self.best = {"step": driver.steps, "return_mean": result.return_mean}
        return s.target_return is not None and result.return_mean >= s.target_return

    def _save(self) -> None:
        """Write a checkpoint of everything, then forget old ones."""
        values, tensors = self.driver.snapshot()
        everything = {"driver": values, "tracker": self.tracker.snapshot(), "best": self.best, "seconds": self.seconds,
                      "metrics_bytes": self.metrics.size}  # fmt: skip
        root = self.run_.folder / "checkpoints"
        save_checkpoint(root, self.driver.steps, everything, tensors)
        prune(root, KEPT_CHECKPOINTS, keep=[self.best["step"]] if self.best else [])
        self._saved_at = self.driver.steps

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
            self.progress.say("stopping after the call under way and saving; press Ctrl-C again to stop at once")

        previous = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for s, handler in previous.items():
                signal.signal(s, handler)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "processor": platform.processor() or platform.machine()}
    for package in ("bellgrad", "torch", "numpy", "gymnasium"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
