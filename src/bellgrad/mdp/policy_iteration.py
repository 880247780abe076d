"""Policy iteration: evaluate a policy, exactly or nearly, take the best actions of its value, and so on."""

import numpy as np

from bellgrad.mdp.discounted import MAX_ITERATIONS, Discounted, Found, OnSweep, show
from bellgrad.mdp.evaluation import Linear, linear_solve
from bellgrad.mdp.model import FiniteMDP, Floats
from bellgrad.mdp.policies import TIE
from bellgrad.mdp.solution import Solution
from bellgrad.mdp.value_iteration import iterate


def policy_iteration(
    mdp: FiniteMDP,
    gamma: float,
    *,
    evaluation: Linear = "direct",
    tolerance: float = 1e-6,
    max_iterations: int = 1_000,
    on_sweep: OnSweep | None = None,
) -> Solution:
    """Howard's policy iteration: each policy is evaluated by solving its linear equations.

    Stops when no action is better than the policy's own, which happens after finitely many policies, each
    better than the one before. An action gives way only to one that is better by more than rounding, so that
    no policy comes twice. The error is that of the last evaluation.

    Args:
        mdp: the problem.
        gamma: discount per step, in [0, 1).
        evaluation: `direct`, which is exact and fills memory where transitions go everywhere, or `gmres`.
        tolerance: greatest error of any state's value.
        max_iterations: policies.
        on_sweep: called with the number of the policy and its value `[S]`.

    Raises:
        UsageError: gamma is out of range, or an unknown evaluation.

    Source: Howard 1960; Puterman 1994, section 6.4.
    """
    problem = Discounted.of(mdp, gamma, tolerance, max_iterations)
    states, value = np.arange(mdp.num_states), np.zeros(mdp.num_states)
    action = problem.lookahead(value).argmax(axis=1)
    doubt = 0.0 if evaluation == "direct" else 2 * gamma * tolerance
    for iteration in range(1, max_iterations + 1):
        pairs = states * mdp.num_actions + action
        value = linear_solve(
            problem, mdp.transition[pairs], mdp.expected_reward.ravel()[pairs], evaluation, value
        )
        show(on_sweep, iteration, value)
        q = problem.lookahead(value)
        own = q[states, action]
        better = q.max(axis=1) > own + doubt + TIE * np.maximum(1, np.abs(own))
        if not better.any():
            break
        action = np.where(better, q.argmax(axis=1), action)
    return problem.solution("policy_iteration", Found(value, np.inf, iteration))


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
    """A sweep over all actions, then cheap ones over the chosen actions alone, and so on.

    With Jacobi's sweeps it stops as `value_iteration` does, in place as `gauss_seidel`, after a sweep over
    all actions; the guarantees are theirs. Where a state leads to states all over the MDP, the change soon is
    the same everywhere and Jacobi's sweeps need few iterations; where ways are long and ordered, as on a
    grid, sweeps in place need far fewer.

    Args:
        mdp: the problem.
        gamma: discount per step, in [0, 1).
        in_place: Gauss-Seidel sweeps, forwards and backwards by turns, instead of Jacobi's. None begins with
            Jacobi's, and goes over to sweeps in place where more than 30 further iterations would be needed
            at the rate of the last.
        evaluation_sweeps: after each improvement, at most; fewer where one changes a tenth of what the
            improvement did. None is 5, in place 20.
        tolerance: greatest error of any state's value.
        max_iterations: improvements.
        dtype: as in `value_iteration`.
        initial_value: as in `value_iteration`. From the default no iteration lowers a value.
        on_sweep: called with the number of the improvement and the value `[S]` after its evaluation.

    Raises:
        UsageError: gamma or an argument is out of range.

    Source: Puterman and Shin 1978, "Modified policy iteration algorithms for discounted Markov decision
    problems"; Puterman 1994, section 6.5.
    """
    problem = Discounted.of(mdp, gamma, tolerance, max_iterations)
    value = problem.start(initial_value, dtype)
    found = iterate(problem, value, on_sweep, in_place=in_place, evaluation_sweeps=evaluation_sweeps)
    return problem.solution("modified_policy_iteration", found)
