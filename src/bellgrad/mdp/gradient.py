"""The exact expected return of a policy from the start distribution, its state distribution, and the policy
gradient.

    J(pi) = sum_s mu(s) V(s)            d(s) = sum_t gamma^t P(s_t = s)
    dJ = sum_s d(s) sum_a dpi(a | s) Q(s, a)

with mu the distribution of the first state and d the discounted number of visits. V and d solve the same
sparse equations, one from the right and one from the left, so that one factorization gives both. The discount
may be 1 if the episode ends from every state.

Source: Sutton et al. 2000, "Policy gradient methods for reinforcement learning with function approximation",
theorem 1.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from bellgrad.core.errors import UsageError
from bellgrad.mdp.chains import LeavingEquations
from bellgrad.mdp.checks import array, check_gamma
from bellgrad.mdp.components import next_towards
from bellgrad.mdp.model import FiniteMDP, Floats, check_mdp
from bellgrad.mdp.policies import advantage, as_policy, induced_chain, q_from_value


@dataclass(frozen=True, eq=False)
class _Exact:
    """A policy `[S, A]` with its value `[S]` and its discounted number of visits `[S]`."""

    policy: Floats
    value: Floats
    visits: Floats


def expected_return(mdp: FiniteMDP, policy: ArrayLike, gamma: float) -> float:
    """`J(pi)`: the expected discounted return of an episode, from the start distribution.

    Args:
        mdp: the problem.
        policy: `[S]` integers or `[S, A]` probabilities.
        gamma: discount per step, in [0, 1]; 1 only if the policy ends every episode.

    Raises:
        UsageError: gamma is out of range, or it is 1 and an episode may go on forever; names the state.
    """
    value = _exact(mdp, policy, gamma).value
    return float(mdp.initial @ value)


def state_distribution(mdp: FiniteMDP, policy: ArrayLike, gamma: float, *, normalized: bool = True) -> Floats:
    """`d(s)`, the discounted visits of a policy to each state, `gamma^t` for a visit after t steps: `[S]`.

    Args:
        mdp: the problem.
        policy: `[S]` integers or `[S, A]` probabilities.
        gamma: discount per step, in [0, 1].
        normalized: whether to multiply by `1 - gamma`. The result is then the distribution of the state at a
            random time that is geometric with gamma; its sum is below one by the probability that the episode
            is over by then. Otherwise it is the expected number of visits, which the policy gradient needs.

    Raises:
        UsageError: gamma is out of range, or it is 1 and the policy may go on forever, or it is 1 and
            `normalized` is true.
    """
    gamma = check_gamma(gamma)
    if normalized and gamma == 1:
        raise UsageError(
            "gamma = 1 cannot be normalized: use normalized=False for the expected number of visits"
        )
    return _exact(mdp, policy, gamma).visits * (1 - gamma if normalized else 1)


def softmax_policy(mdp: FiniteMDP, theta: Floats) -> Floats:
    """`pi(a | s)` proportional to `exp(theta(s, a))` over the legal actions: `[S, A]` from `[S, A]`.

    Raises:
        UsageError: theta has another shape or is not finite.
    """
    legal = check_mdp(mdp).legal
    theta = np.where(legal, array("theta", theta, legal.shape), -np.inf)
    weight = np.exp(theta - theta.max(axis=1, keepdims=True))
    return weight / weight.sum(axis=1, keepdims=True)


def softmax_gradient(mdp: FiniteMDP, theta: Floats, gamma: float) -> Floats:
    """The gradient of J with respect to the parameters of `softmax_policy`: `d(s) pi(a | s) A(s, a)`.

    Args:
        mdp: the problem.
        theta: `[S, A]`; entries of illegal actions have no effect.
        gamma: discount per step, in [0, 1].

    Returns:
        `[S, A]`.

    Raises:
        UsageError: gamma is out of range, or it is 1 and an episode may go on forever, or theta has another
            shape or is not finite.

    Source: Agarwal et al. 2021, "On the theory of policy gradient methods", equation 10 (there with the
    normalized d).
    """
    exact = _exact(mdp, softmax_policy(mdp, theta), gamma)
    gain = advantage(q_from_value(mdp, exact.value, gamma), exact.policy)
    return exact.visits[:, None] * exact.policy * np.where(mdp.legal, gain, 0.0)


def policy_gradient(mdp: FiniteMDP, policy: ArrayLike, jacobian: Floats, gamma: float) -> Floats:
    """The gradient of J with respect to the parameters of any policy.

    Args:
        mdp: the problem.
        policy: `[S, A]` probabilities.
        jacobian: `[S, A, *D]`, the derivative of each probability with respect to the parameters, whose
            shape is `D`; 0 for illegal actions.
        gamma: discount per step, in [0, 1].

    Returns:
        `[*D]`.

    Raises:
        UsageError: gamma is out of range, or it is 1 and an episode may go on forever, or an array has the
            wrong shape or is not finite.
    """
    exact, jacobian = _exact(mdp, policy, gamma), array("jacobian", jacobian)
    if jacobian.shape[:2] != mdp.legal.shape:
        raise UsageError(f"jacobian has shape {jacobian.shape}; it must begin with {mdp.legal.shape}")
    q = np.where(mdp.legal, q_from_value(mdp, exact.value, gamma), 0.0)
    return np.tensordot(exact.visits[:, None] * q, jacobian, axes=2)


def _exact(mdp: FiniteMDP, policy: ArrayLike, gamma: float) -> _Exact:
    gamma = check_gamma(gamma)
    policy = as_policy(mdp, policy)
    chain, reward = induced_chain(mdp, policy)
    leaving = 1 - gamma * chain.sum(axis=1)
    if gamma == 1:
        leaving = (policy * mdp.ending).sum(axis=1)  # not a difference, so that it keeps its digits
        source, target = chain.nonzero()
        endless = next_towards(leaving > 0, source, target) < 0
        if endless.any():
            raise UsageError(
                f"from {mdp.state_name(endless.argmax())} the policy never ends the episode; use a discount"
                " below 1"
            )
    equations = LeavingEquations(gamma * chain, leaving)
    return _Exact(policy, equations.solve(reward), equations.solve(mdp.initial, transposed=True))
