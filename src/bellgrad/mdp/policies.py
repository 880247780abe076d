"""Tabular policies, and how values, action values and policies follow from each other. Axes: `S` states, `A`
actions.

A policy is an array `[S, A]` whose rows are probabilities, 0 for illegal actions; or `[S]` integers, an
action for each state.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from bellgrad.core.errors import UsageError
from bellgrad.mdp import kernels
from bellgrad.mdp.checks import PROBABILITY_TOLERANCE, array, as_numbers, check_gamma, count, number
from bellgrad.mdp.kernels import limited_threads
from bellgrad.mdp.model import FiniteMDP, Floats, check_mdp

# Units in the last place of the size of a sum's terms: smaller differences are rounding.
ROUNDING = 4
EPSILON = float(np.finfo(float).eps)


def as_policy(mdp: FiniteMDP, policy: ArrayLike) -> Floats:
    """A policy as probabilities `[S, A]`, checked.

    Args:
        mdp: the problem.
        policy: `[S]` integers or `[S, A]` probabilities.

    Raises:
        UsageError: the shape is wrong, a row is not a distribution, or an illegal action may be chosen; names
            the state.
    """
    mdp, policy = check_mdp(mdp), as_numbers("policy", policy)
    states, actions = mdp.num_states, mdp.num_actions
    if policy.shape == (states,) and policy.dtype.kind in "iu":
        wrong = (policy < 0) | (policy >= actions)
        if wrong.any():
            raise UsageError(
                f"{mdp.state_name(wrong.argmax())}: the policy's action is {policy[wrong.argmax()]}, but"
                f" there are {actions}"
            )
        policy = np.eye(actions)[policy]
    if policy.shape != (states, actions):
        raise UsageError(
            f"a policy has shape ({states}, {actions}), or ({states},) of integers; this one has shape"
            f" {policy.shape} and is of {policy.dtype}"
        )
    wrong = ~((policy >= 0).all(axis=1) & (np.abs(policy.sum(axis=1) - 1) <= PROBABILITY_TOLERANCE))
    if wrong.any():
        raise UsageError(
            f"{mdp.state_name(wrong.argmax())}: the policy's row {policy[wrong.argmax()]} is not a"
            " distribution"
        )
    illegal = (policy > 0) & ~mdp.legal
    if illegal.any():
        raise UsageError(
            f"{mdp.place(illegal.argmax())}: the policy may choose this action, which is illegal"
        )
    return policy.astype(float)


def uniform_policy(mdp: FiniteMDP) -> Floats:
    """`[S, A]`: every legal action with the same probability."""
    return equal_chances(mdp.legal)


def greedy_policy(q: Floats, tie: float | Floats = 0.0) -> Floats:
    """The best actions of each row, with equal probabilities.

    Args:
        q: `[..., A]`, -inf if an action is illegal.
        tie: actions whose value is within this of the best count as best; a number or `[...]`. A few units
            in the last place of the best are added, for rounding.

    Returns:
        `[..., A]` probabilities.

    Raises:
        UsageError: a value is NaN or +inf, a row has no legal action, or `tie` is below 0.
    """
    q, tie = _action_values(q), array("tie", tie)
    if not (tie >= 0).all():
        raise UsageError(f"tie = {tie} must be 0 or more")
    best = q.max(axis=-1, keepdims=True)
    good = q >= best - tie[..., None] - ROUNDING * EPSILON * np.abs(best)
    return equal_chances(good)


def _action_values(q: ArrayLike) -> Floats:
    """`[..., A]`, checked."""
    checked = array("q", q, minus_inf=True)
    if checked.ndim < 1 or not (checked > -np.inf).any(axis=-1).all():
        raise UsageError("q must be values [..., A] with a legal action, above -inf, in every row")
    return checked


def best_actions(
    mdp: FiniteMDP, q: Floats, value: Floats, gamma: float, error: Floats | float = 0.0
) -> NDArray[np.bool_]:
    """The actions that are the best of their state, or that only rounding or errors of the values may
    separate from it.

    The difference of two actions with transition probabilities `p` and `p'` is uncertain by `gamma * sum_s
    |p(s) - p'(s)| error(s)`, so that errors do not matter for actions that lead to the same states. Rounding
    is a few units in the last place of the size of the terms, `E|r| + gamma * E|value(s')|`.

    Args:
        mdp: the problem.
        q: `[S, A]`, one step of lookahead from `value`.
        value: `[S]`.
        gamma: discount per step.
        error: of the value, in every state or `[S]`.

    Returns:
        `[S, A]`, at least one per state.
    """
    found, size = np.empty(q.shape, np.int8), np.abs(value, dtype=float)
    error = np.full(value.shape, error) if np.ndim(error) == 0 else error
    most_reward = max(-mdp.reward.min(), mdp.reward.max())
    # twice, for probabilities that sum to a little more than 1
    most = 2 * (ROUNDING * EPSILON * (most_reward + size.max()) + 2 * error.max())
    with limited_threads(mdp):
        kernels.compare_with_best(
            mdp.offset, mdp.probability, mdp.continuing, mdp.next_state, mdp.reward, gamma,
            size, error, q, ROUNDING * EPSILON, most, found,
        )  # fmt: skip
    good = found == 1
    pair = np.flatnonzero(found == 2)
    if pair.size:
        state = pair // mdp.num_actions
        best = state * mdp.num_actions + q[state].argmax(axis=1)
        apart = kernels.distance(mdp.offset, mdp.continuing, mdp.next_state, error, pair, best)
        good.flat[pair] = q.flat[best] - q.flat[pair] <= gamma * apart
    return good


def equal_chances(actions: NDArray[np.bool_]) -> Floats:
    """The policy that takes each of the marked actions with the same probability: `[..., A]`."""
    return actions / actions.sum(axis=-1, keepdims=True)


def epsilon_greedy_policy(q: Floats, epsilon: float) -> Floats:
    """Greedy with probability `1 - epsilon`, otherwise a random legal action: `[..., A]` from `q [..., A]`,
    -inf if illegal.

    Raises:
        UsageError: epsilon is not in [0, 1], or a value is NaN or +inf, or a row has no legal action.

    Source: Sutton and Barto 2018, section 5.4.
    """
    if not 0 <= number("epsilon", epsilon) <= 1:
        raise UsageError(f"epsilon = {epsilon} is out of range [0, 1]")
    legal = _action_values(q) > -np.inf
    return (1 - epsilon) * greedy_policy(q) + epsilon * legal / legal.sum(axis=-1, keepdims=True)


def q_from_value(mdp: FiniteMDP, value: Floats, gamma: float) -> Floats:
    """One step of lookahead: `q(s, a) = r(s, a) + gamma * E[value(s')]`, with value 0 after the end of an
    episode.

    Args:
        mdp: the problem.
        value: `[S]`.
        gamma: discount per step.

    Returns:
        `[S, A]`, -inf if the action is illegal.

    Raises:
        UsageError: the value has another shape or is not finite, or gamma is out of range.

    Source: Sutton and Barto 2018, equation 4.6.
    """
    value = array("value", value, (check_mdp(mdp).num_states,))
    q = mdp.expected_reward + check_gamma(gamma) * (mdp.transition @ value).reshape(mdp.legal.shape)
    return np.where(mdp.legal, q, -np.inf)


def value_from_q(q: Floats, policy: Floats) -> Floats:
    """`V(s) = E_a Q(s, a)` under a policy: `[...]` from two arrays `[..., A]`; actions with probability 0 are
    ignored."""
    return np.multiply(policy, q, where=policy > 0, out=np.zeros(q.shape)).sum(axis=-1)


def advantage(q: Floats, policy: Floats) -> Floats:
    """`A(s, a) = Q(s, a) - E_a Q(s, a)`: `[..., A]`, -inf if the action is illegal."""
    return q - value_from_q(q, policy)[..., None]


def bellman(mdp: FiniteMDP, value: Floats, gamma: float, policy: ArrayLike | None = None) -> Floats:
    """The Bellman operator: the optimal one, `max_a q(s, a)`, or that of a policy, `E_a q(s, a)`.

    Both are monotone. With gamma below 1 they are contractions by gamma in the sup norm.

    Args:
        mdp: the problem.
        value: `[S]`.
        gamma: discount per step.
        policy: None, `[S]` integers or `[S, A]` probabilities.

    Returns:
        `[S]`.

    Source: Puterman 1994, equations 6.2.3 and 6.1.5.
    """
    q = q_from_value(mdp, value, gamma)
    return q.max(axis=1) if policy is None else value_from_q(q, as_policy(mdp, policy))


def greedy(mdp: FiniteMDP, value: Floats, depth: int = 1, *, gamma: float, tie: float = 0.0) -> Floats:
    """The greedy policy from `depth` steps of lookahead over every outcome, with `value` at the leaves; tied
    actions share the probability.

    With depth 1 and the value of a policy, the result is at least as good as that policy in every state, and
    strictly better in some state unless it is optimal.

    Args:
        mdp: the problem.
        value: `[S]`.
        depth: steps, 1 or more.
        gamma: discount per step.
        tie: actions whose value is within this of the best count as tied.

    Returns:
        `[S, A]` probabilities.

    Raises:
        UsageError: depth or gamma is out of range.

    Source: Sutton and Barto 2018, section 4.2 (policy improvement); Bertsekas 2019, section 2.2 (multistep
    lookahead).
    """
    gamma = check_gamma(gamma)
    for _ in range(count("depth", depth) - 1):
        value = bellman(mdp, value, gamma)
    q = q_from_value(mdp, value, gamma)
    if tie:
        return greedy_policy(q, tie)
    return equal_chances(best_actions(mdp, q, value, gamma, (depth - 1) * EPSILON * np.abs(value).max()))


def induced_chain(mdp: FiniteMDP, policy: Floats) -> tuple[sparse.csr_array, Floats]:
    """The Markov chain and the rewards of an MDP under a policy.

    Args:
        mdp: the problem.
        policy: `[S, A]` probabilities.

    Returns:
        `[S, S]` the probability that the episode continues in each next state, and `[S]` the expected reward
        per step.
    """
    states, actions = policy.shape
    pairs = np.arange(states * actions)
    choice = sparse.csr_array(
        (policy.ravel(), pairs, np.arange(states + 1) * actions), shape=(states, states * actions)
    )
    chain = choice @ mdp.transition
    chain.eliminate_zeros()
    return chain, (policy * mdp.expected_reward).sum(axis=1)
