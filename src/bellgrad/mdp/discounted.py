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

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bellgrad.core.errors import UsageError
from bellgrad.mdp import kernels
from bellgrad.mdp.checks import array, check_dtype, check_gamma, check_stop
from bellgrad.mdp.kernels import limited_threads
from bellgrad.mdp.model import FiniteMDP, Floats, check_mdp
from bellgrad.mdp.policies import EPSILON, ROUNDING, best_actions, equal_chances, value_from_q
from bellgrad.mdp.solution import Solution

OnSweep = Callable[[int, Floats], None]

MAX_ITERATIONS = 1_000_000
LARGEST = {"float64": 1e300, "float32": 1e36}  # of a value


class MethodResult(NamedTuple):
    """The result of a method.

    Attributes:
        value: `[S]`.
        bound: on `max |value - V*|`, from the method itself.
        iterations: of its outer loop.
        note: what it chose during the iterations, and why.
        error: `[S]` the error of each state's value, apart from policies that may be better; None if only
            `bound` is known.
    """

    value: Floats
    bound: float
    iterations: int
    note: str = ""
    error: Floats | None = None


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
        max_reward: greatest absolute expected reward of a pair.
        arrays: the first arguments of every kernel.
    """

    mdp: FiniteMDP
    gamma: float
    tolerance: float
    max_iterations: int
    max_factor: float
    min_factor: float
    max_reward: float
    arrays: tuple[Any, ...]

    @classmethod
    def of(
        cls, mdp: FiniteMDP, gamma: float, tolerance: float, max_iterations: int = MAX_ITERATIONS
    ) -> "DiscountedProblem":
        """Check the arguments and prepare the arrays.

        Raises:
            UsageError: a number is out of range, or gamma is so near to 1 that it does not make up for
                probabilities that sum to more than 1, or the rewards are too large for float64.
        """
        mdp, gamma = check_mdp(mdp), check_gamma(gamma, below_one=True)
        tolerance, max_iterations = check_stop(tolerance, max_iterations)
        continuing = mdp.continuing
        continuing_sum = kernels.row_sum(mdp.offset, continuing)[mdp.legal.ravel()]
        max_factor, min_factor = gamma * float(continuing_sum.max()), gamma * float(continuing_sum.min())
        if max_factor >= 1:
            raise UsageError(
                f"with gamma = {gamma} the values are unbounded: the probabilities of a pair sum to"
                f" {continuing_sum.max():.9g}; make them sum to 1"
            )
        reward = mdp.expected_reward
        max_reward = max(-float(reward.min()), float(reward.max()))
        _check_size("an expected reward", max_reward, max_factor)
        arrays = (mdp.offset, continuing, mdp.next_state, reward, gamma)
        return cls(mdp, gamma, tolerance, max_iterations, max_factor, min_factor, max_reward, arrays)

    def start(self, initial_value: Floats | None, dtype: str) -> Floats:
        """A new array with the user's initial value, or with one that is at most V* in every state, so that
        sweeps only raise it.

        Raises:
            UsageError: the value has another shape or is not finite, or the dtype is unknown.
        """
        dtype = check_dtype(dtype)
        shape = (self.mdp.num_states,)
        _check_size("an expected reward", self.max_reward, self.max_factor, dtype)
        if initial_value is None:
            worst = kernels.least_best(self.mdp.offset, self.mdp.expected_reward)
            return np.full(shape, min(0.0, worst) / (1 - self.max_factor), dtype)
        value = array("initial_value", initial_value, shape)
        _check_size("initial_value", float(np.abs(value).max()), self.max_factor, dtype)
        return np.array(value, dtype)

    def bounds(self, low: float, high: float) -> tuple[float, float]:
        """Bounds on `V* - v`, from the least and greatest entry of `T v - v`."""
        return low / (1 - (self.min_factor if low > 0 else self.max_factor)), high / (
            1 - (self.max_factor if high > 0 else self.min_factor)
        )

    def rounding(self, size: Floats | float, dtype: Any) -> Any:
        """The error of values that are computed, again and again, from terms of this size."""
        return ROUNDING * float(np.finfo(dtype).eps) * size / (1 - self.max_factor)

    def term_size(self, value: Floats, chosen: Floats) -> Floats:
        """`|r| + gamma * E|v(s')|` of each state's chosen action `[S]`, or on average under a policy `[S,
        A]`."""
        size = np.empty(self.mdp.legal.shape)
        offset, continuing, next_state, reward, gamma = self.arrays
        with limited_threads(self.mdp):
            kernels.lookahead(
                offset, continuing, next_state, np.abs(reward), gamma, np.abs(value, dtype=float), size
            )
        if chosen.ndim == 1:
            return np.take_along_axis(size, chosen[:, None], axis=1)[:, 0]
        return value_from_q(size, chosen)

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
        value, method_bound, iterations, note, error = result
        q = self.lookahead(value)
        change = (q.max(axis=1) if policy is None else value_from_q(q, policy)) - value
        low, high = float(change.min()), float(change.max())
        noise = EPSILON * float(np.abs(value).max()) / (1 - self.max_factor)
        residual = max(-low, high)
        bound = min(method_bound, max(abs(end) for end in self.bounds(low, high)) + noise)
        if policy is None:
            if error is None:
                error = bound
                if bound > self.tolerance:
                    local = self.rounding(self.term_size(value, q.argmax(axis=1)), value.dtype)
                    error = np.minimum(bound, np.maximum(self.tolerance, local))
            policy = equal_chances(best_actions(self.mdp, q, value, self.gamma, error))
        converged = bound <= self.tolerance
        rounded = bound <= 4 * self.rounding(float(np.abs(value).max()), value.dtype)
        if not converged:
            warnings.warn(
                f"{method} stopped after {iterations} iterations with the residual at {residual:.3g}: "
                f"values may be off by {bound:.3g}, more than the tolerance of {self.tolerance:.3g}"
                + (f", since {value.dtype} cannot do better for values of this size" if rounded else ""),
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


class Stop:
    """When sweeps stop: the error bound is within the tolerance, or rounding hides what is left in every
    state.

    The bound is one for all states, and so it contains the rounding of the greatest value. If that alone
    exceeds the tolerance, each state is compared with the rounding of its own terms instead, since the
    greatest values may be those of a bad start, or of states that most others never lead to. After as many
    sweeps as make any error smaller than the tolerance, only rounding can be left.
    """

    def __init__(self, problem: DiscountedProblem):
        self._problem = problem
        self._left: float | None = None

    @property
    def near(self) -> bool:
        """Whether the next call needs the values before the sweep."""
        return self._left is not None

    def __call__(
        self,
        low: float,
        high: float,
        value: Floats,
        before: Floats | None,
        size: float,
        chosen: Callable[[], Floats],
    ) -> tuple[float, float, bool]:
        """What a sweep that changed the values by `low` to `high` says about V*.

        Args:
            low: least change.
            high: greatest change.
            value: `[S]` after the sweep.
            before: `[S]` before it; it may be None unless `near`.
            size: greatest absolute value.
            chosen: gives the actions `[S]`, or the policy `[S, A]`, of the sweep.

        Returns:
            what to add to the values, the error bound after that, and whether to stop. What is added is the
            middle between the bounds on `V* - T v`; but 0 if some pair surely ends the episode, since its
            value is already exact.
        """
        problem = self._problem
        lower, upper = problem.bounds(low, high)
        lower *= problem.min_factor if low > 0 else problem.max_factor
        upper *= problem.max_factor if high > 0 else problem.min_factor
        noise = problem.rounding(size, value.dtype)
        middle = (lower + upper) / 2 if problem.min_factor > 0 else 0.0
        width = max(upper - middle, middle - lower) + noise
        if width <= problem.tolerance or width > 2 * noise:
            self._left = None
            return middle, width, width <= problem.tolerance
        if abs(middle) <= noise:
            middle, width = 0.0, max(upper, -lower) + noise
        if self._left is None:
            self._left = math.log(width / problem.tolerance) / -math.log(max(problem.max_factor, 1e-300))
        self._left -= 1
        if self._left < 0:
            return middle, width, True
        if before is None:
            return middle, width, False
        factor = problem.max_factor / (1 - problem.max_factor)
        left = np.abs((value - before.astype(float)) * factor - middle)
        left += problem.rounding(np.abs(value, dtype=float), value.dtype)
        own = problem.rounding(problem.term_size(value + middle, chosen()), value.dtype)
        return middle, width, bool((left <= np.maximum(problem.tolerance, 4 * own)).all())


def _check_size(name: str, size: float, factor: float, dtype: str = "float64") -> None:
    """Refuse numbers whose discounted sums, and the rounding of these, would overflow."""
    if not size / (1 - factor) ** 2 < LARGEST[dtype]:
        raise UsageError(f"{name} reaches {size:.3g}, too large for values in {dtype}; use a larger unit")


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
    value, stop = problem.start(None, "float64"), Stop(problem)
    for iteration in range(1, problem.max_iterations + 1):
        q = problem.lookahead(value)
        before, value = value, q.max(axis=1) if policy is None else value_from_q(q, policy)
        change, size = value - before, float(np.abs(value).max())
        low, high = float(change.min()), float(change.max())
        middle, width, settled = stop(
            low, high, value, before, size, lambda q=q: q.argmax(axis=1) if policy is None else policy
        )
        if settled or stop.near or iteration == problem.max_iterations:
            value += middle
        report_sweep(on_sweep, iteration, value)
        if settled:
            break
    return MethodResult(value, width, iteration)
