"""Policies that see an observation of the state and remember nothing: the best that they can do in a fixed
number of steps.

Axes: `S` states, `O` observations, `A` actions. An observation map `[S]` says as what each state is seen,
from 0 to `O - 1`, and states that are seen alike are treated alike. There a stochastic policy may be better
than every deterministic one, and one that remembers better still.

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
from bellgrad.mdp.model import FiniteMDP, Floats, Ints
from bellgrad.mdp.policies import check_gamma, value_from_q

MOST_POLICIES = 1_000_000  # that are enumerated


def memoryless_return(
    mdp: FiniteMDP, observation: ArrayLike, policy: ArrayLike, horizon: int, *, gamma: float = 1.0
) -> Floats:
    """What memoryless policies get within `horizon` steps, from the start distribution. Exact but for
    rounding.

    Args:
        mdp: the problem.
        observation: `[S]` integers, as what each state is seen.
        policy: `[..., O, A]` probabilities, as many policies as there are leading entries.
        horizon: steps, 1 or more.
        gamma: discount per step, in [0, 1].

    Returns:
        `[...]`.

    Raises:
        UsageError: horizon, gamma or a shape is out of range, a row is no distribution, or an illegal action
            may be chosen.
    """
    check_gamma(gamma)
    if horizon < 1:
        raise UsageError(f"horizon = {horizon} steps; at least 1 is needed")
    seen, policy = _seen(mdp, observation), np.asarray(policy, dtype=float)
    if policy.shape[-2:] != (seen.max() + 1, mdp.num_actions):
        raise UsageError(
            f"a memoryless policy has shape ({seen.max() + 1}, {mdp.num_actions}); this one has"
            f" {policy.shape}"
        )
    if (policy < 0).any() or not np.allclose(policy.sum(axis=-1), 1):
        raise UsageError("a row of the policy is no distribution")
    by_state = policy.reshape(-1, *policy.shape[-2:])[:, seen]
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
        observation: `[S]` integers, as what each state is seen.
        horizon: steps, 1 or more.
        gamma: discount per step, in [0, 1].

    Returns:
        The policy `[O, A]`, of equally good ones the first, and its expected return.

    Raises:
        UsageError: more than a million policies, or what `memoryless_return` refuses.
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
    """The best policy that may mix two actions at one observation and has one action for each of the others.

    Tries every choice of the other actions and of the two. What a mixture is worth is a polynomial in its
    weight, of degree `horizon` at most: it is interpolated exactly, and its best weight is an end of [0, 1]
    or a root of the derivative.

    Args:
        mdp: the problem.
        observation: `[S]` integers, as what each state is seen.
        horizon: steps, 1 or more.
        at: the observation at which actions are mixed.
        gamma: discount per step, in [0, 1].

    Returns:
        The policy `[O, A]` and its expected return.

    Raises:
        UsageError: more than a million policies, no such observation, or what `memoryless_return` refuses.
    """
    seen = _seen(mdp, observation)
    if not 0 <= at <= seen.max():
        raise UsageError(f"observation {at} is out of range [0, {seen.max()}]")
    best: tuple[Floats, float] = (np.empty(0), -np.inf)
    legal = _legal(mdp, seen)[at]
    for first in _deterministic(mdp, seen):
        for other in legal[legal > first[at].argmax()]:
            second = first.copy()
            second[at] = np.eye(mdp.num_actions)[other]

            def worth(weight: Floats, first: Floats = first, second: Floats = second) -> Floats:
                policies = first + weight[:, None, None] * (second - first)
                return memoryless_return(mdp, seen, policies, horizon, gamma=gamma)

            weights = _turning_points(Chebyshev.interpolate(worth, horizon, domain=[0, 1]))
            worths = worth(weights)
            if worths.max() > best[1]:
                best = first + weights[worths.argmax()] * (second - first), float(worths.max())
    return best


def _turning_points(curve: Chebyshev) -> Floats:
    """Where a polynomial on [0, 1] may be greatest: both ends, and what may be a root of its derivative."""
    slope = curve.deriv()
    roots = slope.trim(1e-13 * np.abs(slope.coef).max()).roots()  # rounding alone must not raise its degree
    return np.concatenate([[0.0, 1.0], roots.real.clip(0, 1)])


def _deterministic(mdp: FiniteMDP, observation: ArrayLike) -> Iterator[Floats]:
    """Every policy `[O, A]` with one action, legal in all states that are seen so, for each observation."""
    legal = _legal(mdp, _seen(mdp, observation))
    count = prod(len(actions) for actions in legal)
    if count > MOST_POLICIES:
        raise UsageError(
            f"there are {count:,} deterministic memoryless policies; {MOST_POLICIES:,} can be tried"
        )
    for choice in product(*legal):
        yield np.eye(mdp.num_actions)[list(choice)]


def _legal(mdp: FiniteMDP, seen: Ints) -> list[Ints]:
    """For each observation the actions that are legal in all states that are seen so."""
    legal = [np.flatnonzero(mdp.legal[seen == o].all(axis=0)) for o in range(seen.max() + 1)]
    barred = [o for o, actions in enumerate(legal) if not len(actions)]
    if barred:
        raise UsageError(f"no action is legal in every state that is seen as {barred[0]}")
    return legal


def _seen(mdp: FiniteMDP, observation: ArrayLike) -> Ints:
    seen = np.asarray(observation)
    if seen.shape != (mdp.num_states,) or not np.issubdtype(seen.dtype, np.integer) or seen.min() < 0:
        raise UsageError(f"an observation map has shape ({mdp.num_states},), of integers from 0")
    return seen
