"""Trajectories of a policy in a known MDP: their probabilities, all of them up to a horizon, and random ones.

    P(tau) = mu(s_0) * prod_t pi(a_t | s_t) * p(s_{t+1}, r_t, terminated_t | s_t, a_t)

There are three ways to compute the expected return: backward recursion (`finite_horizon_evaluation`), a sum
over all trajectories (`return_by_enumeration`), and a mean over random ones (`return_by_sampling`). The first
two agree exactly, the third up to its standard error. A trajectory ends with its episode or at the horizon.

Source: Sutton and Barto 2018, equation 3.2; Spinning Up, "Introduction to RL", the RL problem.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bellgrad.core.errors import UsageError
from bellgrad.mdp.checks import check_gamma, count
from bellgrad.mdp.finite_horizon import policy_by_step
from bellgrad.mdp.model import FiniteMDP, Floats, Ints, check_mdp


class Trajectory(NamedTuple):
    """One episode of `T` steps.

    Attributes:
        state: `T + 1` states, including the last.
        action: `T` actions.
        reward: `T` rewards.
        terminated: whether the last step ended the episode.
    """

    state: tuple[int, ...]
    action: tuple[int, ...]
    reward: tuple[float, ...]
    terminated: bool


class Trajectories(NamedTuple):
    """`B` episodes, one per column, padded at the end; every array is `[T, B]`.

    Attributes:
        state: integers; in the padding this and everything else is 0.
        action: integers.
        reward: float64.
        next_state: integers; not used after a termination.
        terminated: whether the step ended the episode.
        truncated: whether the horizon ended the episode.
        mask: whether the step was taken, False in the padding.
    """

    state: Ints
    action: Ints
    reward: Floats
    next_state: Ints
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    mask: NDArray[np.bool_]


class SampledReturn(NamedTuple):
    """A mean over random episodes.

    Attributes:
        mean: of the discounted returns.
        standard_error: of that mean.
        returns: `[N]` one per episode.
    """

    mean: float
    standard_error: float
    returns: Floats


def discounted_return(trajectory: Trajectory, gamma: float) -> float:
    """`sum_t gamma^t r_t`; gamma is in [0, 1]."""
    gamma = check_gamma(gamma)
    return sum(gamma**t * reward for t, reward in enumerate(trajectory.reward))


def log_probability(mdp: FiniteMDP, policy: ArrayLike, trajectory: Trajectory) -> float:
    """The logarithm of a trajectory's probability; -inf if it is impossible.

    Args:
        mdp: the problem.
        policy: `[S]` integers, `[S, A]` probabilities, or `[T, S, A]`, one policy per step.
        trajectory: the states, actions and rewards, and whether the episode ended; rewards are compared
            exactly.

    Raises:
        UsageError: the lengths do not fit together, or the policy does not fit this MDP.
    """
    states, actions, rewards, terminated = trajectory
    steps = len(actions)
    if len(states) != steps + 1 or len(rewards) != steps or (terminated and not steps):
        raise UsageError(
            f"{steps} actions, {len(states)} states and {len(rewards)} rewards are not a trajectory; it has"
            " one state more than actions"
        )
    probabilities = [check_mdp(mdp).initial[states[0]]]
    if steps:
        policies = policy_by_step(mdp, policy, steps)
    for t in range(steps):
        outcome = (states[t + 1], rewards[t], terminated and t == steps - 1)
        probabilities += [
            policies[t][states[t], actions[t]],
            _outcomes(mdp, states[t], actions[t]).get(outcome, 0.0),
        ]
    return sum(math.log(p) if p > 0 else -math.inf for p in probabilities)


def probability(mdp: FiniteMDP, policy: ArrayLike, trajectory: Trajectory) -> float:
    """A trajectory's probability; see `log_probability`, which does not underflow."""
    return math.exp(log_probability(mdp, policy, trajectory))


def enumerate_trajectories(
    mdp: FiniteMDP, policy: ArrayLike, horizon: int
) -> Iterator[tuple[Trajectory, float]]:
    """Every trajectory with a positive probability, and that probability. There are exponentially many: use
    small MDPs only.

    Args:
        mdp: the problem.
        policy: `[S]` integers, `[S, A]` probabilities, or `[H, S, A]`, one policy per step.
        horizon: steps `H`, 1 or more, after which a trajectory is truncated.

    Raises:
        UsageError: horizon is below 1, or the policy does not fit this MDP.
    """
    horizon = count("horizon", horizon)
    policies = policy_by_step(mdp, policy, horizon)
    unfinished = [
        (Trajectory((state,), (), (), False), mdp.initial[state])
        for state in np.flatnonzero(mdp.initial).tolist()
    ]
    while unfinished:
        trajectory, weight = unfinished.pop()
        t, state = len(trajectory.action), trajectory.state[-1]
        if trajectory.terminated or t == horizon:
            yield trajectory, float(weight)
            continue
        for action in np.flatnonzero(policies[t][state]).tolist():
            for (next_state, reward, terminated), p in _outcomes(mdp, state, action).items():
                longer = Trajectory(
                    (*trajectory.state, next_state),
                    (*trajectory.action, action),
                    (*trajectory.reward, reward),
                    terminated,
                )
                unfinished.append((longer, weight * policies[t][state, action] * p))


def return_by_enumeration(mdp: FiniteMDP, policy: ArrayLike, horizon: int, *, gamma: float = 1.0) -> float:
    """The expected return within a horizon, as the sum of probability times return over all trajectories; for
    the arguments see `enumerate_trajectories`."""
    return sum(
        p * discounted_return(trajectory, gamma)
        for trajectory, p in enumerate_trajectories(mdp, policy, horizon)
    )


def return_by_sampling(
    mdp: FiniteMDP, policy: ArrayLike, horizon: int, *, episodes: int, seed: int, gamma: float = 1.0
) -> SampledReturn:
    """The expected return within a horizon, as the mean of random episodes, which are stepped in parallel.

    Args:
        mdp: the problem.
        policy: `[S]` integers, `[S, A]` probabilities, or `[H, S, A]`, one policy per step.
        horizon: steps `H`, 1 or more, after which an episode is truncated.
        episodes: `N`, 2 or more, since one episode has no standard error.
        seed: of the random numbers.
        gamma: discount per step.

    Raises:
        UsageError: horizon or episodes is too small, or the policy does not fit this MDP.
    """
    gamma, episodes = check_gamma(gamma), count("episodes", episodes, 2)  # one has no standard error
    returns = np.zeros(episodes)
    for t, (running, _, _, outcome) in enumerate(_simulate(mdp, policy, horizon, episodes, seed)):
        returns[running] += gamma**t * mdp.reward[outcome]
    return SampledReturn(float(returns.mean()), float(returns.std(ddof=1) / math.sqrt(episodes)), returns)


def sample_trajectories(
    mdp: FiniteMDP, policy: ArrayLike, horizon: int, *, episodes: int, seed: int
) -> Trajectories:
    """Random episodes, which are stepped in parallel.

    Args:
        mdp: the problem.
        policy: `[S]` integers, `[S, A]` probabilities, or `[H, S, A]`, one policy per step.
        horizon: steps `H`, 1 or more, after which an episode is truncated.
        episodes: `B`, 1 or more.
        seed: of the random numbers.

    Returns:
        `Trajectories [T, B]`, with T the length of the longest episode, at most H.

    Raises:
        UsageError: horizon or episodes is too small, or the policy does not fit this MDP.
    """
    horizon, episodes = count("horizon", horizon), count("episodes", episodes)
    rows = []
    for running, state, action, outcome in _simulate(mdp, policy, horizon, episodes, seed):
        terminated = mdp.terminated[outcome]
        truncated = ~terminated if len(rows) == horizon - 1 else np.zeros_like(terminated)
        taken = (
            state,
            action,
            mdp.reward[outcome],
            mdp.next_state[outcome],
            terminated,
            truncated,
            np.ones_like(terminated),
        )
        rows.append([_scatter(values, running, episodes) for values in taken])
    return Trajectories(*(np.stack(column) for column in zip(*rows, strict=True)))


def _simulate(
    mdp: FiniteMDP, policy: ArrayLike, horizon: int, episodes: int, seed: int
) -> Iterator[tuple[Ints, Ints, Ints, Ints]]:
    """For each step: the episodes in progress, and their state, action and outcome."""
    policies = policy_by_step(mdp, policy, horizon)
    rng = np.random.default_rng(count("seed", seed, 0))
    rows = np.append(0, np.cumsum(mdp.probability))  # positions of the outcomes of all pairs on one line
    state = rng.choice(mdp.num_states, size=episodes, p=mdp.initial / mdp.initial.sum())
    running = np.arange(episodes)
    for probabilities in policies:
        action = _sample_rows(probabilities[state], rng)
        pair = state * mdp.num_actions + action
        first, last = mdp.offset[pair], mdp.offset[pair + 1]
        point = rows[first] + rng.random(len(pair)) * (rows[last] - rows[first])
        outcome = np.clip(np.searchsorted(rows, point, side="right") - 1, first, last - 1)
        yield running, state, action, outcome
        goes_on = ~mdp.terminated[outcome]
        running, state = running[goes_on], mdp.next_state[outcome][goes_on]
        if not len(running):
            return


def _scatter(values: NDArray, index: Ints, size: int) -> NDArray:
    """`[size]` with the values at `index` and 0 elsewhere."""
    out = np.zeros(size, values.dtype)
    out[index] = values
    return out


def _sample_rows(probabilities: Floats, rng: np.random.Generator) -> Ints:
    """One index per row of `[N, A]`, drawn with the row's probabilities: `[N]`."""
    upper = np.cumsum(probabilities, axis=1)
    return (rng.random((len(probabilities), 1)) * upper[:, -1:] >= upper).sum(axis=1)


def _outcomes(mdp: FiniteMDP, state: int, action: int) -> dict[tuple[int, float, bool], float]:
    """The probability of each next state, reward and `terminated`; outcomes that agree in all three are
    joined."""
    pair = state * mdp.num_actions + action
    probabilities: dict[tuple[int, float, bool], float] = {}
    for k in range(mdp.offset[pair], mdp.offset[pair + 1]):
        outcome = (int(mdp.next_state[k]), float(mdp.reward[k]), bool(mdp.terminated[k]))
        probabilities[outcome] = probabilities.get(outcome, 0.0) + float(mdp.probability[k])
    return {outcome: p for outcome, p in probabilities.items() if p > 0}
