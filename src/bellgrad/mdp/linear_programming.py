"""Discounted MDPs as a linear program, and its dual.

    primal   min  sum_s v(s) / S        with  v(s) - gamma * E[v(s')] >= r(s, a)  for every legal pair
    dual     max  sum_sa x(s, a) r(s, a)  with  sum_a x(s', a) - gamma * sum_sa x(s, a) p(s' | s, a) = 1 / S
                                          and   x >= 0

The solution of the primal is V*. That of the dual is the discounted number of visits of the optimal policy to
each pair, from a uniform start.

Source: Puterman 1994, section 6.9.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from bellgrad.core.errors import BellgradError
from bellgrad.mdp.checks import check_gamma
from bellgrad.mdp.discounted import DiscountedProblem
from bellgrad.mdp.model import FiniteMDP, Floats, check_mdp
from bellgrad.mdp.policy_iteration import improve
from bellgrad.mdp.solution import Solution

FEASIBILITY_TOLERANCE = 1e-10  # the smallest that HiGHS accepts


class LinearProgram(NamedTuple):
    """The solutions of primal and dual.

    Attributes:
        value: `[S]` of the primal, V*.
        occupancy: `[S, A]` of the dual, 0 if the action is illegal; it sums to `1 / (1 - gamma)` if no
            episode ends.
        iterations: of HiGHS.
    """

    value: Floats
    occupancy: Floats
    iterations: int


def solve_linear_program(mdp: FiniteMDP, gamma: float) -> LinearProgram:
    """Solve primal and dual with HiGHS on sparse matrices.

    Args:
        mdp: the problem.
        gamma: discount per step, in [0, 1).

    Raises:
        UsageError: gamma is out of range.
        BellgradError: HiGHS failed, although there always is a solution.
    """
    mdp, gamma = check_mdp(mdp), check_gamma(gamma, below_one=True)
    states, actions = mdp.legal.shape
    legal = np.flatnonzero(mdp.legal)
    # powers of two change no digit; HiGHS's tolerances are absolute
    unit = np.ldexp(1.0, np.frexp(np.abs(mdp.expected_reward).max())[1] - 1)
    here = sparse.csr_array(
        (np.ones(len(legal)), (np.arange(len(legal)), legal // actions)), shape=(len(legal), states)
    )
    result = linprog(
        c=np.full(states, 1 / states),
        A_ub=gamma * mdp.transition[legal] - here,
        b_ub=-mdp.expected_reward.ravel()[legal] / unit,
        bounds=(None, None),
        method="highs",
        options={
            "primal_feasibility_tolerance": FEASIBILITY_TOLERANCE,
            "dual_feasibility_tolerance": FEASIBILITY_TOLERANCE,
        },
    )
    if result.x is None:
        raise BellgradError(f"linear programming failed: {result.message}")
    occupancy = np.zeros(states * actions)
    occupancy[legal] = -result.ineqlin.marginals
    return LinearProgram(result.x * unit, occupancy.reshape(states, actions), result.nit)


def linear_programming(mdp: FiniteMDP, gamma: float, *, tolerance: float = 1e-6) -> Solution:
    """V* by linear programming, and the exact value of its policy. The error bound follows from the residual,
    by the bounds of `bellgrad.mdp.discounted`.

    Stops when HiGHS reports a solution; meant for up to some ten thousand states. Its accuracy is 1e-10 of
    the greatest reward, which is not enough for every tolerance. So its policy is evaluated by a linear
    solve, and improved if an action is better, as in policy iteration.

    Args:
        mdp: the problem.
        gamma: discount per step, in [0, 1).
        tolerance: greatest error of any state's value; only for `converged`, since the result is exact except
            for rounding.

    Raises:
        UsageError: gamma is out of range.
    """
    problem, program = DiscountedProblem.of(mdp, gamma, tolerance), solve_linear_program(mdp, gamma)
    best = np.where(mdp.legal, program.occupancy, -np.inf).argmax(axis=1)
    exact = improve(problem, best)
    note = f"HiGHS's policy was improved {exact.iterations - 1} times" if exact.iterations > 1 else ""
    return problem.solution("linear_programming", exact._replace(iterations=program.iterations, note=note))
