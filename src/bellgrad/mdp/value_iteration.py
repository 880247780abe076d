"""Value iteration: `v <- max_a r(s, a) + gamma * E[v(s')]`, at all states at once, one after the other, or
where it matters most.

All of them take any first value. The default is below V* everywhere, from where no sweep lowers a value. A
set of states that is never left and always pays the least reward begins at its answer; one that pays more
comes nearer by gamma a sweep, which near gamma 1 takes more sweeps than `max_iterations`, and is then said.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from bellgrad.mdp import kernels
from bellgrad.mdp.discounted import (
    MAX_ITERATIONS,
    ROUNDING,
    Discounted,
    Found,
    OnSweep,
    q_sweeps,
    show,
    threads,
)
from bellgrad.mdp.model import FiniteMDP, Floats
from bellgrad.mdp.policies import as_policy
from bellgrad.mdp.solution import Solution

EVALUATION_SWEEPS = {False: 5, True: 20}  # after each improvement: Jacobi's, and in place
PATIENCE = 30  # iterations: Jacobi's sweeps that would need more give way to sweeps in place
ENOUGH = 0.1  # an evaluation sweep that changes this much less than the improvement before it is the last


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
    """Sweeps that see the values of the sweep before (Jacobi), on all of numba's threads.

    Stops when the bounds on V* of `bellgrad.mdp.discounted`, which follow from the least and the greatest
    change, are no further apart than twice the tolerance, and adds the middle between them to the value. The
    change shrinks by gamma a sweep or faster; its span often much faster.

    Args:
        mdp: the problem.
        gamma: discount per step, in [0, 1).
        tolerance: greatest error of any state's value.
        max_iterations: sweeps.
        dtype: of the value: `float64`, or `float32`, which moves half the bytes and rounds at a 1e-7th of the
            largest value.
        initial_value: `[S]`; None is `min(0, r) / (1 - gamma)`. Zeros make every sweep the best of one more
            step.
        on_sweep: called with the number of the sweep and the value `[S]`, which the next sweep overwrites.

    Raises:
        UsageError: gamma or an argument is out of range.

    Source: Puterman 1994, section 6.3, with the stopping rule of 6.6.2.
    """
    problem = Discounted.of(mdp, gamma, tolerance, max_iterations)
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
    """Sweeps that see every value as soon as it is known, in the order of the states and against it by turns.

    Where the numbers of states follow the ways through them, as on a grid, one sweep carries a value right
    across. A state's chance of staying where it is is solved for.

    Stops when `g / (1 - g)` times the greatest change of the last sweep is within the tolerance, with `g` as
    in `bellgrad.mdp.discounted`: such a sweep is a contraction by `g` or less in the sup norm too.

    Args:
        mdp: the problem.
        gamma: discount per step, in [0, 1).
        tolerance: greatest error of any state's value.
        max_iterations: sweeps.
        dtype: as in `value_iteration`.
        initial_value: as in `value_iteration`.
        on_sweep: as in `value_iteration`.

    Raises:
        UsageError: gamma or an argument is out of range.

    Source: Puterman 1994, section 6.3.3.
    """
    problem = Discounted.of(mdp, gamma, tolerance, max_iterations)
    return problem.solution(
        "gauss_seidel", iterate(problem, problem.start(initial_value, dtype), on_sweep, in_place=True)
    )


def iterate(
    problem: Discounted,
    value: Floats,
    on_sweep: OnSweep | None,
    *,
    in_place: bool | None = False,
    evaluation_sweeps: int | None = 0,
) -> Found:
    """Improve and evaluate by turns: with no evaluation sweeps value iteration, with many nearly policy
    iteration.

    Args:
        problem: what to solve.
        value: `[S]` where to begin; overwritten.
        on_sweep: called after each iteration.
        in_place: Gauss-Seidel sweeps instead of Jacobi's; None goes over to them where Jacobi's would need
            too many.
        evaluation_sweeps: of the chosen actions alone, after each improving sweep; fewer where they soon
            change little. None is what has proved good.
    """
    action, new = np.zeros(len(value), np.int32), np.empty_like(value)
    undecided, in_place = in_place is None, bool(in_place)
    backwards, width, note = False, np.inf, ""
    with threads(problem.mdp):
        for iteration in range(1, problem.max_iterations + 1):
            many = EVALUATION_SWEEPS[in_place] if evaluation_sweeps is None else evaluation_sweeps
            for turn in range(1 + many):
                improve = turn == 0
                if in_place:
                    high, size = kernels.sweep_in_place(*problem.arrays, value, action, improve, backwards)
                    low, backwards = -high, not backwards
                else:
                    low, high, size = kernels.sweep(*problem.arrays, value, action, improve, new)
                    value, new = new, value
                if improve:
                    first, before = high - low, width
                    middle, width, settled = problem.progress(low, high, value, size)
                    if settled or iteration == problem.max_iterations:
                        value += middle
                        show(on_sweep, iteration, value)
                        return Found(value, width, iteration, note)
                elif high - low <= ENOUGH * first:
                    break
            show(on_sweep, iteration, value)
            if (
                undecided
                and iteration > 2
                and np.log(problem.tolerance / width) < PATIENCE * np.log(width / before)
            ):
                undecided, in_place = False, True
                note = (
                    f"in place from iteration {iteration + 1} on, since the change did not soon become the"
                    " same everywhere"
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
    """Back up the state whose value is furthest from its backup, then look again at the states from which it
    may come next.

    Stops when no state is further away than `tolerance * (1 - g)`, with `g` as in `bellgrad.mdp.discounted`.
    The distances are kept true for all states, so that this is `max |T v - v|`, and the error is within the
    tolerance.

    Args:
        mdp: the problem.
        gamma: discount per step, in [0, 1).
        tolerance: greatest error of any state's value.
        max_iterations: as many times `S` backups.
        initial_value: as in `value_iteration`.
        on_sweep: called after every `S` backups.

    Raises:
        UsageError: gamma or an argument is out of range.

    Source: Moore and Atkeson 1993, "Prioritized sweeping"; on a known model and with the change itself as
    priority, as Andre, Friedman and Parr 1998, "Generalized prioritized sweeping".
    """
    problem = Discounted.of(mdp, gamma, tolerance, max_iterations)
    value = problem.start(initial_value, "float64")
    error = np.abs(problem.lookahead(value).max(axis=1) - value)
    state = (np.repeat(np.arange(mdp.legal.size), np.diff(mdp.offset)) // mdp.num_actions).astype(
        mdp.next_state.dtype
    )
    follows = sparse.csc_array(
        (np.ones(len(state), bool), (state, mdp.next_state)), shape=(mdp.num_states,) * 2
    )
    iteration = 0
    while iteration < max_iterations:
        threshold = max(
            tolerance * (1 - problem.greatest), ROUNDING * np.finfo(float).eps * np.abs(value).max()
        )
        if not (error > threshold).any():
            break
        kernels.prioritized_backups(*problem.arrays, value, error, follows.indptr, follows.indices, threshold)
        iteration += 1
        show(on_sweep, iteration, value)
    return problem.solution("prioritized_sweeping", Found(value, np.inf, iteration))


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
    for a policy's.

    Stops as `value_iteration`; an action value is as near to its true one as the state values are, or nearer.

    Args:
        mdp: the problem.
        gamma: discount per step, in [0, 1).
        policy: `[S]` integers or `[S, A]` probabilities whose Q is wanted; None for the best.
        tolerance: greatest error of any pair's value.
        max_iterations: sweeps.
        on_sweep: called with the number of the sweep and the state values `[S]` that it leads to.

    Raises:
        UsageError: gamma is out of range, or the policy is none of this MDP.

    Source: Bertsekas 2012, "Dynamic programming and optimal control", volume 2, section 2.2.3 (Q-factors);
    Sutton and Barto 2018, equations 4.2 and 4.4.
    """
    problem = Discounted.of(mdp, gamma, tolerance, max_iterations)
    chosen = None if policy is None else as_policy(mdp, policy)
    return problem.solution("q_iteration", q_sweeps(problem, chosen, on_sweep), chosen)
