"""One door to all solvers: `solve` picks one, or takes the one that is named, and refuses what does not go
together."""

import inspect
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from bellgrad.core.errors import UsageError, unknown

if TYPE_CHECKING:  # the table below is listed on the command line, which should not wait for numba
    from bellgrad.mdp.model import FiniteMDP, Floats
    from bellgrad.mdp.solution import Solution

CRITERIA = ("discounted", "total", "average")
DEFAULT_GAMMA = 0.99
SMALL = 1_000  # states, up to which a dense linear solve takes well under a tenth of a second
PROGRESS_AFTER = 1.0  # seconds


@dataclass(frozen=True)
class Solver:
    """A row of the table of solvers.

    Attributes:
        criterion: what it maximizes; `horizon` for the reward within a number of steps, discounted or not.
        module: of `bellgrad.mdp`, where it is a function of its name.
        description: in a line.
    """

    criterion: Literal["discounted", "total", "average", "horizon"]
    module: str
    description: str


SOLVERS = {
    "value_iteration": Solver(
        "discounted", "value_iteration", "Jacobi sweeps on all cores; stops by the span"
    ),
    "gauss_seidel": Solver(
        "discounted", "value_iteration", "value iteration in place, forwards and backwards by turns"
    ),
    "prioritized_sweeping": Solver(
        "discounted", "value_iteration", "backs up the state that is furthest off"
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
        method: one of `SOLVERS`; `auto` picks by criterion and size, and says so in the solution's `note`.
        gamma: discount per step, in [0, 1]. None is 0.99 for the discounted criterion, and 1, which is no
            discount, with a horizon. 1 without a horizon means the total reward.
        criterion: `discounted`, `total` (episodes that end) or `average` (a step, for ever). None is the
            method's own, or discounted.
        horizon: steps, after which all is over; None for no such limit.
        tolerance: greatest error of any state's value, or of the gain.
        max_iterations: of the method's outer loop; None is the method's default.
        dtype: of the sweeps' values, `float64` or `float32`.
        on_sweep: called after each sweep with its number and the value `[S]`, read-only and soon overwritten.
        progress: `auto` shows a line on standard error, if it is a terminal, when solving takes over a
            second; `off` never.

    Returns:
        The solution. Where `converged` is false, a warning has named the residual.

    Raises:
        UsageError: an unknown name, or choices that do not go together.
    """
    if criterion is not None and criterion not in CRITERIA:
        raise unknown("criterion", criterion, CRITERIA)
    if method != "auto" and method not in SOLVERS:
        raise unknown("solver", method, [*SOLVERS, "auto"])
    if progress not in ("auto", "off"):
        raise unknown("progress", str(progress), ("auto", "off"))
    kind, reason = _kind(method, gamma, criterion, horizon)
    if method == "auto":
        method, why = _pick(mdp, kind, dtype, on_sweep is not None)
        reason = f"{method}: {reason or why}"
    find = getattr(import_module(f"bellgrad.mdp.{SOLVERS[method].module}"), method)
    known = inspect.signature(find).parameters
    options: dict[str, Any] = {"tolerance": tolerance} if "tolerance" in known else {}
    if kind == "discounted":
        options["gamma"] = DEFAULT_GAMMA if gamma is None else gamma
    elif kind == "horizon":
        options |= {"horizon": horizon, "gamma": 1.0 if gamma is None else gamma}
    asked = {
        "max_iterations": max_iterations,
        "dtype": None if dtype == "float64" else dtype,
        "on_sweep": on_sweep,
    }
    for name, value in asked.items():
        if value is not None:
            if name not in known:
                raise UsageError(f"{method} has no {name}; leave it out, or take another method")
            options[name] = value
    if progress == "auto" and "on_sweep" in known and sys.stderr.isatty():
        with _Line(method, on_sweep) as line:
            solution = find(mdp, **options | {"on_sweep": line})
    else:
        solution = find(mdp, **options)
    return replace(solution, note="; ".join(filter(None, (reason, solution.note))))


def _kind(method: str, gamma: float | None, criterion: str | None, horizon: int | None) -> tuple[str, str]:
    """The criterion of the solvers that fit, and a word on it where it is not what was asked for
    literally."""
    own = None if method == "auto" else SOLVERS[method].criterion
    if horizon is not None or own == "horizon":
        if horizon is None:
            raise UsageError(f"{method} needs a horizon, a number of steps")
        if own not in (None, "horizon"):
            raise UsageError(f"{method} knows no horizon; backward_induction does")
        if criterion == "average":
            raise UsageError("an average over steps for ever has no horizon; leave out the one or the other")
        if criterion == "total" and gamma not in (None, 1):
            raise UsageError(
                f"criterion total has no discount, and gamma = {gamma}; leave out the one or the other"
            )
        return "horizon", "a horizon is given"
    undiscounted = gamma == 1 and criterion in (None, "discounted") and own in (None, "total")
    kind = "total" if undiscounted else criterion or own or "discounted"
    if own is not None and kind != own:
        raise UsageError(f"{method} is for the {own} reward, not for the {kind} one")
    if kind == "discounted" and gamma == 1:
        raise UsageError(
            f"{method} needs gamma below 1; without a discount take criterion total or average, or a horizon"
        )
    if kind == "average" and gamma is not None:
        raise UsageError("criterion average has no discount; leave out gamma")
    if kind == "total" and gamma not in (None, 1):
        raise UsageError(
            f"criterion total has no discount, and gamma = {gamma}; leave out the one or the other"
        )
    return kind, "without a discount it is the total reward" if undiscounted else ""


def _pick(mdp: "FiniteMDP", kind: str, dtype: str, watched: bool) -> tuple[str, str]:
    """A solver for a criterion, and why."""
    small = mdp.num_states <= SMALL
    if kind == "horizon":
        return "backward_induction", "a horizon is given"
    if kind == "total":
        return "stochastic_shortest_path", "the reward until the end, without a discount"
    if kind == "average":
        if small and not watched:
            return "average_policy_iteration", f"exact, and at most {SMALL:,} states"
        return "relative_value_iteration", "its sweeps are shown" if small else f"more than {SMALL:,} states"
    if small and dtype == "float64":
        return "policy_iteration", f"exact, and at most {SMALL:,} states"
    return (
        "modified_policy_iteration",
        f"more than {SMALL:,} states" if not small else "its sweeps can be in float32",
    )


class _Line:
    """A line on the terminal that says how far a solver is, once it has taken a while."""

    def __init__(self, method: str, on_sweep: "Callable[[int, Floats], None] | None"):
        self._method, self._on_sweep = method, on_sweep
        self._began, self._last, self._status = time.perf_counter(), None, None

    def __enter__(self) -> "_Line":
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

            self._status = Console(stderr=True).status(self._method)
            self._status.start()
        if self._last is not None:
            self._status.update(
                f"{self._method}: iteration {iteration:,}, values change by"
                f" {abs(value - self._last).max():.3g}"
            )
        self._last = value.copy()
