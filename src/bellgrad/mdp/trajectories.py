"""Trajectories of a policy in a known MDP: how probable each is, all of them up to a horizon, and random
ones.

    P(tau) = mu(s_0) * prod_t pi(a_t | s_t) * p(s_{t+1}, r_t, terminated_t | s_t, a_t)

The expected return comes out the same in three ways, the third up to chance: solved backwards
(`finite_horizon_evaluation`), summed over all trajectories (`return_by_enumeration`), and averaged over
random ones (`return_by_sampling`). A trajectory ends where its episode does, or at the horizon.

Source: Sutton and Barto 2018, equation 3.2; Spinning Up, "Introduction to RL", the RL problem.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bellgrad.core.errors import UsageError
from bellgrad.mdp.finite_horizon import policy_by_step
from bellgrad.mdp.model import FiniteMDP, Floats, Ints


class Trajectory(NamedTuple):
    """What happened in `T` steps.

    Attributes:
        state: `T + 1` states, the last one as well.
        action: `T` actions.
        reward: `T` rewards.
        terminated: whether the last step ended the episode.
    """

    state: tuple[int, ...]
    action: tuple[int, ...]
    reward: tuple[float, ...]
    terminated: bool


class Trajectories(NamedTuple):
    """What happened in `B` episodes, one a column, padded at its end; every array is `[T, B]`.

    Attributes:
        state: integers, 0 on padding like everything else.
        action: integers.
        reward: float64.
        next_state: integers, where the step led; after a termination it counts for nothing.
        terminated: whether the step ended the episode.
        truncated: whether the horizon did.
        mask: whether the step was taken.
    """

    state: Ints
    action: Ints
    reward: Floats
    next_state: Ints
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    mask: NDArray[np.bool_]


class Sampled(NamedTuple):
    """A mean over random episodes.

    Attributes:
        mean: of the discounted returns.
        standard_error: of that mean.
        returns: `[N]` one an episode.
    """

    mean: float
    standard_error: float
    returns: Floats


def discounted_return(trajectory: Trajectory, gamma: float) -> float:
    """`sum_t gamma^t r_t`."""
    return sum(gamma**t * reward for t, reward in enumerate(trajectory.reward))


def log_probability(mdp: FiniteMDP, policy: ArrayLike, trajectory: Trajectory) -> float:
    """The logarithm of a trajectory's probability: -inf where it cannot happen.

    Args:
        mdp: the problem.
        policy: `[S]` integers, `[S, A]` probabilities, or `[T, S, A]`, one for each step.
        trajectory: the states, actions and rewards, and whether the episode was over; rewards are compared
            exactly.

    Raises:
        UsageError: the lengths do not fit together, or the policy is none of this MDP.
    """
    states, actions, rewards, terminated = trajectory
    steps = len(actions)
    if len(states) != steps + 1 or len(rewards) != steps or (terminated and not steps):
        raise UsageError(
            f"{steps} actions, {len(states)} states and {len(rewards)} rewards are no trajectory; states are"
            " one more"
        )
    chances = [mdp.initial[states[0]]]
    if steps:
        policies = policy_by_step(mdp, policy, steps)
    for t in range(steps):
        outcome = (states[t + 1], rewards[t], terminated and t == steps - 1)
        chances += [
            policies[t][states[t], actions[t]],
            _outcomes(mdp, states[t], actions[t]).get(outcome, 0.0),
        ]
    return sum(math.log(chance) if chance > 0 else -math.inf for chance in chances)


def probability(mdp: FiniteMDP, policy: ArrayLike, trajectory: Trajectory) -> float:
    """A trajectory's probability; see `log_probability`, which does not underflow."""
    return math.exp(log_probability(mdp, policy, trajectory))


def enumerate_trajectories(
    mdp: FiniteMDP, policy: ArrayLike, horizon: int
) -> Iterator[tuple[Trajectory, float]]:
    """Every trajectory of positive probability, and that probability. There are exponentially many: for small
    MDPs.

    Args:
        mdp: the problem.
        policy: `[S]` integers, `[S, A]` probabilities, or `[H, S, A]`, one for each step.
        horizon: steps `H`, 1 or more, after which a trajectory is cut.

    Raises:
        UsageError: horizon is below 1, or the policy is none of this MDP.
    """
    policies = policy_by_step(mdp, policy, horizon)
    unfinished = [
        (Trajectory((state,), (), (), False), mdp.initial[state])
        for state in np.flatnonzero(mdp.initial).tolist()
    ]
    while unfinished:
        trajectory, chance = unfinished.pop()
        t, state = len(trajectory.action), trajectory.state[-1]
        if trajectory.terminated or t == horizon:
            yield trajectory, float(chance)
            continue
        for action in np.flatnonzero(policies[t][state]).tolist():
            for (next_state, reward, terminated), p in _outcomes(mdp, state, action).items():
                longer = Trajectory(
                    (*trajectory.state, next_state),
                    (*trajectory.action, action),
                    (*trajectory.reward, reward),
                    terminated,
                )
                unfinished.append((longer, chance * policies[t][state, action] * p))


def return_by_enumeration(mdp: FiniteMDP, policy: ArrayLike, horizon: int, *, gamma: float = 1.0) -> float:
    """`J` within a horizon as the sum over all trajectories of probability times return; arguments as
    elsewhere here."""
    return sum(
        chance * discounted_return(way, gamma) for way, chance in enumerate_trajectories(mdp, policy, horizon)
    )


def return_by_sampling(
    mdp: FiniteMDP, policy: ArrayLike, horizon: int, *, episodes: int, seed: int, gamma: float = 1.0
) -> Sampled:
    """`J` within a horizon as the mean of random episodes, all of them stepped side by side.

    Args:
        mdp: the problem.
        policy: `[S]` integers, `[S, A]` probabilities, or `[H, S, A]`, one for each step.
        horizon: steps `H`, 1 or more, after which an episode is cut.
        episodes: `N`, 2 or more, for there is no standard error of one.
        seed: of the random numbers.
        gamma: discount per step.

    Raises:
        UsageError: horizon or episodes is too small, or the policy is none of this MDP.
    """
    if episodes < 2:
        raise UsageError(f"episodes = {episodes}; at least 2 are needed for a standard error")
    returns = np.zeros(episodes)
    for t, (running, _, _, outcome) in enumerate(_walk(mdp, policy, horizon, episodes, seed)):
        returns[running] += gamma**t * mdp.reward[outcome]
    return Sampled(float(returns.mean()), float(returns.std(ddof=1) / math.sqrt(episodes)), returns)


def sample_trajectories(
    mdp: FiniteMDP, policy: ArrayLike, horizon: int, *, episodes: int, seed: int
) -> Trajectories:
    """Random episodes, all of them stepped side by side.

    Args:
        mdp: the problem.
        policy: `[S]` integers, `[S, A]` probabilities, or `[H, S, A]`, one for each step.
        horizon: steps `H`, 1 or more, after which an episode is truncated.
        episodes: `B`, 1 or more.
        seed: of the random numbers.

    Returns:
        `Trajectories [T, B]`, with T the length of the longest episode, at most H.

    Raises:
        UsageError: horizon or episodes is too small, or the policy is none of this MDP.
    """
    if episodes < 1:
        raise UsageError(f"episodes = {episodes}; at least 1 is needed")
    rows = []
    for running, state, action, outcome in _walk(mdp, policy, horizon, episodes, seed):
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


def _walk(
    mdp: FiniteMDP, policy: ArrayLike, horizon: int, episodes: int, seed: int
) -> Iterator[tuple[Ints, Ints, Ints, Ints]]:
    """Step by step: which episodes go on, and their state, action and outcome."""
    policies = policy_by_step(mdp, policy, horizon)
    rng = np.random.default_rng(seed)
    rows = np.append(0, np.cumsum(mdp.probability))  # where the outcomes of all pairs lie on one line
    state = rng.choice(mdp.num_states, size=episodes, p=mdp.initial / mdp.initial.sum())
    running = np.arange(episodes)
    for chances in policies:
        action = _draw(chances[state], rng)
        pair = state * mdp.num_actions + action
        first, last = mdp.offset[pair], mdp.offset[pair + 1]
        point = rows[first] + rng.random(len(pair)) * (rows[last] - rows[first])
        outcome = np.clip(np.searchsorted(rows, point, side="right") - 1, first, last - 1)
        yield running, state, action, outcome
        goes_on = ~mdp.terminated[outcome]
        running, state = running[goes_on], mdp.next_state[outcome][goes_on]
        if not len(running):
            return


def _scatter(values: NDArray, place: Ints, size: int) -> NDArray:
    """`[size]` with the values at their places and 0 elsewhere."""
    out = np.zeros(size, values.dtype)
    out[place] = values
    return out


def _draw(chances: Floats, rng: np.random.Generator) -> Ints:
    """One index a row of `[N, A]`, with the row's probabilities: `[N]`."""
    upper = np.cumsum(chances, axis=1)
    return (rng.random((len(chances), 1)) * upper[:, -1:] >= upper).sum(axis=1)


def _outcomes(mdp: FiniteMDP, state: int, action: int) -> dict[tuple[int, float, bool], float]:
    """The probability of each next state, reward and ending; outcomes that agree in all three are one."""
    pair = state * mdp.num_actions + action
    chances: dict[tuple[int, float, bool], float] = {}
    for k in range(mdp.offset[pair], mdp.offset[pair + 1]):
        outcome = (int(mdp.next_state[k]), float(mdp.reward[k]), bool(mdp.terminated[k]))
        chances[outcome] = chances.get(outcome, 0.0) + float(mdp.probability[k])
    return {outcome: chance for outcome, chance in chances.items() if chance > 0}
