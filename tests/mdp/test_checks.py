"""What every function of finite MDPs refuses at once: numbers, counts and arrays that mean nothing."""

import time
import warnings
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from bellgrad.core.errors import UsageError
from bellgrad.mdp import average, estimators, finite_horizon, gradient, observed, policies, survival
from bellgrad.mdp import policy_iteration as howard
from bellgrad.mdp import trajectories as runs
from bellgrad.mdp import value_iteration as sweeps
from bellgrad.mdp.chains import hitting_times
from bellgrad.mdp.checks import array, as_numbers, count, flags, indices, number
from bellgrad.mdp.evaluation import evaluate_policy
from bellgrad.mdp.linear_programming import linear_programming, solve_linear_program
from bellgrad.mdp.model import FiniteMDP
from bellgrad.mdp.pomdp import POMDP
from bellgrad.mdp.solve import SOLVERS, solve
from bellgrad.mdp.total import stochastic_shortest_path

ENDLESS = FiniteMDP.from_function(
    3, 2, lambda s, a: [(0.5, (s + a) % 3, s - a, False), (0.5, (s + 1) % 3, 1.0, False)]
)
ENDING = FiniteMDP.from_function(3, 2, lambda s, a: [(0.5, s, -1.0, True), (0.5, (s + a) % 3, -1.0, False)])
UNIFORM, ZEROS, OBSERVED = np.full((3, 2), 0.5), np.zeros(3), np.zeros(3, int)
THETA, EPISODE = np.zeros((3, 2)), runs.Trajectory((0, 0), (0,), (-1.0,), True)

# Every public function with arguments that are right: those that are named in WRONG are then spoiled in turn.
STOP = {"tolerance": 1e-3, "max_iterations": 100}
DISCOUNTED = {"mdp": ENDLESS, "gamma": 0.9} | STOP
FROM_START = DISCOUNTED | {"initial_value": ZEROS}
STEPS = {"mdp": ENDING, "policy": UNIFORM, "horizon": 4}
DOORS = {
    "value_iteration": (sweeps.value_iteration, FROM_START),
    "gauss_seidel": (sweeps.gauss_seidel, FROM_START),
    "prioritized_sweeping": (sweeps.prioritized_sweeping, FROM_START),
    "q_iteration": (sweeps.q_iteration, DISCOUNTED | {"policy": UNIFORM}),
    "policy_iteration": (howard.policy_iteration, DISCOUNTED),
    "policy_iteration, gmres": (howard.policy_iteration, DISCOUNTED | {"evaluation": "gmres"}),
    "modified_policy_iteration": (howard.modified_policy_iteration, FROM_START),
    "linear_programming": (linear_programming, {"mdp": ENDLESS, "gamma": 0.9, "tolerance": 1e-3}),
    "solve_linear_program": (solve_linear_program, {"mdp": ENDLESS, "gamma": 0.9}),
    "evaluate_policy": (evaluate_policy, DISCOUNTED | {"policy": UNIFORM}),
    "evaluate_policy, iterative": (
        evaluate_policy,
        DISCOUNTED | {"policy": UNIFORM, "method": "iterative"},
    ),
    "stochastic_shortest_path": (stochastic_shortest_path, {"mdp": ENDING} | STOP),
    "relative_value_iteration": (average.relative_value_iteration, {"mdp": ENDLESS} | STOP),
    "average_policy_iteration": (average.average_policy_iteration, {"mdp": ENDLESS} | STOP),
    "backward_induction": (
        finite_horizon.backward_induction,
        {"mdp": ENDING, "horizon": 4, "gamma": 0.9},
    ),
    "finite_horizon_evaluation": (finite_horizon.finite_horizon_evaluation, STEPS | {"gamma": 0.9}),
    "expected_return": (gradient.expected_return, {"mdp": ENDING, "policy": UNIFORM, "gamma": 1.0}),
    "state_distribution": (gradient.state_distribution, {"mdp": ENDING, "policy": UNIFORM, "gamma": 0.9}),
    "softmax_policy": (gradient.softmax_policy, {"mdp": ENDING, "theta": THETA}),
    "softmax_gradient": (gradient.softmax_gradient, {"mdp": ENDING, "theta": THETA, "gamma": 0.9}),
    "policy_gradient": (
        gradient.policy_gradient,
        {"mdp": ENDING, "policy": UNIFORM, "jacobian": np.ones((3, 2, 1)), "gamma": 0.9},
    ),
    "memoryless_return": (
        observed.memoryless_return,
        {"mdp": ENDING, "observation": OBSERVED, "policy": UNIFORM[:1], "horizon": 4, "gamma": 0.9},
    ),
    "best_deterministic_memoryless": (
        observed.best_deterministic_memoryless,
        {"mdp": ENDING, "observation": OBSERVED, "horizon": 4, "gamma": 0.9},
    ),
    "best_memoryless_with_one_mixture": (
        observed.best_memoryless_with_one_mixture,
        {"mdp": ENDING, "observation": OBSERVED, "horizon": 4, "at": 0, "gamma": 0.9},
    ),
    "discount_as_survival": (survival.discount_as_survival, {"mdp": ENDING, "gamma": 0.9}),
    "discounted_return": (runs.discounted_return, {"trajectory": EPISODE, "gamma": 0.9}),
    "log_probability": (
        runs.log_probability,
        {"mdp": ENDING, "policy": UNIFORM, "trajectory": EPISODE},
    ),
    "return_by_enumeration": (runs.return_by_enumeration, STEPS | {"gamma": 0.9}),
    "return_by_sampling": (
        runs.return_by_sampling,
        STEPS | {"gamma": 0.9, "episodes": 5, "seed": 0},
    ),
    "sample_trajectories": (runs.sample_trajectories, STEPS | {"episodes": 5, "seed": 0}),
    "expected_gradient": (
        estimators.expected_gradient,
        {
            "mdp": ENDING,
            "theta": THETA,
            "estimator": estimators.Estimator("reward_to_go", 0.9),
            "horizon": 3,
        },
    ),
    "as_policy": (policies.as_policy, {"mdp": ENDING, "policy": UNIFORM}),
    "q_from_value": (policies.q_from_value, {"mdp": ENDING, "value": ZEROS, "gamma": 0.9}),
    "bellman": (policies.bellman, {"mdp": ENDING, "value": ZEROS, "gamma": 0.9, "policy": UNIFORM}),
    "greedy": (policies.greedy, {"mdp": ENDING, "value": ZEROS, "depth": 2, "gamma": 0.9}),
    "greedy_policy": (policies.greedy_policy, {"q": THETA}),
    "epsilon_greedy_policy": (policies.epsilon_greedy_policy, {"q": THETA, "epsilon": 0.1}),
}
NAN, INF = float("nan"), float("inf")
COUNTS = {"zero": 0, "minus one": -1, "a half": 1.5, "nan": NAN, "inf": INF, "text": "3", "a flag": True}
SHARES = {
    "nan": NAN,
    "negative": -0.1,
    "large": 1.5,
    "inf": INF,
    "text": "0.9",
    "a list": [0.9],
    "complex": 1j,
}
VALUES = {
    "nan": [0.0, NAN, 0.0], "inf": [0.0, INF, 0.0], "minus inf": [0.0, -INF, 0.0], "short": [0.0, 0.0],
    "a column": [[0.0], [0.0], [0.0]], "one number": 0.0, "text": ["a", "b", "c"], "none": [None] * 3,
    "complex": [1j, 0, 0], "ragged": [[0.0], [0.0, 1.0], 0.0],
}  # fmt: skip
TABLES = {
    "nan": np.full((3, 2), NAN), "inf": np.full((3, 2), INF), "text": np.full((3, 2), "a"),
    "complex": np.full((3, 2), 1j), "ragged": [[0.0], [0.0, 1.0], 0.0],
}  # fmt: skip
WRONG = {
    "gamma": SHARES,
    "epsilon": SHARES,
    "tolerance": {"zero": 0, "negative": -1.0, "nan": NAN, "inf": INF, "text": "1e-6", "none": None},
    "max_iterations": COUNTS | {"none": None, "a list": [3]},
    "horizon": COUNTS | {"none": None, "a list": [3]},
    "episodes": COUNTS,
    "depth": COUNTS,
    "at": {"negative": -1, "a half": 0.5, "text": "0", "large": 9},
    "seed": {"negative": -1, "a half": 0.5, "text": "0"},
    "initial_value": VALUES,
    "value": VALUES,
    "observation": {"short": [0, 0], "floats": [0.0] * 3, "negative": [0, -1, 0], "text": ["a"] * 3},
    "policy": TABLES
    | {
        "rows that sum to 2": np.ones((3, 2)), "negative": np.tile([1.5, -0.5], (3, 1)),
        "an action for each state as floats": [0.0, 1.0, 0.0], "short": [0, 1], "no such action": [0, 1, 2],
        "negative action": [0, -1, 0], "flags": [True, False, True],
    },
    "theta": TABLES | {"short": [[0.0, 0.0]], "flat": ZEROS},
    "jacobian": TABLES | {"short": [[0.0, 0.0]], "flat": ZEROS},
    "q": TABLES,
}  # fmt: skip
CASES = [
    pytest.param(function, right, argument, wrong, id=f"{name}-{argument}-{what}")
    for name, (function, right) in DOORS.items()
    for argument in sorted(right.keys() & WRONG.keys())
    for what, wrong in WRONG[argument].items()
    if not (name == "expected_gradient" and what in ("short", "flat"))  # any number of observations
]


def refused_at_once(call, argument):
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UsageError) as refused:
            call()
    message = str(refused.value)
    assert time.process_time() - began < 2  # seconds; a million sweeps take longer
    assert "\n" not in message and len(message) < 300
    assert argument.split("_")[0] in message, message


@pytest.mark.parametrize("name", DOORS)
def test_every_function_accepts_what_is_right(name):
    function, right = DOORS[name]
    function(**right)


@pytest.mark.parametrize(("function", "right", "argument", "wrong"), CASES)
def test_every_function_refuses_at_once_what_is_wrong(function, right, argument, wrong):
    refused_at_once(lambda: function(**right | {argument: wrong}), argument)


@pytest.mark.parametrize("method", [*SOLVERS, "auto"])
@pytest.mark.parametrize(
    ("argument", "what"),
    [
        (argument, what)
        for argument in ("gamma", "tolerance", "max_iterations", "horizon")
        for what in WRONG[argument]
        if not (what == "none" and argument != "tolerance")  # None is the default
    ],
)
def test_solve_refuses_it_for_every_method(method, argument, what):
    ending = method == "stochastic_shortest_path"
    refused_at_once(
        lambda: solve(ENDING if ending else ENDLESS, method, **{argument: WRONG[argument][what]}), argument
    )


def test_whole_numbers_may_be_written_as_floats():
    assert count("n", 1e4) == 10_000 and type(count("n", 1e4)) is int
    assert count("n", np.int32(7)) == count("n", np.float32(7)) == count("n", torch.tensor(7)) == 7
    assert howard.policy_iteration(ENDLESS, 0.9, max_iterations=1e4).converged
    assert solve(ENDLESS, gamma=0.9, max_iterations=1e4, horizon=None).converged
    assert solve(ENDING, horizon=3.0).horizon == 3


def test_numbers_of_any_library_are_numbers():
    for value in (0.5, np.float32(0.5), np.array(0.5), Fraction(1, 2), Decimal("0.5"), torch.tensor(0.5)):
        assert number("x", value) == 0.5
    for value in (True, np.True_, "0.5", None, [0.5], np.array([0.5]), 0.5j, np.array("0.5"), np.ma.masked):
        with pytest.raises(UsageError, match=r"^x = .* must be a number$"):
            number("x", value)


def test_objects_that_are_real_numbers_are_numbers_in_every_array():
    halves = [[Fraction(1, 2), Decimal("0.5")]] * 2
    for given in (halves, np.array(halves)):
        assert array("x", given).tolist() == [[0.5, 0.5]] * 2
    assert array("x", [10**30, 1]).tolist() == [1e30, 1]
    assert as_numbers("x", np.array([0, 2], object)).dtype.kind == "i"
    assert as_numbers("x", np.array([True, False], object)).dtype == bool
    evaluated = evaluate_policy(ENDLESS, np.array([0] * ENDLESS.num_states, object), 0.9)
    assert (evaluated.value == evaluate_policy(ENDLESS, [0] * ENDLESS.num_states, 0.9).value).all()
    for wrong in ([None, 1], [Fraction(1, 2), 1j], ["1", 2], [10**400, 1]):
        with pytest.raises(UsageError, match=r"^x (must be|cannot be read as) an array of numbers"):
            array("x", wrong)


def test_masked_entries_are_never_taken_as_numbers():
    masked = np.ma.array([0, 0, 0], mask=[False, True, False])
    for call in (
        lambda: sweeps.value_iteration(ENDLESS, 0.9, initial_value=masked),
        lambda: policies.as_policy(ENDLESS, masked),
        lambda: indices("x", masked, 3),
        lambda: flags("x", masked),
    ):
        with pytest.raises(UsageError, match="has masked entries"):
            call()
    assert array("x", np.ma.array([0.0, 1.0])).tolist() == [0, 1]


def test_flags_and_indices():
    assert flags("x", [0, 1.0]).tolist() == [False, True]
    assert indices("x", np.array([0.0, 2.0], np.float32), 3).tolist() == [0, 2]
    for wrong in ([0, 2], [0.5], [NAN]):
        with pytest.raises(UsageError, match="x must contain only true and false"):
            flags("x", wrong)
    for wrong, words in (
        ([0.5], "must be a list of integers"),
        ([True], "must be a list of integers"),
        (0, "must be a list of integers"),
        ([0, 3], r"x\[1\] = 3 is out of range 0 to 2"),
        ([-1], r"x\[0\] = -1 is out of range 0 to 2"),
        ([INF], r"x\[0\] = inf is out of range 0 to 2"),
    ):
        with pytest.raises(UsageError, match=words):
            indices("x", wrong, 3)
    with pytest.raises(UsageError, match=r"x\[0\] = -1 is out of range 0 or more"):
        indices("x", [-1])
    with pytest.raises(UsageError, match=r"x\[0\] = 1e\+30 is out of range"):
        indices("x", [1e30])


@pytest.mark.parametrize("door", [name for name, (_, right) in DOORS.items() if "mdp" in right])
def test_what_is_no_mdp_is_refused(door):
    function, right = DOORS[door]
    with pytest.raises(UsageError, match=r"mdp must be a FiniteMDP.*; got (a )?ndarray"):
        function(**right | {"mdp": np.full((1, 1, 1), 1.0)})


def test_what_is_no_mdp_is_refused_by_what_keeps_it():
    for call in (
        lambda: POMDP(5, np.ones((1, 1, 1))),
        lambda: solve(ENDLESS, gamma=0.9).to_rows(5),
        lambda: hitting_times(5, [0], 0),
    ):
        with pytest.raises(UsageError, match="mdp must be a FiniteMDP; got a int"):
            call()
    with pytest.raises(UsageError, match="observation_names must be a list of names, got a int"):
        POMDP(ENDLESS, np.ones((2, 3, 1)), observation_names=5)


def test_a_message_names_the_entry_that_is_wrong():
    with pytest.raises(UsageError, match=r"^initial_value\[1\] is nan; every entry must be a finite number$"):
        sweeps.gauss_seidel(ENDLESS, 0.9, initial_value=[0, NAN, 0])
    with pytest.raises(UsageError, match=r"^x\[1, 0\] is inf"):
        array("x", [[0, 0], [INF, 0]])
    with pytest.raises(UsageError, match="requires grad"):
        sweeps.value_iteration(ENDLESS, 0.9, initial_value=torch.zeros(3, requires_grad=True))


def test_the_type_of_values_may_be_numpys():
    found = solve(ENDLESS, "value_iteration", gamma=0.9, dtype=np.float32, tolerance=1e-3)
    assert found.value.dtype == np.float32
    for wrong in (np.int64, "float16", "nonsense", None, 3):
        with pytest.raises(UsageError, match="unknown dtype"):
            solve(ENDLESS, "value_iteration", gamma=0.9, dtype=wrong)


def test_rewards_whose_values_would_overflow_are_refused():
    huge = FiniteMDP.from_arrays(np.ones((1, 1, 1)), np.full((1, 1), 1e300))
    for method in ("value_iteration", "policy_iteration", "linear_programming"):
        with pytest.raises(UsageError, match="an expected reward reaches 1e"):
            solve(huge, method, gamma=0.99)
    with pytest.raises(UsageError, match="initial_value reaches 1e"):
        sweeps.gauss_seidel(ENDLESS, 0.99, initial_value=[1e300] * 3)
