"""The average reward: several sets of states to stay in, the stop by rounding, unreachable states."""

import numpy as np
import pytest
from drawn import averages, deterministic_policies, mdps, small
from hypothesis import given, settings
from hypothesis import strategies as st

from bellgrad.core.errors import UsageError
from bellgrad.mdp.average import average_policy_iteration, relative_value_iteration
from bellgrad.mdp.examples import garnet
from bellgrad.mdp.model import FiniteMDP
from bellgrad.mdp.policies import q_from_value, value_from_q
from bellgrad.mdp.solve import solve
from bellgrad.report.finite.text import solution_text

SOLVERS = pytest.mark.parametrize("solver", [relative_value_iteration, average_policy_iteration])


def scaled(mdp, factor, initial=None):
    return FiniteMDP(
        mdp.num_actions, mdp.offset, mdp.probability, mdp.next_state, mdp.reward * factor, mdp.terminated,
        mdp.initial if initial is None else initial,
    )  # fmt: skip


# ------------------------------------------------------------------------------- several sets to stay in
@SOLVERS
def test_the_gain_depends_on_the_start_if_the_states_to_stay_in_do(solver):
    """State 0 goes to 1 or to the worse 2 by chance; state 3 may stay at 0.5 or try its luck."""
    mdp = small(
        {
            (0, 0): [(0.25, 1, 0.0), (0.75, 2, 0.0)],
            (1, 0): [(1.0, 1, 4.0)],
            (2, 0): [(1.0, 2, -1.0)],
            (3, 0): [(1.0, 3, 0.5)],
            (3, 1): [(1.0, 0, 100.0)],
        },
        initial=3,
    )
    solution = solver(mdp)
    np.testing.assert_allclose(solution.gains, [0.25, 4.0, -1.0, 0.5], atol=solution.error_bound)
    assert solution.gain == solution.gains[3]
    assert solution.policy[3].tolist() == [1, 0]
    assert solution.converged
    assert solution.error_bound <= 1e-12
    assert "3 sets of states to stay in: -1 to 4 per step" in solution.note


@SOLVERS
def test_a_better_set_is_reached_at_any_cost_on_the_way(solver):
    """A cost on the way is paid once."""
    mdp = small(
        {(0, 0): [(1.0, 0, 1.0)], (0, 1): [(0.5, 0, -100.0), (0.5, 1, -100.0)], (1, 0): [(1.0, 1, 1.5)]},
        initial=0,
    )
    solution = solver(mdp)
    np.testing.assert_allclose(solution.gains, 1.5)
    assert solution.policy.tolist() == [[0, 1], [1, 0]]
    assert solution.bias[0] - solution.bias[1] == pytest.approx(-203, abs=1e-5)


@SOLVERS
def test_on_the_way_the_cheaper_of_two_ways_is_taken(solver):
    """Both lead to the same set; only the bias tells them apart."""
    table = {
        (0, 0): [(1.0, 1, -3.0)],
        (0, 1): [(1.0, 1, -2.0)],
        (1, 0): [(1.0, 1, 1.0)],
        (2, 0): [(1.0, 2, 7.0)],
    }
    solution = solver(small(table))
    assert solution.policy[0].tolist() == [0, 1]
    assert solution.bias[0] == pytest.approx(-3)  # 2, and the reward of 1 that it misses


@st.composite
def branching(draw):
    """Few successors, so that there are mostly several sets of states to stay in; rewards with two digits."""
    states, actions = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    table = {}
    for state in range(states):
        for action in range(actions):
            count = rng.integers(1, 3)
            towards = rng.integers(0, states, size=count)
            if rng.random() < 0.3:
                towards[:] = state
            weights = rng.dirichlet(np.ones(count))
            reward = rng.normal(size=count).round(draw(st.sampled_from([0, 2])))
            table[state, action] = list(zip(weights.tolist(), towards.tolist(), reward.tolist(), strict=True))
    return small(table)


@SOLVERS
def test_gains_are_those_of_the_best_policies_by_enumeration(solver):
    @settings(max_examples=300, deadline=None)
    @given(branching())
    def check(mdp):
        best = np.max([averages(mdp, policy) for policy in deterministic_policies(mdp)], axis=0)
        solution = solver(mdp)
        assert solution.converged
        assert np.abs(solution.gains - best).max() <= solution.error_bound + 1e-9
        np.testing.assert_allclose(averages(mdp, solution.policy), best, atol=3e-6)
        np.testing.assert_allclose(solution.policy.sum(axis=1), 1)
        expected = q_from_value(mdp, solution.bias, 1.0) - solution.gains[:, None]
        np.testing.assert_allclose(solution.q, expected, atol=1e-9)
        np.testing.assert_allclose(value_from_q(solution.q, solution.policy), solution.bias, atol=2e-5)

    check()


@SOLVERS
def test_a_thousand_absorbing_states(solver):
    reward = np.linspace(-1, 1, 1000)
    transition = np.eye(1001)[None].repeat(2, axis=0).transpose(1, 0, 2)
    transition[1000] = 0
    transition[1000, 0, :500] = 1 / 500
    transition[1000, 1, 500:1000] = 1 / 500
    solution = solver(FiniteMDP.from_arrays(transition, np.append(reward, 0.0), initial=1000))
    assert solution.gain == pytest.approx(reward[500:].mean(), abs=1e-12)
    assert solution.policy[1000].tolist() == [0, 1]


def test_sweeps_are_reported_in_every_set():
    mdp = small({(s, 0): [(0.5, s, 0.0), (0.5, s ^ 1, float(s))] for s in range(4)})
    seen = []
    solution = relative_value_iteration(mdp, on_sweep=lambda number, bias: seen.append((number, bias)))
    assert [number for number, _ in seen] == list(range(1, solution.iterations + 1))
    np.testing.assert_array_equal(seen[-1][1], solution.bias)


# ------------------------------------------------------------------------------------------------- rounding
def test_large_rewards_take_about_as_many_sweeps_as_small_ones():
    mdp = garnet(2000, 3, 4, seed=0)
    base = solve(mdp, criterion="average", tolerance=1e-9)
    assert base.method == "relative_value_iteration"
    for factor in (1e9, 1e10, 1e15):
        found = solve(scaled(mdp, factor), criterion="average")
        assert found.iterations <= 2 * base.iterations
        assert found.converged
        assert found.error_bound <= 1e-13 * factor
        assert abs(found.gain - factor * base.gain) <= found.error_bound + factor * base.error_bound


@SOLVERS
@settings(max_examples=60, deadline=None)
@given(mdps(kinds=["dense", "sparse", "periodic"]), st.integers(-60, 60))
def test_a_power_of_two_as_scale_changes_neither_policy_nor_iterations(solver, mdp, power):
    one = solver(mdp, tolerance=1e-300)
    two = solver(scaled(mdp, 2.0**power), tolerance=1e-300)
    np.testing.assert_array_equal(two.policy, one.policy)
    np.testing.assert_array_equal(two.gains, one.gains * 2.0**power)
    assert two.iterations == one.iterations
    assert one.converged and two.converged
    assert one.error_bound <= 1e-12


@SOLVERS
@pytest.mark.parametrize("tolerance", [-1, 0, float("nan")])
def test_a_tolerance_out_of_range_is_refused(solver, tolerance):
    with pytest.raises(UsageError, match="tolerance"):
        solver(garnet(5, 2, 2, seed=0), tolerance=tolerance)


@SOLVERS
@pytest.mark.parametrize("max_iterations", [-1, 0])
def test_a_number_of_iterations_out_of_range_is_refused(solver, max_iterations):
    with pytest.raises(UsageError, match="max_iterations"):
        solver(garnet(5, 2, 2, seed=0), max_iterations=max_iterations)


# ------------------------------------------------------------------------ states that cannot be reached
@SOLVERS
def test_a_loop_that_the_start_cannot_reach_does_not_matter(solver):
    table = {(0, 0): [(1.0, 1, 1.0)], (1, 0): [(1.0, 0, 2.0)], (2, 0): [(1.0, 2, 50.0)]}
    solution = solver(small(table, initial=0))
    assert solution.gain == pytest.approx(1.5, abs=1e-6)
    np.testing.assert_allclose(solution.gains, [1.5, 1.5, 50.0], atol=1e-6)


@SOLVERS
def test_an_end_that_the_start_cannot_reach_does_not_matter(solver):
    table = {(0, 0): [(1.0, 1, 1.0)], (1, 0): [(1.0, 0, 2.0)], (2, 0): [(1.0, -1, 50.0)]}
    mdp = small(table, initial=0)
    solution = solver(mdp)
    assert solution.gain == pytest.approx(1.5, abs=1e-6)
    assert np.isnan(solution.gains[2]) and np.isnan(solution.value[2])
    assert "state 2, are left out" in solution.note
    assert "gain 1.5 per step" in solution_text(mdp, solution)
    assert "nan" not in solution_text(mdp, solution)
    with pytest.raises(UsageError, match="state 2, action 0: an episode may end here"):
        solver(small(table))
