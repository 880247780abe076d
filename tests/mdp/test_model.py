"""`FiniteMDP` itself: what it derives from its outcomes, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest

from bellgrad.core.errors import UsageError
from bellgrad.mdp.model import FiniteMDP


@pytest.fixture
def mdp() -> FiniteMDP:
    """Two states, two actions. In state 0 action 0 stays or ends; action 1 leads to state 1, where only
    action 0 is legal."""
    return FiniteMDP(
        num_actions=2,
        offset=np.array([0, 2, 3, 4, 4], np.int32),
        probability=np.array([0.75, 0.25, 1.0, 1.0]),
        next_state=np.array([0, 1, 1, 0], np.int32),
        reward=np.array([1.0, 5.0, 2.0, -1.0]),
        terminated=np.array([False, True, False, False]),
        initial=np.array([1.0, 0.0]),
        state_names=("here", "there"),
        action_names=("try", "go"),
    )


def test_expected_rewards_count_every_outcome_and_transitions_only_those_that_continue(mdp):
    np.testing.assert_array_equal(mdp.expected_reward, [[0.75 * 1 + 0.25 * 5, 2], [-1, 0]])
    np.testing.assert_array_equal(mdp.transition.toarray(), [[0.75, 0], [0, 1], [1, 0], [0, 0]])
    np.testing.assert_array_equal(mdp.ending, [[0.25, 0], [0, 0]])


def test_a_pair_without_outcomes_is_an_illegal_action(mdp):
    np.testing.assert_array_equal(mdp.legal, [[True, True], [True, False]])


def test_an_mdp_cannot_be_changed(mdp):
    for name in ("offset", "probability", "next_state", "reward", "terminated", "initial"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(mdp, name)[0] = 0


def test_if_no_outcome_ends_the_transitions_share_the_array_of_probabilities(mdp):
    endless = replace(mdp, terminated=np.zeros(4, bool))
    assert np.shares_memory(endless.transition.data, endless.probability)


@pytest.mark.parametrize(
    "field, index, value, words",
    [
        ("probability", 1, 0.2, r"state 0 \(here\), action 0 \(try\): the probabilities sum to 0.95"),
        ("probability", 2, 1 + 1e-5, r"state 0 \(here\), action 1 \(go\): the probabilities sum to 1.00001"),
        ("probability", 3, -1.0, r"state 1 \(there\), action 0 \(try\): an outcome has probability -1.0"),
        ("probability", 0, np.nan, r"state 0 \(here\), action 0 \(try\): an outcome has probability nan"),
        (
            "next_state",
            3,
            2,
            r"state 1 \(there\), action 0 \(try\): with 2 states, an outcome leads to state 2",
        ),
        (
            "next_state",
            2,
            -1,
            r"state 0 \(here\), action 1 \(go\): with 2 states, an outcome leads to state -1",
        ),
        ("reward", 3, np.nan, r"state 1 \(there\), action 0 \(try\): an outcome has reward nan"),
        ("reward", 0, np.inf, r"state 0 \(here\), action 0 \(try\): an outcome has reward inf"),
        ("initial", 0, 0.5, "the start distribution must be probabilities that sum to 1; they sum to 0.5"),
        ("initial", 1, np.nan, "the start distribution"),
        ("offset", 1, 4, "offset must rise from 0"),
    ],
)
def test_a_wrong_number_is_refused_with_state_and_action(mdp, field, index, value, words):
    wrong = getattr(mdp, field).copy()
    wrong[index] = value
    with pytest.raises(UsageError, match=words):
        replace(mdp, **{field: wrong})


@pytest.mark.parametrize(
    "change, words",
    [
        (
            {"offset": np.array([0, 3, 4, 4, 4], np.int32), "probability": np.array([0.5, 0.25, 0.25, 1])},
            "there.* has no legal action",
        ),
        ({"reward": np.zeros(3)}, r"reward has shape \(3,\); there are 4 outcomes"),
        ({"reward": np.zeros(4, np.float32)}, "reward must be an array of float64, got float32"),
        ({"initial": [1.0, 0.0]}, "initial must be an array of float64, got list"),
        (
            {"next_state": np.zeros(4, np.int64)},
            "next_state is int64 and offset int32; they must have the same dtype",
        ),
        ({"state_names": ("here",)}, "state_names has 1 entries; expected 2"),
        ({"grid": (3, 1)}, "a grid of 3 x 1 cells does not have 2 states"),
        ({"initial": np.zeros(0)}, "an MDP needs at least one state and one action, got 0 and 2"),
    ],
)
def test_fields_that_do_not_fit_together_are_refused(mdp, change, words):
    with pytest.raises(UsageError, match=words):
        replace(mdp, **change)


def test_the_rounding_of_float32_probabilities_is_accepted(mdp):
    thirds = np.full(3, np.float32(1 / 3)).astype(np.float64)
    assert thirds.sum() != 1
    replace(mdp, offset=np.array([0, 3, 4, 5, 5], np.int32), probability=np.concatenate([thirds, [1, 1]]),
            next_state=np.zeros(5, np.int32), reward=np.zeros(5), terminated=np.zeros(5, bool))  # fmt: skip
