"""What the solvers of discounted MDPs share: the arrays of a sweep, the bounds on the error, the solution.

They all use the same bounds. Let `d(s) = (T v)(s) - v(s)` for the Bellman operator T. Let `g` be gamma times
the greatest probability with which the episode continues after a pair, and `f` gamma times the least. Then
for every state

    min d / (1 - x)  <=  V* - v  <=  max d / (1 - y)

with `x = f` if `min d` is positive, otherwise `g`, and `y = g` if `max d` is positive, otherwise `f`. If no
episode ends, both are gamma. Then a change that is nearly the same in all states determines V* long before it
is small: the span test.

Source: MacQueen 1966, "A modified dynamic programming method for Markovian decision problems"; Porteus 1971,
"Some bounds for discounted sequential decision processes"; Puterman 1994, section 6.6.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bellgrad.core.errors import UsageError, unknown
from bellgrad.core.machine_code import numba_threads
from bellgrad.mdp import kernels
from bellgrad.mdp.model import FiniteMDP, Floats
from bellgrad.mdp.policies import check_gamma, greedy_policy, value_from_q
from bellgrad.mdp.solution import Solution

OnSweep = Callable[[int, Floats], None]

MAX_ITERATIONS = 1_000_000
# Outcomes: about 0.2 ms of work. For less, a second thread costs as much time as it saves.
MIN_PARALLEL_OUTCOMES = 100_000
ROUNDING = 4  # units in the last place of the greatest value; smaller changes are rounding
DTYPES = ("float64", "float32")


class MethodResult(NamedTuple):
    """The result of a method.

    Attributes:
        value: `[S]`.
        bound: on `max |value - V*|`, from the method itself.
        iterations: of its outer loop.
        note: what it chose during the iterations, and why.
    """

    value: Floats
    bound: float
    iterations: int
    note: str = ""


@dataclass(frozen=True)
class DiscountedProblem:
    """A finite MDP, a discount, and the accuracy that is wanted.

    Attributes:
        mdp: the problem.
        gamma: discount per step, in [0, 1).
        tolerance: greatest error of any state's value, above 0.
        max_iterations: of a method's outer loop, 1 or more.
        max_factor: gamma times the greatest probability with which the episode continues after a pair, below
            1.
        min_factor: gamma times the least such probability.
        arrays: the first arguments of every kernel.
    """

    mdp: FiniteMDP
    gamma: float
    tolerance: float
    max_iterations: int
    max_factor: float
    min_factor: float
    arrays: tuple[Any, ...]

    @classmethod
    def of(
        cls, mdp: FiniteMDP, gamma: float, tolerance: float, max_iterations: int = MAX_ITERATIONS
    ) -> "DiscountedProblem":
        """Check the arguments and prepare the arrays.

        Raises:
            UsageError: a number is out of range, or gamma is so near to 1 that it does not make up for
                probabilities that sum to more than 1.
        """
        check_gamma(gamma, below_one=True)
        if not tolerance > 0:
            raise UsageError(f"tolerance = {tolerance} must be above 0")
        if max_iterations < 1:
            raise UsageError(f"max_iterations = {max_iterations} must be 1 or more")
        continuing = mdp.continuing.view()
        continuing.flags.writeable = False  # numba compiles once for read-only arrays and once for others
        continuing_sum = kernels.row_sum(mdp.offset, continuing)[mdp.legal.ravel()]
        max_factor, min_factor = gamma * float(continuing_sum.max()), gamma * float(continuing_sum.min())
        if max_factor >= 1:
            raise UsageError(
                f"with gamma = {gamma} the values are unbounded: the probabilities of a pair sum to"
                f" {continuing_sum.max():.9g}; make them sum to 1"
            )
        arrays = (mdp.offset, continuing, mdp.next_state, mdp.expected_reward, float(gamma))
        return cls(mdp, gamma, tolerance, max_iterations, max_factor, min_factor, arrays)

    def start(self, initial_value: Floats | None, dtype: str) -> Floats:
        """A new array with the user's initial value, or with one that is at most V* in every state, so that
        sweeps only raise it.

        Raises:
            UsageError: the value has another shape, or the dtype is unknown.
        """
        if dtype not in DTYPES:
            raise unknown("dtype", dtype, DTYPES)
        shape = (self.mdp.num_states,)
        if initial_value is None:
            worst = float(self.mdp.expected_reward.min())  # the 0 of an illegal action changes nothing
            return np.full(shape, min(0.0, worst) / (1 - self.max_factor), dtype)
        if np.shape(initial_value) != shape:
            raise UsageError(f"initial_value has shape {np.shape(initial_value)}; expected {shape}")
        return np.array(initial_value, dtype)

    def bounds(self, low: float, high: float) -> tuple[float, float]:
        """Bounds on `V* - v`, from the least and greatest entry of `T v - v`."""
        return low / (1 - (self.min_factor if low > 0 else self.max_factor)), high / (
            1 - (self.max_factor if high > 0 else self.min_factor)
        )

    def progress(self, low: float, high: float, value: Floats, size: float) -> tuple[float, float, bool]:
        """What a sweep that changed the values by `low` to `high` says about V*, including the rounding of
        values up to `size`.

        Returns:
            what to add to `T v`, the error bound after that, and whether to stop: if the bound is within the
            tolerance, or half of it is rounding. What is added is the middle between the bounds on `V* - T
            v`; but 0 if some pair surely ends the episode, since its value is already exact.
        """
        lower, upper = self.bounds(low, high)
        lower *= self.min_factor if low > 0 else self.max_factor
        upper *= self.max_factor if high > 0 else self.min_factor
        noise = ROUNDING * float(np.finfo(value.dtype).eps) * size / (1 - self.max_factor)
        middle = (lower + upper) / 2 if self.min_factor > 0 else 0.0
        width = max(upper - middle, middle - lower) + noise
        return middle, width, width <= max(self.tolerance, 2 * noise)

    def lookahead(self, value: Floats) -> Floats:
        """`q [S, A]` float64, from a value `[S]`."""
        q = np.empty(self.mdp.legal.shape)
        with limited_threads(self.mdp):
            kernels.lookahead(*self.arrays, value, q)
        return q

    def solution(self, method: str, result: MethodResult, policy: Floats | None = None) -> Solution:
        """The solution with its measured residual; warns if the error bound is above the tolerance.

        Args:
            method: the solver's name.
            result: of the solver.
            policy: `[S, A]` the policy that was evaluated; None for the optimal value.
        """
        value, method_bound, iterations, note = result
        q = self.lookahead(value)
        change = (q.max(axis=1) if policy is None else value_from_q(q, policy)) - value
        low, high = float(change.min()), float(change.max())
        residual, bound = max(-low, high), min(method_bound, max(abs(end) for end in self.bounds(low, high)))
        if policy is None:
            policy = greedy_policy(q, min(2 * self.gamma * bound, self.tolerance))
        converged = bound <= self.tolerance
        if not converged:
            warnings.warn(
                f"{method} stopped after {iterations} iterations with the residual at {residual:.3g}: "
                f"values may be off by {bound:.3g}, more than the tolerance of {self.tolerance:.3g}",
                RuntimeWarning,
                stacklevel=3,
            )
        return Solution(
            value,
            q,
            policy,
            method,
            "discounted",
            self.gamma,
            iterations,
            residual,
            bound,
            converged,
            note=note,
        )


@contextmanager
def limited_threads(mdp: FiniteMDP) -> Iterator[None]:
    """One numba thread if the MDP is small, otherwise all; afterwards as before."""
    with numba_threads(None if len(mdp.probability) >= MIN_PARALLEL_OUTCOMES else 1):
        yield


def report_sweep(on_sweep: OnSweep | None, iteration: int, value: Floats) -> None:
    """Call `on_sweep`, if given, with a read-only view of the value, which later sweeps overwrite."""
    if on_sweep is not None:
        shown = value.view()
        shown.flags.writeable = False
        on_sweep(iteration, shown)


def q_sweeps(problem: DiscountedProblem, policy: Floats | None, on_sweep: OnSweep | None) -> MethodResult:
    """Sweeps `q <- r(s, a) + gamma * E[v(s')]` with `v = max_a q`, or `v = E_a q` under a policy, until the
    bounds on v are within the tolerance.

    Args:
        problem: what to solve.
        policy: `[S, A]`, or None for the optimal values.
        on_sweep: called with the number of the sweep and `v [S]`.
    """
    value = problem.start(None, "float64")
    for iteration in range(1, problem.max_iterations + 1):
        q = problem.lookahead(value)
        after = q.max(axis=1) if policy is None else value_from_q(q, policy)
        change = after - value
        middle, width, settled = problem.progress(change.min(), change.max(), after, np.abs(after).max())
        value = after
        report_sweep(on_sweep, iteration, value)
        if settled:
            break
    return MethodResult(value + middle, width, iteration)
