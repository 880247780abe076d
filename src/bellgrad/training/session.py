"""A session of training: the loop with its log, evaluations, checkpoints and interruption."""

import contextlib
import math
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import torch

from bellgrad.core.errors import (
    BellgradError,
    CheckpointError,
    CompilationError,
    EnvironmentFault,
    UsageError,
)
from bellgrad.core.process import settle
from bellgrad.core.protocols import Learner
from bellgrad.core.registry import DRIVERS
from bellgrad.core.tree import named_leaves
from bellgrad.envs.transforms import TransformedEnv
from bellgrad.runs.checkpoint import Checkpoint, prune, save_checkpoint
from bellgrad.runs.folder import Best, RunFolder, best_of
from bellgrad.runs.metrics import MetricsWriter
from bellgrad.runs.settings import Settings, algorithm_name
from bellgrad.training.assembly import STATE, make_run_env
from bellgrad.training.compilation import compiler_available, compiler_fault
from bellgrad.training.driver import Advanced, Driver, Workload
from bellgrad.training.engine import Engine, choose_engine
from bellgrad.training.evaluate import EVAL_ENVS, evaluate_agent
from bellgrad.training.plan import Plan
from bellgrad.training.progress import TrainingProgress

RECENT_EPISODES = 100  # episodes behind episode_return_mean
KEPT_CHECKPOINTS = 3
# Calls whose tensors are read later: few enough to need little memory, many enough to wait rarely.
PENDING_REPORTS = 1_000

COMPILER_SAID = "compiler-said.txt"  # in the run's folder, if compiling failed


class DivergedError(BellgradError):
    """A parameter or a metric of the algorithm became NaN or infinite."""


def train(
    run: RunFolder,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    progress: Literal["auto", "off"] = "auto",
) -> None:
    """Train a run to its end. The caller holds its lock.

    Args:
        run: its folder; its record says afterwards how the training ended.
        device: of all tensors.
        checkpoint: from which to continue; None starts from the beginning.
        progress: `auto` shows a bar on a terminal and lines elsewhere; `off` shows nothing.

    Raises:
        UsageError: the settings do not fit the environment or this machine.
        EnvironmentFault: an environment broke; the last checkpoint is intact.
        DivergedError: the algorithm diverged; the last checkpoint is intact.
        CheckpointError: the checkpoint does not fit, or one could not be written.
        KeyboardInterrupt: the user stopped it; its message says what is saved and how to continue.
    """
    env = session = None
    try:
        env = make_run_env(run.settings, device)
        settle()  # importing and making an environment may change torch's settings
        session = Session(run, env, checkpoint, progress)
        session.train()
        run.finish()
    except BaseException as error:
        # Ctrl-C also reaches a running compiler, which then fails: the user stopped it, it is not an error.
        failed_by_stop = session is not None and session.stopping and not isinstance(error, BellgradError)
        stopped = isinstance(error, KeyboardInterrupt) or failed_by_stop
        with contextlib.suppress(BellgradError):  # the first error is the one to show
            run.save_record(status="interrupted" if stopped else "failed")
        if stopped:
            raise KeyboardInterrupt(f"stopped; {run.standing()}") from None
        if (
            session is None
            or not isinstance(error, BellgradError)
            or isinstance(error, UsageError | CheckpointError)
        ):
            raise
        raise type(error)(f"{error}; {run.standing()}") from error
    finally:
        if env is not None:
            env.close()


class Tracker:
    """The recent episodes, and the metrics since the last line of the log. Tensors are read only when a line
    is needed."""

    def __init__(self) -> None:
        self.returns: deque[float] = deque(maxlen=RECENT_EPISODES)
        self.lengths: deque[int] = deque(maxlen=RECENT_EPISODES)
        self.sums: dict[str, list[float]] = {}  # metric -> [sum, count]
        self._pending: list[Advanced] = []

    def add(self, report: Advanced) -> None:
        """Keep a call's report, usually without waiting for its tensors."""
        self._pending.append(report)
        if len(self._pending) >= PENDING_REPORTS:
            self.flush()

    def flush(self) -> None:
        """Read what is pending, one by one, so that the sums do not depend on when this is called."""
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
        """The log's figures; the metrics start again."""
        self.flush()
        figures: dict[str, Any] = {"episode_return_mean": None, "episode_length_mean": None}
        if self.returns:
            figures["episode_return_mean"] = sum(self.returns) / len(self.returns)
            figures["episode_length_mean"] = sum(self.lengths) / len(self.lengths)
        figures |= {name: total / count for name, (total, count) in self.sums.items()}
        self.sums.clear()
        return figures

    def snapshot(self) -> dict[str, Any]:
        """A JSON-able record of it."""
        self.flush()
        return {"returns": list(self.returns), "lengths": list(self.lengths), "sums": self.sums}

    def restore(self, saved: dict[str, Any]) -> None:
        """Continue from a snapshot."""
        self.returns.extend(saved["returns"])
        self.lengths.extend(saved["lengths"])
        self.sums = saved["sums"]


class Session:
    """A session of training: from the present step until the run ends, is interrupted or fails.

    Everything that is kept here and can change the results is in the checkpoint: see `_save` and
    `_restore`.

    Args:
        run: the run's folder.
        env: in which the learner acts, before its first step.
        checkpoint: from which to continue; None starts from the beginning.
        progress: as in `train`.

    Attributes:
        run: as given.
        env: as given.
        plan: what happens at which step.
        driver: trains the learner in the environment.
        best: the best evaluation so far.

    Raises:
        UsageError: the settings do not fit the environment or this machine.
        CheckpointError: the checkpoint or the run's record is damaged or does not fit.
        EnvironmentFault: the environment cannot begin an episode.
    """

    def __init__(
        self,
        run: RunFolder,
        env: TransformedEnv,
        checkpoint: Checkpoint | None = None,
        progress: Literal["auto", "off"] = "auto",
    ):
        self.run, self.env = run, env
        plan = None if checkpoint is None else Plan.read(run)
        learner = run.settings.algorithm.build(
            env.spec, steps=run.settings.steps if plan is None else plan.horizon
        )
        driver = DRIVERS.find(learner.driver)
        workload = driver.workload(learner, run.settings)
        if plan is None:
            plan = Plan.start(run.settings, _choose_engine(learner, workload, run.settings, env), env.device)
        elif workload is not None and plan.engine.mode == "compiled" and not _can_compile(env.device):
            fault = compiler_fault() or CompilationError("no C++ compiler works here")
            if run.settings.engine != "auto":
                raise UsageError(
                    f"{run.folder} was compiled and needs a C++ compiler (g++ or clang++) to go on exactly:"
                    f" {fault}"
                )
            plan = self._going_eager(plan, fault)
        if plan.engine.fault is not None:
            plan = replace(
                plan, engine=replace(plan.engine, reason=plan.engine.reason + self._kept(plan.engine.fault))
            )
        self.plan = plan
        plan.engine.start()
        self.driver: Driver = driver(
            learner,
            env,
            replace(plan.engine, on_fault=self._on_fault),
            run.settings.seed,
            env.device,
            total=plan.steps,
        )
        self.tracker = Tracker()
        self.best: Best | None = None
        self._restarts: list[int] = []  # steps at which a resumed run could not bring its environment back
        self._seconds = 0.0  # of training, over all sessions
        metrics_bytes = None if checkpoint is None else self._restore(checkpoint)
        run.save_record(**plan.to_json(), status="running")
        self.metrics = MetricsWriter(run.folder, metrics_bytes)
        self._progress = TrainingProgress(plan.steps, self.driver.steps, progress)
        self._stop = threading.Event()
        self._saved_at = None if checkpoint is None else self.driver.steps

    def _on_fault(self, fault: CompilationError) -> None:
        """A function could not be compiled: end, or go on eagerly from the same state.

        Raises:
            CompilationError: the run was to be compiled in any case.
            KeyboardInterrupt: the user stopped it, and Ctrl-C also reaches a running compiler.
        """
        if self.stopping:
            raise KeyboardInterrupt
        if self.run.settings.engine == "compiled":
            raise CompilationError(f"--engine compiled: {fault}{self._kept(fault)}; or use --engine eager")
        self.plan = self._going_eager(self.plan, fault)
        self.run.save_record(**self.plan.to_json())

    def _going_eager(self, plan: Plan, fault: CompilationError) -> Plan:
        reason = f"eager: {fault}{self._kept(fault)}"
        print(f"warning: engine {reason}", file=sys.stderr)
        return replace(plan, engine=replace(plan.engine, mode="eager", reason=reason))

    def _kept(self, fault: CompilationError) -> str:
        """Where all that the compiler said is kept."""
        if not fault.whole:
            return ""
        path = self.run.folder / COMPILER_SAID
        try:
            path.write_text(fault.whole)
        except OSError:  # a full disk may be what the compiler said
            return ""
        return f" (all of it: {path})"

    @property
    def stopping(self) -> bool:
        """Whether the user asked to stop."""
        return self._stop.is_set()

    def train(self) -> None:
        """The loop, and what happens at fixed steps of it.

        Raises:
            KeyboardInterrupt: the user stopped it; a checkpoint was written.
        """
        plan, driver, settings = self.plan, self.driver, self.run.settings
        self._progress.say(
            f"{algorithm_name(settings.algorithm)} on {self.run.record['env']}, {settings.num_envs}"
            f" environments, engine {plan.engine.reason}; {self.run.folder}"
        )
        self._since = time.perf_counter()
        self._logged = (driver.steps, self._seconds)
        try:
            with self._interruptible():
                if self._saved_at is None:
                    self._save()
                while not self._over() and not self.stopping:
                    before = driver.steps
                    settle()  # the environment's code may have changed torch's settings
                    self.tracker.add(driver.advance())
                    if self._due(before, plan.log_every):
                        self._log()
                    if self._due(before, plan.checkpoint_every):
                        self._count_time()
                        self._evaluate()
                        self._save()
                        self._since = time.perf_counter()
            self._count_time()
            if self._saved_at != driver.steps:
                self._save()
            if not self._over():
                raise KeyboardInterrupt
        finally:
            # A full disk was already reported, and a checkpoint made everything that is needed durable.
            with contextlib.suppress(OSError):
                self.metrics.close()
            self._progress.close()

    def _over(self) -> bool:
        return self.driver.steps >= self.plan.steps or self.plan.is_reached(self.best)

    def _due(self, before: int, every: int) -> bool:
        """Whether the call that began at step `before` reached the run's end, or a multiple of `every`."""
        steps = self.driver.steps
        return steps >= self.plan.steps or steps // every > before // every

    def _count_time(self) -> None:
        now = time.perf_counter()
        self._seconds, self._since = self._seconds + now - self._since, now

    def _log(self) -> None:
        self._count_time()
        steps, seconds = self._logged
        rate = (self.driver.steps - steps) / (self._seconds - seconds)
        self._logged = (self.driver.steps, self._seconds)
        figures = self.tracker.line()
        for name, value in figures.items():
            if value is not None and not math.isfinite(value):
                raise self._diverged(name, value)
        line = {
            "step": self.driver.steps,
            "time": self._seconds,
            "updates": self.driver.updates,
            "steps_per_second": rate,
        }
        self.metrics.write(line | figures)
        self._progress.update(self.driver.steps, rate, figures["episode_return_mean"])

    def _diverged(self, name: str, value: float) -> DivergedError:
        return DivergedError(
            f"{name} became {value} by step {self.driver.steps:,}; a lower learning rate often helps"
        )

    def _evaluate(self) -> None:
        """Evaluate and remember the best. The environments are new each time, so that no evaluation depends
        on another."""
        episodes, seed, driver = self.plan.eval_episodes, self.run.settings.seed, self.driver
        if not episodes:
            return
        try:
            env = make_run_env(self.run.settings, self.env.device, min(episodes, EVAL_ENVS))
            try:
                env.frozen = True
                driver.sync_env()
                env.transform_state = self.env.transform_state
                result = evaluate_agent(driver.learner, driver.state, env, episodes, seed)
            finally:
                env.close()
        except EnvironmentFault as fault:
            raise EnvironmentFault(f"in the evaluation at step {driver.steps:,}: {fault}") from fault
        self.metrics.write(
            {
                "step": driver.steps,
                "eval_return_mean": result.return_mean,
                "eval_return_std": result.return_std,
                "eval_length_mean": result.length_mean,
            }
        )
        if self.best is None or result.return_mean > self.best.return_mean:
            self.best = Best(driver.steps, result.return_mean)

    def _save(self) -> None:
        """Write a checkpoint of everything, then delete old ones.

        Raises:
            DivergedError: the learner's state is not finite; a checkpoint of it would be useless.
        """
        values, tensors = self.driver.snapshot()
        for name, tensor in tensors.items():
            if name.startswith(f"{STATE}/") and tensor.is_floating_point() and not tensor.isfinite().all():
                raise self._diverged(name.removeprefix(f"{STATE}/"), tensor[~tensor.isfinite()][0].item())
        everything = {
            "driver": values,
            "tracker": self.tracker.snapshot(),
            "best": None if self.best is None else self.best._asdict(),
            "seconds": self._seconds,
            "metrics_bytes": self.metrics.size,
            "restarts": self._restarts,
        }
        root, step = self.run.checkpoints, self.driver.steps
        save_checkpoint(root, step, everything, tensors)
        prune(root, KEPT_CHECKPOINTS, keep=[self.best.step] if self.best else [], newest=step)
        self._saved_at = step

    def _restore(self, checkpoint: Checkpoint) -> int:
        """Restore everything that `_save` kept; returns the bytes of `metrics.jsonl`."""
        values = checkpoint.values
        try:
            fault = self.driver.restore(checkpoint)
            self.tracker.restore(values["tracker"])
            self.best = best_of(checkpoint)
            self._seconds, self._restarts = values["seconds"], values.get("restarts", [])
            if fault is not None:
                self._restarts = [*self._restarts, checkpoint.step]
                print(
                    f"warning: {fault}; new episodes were begun, and the results differ from a run that was"
                    " never stopped",
                    file=sys.stderr,
                )
            return int(values["metrics_bytes"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"{checkpoint.path} does not fit this run: {type(error).__name__}: {error}"
            ) from error

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """The first Ctrl-C (or SIGTERM) ends the loop after the current call; the second ends the process
        at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(signum: int, frame: Any) -> None:
            if self._stop.is_set():
                raise KeyboardInterrupt
            self._stop.set()
            with contextlib.suppress(RuntimeError):  # the interrupted code may have been printing itself
                self._progress.say(
                    "stopping after the current call and saving; press Ctrl-C again to stop at once"
                )

        previous = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for s, handler in previous.items():
                signal.signal(s, handler)


def _choose_engine(
    learner: Learner, workload: Workload | None, settings: Settings, env: TransformedEnv
) -> Engine:
    if workload is None:
        mode: Literal["eager", "compiled"] = "eager" if settings.engine == "eager" else "compiled"
        return Engine(mode, 1, 1, f"{mode}, for tables")  # either way the same bits
    state = learner.init(torch.Generator(env.device).manual_seed(0))
    networks = [tree for name, tree in state._asdict().items() if name in ("params", "actor", "critic")]
    return choose_engine(
        settings.engine,
        planned_updates=workload.updates,
        unit=workload.unit,
        batch_size=workload.batch_size,
        parameters=sum(leaf.numel() for tree in networks for leaf in named_leaves(tree).values()),
        busy_processes=env.workers,
        device=env.device,
    )


def _can_compile(device: torch.device) -> bool:
    return device.type != "cpu" or compiler_available()
