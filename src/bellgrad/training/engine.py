"""The engine: how pure functions are run. Eager, or compiled whole; on how many threads; how many updates per
call."""

import functools
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import FunctionType, MethodType
from typing import Any, Literal

import torch

from bellgrad.core.errors import UsageError
from bellgrad.core.processors import processors

# A cold compile costs about as much as this many eager updates of a small network.
COMPILE_FROM_UPDATES = 20_000
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
    """

    mode: Literal["eager", "compiled"]
    threads: int
    updates_per_call: int
    reason: str

    def to_json(self) -> dict[str, Any]:
        """A JSON-able record."""
        return asdict(self)

    def start(self) -> None:
        """Apply the thread count to this process. Compiled code has the count built in, so this comes before
        `compile`."""
        torch.set_num_threads(self.threads)

    def compile(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """`fn`, without autograd recording, eager or compiled. Shapes must be the same at every call.

        Compiled functions skip Dynamo's guards, which take a tenth of a small update. That is sound because
        each is compiled from its own code object (Dynamo caches by code object) and its callers never
        change a shape.
        """
        if self.mode == "eager":
            return torch.no_grad()(fn)
        compiled = torch.compile(_own_code(fn), fullgraph=True, dynamic=False, options=_compile_options())

        @functools.wraps(fn)
        def call(*args: Any) -> Any:
            with torch.no_grad():
                return compiled(*args)

        return call


def _compile_options() -> dict[str, Any]:
    return {"cpp_wrapper": True, "guard_filter_fn": torch.compiler.skip_all_guards_unsafe}


def _own_code(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function with a private copy of its code object, so that no other function shares its compiled
    graph."""
    target = getattr(fn, "__func__", fn)
    copy = FunctionType(
        target.__code__.replace(),
        target.__globals__,
        target.__name__,
        target.__defaults__,
        target.__closure__,
    )
    return MethodType(copy, fn.__self__) if hasattr(fn, "__self__") else copy


def compiler_available() -> bool:
    """Whether a C++ compiler is on the path; without one every run is eager."""
    return any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "g++", "clang++"))


def choose_engine(
    requested: Literal["auto", "eager", "compiled"],
    *,
    planned_updates: int,
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
        batch_size: items in one update.
        parameters: numbers in the learner's networks.
        busy_processes: other processes that will keep a core busy: environment workers.
        device: of the tensors.
        unit: of what is planned, if it is not gradient updates.

    Raises:
        UsageError: `compiled` was asked for and there is no C++ compiler.
    """
    threads = max(1, processors() - busy_processes) if batch_size * parameters >= THREADS_FROM_WORK else 1
    per_call = LONG_RUN_UPDATES_PER_CALL if planned_updates >= LONG_RUN_UPDATES else UPDATES_PER_CALL
    if requested == "compiled" and not compiler_available():
        raise UsageError(
            "--engine compiled needs a C++ compiler (g++ or clang++); install one or use --engine eager"
        )
    if requested != "auto":
        return Engine(requested, threads, per_call, f"{requested}, as asked")
    if device.type == "cpu" and not compiler_available():
        return Engine("eager", threads, per_call, "eager: no C++ compiler was found (see bellgrad doctor)")
    mode: Literal["eager", "compiled"] = "compiled" if planned_updates >= COMPILE_FROM_UPDATES else "eager"
    relation = "at least" if mode == "compiled" else "fewer than"
    reason = f"{mode}: {planned_updates:,} {unit} planned, {relation} {COMPILE_FROM_UPDATES:,}"
    return Engine(mode, threads, per_call, reason)
