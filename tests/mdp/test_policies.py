"""Tabular policies: greedy policies, state distributions, expected returns and their gradients, and the
probabilities of trajectories."""

import math

import numpy as np
import pytest
import torch
from drawn import dense, mdps, random_mdp, random_policy, value_of
from hypothesis import given, settings
from hypothesis import strategies as st

from bellgrad.core.errors import UsageError
from bellgrad.mdp.examples import corridor, random_walk
from bellgrad.mdp.finite_horizon import finite_horizon_evaluation
from bellgrad.mdp.gradient import (
    expected_return,
    policy_gradient,
    softmax_gradient,
    softmax_policy,
    state_distribution,
)
from bellgrad.mdp.model import FiniteMDP
from bellgrad.mdp.policies import (
    advantage,
    as_policy,
    bellman,
    epsilon_greedy_policy,
    greedy,
    greedy_policy,
    q_from_value,
    uniform_policy,
    value_from_q,
)
from bellgrad.mdp.trajectories import (
    Trajectory,
    discounted_return,
    enumerate_trajectories,
    log_probability,
    probability,
    return_by_enumeration,
    return_by_sampling,
)

SEEDS = st.integers(0, 10**6)


# ----------------------------------------------------------------------------------------------------- greedy
def test_greedy_keeps_ties():
    """The workshop's table: the second action, the third, and any mixture of the first two."""
    q = np.array([[1.0, 2.0, -3.0], [-2.0, 1.0, 3.0], [4.0, 4.0, -5.0]])
    assert greedy_policy(q).tolist() == [[0, 1, 0], [0, 0, 1], [0.5, 0.5, 0]]


def test_greedy_ignores_rounding_and_never_takes_an_illegal_action():
    assert greedy_policy(np.array([0.1 + 0.2, 0.3, -np.inf])).tolist() == [0.5, 0.5, 0]
    assert greedy_policy(np.array([-1e6, -np.inf])).tolist() == [1, 0]


def test_actions_within_the_given_tie_count_as_best():
    q = np.array([[1.0, 0.9, 0.5], [1.0, 0.9, 0.5]])
    assert greedy_policy(q, tie=0.2).tolist() == [[0.5, 0.5, 0], [0.5, 0.5, 0]]
    assert greedy_policy(q, tie=np.array([0.0, 1.0])).tolist() == [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]]


@pytest.mark.parametrize(
    ("q", "tie", "words"),
    [
        ([], 0, "with a legal action"),
        ([[]], 0, "with a legal action"),
        (5, 0, "with a legal action"),
        ([[1, 2], [-np.inf, -np.inf]], 0, "with a legal action"),
        ([[1, 2]], -1, "tie = -1.0 must be 0 or more"),
        ([[1, 2]], np.nan, "tie is nan|tie.* must be a finite number"),
        ([[1, 2]], "x", "tie must be an array of numbers"),
    ],
    ids=range(7),
)
def test_values_without_a_best_action_are_refused(q, tie, words):
    with pytest.raises(UsageError, match=words):
        greedy_policy(q, tie)
    if "legal" in words and np.ndim(q):
        with pytest.raises(UsageError, match=words):
            epsilon_greedy_policy(q, 0.1)


def test_epsilon_greedy_explores_legal_actions_only():
    q = np.array([[1.0, 0.0, -np.inf]])
    assert epsilon_greedy_policy(q, 0.2).tolist() == [[0.9, 0.1, 0]]
    assert epsilon_greedy_policy(q, 1.0).tolist() == [[0.5, 0.5, 0]]
    with pytest.raises(UsageError, match=r"epsilon = 2 is out of range"):
        epsilon_greedy_policy(q, 2)


def test_the_uniform_policy_chooses_among_legal_actions():
    mdp = random_mdp("dense", 5, 3, seed=1, illegal=True)
    policy = uniform_policy(mdp)
    assert not mdp.legal.all()
    assert (policy[~mdp.legal] == 0).all()
    np.testing.assert_allclose(policy.sum(axis=1), 1)
    assert all(np.ptp(row[legal]) == 0 for row, legal in zip(policy, mdp.legal, strict=True))


def lookahead(mdp, state, value, depth, gamma):
    """The best return over `depth` steps from a state, by recursion over all outcomes."""
    if depth == 0:
        return value[state]
    returns = []
    for action in np.flatnonzero(mdp.legal[state]):
        pair = state * mdp.num_actions + action
        returns.append(
            sum(
                p * (r + (0 if ends else gamma * lookahead(mdp, s, value, depth - 1, gamma)))
                for p, s, r, ends in zip(
                    *(
                        x[mdp.offset[pair] : mdp.offset[pair + 1]]
                        for x in (mdp.probability, mdp.next_state, mdp.reward)
                    ),
                    mdp.terminated[mdp.offset[pair] : mdp.offset[pair + 1]],
                    strict=True,
                )
            )
        )
    return max(returns)


@settings(max_examples=20, deadline=None)
@given(mdps(max_states=3), st.integers(1, 3), SEEDS)
def test_k_step_lookahead_is_exact(mdp, depth, seed):
    value = np.random.default_rng(seed).normal(size=mdp.num_states)
    policy = greedy(mdp, value, depth, gamma=0.9)
    leaves = [lookahead(mdp, s, value, depth - 1, 0.9) for s in range(mdp.num_states)]
    q = q_from_value(mdp, np.array(leaves), 0.9)
    best = [lookahead(mdp, s, value, depth, 0.9) for s in range(mdp.num_states)]
    np.testing.assert_allclose(value_from_q(q, policy), best, atol=1e-12)


def test_a_longer_lookahead_finds_what_one_step_misses():
    """In the corridor's third state one step of lookahead prefers L, at cost 1, to R, at cost 10; twelve
    steps prefer R."""
    mdp, nothing = corridor(), np.zeros(5)
    assert greedy(mdp, nothing, 1, gamma=1.0)[2].tolist() == [1, 0]
    assert greedy(mdp, nothing, 12, gamma=1.0)[2].tolist() == [0, 1]
    with pytest.raises(UsageError, match="depth = 0"):
        greedy(mdp, nothing, 0, gamma=1.0)


# ---------------------------------------------------------------------- values, action values and policies
def test_the_corridor_of_always_right():
    """The lecture's tables: Q of `always R` is Q*, and the advantage of R is 0 everywhere."""
    mdp, right = corridor(), as_policy(corridor(), np.ones(5, int))
    q = q_from_value(mdp, value_of(mdp, right, 1.0), 1.0)
    assert q[:, 0].tolist() == [-14, -14, -13, -12, 0]
    assert q[:, 1].tolist() == [-13, -12, -11, -1, 0]
    assert value_from_q(q, right).tolist() == [-13, -12, -11, -1, 0]
    assert advantage(q, right)[:, 0].tolist() == [-1, -2, -2, -11, 0]
    assert advantage(q, right)[:, 1].tolist() == [0, 0, 0, 0, 0]


@settings(max_examples=30, deadline=None)
@given(mdps(), SEEDS)
def test_v_is_the_mean_of_q_and_the_mean_advantage_is_zero(mdp, seed):
    policy = random_policy(mdp, seed)
    value = value_of(mdp, policy, 0.9)
    q = q_from_value(mdp, value, 0.9)
    np.testing.assert_allclose(value_from_q(q, policy), value, atol=1e-12)
    np.testing.assert_allclose(bellman(mdp, value, 0.9, policy), value, atol=1e-12)
    np.testing.assert_allclose(value_from_q(advantage(q, policy), policy), 0, atol=1e-12)
    assert (q[~mdp.legal] == -np.inf).all()


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ([0, 0, 0, 0, 2], r"state 4 \(5\): the policy's action is 2"),
        (np.ones(5), r"a policy has shape \(5, 2\)"),
        (np.ones((5, 2)), r"state 0 \(1\): the policy's row \[1. 1.\] is not a distribution"),
        (np.full((5, 2), np.nan), "not a distribution"),
        (np.tile([1.5, -0.5], (5, 1)), "not a distribution"),
    ],
)
def test_an_array_that_is_not_a_policy_is_refused(policy, words):
    with pytest.raises(UsageError, match=words):
        as_policy(corridor(), policy)


def test_a_policy_that_takes_an_illegal_action_is_refused():
    mdp = FiniteMDP.from_arrays(np.ones((1, 2, 1)), np.zeros(1), legal=[[True, False]])
    with pytest.raises(
        UsageError, match="state 0, action 1: the policy may choose this action, which is illegal"
    ):
        as_policy(mdp, [[0.5, 0.5]])


# ----------------------------------------------------------------- state distribution and expected return
@settings(max_examples=30, deadline=None)
@given(mdps(), SEEDS, st.sampled_from([0.0, 0.5, 0.9]))
def test_the_state_distribution_is_the_discounted_sum_over_time(mdp, seed, gamma):
    policy = random_policy(mdp, seed)
    chain = np.einsum("sa,sat->st", policy, dense(mdp)[0])
    here, visits = mdp.initial.copy(), np.zeros(mdp.num_states)
    for t in range(400):  # 0.9 to the 400 is 5e-19
        visits += gamma**t * here
        here = here @ chain
    np.testing.assert_allclose(state_distribution(mdp, policy, gamma, normalized=False), visits, atol=1e-12)
    np.testing.assert_allclose(state_distribution(mdp, policy, gamma), (1 - gamma) * visits, atol=1e-12)
    reward = (policy * dense(mdp)[1]).sum(axis=1)
    assert expected_return(mdp, policy, gamma) == pytest.approx(visits @ reward, abs=1e-11)


def test_the_state_distribution_sums_to_one_if_no_episode_ends_and_to_less_otherwise():
    endless = random_mdp("dense", 4, 2, seed=3)
    assert state_distribution(endless, uniform_policy(endless), 0.9).sum() == pytest.approx(1)
    walk = random_walk(1)  # it ends with its first step, so that only time 0 counts
    assert state_distribution(walk, uniform_policy(walk), 0.9).sum() == pytest.approx(0.1)


def test_without_a_discount_visits_are_those_of_the_random_walk():
    """From the middle of 5 cells, a fair walk is in cell j `2 min(i, j) (6 - max(i, j)) / 6` times: its
    Green's function."""
    walk = random_walk(5)
    visits = state_distribution(walk, uniform_policy(walk), 1.0, normalized=False)
    np.testing.assert_allclose(visits, [2 * min(3, j) * (6 - max(3, j)) / 6 for j in range(1, 6)])
    assert expected_return(walk, uniform_policy(walk), 1.0) == pytest.approx(0.5)


@pytest.mark.parametrize("end", [1e-6, 1e-12, 1e-17])
def test_without_a_discount_even_the_rarest_end_keeps_its_digits(end):
    rare = FiniteMDP.from_function(
        3, 1, lambda s, a: [(1 - end, s, -1.0, False), (end, (s + 1) % 3, -1.0, s == 2)], initial=0
    )
    assert expected_return(rare, [0, 0, 0], 1.0) == pytest.approx(-3 / end, rel=1e-12)
    visits = state_distribution(rare, [0, 0, 0], 1.0, normalized=False)
    np.testing.assert_allclose(visits, 1 / end, rtol=1e-12)


def test_a_policy_that_never_ends_is_refused_without_a_discount():
    with pytest.raises(UsageError, match=r"from state 0 \(1\) the policy never ends the episode"):
        expected_return(corridor(), np.zeros(5, int), 1.0)
    with pytest.raises(UsageError, match="gamma = 1 cannot be normalized"):
        state_distribution(corridor(), np.ones(5, int), 1.0)
    with pytest.raises(UsageError, match=r"gamma = 1.5 is out of range"):
        expected_return(corridor(), np.ones(5, int), 1.5)


# ----------------------------------------------------------------------------------------------- the gradient
@settings(max_examples=20, deadline=None)
@given(mdps(), SEEDS)
def test_the_softmax_gradient_equals_finite_differences(mdp, seed):
    theta = np.random.default_rng(seed).normal(size=mdp.legal.shape)
    gradient, step = softmax_gradient(mdp, theta, 0.9), 1e-5
    for place in np.ndindex(*theta.shape):
        up, down = theta.copy(), theta.copy()
        up[place] += step
        down[place] -= step
        rise = value_of(mdp, softmax_policy(mdp, up), 0.9) - value_of(mdp, softmax_policy(mdp, down), 0.9)
        assert gradient[place] == pytest.approx(mdp.initial @ rise / (2 * step), abs=1e-7)


@settings(max_examples=20, deadline=None)
@given(mdps(), SEEDS)
def test_the_softmax_gradient_equals_autograd_through_the_linear_solve(mdp, seed):
    transition, reward = (torch.as_tensor(x) for x in dense(mdp))
    theta = torch.tensor(np.random.default_rng(seed).normal(size=mdp.legal.shape), requires_grad=True)
    policy = theta.masked_fill(~torch.as_tensor(mdp.legal), -torch.inf).softmax(dim=1)
    chain = torch.einsum("sa,sat->st", policy, transition)
    value = torch.linalg.solve(torch.eye(mdp.num_states) - 0.9 * chain, (policy * reward).sum(dim=1))
    (torch.tensor(mdp.initial) @ value).backward()
    np.testing.assert_allclose(
        softmax_gradient(mdp, theta.detach().numpy(), 0.9), theta.grad.numpy(), atol=1e-11
    )


def test_the_gradient_of_any_policy_follows_from_its_jacobian():
    """One parameter x for three states: action 0 with probability 1 / (1 + exp(-x s)) in state s."""
    mdp = random_mdp("absorbing", 4, 2, seed=7)

    def policy(x):
        first = 1 / (1 + np.exp(-x * np.arange(4)))
        return np.stack([first, 1 - first], axis=1)

    first = policy(0.3)[:, 0]
    slope = first * (1 - first) * np.arange(4)
    gradient = policy_gradient(mdp, policy(0.3), np.stack([slope, -slope], axis=1)[..., None], 0.95)
    rise = expected_return(mdp, policy(0.3 + 1e-5), 0.95) - expected_return(mdp, policy(0.3 - 1e-5), 0.95)
    assert gradient == pytest.approx([rise / 2e-5], abs=1e-8)


def test_the_softmax_jacobian_gives_the_softmax_gradient():
    mdp = random_mdp("dense", 3, 3, seed=5, illegal=True)
    theta = np.random.default_rng(0).normal(size=(3, 3))
    policy = softmax_policy(mdp, theta)
    jacobian = np.zeros((3, 3, 3, 3))
    for s in range(3):
        jacobian[s, :, s, :] = np.diag(policy[s]) - np.outer(policy[s], policy[s])
    np.testing.assert_allclose(
        policy_gradient(mdp, policy, jacobian, 0.9), softmax_gradient(mdp, theta, 0.9), atol=1e-13
    )


def test_following_the_gradient_finds_the_best_policy_of_the_corridor():
    """Without a discount: every softmax policy ends, and J of the best one is -13."""
    mdp, theta = corridor(), np.zeros((5, 2))
    for _ in range(300):
        theta += 0.5 * softmax_gradient(mdp, theta, 1.0)
    assert expected_return(mdp, softmax_policy(mdp, theta), 1.0) == pytest.approx(-13, abs=0.1)


# ----------------------------------------------------------------------------------------------- trajectories
@settings(max_examples=20, deadline=None)
@given(mdps(max_states=3), SEEDS, st.integers(1, 3))
def test_j_solved_backwards_equals_j_by_enumeration(mdp, seed, horizon):
    policy = random_policy(mdp, seed)
    trajectories = list(enumerate_trajectories(mdp, policy, horizon))
    assert sum(p for _, p in trajectories) == pytest.approx(1)
    assert len({trajectory for trajectory, _ in trajectories}) == len(trajectories)
    for trajectory, p in trajectories:
        assert probability(mdp, policy, trajectory) == pytest.approx(p)
    exact = mdp.initial @ finite_horizon_evaluation(mdp, policy, horizon, gamma=0.9)[0]
    assert return_by_enumeration(mdp, policy, horizon, gamma=0.9) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("kind", ["dense", "sparse", "absorbing", "periodic"])
def test_j_by_sampling_agrees_within_five_standard_errors(kind):
    """A normal mean is off by five standard errors with probability 6e-7: two seeds in a million fail one of
    the four cases."""
    mdp = random_mdp(kind, 5, 3, seed=11, illegal=True)
    policy = random_policy(mdp, 0)
    exact = return_by_enumeration(mdp, policy, 4, gamma=0.9)
    sampled = return_by_sampling(mdp, policy, 4, episodes=100_000, seed=0, gamma=0.9)
    assert sampled.standard_error < 0.01
    assert abs(sampled.mean - exact) < 5 * sampled.standard_error + 1e-12


def test_long_horizons_reach_the_expected_return_of_whole_episodes():
    walk = random_walk(3)
    policy = uniform_policy(walk)
    assert finite_horizon_evaluation(walk, policy, 200)[0] == pytest.approx(value_of(walk, policy, 1.0))
    assert return_by_enumeration(walk, policy, 20) == pytest.approx(0.5, abs=1e-3)


def test_a_policy_may_change_with_the_step():
    mdp = random_mdp("absorbing", 3, 2, seed=2)
    policy = np.stack([random_policy(mdp, seed) for seed in range(3)])
    exact = mdp.initial @ finite_horizon_evaluation(mdp, policy, 3)[0]
    assert return_by_enumeration(mdp, policy, 3) == pytest.approx(exact)
    sampled = return_by_sampling(mdp, policy, 3, episodes=100_000, seed=0)
    assert abs(sampled.mean - exact) < 5 * sampled.standard_error
    with pytest.raises(UsageError, match="for 3 steps; the horizon is 4"):
        return_by_enumeration(mdp, policy, 4)


def test_the_probability_of_going_right_through_the_corridor():
    mdp = corridor()
    trajectory = Trajectory((0, 1, 2, 3, 4, 4), (1, 1, 1, 1, 0), (-1.0, -1.0, -10.0, -1.0, 0.0), True)
    assert log_probability(mdp, uniform_policy(mdp), trajectory) == pytest.approx(5 * math.log(0.5))
    assert probability(mdp, np.ones(5, int), trajectory) == 0  # the policy goes right in the last state too
    assert discounted_return(trajectory, 1.0) == -13
    assert discounted_return(trajectory, 0.5) == pytest.approx(-1 - 0.5 - 2.5 - 0.125)


def test_equal_outcomes_are_joined_and_a_wrong_reward_is_impossible():
    """FrozenLake's corner lists the same outcome twice: a slip against either wall."""
    lake = FiniteMDP.from_gymnasium("FrozenLake-v1")
    left = np.zeros(16, int)
    assert probability(lake, left, Trajectory((0, 0), (0,), (0.0,), False)) == pytest.approx(2 / 3)
    assert log_probability(lake, left, Trajectory((0, 0), (0,), (1.0,), False)) == -math.inf
    # the lake begins in state 0
    assert log_probability(lake, left, Trajectory((1,), (), (), False)) == -math.inf


def test_lengths_that_are_not_a_trajectory_are_refused():
    with pytest.raises(UsageError, match="1 actions, 1 states and 1 rewards are not a trajectory"):
        log_probability(corridor(), np.ones(5, int), Trajectory((0,), (1,), (-1.0,), False))
    with pytest.raises(UsageError, match="episodes = 1"):
        return_by_sampling(corridor(), np.ones(5, int), 5, episodes=1, seed=0)
