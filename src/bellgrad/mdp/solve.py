"""The entry point of all solvers: `solve` chooses one or uses the one that is named, and refuses arguments
that do not fit together."""

import inspect
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TextIO, cast

from bellgrad.core.errors import UsageError, unknown
from bellgrad.core.output import error_stream

if TYPE_CHECKING:  # the command line lists the table below and should not wait for numba
    from numpy.typing import ArrayLike

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
        total_too: whether it also solves the total reward, with gamma 1.
    """

    criterion: Literal["discounted", "total", "average", "horizon"]
    module: str
    description: str
    total_too: bool = False


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
    "q_iteration": Solver(
        "discounted", "value_iteration", "value iteration on action values", total_too=True
    ),
    "policy_iteration": Solver("discounted", "policy_iteration", "exact evaluation by sparse linear solves"),
    "modified_policy_iteration": Solver(
        "discounted", "policy_iteration", "a few sweeps evaluate each policy; for large MDPs"
    ),
    "linear_programming": Solver("discounted", "linear_programming", "HiGHS on the primal and the dual"),
    "backward_induction": Solver(
        "horizon", "finite_horizon", "the best for each number of steps to go; exact"
    ),
    "stochastic_shortest_path": Solver(
        "total", "total", "no discount, episodes that end; sweeps, then linear solves"
    ),
    "relative_value_iteration": Solver("average", "average", "gains and bias by value iteration"),
    "average_policy_iteration": Solver("average", "average", "gains and bias by sparse linear solves"),
}


def solve(
    mdp: "FiniteMDP | Any",
    method: str = "auto",
    *,
    gamma: float | None = None,
    criterion: str | None = None,
    horizon: int | None = None,
    tolerance: float = 1e-6,
    max_iterations: int | None = None,
    dtype: str = "float64",
    initial_value: "ArrayLike | None" = None,
    terminal_value: "ArrayLike | None" = None,
    on_sweep: "Callable[[int, Floats], None] | None" = None,
    progress: Literal["auto", "off"] = "auto",
) -> "Solution":
    """The optimal value and policy of an MDP.

    Args:
        mdp: the problem; or what `FiniteMDP.from_gymnasium` accepts, such as `"FrozenLake-v1"`; with a
            horizon also a list with one MDP per step: see `backward_induction`.
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
        initial_value: `[S]` values from which sweeps begin, as those of a similar problem; None is the
            method's default.
        terminal_value: `[S]` the value of being in a state after the last step of a horizon; None is 0.
        on_sweep: called after each sweep with its number and the value `[S]`, read-only and later
            overwritten.
        progress: `auto` shows a line on standard error, if it is a terminal and solving takes more than one
            second; `off` shows none.

    Returns:
        The solution. If `converged` is false, a warning has named the residual.

    Raises:
        UsageError: a name is unknown, or arguments do not fit together.
    """
    by_step = isinstance(mdp, (list, tuple)) and len(mdp) > 0 and hasattr(mdp[0], "num_states")
    mdp = mdp if by_step else _problem(mdp)
    if criterion is not None and criterion not in CRITERIA:
        raise unknown("criterion", str(criterion), CRITERIA)
    if method not in ("auto", *SOLVERS):
        raise unknown("solver", str(method), [*SOLVERS, "auto"])
    from bellgrad.mdp.checks import check_dtype, check_gamma, check_stop, count  # not before it is needed

    dtype, gamma = check_dtype(dtype), None if gamma is None else check_gamma(gamma)
    horizon = None if horizon is None else count("horizon", horizon)
    check_stop(tolerance, 1 if max_iterations is None else max_iterations)
    if on_sweep is not None and not callable(on_sweep):
        raise UsageError(f"on_sweep = {on_sweep!r} must be a function of the sweep's number and the values")
    if progress not in ("auto", "off"):
        raise unknown("progress", str(progress), ("auto", "off"))
    kind, reason = _resolve_criterion(method, gamma, criterion, horizon)
    if by_step and kind != "horizon":
        raise UsageError("one MDP per step needs a horizon, the number of steps")
    if method == "auto":
        method, pick_reason = _pick_method(mdp, kind, dtype, on_sweep is not None, initial_value is not None)
        reason = f"{method}: {reason or pick_reason}"
    from bellgrad.core.machine_code import numba_threads  # imported by the solver anyway, and slow

    solver = numba_threads(None)(_function(method))
    parameters = _parameters(method)
    options: dict[str, Any] = {"tolerance": tolerance} if "tolerance" in parameters else {}
    if kind == "discounted":
        options["gamma"] = DEFAULT_GAMMA if gamma is None else gamma
    elif kind == "total" and "gamma" in parameters:
        options["gamma"] = 1.0
    elif kind == "horizon":
        options |= {"horizon": horizon, "gamma": 1.0 if gamma is None else gamma}
    optional = {
        "max_iterations": max_iterations,
        "dtype": None if dtype == "float64" else dtype,
        "initial_value": initial_value,
        "terminal_value": terminal_value,
        "on_sweep": on_sweep,
    }
    for name, value in optional.items():
        if value is not None:
            if name not in parameters:
                having = [other for other in _methods(kind) if name in _parameters(other)]
                instead = f", or use {' or '.join(having)}" if having else ""
                if name == "terminal_value":
                    instead = ", or give a horizon, the number of steps after which it counts"
                raise UsageError(f"{method} has no {name}; leave it out{instead}")
            options[name] = value
    if progress == "auto" and "on_sweep" in parameters and error_stream().isatty():
        with _ProgressLine(method, on_sweep) as line:
            solution = solver(mdp, **options | {"on_sweep": line})
    else:
        solution = solver(mdp, **options)
    return replace(solution, note="; ".join(filter(None, (reason, solution.note))))


def _function(method: str) -> "Callable[..., Solution]":
    return getattr(import_module(f"bellgrad.mdp.{SOLVERS[method].module}"), method)


def _parameters(method: str) -> "Mapping[str, inspect.Parameter]":
    return inspect.signature(_function(method)).parameters


def _methods(kind: str) -> list[str]:
    return [name for name, solver in SOLVERS.items() if solver.criterion == kind]


def _problem(given: Any) -> "FiniteMDP":
    """An MDP as it is, and an environment's dynamics."""
    from bellgrad.mdp.model import FiniteMDP  # not before it is needed

    if isinstance(given, FiniteMDP):
        return given
    gymnasium = sys.modules.get("gymnasium")
    if (
        isinstance(given, str)
        or (gymnasium is not None and isinstance(given, gymnasium.Env))
        or callable(given)
    ):
        return FiniteMDP.from_gymnasium(given)
    raise UsageError(
        f"mdp must be a FiniteMDP, or an environment or its name; got a {type(given).__name__}: make one with"
        " FiniteMDP.from_arrays(transition, reward) or another of its builders"
    )


def _resolve_criterion(
    method: str, gamma: float | None, criterion: str | None, horizon: int | None
) -> tuple[str, str]:
    """The criterion that the solver must have, and an explanation if it follows from other arguments."""
    own: str | None = None if method == "auto" else SOLVERS[method].criterion
    if own is not None and SOLVERS[method].total_too and (criterion == "total" or gamma == 1):
        own = "total"
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


def _pick_method(
    mdp: "FiniteMDP", kind: str, dtype: str, has_callback: bool, has_start: bool
) -> tuple[str, str]:
    """A solver for a criterion, and the reason for it."""
    if kind == "horizon":
        return "backward_induction", "a horizon is given"
    small = mdp.num_states <= MAX_EXACT_STATES
    if kind == "total":
        return "stochastic_shortest_path", "the reward until the end, without a discount"
    if kind == "average":
        if small and not has_callback:
            return "average_policy_iteration", f"exact, and at most {MAX_EXACT_STATES:,} states"
        return (
            "relative_value_iteration",
            "its sweeps are shown" if small else f"more than {MAX_EXACT_STATES:,} states",
        )
    if small and dtype == "float64" and not has_start:
        return "policy_iteration", f"exact, and at most {MAX_EXACT_STATES:,} states"
    return (
        "modified_policy_iteration",
        f"more than {MAX_EXACT_STATES:,} states"
        if not small
        else "its sweeps can begin with given values"
        if has_start
        else "its sweeps can be in float32",
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
