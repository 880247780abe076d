"""Rewards of every size, and of very different sizes: rounding decides nothing, and no bound hides it."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from drawn import KINDS, exact_best, random_mdp, rough_mdp
from test_discounted import SOLVER_VARIANTS

from bellgrad.core.errors import UsageError
from bellgrad.mdp.evaluation import evaluate_policy
from bellgrad.mdp.examples import garnet
from bellgrad.mdp.finite_horizon import backward_induction
from bellgrad.mdp.gridworld import gridworld
from bellgrad.mdp.linear_programming import linear_programming, solve_linear_program
from bellgrad.mdp.model import FiniteMDP
from bellgrad.mdp.policies import as_policy, best_actions, greedy, greedy_policy, q_from_value
from bellgrad.mdp.policy_iteration import policy_iteration
from bellgrad.mdp.solve import SOLVERS, solve

SOLVERS_BY_NAME = SOLVER_VARIANTS | {"linear_programming": linear_programming}
FROM_START = [name for name in SOLVERS_BY_NAME if name not in ("q_iteration", "linear_programming")]
FROM_START = [name for name in FROM_START if not name.startswith("policy_iteration")]
EPSILON = np.finfo(float).eps


@pytest.fixture(params=SOLVERS_BY_NAME)
def solver(request):
    return SOLVERS_BY_NAME[request.param]


def two_states(penalty):
    """Two states that mix; the second pays 1 per step. The other action costs `penalty`."""
    return FiniteMDP.from_function(
        2, 2,
        lambda s, a: [(1.0, s, -penalty, False)] if a else [(0.5, t, float(s), False) for t in (0, 1)],
    )  # fmt: skip


# ------------------------------------------------------------------------ sizes that do not decide the answer
@pytest.mark.parametrize("penalty", [1e10, 1e12, 1e15])
def test_a_penalty_that_is_never_paid_does_not_matter(solver, penalty):
    found, exact = solver(two_states(penalty), 0.99), exact_best(two_states(penalty), 0.99)[0]
    assert found.converged and found.policy.tolist() == [[1, 0], [1, 0]]
    assert np.abs(found.value - np.array(exact, float)).max() <= found.error_bound <= 1e-6


@pytest.mark.parametrize("start", [1e12, -1e12, 1e16])
@pytest.mark.parametrize("name", FROM_START)
def test_a_huge_initial_value_is_forgotten(name, start):
    mdp = two_states(1.0)
    found = SOLVERS_BY_NAME[name](mdp, 0.9, initial_value=[start, start / 3])
    assert found.converged
    assert np.abs(found.value - np.array(exact_best(mdp, 0.9)[0], float)).max() <= found.error_bound <= 1e-6


@pytest.mark.parametrize("reward", [1e12, -1e12])
def test_states_that_are_never_reached_are_as_inexact_as_they_are_and_the_others_exact(solver, reward):
    """No value of the size 1e14 can be within 1e-6, and a warning says so."""

    def outcomes(state, action):
        return [(1.0, 2, reward, False)] if state == 2 else [(0.5, t, float(state), False) for t in (0, 1)]

    mdp = FiniteMDP.from_function(3, 1, outcomes)
    with pytest.warns(RuntimeWarning, match="float64 cannot do better for values of this size"):
        found = solver(mdp, 0.99)
    exact = np.array(exact_best(mdp, 0.99)[0], float)
    assert not found.converged and found.error_bound > 1e-6
    assert np.abs(found.value - exact).max() <= found.error_bound
    assert np.abs(found.value - exact)[:2].max() <= 2e-6


@pytest.mark.parametrize("seed", range(70))
def test_every_solver_equals_the_exact_answer_at_every_size(seed):
    """By comparison with fractions: the value within the error bound, the bound within the tolerance or what
    rounding allows, and the policy all of the best actions and no other."""
    mdp, gamma = rough_mdp(seed), [0.0, 0.5, 0.9, 0.99][seed % 4]
    value, q = exact_best(mdp, gamma)
    size = float(max(map(abs, value)))
    for name, find in SOLVERS_BY_NAME.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            found = find(mdp, gamma, tolerance=1e-6)
        error = max(abs(float(exact - float(v))) for exact, v in zip(value, found.value, strict=True))
        allowed = 25 * EPSILON * size / (1 - gamma)
        assert error <= found.error_bound + 2 * EPSILON * size, name
        assert found.error_bound <= max(1e-6, allowed), name
        for state, row in enumerate(q):
            best = max(entry for entry in row if entry is not None)
            for action, entry in enumerate(row):
                chosen = found.policy[state, action] > 0
                if entry is None:
                    assert not chosen, name
                elif entry == best:
                    assert chosen, name
                elif chosen:
                    # the values of both actions are off by the bound, in truth and as computed
                    assert float(best - entry) <= 4 * min(found.error_bound, max(1e-6, allowed)), name


# ---------------------------------------------------------------------------------------------------- scaling
@pytest.mark.parametrize("power", [-60, -33, 5, 60])
@pytest.mark.parametrize("kind", KINDS)
def test_another_unit_of_reward_changes_no_bit(kind, power):
    """A power of two changes no digit of a reward. Then it changes none of the solution."""
    mdp = random_mdp(kind, 5, 3, seed=8, illegal=True)
    other, unit = replace(mdp, reward=mdp.reward * 2.0**power), 2.0**power
    for name, find in SOLVERS_BY_NAME.items():
        one = find(mdp, 0.9, tolerance=2.0**-20)
        two = find(other, 0.9, tolerance=2.0**-20 * unit)
        assert np.array_equal(two.policy, one.policy), name
        assert np.array_equal(two.value, one.value * unit), name
        assert (two.error_bound, two.converged) == (one.error_bound * unit, one.converged), name
    for find in (policy_iteration, linear_programming):  # exact whatever the tolerance is
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            one, two = find(mdp, 0.9), find(other, 0.9)
        assert np.array_equal(two.policy, one.policy) and np.array_equal(two.value, one.value * unit)
    one, two = backward_induction(mdp, 7), backward_induction(other, 7)
    assert np.array_equal(two.policy, one.policy) and np.array_equal(two.value, one.value * unit)


def test_large_rewards_take_no_more_sweeps_than_rounding_allows():
    mdp = garnet(500, 3, 4, seed=0)
    usual = solve(mdp, "value_iteration", gamma=0.99, tolerance=1e-10)
    for unit in (1e8, 1e12):
        with pytest.warns(RuntimeWarning, match="cannot do better"):
            large = solve(replace(mdp, reward=mdp.reward * unit), "value_iteration", gamma=0.99)
        assert large.iterations <= 2 * usual.iterations
        np.testing.assert_allclose(large.value, usual.value * unit, rtol=1e-11)


# ------------------------------------------------------------------------------------------------------- ties
@pytest.mark.parametrize("unit", [1e-150, 1e-10, 1.0, 1e10])
@pytest.mark.parametrize("better", [2.0, 1 + 1e-9, 1 + 1e-12])
def test_the_better_action_is_found_at_every_size(solver, better, unit):
    """Both actions lead to the same state, so that errors of its value do not matter."""
    mdp = FiniteMDP.from_arrays(np.ones((1, 2, 1)), np.array([[1.0, better]]) * unit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # 1e-16 of the unit is below rounding
        found = solver(mdp, 0.9, tolerance=1e-16 * unit)
    assert found.policy.tolist() == [[0, 1]]
    assert found.value[0] == pytest.approx(10 * better * unit, rel=1e-6)


@pytest.mark.parametrize("unit", [2.0**-500, 2.0**-33, 1.0, 2.0**33])
def test_actions_that_only_rounding_separates_are_tied(solver, unit):
    """0.1 + 0.2 - 0.3 is 5.6e-17 in floating point, small beside 0.3 and not beside 0."""
    rewards = np.array([0.1, 0.2, -0.3]) * 3 * unit

    def outcomes(state, action):
        return [(1 / 3, 0, r, False) for r in rewards] if action == 0 else [(1.0, 0, 0.0, False)]

    mdp = FiniteMDP.from_function(1, 3, lambda s, a: outcomes(s, a) if a < 2 else [(1.0, 0, -unit, False)])
    assert mdp.expected_reward[0, 0] != 0
    assert solver(mdp, 0.9, tolerance=1e-9 * unit).policy.tolist() == [[0.5, 0.5, 0]]


@pytest.mark.parametrize("gamma", [0.9, 0.99, 0.999])
@pytest.mark.parametrize("slip", [0.0, 0.2])
def test_both_ways_round_a_symmetric_grid_are_best(gamma, slip):
    """Seen in a mirror, the grid and its goal are the same, so the policies must be too."""
    mdp = gridworld(["." * 11] * 5 + ["." * 5 + "G" + "." * 5] + ["." * 11] * 5, slip=slip, step_reward=-0.1)
    names = {name: k for k, name in enumerate(mdp.action_names)}
    mirrored = [names[{"left": "right", "right": "left"}.get(name, name)] for name in mdp.action_names]
    for find in (policy_iteration, linear_programming):
        policy = find(mdp, gamma).policy.reshape(11, 11, -1)
        np.testing.assert_array_equal(policy, policy[:, ::-1][..., mirrored])
    policy = backward_induction(mdp, 40, gamma=gamma).policy.reshape(40, 11, 11, -1)
    np.testing.assert_array_equal(policy, policy[:, :, ::-1][..., mirrored])


def test_a_small_loss_far_from_large_values_is_a_loss():
    """Two worlds without a way between them; in the small one, an action is worse by a thousandth."""
    mdp = FiniteMDP.from_arrays(np.eye(2)[:, None].repeat(2, axis=1), np.array([[1e12, 1e12], [1e-3, 1e-6]]))
    with pytest.warns(RuntimeWarning, match="cannot do better"):
        assert policy_iteration(mdp, 0.9).policy.tolist() == [[0.5, 0.5], [1, 0]]


def test_greedy_policies_have_no_absolute_tolerance():
    assert (
        greedy_policy(np.array([[2e-10, 1e-10], [1e-300, 0.0], [1e9 + 1e-3, 1e9]])).tolist() == [[1, 0]] * 3
    )
    assert greedy_policy(np.array([1.0, 1.0 - 2 * EPSILON])).tolist() == [0.5, 0.5]
    mdp = FiniteMDP.from_arrays(np.ones((1, 2, 1)), np.array([[2e-10, 1e-10]]))
    assert greedy(mdp, np.zeros(1), gamma=0.9).tolist() == [[1, 0]]
    assert backward_induction(mdp, 3).policy.tolist() == [[[1, 0]]] * 3


def test_errors_of_values_matter_only_where_actions_lead_to_different_states():
    mdp = FiniteMDP.from_arrays(
        np.array([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]] * 2), np.array([[1.0, 0.9, 0.9]] * 2)
    )
    value = np.zeros(2)
    q = q_from_value(mdp, value, 0.5)
    assert best_actions(mdp, q, value, 0.5).tolist() == [[True, False, False]] * 2
    assert best_actions(mdp, q, value, 0.5, error=0.11).tolist() == [[True, False, True]] * 2
    assert best_actions(mdp, q, value, 0.5, error=0.09).tolist() == [[True, False, False]] * 2
    assert best_actions(mdp, q, value, 0.5, error=np.array([0.3, 0.0])).tolist() == [[True, False, True]] * 2


# ---------------------------------------------------------------------------------- GMRES and linear programs
@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-6])
@pytest.mark.parametrize("gamma", [0.9, 0.999])
def test_gmres_keeps_the_tolerance_though_each_step_loses_little(gamma, tolerance):
    """The better action gains 0.0015 per step, which is 0.75 in the end at gamma 0.999."""
    gain = 2 + (1 - gamma) * 2.5
    mdp = FiniteMDP.from_function(
        2, 2,
        lambda s, a: [(1.0, 0, gain / 2 if s else 0.0, False)] if s or a == 0 else [(1.0, 1, -1.0, False)],
    )  # fmt: skip
    found = policy_iteration(mdp, gamma, evaluation="gmres", tolerance=tolerance)
    exact = np.array(exact_best(mdp, gamma)[0], float)
    assert np.abs(found.value - exact).max() <= found.error_bound <= tolerance and found.converged


@pytest.mark.parametrize("seed", range(6))
def test_gmres_meets_its_tolerance_or_solves_directly(seed):
    mdp = garnet(60, 3, 4, seed=seed)
    policy = np.random.default_rng(seed).integers(3, size=60)
    exact = evaluate_policy(mdp, policy, 0.999).value
    for tolerance in (1.0, 1e-3, 1e-9):
        found = evaluate_policy(mdp, policy, 0.999, method="gmres", tolerance=tolerance)
        assert found.converged and found.error_bound <= tolerance
        assert np.abs(found.value - exact).max() <= found.error_bound + 1e-12


def test_a_failure_of_gmres_is_made_up_for(monkeypatch):
    monkeypatch.setattr("bellgrad.mdp.evaluation.GMRES_RESTARTS", 1)
    monkeypatch.setattr("bellgrad.mdp.evaluation.GMRES_VECTORS", 1)
    mdp = garnet(60, 3, 4, seed=0)
    found = evaluate_policy(mdp, np.zeros(60, int), 0.999, method="gmres", tolerance=1e-8)
    assert found.converged and "GMRES did not reach the accuracy" in found.note
    solved = policy_iteration(mdp, 0.999, evaluation="gmres", tolerance=1e-8)
    assert solved.converged and "evaluated directly" in solved.note


def job_search(wages):
    """Wait at 25 per step for another offer, or work at the wage that is offered for good."""
    offered = np.exp(-((np.arange(wages) - wages / 3) ** 2) / wages)
    offered /= offered.sum()

    def outcomes(state, action):
        if action == 0:
            return [(1.0, state, 10 + 50 * state / (wages - 1), False)]
        return [(float(p), after, 25.0, False) for after, p in enumerate(offered)]

    return FiniteMDP.from_function(wages, 2, outcomes)


@pytest.mark.parametrize("gamma", [0.9, 0.99, 0.999])
def test_a_linear_program_is_exact_at_the_default_tolerance(gamma):
    mdp = job_search(51)
    found, exact = linear_programming(mdp, gamma), policy_iteration(mdp, gamma, tolerance=1e-5)
    assert found.converged and found.error_bound <= 1e-6
    assert np.abs(found.value - exact.value).max() <= 1e-8
    assert np.array_equal(found.policy, exact.policy)


def test_a_linear_programs_policy_is_improved_if_huge_rewards_made_it_inexact():
    def outcomes(state, action):
        if state == 0:
            return [(1.0, 0, -1e12, False)]
        if action == 2:
            return [(1.0, 0, 0.0, False)]
        return [(0.5, state % 20 + 1, float(action), False), (0.5, (7 * state) % 20 + 1, 1.0 * state, False)]

    mdp = FiniteMDP.from_function(21, 3, outcomes)
    with pytest.warns(RuntimeWarning, match="cannot do better"):
        found, exact = linear_programming(mdp, 0.99), policy_iteration(mdp, 0.99)
    assert np.array_equal(found.policy, exact.policy) and np.allclose(found.value, exact.value, rtol=1e-12)


def test_the_program_itself_has_the_unit_of_the_rewards():
    mdp = job_search(11)
    one, two = (
        solve_linear_program(mdp, 0.9),
        solve_linear_program(replace(mdp, reward=mdp.reward * 2.0**40), 0.9),
    )
    assert np.array_equal(two.value, one.value * 2.0**40) and np.array_equal(two.occupancy, one.occupancy)


# ------------------------------------------------------------------------- solve from an initial value
@pytest.mark.parametrize("method", [*SOLVERS, "auto"])
def test_solve_passes_an_initial_value_on_or_names_the_methods_that_have_one(method):
    mdp, start = garnet(30, 3, 3, seed=1), np.arange(30.0)
    options = {"initial_value": start, "tolerance": 1e-3}
    if method in (*FROM_START, "auto"):
        found = solve(mdp, method, gamma=0.9, **options)
        assert np.abs(found.value - solve(mdp, gamma=0.9).value).max() <= 1e-3
        again = solve(mdp, method, gamma=0.9, **options | {"initial_value": found.value})
        assert again.iterations < found.iterations
        if method == "auto":
            assert found.method == "modified_policy_iteration" and "begin with given values" in found.note
    else:
        needs = {"horizon": 5} if method == "backward_induction" else {}
        with pytest.raises(UsageError, match=f"{method} has no initial_value; leave it out"):
            solve(mdp, method, initial_value=start, **needs)
    if SOLVERS.get(method, SOLVERS["value_iteration"]).criterion == "discounted":
        with pytest.raises(UsageError, match="initial_value"):
            solve(mdp, method, gamma=0.9, initial_value=[np.nan] * 30)


def test_the_methods_with_an_initial_value_are_named():
    with pytest.raises(UsageError, match="or use value_iteration or gauss_seidel or prioritized_sweeping"):
        solve(garnet(5, 2, 2, seed=0), "policy_iteration", gamma=0.9, initial_value=np.zeros(5))


def test_a_policy_of_flags_or_floats_is_told_what_it_is():
    mdp = garnet(3, 2, 2, seed=0)
    with pytest.raises(UsageError, match=r"\(3,\) of integers; this one has shape \(3,\) and is of float64"):
        as_policy(mdp, [0.0, 1.0, 0.0])
