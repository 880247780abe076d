"""What the tests of MDPs compare with: outcomes as Python lists, and value iteration as in the book."""

import numpy as np

from bellgrad.mdp.model import FiniteMDP


def outcomes(mdp: FiniteMDP, state: int, action: int) -> list[tuple[float, int, float, bool]]:
    """The outcomes of a pair, in order, like an entry of Gymnasium's `P`."""
    first, last = mdp.offset[state * mdp.num_actions + action : state * mdp.num_actions + action + 2]
    columns = (mdp.probability, mdp.next_state, mdp.reward, mdp.terminated)
    return list(zip(*(column[first:last].tolist() for column in columns), strict=True))


def same_outcomes(one: FiniteMDP, other: FiniteMDP) -> bool:
    """Whether two MDPs have the same outcomes in the same order, and the same start distribution."""
    names = ("num_actions", "offset", "probability", "next_state", "reward", "terminated", "initial")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def optimal_q(mdp: FiniteMDP, gamma: float, sweeps: int) -> np.ndarray:
    """`[S, A]` after `sweeps` sweeps from zero; -inf if the action is illegal."""
    value = np.zeros(mdp.num_states)
    for _ in range(sweeps):
        q = mdp.expected_reward + gamma * (mdp.transition @ value).reshape(mdp.expected_reward.shape)
        q = np.where(mdp.legal, q, -np.inf)
        value = q.max(axis=1)
    return q


def policy_value(mdp: FiniteMDP, action: np.ndarray, gamma: float) -> np.ndarray:
    """`[S]` of the policy that takes `action[s]`, by the linear equations."""
    pairs = np.arange(mdp.num_states) * mdp.num_actions + action
    here = mdp.transition[pairs].toarray()
    return np.linalg.solve(np.eye(mdp.num_states) - gamma * here, mdp.expected_reward.ravel()[pairs])
