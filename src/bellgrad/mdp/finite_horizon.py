"""A fixed number of steps: backward induction.

    v_H = terminal value,   v_t(s) = max_a q_t(s, a),   q_t(s, a) = r_t(s, a) + gamma * E_t[v_{t+1}(s')]

Each step is solved exactly, so that there is no convergence to wait for. The best action depends on the
number of steps that are left. Dynamics and rewards may depend on the step: then there is one MDP per step.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from bellgrad.core.errors import UsageError
from bellgrad.mdp.checks import array, as_numbers, check_gamma, count
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

MDPByStep = FiniteMDP | Sequence[FiniteMDP] | Callable[[int], FiniteMDP]


def backward_induction(
    mdp: MDPByStep,
    horizon: int | None = None,
    *,
    gamma: float = 1.0,
    terminal_value: ArrayLike | None = None,
    on_sweep: Callable[[int, Floats], None] | None = None,
) -> Solution:
    """The optimal values and policy for `horizon` steps, for every number of steps to go.

    Guarantee: exact except for rounding. After an outcome that ends the episode the value is 0.

    Args:
        mdp: the problem; or one per step, as a sequence of `H` or a function of the step t, 0 to `H - 1`,
            which is called once per step, from the last to the first. All have the same states and actions.
        horizon: steps `H`, 1 or more; None is the length of a sequence.
        gamma: discount per step, in [0, 1].
        terminal_value: `[S]` the value of being in a state after the last step, for example a salvage value;
            None is 0. An episode that ended before, or with the last step, does not get it.
        on_sweep: called with the number of steps to go and their value `[S]`.

    Returns:
        `value [H+1, S]`, `q [H, S, A]` and `policy [H, S, A]`, from step t on.

    Raises:
        UsageError: horizon or gamma is out of range, or the MDPs or the terminal value do not fit together;
            the message names the step.

    Source: Puterman 1994, section 4.5.
    """
    horizon, at = _by_step(mdp, horizon)
    gamma = check_gamma(gamma)
    last = at(horizon - 1)
    value = _values(last, horizon, terminal_value)
    q = np.empty((horizon, last.num_states, last.num_actions))
    best = np.empty(q.shape, bool)
    for t in reversed(range(horizon)):
        step = last if t == horizon - 1 else at(t)
        q[t] = q_from_value(step, value[t + 1], gamma)
        value[t] = q[t].max(axis=1)
        rounding = (horizon - 1 - t) * EPSILON * np.abs(value[t + 1]).max()
        best[t] = best_actions(step, q[t], value[t + 1], gamma, rounding)
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
    mdp: MDPByStep,
    policy: ArrayLike,
    horizon: int | None = None,
    *,
    gamma: float = 1.0,
    terminal_value: ArrayLike | None = None,
) -> Floats:
    """The values of a policy for `horizon` steps: `[H+1, S]`, from step t on. Exact except for rounding.

    Args:
        mdp: the problem, or one per step; as for `backward_induction`.
        policy: `[S]` integers or `[S, A]` probabilities for all steps, or `[H, S, A]` with one policy per
            step.
        horizon: steps `H`, 1 or more; None is the length of a sequence.
        gamma: discount per step, in [0, 1].
        terminal_value: `[S]` the value of being in a state after the last step; None is 0.

    Raises:
        UsageError: horizon or gamma is out of range, or the policy, the MDPs or the terminal value do not
            fit together.
    """
    horizon, at = _by_step(mdp, horizon)
    gamma, policy = check_gamma(gamma), as_numbers("policy", policy)
    if isinstance(mdp, FiniteMDP):
        policies = policy_by_step(mdp, policy, horizon)
    else:
        _check_steps(policy, horizon)
    value = _values(at(horizon - 1), horizon, terminal_value)
    for t in reversed(range(horizon)):
        step = at(t)
        if isinstance(mdp, FiniteMDP):
            chosen = policies[t]
        else:
            chosen = as_policy(step, policy if policy.ndim < 3 else policy[t])
        value[t] = value_from_q(q_from_value(step, value[t + 1], gamma), chosen)
    return value


def policy_by_step(mdp: FiniteMDP, policy: ArrayLike, horizon: int) -> Floats:
    """A policy for each step, `[H, S, A]`, checked; one that does not depend on the step is repeated without
    copies.

    Raises:
        UsageError: it does not fit this MDP or number of steps.
    """
    horizon, policy = count("horizon", horizon), as_numbers("policy", policy)
    _check_steps(policy, horizon)
    if policy.ndim < 3:
        return np.broadcast_to(as_policy(mdp, policy), (horizon, mdp.num_states, mdp.num_actions))
    return np.stack([as_policy(mdp, step) for step in policy])


def _check_steps(policy: Floats, horizon: int) -> None:
    if policy.ndim >= 3 and len(policy) != horizon:
        raise UsageError(f"the policy is for {len(policy)} steps; the horizon is {horizon}")


def _values(mdp: FiniteMDP, horizon: int, terminal_value: ArrayLike | None) -> Floats:
    """`[H+1, S]` zeros, with the terminal value in the last row."""
    value = np.zeros((horizon + 1, mdp.num_states))
    if terminal_value is not None:
        value[horizon] = array("terminal_value", terminal_value, (mdp.num_states,))
    return value


def _by_step(mdp: MDPByStep, horizon: int | None) -> tuple[int, Callable[[int], FiniteMDP]]:
    """The number of steps, and the MDP of each, checked when it is asked for."""
    if horizon is not None:
        horizon = count("horizon", horizon)
    if isinstance(mdp, FiniteMDP):
        if horizon is None:
            raise UsageError("one MDP for all steps needs a horizon, a number of steps")
        return horizon, lambda t: mdp
    if callable(mdp):
        if horizon is None:
            raise UsageError("a function of the step needs a horizon, a number of steps")
        given = mdp
    elif isinstance(mdp, Sequence) and len(mdp) and not isinstance(mdp, str):
        if horizon not in (None, len(mdp)):
            raise UsageError(
                f"there are MDPs for {len(mdp)} steps; the horizon is {horizon}; leave out the horizon"
            )
        horizon, given = len(mdp), mdp.__getitem__
    else:
        raise UsageError(
            "mdp must be a FiniteMDP, a sequence with one FiniteMDP per step, or a function from the step to"
            f" a FiniteMDP; got {type(mdp).__name__}"
        )
    shape: list[tuple[int, int]] = []

    def at(t: int) -> FiniteMDP:
        step = given(t)
        if not isinstance(step, FiniteMDP):
            raise UsageError(f"step {t}: expected a FiniteMDP, got {type(step).__name__}")
        shape.append(step.legal.shape)
        if shape[-1] != shape[0]:
            raise UsageError(
                f"step {t} has {shape[-1][0]} states and {shape[-1][1]} actions, step {horizon - 1} has"
                f" {shape[0][0]} and {shape[0][1]}; all steps need the same"
            )
        del shape[1:]
        return step

    return horizon, at
