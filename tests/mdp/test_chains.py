"""Stationary distributions and hitting times: closed forms, other ways to compute them, and simulation."""

import numpy as np
import pytest
from drawn import END, averages, mdps, random_mdp, random_policy, small
from hypothesis import given, settings
from hypothesis import strategies as st

import bellgrad as bg
from bellgrad.core.errors import UsageError
from bellgrad.mdp.chains import hitting_times, stationary_distribution
from bellgrad.mdp.examples import corridor, garnet, random_walk
from bellgrad.mdp.model import FiniteMDP
from bellgrad.mdp.policies import induced_chain, uniform_policy


def chain_of(matrix, **described):
    """One action, with the transition probabilities of a chain."""
    matrix = np.asarray(matrix, float)
    return FiniteMDP.from_arrays(matrix[:, None], np.zeros(len(matrix)), **described)


def walk_with_walls(states, right):
    """Right with some probability, otherwise left; a step into a wall stays."""
    matrix = np.zeros((states, states))
    for s in range(states):
        matrix[s, min(s + 1, states - 1)] += right
        matrix[s, max(s - 1, 0)] += 1 - right
    return chain_of(matrix)


def first(mdp):
    """The policy that takes the first action everywhere."""
    return np.zeros(mdp.num_states, int)


# ---------------------------------------------------------------------------------- stationary distributions
@pytest.mark.parametrize("right", [0.5, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("states", [2, 7, 40, 300])
def test_a_walk_with_walls_has_a_geometric_distribution(states, right):
    """Detailed balance: each state has `right / left` times the share of the state before it."""
    walk = walk_with_walls(states, right)
    expected = (right / (1 - right)) ** (np.arange(states) - (states - 1.0) * (right > 0.5))
    found = stationary_distribution(walk, first(walk))
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-9, atol=1e-290)


@pytest.mark.parametrize("states", [1, 2, 3, 10])
def test_a_cycle_is_in_each_state_equally_often(states):
    """Its probabilities have no limit, their averages have."""
    cycle = chain_of(np.roll(np.eye(states), 1, axis=1), initial=0)
    np.testing.assert_allclose(stationary_distribution(cycle, first(cycle)), 1 / states, rtol=1e-14)


@pytest.mark.parametrize("leave", [1e-3, 1e-9, 1e-15])
def test_rare_moves_lose_no_digits(leave):
    """Two states that are left with probability `leave` and `3 leave`."""
    chain = chain_of([[1 - leave, leave], [3 * leave, 1 - 3 * leave]])
    found = stationary_distribution(chain, [0, 0])
    np.testing.assert_allclose(found, [0.75, 0.25], rtol=1e-14)


def test_with_one_closed_class_the_start_does_not_matter():
    matrix = [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.0, 1.0, 0.0]]
    for start in (0, 1, 2, None):
        mdp = chain_of(matrix, initial=start)
        np.testing.assert_allclose(stationary_distribution(mdp, first(mdp)), [0, 2 / 3, 1 / 3], atol=1e-15)


def test_with_several_closed_classes_each_counts_by_the_chance_to_end_up_there():
    """From state 1 of a fair walk on 0 to 4 that stops at its ends: three of four times in 0."""
    matrix = np.diag([0.5] * 4, 1) + np.diag([0.5] * 4, -1)
    matrix[[0, 4]] = np.eye(5)[[0, 4]]
    walk = chain_of(matrix, initial=1)
    np.testing.assert_allclose(stationary_distribution(walk, first(walk)), [0.75, 0, 0, 0, 0.25], atol=1e-15)


@settings(max_examples=100, deadline=None)
@given(mdps(kinds=["dense", "sparse", "periodic"]), st.integers(0, 10**6))
def test_it_gives_the_average_reward_of_any_policy(mdp, seed):
    """From the start distribution, by a lazy chain that is squared until nothing changes."""
    policy = random_policy(mdp, seed)
    share = stationary_distribution(mdp, policy)
    chain, reward = induced_chain(mdp, policy)
    assert share.sum() == pytest.approx(1)
    assert (share >= 0).all()
    np.testing.assert_allclose(share @ chain, share, atol=1e-13)
    assert share @ reward == pytest.approx(mdp.initial @ averages(mdp, policy), abs=1e-9)


def test_it_is_the_share_of_visits_in_a_simulation():
    mdp = garnet(6, 2, 3, seed=3)
    policy = random_policy(mdp, 1)
    chain = induced_chain(mdp, policy)[0].toarray().cumsum(axis=1)
    rng, state, visits = np.random.default_rng(0), np.zeros(200, int), np.zeros(6)
    for _ in range(2000):
        state = (rng.random((200, 1)) > chain[state]).sum(axis=1).clip(max=5)
        visits += np.bincount(state, minlength=6)
    np.testing.assert_allclose(visits / visits.sum(), bg.stationary_distribution(mdp, policy), atol=5e-3)


def test_only_an_end_that_the_start_can_reach_is_refused():
    with pytest.raises(UsageError, match=r"from state 4 \(5\) the policy may end the episode"):
        stationary_distribution(corridor(), np.ones(5, int))
    assert stationary_distribution(corridor(), np.zeros(5, int)).tolist() == [1, 0, 0, 0, 0]


# ---------------------------------------------------------------------------------------------- hitting times
@pytest.mark.parametrize("right", [0.5, 0.49, 0.3, 0.8])
def test_the_gamblers_ruin(right):
    """The chance of reaching N from i, and the length of the game: Feller 1968, XIV.2 and XIV.3."""
    capital, ratio = 20, (1 - right) / right
    table = {(s, 0): [(right, s + 1, 0.0), (1 - right, s - 1, 0.0)] for s in range(1, capital)}
    mdp = small(table | {(s, 0): [(1.0, s, 0.0)] for s in (0, capital)})
    i = np.arange(capital + 1)
    wins = i / capital if right == 0.5 else (1 - ratio**i) / (1 - ratio**capital)
    found = hitting_times(mdp, first(mdp), capital)
    np.testing.assert_allclose(found.probability, wins, rtol=1e-10)
    assert found.steps[capital] == 0
    assert np.isinf(found.steps[:capital]).all()
    duration = i * (capital - i) if right == 0.5 else (i - capital * wins) / (1 - 2 * right)
    ends = hitting_times(mdp, first(mdp), {0, capital})
    np.testing.assert_allclose(ends.steps, duration, rtol=1e-9, atol=1e-9)
    assert (ends.probability == 1).all()


@pytest.mark.parametrize("states", [2, 5, 100])
def test_a_fair_walk_from_a_wall_takes_a_number_of_steps_that_grows_with_the_square(states):
    """From a wall at 0, where half of the steps stay, to the last of n states: n (n - 1)."""
    walk = walk_with_walls(states, 0.5)
    found = bg.hitting_times(walk, first(walk), states - 1)
    s = np.arange(states)
    np.testing.assert_allclose(found.steps, states * (states - 1) - s * (s + 1), rtol=1e-11)


def test_a_cycle_takes_one_step_per_state():
    cycle = chain_of(np.roll(np.eye(7), 1, axis=1))
    assert hitting_times(cycle, first(cycle), [3]).steps.tolist() == [3, 2, 1, 0, 6, 5, 4]


def test_an_end_before_the_target_is_a_miss():
    """The walk of nine states ends at both sides; the middle is reached from the i-th with chance i / 5."""
    walk = random_walk(9)
    found = hitting_times(walk, first(walk), 4)
    np.testing.assert_allclose(found.probability, [0.2, 0.4, 0.6, 0.8, 1, 0.8, 0.6, 0.4, 0.2], rtol=1e-14)
    assert found.steps[4] == 0 and np.isinf(np.delete(found.steps, 4)).all()


@pytest.mark.parametrize("miss", [1e-3, 1e-12, 1e-300])
def test_a_miss_however_rare_makes_the_steps_infinite(miss):
    stay = {(s, 0): [(1.0, s, 0.0)] for s in (1, 2)}
    table = stay | {(0, 0): [(0.5, 1, 0.0), (0.5 - miss, 0, 0.0), (miss, 2, 0.0)]}
    found = hitting_times(small(table), [0, 0, 0], 1)
    assert found.probability[0] == pytest.approx(1 / (1 + 2 * miss), rel=1e-14)
    assert np.isinf(found.steps[0])


def test_rare_steps_to_the_target_lose_no_digits():
    table = {(0, 0): [(1 - 1e-13, 0, 0.0), (1e-13, 1, 0.0)], (1, 0): [(1.0, END, 0.0)]}
    assert hitting_times(small(table), [0, 0], 1).steps[0] == pytest.approx(1e13, rel=1e-13)


@settings(max_examples=100, deadline=None)
@given(mdps(), st.integers(0, 10**6), st.data())
def test_they_agree_with_many_steps_of_the_chain(mdp, seed, data):
    """`P(T <= n)` from n steps of the chain that stops in the target."""
    policy = random_policy(mdp, seed)
    goal = np.array(data.draw(st.lists(st.booleans(), min_size=mdp.num_states, max_size=mdp.num_states)))
    goal[seed % mdp.num_states] = True
    found = hitting_times(mdp, policy, goal)
    chain = induced_chain(mdp, policy)[0].toarray()
    chain[goal] = np.eye(mdp.num_states)[goal]
    arrived, missed = np.where(goal, 1.0, 0.0), np.zeros(mdp.num_states)
    for _ in range(4000):
        missed += 1 - arrived
        arrived = chain @ arrived
    np.testing.assert_allclose(found.probability, arrived, atol=1e-6)
    sure = np.isfinite(found.steps)
    np.testing.assert_allclose(found.steps[sure], missed[sure], rtol=1e-3)
    assert (found.probability[sure] == 1).all()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (9, "no state 9"),
        ([-1], "no state -1"),
        ([], "names no state"),
        ([0.5], "a list of states"),
        ("x", "target"),
        ([[0, 1]], "a list of states"),
        ([True, False], "a list of states"),
        (np.zeros(9, bool), "names no state"),
    ],
    ids=range(8),
)
def test_a_target_that_is_not_a_set_of_states_is_refused(target, words):
    walk = random_walk(9)
    with pytest.raises(UsageError, match=words):
        hitting_times(walk, first(walk), target)


def test_a_policy_that_does_not_fit_is_refused():
    mdp = random_mdp("dense", 3, 2, seed=0)
    for function in (stationary_distribution, lambda m, p: hitting_times(m, p, 0)):
        with pytest.raises(UsageError):
            function(mdp, np.ones((3, 2)))
    assert uniform_policy(mdp).shape == (3, 2)
