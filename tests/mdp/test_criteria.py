"""The criteria: a fixed horizon, total reward until the end, average reward; and linear programming. Closed
forms come first."""

import contextlib
import math
import types
from itertools import product

import numpy as np
import pytest
from drawn import (
    END,
    averages,
    dense,
    deterministic_policies,
    loops,
    mdps,
    random_mdp,
    random_policy,
    small,
    value_of,
    value_until_the_end,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bellgrad.core.errors import UsageError
from bellgrad.mdp import total
from bellgrad.mdp.average import average_policy_iteration, relative_value_iteration
from bellgrad.mdp.components import end_components
from bellgrad.mdp.examples import chain, corridor, garnet, random_walk
from bellgrad.mdp.finite_horizon import backward_induction, finite_horizon_evaluation
from bellgrad.mdp.gradient import expected_return, state_distribution
from bellgrad.mdp.linear_programming import linear_programming, solve_linear_program
from bellgrad.mdp.model import FiniteMDP
from bellgrad.mdp.policies import advantage, bellman, greedy, uniform_policy, value_from_q
from bellgrad.mdp.total import stochastic_shortest_path

AVERAGE = [relative_value_iteration, average_policy_iteration]


def equations_after(sweeps):
    """Solve linear equations after so many sweeps of the total reward."""
    patch = pytest.MonkeyPatch()
    patch.setattr(total, "_solves_from", lambda _, done: done >= sweeps)
    return contextlib.closing(types.SimpleNamespace(close=patch.undo))


def frozen_lake():
    return FiniteMDP.from_gymnasium("FrozenLake-v1")


# ---------------------------------------------------------------------------------------------- fixed horizon
def test_with_few_steps_to_go_the_expensive_step_is_not_taken():
    """With one step to go any cheap action is best; only with three or more steps does it pay to leave the
    third state at cost 10."""
    solution = backward_induction(corridor(), 13)
    assert solution.value.shape == (14, 5)
    assert solution.q.shape == solution.policy.shape == (13, 5, 2)
    assert solution.value[-1].tolist() == [0, 0, 0, 0, 0]
    assert solution.value[-2].tolist() == [-1, -1, -1, -1, 0]
    assert solution.value[0].tolist() == [-13, -12, -11, -1, 0]
    assert solution.policy[12, 2].tolist() == [1, 0]
    assert solution.policy[0, 2].tolist() == [0, 1]
    assert (solution.horizon, solution.iterations, solution.error_bound, solution.converged) == (
        13,
        13,
        0,
        True,
    )


def test_frozen_lake_within_a_hundred_steps():
    """0.7442 for the best policy, 0.7402 for the greedy one at gamma 0.99: from a recursion in plain Python
    over Gymnasium's `P`."""
    lake = frozen_lake()
    best = backward_induction(lake, 100)
    assert best.value[0, 0] == pytest.approx(0.7442, abs=5e-5)
    stationary = linear_programming(lake, 0.99).policy
    assert finite_horizon_evaluation(lake, stationary, 100)[0, 0] == pytest.approx(0.7402, abs=5e-5)
    np.testing.assert_allclose(finite_horizon_evaluation(lake, best.policy, 100), best.value, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(mdps(max_states=3))
def test_no_policy_that_depends_on_the_step_is_better_than_backward_induction(mdp):
    solution = backward_induction(mdp, 2, gamma=0.9)
    policies = product(deterministic_policies(mdp), repeat=2)
    values = np.array(
        [finite_horizon_evaluation(mdp, np.stack(steps), 2, gamma=0.9)[0] for steps in policies]
    )
    np.testing.assert_allclose(values.max(axis=0), solution.value[0], atol=1e-12)
    np.testing.assert_allclose(
        finite_horizon_evaluation(mdp, solution.policy, 2, gamma=0.9), solution.value, atol=1e-8
    )


def test_each_stage_is_reported_with_the_steps_to_go():
    seen = []
    solution = backward_induction(
        corridor(), 3, on_sweep=lambda iteration, value: seen.append((iteration, value.tolist()))
    )
    assert seen == [(to_go, solution.value[3 - to_go].tolist()) for to_go in (1, 2, 3)]


@pytest.mark.parametrize(
    ("horizon", "gamma", "words"), [(0, 1.0, "horizon = 0"), (3, 1.1, "gamma = 1.1"), (3, -0.1, "gamma")]
)
def test_a_horizon_or_discount_out_of_range_is_refused(horizon, gamma, words):
    with pytest.raises(UsageError, match=words):
        backward_induction(corridor(), horizon, gamma=gamma)


# --------------------------------------------------------------------------------- total reward until the end
def test_the_corridor_exactly():
    """The lecture's tables of V*, Q* and A*."""
    solution = stochastic_shortest_path(corridor())
    assert solution.value.tolist() == [-13, -12, -11, -1, 0]
    assert solution.q.T.tolist() == [[-14, -14, -13, -12, 0], [-13, -12, -11, -1, 0]]
    assert advantage(solution.q, solution.policy).T.tolist() == [[-1, -2, -2, -11, 0], [0, 0, 0, 0, 0]]
    assert solution.policy.tolist() == [[0, 1], [0, 1], [0, 1], [0, 1], [0.5, 0.5]]
    assert (solution.residual, solution.error_bound, solution.converged, solution.note) == (0, 0, True, "")


def test_the_value_of_frozen_lake_is_its_probability_of_success():
    """14/17: the best policy, solved in exact fractions; no action improves on its values in any state.

    The loops along the upper wall cost nothing, so that the equation alone has many solutions. The smallest
    is the right one.
    """
    lake = frozen_lake()
    solution = stochastic_shortest_path(lake)
    assert abs(solution.value[0] - 14 / 17) <= solution.error_bound <= 1e-6
    assert solution.converged
    assert "loops that cost nothing, as from state 0" in solution.note
    assert "the smallest solution" in solution.note
    assert expected_return(lake, solution.policy, 1.0) == pytest.approx(14 / 17, abs=1e-12)
    assert solution.value[0] == pytest.approx(backward_induction(lake, 5000).value[0, 0], abs=1e-6)
    too_much = np.where(solution.value > 0, 1.0, 0.0)
    # in the upper row any value solves the equation, even 1
    np.testing.assert_allclose(bellman(lake, too_much, 1.0)[:4], too_much[:4])


@pytest.mark.parametrize("num_states", [1, 5, 19])
def test_the_random_walk_in_closed_form(num_states):
    walk = random_walk(num_states, left=-1.0, right=1.0)
    solution = stochastic_shortest_path(walk, tolerance=1e-9)
    expected = 2 * np.arange(1, num_states + 1) / (num_states + 1) - 1
    assert np.abs(solution.value - expected).max() <= solution.error_bound <= 1e-9


@settings(max_examples=50, deadline=None)
@given(mdps(kinds=["absorbing"], max_states=4), st.sampled_from([1e-2, 1e-6, 1e-10]))
def test_the_error_bound_holds_by_comparison_with_every_deterministic_policy(mdp, tolerance):
    exact = np.max([value_of(mdp, policy, 1 - 1e-15) for policy in deterministic_policies(mdp)], axis=0)
    solution = stochastic_shortest_path(mdp, tolerance=tolerance)
    assert solution.converged
    # the discount of the reference is not quite 1
    assert np.abs(solution.value - exact).max() <= solution.error_bound + 1e-12 * max(1, np.abs(exact).max())
    assert solution.error_bound <= tolerance


def waiting_room(reward_of_waiting):
    """Wait in state 0, go to state 1 at cost 1, and from there to the end at cost 2."""
    return small(
        {(0, 0): [(1.0, 0, reward_of_waiting)], (0, 1): [(1.0, 1, -1.0)], (1, 0): [(1.0, END, -2.0)]}
    )


def test_waiting_forever_at_no_cost_is_not_the_answer_and_is_noted():
    """Waiting forever gives 0, more than the -3 of going; the smallest solution is that of the policies that
    end."""
    solution = stochastic_shortest_path(waiting_room(0.0))
    assert solution.value.tolist() == [-3, -2]
    # it starts in either state
    assert expected_return(waiting_room(0.0), solution.policy, 1.0) == pytest.approx(-2.5)
    assert solution.note.endswith("the smallest solution, the best of the policies that surely end")


@pytest.mark.parametrize("cost", [1.0, 1e-3, 1e-7])
def test_a_wait_at_a_tiny_cost_is_proven_not_to_pay(cost):
    table = {(0, 0): [(1.0, 0, -cost)], (0, 1): [(1.0, 1, -cost)], (1, 0): [(1.0, END, -cost)]}
    solution = stochastic_shortest_path(small(table))
    np.testing.assert_allclose(solution.value, [-2 * cost, -cost], atol=1e-12)
    assert solution.converged
    assert solution.note == ""
    assert solution.policy[0].tolist() == [0, 1]


def test_a_loop_that_earns_at_first_but_costs_in_total_is_solved():
    """Going from 0 to 1 earns 1 and going back costs 2: a full loop never pays, although its first half
    does."""
    mdp = small(
        {
            (0, 0): [(1.0, 1, 1.0)],
            (0, 1): [(1.0, END, 0.0)],
            (1, 0): [(1.0, 0, -2.0)],
            (1, 1): [(1.0, END, -3.0)],
        }
    )
    assert stochastic_shortest_path(mdp).value.tolist() == [0, -2]


def test_a_closed_loop_that_costs_nothing_is_an_end():
    mdp = small({(0, 0): [(0.5, 1, 4.0), (0.5, 0, -1.0)], (1, 0): [(1.0, 2, 0.0)], (2, 0): [(1.0, 1, 0.0)]})
    solution = stochastic_shortest_path(mdp)
    assert solution.value == pytest.approx([3, 0, 0], abs=1e-6)
    assert solution.note.endswith("a loop without an exit has value 0")


@pytest.mark.parametrize(
    ("mdp", "words"),
    [
        (waiting_room(1.0), "from state 0, in a loop that pays"),
        (
            small({(0, 0): [(1.0, 1, 1.0)], (1, 0): [(1.0, 0, -1.0)], (1, 1): [(1.0, END, 0.0)]}),
            "from state 0, in a loop that pays or that costs nothing on average",
        ),
        (
            small(
                {(0, 0): [(1.0, 1, 3.0)], (1, 0): [(0.5, 0, -2.0), (0.5, 1, 0.0)], (1, 1): [(1.0, END, 0.0)]}
            ),
            "from state 0, in a loop that pays",
        ),
        (
            small({(0, 0): [(1.0, END, 0.0)], (0, 1): [(1.0, 1, 0.0)], (1, 0): [(1.0, 1, -1.0)]}),
            "no path leads from state 1 to the",
        ),
        (chain(), "no path leads from state 0"),
        (random_mdp("periodic", 4, 2, seed=0), "no path leads from state 0"),
    ],
)
def test_infinite_horizon_solver_with_gamma_1_refuses_endless_loops_that_do_not_cost(mdp, words):
    """A problem without a finite and unique total reward is refused, with a state."""
    with pytest.raises(UsageError, match=words):
        stochastic_shortest_path(mdp)


@settings(max_examples=300, deadline=None)
@given(loops(), st.booleans())
def test_refusals_and_solutions_agree_with_enumeration(mdp, at_once):
    """Refused: a policy can loop without a loss, with steps that are not all free, or a state has no path to
    an end. Otherwise the solution is the best policy that ends, by sweeps or by equations at once."""
    values = [value_until_the_end(mdp, policy) for policy in deterministic_policies(mdp)]
    with equations_after(0 if at_once else math.inf):
        if any(value is None for value in values) or np.isinf(np.max(values, axis=0)).any():
            with pytest.raises(UsageError, match=r"from state \d"):
                stochastic_shortest_path(mdp)
        else:
            solution, expected = stochastic_shortest_path(mdp), np.max(values, axis=0)
            assert solution.converged
            assert np.abs(solution.value - expected).max() <= solution.error_bound + 1e-12
            np.testing.assert_allclose(value_until_the_end(mdp, solution.policy), expected, atol=1e-6)


def test_sweeps_are_reported_and_too_few_give_no_error_bound():
    seen = []
    with pytest.warns(
        RuntimeWarning,
        match=r"stopped after 7 iterations with the residual at 0\.0\d+: values may be off by inf",
    ):
        solution = stochastic_shortest_path(
            frozen_lake(), max_iterations=7, on_sweep=lambda i, value: seen.append((i, value))
        )
    assert [i for i, _ in seen] == [1, 2, 3, 4, 5, 6, 7]
    assert seen[-1][1] is solution.value
    assert (solution.iterations, solution.converged, solution.error_bound) == (7, False, math.inf)
    exact = stochastic_shortest_path(frozen_lake()).value
    assert (
        backward_induction(frozen_lake(), 7).value[0] <= solution.value
    ).all()  # a loop that costs nothing needs no sweep
    assert (solution.value <= exact + 1e-6).all()


# ------------------------------------------------------------------------------------------- end components
def test_end_components_are_the_sets_in_which_a_policy_can_stay():
    """States 0 and 1 form a loop with action 0; state 2 is left at random; state 3 leads to itself; action 1
    in 0 leads out and belongs to no component."""
    mdp = small(
        {
            (0, 0): [(1.0, 1, 0.0)],
            (0, 1): [(0.5, 0, 0.0), (0.5, 2, 0.0)],
            (1, 0): [(1.0, 0, 0.0)],
            (2, 0): [(0.5, 2, 0.0), (0.5, 3, 0.0)],
            (3, 0): [(1.0, 3, 0.0)],
            (3, 1): [(0.9, 3, 0.0), (0.1, END, 0.0)],
        }
    )
    component, stays = end_components(mdp, mdp.legal)
    assert component[0] == component[1] != component[3]
    assert component[2] == -1
    assert stays.tolist() == [[True, False], [True, False], [False, False], [True, False]]


# --------------------------------------------------------------------------------------------- average reward
@pytest.mark.parametrize("solver", AVERAGE)
def test_the_average_of_a_ring_is_the_mean_of_its_rewards(solver):
    """The chain is periodic: without the transformation value iteration would not converge."""
    rewards = np.array([3.0, -1.0, 4.0, 0.0, -2.0])
    ring = FiniteMDP.from_arrays(np.roll(np.eye(5), 1, axis=1)[:, None], rewards)
    solution = solver(ring)
    assert abs(solution.gain - 0.8) <= solution.error_bound + 1e-14
    assert solution.converged
    assert solution.error_bound <= 1e-6
    np.testing.assert_allclose(solution.bias[1:] - solution.bias[:-1], 0.8 - rewards[:-1], atol=1e-5)
    assert solution.bias[0] == 0


@pytest.mark.parametrize("solver", AVERAGE)
def test_going_forward_is_optimal_in_the_chain(solver):
    """Always forward has the stationary distribution 0.2, 0.16, 0.128, 0.1024 and 0.4096 in the last state. A
    step earns 2 after a slip, otherwise 10 in the last state: 0.2 * 2 + 0.8 * 0.4096 * 10 = 3.6768."""
    solution = solver(chain())
    assert abs(solution.gain - 3.6768) <= solution.error_bound + 1e-12
    assert solution.policy[:, 0].tolist() == [1, 1, 1, 1, 1]


def two_rooms(pay, door=0.0):
    """Stay in either of two states, or go to the other; the policy that stays in both has two closed
    classes."""
    return small(
        {(s, a): [(1.0, s if a == 0 else 1 - s, pay[s] if a == 0 else door)] for s in (0, 1) for a in (0, 1)},
    )


@pytest.mark.parametrize("solver", AVERAGE)
def test_an_intermediate_policy_with_two_closed_classes_is_handled(solver):
    solution = solver(two_rooms((1.0, 2.0)))
    assert abs(solution.gain - 2) <= solution.error_bound + 1e-12
    assert solution.policy.tolist() == [[0, 1], [1, 0]]


@settings(max_examples=50, deadline=None)
@given(mdps(kinds=["dense", "sparse", "periodic"], max_states=4))
def test_gain_and_bound_hold_by_comparison_with_every_deterministic_policy(mdp):
    component, _ = end_components(mdp, mdp.legal)
    assume(len(set(component[component >= 0])) == 1)
    gains = [averages(mdp, policy).max() for policy in deterministic_policies(mdp)]
    for solver in AVERAGE:
        solution = solver(mdp)
        assert abs(solution.gain - max(gains)) <= solution.error_bound + 1e-9
        assert solution.error_bound <= 1e-6
        assert averages(mdp, solution.policy).min() >= max(gains) - 2e-6
        np.testing.assert_allclose(value_from_q(solution.q, solution.policy), solution.bias, atol=1e-5)


def test_the_gain_is_the_limit_of_the_discounted_value():
    """(1 - gamma) V_gamma converges to the gain: Puterman 1994, corollary 8.2.5. The difference is (1 -
    gamma) times the bias."""
    mdp = garnet(50, 3, 4, seed=1)
    solution = average_policy_iteration(mdp)
    value = linear_programming(mdp, 0.9999, tolerance=1e-4).value
    np.testing.assert_allclose((1 - 0.9999) * value, solution.gain, atol=1e-3)
    np.testing.assert_allclose(value - value[0], solution.bias, atol=1e-2)


@pytest.mark.parametrize("solver", AVERAGE)
def test_an_average_of_episodes_that_end_is_refused(solver):
    with pytest.raises(UsageError, match=r"state 4 \(5\), action 0 \(L\): an episode may end here"):
        solver(corridor())


def test_average_sweeps_are_reported_and_too_few_are_not_converged():
    mdp, seen = garnet(30, 3, 3, seed=0), []
    with pytest.warns(
        RuntimeWarning, match="relative_value_iteration stopped after 4 iterations with the residual at 0.0"
    ):
        solution = relative_value_iteration(mdp, max_iterations=4, on_sweep=lambda i, bias: seen.append(i))
    assert seen == [1, 2, 3, 4]
    assert not solution.converged
    exact = average_policy_iteration(mdp)
    assert 1e-6 < solution.error_bound < math.inf
    assert abs(solution.gain - exact.gain) <= solution.error_bound
    with pytest.warns(RuntimeWarning, match="the gain may be off by 0.27"):
        stopped = average_policy_iteration(mdp, max_iterations=1)
    assert not stopped.converged
    assert abs(stopped.gain - exact.gain) <= stopped.error_bound


# ----------------------------------------------------------------------------------------- linear programming
@pytest.mark.parametrize(("gamma", "value"), [(0.99, 0.542026), (0.95, 0.180472), (0.9, 0.068891)])
def test_frozen_lake_by_linear_programming(gamma, value):
    """To six digits from value iteration in plain Python over Gymnasium's `P`, run until nothing changes."""
    solution = linear_programming(frozen_lake(), gamma)
    assert solution.value[0] == pytest.approx(value, abs=1e-6)
    assert solution.converged
    assert solution.error_bound < 1e-9


@settings(max_examples=30, deadline=None)
@given(mdps(), st.sampled_from([0.0, 0.5, 0.9, 0.999]))
def test_the_duality_gap_is_closed(mdp, gamma):
    program = solve_linear_program(mdp, gamma)
    transition, reward = dense(mdp)
    scale = 1 / (1 - gamma)
    assert (program.occupancy >= -1e-9).all()
    assert (program.occupancy[~mdp.legal] == 0).all()
    # the duality gap
    assert (program.occupancy * reward).sum() == pytest.approx(program.value.mean(), abs=1e-7 * scale)
    flow = program.occupancy.sum(axis=1) - gamma * np.einsum("sa,sat->t", program.occupancy, transition)
    np.testing.assert_allclose(flow, 1 / mdp.num_states, atol=1e-7)


def test_the_occupancy_is_that_of_the_optimal_policy():
    """Complementary slackness: only best actions have visits, and the visits are those of the policy from a
    uniform start."""
    mdp = garnet(20, 3, 4, seed=2)
    program, solution = solve_linear_program(mdp, 0.9), linear_programming(mdp, 0.9)
    assert (program.occupancy[solution.policy == 0] < 1e-9).all()
    visits = state_distribution(mdp, solution.policy, 0.9, normalized=False)
    np.testing.assert_allclose(program.occupancy.sum(axis=1), visits, atol=1e-8)
    np.testing.assert_array_equal(solution.policy, greedy(mdp, solution.value, gamma=0.9))


def test_a_linear_program_needs_a_discount():
    with pytest.raises(UsageError, match=r"gamma = 1.0 is out of range \[0, 1\)"):
        linear_programming(corridor(), 1.0)


# -------------------------------------------------------------------------------------------- several at once
@settings(max_examples=20, deadline=None)
@given(mdps(kinds=["absorbing"]), st.integers(0, 10**6))
def test_a_long_horizon_reaches_the_total(mdp, seed):
    solution = stochastic_shortest_path(mdp)
    ends = mdp.ending[:-1][mdp.legal[:-1]].min(initial=1.0)  # from all states but the last, which is closed
    assume(ends > 0.002)
    long = math.ceil(25 / ends)  # hardly any episode lasts so long
    np.testing.assert_allclose(backward_induction(mdp, long).value[0], solution.value, atol=2e-6)
    assert (
        value_of(mdp, random_policy(mdp, seed), 1 - 1e-15) <= solution.value + solution.error_bound + 1e-12
    ).all()


def test_the_uniform_policy_is_worse_than_the_best_by_every_criterion():
    mdp = garnet(20, 3, 4, seed=4)
    policy = uniform_policy(mdp)
    assert (backward_induction(mdp, 10).value > finite_horizon_evaluation(mdp, policy, 10))[:-1].all()
    assert (linear_programming(mdp, 0.9).value > value_of(mdp, policy, 0.9)).all()
    assert average_policy_iteration(mdp).gain > averages(mdp, policy).max()
