"""A fixed number of steps: backward induction.

    v_H = 0,   v_t(s) = max_a q_t(s, a),   q_t(s, a) = r(s, a) + gamma * E[v_{t+1}(s')]

Each step is solved exactly, so that there is no convergence to wait for. The best action depends on the
number of steps that are left.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from bellgrad.core.errors import UsageError
from bellgrad.mdp.checks import as_numbers, check_gamma, count
from bellgrad.mdp.model import FiniteMDP, Floats
from bellgrad.mdp.policies import (
    EPSILON,
    as_policy,
    best_actions,
    equal_chances,
    q_from_value,
    value_from_q,
)
from bellgrad.mdp.solution import Solution


def backward_induction(
    mdp: FiniteMDP, horizon: int, *, gamma: float = 1.0, on_sweep: Callable[[int, Floats], None] | None = None
) -> Solution:
    """The optimal values and policy for `horizon` steps, for every number of steps to go.

    Guarantee: exact except for rounding. After an outcome that ends the episode the value is 0.

    Args:
        mdp: the problem.
        horizon: steps `H`, 1 or more.
        gamma: discount per step, in [0, 1].
        on_sweep: called with the number of steps to go and their value `[S]`.

    Returns:
        `value [H+1, S]`, `q [H, S, A]` and `policy [H, S, A]`, from step t on.

    Raises:
        UsageError: horizon or gamma is out of range.

    Source: Puterman 1994, section 4.5.
    """
    horizon, gamma = count("horizon", horizon), check_gamma(gamma)
    value = np.zeros((horizon + 1, mdp.num_states))
    q = np.empty((horizon, mdp.num_states, mdp.num_actions))
    best = np.empty(q.shape, bool)
    for t in reversed(range(horizon)):
        q[t] = q_from_value(mdp, value[t + 1], gamma)
        value[t] = q[t].max(axis=1)
        rounding = (horizon - 1 - t) * EPSILON * np.abs(value[t + 1]).max()
        best[t] = best_actions(mdp, q[t], value[t + 1], gamma, rounding)
        if on_sweep is not None:
            on_sweep(horizon - t, value[t])
    return Solution(
        value,
        q,
        equal_chances(best),
        "backward_induction",
        "total" if gamma == 1 else "discounted",
        gamma,
        iterations=horizon,
        residual=0.0,
        error_bound=0.0,
        converged=True,
        horizon=horizon,
    )


def finite_horizon_evaluation(
    mdp: FiniteMDP, policy: ArrayLike, horizon: int, *, gamma: float = 1.0
) -> Floats:
    """The values of a policy for `horizon` steps: `[H+1, S]`, from step t on. Exact except for rounding.

    Args:
        mdp: the problem.
        policy: `[S]` integers or `[S, A]` probabilities for all steps, or `[H, S, A]` with one policy per
            step.
        horizon: steps `H`, 1 or more.
        gamma: discount per step, in [0, 1].

    Raises:
        UsageError: horizon or gamma is out of range, or the policy does not fit this MDP and number of steps.
    """
    horizon, gamma = count("horizon", horizon), check_gamma(gamma)
    policies = policy_by_step(mdp, policy, horizon)
    value = np.zeros((horizon + 1, mdp.num_states))
    for t in reversed(range(horizon)):
        value[t] = value_from_q(q_from_value(mdp, value[t + 1], gamma), policies[t])
    return value


def policy_by_step(mdp: FiniteMDP, policy: ArrayLike, horizon: int) -> Floats:
    """A policy for each step, `[H, S, A]`, checked; one that does not depend on the step is repeated without
    copies.

    Raises:
        UsageError: it does not fit this MDP or number of steps.
    """
    horizon, policy = count("horizon", horizon), as_numbers("policy", policy)
    if policy.ndim < 3:
        return np.broadcast_to(as_policy(mdp, policy), (horizon, mdp.num_states, mdp.num_actions))
    if len(policy) != horizon:
        raise UsageError(f"the policy is for {len(policy)} steps; the horizon is {horizon}")
    return np.stack([as_policy(mdp, step) for step in policy])
