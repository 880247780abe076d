"""Every solver compared with every other of its criterion, on random MDPs, and the guarantees of their
solutions."""

import inspect
from importlib import import_module
from itertools import combinations

import numpy as np
import pytest
from drawn import KINDS, deterministic_policies, mdps, random_mdp, value_of
from hypothesis import given, settings
from hypothesis import strategies as st

from bellgrad.core.errors import UsageError
from bellgrad.mdp.examples import corridor, garnet
from bellgrad.mdp.model import FiniteMDP
from bellgrad.mdp.policies import bellman, q_from_value
from bellgrad.mdp.solve import SOLVERS, solve

BY_CRITERION = {
    kind: [name for name, row in SOLVERS.items() if row.criterion == kind]
    for kind in ("discounted", "average")
}
DISCOUNTED = BY_CRITERION["discounted"]
STOPS_BY_COUNT = [
    name
    for name, row in SOLVERS.items()
    if "max_iterations"
    in inspect.signature(getattr(import_module(f"bellgrad.mdp.{row.module}"), name)).parameters
]
TOLERANCE = 1e-6


def answers(mdp, criterion, **options):
    return [
        solve(mdp, method, tolerance=TOLERANCE, progress="off", **options)
        for method in BY_CRITERION[criterion]
    ]


def agree(solutions, of):
    """No two differ by more than the sum of their error bounds; 1e-9 is for rounding."""
    for one, two in combinations(solutions, 2):
        apart = np.abs(np.subtract(of(one), of(two))).max()
        assert apart <= one.error_bound + two.error_bound + 1e-9, (one.method, two.method)


def keeps_its_promises(mdp, solution, gamma):
    """The solution's residual, bound and policy: its rows are distributions over legal actions, and its value
    is that of the solution."""
    assert solution.converged
    assert solution.error_bound <= TOLERANCE
    assert solution.residual == pytest.approx(
        np.abs(bellman(mdp, solution.value, gamma) - solution.value).max(), abs=1e-9
    )
    np.testing.assert_allclose(solution.q, q_from_value(mdp, solution.value, gamma), atol=1e-9)
    np.testing.assert_allclose(solution.policy.sum(axis=1), 1)
    assert (solution.policy[~mdp.legal] == 0).all()
    np.testing.assert_allclose(
        value_of(mdp, solution.policy, gamma), solution.value, atol=4 * TOLERANCE / (1 - gamma)
    )


# ------------------------------------------------------------------------------------------------- discounted
@pytest.mark.parametrize("illegal", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gamma", [0.0, 0.9, 0.999])
def test_all_agree_on_every_kind_of_mdp(kind, illegal, gamma):
    mdp = random_mdp(kind, 8, 3, seed=17, illegal=illegal)
    solutions = answers(mdp, "discounted", gamma=gamma)
    agree(solutions, lambda solution: solution.value)
    for solution in solutions:
        keeps_its_promises(mdp, solution, gamma)


@settings(max_examples=50, deadline=None)
@given(mdps(max_states=4), st.sampled_from([0.0, 0.5, 0.9, 0.99]))
def test_every_bound_holds_by_comparison_with_every_deterministic_policy(mdp, gamma):
    exact = np.max([value_of(mdp, policy, gamma) for policy in deterministic_policies(mdp)], axis=0)
    for solution in answers(mdp, "discounted", gamma=gamma):
        assert np.abs(solution.value - exact).max() <= solution.error_bound + 1e-9, solution.method
        assert solution.converged, solution.method


@pytest.mark.parametrize("method", DISCOUNTED)
@pytest.mark.parametrize(("states", "actions"), [(1, 1), (1, 3), (5, 1)])
def test_one_state_or_one_action_is_enough(method, states, actions):
    mdp = random_mdp("dense", states, actions, seed=3)
    keeps_its_promises(mdp, solve(mdp, method, gamma=0.9, progress="off"), 0.9)


def test_all_agree_near_gamma_1():
    mdp = random_mdp("dense", 4, 2, seed=5)
    solutions = answers(mdp, "discounted", gamma=0.9999)
    agree(solutions, lambda solution: solution.value)
    assert all(solution.converged for solution in solutions)
    gain = solve(mdp, criterion="average", progress="off").gain
    np.testing.assert_allclose((1 - 0.9999) * solutions[0].value, gain, atol=1e-3)


def test_all_agree_on_a_few_hundred_states():
    mdp = garnet(300, 4, 5, seed=0)
    solutions = answers(mdp, "discounted", gamma=0.95)
    agree(solutions, lambda solution: solution.value)
    for solution in solutions:
        np.testing.assert_array_equal(solution.policy, solutions[0].policy)


# ---------------------------------------------------------------------------------------------------- average
@settings(max_examples=50, deadline=None)
@given(mdps(kinds=["dense", "sparse", "periodic"]))
def test_all_agree_on_the_gain_of_every_state(mdp):
    solutions = answers(mdp, "average")
    agree(solutions, lambda solution: solution.gains)
    assert all(solution.converged for solution in solutions)
    for solution in solutions:
        assert solution.gain == pytest.approx(mdp.initial @ solution.gains)


# --------------------------------------------------------------------------------- common mistakes of
# planners
@pytest.mark.parametrize("method", DISCOUNTED)
def test_value_iteration_stops_early_by_the_span_but_corrects_the_value(method):
    """One state and reward 1: the first sweep changes all values by the same amount, so that the span is 0
    while the value is wrong by 99."""
    mdp = FiniteMDP.from_arrays(np.ones((1, 1, 1)), np.ones(1))
    solution = solve(mdp, method, gamma=0.99, progress="off")
    assert abs(solution.value[0] - 100) <= solution.error_bound + 1e-9
    assert solution.error_bound <= TOLERANCE
    assert solution.converged


@pytest.mark.parametrize("method", STOPS_BY_COUNT)
def test_max_iter_reached_is_not_converged_and_a_warning_names_the_residual(method):
    mdp = corridor() if SOLVERS[method].criterion == "total" else garnet(30, 3, 3, seed=1)
    gamma = {"gamma": 0.99} if SOLVERS[method].criterion == "discounted" else {}
    with pytest.warns(
        RuntimeWarning, match=f"{method} stopped after 1 iterations with the residual at [0-9]"
    ):
        solution = solve(mdp, method, max_iterations=1, progress="off", **gamma)
    assert (solution.iterations, solution.converged) == (1, False)
    assert solution.error_bound > TOLERANCE
    assert solution.residual > 0


@pytest.mark.parametrize("method", DISCOUNTED)
@pytest.mark.parametrize("gamma", [1, 1.0, 1.5, -0.1, float("nan")])
def test_infinite_horizon_solver_with_gamma_1_is_refused(method, gamma):
    if method == "q_iteration" and gamma == 1:
        pytest.skip("it also solves the total reward")
    with pytest.raises(UsageError, match="gamma"):
        solve(corridor(), method, gamma=gamma, progress="off")
    with pytest.raises(UsageError, match="gamma"):
        getattr(import_module(f"bellgrad.mdp.{SOLVERS[method].module}"), method)(corridor(), gamma)
