"""Theorems about MDPs as properties of random ones. Values of policies come from a separate dense solve."""

import numpy as np
import pytest
from drawn import deterministic_policies, mdps, random_policy, value_of
from hypothesis import given, settings
from hypothesis import strategies as st

from bellgrad.mdp.average import average_policy_iteration
from bellgrad.mdp.gradient import expected_return, softmax_gradient, softmax_policy, state_distribution
from bellgrad.mdp.linear_programming import linear_programming
from bellgrad.mdp.model import FiniteMDP
from bellgrad.mdp.policies import advantage, bellman, greedy, q_from_value, value_from_q
from bellgrad.mdp.survival import discount_as_survival
from bellgrad.mdp.total import stochastic_shortest_path

SEEDS = st.integers(0, 10**6)
GAMMAS = st.sampled_from([0.0, 0.5, 0.9, 0.99])
drawn = settings(max_examples=40, deadline=None)


# ----------------------------------------------------------------------------------------- policy improvement
@drawn
@given(mdps(), SEEDS, GAMMAS, st.integers(1, 3))
def test_greedy_is_never_worse_and_strictly_better_unless_optimal(mdp, seed, gamma, depth):
    """Better by at least what lookahead predicts: `V' >= T^k V >= V`, so that V' = V only if V = T V, the
    optimality equation."""
    value = value_of(mdp, random_policy(mdp, seed), gamma)
    promised = value
    for _ in range(depth):
        promised = bellman(mdp, promised, gamma)
    improved = value_of(mdp, greedy(mdp, value, depth, gamma=gamma), gamma)
    assert (promised >= value - 1e-9).all()
    assert (improved >= promised - 1e-6).all()
    best = linear_programming(mdp, gamma).value
    if (best - value).max() > 1e-4:
        assert (improved - value).max() > 1e-7


@drawn
@given(mdps(), GAMMAS)
def test_greedy_on_the_optimum_is_the_optimum(mdp, gamma):
    best = linear_programming(mdp, gamma)
    np.testing.assert_allclose(
        value_of(mdp, greedy(mdp, best.value, gamma=gamma), gamma), best.value, atol=1e-6
    )


def test_some_policies_cannot_be_compared():
    """Two states with different best actions: each policy is right in one of them. But one policy is right in
    both."""
    mdp = FiniteMDP.from_arrays(np.repeat(np.eye(2)[:, None], 2, axis=1), np.array([[1.0, 0.0], [0.0, 1.0]]))
    values = {
        policy.argmax(axis=1).tobytes(): value_of(mdp, policy, 0.5) for policy in deterministic_policies(mdp)
    }
    assert sorted(value.tolist() for value in values.values()) == [[0, 0], [0, 2], [2, 0], [2, 2]]


@drawn
@given(mdps(max_states=4), GAMMAS, SEEDS)
def test_one_deterministic_policy_is_at_least_as_good_as_any_in_every_state(mdp, gamma, seed):
    values = np.array([value_of(mdp, policy, gamma) for policy in deterministic_policies(mdp)])
    best = values[values.sum(axis=1).argmax()]
    assert (best >= values - 1e-9).all()
    assert (best >= value_of(mdp, random_policy(mdp, seed), gamma) - 1e-9).all()
    np.testing.assert_allclose(linear_programming(mdp, gamma).value, best, atol=1e-7)


# -------------------------------------------------------------------------------------- the Bellman operators
@drawn
@given(mdps(), SEEDS, GAMMAS, st.booleans())
def test_the_bellman_operators_contract_by_gamma(mdp, seed, gamma, of_policy):
    policy = random_policy(mdp, seed) if of_policy else None
    one, two = np.random.default_rng(seed).normal(size=(2, mdp.num_states)) * 10
    apart = np.abs(bellman(mdp, one, gamma, policy) - bellman(mdp, two, gamma, policy)).max()
    assert apart <= gamma * np.abs(one - two).max() + 1e-12


@drawn
@given(mdps(), SEEDS, GAMMAS, st.booleans())
def test_the_bellman_operators_are_monotone(mdp, seed, gamma, of_policy):
    policy, rng = random_policy(mdp, seed) if of_policy else None, np.random.default_rng(seed)
    low = rng.normal(size=mdp.num_states)
    high = low + rng.exponential(size=mdp.num_states)
    assert (bellman(mdp, low, gamma, policy) <= bellman(mdp, high, gamma, policy) + 1e-12).all()


@drawn
@given(mdps(kinds=["dense", "sparse", "periodic"]), SEEDS, GAMMAS)
def test_the_operators_discount_an_added_constant_if_no_episode_ends(mdp, seed, gamma):
    value = np.random.default_rng(seed).normal(size=mdp.num_states)
    np.testing.assert_allclose(
        bellman(mdp, value + 5, gamma), bellman(mdp, value, gamma) + gamma * 5, atol=1e-12
    )


@drawn
@given(mdps(), GAMMAS)
def test_the_best_value_is_the_greatest_of_q_and_the_operators_fixed_point(mdp, gamma):
    best = linear_programming(mdp, gamma)
    np.testing.assert_allclose(best.q.max(axis=1), best.value, atol=1e-7)
    np.testing.assert_allclose(value_from_q(best.q, best.policy), best.value, atol=1e-7)
    assert (advantage(best.q, best.policy) <= 1e-7).all()


@drawn
@given(mdps(), SEEDS, GAMMAS)
def test_the_residual_bounds_the_error(mdp, seed, gamma):
    value = np.random.default_rng(seed).normal(size=mdp.num_states) * 3
    residual = np.abs(bellman(mdp, value, gamma) - value).max()
    assert np.abs(linear_programming(mdp, gamma).value - value).max() <= residual / (1 - gamma) + 1e-7


# ------------------------------------------------------------------------------ relations between criteria
@drawn
@given(mdps(), st.sampled_from([0.5, 0.9]), SEEDS)
def test_a_discount_is_a_probability_of_survival(mdp, gamma, seed):
    """The total reward with a random end equals the discounted reward, for the best policy and for any
    other."""
    mortal = discount_as_survival(mdp, gamma)
    total = stochastic_shortest_path(mortal, tolerance=1e-8)
    np.testing.assert_allclose(total.value, linear_programming(mdp, gamma).value, atol=1e-7)
    policy = random_policy(mdp, seed)
    assert expected_return(mortal, policy, 1.0) == pytest.approx(
        expected_return(mdp, policy, gamma), abs=1e-9
    )
    survived = state_distribution(mortal, policy, 1.0, normalized=False)
    np.testing.assert_allclose(survived, state_distribution(mdp, policy, gamma, normalized=False), atol=1e-9)


@drawn
@given(mdps(kinds=["dense"]), st.floats(-5, 5), st.floats(0.1, 5))
def test_an_affine_change_of_rewards_does_not_change_the_best_policies(mdp, shift, scale):
    """The gain changes by `shift`, the discounted value by `shift / (1 - gamma)`."""
    changed = FiniteMDP(
        mdp.num_actions,
        mdp.offset,
        mdp.probability,
        mdp.next_state,
        scale * mdp.reward + shift,
        mdp.terminated,
        mdp.initial,
    )
    one, two = average_policy_iteration(mdp), average_policy_iteration(changed)
    assert two.gain == pytest.approx(scale * one.gain + shift, abs=1e-8)
    before, after = linear_programming(mdp, 0.9).value, linear_programming(changed, 0.9).value
    np.testing.assert_allclose(after, scale * before + shift / (1 - 0.9), atol=1e-6)


# --------------------------------------------------------------------------------------- policies and their J
@drawn
@given(mdps(), SEEDS, GAMMAS)
def test_the_performance_difference_lemma(mdp, seed, gamma):
    """`J(new) - J(old) = sum_s d_new(s) sum_a new(a | s) A_old(s, a)`: Kakade and Langford 2002, lemma
    6.1."""
    old, new = random_policy(mdp, seed), random_policy(mdp, seed + 1)
    gain = advantage(q_from_value(mdp, value_of(mdp, old, gamma), gamma), old)
    visits = state_distribution(mdp, new, gamma, normalized=False)
    difference = mdp.initial @ (value_of(mdp, new, gamma) - value_of(mdp, old, gamma))
    assert visits @ value_from_q(gain, new) == pytest.approx(difference, abs=1e-8)


@drawn
@given(mdps(), SEEDS, GAMMAS)
def test_a_small_step_up_the_gradient_improves_by_its_squared_length(mdp, seed, gamma):
    theta = np.random.default_rng(seed).normal(size=mdp.legal.shape)
    gradient, step = softmax_gradient(mdp, theta, gamma), 1e-6
    rise = expected_return(mdp, softmax_policy(mdp, theta + step * gradient), gamma) - expected_return(
        mdp, softmax_policy(mdp, theta), gamma
    )
    assert rise / step == pytest.approx((gradient**2).sum(), rel=1e-2, abs=1e-5)
    # adding a constant to a row changes nothing
    np.testing.assert_allclose(gradient.sum(axis=1), 0, atol=1e-9)
