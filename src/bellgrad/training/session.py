"""One stretch of training: the loop, and everything around it - log, evaluation, checkpoints,
interruption."""

import contextlib
import math
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import torch

from bellgrad.core.errors import BellgradError, CheckpointError, EnvironmentFault, UsageError
from bellgrad.core.registry import DRIVERS
from bellgrad.core.tree import named_leaves
from bellgrad.envs.transforms import TransformedEnv
from bellgrad.runs.checkpoint import Checkpoint, prune, save_checkpoint
from bellgrad.runs.metrics import MetricsWriter
from bellgrad.runs.settings import algorithm_name
from bellgrad.training.driver import Report
from bellgrad.training.engine import Engine, choose_engine, compiler_available
from bellgrad.training.evaluate import EVAL_ENVS, evaluate_agent
from bellgrad.training.progress import TrainingProgress

if TYPE_CHECKING:
    from bellgrad.training.run import Run

LOG_LINES = 200  # lines of metrics.jsonl in a run
RECENT_EPISODES = 100  # episodes behind episode_return_mean
KEPT_CHECKPOINTS = 3
PENDING_REPORTS = (
    1_000  # calls whose tensors wait to be read: few enough to take no memory, many enough to wait rarely
)


class DivergedError(BellgradError):
    """A parameter or a metric of the algorithm became NaN or infinite."""


class Tracker:
    """The recent episodes and the metrics since the last line of the log. Reads tensors only when asked for a
    line."""

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


class Session:
    """One stretch of training: from where the run stands until it ends, is interrupted or fails.

    Whatever is remembered here and can be seen in the results is in the checkpoint: `_save` and the last
    lines of `__init__`.
    """

    def __init__(self, run: "Run", env: TransformedEnv, resumed: bool, progress: Literal["auto", "off"]):
        self.run_, self.settings, self.env = run, run.settings, env
        checkpoint = run.checkpoint() if resumed else None
        learner = run.build_learner(env)
        self.engine = (
            self._choose_engine(learner)
            if checkpoint is None
            else _recorded_engine(run, cpp=learner.driver != "tabular")
        )
        self.engine.start()
        self.driver = DRIVERS.find(learner.driver)(learner, env, self.engine, self.settings.seed, run.device)
        self.driver.total = self.settings.steps
        self.tracker = Tracker()
        self.best: dict[str, Any] | None = None  # step and return_mean of the best evaluation
        self.restarts: list[int] = []  # steps at which a resumed run could not bring its environment back
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
        s = self.settings
        workload = DRIVERS.find(learner.driver).workload(learner, s)
        if workload is None:
            mode = "eager" if s.engine == "eager" else "compiled"  # either way the same bits
            return Engine(mode, 1, 1, f"{mode}, for tables")
        state = learner.init(torch.Generator(self.run_.device).manual_seed(0))
        networks = [tree for name, tree in state._asdict().items() if name in ("params", "actor", "critic")]
        return choose_engine(
            s.engine,
            planned_updates=workload.updates,
            unit=workload.unit,
            batch_size=workload.batch_size,
            parameters=sum(leaf.numel() for tree in networks for leaf in named_leaves(tree).values()),
            busy_processes=getattr(self.env.env, "workers", 0),
            device=self.run_.device,
        )

    def run(self) -> None:
        """The loop, and what happens at fixed steps of it.

        Raises:
            KeyboardInterrupt: the user stopped it; a checkpoint was written.
        """
        run, driver, record, total = self.run_, self.driver, self.run_.record, self.settings.steps
        self.progress.say(
            f"{algorithm_name(self.settings.algorithm)} on {record['env']}, {self.settings.num_envs}"
            f" environments, engine {self.engine.reason}; {run.folder}"
        )
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
                    if (
                        last
                        or driver.steps // record["checkpoint_every"] > before // record["checkpoint_every"]
                    ):
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
            with contextlib.suppress(
                OSError
            ):  # of a full disk, which has been told already; a checkpoint synced all that counts
                self.metrics.close()
            self.progress.close()

    def _over(self) -> bool:
        return self.driver.steps >= self.settings.steps or reached(self.settings.target_return, self.best)

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
        line = {
            "step": self.driver.steps,
            "time": self.seconds,
            "updates": self.driver.updates,
            "steps_per_second": rate,
        }
        self.metrics.write(line | figures)
        self.progress.update(self.driver.steps, rate, figures["episode_return_mean"])

    def _diverged(self, name: str, value: float) -> DivergedError:
        return DivergedError(
            f"{name} became {value} by step {self.driver.steps:,}; a lower learning rate often helps"
        )

    def _evaluate(self) -> None:
        """Evaluate and remember the best. The environments are new each time, so that no evaluation depends
        on another."""
        s, driver = self.settings, self.driver
        if not s.eval_episodes:
            return
        try:
            env = self.run_.make_env(min(s.eval_episodes, EVAL_ENVS))
            try:
                env.frozen = True
                driver.sync_env()
                env.transform_state = self.env.transform_state
                result = evaluate_agent(driver.learner, driver.loop.state, env, s.eval_episodes, s.seed)
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
        everything = {
            "driver": values,
            "tracker": self.tracker.snapshot(),
            "best": self.best,
            "seconds": self.seconds,
            "metrics_bytes": self.metrics.size,
            "restarts": self.restarts,
        }
        root = self.run_.folder / "checkpoints"
        save_checkpoint(root, self.driver.steps, everything, tensors)
        prune(root, KEPT_CHECKPOINTS, keep=[self.best["step"]] if self.best else [], newest=self.driver.steps)
        self._saved_at = self.driver.steps

    def _restore(self, checkpoint: Checkpoint) -> int:
        """Everything that `_save` kept; returns the bytes of `metrics.jsonl`."""
        values = checkpoint.values
        try:
            fault = self.driver.restore(checkpoint)
            self.tracker.restore(values["tracker"])
            self.best, self.seconds, self.restarts = (
                values["best"],
                values["seconds"],
                values.get("restarts", []),
            )
            if fault is not None:
                self.restarts = [*self.restarts, checkpoint.step]
                print(
                    f"warning: {fault}; new episodes were begun, and what follows differs from a run that was"
                    " never stopped",
                    file=sys.stderr,
                )
            return values["metrics_bytes"]
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"{checkpoint.path} does not fit this run: {type(error).__name__}: {error}"
            ) from error

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """The first Ctrl-C (or SIGTERM) ends the loop after the call under way; the second one ends the
        process at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(signum: int, frame: Any) -> None:
            if self._stop.is_set():
                raise KeyboardInterrupt
            self._stop.set()
            with contextlib.suppress(RuntimeError):  # the interrupted code may have been printing itself
                self.progress.say(
                    "stopping after the call under way and saving; press Ctrl-C again to stop at once"
                )

        previous = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for s, handler in previous.items():
                signal.signal(s, handler)


def reached(target_return: float | None, best: dict[str, Any] | None) -> bool:
    """Whether the best evaluation has the return at which a run may stop."""
    return target_return is not None and best is not None and best["return_mean"] >= target_return


def _recorded_engine(run: "Run", cpp: bool) -> Engine:
    """The engine that `run.json` names: another one, or other steps to log and save at, would give other
    results."""
    record = run.record
    try:
        for name in ("log_every", "checkpoint_every", "horizon"):
            if type(record[name]) is not int or record[name] < 1:
                raise ValueError(f"{name} is {record[name]!r}")
        engine = Engine(**record["engine_used"])
        if engine.mode not in ("eager", "compiled") or engine.threads < 1 or engine.updates_per_call < 1:
            raise ValueError(f"engine_used is {record['engine_used']!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{run.folder / 'run.json'} is damaged: {type(error).__name__}: {error}"
        ) from error
    if engine.mode == "compiled" and cpp and run.device.type == "cpu" and not compiler_available():
        raise UsageError(
            f"{run.folder} was compiled and needs a C++ compiler (g++ or clang++) to go on exactly"
        )
    return engine
