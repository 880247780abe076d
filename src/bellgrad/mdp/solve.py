"""The entry point of all solvers: `solve` chooses one or uses the one that is named, and refuses arguments
that do not fit together."""

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TextIO, cast

from bellgrad.core.errors import UsageError, unknown
from bellgrad.core.output import error_stream

if TYPE_CHECKING:  # the command line lists the table below and should not wait for numba
    from bellgrad.mdp.model import FiniteMDP, Floats
    from bellgrad.mdp.solution import Solution

CRITERIA = ("discounted", "total", "average")
DEFAULT_GAMMA = 0.99
MAX_EXACT_STATES = 1_000  # states up to which a dense linear solve takes well below 0.1 s
PROGRESS_AFTER = 1.0  # seconds


@dataclass(frozen=True)
class Solver:
    """A row of the table of solvers.

    Attributes:
        criterion: what it maximizes; `horizon` is the reward in a fixed number of steps, discounted or not.
        module: the module of `bellgrad.mdp` that has the function of the same name.
        description: in one line.
    """

    criterion: Literal["discounted", "total", "average", "horizon"]
    module: str
    description: str


SOLVERS = {
    "value_iteration": Solver(
        "discounted", "value_iteration", "Jacobi sweeps on all cores; stops by the span"
    ),
    "gauss_seidel": Solver(
        "discounted", "value_iteration", "value iteration in place, alternately forwards and backwards"
    ),
    "prioritized_sweeping": Solver(
        "discounted", "value_iteration", "backs up the state with the largest error first"
    ),
    "q_iteration": Solver("discounted", "value_iteration", "value iteration on action values"),
    "policy_iteration": Solver("discounted", "policy_iteration", "exact evaluation by sparse linear solves"),
    "modified_policy_iteration": Solver(
        "discounted", "policy_iteration", "a few sweeps evaluate each policy; for large MDPs"
    ),
    "linear_programming": Solver("discounted", "linear_programming", "HiGHS on the primal and the dual"),
    "backward_induction": Solver(
        "horizon", "finite_horizon", "the best for each number of steps to go; exact"
    ),
    "stochastic_shortest_path": Solver("total", "total", "no discount, episodes that end; value iteration"),
    "relative_value_iteration": Solver("average", "average", "gain and bias by value iteration"),
    "average_policy_iteration": Solver("average", "average", "gain and bias by sparse linear solves"),
}


def solve(
    mdp: "FiniteMDP",
    method: str = "auto",
    *,
    gamma: float | None = None,
    criterion: str | None = None,
    horizon: int | None = None,
    tolerance: float = 1e-6,
    max_iterations: int | None = None,
    dtype: str = "float64",
    on_sweep: "Callable[[int, Floats], None] | None" = None,
    progress: Literal["auto", "off"] = "auto",
) -> "Solution":
    """The optimal value and policy of an MDP.

    Args:
        mdp: the problem.
        method: one of `SOLVERS`; `auto` chooses by criterion and size, and explains it in the solution's
            `note`.
        gamma: discount per step, in [0, 1]. None is 0.99 for the discounted criterion, and 1 (no
            discount) with a horizon. 1 without a horizon means the total reward.
        criterion: `discounted`, `total` (of episodes that end) or `average` (per step, forever). None is that
            of the method, or discounted.
        horizon: number of steps; None for no limit.
        tolerance: greatest error of any state's value, or of the gain.
        max_iterations: of the method's outer loop; None is the method's default.
        dtype: of the values in sweeps, `float64` or `float32`.
        on_sweep: called after each sweep with its number and the value `[S]`, read-only and later
            overwritten.
        progress: `auto` shows a line on standard error, if it is a terminal and solving takes more than one
            second; `off` shows none.

    Returns:
        The solution. If `converged` is false, a warning has named the residual.

    Raises:
        UsageError: a name is unknown, or arguments do not fit together.
    """
    if criterion is not None and criterion not in CRITERIA:
        raise unknown("criterion", criterion, CRITERIA)
    if method != "auto" and method not in SOLVERS:
        raise unknown("solver", method, [*SOLVERS, "auto"])
    if progress not in ("auto", "off"):
        raise unknown("progress", str(progress), ("auto", "off"))
    kind, reason = _resolve_criterion(method, gamma, criterion, horizon)
    if method == "auto":
        method, pick_reason = _pick_method(mdp, kind, dtype, on_sweep is not None)
        reason = f"{method}: {reason or pick_reason}"
    solver = getattr(import_module(f"bellgrad.mdp.{SOLVERS[method].module}"), method)
    parameters = inspect.signature(solver).parameters
    options: dict[str, Any] = {"tolerance": tolerance} if "tolerance" in parameters else {}
    if kind == "discounted":
        options["gamma"] = DEFAULT_GAMMA if gamma is None else gamma
    elif kind == "horizon":
        options |= {"horizon": horizon, "gamma": 1.0 if gamma is None else gamma}
    optional = {
        "max_iterations": max_iterations,
        "dtype": None if dtype == "float64" else dtype,
        "on_sweep": on_sweep,
    }
    for name, value in optional.items():
        if value is not None:
            if name not in parameters:
                raise UsageError(f"{method} has no {name}; leave it out, or use another method")
            options[name] = value
    if progress == "auto" and "on_sweep" in parameters and error_stream().isatty():
        with _ProgressLine(method, on_sweep) as line:
            solution = solver(mdp, **options | {"on_sweep": line})
    else:
        solution = solver(mdp, **options)
    return replace(solution, note="; ".join(filter(None, (reason, solution.note))))


def _resolve_criterion(
    method: str, gamma: float | None, criterion: str | None, horizon: int | None
) -> tuple[str, str]:
    """The criterion that the solver must have, and an explanation if it follows from other arguments."""
    own = None if method == "auto" else SOLVERS[method].criterion
    if horizon is not None or own == "horizon":
        if horizon is None:
            raise UsageError(f"{method} needs a horizon, a number of steps")
        if own not in (None, "horizon"):
            raise UsageError(f"{method} has no horizon; use backward_induction")
        if criterion == "average":
            raise UsageError("criterion average has no horizon; leave out one of the two")
        if criterion == "total" and gamma not in (None, 1):
            raise UsageError(
                f"criterion total has no discount, and gamma = {gamma}; leave out one of the two"
            )
        return "horizon", "a horizon is given"
    undiscounted = gamma == 1 and criterion in (None, "discounted") and own in (None, "total")
    kind = "total" if undiscounted else criterion or own or "discounted"
    if own is not None and kind != own:
        raise UsageError(f"{method} is for the {own} reward, not for the {kind} one")
    if kind == "discounted" and gamma == 1:
        raise UsageError(
            f"{method} needs gamma below 1; without a discount use criterion total or average, or a horizon"
        )
    if kind == "average" and gamma is not None:
        raise UsageError("criterion average has no discount; leave out gamma")
    if kind == "total" and gamma not in (None, 1):
        raise UsageError(f"criterion total has no discount, and gamma = {gamma}; leave out one of the two")
    return kind, "without a discount it is the total reward" if undiscounted else ""


def _pick_method(mdp: "FiniteMDP", kind: str, dtype: str, has_callback: bool) -> tuple[str, str]:
    """A solver for a criterion, and the reason for it."""
    small = mdp.num_states <= MAX_EXACT_STATES
    if kind == "horizon":
        return "backward_induction", "a horizon is given"
    if kind == "total":
        return "stochastic_shortest_path", "the reward until the end, without a discount"
    if kind == "average":
        if small and not has_callback:
            return "average_policy_iteration", f"exact, and at most {MAX_EXACT_STATES:,} states"
        return (
            "relative_value_iteration",
            "its sweeps are shown" if small else f"more than {MAX_EXACT_STATES:,} states",
        )
    if small and dtype == "float64":
        return "policy_iteration", f"exact, and at most {MAX_EXACT_STATES:,} states"
    return (
        "modified_policy_iteration",
        f"more than {MAX_EXACT_STATES:,} states" if not small else "its sweeps can be in float32",
    )


class _ProgressLine:
    """A progress line on the terminal, shown when a solver takes more than a second."""

    def __init__(self, method: str, on_sweep: "Callable[[int, Floats], None] | None"):
        self._method, self._on_sweep = method, on_sweep
        self._began, self._last, self._status = time.perf_counter(), None, None

    def __enter__(self) -> "_ProgressLine":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._status is not None:
            self._status.stop()

    def __call__(self, iteration: int, value: "Floats") -> None:
        if self._on_sweep is not None:
            self._on_sweep(iteration, value)
        if time.perf_counter() - self._began < PROGRESS_AFTER:
            return
        if self._status is None:
            from rich.console import Console

            self._status = Console(file=cast(TextIO, error_stream())).status(self._method)
            self._status.start()
        if self._last is not None:
            self._status.update(
                f"{self._method}: iteration {iteration:,}, values change by"
                f" {abs(value - self._last).max():.3g}"
            )
        self._last = value.copy()
