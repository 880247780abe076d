"""MDPs from arrays, functions and data, the examples, and the discount as survival."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain import optimal_q, outcomes, policy_value, same_outcomes
from scipy import sparse

from bellgrad.core.errors import UsageError
from bellgrad.mdp.examples import chain, cliff_walking, corridor, garnet, random_walk, windy_gridworld
from bellgrad.mdp.model import FiniteMDP
from bellgrad.mdp.survival import discount_as_survival


@st.composite
def arrays(draw):
    """Dense transition, reward, terminated `[S, A, S]` and legal `[S, A]`, with zeros, ends and illegal
    actions."""
    s, a, seed = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    transition = rng.random((s, a, s)) * rng.integers(0, 2, (s, a, s))
    transition[..., 0] += transition.sum(axis=2) == 0
    transition /= transition.sum(axis=2, keepdims=True)
    legal = rng.random((s, a)) < 0.8
    legal[:, 0] = True
    return transition, rng.normal(size=(s, a, s)), rng.random((s, a, s)) < 0.3, legal


@given(arrays())
@settings(max_examples=60, deadline=None)
def test_the_same_mdp_comes_from_dense_arrays_sparse_matrices_and_a_function(given_arrays):
    transition, reward, terminated, legal = given_arrays
    s, a, _ = transition.shape

    def entry(state, action):
        row = zip(
            transition[state, action], range(s), reward[state, action], terminated[state, action], strict=True
        )
        return [outcome for outcome in row if outcome[0] > 0] if legal[state, action] else []

    def rows(dense):
        return sparse.csr_array(dense.reshape(s * a, s))

    def by_action(dense):
        return [sparse.csc_matrix(dense[:, action]) for action in range(a)]

    expected = FiniteMDP.from_function(s, a, entry)
    np.testing.assert_array_equal(expected.legal, legal)
    for form in (np.asarray, np.ndarray.tolist, rows, by_action):
        made = FiniteMDP.from_arrays(form(transition), form(reward), terminated=form(terminated), legal=legal)
        assert same_outcomes(made, expected), form
    mixed = FiniteMDP.from_arrays(
        rows(transition), reward, terminated=by_action(terminated), legal=legal.tolist()
    )
    assert same_outcomes(mixed, expected)


TRANSITION = np.array([[[0.5, 0.5, 0], [0, 0, 1]], [[0, 1, 0], [0.25, 0, 0.75]], [[0, 0, 1], [0, 0, 1]]])


@pytest.mark.parametrize(
    "form", [np.asarray, lambda dense: sparse.csr_array(dense.reshape(6, 3))], ids=["dense", "sparse"]
)
def test_rewards_per_state_per_pair_and_per_next_state_are_expanded_to_outcomes(form):
    def reward(values):
        return FiniteMDP.from_arrays(form(TRANSITION), values).reward.tolist()

    assert reward([1, 2, 3]) == [1, 1, 1, 2, 2, 2, 3, 3]
    assert reward([[1, 2], [3, 4], [5, 6]]) == [1, 1, 2, 3, 4, 4, 5, 6]
    assert reward(np.arange(18).reshape(3, 2, 3)) == [0, 1, 5, 7, 9, 11, 14, 17]


def test_an_episode_ends_in_a_state_or_with_an_outcome():
    by_state = FiniteMDP.from_arrays(TRANSITION, [0, 0, 0], terminated=[0, 0, 1])
    assert by_state.terminated.tolist() == [False, False, True, False, False, True, True, True]
    by_outcome = FiniteMDP.from_arrays(TRANSITION, [0, 0, 0], terminated=np.arange(18).reshape(3, 2, 3) == 5)
    assert by_outcome.terminated.tolist() == [False, False, True, False, False, False, False, False]


def test_costs_change_their_sign_once():
    assert FiniteMDP.from_arrays(TRANSITION, [1, 2, 3], costs=True).expected_reward[:, 0].tolist() == [
        -1,
        -2,
        -3,
    ]
    assert FiniteMDP.from_function(1, 1, lambda s, a: [(1, 0, 7, False)], costs=True).reward.tolist() == [-7]


def test_a_missing_sparse_reward_is_zero_and_one_without_a_transition_is_ignored():
    # the pair of row 0 never leads to state 2
    reward = sparse.csr_array(([5.0, 9.0], ([0, 0], [1, 2])), shape=(6, 3))
    made = FiniteMDP.from_arrays(sparse.csr_array(TRANSITION.reshape(6, 3)), reward)
    assert made.reward.tolist() == [0, 5, 0, 0, 0, 0, 0, 0]


def test_outcomes_with_the_same_next_state_stay_separate():
    twice = sparse.csr_array(([0.5, 0.5], [0, 0], [0, 2]), shape=(1, 1))
    prizes = sparse.csr_array(([1.0, -1.0], [0, 0], [0, 2]), shape=(1, 1))
    assert FiniteMDP.from_arrays(twice, prizes).reward.tolist() == [1, -1]


def test_the_arrays_of_a_csr_matrix_are_not_copied_and_stay_writable_for_their_owner():
    matrix, reward = (sparse.csr_array(TRANSITION.reshape(6, 3)) for _ in range(2))
    made = FiniteMDP.from_arrays(matrix, reward)
    for ours, theirs in (
        (made.probability, matrix.data),
        (made.next_state, matrix.indices),
        (made.offset, matrix.indptr),
    ):
        assert np.shares_memory(ours, theirs)
        assert theirs.flags.writeable
        assert not ours.flags.writeable
    assert np.shares_memory(made.reward, reward.data)


def test_a_sparse_transition_at_most_doubles_its_memory():
    drawn = garnet(20_000, 4, 5, seed=0)
    matrix = sparse.csr_array((drawn.probability, drawn.next_state, drawn.offset), shape=(80_000, 20_000))
    reward = np.zeros((20_000, 4))
    tracemalloc.start()
    try:
        made = FiniteMDP.from_arrays(matrix, reward)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes
    assert same_outcomes(made, replace(drawn, reward=np.zeros(400_000)))


def test_indices_are_int32_if_they_fit():
    wide = sparse.csr_array(TRANSITION.reshape(6, 3))
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    made = FiniteMDP.from_arrays(wide, [0, 0, 0])
    assert made.offset.dtype == made.next_state.dtype == np.int32


def test_the_start_is_a_state_a_distribution_or_any_state():
    def initial(value):
        return FiniteMDP.from_arrays(TRANSITION, [0, 0, 0], initial=value).initial.tolist()

    assert initial(2) == [0, 0, 1]
    assert initial([0.5, 0.5, 0]) == [0.5, 0.5, 0]
    assert initial(None) == pytest.approx([1 / 3] * 3)


def broken(*place_and_value):
    wrong = TRANSITION.copy()
    for place, value in place_and_value:
        wrong[place] = value
    return wrong


@pytest.mark.parametrize(
    "transition, options, words",
    [
        (
            TRANSITION.transpose(1, 0, 2),
            {},
            r"\(2, 3, 3\); expected \[S, A, S'\]; actions come first: transpose\(1, 0, 2\)",
        ),
        (TRANSITION[0], {}, r"transition has shape \(2, 3\); expected \[S, A, S'\]"),
        (
            sparse.csr_array(TRANSITION.reshape(6, 3)[:5]),
            {},
            r"transition has shape \(5, 3\); expected \[S\*A, S'\]",
        ),
        (
            [sparse.eye_array(3), sparse.eye_array(2)],
            {},
            r"the matrix of action 1 has shape \(2, 2\); expected sparse \(3, 3\)",
        ),
        (
            broken(((1, 1), 0)),
            {},
            "state 1, action 1 has an empty row; if it is illegal, mark it in `legal`",
        ),
        (broken(((1, 1, 2), 0.5)), {}, "state 1, action 1: the probabilities sum to 0.75, not to 1"),
        (broken(((1, 1, 2), np.nan)), {}, "state 1, action 1: an outcome has probability nan"),
        (broken(((2, 0), [-1, 1, 1])), {}, "state 2, action 0: an outcome has probability -1"),
        (
            TRANSITION,
            {"reward": [1, 2]},
            r"reward has shape \(2,\); expected \[S\] = \(3,\), \[S, A\] = \(3, 2\), .*\(6, 3\)",
        ),
        (
            TRANSITION,
            {"reward": sparse.eye_array(3)},
            r"reward has shape \(3, 3\); expected \[S\*A, S'\] = \(6, 3\)",
        ),
        (TRANSITION, {"reward": [0, 0, np.inf]}, "state 2, action 0: an outcome has reward inf"),
        (
            TRANSITION,
            {"terminated": np.zeros((2, 2))},
            r"terminated has shape \(2, 2\); expected \[S'\] = \(3,\)",
        ),
        (TRANSITION, {"terminated": [0, 0, 0.5]}, "terminated must contain only true and false"),
        (TRANSITION, {"legal": np.ones(3)}, r"legal has shape \(3,\); expected \[S, A\] = \(3, 2\)"),
        (TRANSITION, {"legal": [[1, 1], [0, 0], [1, 1]]}, "state 1 has no legal action"),
        (TRANSITION, {"initial": 3}, "initial = 3 is not a state: there are 3"),
        (TRANSITION, {"initial": [1, 0]}, r"initial has shape \(2,\); expected one state, or \[S\] = \(3,\)"),
    ],
)
def test_arrays_that_are_not_an_mdp_are_refused_with_state_and_action(transition, options, words):
    with pytest.raises(UsageError, match=words):
        FiniteMDP.from_arrays(transition, **{"reward": [0, 0, 0]} | options)


@pytest.mark.parametrize(
    "entry, words",
    [
        ([(1.0, 0, 0.0)], "state 0, action 0: expected outcomes"),
        (None, "state 0, action 0: expected outcomes"),
        ([(1.0, 0.5, 0.0, False)], "state 0, action 0: expected outcomes"),
        ([(1.0, 2**40, 0.0, False)], "state 0, action 0: expected outcomes"),
        ([(1.0, 1, 0.0, False)], "state 0, action 0: with 1 states, an outcome leads to state 1"),
        ([(0.5, 0, 0.0, False)], "state 0, action 0: the probabilities sum to 0.5"),
        ([], "state 0 has no legal action"),
    ],
)
def test_a_function_that_returns_no_outcomes_is_refused_with_state_and_action(entry, words):
    with pytest.raises(UsageError, match=words):
        FiniteMDP.from_function(1, 1, lambda state, action: entry)


DATA = {
    "obs": [0, 0, 0, 0, 1],
    "action": [0, 0, 0, 0, 1],
    "reward": [1.0, 1.0, 3.0, 1.0, 7.0],
    "next_obs": [1, 1, 1, 0, 1],
    "terminated": [False, False, False, False, True],
}


def counted(**changes):
    return FiniteMDP.from_transitions(**{**DATA, "num_states": 2, "num_actions": 2, **changes})


def test_an_outcome_seen_n_times_in_m_has_probability_n_over_m():
    made = counted()
    assert outcomes(made, 0, 0) == [(0.25, 0, 1.0, False), (0.5, 1, 1.0, False), (0.25, 1, 3.0, False)]
    assert outcomes(made, 1, 1) == [(1.0, 1, 7.0, True)]


@pytest.mark.parametrize(
    "unseen, expected",
    [
        ("absorb", [(1.0, 1, 0.0, True)]),
        ("self_loop", [(1.0, 1, 0.0, False)]),
        ("uniform", [(0.5, 0, 0.0, False), (0.5, 1, 0.0, False)]),
    ],
)
def test_a_pair_without_data_does_what_unseen_says(unseen, expected):
    made = counted(unseen=unseen)
    assert outcomes(made, 1, 0) == expected
    assert outcomes(made, 0, 0) == outcomes(counted(), 0, 0)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"unseen": "refuse"}, "state 0, action 1 was never tried, nor were 1 other pairs of 4"),
        ({"unseen": "absorbing"}, "unknown choice for unseen pairs 'absorbing'; did you mean absorb"),
        ({"obs": [0, 0, 2, 0, 1]}, r"obs\[2\] = 2 is out of range 0 to 1"),
        ({"action": [0, 0, 0, 0, -1]}, r"action\[4\] = -1 is out of range 0 to 1"),
        ({"next_obs": [0.5, 1, 1, 1, 1]}, "next_obs must be a list of integers"),
        ({"reward": [1.0]}, r"reward has shape \(1,\); there are 5 observations"),
        ({"reward": [np.nan] * 5}, "state 0, action 0: an outcome has reward nan"),
    ],
)
def test_data_that_are_not_an_mdp_are_refused(changes, words):
    with pytest.raises(UsageError, match=words):
        counted(**changes)


def test_enough_data_of_an_mdp_give_that_mdp():
    truth = garnet(6, 2, 3, seed=1)
    rng = np.random.default_rng(0)
    obs, action = rng.integers(6, size=60_000), rng.integers(2, size=60_000)
    first = truth.offset[obs * 2 + action]
    cumulated = truth.probability.reshape(-1, 3).cumsum(axis=1)[obs * 2 + action]
    chosen = first + (rng.random(60_000)[:, None] >= cumulated[:, :2]).sum(axis=1)
    made = FiniteMDP.from_transitions(
        obs,
        action,
        truth.reward[chosen],
        truth.next_state[chosen],
        np.zeros(60_000, bool),
        num_states=6,
        num_actions=2,
    )
    # 5,000 samples per pair: the standard deviation of a frequency is at most 0.0071, and 0.04 is 5.6 of
    # them.
    np.testing.assert_allclose(made.transition.toarray(), truth.transition.toarray(), atol=0.04)


def test_the_corridor_has_the_lectures_values():
    # The table of the five-state corridor: Q*(L) and Q*(R) of states 1 to 5; value iteration ends after as
    # many sweeps as there are states.
    expected = [[-14, -13], [-14, -12], [-13, -11], [-12, -1], [0, 0]]
    np.testing.assert_array_equal(optimal_q(corridor(), 1.0, sweeps=20), expected)


@pytest.mark.parametrize(
    "options, expected",
    [({}, [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6]), ({"num_states": 19, "left": -1}, np.arange(-9, 10) / 10)],
)
def test_the_random_walk_has_the_books_values(options, expected):
    # Sutton and Barto 2018: example 6.2 gives 1/6 to 5/6; example 7.1 has the 19 values from -0.9 to 0.9.
    walk = random_walk(**options)
    np.testing.assert_allclose(policy_value(walk, np.zeros(walk.num_states, int), 1.0), expected, atol=1e-12)
    assert walk.initial.argmax() == walk.num_states // 2


def test_a_walk_without_a_middle_is_refused():
    with pytest.raises(UsageError, match="num_states = 4 must be odd"):
        random_walk(4)


def test_the_optimal_path_over_the_cliff_is_along_its_edge():
    # Sutton and Barto 2018, example 6.6: the optimal path takes 13 steps of reward -1.
    mdp = cliff_walking()
    assert optimal_q(mdp, 1.0, sweeps=60)[36].max() == -13


@pytest.mark.parametrize("options, steps", [({}, 15), ({"moves": "king"}, 7)])
def test_the_windy_grid_is_crossed_in_the_books_number_of_steps(options, steps):
    # Sutton and Barto 2018, example 6.5: 15 steps at least. With king's moves (exercise 6.9) the goal is 7
    # columns away.
    mdp = windy_gridworld(**options)
    assert optimal_q(mdp, 1.0, sweeps=60)[30].max() == -steps


def test_going_forward_along_the_chain_earns_the_published_reward():
    # Strens 2000, table 1: the optimal policy earns 3677 in 1,000 steps, once the start no longer has an
    # effect.
    mdp = chain()
    share = np.linalg.matrix_power(mdp.transition[::2].toarray(), 200)[0]
    assert round(1000 * share @ mdp.expected_reward[:, 0]) == 3677


def test_a_garnet_pair_leads_to_as_many_different_states_as_asked():
    mdp = garnet(40, 3, 5, seed=0)
    rows = mdp.next_state.reshape(120, 5)
    assert (np.diff(rows, axis=1) > 0).all()
    assert mdp.probability.min() > 0
    assert same_outcomes(mdp, garnet(40, 3, 5, seed=0))
    assert not same_outcomes(mdp, garnet(40, 3, 5, seed=1))


def test_garnet_successors_and_probabilities_are_uniform():
    mdp = garnet(4, 20_000, 2, seed=0)
    subsets = np.bincount(mdp.next_state.reshape(-1, 2) @ [4, 1], minlength=16)
    # Of 80,000 pairs each of the 6 subsets has 13,333; the standard deviation is 105, and 600 is 5.7 of
    # them.
    assert (np.abs(subsets[subsets > 0] - 80_000 / 6) < 600).all()
    assert (subsets > 0).sum() == 6
    # The gap left of one uniform cut is uniform: mean 1/2, and variance 1/12 within 0.002 (standard deviation
    # 0.0003).
    first = mdp.probability[::2]
    assert abs(first.mean() - 0.5) < 0.006
    assert abs(first.var() - 1 / 12) < 0.002


def test_every_state_can_be_a_successor_and_more_are_refused():
    assert garnet(3, 1, 3, seed=0).next_state.tolist() == [0, 1, 2] * 3
    with pytest.raises(UsageError, match=r"successors = 4 is out of range \[1, 3\]"):
        garnet(3, 1, 4, seed=0)


@given(arrays(), st.floats(0, 0.99))
@settings(max_examples=40, deadline=None)
def test_survival_with_probability_gamma_gives_the_discounted_values(given_arrays, gamma):
    transition, reward, terminated, legal = given_arrays
    mdp = FiniteMDP.from_arrays(transition, reward, terminated=terminated, legal=legal)
    mortal = discount_as_survival(mdp, gamma)
    np.testing.assert_allclose(
        optimal_q(mortal, 1.0, sweeps=30), optimal_q(mdp, gamma, sweeps=30), rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(mortal.ending[legal], 1 - gamma * (1 - mdp.ending[legal]), atol=1e-12)


def test_a_survival_probability_above_one_is_refused():
    with pytest.raises(UsageError, match=r"gamma = 1.5 is out of range \[0, 1\]"):
        discount_as_survival(corridor(), 1.5)
