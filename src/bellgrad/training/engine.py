"""The engine: how pure functions are run. Eager, or compiled whole; on how many threads; how many updates per
call."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from bellgrad.core.errors import CompilationError, UsageError
from bellgrad.core.forks import SPAWN, lost_threads
from bellgrad.core.processors import processors
from bellgrad.graphs.compiler import compiler_available, compiler_fault
from bellgrad.training.compilation import Compilation

# A cold compile costs about as much as this many eager updates of a small network.
COMPILE_FROM_UPDATES = 20_000
# The part of a run's updates, one in so many, that is eager while the compiler works; and the most of them,
# which take about as long as a cold compile.
EAGER_PART = 50
MOST_EAGER_UPDATES = 20_000
# Parameters times batch size from which a second thread pays for its synchronization.
THREADS_FROM_WORK = 8_000_000
# Of a run of ordinary length: a bigger graph takes tens of MiB more to compile, and longer to load.
UPDATES_PER_CALL = 2
# From here 10 to 25 % more updates per second (of DQN and SAC) are worth more than that.
LONG_RUN_UPDATES = 400_000
LONG_RUN_UPDATES_PER_CALL = 4  # more gains little


@dataclass(frozen=True)
class Engine:
    """What was chosen for a run; recorded in `run.json` and kept when the run is resumed.

    Attributes:
        mode: `eager` or `compiled`.
        threads: of torch's arithmetic.
        updates_per_call: gradient updates unrolled into one compiled call.
        reason: one line for the user.
        compiled_from: if compiled, environment steps after which it is; until then the run is eager, while
            the compiler works beside it. It depends on the plan only, so that the same command gives the same
            numbers.
        fault: why it is eager, if it would be compiled on another machine; not recorded.
        on_fault: called once if a function cannot be compiled. If it returns, this and every later function
            is run eagerly; if there is none, the `CompilationError` is raised. Not recorded.
        compilation: the functions that were compiled, and whether they run as such.
    """

    mode: Literal["eager", "compiled"]
    threads: int
    updates_per_call: int
    reason: str
    compiled_from: int = 0
    fault: CompilationError | None = field(default=None, compare=False, repr=False)
    on_fault: Callable[[CompilationError], None] | None = field(default=None, compare=False, repr=False)
    compilation: Compilation = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "compilation", Compilation(self.threads, self.on_fault))

    def to_json(self) -> dict[str, Any]:
        """A JSON-able record."""
        names = ("mode", "threads", "updates_per_call", "reason", "compiled_from")
        return {name: getattr(self, name) for name in names}

    def start(self) -> None:
        """Apply the thread count to this process. Compiled code has the count built in, so this comes before
        `compile`.

        Raises:
            UsageError: there are several threads, and this process was forked and cannot have them.
        """
        if self.threads > 1 and lost_threads():
            raise UsageError(
                f"this run computes on {self.threads} threads, which a forked process cannot start again;"
                f" {SPAWN}"
            )
        torch.set_num_threads(self.threads)

    def compile(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """`fn`, without autograd recording, eager or compiled. Shapes must be the same at every call.

        It is captured when it is first called. If it cannot be compiled, nothing has been changed: see
        `on_fault`.

        Raises:
            CompilationError: by the function that is returned.
        """
        if self.mode == "eager":
            return torch.no_grad()(fn)
        return self.compilation.function(fn)

    def reached(self, steps: int) -> None:
        """Before a call of a driver: the run has taken so many environment steps."""
        self.compilation.native = steps >= self.compiled_from


def choose_engine(
    requested: Literal["auto", "eager", "compiled"],
    *,
    planned_updates: int,
    planned_steps: int,
    begins: int = 0,
    batch_size: int,
    parameters: int,
    busy_processes: int,
    device: torch.device,
    unit: str = "updates",
) -> Engine:
    """The engine for a run, by fixed rules on sizes, so that a run is reproducible.

    Args:
        requested: what the user asked for.
        planned_updates: gradient updates in the whole run.
        planned_steps: environment steps in the whole run.
        begins: those before the first update.
        batch_size: items in one update.
        parameters: numbers in the learner's networks.
        busy_processes: other processes that will keep a core busy: environment workers.
        device: of the tensors.
        unit: of what is planned, if it is not gradient updates.

    Raises:
        UsageError: `compiled` was asked for and there is no C++ compiler that works.
    """
    threads = max(1, processors() - busy_processes) if batch_size * parameters >= THREADS_FROM_WORK else 1
    per_call = LONG_RUN_UPDATES_PER_CALL if planned_updates >= LONG_RUN_UPDATES else UPDATES_PER_CALL
    if requested == "eager":
        return Engine("eager", threads, per_call, "eager, as asked")
    wanted = requested == "compiled" or planned_updates >= COMPILE_FROM_UPDATES
    fault = None if not wanted or compiler_available() else compiler_fault()
    if requested == "compiled":
        if fault is not None:
            raise UsageError(
                f"--engine compiled needs a C++ compiler (g++ or clang++), or use --engine eager; {fault}"
            )
        return Engine("compiled", threads, per_call, "compiled, as asked")
    if fault is not None:
        return Engine("eager", threads, per_call, f"eager: {fault}", fault=fault)
    mode: Literal["eager", "compiled"] = "compiled" if wanted else "eager"
    relation = "at least" if wanted else "fewer than"
    reason = f"{mode}: {planned_updates:,} {unit} planned, {relation} {COMPILE_FROM_UPDATES:,}"
    eager_updates = min(planned_updates // EAGER_PART, MOST_EAGER_UPDATES)
    eager_steps = (planned_steps - begins) * eager_updates // max(1, planned_updates)
    return Engine(mode, threads, per_call, reason, begins + eager_steps if wanted else 0)
