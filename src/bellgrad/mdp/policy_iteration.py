"""Policy iteration: evaluate a policy, exactly or approximately, take the greedy policy of its value, and
repeat."""

from typing import get_args

import numpy as np

from bellgrad.core.errors import unknown
from bellgrad.mdp.discounted import MAX_ITERATIONS, DiscountedProblem, MethodResult, OnSweep, report_sweep
from bellgrad.mdp.evaluation import LinearMethod, linear_solve
from bellgrad.mdp.model import FiniteMDP, Floats, Ints
from bellgrad.mdp.policies import EPSILON, best_actions
from bellgrad.mdp.solution import Solution
from bellgrad.mdp.value_iteration import iterate


def policy_iteration(
    mdp: FiniteMDP,
    gamma: float,
    *,
    evaluation: LinearMethod = "direct",
    tolerance: float = 1e-6,
    max_iterations: int = 1_000,
    on_sweep: OnSweep | None = None,
) -> Solution:
    """Howard's policy iteration: each policy is evaluated by solving its linear equations.

    Stops when no action is better than the policy's own. This takes finitely many policies, each better than
    the one before. An action is replaced only by one that is better by more than rounding and the error of
    the evaluation, so that no policy occurs twice. With `gmres`, the evaluation becomes more accurate until
    the last policy is within the tolerance of the best.

    Args:
        mdp: the problem.
        gamma: discount per step, in [0, 1).
        evaluation: `direct`, which is exact but needs much memory if transitions are not local, or `gmres`.
        tolerance: greatest error of any state's value.
        max_iterations: most policies.
        on_sweep: called with the number of the policy and its value `[S]`.

    Raises:
        UsageError: gamma is out of range, or the evaluation is unknown.

    Source: Howard 1960; Puterman 1994, section 6.4.
    """
    if evaluation not in get_args(LinearMethod):
        raise unknown("way to evaluate a policy", str(evaluation), get_args(LinearMethod))
    problem = DiscountedProblem.of(mdp, gamma, tolerance, max_iterations)
    action = problem.lookahead(np.zeros(mdp.num_states)).argmax(axis=1)
    return problem.solution("policy_iteration", improve(problem, action, evaluation, on_sweep))


def improve(
    problem: DiscountedProblem,
    action: Ints,
    evaluation: LinearMethod = "direct",
    on_sweep: OnSweep | None = None,
) -> MethodResult:
    """Evaluate and improve a policy until no action is better than its own.

    An approximate evaluation is made more accurate when none is certainly better, until the policy is within
    the tolerance of the best.

    Args:
        problem: what to solve.
        action: `[S]` the first policy.
        evaluation: as in `policy_iteration`.
        on_sweep: called with the number of the policy and its value `[S]`.
    """
    mdp, note = problem.mdp, ""
    states, value = np.arange(mdp.num_states), np.zeros(mdp.num_states)
    near = problem.tolerance * (1 - problem.max_factor) / 4
    for iteration in range(1, problem.max_iterations + 1):
        pairs = states * mdp.num_actions + action
        chain, reward = mdp.transition[pairs], mdp.expected_reward.ravel()[pairs]
        while True:
            value, error, used = linear_solve(problem, chain, reward, evaluation, value, near)
            note = note or used
            q = problem.lookahead(value)
            better = ~best_actions(mdp, q, value, problem.gamma, error)[states, action]
            change = q.max(axis=1) - value
            bound = max(abs(end) for end in problem.bounds(float(change.min()), float(change.max())))
            if better.any() or evaluation == "direct" or bound <= problem.tolerance:
                break
            near /= 100
            if near < EPSILON * np.abs(value).max():
                evaluation, note = "direct", "the last policies were evaluated directly, for more accuracy"
        report_sweep(on_sweep, iteration, value)
        if not better.any():
            break
        action = np.where(better, q.argmax(axis=1), action)
    return MethodResult(value, np.inf, iteration, note, error)


def modified_policy_iteration(
    mdp: FiniteMDP,
    gamma: float,
    *,
    in_place: bool | None = None,
    evaluation_sweeps: int | None = None,
    tolerance: float = 1e-6,
    max_iterations: int = MAX_ITERATIONS,
    dtype: str = "float64",
    initial_value: Floats | None = None,
    on_sweep: OnSweep | None = None,
) -> Solution:
    """A sweep over all actions, then a few cheap sweeps over the chosen actions only, and repeat.

    With Jacobi sweeps it stops like `value_iteration`, in place like `gauss_seidel`, after a sweep over all
    actions, with the same guarantees. If states lead to states all over the MDP, the change soon becomes the
    same in all states, and Jacobi sweeps need few iterations. If paths are long and ordered, as on a grid,
    sweeps in place need far fewer.

    Args:
        mdp: the problem.
        gamma: discount per step, in [0, 1).
        in_place: whether to use Gauss-Seidel sweeps, alternately forwards and backwards, instead of Jacobi
            sweeps. None begins with Jacobi sweeps, and changes to sweeps in place if more than 30 further
            iterations would be needed at the last rate.
        evaluation_sweeps: most sweeps after each improvement; they stop when one changes at most a tenth of
            what the improvement did. None is 5, or 20 in place.
        tolerance: greatest error of any state's value.
        max_iterations: most improvements.
        dtype: as in `value_iteration`.
        initial_value: as in `value_iteration`. With the default no iteration lowers a value.
        on_sweep: called with the number of the improvement and the value `[S]` after its evaluation.

    Raises:
        UsageError: gamma or another argument is out of range.

    Source: Puterman and Shin 1978, "Modified policy iteration algorithms for discounted Markov decision
    problems"; Puterman 1994, section 6.5.
    """
    problem = DiscountedProblem.of(mdp, gamma, tolerance, max_iterations)
    value = problem.start(initial_value, dtype)
    result = iterate(problem, value, on_sweep, in_place=in_place, evaluation_sweeps=evaluation_sweeps)
    return problem.solution("modified_policy_iteration", result)
