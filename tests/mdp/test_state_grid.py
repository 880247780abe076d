"""Continuous states on a grid: weights, interpolation, and problems with known solutions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain import outcomes

from bellgrad.core.errors import UsageError
from bellgrad.mdp.solve import solve
from bellgrad.mdp.state_grid import StateGrid

AXES = ([0.0, 1.0, 3.0], [-1.0, 0.5], [10.0, 11.0, 12.0, 20.0])


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(-1, 0.5), st.floats(10, 20)), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_weights_are_probabilities_whose_mean_is_the_point(points):
    grid = StateGrid(AXES)
    index, weight = grid.weights(points)
    assert index.shape == weight.shape == (len(points), 8)
    assert (weight >= 0).all()
    np.testing.assert_allclose(weight.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(np.einsum("kc,kcd->kd", weight, grid.points[index]), points, atol=1e-9)


def test_interpolation_is_exact_for_multilinear_functions_and_at_the_points():
    grid = StateGrid(AXES)

    def f(x):
        return 1 + 2 * x[:, 0] - x[:, 1] * x[:, 2] + x[:, 0] * x[:, 1] * x[:, 2]

    inside = np.array([[0.3, 0.1, 10.5], [2.9, -0.9, 19.0], [1.0, 0.5, 12.0]])
    np.testing.assert_allclose(grid.interpolate(f(grid.points), inside), f(inside), atol=1e-9)
    values = np.random.default_rng(0).normal(size=(grid.num_states, 2, 3))
    np.testing.assert_array_equal(grid.interpolate(values, grid.points), values)
    assert StateGrid([0, 2]).interpolate([1.0, 5.0], [0.5, 2.0]).tolist() == [2.0, 5.0]


def test_points_outside_are_refused_or_moved_to_the_edge():
    with pytest.raises(UsageError, match=r"the point \[2.5\] is outside the grid: axis 0 goes from 0 to 2"):
        StateGrid([0, 2]).weights([1.0, 2.5])
    assert StateGrid([0, 2], outside="clip").interpolate([1.0, 5.0], [-3.0, 9.0]).tolist() == [1.0, 5.0]
    assert StateGrid([0, 2]).interpolate([1.0, 5.0], [2.0 + 1e-12]).tolist() == [5.0]  # only rounding


def test_an_outcome_is_spread_over_the_corners_of_its_cell():
    def step(x, u):
        if u == "stop":
            return [(1.0, 99.0, -x, True)] if x > 0 else []
        return [(0.5, x / 4, x, False), (0.5, 2.0, 7, False)]

    mdp = StateGrid([0.0, 1.0, 2.0]).mdp(["go", "stop"], step, initial=0.75)
    assert mdp.action_names == ("go", "stop") and mdp.state_names == ("0", "1", "2")
    assert outcomes(mdp, 0, 1) == []
    assert outcomes(mdp, 1, 0) == [(0.375, 0, 1, False), (0.125, 1, 1, False), (0.5, 2, 7, False)]
    assert outcomes(mdp, 2, 1) == [(1.0, 2, -2, True)]
    assert mdp.initial.tolist() == [0.25, 0.75, 0]
    two = StateGrid([[0, 1], [0, 1]]).mdp(
        [0], lambda x, a: [(1.0, x / 2, x.sum(), False)], initial={(0.5, 0): 1}
    )
    assert two.initial.tolist() == [0.5, 0, 0.5, 0]
    assert outcomes(two, 3, 0) == [(0.25, s, 2.0, False) for s in range(4)]
    assert two.state_names[2] == "(1, 0)"


def quadratic_error(points: int) -> float:
    """The greatest error of the value of x' = x + u + noise with cost x^2 + u^2, known from Riccati's
    equation."""
    gamma, noise = 0.9, 0.1
    p = 1.0
    for _ in range(200):
        p = 1 + gamma * p / (1 + gamma * p)
    gain, constant = gamma * p / (1 + gamma * p), gamma * p * noise**2 / (1 - gamma)

    def step(x, u):
        return [(0.5, x + u + w, -(x**2) - u**2, False) for w in (noise, -noise)]

    grid = StateGrid(np.linspace(-1, 1, points), outside="clip")
    # actions fine enough that only the grid of states matters
    mdp = grid.mdp(np.linspace(-gain, gain, 8 * (points - 1) + 1), step)
    inside = np.linspace(-0.8, 0.8, 101)
    found = grid.interpolate(solve(mdp, gamma=gamma, tolerance=1e-9).value, inside)
    exact = -(p * inside**2 + constant)
    assert (found <= exact + 1e-9).all()  # V* is concave: interpolation is never above it
    return float(np.abs(found - exact).max())


def test_a_linear_quadratic_problem_converges_with_the_square_of_the_distance():
    coarse, fine, finest = (quadratic_error(points) for points in (11, 21, 41))
    assert fine < coarse / 3 and finest < fine / 3
    assert finest < 0.02


def test_optimal_growth_with_logarithmic_utility():
    # Brock and Mirman 1972: output k^a, utility log c, all capital is used up. The best savings rate is a
    # gamma, and V(k) = constant + a / (1 - a gamma) log k.
    a, gamma = 0.3, 0.9
    rates = np.array([0.1, 0.2, a * gamma, 0.35, 0.5])

    def step(k, rate):
        output = k**a
        return [(1.0, rate * output, np.log((1 - rate) * output), False)]

    def slope_error(points):
        grid = StateGrid(np.geomspace(0.02, 0.6, points), outside="clip")
        mdp = grid.mdp(rates, step)
        found = solve(mdp, gamma=gamma)
        inside = np.array([0.05, 0.1, 0.2, 0.4])
        constant = (np.log(1 - a * gamma) + a * gamma / (1 - a * gamma) * np.log(a * gamma)) / (1 - gamma)
        exact = constant + a / (1 - a * gamma) * np.log(inside)
        best = rates[grid.interpolate(found.policy, inside).argmax(axis=1)]
        return np.abs(grid.interpolate(found.value, inside) - exact).max(), best

    (coarse, _), (fine, best) = slope_error(40), slope_error(160)
    assert fine < coarse / 8 and fine < 1e-3
    assert best.tolist() == [a * gamma] * 4


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ([1.0], "axis 0 must be two or more rising numbers"),
        ([[0, 1], [2, 1]], "axis 1 must be two or more rising numbers"),
        ([0.0, float("nan")], r"axis 0\[1\] is nan"),
        ([], "axis 0 must be"),
        (5, "axes must be an array of coordinates"),
        (["a", "b"], "axis 0 must be an array of numbers"),
        ([-1e308, 1e308], "axis 0 goes from -1e.308 to 1e.308, too far"),
    ],
    ids=range(7),
)
def test_axes_that_are_not_rising_numbers_are_refused(axes, words):
    with pytest.raises(UsageError, match=words):
        StateGrid(axes)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (lambda x, u: [(1.0, x + 1, 0.0, False)], r"state \[1.0\], action 7: the point \[2.0\] is outside"),
        (lambda x, u: [(1.0, x, 0.0)], r"state \[0.0\], action 7: expected outcomes"),
        (lambda x, u: None, r"state \[0.0\], action 7: expected outcomes"),
        (lambda x, u: [(1.0, [x, x], 0.0, False)], r"state \[0.0\], action 7: expected outcomes"),
        (lambda x, u: [("1", x, 0.0, False)], r"state \[0.0\], action 7: probability = '1' must be a number"),
        (lambda x, u: [(1.0, x, 0.0, "False")], r"terminated = 'False' must be true or false"),
        (lambda x, u: [(1.0, float("nan"), 0.0, False)], r"the next state nan must be finite"),
        (lambda x, u: [(0.5, x, 0.0, False)], "the probabilities sum to 0.5"),
        (lambda x, u: [(-1.0, x, 0.0, False)], "an outcome has probability -1"),
        (lambda x, u: [], "no action has an outcome"),
    ],
    ids=range(10),
)
def test_outcomes_that_are_none_are_refused(step, words):
    with pytest.raises(UsageError, match=words):
        StateGrid([0.0, 1.0]).mdp([7], step)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"actions": 5}, "actions must be a list of actions; got 5"),
        ({"initial": 7}, r"the point \[7.0\] is outside the grid"),
        ({"initial": "abc"}, "initial must be an array of numbers"),
        ({"initial": {0.0: "x"}}, "the probability of an initial state = 'x' must be a number"),
        ({"initial": {0.0: 0.5}}, "the start distribution"),
    ],
    ids=range(5),
)
def test_actions_and_starts_that_are_none_are_refused(arguments, words):
    with pytest.raises(UsageError, match=words):
        right = {"actions": [0], "outcomes": lambda x, u: [(1.0, x, 0.0, False)]}
        StateGrid([0.0, 1.0]).mdp(**right | arguments)


def test_arrays_of_the_wrong_shape_and_unknown_words_are_refused():
    grid = StateGrid([[0, 1], [0, 1]])
    with pytest.raises(UsageError, match=r"points has shape \(1, 3\); expected \[K, D\] with D = 2"):
        grid.weights([[0, 0, 0]])
    with pytest.raises(UsageError, match=r"values has shape \(3,\); expected \[S, ...\] with S = 4"):
        grid.interpolate([1, 2, 3], [[0, 0]])
    with pytest.raises(UsageError, match="did you mean clip"):
        StateGrid([0, 1], outside="clipp")
