"""Small MDPs with their solutions."""

from dataclasses import replace

import numpy as np
import pytest

from bellgrad.mdp.model import FiniteMDP
from bellgrad.mdp.solution import Solution


def mdp_of(num_states, num_actions, outcomes, initial, **described):
    """A `FiniteMDP` from a function `(s, a) -> [(p, s', r, terminated)]`, given a start state or None for
    any."""
    start = np.full(num_states, 1 / num_states) if initial is None else np.eye(num_states)[initial]
    return FiniteMDP.from_function(num_states, num_actions, outcomes, initial=start, **described)


@pytest.fixture
def solved():
    """Value iteration in a few lines."""

    def solve(mdp, gamma=1.0, sweeps=None):
        value = np.zeros(mdp.num_states)
        for iteration in range(1, 1_000):
            ahead = (mdp.transition @ value).reshape(mdp.legal.shape)
            q = np.where(mdp.legal, mdp.expected_reward + gamma * ahead, -np.inf)
            before, value = value, q.max(axis=1)
            if sweeps is not None:
                sweeps(iteration, value)
            if np.abs(value - before).max() < 1e-12:
                break
        best = q >= value[:, None] - 1e-9
        criterion = "total" if gamma == 1 else "discounted"
        policy = best / best.sum(axis=1, keepdims=True)
        return Solution(value, q, policy, "value_iteration", criterion, gamma, iteration, 0.0, 0.0, True)

    return solve


@pytest.fixture
def changed():
    """A solution with other fields."""
    return replace


@pytest.fixture
def grid():
    """A deterministic grid from its rows: S start, G goal, # wall; a step costs 1. Actions are left, down,
    right, up."""

    def make(*rows):
        letters, columns = "".join(rows), len(rows[0])

        def outcomes(state, action):
            if letters[state] == "#":
                return [(1.0, state, 0.0, True)]
            row, column = divmod(state, columns)
            row = min(max(row + (0, 1, 0, -1)[action], 0), len(rows) - 1)
            column = min(max(column + (-1, 0, 1, 0)[action], 0), columns - 1)
            led = row * columns + column
            led = state if letters[led] == "#" else led
            return [(1.0, led, -1.0, letters[led] == "G")]

        names = {
            "state_names": tuple(letters),
            "action_names": ("left", "down", "right", "up"),
            "grid": (len(rows), columns),
        }
        return mdp_of(len(letters), 4, outcomes, letters.index("S"), **names)

    return make


@pytest.fixture
def maze(grid, solved):
    """Two by two cells with two best ways from the start."""
    mdp = grid("S.", ".G")
    return mdp, solved(mdp)


@pytest.fixture
def corridor(solved, changed):
    """The corridor of the lecture: five cells, R in the third costs 10, both actions in the last end the
    episode."""

    def outcomes(state, action):
        if state == 4:
            return [(1.0, state, 0.0, True)]
        return [
            (
                (1.0, state + 1, -10.0 if state == 2 else -1.0, False)
                if action
                else (1.0, max(state - 1, 0), -1.0, False)
            )
        ]

    mdp = mdp_of(5, 2, outcomes, 0, state_names=tuple("12345"), action_names=("L", "R"), grid=(1, 5))
    return mdp, changed(solved(mdp), method="policy_iteration", iterations=2)


@pytest.fixture
def random_mdp():
    """Without names or a grid."""

    def make(num_states, num_actions, illegal=()):
        rng = np.random.default_rng(0)

        def outcomes(state, action):
            if (state, action) in illegal:
                return []
            return [(0.5, int(rng.integers(num_states)), float(rng.normal()), False) for _ in range(2)]

        return mdp_of(num_states, num_actions, outcomes, None)

    return make
