"""Small MDPs from lectures and papers, and random ones of any size."""

from typing import Any

import numpy as np

from bellgrad.core.errors import UsageError
from bellgrad.mdp.build import index_type
from bellgrad.mdp.checks import count, number
from bellgrad.mdp.gridworld import gridworld
from bellgrad.mdp.model import FiniteMDP

CLIFF = [
    "............",
    "............",
    "............",
    "SXXXXXXXXXXG",
]
WINDY = [
    "..........",
    "..........",
    "..........",
    "S......G..",
    "..........",
    "..........",
    "..........",
]
# the walls around each cell of `vacuum_world`: north and west; north and south; north; ...
VACUUM_OBSERVATIONS = np.array([0, 1, 2, 1, 3])


def cliff_walking(**options: Any) -> FiniteMDP:
    """The cliff: every step costs 1; a step over the edge costs 100 and leads back to the start.

    `options` are those of `gridworld`.

    Source: Sutton and Barto 2018, example 6.6.
    """
    return gridworld(CLIFF, **{"step_reward": -1.0, "rewards": {"X": -100.0}} | options)


def windy_gridworld(**options: Any) -> FiniteMDP:
    """The windy grid: every step costs 1, and the wind blows upwards in the middle.

    `options` are those of `gridworld`.

    Source: Sutton and Barto 2018, example 6.5.
    """
    return gridworld(
        WINDY, **{"step_reward": -1.0, "rewards": {}, "wind": [0, 0, 0, 1, 1, 1, 2, 2, 1, 0]} | options
    )


def corridor() -> FiniteMDP:
    """Five states in a row, from left to right, with one expensive step: from 3 to 4.

    The actions are L and R; the start is state 1, in which L stays. A step costs 1, R in state 3 costs 10,
    and both actions in state 5 end the episode at no cost. The optimal values are -13, -12, -11, -1 and 0,
    undiscounted.
    """

    def outcomes(state: int, action: int) -> list[tuple[float, int, float, bool]]:
        if state == 4:
            return [(1.0, state, 0.0, True)]
        return [
            (1.0, state + 1, 10.0 if state == 2 else 1.0, False)
            if action
            else (1.0, max(state - 1, 0), 1.0, False)
        ]

    names = {"state_names": tuple("12345"), "action_names": ("L", "R"), "grid": (1, 5)}
    return FiniteMDP.from_function(5, 2, outcomes, initial=0, costs=True, **names)


def vacuum_world(*, hamster: float = -1.0) -> FiniteMDP:
    """A robot in a corridor of five cells, with dust south of the middle and a hamster south of each end.

    The actions are north, east, south and west; walls stop the robot, and it can go south from three cells
    only. From the middle it sucks up the dust, with reward 1, and from an end the hamster; both end the
    episode. It begins in a random cell except the middle, and the time limit is 20 steps. The robot observes
    which sides of its cell are walls (`VACUUM_OBSERVATIONS`). So the second and the fourth cell look the
    same, although the dust is east of one and west of the other.

    Args:
        hamster: reward for sucking up a hamster. With 0 an undiscounted return is 1 or 0, and its mean is the
            probability of success; with a negative reward, the mean is at most that.

    Source: the aliased grid world in Silver 2015, "Lectures on reinforcement learning", lecture 7, as a
    corridor.
    """
    hamster = number("hamster", hamster)
    below = {0: hamster, 2: 1.0, 4: hamster}
    steps = {1: 1, 3: -1}  # east, west

    def outcomes(state: int, action: int) -> list[tuple[float, int, float, bool]]:
        if action == 2 and state in below:
            return [(1.0, state, below[state], True)]
        return [(1.0, min(max(state + steps.get(action, 0), 0), 4), 0.0, False)]

    names = {
        "state_names": tuple("12345"),
        "action_names": ("north", "east", "south", "west"),
        "grid": (1, 5),
    }
    return FiniteMDP.from_function(
        5, 4, outcomes, initial=[0.25, 0.25, 0, 0.25, 0.25], max_episode_steps=20, **names
    )


def random_walk(num_states: int = 5, *, left: float = 0.0, right: float = 1.0) -> FiniteMDP:
    """A random walk in a row of states, which begins in the middle and has one action.

    Each step goes left or right with equal probability; leaving the row ends the episode. The value of the
    i-th of n states, from 1, is `left + (right - left) * i / (n + 1)`, undiscounted.

    Args:
        num_states: number of states; odd, so that there is a middle.
        left: reward for leaving at the left end; every step within the row has reward 0.
        right: reward for leaving at the right end.

    Source: Sutton and Barto 2018, example 6.2 (5 states, 0 and 1) and example 7.1 (19 states, -1 and 1).
    """
    num_states, left, right = count("num_states", num_states), number("left", left), number("right", right)
    if num_states % 2 == 0:
        raise UsageError(f"num_states = {num_states} must be odd, since the walk begins in the middle")
    last = num_states - 1

    def outcomes(state: int, action: int) -> list[tuple[float, int, float, bool]]:
        to_left = (0.5, state, left, True) if state == 0 else (0.5, state - 1, 0.0, False)
        to_right = (0.5, state, right, True) if state == last else (0.5, state + 1, 0.0, False)
        return [to_left, to_right]

    return FiniteMDP.from_function(
        num_states, 1, outcomes, initial=num_states // 2, action_names=("walk",), grid=(1, num_states)
    )


def chain(num_states: int = 5, *, slip: float = 0.2, small: float = 2.0, large: float = 10.0) -> FiniteMDP:
    """A chain that is hard to explore: the path to the large reward earns nothing.

    `forward` goes to the next state at reward 0, and in the last state stays there for `large`; `back`
    returns to the first state for `small`. With probability `slip` an action has the effect of the other.
    Episodes do not end.

    Args:
        num_states: number of states.
        slip: in [0, 1].
        small: reward of going back.
        large: reward of `forward` in the last state.

    Source: Strens 2000, "A Bayesian framework for reinforcement learning", figure 1.
    """
    num_states, slip = count("num_states", num_states), number("slip", slip)
    small, large = number("small", small), number("large", large)
    if not 0 <= slip <= 1:
        raise UsageError(f"slip = {slip} is out of range [0, 1]")
    last = num_states - 1

    def outcomes(state: int, action: int) -> list[tuple[float, int, float, bool]]:
        forward = (min(state + 1, last), large if state == last else 0.0, False)
        back = (0, small, False)
        intended, other = (back, forward) if action else (forward, back)
        return [(1 - slip, *intended), (slip, *other)] if slip else [(1.0, *intended)]

    names = {"action_names": ("forward", "back"), "grid": (1, num_states)}
    return FiniteMDP.from_function(num_states, 2, outcomes, initial=0, **names)


def garnet(num_states: int, num_actions: int, successors: int, *, seed: int) -> FiniteMDP:
    """A random MDP: each pair leads to `successors` different states, uniformly drawn.

    Probabilities are the gaps between uniform cuts of the unit interval. Each outcome has a standard normal
    reward. The first state is uniformly random, and episodes do not end.

    Args:
        num_states: `S`.
        num_actions: `A`.
        successors: next states of each pair, 1 to `S`.
        seed: of all random numbers; the same seed and sizes give the same MDP with the same version of NumPy.

    Raises:
        UsageError: `successors` is out of range.

    Source: Archibald, McKinnon and Thomas 1995, "On the generation of Markov decision processes"; rewards as
        in Bhatnagar et al. 2009, "Natural actor-critic algorithms", section 8. Successors: Floyd's sample, in
        Bentley and Floyd 1987, "Programming pearls: a sample of brilliance".
    """
    num_states, num_actions = count("num_states", num_states), count("num_actions", num_actions)
    successors, seed = count("successors", successors, 0), count("seed", seed, 0)
    if not 1 <= successors <= num_states:
        raise UsageError(f"successors = {successors} is out of range [1, {num_states}], the number of states")
    rng = np.random.default_rng(seed)
    pairs = num_states * num_actions
    index = index_type(pairs * successors)
    chosen = np.empty((pairs, successors), index)
    for k in range(successors):
        newest = num_states - successors + k
        drawn = rng.integers(newest + 1, size=pairs, dtype=index)
        taken = (chosen[:, :k] == drawn[:, None]).any(axis=1)
        chosen[:, k] = np.where(taken, newest, drawn)
    chosen.sort(axis=1)
    # The gaps between uniform cuts are distributed like exponential numbers divided by their sum, which need
    # no sorting.
    probability = rng.standard_exponential((pairs, successors))
    probability /= probability.sum(axis=1, keepdims=True)
    return FiniteMDP(
        num_actions,
        np.arange(0, pairs * successors + 1, successors, dtype=index),
        probability.ravel(),
        chosen.ravel(),
        rng.standard_normal(pairs * successors),
        np.zeros(pairs * successors, bool),
        np.full(num_states, 1 / num_states),
    )
