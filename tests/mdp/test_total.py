"""The total reward without a discount: rewards that are 0 but for rounding, linear equations in place of many
sweeps, states that the start cannot reach, and policies."""

import math
from fractions import Fraction

import numpy as np
import pytest
from drawn import (
    END,
    dense,
    deterministic_policies,
    loops,
    mdps,
    random_mdp,
    random_policy,
    small,
    value_until_the_end,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bellgrad.core.errors import UsageError
from bellgrad.mdp.evaluation import evaluate_policy
from bellgrad.mdp.examples import corridor, random_walk
from bellgrad.mdp.gradient import expected_return
from bellgrad.mdp.gridworld import gridworld
from bellgrad.mdp.model import FiniteMDP
from bellgrad.mdp.policies import uniform_policy
from bellgrad.mdp.solve import solve
from bellgrad.mdp.total import stochastic_shortest_path
from bellgrad.mdp.value_iteration import q_iteration


def seen_rewards(rewards, exit_reward):
    """One state: action 0 stays, and has had these rewards; action 1 ends."""
    count = len(rewards)
    return FiniteMDP.from_transitions(
        obs=[0] * (count + 1),
        action=[0] * count + [1],
        reward=[*rewards, exit_reward],
        next_obs=[0] * (count + 1),
        terminated=[0] * count + [1],
        num_states=1,
        num_actions=2,
    )


EXPONENTS = {2: st.integers(-60, 60), 10: st.integers(-15, 15)}
SCALES = st.sampled_from([2, 10]).flatmap(lambda base: EXPONENTS[base].map(lambda k: Fraction(base) ** k))


@st.composite
def canceling(draw):
    """Decimal fractions that sum to exactly 0 before they are rounded, and a scale."""
    digits = draw(st.integers(1, 4))
    some = draw(st.lists(st.integers(-(10**digits), 10**digits), min_size=1, max_size=12))
    scale = draw(SCALES)
    exact = [Fraction(n, 10**digits) * scale for n in [*some, -sum(some)]]
    return draw(st.permutations(exact)), scale


# ------------------------------------------------------------------------------------ zero but for rounding
@pytest.mark.parametrize("rewards", [[0.1, 0.2, -0.3], [0.7, -0.6, -0.1], [0.1] * 10 + [-1.0]])
def test_a_loop_whose_rewards_cancel_but_for_rounding_is_free(rewards):
    solution = stochastic_shortest_path(seen_rewards(rewards, 1.0))
    assert (solution.value.tolist(), solution.iterations, solution.converged) == ([1.0], 1, True)
    assert "loops that cost nothing" in solution.note


@settings(max_examples=300, deadline=None)
@given(canceling())
def test_decimal_rewards_that_cancel_are_free_at_any_scale(drawn):
    rewards, scale = drawn
    mdp = seen_rewards([float(r) for r in rewards], float(scale))
    solution = stochastic_shortest_path(mdp, tolerance=float(scale) / 10**9)
    assert solution.value[0] == float(scale)
    assert solution.converged


@settings(max_examples=100, deadline=None)
@given(canceling(), st.sampled_from([1, -1]))
def test_a_loop_that_pays_a_billionth_of_its_rewards_is_refused_and_one_that_costs_it_is_not(drawn, sign):
    rewards, scale = drawn
    size = sum(abs(r) for r in rewards)
    assume(size > 0)
    changed = [float(r) for r in [*rewards, sign * size / 10**9]]
    if sign > 0:
        with pytest.raises(UsageError, match="in a loop that pays"):
            stochastic_shortest_path(seen_rewards(changed, float(scale)))
    else:
        mdp = seen_rewards(changed, float(scale))
        assert stochastic_shortest_path(mdp, tolerance=float(scale) / 10**9).value[0] == float(scale)


@pytest.mark.parametrize("pay", [1e-12, 1e-200, 3.0])
def test_a_tiny_loop_that_pays_is_refused(pay):
    with pytest.raises(UsageError, match="state 0, in a loop that pays"):
        stochastic_shortest_path(small({(0, 0): [(1.0, 0, pay)], (0, 1): [(1.0, END, pay)]}))
    beside = {(0, 0): [(1.0, 0, pay)], (0, 1): [(1.0, END, pay)], (1, 0): [(0.5, 0, 1e6), (0.5, END, -1e6)]}
    with pytest.raises(UsageError, match="state 0, in a loop that pays"):
        stochastic_shortest_path(small(beside))


@settings(max_examples=100, deadline=None)
@given(canceling())
def test_a_round_of_states_whose_rewards_cancel_is_refused_as_free_on_average(drawn):
    """Its steps are not free one by one, so that it has no limit."""
    rewards, _ = drawn
    assume(len(rewards) > 1 and any(rewards))
    last = len(rewards) - 1
    table = {(s, 0): [(1.0, 0 if s == last else s + 1, float(r))] for s, r in enumerate(rewards)}
    with pytest.raises(UsageError, match="that costs nothing on average"):
        stochastic_shortest_path(small(table | {(last, 1): [(1.0, END, 0.0)]}))


@pytest.mark.parametrize("costs", [1e-3, 1e-9, 1e-12])
def test_a_round_that_costs_little_is_solved(costs):
    table = {(0, 0): [(1.0, 1, 1.0)], (0, 1): [(1.0, END, 0.0)], (1, 0): [(1.0, 0, -1.0 - costs)]}
    solution = stochastic_shortest_path(small(table))
    np.testing.assert_allclose(solution.value, [0.0, -1.0 - costs], rtol=1e-15)
    assert solution.converged


# -------------------------------------------------------------------------- equations in place of many sweeps
@pytest.mark.parametrize("ends", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("reward", [-1.0, -1e8, -3e-7])
def test_a_rare_end_is_solved_at_once(ends, reward):
    mdp = small({(0, 0): [(1 - ends, 0, reward), (ends, END, reward)]})
    solution = stochastic_shortest_path(mdp)
    assert solution.value[0] == pytest.approx(reward / ends, rel=1e-12)
    assert abs(solution.value[0] - reward / ends) <= solution.error_bound
    assert solution.error_bound <= 1e-9 * abs(reward / ends)
    assert solution.converged
    assert solution.iterations <= 101


def heads_in_a_row(number):
    """Throw a coin until so many heads came one after the other; a throw costs 1."""
    rows = range(number)
    return small({(s, 0): [(0.5, 0, -1.0), (0.5, s + 1 if s + 1 < number else END, -1.0)] for s in rows})


@pytest.mark.parametrize("number", [2, 10, 16, 30])
def test_heads_in_a_row_take_two_to_the_power_of_one_more_minus_two_throws(number):
    solution = solve(heads_in_a_row(number), gamma=1)
    expected = -(2.0 ** (number + 1) - 2)
    assert solution.value[0] == pytest.approx(expected, rel=1e-13, abs=1e-6)
    assert abs(solution.value[0] - expected) <= solution.error_bound
    assert solution.converged
    if number == 16:
        assert solution.value[0] == -131_070
        assert solution.error_bound <= 1e-6


def test_a_better_policy_is_found_where_sweeps_would_take_long():
    """Ending at a cost of 1000, or throwing a coin until 16 heads came at 1: the former is right at first."""
    throws = heads_in_a_row(16)

    def outcomes(state, action):
        if action:
            return [(1.0, state, -1000.0, True)]
        first, last = throws.offset[state : state + 2]
        return [
            (0.5, int(throws.next_state[k]), -1.0, bool(throws.terminated[k])) for k in range(first, last)
        ]

    mdp = FiniteMDP.from_function(16, 2, outcomes)
    solution = solve(mdp, gamma=1)
    value = np.full(16, -1000.0)
    for _ in range(2000):
        value = np.maximum(-1000.0, -1 + 0.5 * value[0] + 0.5 * np.append(value[1:], 0.0))
    np.testing.assert_allclose(solution.value, value, atol=1e-9)
    assert solution.policy[0].tolist() == [0, 1]
    assert solution.converged


def test_the_equations_give_what_the_sweeps_give_on_a_slippery_grid():
    grid = gridworld(["S..#....", ".#.#.##.", ".#...#.G"], slip=0.45, step_reward=-1.0, rewards={})
    exact = stochastic_shortest_path(grid, tolerance=1e-300)
    assert "policy iteration" in exact.note
    assert exact.error_bound < 1e-11
    swept = stochastic_shortest_path(grid, tolerance=1e-3)
    assert np.abs(exact.value - swept.value).max() <= swept.error_bound


@settings(max_examples=100, deadline=None)
@given(mdps(kinds=["absorbing"], max_states=5), st.integers(-40, 40))
def test_a_scale_of_the_rewards_changes_only_the_scale_of_the_values(mdp, power):
    """With a tolerance that nothing meets, both stop by rounding."""
    scaled = FiniteMDP(
        mdp.num_actions, mdp.offset, mdp.probability, mdp.next_state, mdp.reward * 2.0**power,
        mdp.terminated, mdp.initial,
    )  # fmt: skip
    one, two = (stochastic_shortest_path(m, tolerance=1e-300) for m in (mdp, scaled))
    np.testing.assert_array_equal(two.value, one.value * 2.0**power)
    np.testing.assert_array_equal(two.policy, one.policy)
    assert (one.converged, two.converged) == (True, True)
    assert one.iterations == two.iterations


@pytest.mark.parametrize("tolerance", [-1, 0, math.nan, math.inf, "x"])
def test_a_tolerance_out_of_range_is_refused(tolerance):
    with pytest.raises(UsageError, match="tolerance"):
        stochastic_shortest_path(corridor(), tolerance=tolerance)


@pytest.mark.parametrize("max_iterations", [-1, 0, 1.5, math.nan])
def test_a_number_of_iterations_out_of_range_is_refused(max_iterations):
    with pytest.raises(UsageError, match="max_iterations"):
        stochastic_shortest_path(corridor(), max_iterations=max_iterations)


def test_policies_count_as_iterations_and_are_reported():
    seen = []
    solution = stochastic_shortest_path(
        heads_in_a_row(16), on_sweep=lambda number, value: seen.append((number, value[0]))
    )
    assert [number for number, _ in seen] == list(range(1, solution.iterations + 1))
    assert seen[-1][1] == -131_070
    with pytest.warns(RuntimeWarning, match="stopped after 50 iterations"):
        assert stochastic_shortest_path(heads_in_a_row(16), max_iterations=50).iterations == 50


# -------------------------------------------------------------------------- states that cannot be reached
@pytest.mark.parametrize("beyond", [1.0, -1.0])
def test_a_loop_that_the_start_cannot_reach_is_no_reason_to_refuse(beyond):
    table = {(0, 0): [(0.5, 0, -1.0), (0.5, END, 3.0)], (1, 0): [(1.0, 1, beyond)]}
    solution = stochastic_shortest_path(small(table, initial=0))
    assert solution.value[0] == pytest.approx(2.0, abs=1e-6)
    assert np.isnan(solution.value[1]) and np.isnan(solution.q[1]).all()
    assert solution.policy.tolist() == [[1.0], [1.0]]
    assert solution.converged
    assert "state 1, are left out" in solution.note
    with pytest.raises(UsageError, match="from state 1"):
        stochastic_shortest_path(small(table, initial=[0.5, 0.5]))


def test_states_that_cannot_be_reached_are_solved_if_the_whole_problem_can_be():
    table = {(0, 0): [(1.0, END, 3.0)], (1, 0): [(1.0, 0, -1.0)]}
    assert stochastic_shortest_path(small(table, initial=0)).value.tolist() == [3, 2]


@settings(max_examples=300, deadline=None)
@given(loops())
def test_from_one_start_only_what_it_reaches_matters(mdp):
    mdp = FiniteMDP(
        mdp.num_actions, mdp.offset, mdp.probability, mdp.next_state, mdp.reward, mdp.terminated,
        np.eye(mdp.num_states)[0],
    )  # fmt: skip
    transition, _ = dense(mdp)
    ways = np.linalg.matrix_power(np.eye(mdp.num_states) + transition.max(axis=1), mdp.num_states)
    inside = np.flatnonzero(ways[0] > 0)
    part = {
        (place, action): [
            (
                mdp.probability[k],
                END if mdp.terminated[k] else int((inside == mdp.next_state[k]).argmax()),
                mdp.reward[k],
            )
            for k in range(*mdp.offset[state * mdp.num_actions + action :][:2])
        ]
        for place, state in enumerate(inside)
        for action in range(mdp.num_actions)
    }  # fmt: skip
    alone = small(part)
    values = [value_until_the_end(alone, policy) for policy in deterministic_policies(alone)]
    if any(value is None for value in values) or np.isinf(np.max(values, axis=0)).any():
        with pytest.raises(UsageError, match=r"from state \d"):
            stochastic_shortest_path(mdp)
    else:
        solution = stochastic_shortest_path(mdp)
        np.testing.assert_allclose(solution.value[inside], np.max(values, axis=0), atol=1e-5)
        np.testing.assert_allclose(solution.policy.sum(axis=1), 1)


# ------------------------------------------------------------------------------------------------- policies
def test_the_policy_leaves_a_free_loop_by_an_exit_that_rounding_makes_worse():
    """The free loop of 1 and 2 is left with a probability that is 1 but for rounding."""
    mdp = small(
        {
            (0, 0): [(0.12624670257129697, END, -1.0), (0.8737532974287031, 1, -1.0)],
            (1, 0): [(1.0, 2, 0.0)],
            (2, 0): [(0.41105299246821836, 1, 0.0), (0.5889470075317816, 2, 0.0)],
            (2, 1): [(0.9999999999999999, 0, 0.0)],
        }
    )
    for tolerance in (1e-6, 1e-300):
        solution = stochastic_shortest_path(mdp, tolerance=tolerance)
        np.testing.assert_allclose(solution.value, -1 / 0.12624670257129697, rtol=1e-6)
        assert solution.policy[2, 1] > 0
        np.testing.assert_allclose(evaluate_policy(mdp, solution.policy, 1).value, solution.value, rtol=1e-6)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_the_policy_leaves_a_free_loop_with_many_outcomes(seed, exactly):
    """One way out, in the last state; all other actions wander about for nothing."""
    rng, states = np.random.default_rng(seed), 30
    transition = np.zeros((states + 1, 2, states + 1))
    transition[:states, :, :states] = rng.dirichlet(np.ones(states), size=(states, 2))
    transition[states - 1, 1] = transition[states, :] = np.eye(states + 1)[states]
    reward = np.zeros((states + 1, 2))
    reward[states - 1, 1] = rng.normal()
    mdp = FiniteMDP.from_arrays(transition, reward)
    solution = stochastic_shortest_path(mdp, tolerance=1e-300 if exactly else 1e-6)
    np.testing.assert_allclose(solution.value[:states], reward[states - 1, 1], rtol=1e-13)
    np.testing.assert_allclose(evaluate_policy(mdp, solution.policy, 1).value, solution.value, rtol=1e-10)


@settings(max_examples=100, deadline=None)
@given(mdps(kinds=["absorbing"]), st.integers(0, 10**6))
def test_a_policy_is_evaluated_without_a_discount(mdp, seed):
    policy = random_policy(mdp, seed)
    transition, reward = dense(mdp)
    chain = np.einsum("sa,sat->st", policy, transition)[:-1, :-1]
    expected = np.linalg.solve(np.eye(len(chain)) - chain, (policy * reward).sum(axis=1)[:-1])
    solution = evaluate_policy(mdp, policy, 1)
    np.testing.assert_allclose(solution.value, [*expected, 0.0], rtol=1e-10, atol=1e-12)
    assert (solution.criterion, solution.gamma, solution.converged) == ("total", 1.0, True)
    assert q_iteration(mdp, 1, policy=policy).value.tolist() == solution.value.tolist()


def test_the_uniform_walk_and_its_action_values():
    walk = random_walk(5)
    solution = evaluate_policy(walk, uniform_policy(walk), 1.0)
    np.testing.assert_allclose(solution.value, np.arange(1, 6) / 6, rtol=1e-14)
    np.testing.assert_allclose(solution.q[:, 0], solution.value, rtol=1e-14)
    assert mean_of(walk, solution) == pytest.approx(expected_return(walk, uniform_policy(walk), 1.0))


def mean_of(mdp, solution):
    return float(mdp.initial @ solution.value)


def test_a_policy_that_goes_on_forever_is_refused_unless_it_is_free_or_never_visited():
    table = {
        (0, 0): [(1.0, END, 2.0)],
        (0, 1): [(1.0, 1, 0.0)],
        (1, 0): [(1.0, 1, -1.0)],
        (1, 1): [(1.0, 1, 0.1), ],
        (2, 0): [(0.5, 2, 0.1), (0.5, 2, -0.1)],
    }  # fmt: skip
    mdp = small(table, initial=0)
    found = evaluate_policy(mdp, [0, 0, 0], 1)
    np.testing.assert_array_equal(found.value, [2.0, np.nan, 0.0])
    np.testing.assert_array_equal(found.q[0], [2.0, np.nan])
    assert found.converged
    with pytest.raises(UsageError, match="from state 0 the policy may never end the episode"):
        evaluate_policy(mdp, [1, 0, 0], 1)
    with pytest.raises(UsageError, match="by method direct, not by gmres"):
        evaluate_policy(mdp, [0, 0, 0], 1, method="gmres")


def test_q_iteration_without_a_discount_gives_the_best_action_values():
    for options in ({"gamma": 1}, {"criterion": "total"}, {"gamma": 1.0, "criterion": "total"}):
        solution = solve(corridor(), "q_iteration", **options)
        assert solution.method == "q_iteration"
        assert solution.q.T.tolist() == [[-14, -14, -13, -12, 0], [-13, -12, -11, -1, 0]]
    with pytest.raises(UsageError, match="in a loop that pays"):
        q_iteration(seen_rewards([1.0], 0.0), 1)


def test_a_trap_says_that_no_path_leads_to_the_end():
    trap = {(0, 0): [(0.5, END, 0.0), (0.5, 1, 0.0)], (1, 0): [(1.0, 1, -1.0)]}
    with pytest.raises(UsageError, match=r"no path leads from state 1 to the end.*minus infinity"):
        stochastic_shortest_path(small(trap, initial=0))


def test_a_problem_that_goes_on_forever_is_refused():
    with pytest.raises(UsageError, match="no path leads from state 0"):
        solve(random_mdp("dense", 4, 2, seed=1), gamma=1)
