"""Value iteration: `v <- max_a r(s, a) + gamma * E[v(s')]`, for all states at once, for one after the other,
or for those with the largest errors first.

All of them accept any initial value. The default is at most V* in every state, so that no sweep lowers a
value. A set of states that is never left and always pays the least reward then begins at its exact value. If
it pays more, the error shrinks by a factor gamma per sweep. With gamma near 1 this may take more than
`max_iterations`; then a warning says so.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from bellgrad.mdp import kernels
from bellgrad.mdp.discounted import (
    MAX_ITERATIONS,
    DiscountedProblem,
    MethodResult,
    OnSweep,
    Stop,
    q_sweeps,
    report_sweep,
)
from bellgrad.mdp.kernels import limited_threads
from bellgrad.mdp.model import FiniteMDP, Floats
from bellgrad.mdp.policies import EPSILON, ROUNDING, as_policy
from bellgrad.mdp.solution import Solution

EVALUATION_SWEEPS = {False: 5, True: 20}  # after each improvement: of Jacobi sweeps, and in place
JACOBI_LIMIT = 30  # iterations; if Jacobi sweeps would need more, sweeps in place are used
# An evaluation sweep is the last if it changes at most this fraction of the improvement's change.
EVALUATION_STOP = 0.1


def value_iteration(
    mdp: FiniteMDP,
    gamma: float,
    *,
    tolerance: float = 1e-6,
    max_iterations: int = MAX_ITERATIONS,
    dtype: str = "float64",
    initial_value: Floats | None = None,
    on_sweep: OnSweep | None = None,
) -> Solution:
    """Sweeps that use the values of the previous sweep (Jacobi), on all of numba's threads.

    Stops when the bounds on V* of `bellgrad.mdp.discounted`, which follow from the least and the greatest
    change, differ by at most twice the tolerance. Then it adds the middle between them to the value. The
    change shrinks at least by a factor gamma per sweep; the difference of the bounds often shrinks much
    faster.

    Args:
        mdp: the problem.
        gamma: discount per step, in [0, 1).
        tolerance: greatest error of any state's value.
        max_iterations: most sweeps.
        dtype: of the value: `float64`, or `float32`, which halves the memory traffic and rounds at 1e-7 of
            the largest value.
        initial_value: `[S]`; None is `min(0, r) / (1 - gamma)` in all states, with r the reward that every
            state can earn at once. With zeros, the n-th sweep gives the best
            reward in n steps.
        on_sweep: called with the number of the sweep and the value `[S]`, which the next sweep overwrites.

    Raises:
        UsageError: gamma or another argument is out of range.

    Source: Puterman 1994, section 6.3, with the stopping rule of 6.6.2.
    """
    problem = DiscountedProblem.of(mdp, gamma, tolerance, max_iterations)
    return problem.solution(
        "value_iteration", iterate(problem, problem.start(initial_value, dtype), on_sweep)
    )


def gauss_seidel(
    mdp: FiniteMDP,
    gamma: float,
    *,
    tolerance: float = 1e-6,
    max_iterations: int = MAX_ITERATIONS,
    dtype: str = "float64",
    initial_value: Floats | None = None,
    on_sweep: OnSweep | None = None,
) -> Solution:
    """Sweeps that use every new value at once, alternately in the order of the states and in reverse.

    If the numbers of the states follow the paths through them, as on a grid, one sweep carries a value across
    the whole grid. Transitions of a state to itself are solved exactly.

    Stops when `g / (1 - g)` times the greatest change of the last sweep is within the tolerance, with `g` as
    in `bellgrad.mdp.discounted`: such a sweep is also a contraction by at most `g` in the sup norm.

    Args:
        mdp: the problem.
        gamma: discount per step, in [0, 1).
        tolerance: greatest error of any state's value.
        max_iterations: most sweeps.
        dtype: as in `value_iteration`.
        initial_value: as in `value_iteration`.
        on_sweep: as in `value_iteration`.

    Raises:
        UsageError: gamma or another argument is out of range.

    Source: Puterman 1994, section 6.3.3.
    """
    problem = DiscountedProblem.of(mdp, gamma, tolerance, max_iterations)
    return problem.solution(
        "gauss_seidel", iterate(problem, problem.start(initial_value, dtype), on_sweep, in_place=True)
    )


def iterate(
    problem: DiscountedProblem,
    value: Floats,
    on_sweep: OnSweep | None,
    *,
    in_place: bool | None = False,
    evaluation_sweeps: int | None = 0,
) -> MethodResult:
    """Improve and evaluate alternately: value iteration without evaluation sweeps, nearly policy iteration
    with many.

    Args:
        problem: what to solve.
        value: `[S]` initial value; overwritten.
        on_sweep: called after each iteration.
        in_place: whether to use Gauss-Seidel sweeps instead of Jacobi sweeps; None changes to them if Jacobi
            sweeps would need too many iterations.
        evaluation_sweeps: most sweeps over the chosen actions only, after each improving sweep; they stop
            early if they change little. None is `EVALUATION_SWEEPS`.
    """
    action, new = np.zeros(len(value), np.int32), np.empty_like(value)
    undecided, in_place = in_place is None, bool(in_place)
    backwards, width, note, stop = False, np.inf, "", Stop(problem)
    with limited_threads(problem.mdp):
        for iteration in range(1, problem.max_iterations + 1):
            evaluations = EVALUATION_SWEEPS[in_place] if evaluation_sweeps is None else evaluation_sweeps
            for turn in range(1 + evaluations):
                improve = turn == 0
                if in_place:
                    before = value.copy() if improve and stop.near else None
                    high, size = kernels.sweep_in_place(*problem.arrays, value, action, improve, backwards)
                    low, backwards = -high, not backwards
                else:
                    low, high, size = kernels.sweep(*problem.arrays, value, action, improve, new)
                    value, new = new, value
                    before = new
                if improve:
                    first, last_width = high - low, width
                    middle, width, settled = stop(low, high, value, before, size, lambda: action)
                    settled |= iteration == problem.max_iterations
                    if settled or stop.near:
                        value += middle
                    if settled:
                        report_sweep(on_sweep, iteration, value)
                        return MethodResult(value, width, iteration, note)
                elif high - low <= EVALUATION_STOP * first:
                    break
            report_sweep(on_sweep, iteration, value)
            if (
                undecided
                and iteration > 2
                and np.log(problem.tolerance / width) < JACOBI_LIMIT * np.log(width / last_width)
            ):
                undecided, in_place = False, True
                note = (
                    f"in place from iteration {iteration + 1} on, since the change did not soon become the"
                    " same in all states"
                )


def prioritized_sweeping(
    mdp: FiniteMDP,
    gamma: float,
    *,
    tolerance: float = 1e-6,
    max_iterations: int = MAX_ITERATIONS,
    initial_value: Floats | None = None,
    on_sweep: OnSweep | None = None,
) -> Solution:
    """Back up the state whose value differs most from its backup, then compute the differences of its
    predecessors again.

    Stops when no difference is above `tolerance * (1 - g)`, with `g` as in `bellgrad.mdp.discounted`, or
    above the rounding of the state's own terms. The
    differences are kept up to date for all states, so that the largest is `max |T v - v|`, and the error is
    within the tolerance.

    Args:
        mdp: the problem.
        gamma: discount per step, in [0, 1).
        tolerance: greatest error of any state's value.
        max_iterations: most iterations, of `S` backups each.
        initial_value: as in `value_iteration`.
        on_sweep: called after every `S` backups.

    Raises:
        UsageError: gamma or another argument is out of range.

    Source: Moore and Atkeson 1993, "Prioritized sweeping"; here on a known model and with the change itself
        as
    priority, as in Andre, Friedman and Parr 1998, "Generalized prioritized sweeping".
    """
    problem = DiscountedProblem.of(mdp, gamma, tolerance, max_iterations)
    value = problem.start(initial_value, "float64")
    error = np.abs(problem.lookahead(value).max(axis=1) - value)
    state = (np.repeat(np.arange(mdp.legal.size), np.diff(mdp.offset)) // mdp.num_actions).astype(
        mdp.next_state.dtype
    )
    follows = sparse.csc_array(
        (np.ones(len(state), bool), (state, mdp.next_state)), shape=(mdp.num_states,) * 2
    )
    iteration = 0
    while iteration < problem.max_iterations:
        size = np.abs(value).max()
        threshold = np.full(mdp.num_states, problem.tolerance * (1 - problem.max_factor) - EPSILON * size)
        if (
            threshold[0] < ROUNDING * EPSILON * 3 * size
        ):  # the terms of a value are at most three times the greatest
            own = problem.term_size(value, problem.lookahead(value).argmax(axis=1))
            threshold = np.maximum(threshold, ROUNDING * EPSILON * own)
        if not (error > threshold).any():
            break
        kernels.prioritized_backups(*problem.arrays, value, error, follows.indptr, follows.indices, threshold)
        iteration += 1
        report_sweep(on_sweep, iteration, value)
    return problem.solution("prioritized_sweeping", MethodResult(value, np.inf, iteration))


def q_iteration(
    mdp: FiniteMDP,
    gamma: float,
    *,
    policy: ArrayLike | None = None,
    tolerance: float = 1e-6,
    max_iterations: int = MAX_ITERATIONS,
    on_sweep: OnSweep | None = None,
) -> Solution:
    """Sweeps of action values: `q <- r(s, a) + gamma * E[max_a' q(s', a')]` for Q*, or with `E_a' q(s', a')`
    for those of a policy.

    Stops like `value_iteration`; the errors of action values are at most those of state values.

    Args:
        mdp: the problem.
        gamma: discount per step, in [0, 1).
        policy: `[S]` integers or `[S, A]` probabilities whose Q is wanted; None for Q*.
        tolerance: greatest error of any pair's value.
        max_iterations: most sweeps.
        on_sweep: called with the number of the sweep and the resulting state values `[S]`.

    Raises:
        UsageError: gamma is out of range, or the policy does not fit this MDP.

    Source: Bertsekas 2012, "Dynamic programming and optimal control", volume 2, section 2.2.3 (Q-factors);
    Sutton and Barto 2018, equations 4.2 and 4.4.
    """
    problem = DiscountedProblem.of(mdp, gamma, tolerance, max_iterations)
    chosen = None if policy is None else as_policy(mdp, policy)
    return problem.solution("q_iteration", q_sweeps(problem, chosen, on_sweep), chosen)
