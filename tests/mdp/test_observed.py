"""Memoryless policies: exact numbers for the vacuum world, and brute force for random MDPs."""

import numpy as np
import pytest

from bellgrad.core.errors import UsageError
from bellgrad.mdp.examples import VACUUM_OBSERVATIONS, garnet, vacuum_world
from bellgrad.mdp.finite_horizon import backward_induction, finite_horizon_evaluation
from bellgrad.mdp.model import FiniteMDP
from bellgrad.mdp.observed import (
    best_deterministic_memoryless,
    best_memoryless_with_one_mixture,
    memoryless_return,
)

ALIASED, HORIZON = 1, 20
NORTH, EAST, SOUTH, WEST = range(4)


def seeking(east: float) -> np.ndarray:
    """Away from the ends, south in the middle, and in the cells that look the same east with probability
    `east`."""
    policy = np.eye(4)[[EAST, EAST, SOUTH, WEST]]
    policy[ALIASED] = [0, east, 0, 1 - east]
    return policy


def test_the_vacuum_world_is_as_described():
    mdp = vacuum_world()
    assert mdp.initial.tolist() == [0.25, 0.25, 0, 0.25, 0.25] and mdp.max_episode_steps == HORIZON
    assert mdp.next_state.reshape(5, 4).tolist() == [
        [0, 1, 0, 0],
        [1, 2, 1, 0],
        [2, 3, 2, 1],
        [3, 4, 3, 2],
        [4, 4, 4, 3],
    ]
    assert mdp.reward.reshape(5, 4)[:, SOUTH].tolist() == [-1, 0, 1, 0, -1]
    assert np.flatnonzero(mdp.terminated).tolist() == [4 * cell + SOUTH for cell in (0, 2, 4)]
    assert np.flatnonzero(mdp.reward).tolist() == np.flatnonzero(mdp.terminated).tolist()
    assert VACUUM_OBSERVATIONS[1] == VACUUM_OBSERVATIONS[3] and len(set(VACUUM_OBSERVATIONS)) == 4


@pytest.mark.parametrize("hamster", [-1.0, 0.0])
def test_in_the_vacuum_world_deterministic_policies_succeed_half_the_time_and_a_coin_nearly_always(hamster):
    mdp = vacuum_world(hamster=hamster)
    policy, success = best_deterministic_memoryless(mdp, VACUUM_OBSERVATIONS, HORIZON)
    assert success == 0.5
    assert memoryless_return(mdp, VACUUM_OBSERVATIONS, policy, HORIZON) == 0.5

    policy, success = best_memoryless_with_one_mixture(mdp, VACUUM_OBSERVATIONS, HORIZON, ALIASED)
    # With a coin each attempt takes two steps: ten fit into the horizon from an inner cell, nine from an end.
    assert success == pytest.approx(1 - (2**-10 + 2**-9) / 2, abs=1e-14)
    np.testing.assert_allclose(policy, seeking(0.5), atol=1e-6)

    # a policy that sees the cell needs at most three steps
    assert mdp.initial @ backward_induction(mdp, HORIZON).value[0] == 1


def test_the_probability_of_success_is_the_polynomial_that_counting_gives():
    p = np.linspace(0, 1, 11)
    policies = np.stack([seeking(east) for east in p])
    expected = 1 - ((1 - p) ** 10 + p**10 + (1 - p) ** 9 + p**9) / 4
    np.testing.assert_allclose(
        memoryless_return(vacuum_world(), VACUUM_OBSERVATIONS, policies, HORIZON), expected, atol=1e-14
    )


def test_the_best_coin_needs_four_and_a_half_steps_and_a_policy_with_memory_three():
    mdp = vacuum_world(hamster=0.0)
    late = [
        1 - float(memoryless_return(mdp, VACUUM_OBSERVATIONS, seeking(0.5), steps)) for steps in range(1, 200)
    ]
    assert 1 + sum(late) == pytest.approx(4.5, abs=1e-12)

    def steps_from(cell: int) -> int:
        heading, steps = EAST, 1  # the last step is south
        while cell != 2:
            heading = {0: EAST, 4: WEST}.get(cell, heading)
            cell, steps = mdp.next_state.reshape(5, 4)[cell, heading], steps + 1
        return steps

    assert sum(mdp.initial[cell] * steps_from(cell) for cell in (0, 1, 3, 4)) == 3


def test_on_random_mdps_the_searches_agree_with_brute_force():
    for seed in range(5):
        mdp, rng = garnet(5, 3, 2, seed=seed), np.random.default_rng(seed)
        seen = np.array([0, 1, 0, 1, 2])

        def worth(policy, mdp=mdp, seen=seen):
            return mdp.initial @ finite_horizon_evaluation(mdp, policy[seen], 6, gamma=0.9)[0]

        random = rng.dirichlet(np.ones(3), 3)
        assert memoryless_return(mdp, seen, random, 6, gamma=0.9) == pytest.approx(worth(random), abs=1e-12)
        plain = max(worth(np.eye(3)[[a, b, c]]) for a in range(3) for b in range(3) for c in range(3))
        deterministic, value = best_deterministic_memoryless(mdp, seen, 6, gamma=0.9)
        assert value == pytest.approx(plain, abs=1e-12) and worth(deterministic) == pytest.approx(
            value, abs=1e-12
        )

        mixed, value = best_memoryless_with_one_mixture(mdp, seen, 6, 0, gamma=0.9)
        assert worth(mixed) == pytest.approx(value, abs=1e-12)
        grid = [
            first + weight * (second - first)
            for first in np.eye(3)
            for second in np.eye(3)
            for weight in np.linspace(0, 1, 41)
        ]
        searched = max(
            worth(np.stack([row, *np.eye(3)[[b, c]]])) for row in grid for b in range(3) for c in range(3)
        )
        assert searched <= value + 1e-12 and value - searched < 1e-2  # the grid is coarse
        assert value >= plain - 1e-12


def test_an_action_that_is_illegal_in_one_state_of_an_observation_is_not_tried():
    mdp = FiniteMDP.from_function(2, 2, lambda s, a: [] if (s, a) == (1, 1) else [(1.0, s, float(a), True)])
    policy, value = best_deterministic_memoryless(mdp, [0, 0], 1)
    assert policy.tolist() == [[1, 0]] and value == 0
    with pytest.raises(UsageError, match="illegal in a state"):
        memoryless_return(mdp, [0, 0], [[0.5, 0.5]], 1)
    torn = FiniteMDP.from_function(2, 2, lambda s, a: [(1.0, s, 0.0, True)] if s == a else [])
    with pytest.raises(UsageError, match="no action is legal in every state with observation 0"):
        best_deterministic_memoryless(torn, [0, 0], 1)


def test_wrong_arguments_are_refused():
    mdp = vacuum_world()
    with pytest.raises(UsageError, match=r"map must be integers from 0, of shape \(5,\)"):
        best_deterministic_memoryless(mdp, [0, 1, 2], 20)
    with pytest.raises(UsageError, match="observation 4 is out of range"):
        best_memoryless_with_one_mixture(mdp, VACUUM_OBSERVATIONS, 20, 4)
    with pytest.raises(UsageError, match="horizon = 0"):
        memoryless_return(mdp, VACUUM_OBSERVATIONS, seeking(0.5), 0)
    with pytest.raises(UsageError, match=r"has shape \(4, 4\)"):
        memoryless_return(mdp, VACUUM_OBSERVATIONS, np.ones((5, 4)) / 4, 20)
    with pytest.raises(UsageError, match="not a distribution"):
        memoryless_return(mdp, VACUUM_OBSERVATIONS, np.ones((4, 4)), 20)
    with pytest.raises(UsageError, match="3,486,784,401 deterministic"):
        best_deterministic_memoryless(garnet(20, 3, 2, seed=0), np.arange(20), 1)
