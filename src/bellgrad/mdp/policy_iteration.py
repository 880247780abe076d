"""Policy iteration: evaluate a policy, exactly or approximately, take the greedy policy of its value, and
repeat."""

import numpy as np

from bellgrad.mdp.discounted import MAX_ITERATIONS, DiscountedProblem, MethodResult, OnSweep, report_sweep
from bellgrad.mdp.evaluation import LinearMethod, linear_solve
from bellgrad.mdp.model import FiniteMDP, Floats
from bellgrad.mdp.policies import TIE_TOLERANCE
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
    the one before. An action is replaced only by one that is better by more than rounding, so that no policy
    occurs twice. The error is that of the last evaluation.

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
    problem = DiscountedProblem.of(mdp, gamma, tolerance, max_iterations)
    states, value = np.arange(mdp.num_states), np.zeros(mdp.num_states)
    action = problem.lookahead(value).argmax(axis=1)
    evaluation_error = 0.0 if evaluation == "direct" else 2 * gamma * tolerance
    for iteration in range(1, problem.max_iterations + 1):
        pairs = states * mdp.num_actions + action
        value = linear_solve(
            problem, mdp.transition[pairs], mdp.expected_reward.ravel()[pairs], evaluation, value
        )
        report_sweep(on_sweep, iteration, value)
        q = problem.lookahead(value)
        own = q[states, action]
        better = q.max(axis=1) > own + evaluation_error + TIE_TOLERANCE * np.maximum(1, np.abs(own))
        if not better.any():
            break
        action = np.where(better, q.argmax(axis=1), action)
    return problem.solution("policy_iteration", MethodResult(value, np.inf, iteration))


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
