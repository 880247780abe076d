"""The solvers of discounted MDPs, and `solve`, the entry point of all solvers."""

import warnings
from itertools import pairwise

import numba
import numpy as np
import pytest
from drawn import deterministic_policies, mdps, random_mdp, random_policy, value_of
from hypothesis import given, settings
from hypothesis import strategies as st

from bellgrad.core.errors import UsageError
from bellgrad.mdp.evaluation import evaluate_policy
from bellgrad.mdp.examples import corridor, garnet
from bellgrad.mdp.gridworld import gridworld
from bellgrad.mdp.kernels import MIN_PARALLEL_OUTCOMES
from bellgrad.mdp.model import FiniteMDP
from bellgrad.mdp.policies import bellman, uniform_policy
from bellgrad.mdp.policy_iteration import modified_policy_iteration, policy_iteration
from bellgrad.mdp.solve import SOLVERS, solve
from bellgrad.mdp.value_iteration import gauss_seidel, prioritized_sweeping, q_iteration, value_iteration

SOLVER_VARIANTS = {
    "value_iteration": value_iteration,
    "gauss_seidel": gauss_seidel,
    "prioritized_sweeping": prioritized_sweeping,
    "q_iteration": q_iteration,
    "policy_iteration": policy_iteration,
    "policy_iteration, gmres": lambda mdp, gamma, **kw: policy_iteration(
        mdp, gamma, evaluation="gmres", **kw
    ),
    "modified_policy_iteration": modified_policy_iteration,
    "modified_policy_iteration, in place": lambda mdp, gamma, **kw: modified_policy_iteration(
        mdp, gamma, in_place=True, **kw
    ),
}
ROUNDING = 1e-10  # of values in the hundreds, through a few thousand sweeps
LONG_PATH = FiniteMDP.from_function(  # a reward after 60 steps: far from converged after a few sweeps
    60, 2, lambda s, a: [(1.0, (s + a) % 60, float(s == 59 and a == 1), False)]
)


@pytest.fixture(params=SOLVER_VARIANTS)
def solver(request):
    return SOLVER_VARIANTS[request.param]


@settings(max_examples=60, deadline=None)
@given(mdp=mdps(), gamma=st.sampled_from([0.0, 0.5, 0.9, 0.99]))
def test_every_solver_finds_the_value_of_the_best_policy_within_its_error_bound(mdp, gamma):
    best = np.max([value_of(mdp, policy, gamma) for policy in deterministic_policies(mdp)], axis=0)
    for name, find in SOLVER_VARIANTS.items():
        found = find(mdp, gamma, tolerance=1e-6)
        assert found.converged, name
        assert np.abs(found.value - best).max() <= found.error_bound + ROUNDING <= 1e-6 + ROUNDING, name
        np.testing.assert_allclose(value_of(mdp, found.policy, gamma), best, atol=1e-4, err_msg=name)
        assert (found.policy[~mdp.legal] == 0).all() and (found.q[~mdp.legal] == -np.inf).all(), name


@pytest.mark.parametrize("kind", ["dense", "sparse", "absorbing", "periodic"])
def test_every_error_bound_holds_at_gamma_near_one(solver, kind):
    mdp = random_mdp(kind, 5, 2, seed=3)
    exact = policy_iteration(mdp, 0.9995, tolerance=1e-9)
    found = solver(mdp, 0.9995, tolerance=1e-5)
    assert found.converged and np.abs(found.value - exact.value).max() <= 1e-5


def test_residual_is_the_bellman_residual_at_the_value(solver):
    mdp = random_mdp("dense", 6, 3, seed=1)
    found = solver(mdp, 0.9)
    assert found.residual == pytest.approx(
        np.abs(bellman(mdp, found.value, 0.9) - found.value).max(), abs=1e-12
    )


@pytest.mark.parametrize(
    "find", [value_iteration, gauss_seidel, prioritized_sweeping, q_iteration, modified_policy_iteration]
)
def test_running_out_of_iterations_gives_a_warning_with_the_residual(find):
    with pytest.warns(RuntimeWarning, match="after 2 iterations with the residual at"):
        found = find(LONG_PATH, 0.99, max_iterations=2)
    exact = policy_iteration(LONG_PATH, 0.99)
    assert not found.converged and found.error_bound > 1e-6
    assert np.abs(found.value - exact.value).max() <= found.error_bound + ROUNDING


def test_running_out_of_policies_gives_a_warning_too():
    with pytest.warns(RuntimeWarning, match="policy_iteration stopped after 1 iterations"):
        assert not policy_iteration(LONG_PATH, 0.99, max_iterations=1).converged


def test_a_tolerance_below_rounding_is_not_claimed():
    """1e-18 is less than the spacing of float64 near these values."""
    with pytest.warns(RuntimeWarning, match="residual"):
        assert not value_iteration(LONG_PATH, 0.9, tolerance=1e-18).converged


def test_float32_keeps_its_error_bound():
    mdp = garnet(200, 3, 4, seed=0)
    exact = policy_iteration(mdp, 0.9)
    found = value_iteration(mdp, 0.9, dtype="float32", tolerance=1e-3)
    assert found.value.dtype == np.float32 and found.converged
    assert np.abs(found.value - exact.value).max() <= found.error_bound
    with pytest.warns(RuntimeWarning, match="residual"):
        assert not value_iteration(mdp, 0.9, dtype="float32", tolerance=1e-9).converged


def test_the_span_gives_the_value_if_the_change_is_the_same_in_all_states():
    """Every step pays 1, so that V* = 1 / (1 - gamma), which one sweep finds from any constant."""
    mdp = random_mdp("dense", 4, 2, seed=0)
    mdp = FiniteMDP.from_arrays(mdp.transition, np.ones((4, 2)))
    found = value_iteration(mdp, 0.999, initial_value=np.zeros(4))
    assert found.iterations == 1
    np.testing.assert_allclose(found.value, 1000.0, atol=1e-8)


def test_n_sweeps_from_zero_give_the_best_reward_in_n_steps():
    values = []
    value_iteration(
        corridor(), 0.9, initial_value=np.zeros(5), on_sweep=lambda k, value: values.append((k, value.copy()))
    )
    exact = solve(corridor(), horizon=4, gamma=0.9)
    assert [k for k, _ in values[:4]] == [1, 2, 3, 4]
    for k, value in values[:4]:
        np.testing.assert_allclose(value, exact.value[4 - k])


def test_with_the_default_initial_value_no_sweep_lowers_a_value():
    values = []
    mdp = random_mdp("dense", 6, 3, seed=2)
    modified_policy_iteration(mdp, 0.95, in_place=True, on_sweep=lambda _, value: values.append(value.copy()))
    assert len(values) > 2 and all((later >= before - 1e-12).all() for before, later in pairwise(values))


def test_on_sweep_gets_a_read_only_value(solver):
    with pytest.raises(ValueError, match="read-only"):
        solver(LONG_PATH, 0.9, on_sweep=lambda _, value: value.fill(0))


def test_the_corridor_is_solved_exactly():
    """V* of the five-state corridor with cost 1 per step, and 10 from state 3 to 4, at gamma 1."""
    found = solve(corridor(), gamma=1.0)
    np.testing.assert_allclose(found.value, [-13, -12, -11, -1, 0])
    assert found.method == "stochastic_shortest_path" and "total" in found.note


@pytest.mark.parametrize(("gamma", "start"), [(0.99, 0.542026), (0.95, 0.180472), (0.9, 0.068891)])
def test_frozen_lake_has_its_known_values(solver, gamma, start):
    """V*(start) of the slippery 4x4 map, from an exact solution by another library's policy iteration."""
    found = solver(FiniteMDP.from_gymnasium("FrozenLake-v1"), gamma)
    assert found.value[0] == pytest.approx(start, abs=1.5e-6)


def test_equally_good_actions_have_equal_probabilities():
    mdp = FiniteMDP.from_arrays(np.ones((1, 3, 1)), np.array([[1.0, 0.5, 1.0]]))
    np.testing.assert_allclose(value_iteration(mdp, 0.9).policy, [[0.5, 0, 0.5]])


@settings(max_examples=30, deadline=None)
@given(mdp=mdps(), seed=st.integers(0, 100), gamma=st.sampled_from([0.0, 0.9, 0.99]))
def test_every_way_to_evaluate_a_policy_gives_the_same_values(mdp, seed, gamma):
    policy = random_policy(mdp, seed)
    exact = value_of(mdp, policy, gamma)
    for method in ("direct", "iterative", "gmres"):
        found = evaluate_policy(mdp, policy, gamma, method=method)
        assert found.converged and np.abs(found.value - exact).max() <= found.error_bound + ROUNDING, method
    assert np.abs(q_iteration(mdp, gamma, policy=policy).value - exact).max() <= 1e-6


def test_probabilities_that_sum_to_more_than_one_over_gamma_are_refused():
    transition = np.array([[[1 + 5e-7]]])  # within the rounding of float32 input
    mdp = FiniteMDP.from_arrays(transition, np.ones((1, 1)))
    assert value_iteration(mdp, 0.99).value[0] == pytest.approx(
        (1 + 5e-7) / (1 - 0.99 * (1 + 5e-7)), abs=1e-6
    )
    with pytest.raises(UsageError, match="make them sum to 1"):
        value_iteration(mdp, 0.9999999)


def test_the_number_of_threads_is_restored():
    before = numba.get_num_threads()
    value_iteration(LONG_PATH, 0.9)
    assert numba.get_num_threads() == before


# ------------------------------------------------------------------------------------------------------ solve
def test_every_solver_of_the_table_is_a_function_that_solve_calls():
    mdp = garnet(20, 2, 3, seed=0)
    for name, solver in SOLVERS.items():
        if solver.criterion == "total":
            found = solve(corridor(), name)
        else:
            found = solve(mdp, name, horizon=5 if solver.criterion == "horizon" else None)
        assert found.method == name and found.converged


def test_auto_solves_small_mdps_exactly():
    found = solve(LONG_PATH)
    assert (
        found.method == "policy_iteration"
        and found.error_bound < 1e-9
        and "at most 1,000 states" in found.note
    )


@pytest.mark.parametrize(
    ("mdp", "in_place"),
    [
        (garnet(2_000, 3, 4, seed=0), False),
        (gridworld(["." * 40] * 39 + ["." * 39 + "G"], slip=0.2, step_reward=-1), True),
    ],
    ids=["all over the MDP", "a grid"],
)
def test_auto_changes_to_sweeps_in_place_if_paths_are_long(mdp, in_place):
    found = solve(mdp, gamma=0.999)
    assert found.method == "modified_policy_iteration" and ("in place" in found.note) == in_place
    exact = value_iteration(mdp, 0.999, tolerance=1e-7)
    assert found.converged and np.abs(found.value - exact.value).max() <= 1e-6


def test_large_mdps_are_solved_by_threads_to_the_same_value():
    mdp = garnet(10_000, 3, 6, seed=0)
    assert len(mdp.probability) > MIN_PARALLEL_OUTCOMES
    np.testing.assert_allclose(value_iteration(mdp, 0.9).value, gauss_seidel(mdp, 0.9).value, atol=2e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "value_iteratoin"}, "did you mean value_iteration"),
        ({"criterion": "discount"}, "did you mean discounted"),
        ({"criterion": "average", "gamma": 0.9}, "leave out gamma"),
        ({"criterion": "total", "gamma": 0.9}, "no discount"),
        ({"criterion": "average", "horizon": 3}, "no horizon"),
        ({"method": "policy_iteration", "horizon": 3}, "has no horizon"),
        ({"method": "backward_induction"}, "needs a horizon"),
        ({"method": "policy_iteration", "gamma": 1.0}, "below 1"),
        ({"method": "policy_iteration", "criterion": "average"}, "for the discounted reward"),
        ({"method": "linear_programming", "dtype": "float32"}, "has no dtype"),
        ({"method": "value_iteration", "dtype": "float16"}, "unknown dtype"),
        ({"method": "value_iteration", "tolerance": 0.0}, "above 0"),
        ({"method": "value_iteration", "max_iterations": 0}, "1 or more"),
        ({"gamma": 1.5}, "out of range"),
        ({"gamma": float("nan")}, "out of range"),
    ],
)
def test_arguments_that_do_not_fit_together_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        solve(LONG_PATH, **options)


def test_nothing_is_shown_if_standard_error_is_not_a_terminal(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solve(LONG_PATH, "value_iteration", gamma=0.999)
    assert capsys.readouterr().err == ""


def test_a_long_solve_shows_a_line_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("bellgrad.mdp.solve.PROGRESS_AFTER", 0.0)
    seen = []
    solve(LONG_PATH, "value_iteration", gamma=0.9, on_sweep=lambda k, _: seen.append(k))
    assert "value_iteration" in capsys.readouterr().err and seen[0] == 1


def test_uniform_policies_are_no_better_than_the_best():
    mdp = random_mdp("dense", 6, 3, seed=4)
    assert (evaluate_policy(mdp, uniform_policy(mdp), 0.9).value <= solve(mdp, gamma=0.9).value + 1e-9).all()
