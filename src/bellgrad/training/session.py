"""A session of training: the loop with its log, evaluations, checkpoints and interruption."""

import contextlib
import math
import time
from collections import deque
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from bellgrad.core.errors import (
    BellgradError,
    CheckpointError,
    CompilationError,
    EnvironmentFault,
    UsageError,
)
from bellgrad.core.output import warn
from bellgrad.core.process import settle
from bellgrad.core.protocols import Learner
from bellgrad.core.registry import DRIVERS
from bellgrad.core.tree import named_leaves
from bellgrad.envs.transformed import TransformedEnv
from bellgrad.graphs.compiler import compiler_available, compiler_fault
from bellgrad.runs.checkpoint import Checkpoint, prune, revise_checkpoint, save_checkpoint
from bellgrad.runs.folder import Best, RunFolder, best_of
from bellgrad.runs.metrics import MetricsWriter
from bellgrad.runs.settings import Settings, algorithm_name
from bellgrad.training.assembly import STATE, make_run_env
from bellgrad.training.diagnosis import advice
from bellgrad.training.driver import Advanced, Driver, Workload
from bellgrad.training.engine import Engine, choose_engine
from bellgrad.training.evaluate import EVAL_ENVS, Evaluation, evaluate_agent
from bellgrad.training.plan import Plan
from bellgrad.training.progress import TrainingProgress
from bellgrad.training.stopping import StopRequest

RECENT_EPISODES = 100  # episodes behind episode_return_mean
KEPT_CHECKPOINTS = 3
# Calls whose tensors are read later: few enough to need little memory, many enough to wait rarely.
PENDING_REPORTS = 1_000
# Share of the time that may go into keeping, before a call, what would be saved if the call is left.
KEEPING = 0.005

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
    shown = TrainingProgress(run.settings.steps, checkpoint.step if checkpoint else 0, progress)
    stop = StopRequest(shown.say)
    with stop.listening():
        _train(run, device, checkpoint, shown, stop)


def _train(
    run: RunFolder,
    device: torch.device,
    checkpoint: Checkpoint | None,
    progress: TrainingProgress,
    stop: StopRequest,
) -> None:
    env = session = None
    try:
        with stop.at_once():  # nothing has happened yet
            env = make_run_env(run.settings, device)
            settle()  # importing and making an environment may change torch's settings
            session = Session(run, env, checkpoint, progress, stop)
        session.train()
        run.finish()
    except BaseException as error:
        # Work that was cut short may fail in any way, and Ctrl-C also reaches a running compiler, which then
        # fails: the user stopped it, it is not an error.
        failed_by_stop = stop.cut_short or (stop.asked and not isinstance(error, BellgradError))
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
        progress.close()
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
        measured = [report for report in self._pending if report.metrics]
        for name in measured[-1].metrics if measured else ():
            column = torch.stack([report.metrics[name] for report in measured])
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
        progress: shows how far the run is; None shows nothing.
        stop: whether it was asked to stop; None never is.

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
        progress: TrainingProgress | None = None,
        stop: StopRequest | None = None,
    ):
        self.run, self.env = run, env
        self._progress = progress or TrainingProgress(run.settings.steps, 0, "off")
        self._stop = stop or StopRequest()
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
                    f"{run.shown} was compiled and needs a C++ compiler (g++ or clang++) to go on exactly:"
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
        self.driver.engine.compilation.waiting = self._progress.waiting
        self.tracker = Tracker()
        self.best: Best | None = None
        self._restarts: list[int] = []  # steps at which a resumed run could not bring its environment back
        self._seconds = 0.0  # of training, over all sessions, without what compiling took of it
        self._compiling = 0.0  # seconds of this session that are not counted there
        self._unevaluated = False  # whether the newest checkpoint's evaluation has still to be made
        self._before: tuple[dict[str, Any], dict[str, Tensor]] | None = None  # the call under way
        self._spent_on_it = 0.0  # seconds, for all calls
        self._saved_values: dict[str, Any] = {}  # the driver's, in the newest checkpoint
        self._told_of_cap = False
        metrics_bytes = None if checkpoint is None else self._restore(checkpoint)
        run.save_record(**plan.to_json(), status="running")
        self.metrics = MetricsWriter(run.folder, metrics_bytes)
        self._saved_at = None if checkpoint is None else self.driver.steps

    def _on_fault(self, fault: CompilationError) -> None:
        """A function could not be compiled: end, or go on eagerly from the same state.

        Raises:
            CompilationError: the run was to be compiled in any case.
            KeyboardInterrupt: the user stopped it, and Ctrl-C also reaches a running compiler.
        """
        if self._stop.asked:
            raise KeyboardInterrupt
        if self.run.settings.engine == "compiled":
            raise CompilationError(f"--engine compiled: {fault}{self._kept(fault)}; or use --engine eager")
        self.plan = self._going_eager(self.plan, fault)
        self.run.save_record(**self.plan.to_json())

    def _going_eager(self, plan: Plan, fault: CompilationError) -> Plan:
        reason = f"eager: {fault}{self._kept(fault)}"
        warn(f"engine {reason}")
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

    def train(self) -> None:
        """The loop, and what happens at fixed steps of it.

        Raises:
            KeyboardInterrupt: the user stopped it; a checkpoint was written.
        """
        plan, driver, settings = self.plan, self.driver, self.run.settings
        self._progress.say(
            f"{algorithm_name(settings.algorithm)} on {self.run.record['env']}, {settings.num_envs}"
            f" environments, engine {plan.engine.reason}; {self.run.shown}"
        )
        for note in driver.notes(replace(settings, steps=plan.steps)):
            self._progress.say(f"{algorithm_name(settings.algorithm)} {note}")
        self._progress.begin()
        self._since = time.perf_counter()
        self._logged = (driver.steps, self._seconds)
        try:
            if self._saved_at is None:
                self._save()
            if self._unevaluated:
                self._evaluate()
            self._since = time.perf_counter()
            while not self._over() and not self._stop.asked:
                before = driver.call_began
                report = self._advance()
                if report is None:
                    break
                self.tracker.add(report)
                if driver.call_began != driver.steps < plan.steps:
                    break  # the call was ended early; the next session takes the rest of it
                if self._due(before, plan.log_every):
                    self._log()
                if self._due(before, plan.checkpoint_every):
                    self._count_time()
                    self._unevaluated = plan.eval_episodes > 0
                    self._save()
                    if self._unevaluated:
                        self._evaluate()
                    self._since = time.perf_counter()
            if not self._unevaluated:
                self._count_time()
            if self._saved_at != self._step():
                self._save()
            if self._stop.cut_short or self._unevaluated or not self._over():
                raise KeyboardInterrupt
        finally:
            # A full disk was already reported, and a checkpoint made everything that is needed durable.
            with contextlib.suppress(OSError, CheckpointError):
                self.metrics.close()
                seconds = driver.engine.compilation.seconds + self.run.record.get("compile_seconds", 0.0)
                self.run.save_record(compile_seconds=round(seconds, 1))

    def _advance(self) -> Advanced | None:
        """A call of the driver; None if it was left because the run is to stop: all is then to be saved as it
        was before the call."""
        driver, stop = self.driver, self._stop
        driver.engine.reached(driver.steps)
        if driver.compiles_next and self._saved_at != driver.steps:
            self._save()
        saved = self._saved_at == driver.steps
        if not saved:
            began = time.perf_counter()
            if self._spent_on_it <= KEEPING * (self._seconds + began - self._since):
                self._before = driver.snapshot()
                self._spent_on_it += time.perf_counter() - began
        settle()  # the environment's code may have changed torch's settings
        driver.heed(stop, may_leave=saved or self._before is not None)
        try:
            with stop.at_once() if saved else contextlib.nullcontext():
                report = driver.advance()
        except BaseException:
            if stop.cut_short:
                return None
            raise
        if stop.cut_short:  # a user's code caught it
            return None
        self._before = None
        return report

    def _step(self) -> int | None:
        """The step of what is to be saved."""
        if not self._stop.cut_short:
            return self.driver.steps
        return self._saved_at if self._before is None else int(self._before[0]["steps"])

    def _over(self) -> bool:
        return self.driver.steps >= self.plan.steps or self.plan.is_reached(self.best)

    def _due(self, before: int, every: int) -> bool:
        """Whether the call that began at step `before` reached the run's end, or a multiple of `every`."""
        steps = self.driver.steps
        return steps >= self.plan.steps or steps // every > before // every

    def _count_time(self) -> None:
        now, compiling = time.perf_counter(), self.driver.engine.compilation.seconds
        self._seconds += now - self._since - (compiling - self._compiling)
        self._since, self._compiling = now, compiling

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
        recent = self.tracker.returns, self.tracker.lengths
        help_ = advice(self.run.settings, self.env.device, *recent)
        return DivergedError(
            f"{name} became {value} by step {self.driver.steps:,}{'; ' if help_ else ''}{help_}"
        )

    def _evaluate(self) -> None:
        """Evaluate what was just saved, and remember the best. If the run is to stop, the evaluation is left;
        it is made when the run is resumed."""
        driver = self.driver
        try:
            with self._stop.at_once():
                result, has_limit = self._evaluation()
        except BaseException as error:
            if self._stop.cut_short:
                return
            if isinstance(error, EnvironmentFault):
                raise EnvironmentFault(f"in the evaluation at step {driver.steps:,}: {error}") from error
            raise
        if self._stop.cut_short:  # a user's code caught it
            return
        line = {
            "step": driver.steps,
            "eval_return_mean": result.return_mean,
            "eval_return_std": result.return_std,
            "eval_length_mean": result.length_mean,
        }
        if not has_limit:
            line["eval_truncated"] = result.capped / result.episodes
        self.metrics.write(line)
        if result.capped and not self._told_of_cap:
            self._told_of_cap = True
            self._progress.say(
                f"evaluation at step {driver.steps:,}: {result.capped} of {result.episodes} episodes did not"
                f" end and were cut at {self.plan.eval_cap:,} steps; the environment has no time limit"
                " (max_episode_steps sets one)"
            )
        if self.best is None or result.return_mean > self.best.return_mean:
            self.best = Best(driver.steps, result.return_mean)
        self._unevaluated = False
        revise_checkpoint(self.run.checkpoints, driver.steps, self._values(self._saved_values))
        self._prune(driver.steps)

    def _evaluation(self) -> tuple[Evaluation, bool]:
        """The environments are new each time, so that no evaluation depends on another; and whether they have
        a time limit."""
        plan, driver = self.plan, self.driver
        env = make_run_env(self.run.settings, self.env.device, min(plan.eval_episodes, EVAL_ENVS))
        try:
            env.frozen = True
            driver.sync_env()
            env.transform_state = self.env.transform_state
            seed = self.run.settings.seed
            result = evaluate_agent(
                driver.learner, driver.state, env, plan.eval_episodes, seed, cap=plan.eval_cap
            )
        finally:
            env.close()
        return result, env.spec.max_episode_steps is not None

    def _save(self) -> None:
        """Write a checkpoint of everything, then delete old ones.

        Raises:
            DivergedError: the learner's state is not finite; a checkpoint of it would be useless.
        """
        self.run.check_place()
        values, tensors = self.driver.snapshot() if self._before is None else self._before
        for name, tensor in tensors.items():
            if name.startswith(f"{STATE}/") and tensor.is_floating_point() and not tensor.isfinite().all():
                raise self._diverged(name.removeprefix(f"{STATE}/"), tensor[~tensor.isfinite()][0].item())
        step = int(values["steps"])
        save_checkpoint(self.run.checkpoints, step, self._values(values), tensors)
        self._saved_at, self._saved_values = step, values
        self._prune(step)

    def _values(self, driver: dict[str, Any]) -> dict[str, Any]:
        """What a checkpoint keeps besides tensors."""
        return {
            "driver": driver,
            "tracker": self.tracker.snapshot(),
            "best": None if self.best is None else self.best._asdict(),
            "unevaluated": self._unevaluated,
            "seconds": self._seconds,
            "metrics_bytes": self.metrics.size,
            "restarts": self._restarts,
        }

    def _prune(self, step: int) -> None:
        best = [self.best.step] if self.best else []
        prune(self.run.checkpoints, KEPT_CHECKPOINTS, keep=best, newest=step)

    def _restore(self, checkpoint: Checkpoint) -> int:
        """Restore everything that `_save` kept; returns the bytes of `metrics.jsonl`."""
        values = checkpoint.values
        try:
            fault = self.driver.restore(checkpoint)
            self.tracker.restore(values["tracker"])
            self.best = best_of(checkpoint)
            self._seconds, self._restarts = values["seconds"], values.get("restarts", [])
            self._unevaluated, self._saved_values = values.get("unevaluated", False), values["driver"]
            if fault is not None:
                self._restarts = [*self._restarts, checkpoint.step]
                warn(
                    f"{fault}; new episodes were begun, and the results differ from a run that was never"
                    " stopped"
                )
            return int(values["metrics_bytes"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"{checkpoint.path} does not fit this run: {type(error).__name__}: {error}"
            ) from error


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
        planned_steps=settings.steps,
        begins=workload.begins,
        unit=workload.unit,
        batch_size=workload.batch_size,
        parameters=sum(leaf.numel() for tree in networks for leaf in named_leaves(tree).values()),
        busy_processes=env.workers,
        device=env.device,
    )


def _can_compile(device: torch.device) -> bool:
    return device.type != "cpu" or compiler_available()
