"""Random MDPs for hypothesis, and slow reference results for small ones that share no code with the
solvers."""

from itertools import product

import numpy as np
from hypothesis import strategies as st

from bellgrad.mdp.model import FiniteMDP

KINDS = ("dense", "sparse", "absorbing", "periodic")


def random_mdp(kind: str, states: int, actions: int, seed: int, *, illegal: bool = False) -> FiniteMDP:
    """Random probabilities and rewards per outcome.

    Dense and sparse ones go on forever; absorbing ones end with some outcomes of every pair, and stay in
    their last state for nothing; periodic ones go round, whatever is done.
    """
    rng = np.random.default_rng(seed)
    shape = (states, actions, states)
    terminated = np.zeros(shape, bool)
    if kind == "periodic":
        transition = np.broadcast_to(np.roll(np.eye(states), 1, axis=1)[:, None], shape)
    else:
        weight = rng.exponential(size=shape)
        if kind == "sparse":
            weight *= weight >= np.sort(weight, axis=2)[..., [-min(2, states)]]
        transition = weight / weight.sum(axis=2, keepdims=True)
    reward = rng.normal(size=shape).round(3)
    if kind == "absorbing":
        terminated = rng.random(shape) < 0.3
        terminated[..., rng.integers(states)] = True
        transition = transition.copy()
        transition[-1], reward[-1], terminated[-1] = np.eye(states)[-1], 0.0, False
    legal = np.ones((states, actions), bool)
    if illegal:
        legal = rng.random((states, actions)) < 0.5
        legal[np.arange(states), rng.integers(actions, size=states)] = True
    start = rng.exponential(size=states)
    return FiniteMDP.from_arrays(
        transition, reward, terminated=terminated, legal=legal, initial=start / start.sum()
    )


@st.composite
def mdps(draw, kinds=KINDS, max_states=6):
    states, actions, seed = (
        draw(st.integers(1, max_states)),
        draw(st.integers(1, 3)),
        draw(st.integers(0, 10**6)),
    )
    return random_mdp(draw(st.sampled_from(kinds)), states, actions, seed, illegal=draw(st.booleans()))


def random_policy(mdp: FiniteMDP, seed: int) -> np.ndarray:
    weight = np.random.default_rng(seed).exponential(size=mdp.legal.shape) * mdp.legal
    return weight / weight.sum(axis=1, keepdims=True)


def dense(mdp: FiniteMDP) -> tuple[np.ndarray, np.ndarray]:
    """Continuing probabilities `[S, A, S]` and expected rewards `[S, A]`, summed over the outcomes."""
    states, actions = mdp.num_states, mdp.num_actions
    transition, reward = np.zeros((states, actions, states)), np.zeros((states, actions))
    for pair in range(states * actions):
        for k in range(mdp.offset[pair], mdp.offset[pair + 1]):
            reward.flat[pair] += mdp.probability[k] * mdp.reward[k]
            if not mdp.terminated[k]:
                transition[pair // actions, pair % actions, mdp.next_state[k]] += mdp.probability[k]
    return transition, reward


def value_of(mdp: FiniteMDP, policy: np.ndarray, gamma: float) -> np.ndarray:
    """`[S]`, by a dense linear solve."""
    transition, reward = dense(mdp)
    chain = np.einsum("sa,sat->st", policy, transition)
    return np.linalg.solve(np.eye(mdp.num_states) - gamma * chain, (policy * reward).sum(axis=1))


def deterministic_policies(mdp: FiniteMDP) -> list[np.ndarray]:
    """All deterministic policies, `[S, A]` each."""
    choices = product(*(np.flatnonzero(row) for row in mdp.legal))
    return [np.eye(mdp.num_actions)[list(choice)] for choice in choices]
