"""Memoryless policies, which see an observation of the state and nothing else: the best of them for a fixed
number of steps.

Axes: `S` states, `O` observations, `A` actions. An observation map `[S]` gives the observation of each state,
from 0 to `O - 1`; a policy does the same in all states with the same observation. A stochastic policy may
then be better than every deterministic one, and a policy with memory may be better still.

Source: Singh, Jaakkola and Jordan 1994, "Learning without state-estimation in partially observable Markovian
decision processes".
"""

from collections.abc import Iterator
from itertools import product
from math import prod

import numpy as np
from numpy.polynomial import Chebyshev
from numpy.typing import ArrayLike

from bellgrad.core.errors import UsageError
from bellgrad.mdp.checks import PROBABILITY_TOLERANCE, array, as_numbers, check_gamma, count
from bellgrad.mdp.model import FiniteMDP, Floats, Ints, check_mdp
from bellgrad.mdp.policies import value_from_q

MAX_POLICIES = 1_000_000  # policies that are enumerated


def memoryless_return(
    mdp: FiniteMDP, observation: ArrayLike, policy: ArrayLike, horizon: int, *, gamma: float = 1.0
) -> Floats:
    """The expected return of memoryless policies in `horizon` steps, from the start distribution. Exact
    except for rounding.

    Args:
        mdp: the problem.
        observation: `[S]` integers, the observation of each state.
        policy: `[..., O, A]` probabilities; leading axes hold several policies.
        horizon: steps, 1 or more.
        gamma: discount per step, in [0, 1].

    Returns:
        `[...]`.

    Raises:
        UsageError: horizon or gamma is out of range, a shape is wrong, a row is not a distribution, or an
            illegal action may be chosen.
    """
    gamma, horizon = check_gamma(gamma), count("horizon", horizon)
    observed, policy = _checked(mdp, observation), array("policy", policy)
    if policy.shape[-2:] != (observed.max() + 1, mdp.num_actions):
        raise UsageError(
            f"a memoryless policy has shape ({observed.max() + 1}, {mdp.num_actions}); this one has"
            f" {policy.shape}"
        )
    if (policy < 0).any() or (np.abs(policy.sum(axis=-1) - 1) > PROBABILITY_TOLERANCE).any():
        raise UsageError("a row of the policy is not a distribution")
    by_state = policy.reshape(-1, *policy.shape[-2:])[:, observed]
    if (by_state[:, ~mdp.legal] > 0).any():
        raise UsageError("the policy may choose an action that is illegal in a state")
    value = np.zeros(by_state.shape[:2])
    for _ in range(horizon):
        ahead = (mdp.transition @ value.T).T.reshape(by_state.shape)
        value = value_from_q(mdp.expected_reward + gamma * ahead, by_state)
    return (value @ mdp.initial).reshape(policy.shape[:-2])


def best_deterministic_memoryless(
    mdp: FiniteMDP, observation: ArrayLike, horizon: int, *, gamma: float = 1.0
) -> tuple[Floats, float]:
    """The best policy with one action for each observation, by trying them all.

    Args:
        mdp: the problem.
        observation: `[S]` integers, the observation of each state.
        horizon: steps, 1 or more.
        gamma: discount per step, in [0, 1].

    Returns:
        The policy `[O, A]`, the first of equally good ones, and its expected return.

    Raises:
        UsageError: there are more than a million policies, or `memoryless_return` refuses the arguments.
    """
    best: tuple[Floats, float] = (np.empty(0), -np.inf)
    for policy in _deterministic(mdp, observation):
        worth = float(memoryless_return(mdp, observation, policy, horizon, gamma=gamma))
        if worth > best[1]:
            best = policy, worth
    return best


def best_memoryless_with_one_mixture(
    mdp: FiniteMDP, observation: ArrayLike, horizon: int, at: int, *, gamma: float = 1.0
) -> tuple[Floats, float]:
    """The best policy that may mix two actions at one observation and has one action for every other.

    Tries every choice of these two actions and of the others. The return of a mixture is a polynomial in its
    weight, of degree `horizon` at most. It is interpolated exactly; the best weight is an end of [0, 1] or a
    root of the derivative.

    Args:
        mdp: the problem.
        observation: `[S]` integers, the observation of each state.
        horizon: steps, 1 or more.
        at: the observation at which two actions are mixed.
        gamma: discount per step, in [0, 1].

    Returns:
        The policy `[O, A]` and its expected return.

    Raises:
        UsageError: there are more than a million policies, there is no such observation, or
            `memoryless_return` refuses the arguments.
    """
    observed = _checked(mdp, observation)
    horizon, at = count("horizon", horizon), count("at", at, 0)
    if at > observed.max():
        raise UsageError(f"observation {at} is out of range [0, {observed.max()}]")
    best: tuple[Floats, float] = (np.empty(0), -np.inf)
    legal = _legal(mdp, observed)[at]
    for first in _deterministic(mdp, observed):
        for other in legal[legal > first[at].argmax()]:
            second = first.copy()
            second[at] = np.eye(mdp.num_actions)[other]

            def worth(weight: Floats, first: Floats = first, second: Floats = second) -> Floats:
                policies = first + weight[:, None, None] * (second - first)
                return memoryless_return(mdp, observed, policies, horizon, gamma=gamma)

            weights = _turning_points(Chebyshev.interpolate(worth, horizon, domain=[0, 1]))
            worths = worth(weights)
            if worths.max() > best[1]:
                best = first + weights[worths.argmax()] * (second - first), float(worths.max())
    return best


def _turning_points(curve: Chebyshev) -> Floats:
    """Points at which a polynomial on [0, 1] may have its maximum: both ends, and possible roots of its
    derivative."""
    slope = curve.deriv()
    roots = slope.trim(1e-13 * np.abs(slope.coef).max()).roots()  # rounding alone must not raise its degree
    return np.concatenate([[0.0, 1.0], roots.real.clip(0, 1)])


def _deterministic(mdp: FiniteMDP, observation: ArrayLike) -> Iterator[Floats]:
    """Every policy `[O, A]` with one action per observation, legal in all states with that observation."""
    legal = _legal(mdp, _checked(mdp, observation))
    policies = prod(len(actions) for actions in legal)
    if policies > MAX_POLICIES:
        raise UsageError(
            f"there are {policies:,} deterministic memoryless policies; {MAX_POLICIES:,} is the limit"
        )
    for choice in product(*legal):
        yield np.eye(mdp.num_actions)[list(choice)]


def _legal(mdp: FiniteMDP, observed: Ints) -> list[Ints]:
    """For each observation, the actions that are legal in all states with that observation."""
    legal = [np.flatnonzero(mdp.legal[observed == o].all(axis=0)) for o in range(observed.max() + 1)]
    without_action = [o for o, actions in enumerate(legal) if not len(actions)]
    if without_action:
        raise UsageError(f"no action is legal in every state with observation {without_action[0]}")
    return legal


def _checked(mdp: FiniteMDP, observation: ArrayLike) -> Ints:
    mdp, observed = check_mdp(mdp), as_numbers("observation", observation)
    if (
        observed.shape != (mdp.num_states,)
        or not np.issubdtype(observed.dtype, np.integer)
        or observed.min() < 0
    ):
        raise UsageError(f"an observation map must be integers from 0, of shape ({mdp.num_states},)")
    return observed
