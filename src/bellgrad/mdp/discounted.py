"""What the solvers of discounted MDPs share: the arrays of a sweep, the bounds on the error, the record of
what was found.

One pair of bounds serves them all. Let `d(s) = (T v)(s) - v(s)` for the Bellman operator T, and let `g` be
gamma times the greatest sum of the probabilities with which a pair goes on, `f` gamma times the least. Then
for every state

    min d / (1 - x)  <=  V* - v  <=  max d / (1 - y)

with `x = f` where `min d` is positive, else `g`, and `y = g` where `max d` is positive, else `f`. Without
endings both are gamma, so that a change that is nearly the same everywhere says where V* is long before it is
small: the span test.

Source: MacQueen 1966, "A modified dynamic programming method for Markovian decision problems"; Porteus 1971,
"Some bounds for discounted sequential decision processes"; Puterman 1994, section 6.6.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numba
import numpy as np

from bellgrad.core.errors import UsageError, unknown
from bellgrad.mdp import kernels
from bellgrad.mdp.model import FiniteMDP, Floats
from bellgrad.mdp.policies import check_gamma, greedy_policy, value_from_q
from bellgrad.mdp.solution import Solution

OnSweep = Callable[[int, Floats], None]

MAX_ITERATIONS = 1_000_000
# Outcomes, a fifth of a millisecond of work; for less, waking a second thread costs what it saves.
PARALLEL_FROM = 100_000
ROUNDING = 4  # units in the last place of the greatest value: a smaller change means nothing
DTYPES = ("float64", "float32")


class Found(NamedTuple):
    """Where a method ended.

    Attributes:
        value: `[S]`.
        bound: on `max |value - V*|`, as the method knows it.
        iterations: of its outer loop.
        note: what it chose on the way, and why.
    """

    value: Floats
    bound: float
    iterations: int
    note: str = ""


@dataclass(frozen=True)
class Discounted:
    """A finite MDP, a discount, and how near an answer is wanted.

    Attributes:
        mdp: the problem.
        gamma: discount per step, in [0, 1).
        tolerance: greatest error of any state's value, above 0.
        max_iterations: of a method's outer loop, 1 or more.
        greatest: gamma times the greatest sum of the probabilities with which a pair goes on, less than 1.
        least: gamma times the least.
        arrays: what every kernel begins with.
    """

    mdp: FiniteMDP
    gamma: float
    tolerance: float
    max_iterations: int
    greatest: float
    least: float
    arrays: tuple[Any, ...]

    @classmethod
    def of(
        cls, mdp: FiniteMDP, gamma: float, tolerance: float, max_iterations: int = MAX_ITERATIONS
    ) -> "Discounted":
        """Join them.

        Raises:
            UsageError: a number out of range, or gamma so near to 1 that probabilities that sum to more than
                1 undo it.
        """
        check_gamma(gamma, below_one=True)
        if not tolerance > 0:
            raise UsageError(f"tolerance = {tolerance} must be above 0")
        if max_iterations < 1:
            raise UsageError(f"max_iterations = {max_iterations} must be 1 or more")
        continuing = mdp.continuing.view()
        continuing.flags.writeable = False  # numba compiles once for read-only arrays and once for others
        going_on = kernels.row_sum(mdp.offset, continuing)[mdp.legal.ravel()]
        greatest, least = gamma * float(going_on.max()), gamma * float(going_on.min())
        if greatest >= 1:
            raise UsageError(
                f"with gamma = {gamma} the values have no bound: the probabilities of a pair sum to"
                f" {going_on.max():.9g}; make them sum to 1"
            )
        arrays = (mdp.offset, continuing, mdp.next_state, mdp.expected_reward, float(gamma))
        return cls(mdp, gamma, tolerance, max_iterations, greatest, least, arrays)

    def start(self, initial_value: Floats | None, dtype: str) -> Floats:
        """A new array with a user's first value, or one that is nowhere above V*, so that sweeps only raise
        it.

        Raises:
            UsageError: a value of another shape, or an unknown dtype.
        """
        if dtype not in DTYPES:
            raise unknown("dtype", dtype, DTYPES)
        shape = (self.mdp.num_states,)
        if initial_value is None:
            worst = float(self.mdp.expected_reward.min())  # 0 of an illegal action does no harm
            return np.full(shape, min(0.0, worst) / (1 - self.greatest), dtype)
        if np.shape(initial_value) != shape:
            raise UsageError(f"initial_value has shape {np.shape(initial_value)}; expected {shape}")
        return np.array(initial_value, dtype)

    def bounds(self, low: float, high: float) -> tuple[float, float]:
        """Where `V* - v` is, from the least and greatest entry of `T v - v`."""
        return low / (1 - (self.least if low > 0 else self.greatest)), high / (
            1 - (self.greatest if high > 0 else self.least)
        )

    def progress(self, low: float, high: float, value: Floats, size: float) -> tuple[float, float, bool]:
        """What a sweep that changed values by `low` to `high` says about V*, rounding of values up to `size`
        included.

        Returns:
            what to add to `T v`, how far off that may be, and whether to stop: that is within the tolerance,
            or half of it is rounding. What is added is the middle between the bounds on `V* - T v`, but 0
            where some pair surely ends the episode: its value is known, and is not to be moved.
        """
        lower, upper = self.bounds(low, high)
        lower *= self.least if low > 0 else self.greatest
        upper *= self.greatest if high > 0 else self.least
        noise = ROUNDING * float(np.finfo(value.dtype).eps) * size / (1 - self.greatest)
        middle = (lower + upper) / 2 if self.least > 0 else 0.0
        width = max(upper - middle, middle - lower) + noise
        return middle, width, width <= max(self.tolerance, 2 * noise)

    def lookahead(self, value: Floats) -> Floats:
        """`q [S, A]` of a value, float64."""
        q = np.empty(self.mdp.legal.shape)
        with threads(self.mdp):
            kernels.lookahead(*self.arrays, value, q)
        return q

    def solution(self, method: str, found: Found, policy: Floats | None = None) -> Solution:
        """Measure the residual at a value, and warn where it is not within the tolerance.

        Args:
            method: the solver's name.
            found: what it found.
            policy: `[S, A]` that was evaluated; None where the best was looked for.
        """
        value, known, iterations, note = found
        q = self.lookahead(value)
        change = (q.max(axis=1) if policy is None else value_from_q(q, policy)) - value
        low, high = float(change.min()), float(change.max())
        residual, bound = max(-low, high), min(known, max(abs(end) for end in self.bounds(low, high)))
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
def threads(mdp: FiniteMDP) -> Iterator[None]:
    """One thread where the MDP is small, otherwise as many as numba has; afterwards as before."""
    before = numba.get_num_threads()
    numba.set_num_threads(before if len(mdp.probability) >= PARALLEL_FROM else 1)
    try:
        yield
    finally:
        numba.set_num_threads(before)


def show(on_sweep: OnSweep | None, iteration: int, value: Floats) -> None:
    """Give a sweep's value to whoever wants it, read-only; it is overwritten afterwards."""
    if on_sweep is not None:
        shown = value.view()
        shown.flags.writeable = False
        on_sweep(iteration, shown)


def q_sweeps(problem: Discounted, policy: Floats | None, on_sweep: OnSweep | None) -> Found:
    """Sweeps `q <- r(s, a) + gamma * E[v(s')]` with `v = max_a q`, or `v = E_a q` under a policy, until the
    bounds on v meet.

    Args:
        problem: what to solve.
        policy: `[S, A]`, or None for the best.
        on_sweep: called with the number of the sweep and `v [S]`.
    """
    value = problem.start(None, "float64")
    for iteration in range(1, problem.max_iterations + 1):
        q = problem.lookahead(value)
        after = q.max(axis=1) if policy is None else value_from_q(q, policy)
        change = after - value
        middle, width, settled = problem.progress(change.min(), change.max(), after, np.abs(after).max())
        value = after
        show(on_sweep, iteration, value)
        if settled:
            break
    return Found(value + middle, width, iteration)
