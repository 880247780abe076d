"""MDPs from state-action pairs, from rows and data frames, and from states that are found one by one."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from drawn import mdps
from hypothesis import given, settings
from plain import outcomes, same_outcomes
from scipy import sparse

from bellgrad.core.errors import UsageError
from bellgrad.mdp.model import FiniteMDP
from bellgrad.mdp.solve import solve


# ------------------------------------------------------------------------------------------------ from_pairs
def pairs_of(mdp: FiniteMDP, order: np.ndarray):
    """States, actions, rewards, transitions and ends `[L, S']` of the legal pairs, in another order."""
    pairs = np.flatnonzero(mdp.legal)[order]
    tables = np.zeros((3, len(pairs), mdp.num_states))
    for row, pair in enumerate(pairs):
        for p, successor, reward, terminated in outcomes(mdp, *divmod(int(pair), mdp.num_actions)):
            tables[:, row, successor] = reward, p, terminated
    return (*divmod(pairs, mdp.num_actions), *tables)


@pytest.mark.parametrize(
    "form", [np.asarray, sparse.csr_array, sparse.coo_matrix], ids=["dense", "csr", "coo"]
)
@given(mdps(max_states=4))
@settings(max_examples=20, deadline=None)
def test_pairs_in_any_order_give_the_mdp_that_they_come_from(form, mdp):
    order = np.random.default_rng(0).permutation(int(mdp.legal.sum()))
    state, action, reward, transition, ends = pairs_of(mdp, order)
    made = FiniteMDP.from_pairs(
        state,
        action,
        form(reward),
        form(transition),
        terminated=form(ends),
        num_actions=mdp.num_actions,
        initial=mdp.initial,
    )
    assert same_outcomes(made, mdp)


def test_the_example_of_quantecon():
    # QuantEcon, DiscreteDP: two states, action 1 is illegal in state 1, discount 0.95; the values are in its
    # documentation: v = [-8.571..., -20]
    made = FiniteMDP.from_pairs([0, 0, 1], [0, 1, 0], [5.0, 10.0, -1.0], [[0.5, 0.5], [0, 1], [0, 1]])
    found = solve(made, gamma=0.95)
    np.testing.assert_allclose(found.value, [-8.57142857, -20], atol=1e-6)
    assert found.policy.tolist() == [[1, 0], [1, 0]]
    assert made.legal.tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"action": [0, 0, 0]}, "rows 0 and 1 are both of state 0, action 0"),
        ({"state": [0, 0, 2]}, r"state\[2\] = 2 is out of range 0 to 1"),
        ({"action": [0, -1, 0]}, r"action\[1\] = -1 is out of range"),
        ({"num_actions": 1}, r"action\[1\] = 1 is out of range 0 to 0"),
        ({"state": [0, 0]}, "state has 2 entries; the transition has 3 rows"),
        ({"state": [0.0, 0.5, 1.0]}, "state must be a list of integers"),
        ({"reward": [1, 2]}, r"reward has shape \(2,\); expected \[L\] = \(3,\)"),
        ({"transition": [[0.5, 0.5], [0, 0], [0, 1]]}, r"row 1 \(state 0, action 1\).*is empty"),
        ({"transition": [1, 2, 3]}, r"expected \[L, S'\]"),
        ({"transition": [[0.5, 0.6], [0, 1], [0, 1]]}, "state 0, action 0: the probabilities sum to 1.1"),
        ({"terminated": [0, 2, 1]}, "only true and false"),
        ({"state": [0, 0, 0], "action": [0, 1, 2]}, "state 1 has no legal action"),
        (
            {"transition": sparse.csr_array(np.eye(2)[[0, 1, 1]] + 0j)},
            "transition must be a sparse matrix of",
        ),
        ({"reward": sparse.csr_array(np.ones((3, 2)) * 1j)}, "reward must be a sparse matrix of numbers"),
        ({"transition": sparse.coo_array([1.0, 0.0])}, "transition must be a sparse matrix of numbers"),
        ({"transition": np.zeros((0, 2))}, "at least one state and one action"),
        ({"action": [0, 2**60, 0]}, "too many pairs"),
        ({"num_actions": "2"}, "num_actions = '2' must be a number"),
        ({"reward": np.ma.array([5, 10, -1], mask=[0, 1, 0])}, "reward has masked entries"),
    ],
    ids=range(19),
)
def test_pairs_that_do_not_fit_are_refused_by_row(changed, words):
    right = {
        "state": [0, 0, 1],
        "action": [0, 1, 0],
        "reward": [5.0, 10.0, -1.0],
        "transition": [[0.5, 0.5], [0, 1], [0, 1]],
    }
    with pytest.raises(UsageError, match=words):
        FiniteMDP.from_pairs(**right | changed)


# ------------------------------------------------------------------------------------------------- from_rows
ROWS = [
    ("home", "walk", 0.25, "work", 1, False),
    ("home", "walk", 0.25, "work", 1.0, 0),
    ("home", "walk", 0.5, "home", -1, False),
    ("home", "drive", 1, "park", Fraction(1, 2), np.True_),
    ("work", "walk", 1.0, "home", 0, 1),
]
COLUMNS = ("state", "action", "probability", "next_state", "reward", "terminated")


def expected(mdp):
    assert mdp.state_names == ("home", "work", "park") and mdp.action_names == ("walk", "drive")
    assert outcomes(mdp, 0, 0) == [(0.5, 1, 1.0, False), (0.5, 0, -1.0, False)]
    assert outcomes(mdp, 0, 1) == [(1.0, 2, 0.5, True)]
    assert outcomes(mdp, 1, 0) == [(1.0, 0, 0.0, True)]
    assert outcomes(mdp, 2, 0) == [(1.0, 2, 0.0, True)]  # reached by an end only: it needs no row of its own
    assert mdp.legal.tolist() == [[True, True], [True, False], [True, False]]


def test_rows_are_tuples_or_dictionaries_from_any_iterable():
    expected(FiniteMDP.from_rows(ROWS))
    expected(FiniteMDP.from_rows(row for row in ROWS))
    expected(FiniteMDP.from_rows(dict(zip(COLUMNS, row, strict=True)) | {"note": "x"} for row in ROWS))
    expected(FiniteMDP.from_rows({name: [row[i] for row in ROWS] for i, name in enumerate(COLUMNS)}))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_rows_come_from_a_data_frame(library):
    frames = pytest.importorskip(library)
    plain = [(*row[:4], float(row[4]), bool(row[5])) for row in ROWS]
    expected(FiniteMDP.from_rows(frames.DataFrame({n: [r[i] for r in plain] for i, n in enumerate(COLUMNS)})))


def test_rows_come_from_a_structured_array():
    kinds = [("state", int), ("action", int), ("probability", float), ("next_state", int), ("reward", float)]
    table = np.array([(0, 0, 0.5, 1, 2.0), (0, 0, 0.5, 0, 2.0), (1, 1, 1.0, 0, 0.0)], kinds)
    made = FiniteMDP.from_rows(table)
    assert made.state_names is None and made.action_names is None
    assert outcomes(made, 0, 0) == [(0.5, 1, 2.0, False), (0.5, 0, 2.0, False)]
    assert made.legal.tolist() == [[True, False], [False, True]]


def test_integers_from_zero_are_their_own_numbers_and_others_keep_their_names():
    own = FiniteMDP.from_rows([(1, 1, 1.0, 0, 5.0), (0, 0, 1.0, 1, 2.0)])
    assert outcomes(own, 1, 1) == [(1.0, 0, 5.0, False)] and own.state_names is None
    from_one = FiniteMDP.from_rows([(2, 1, 1.0, 1, 5.0), (1, 1, 1.0, 2, 2.0)])
    assert from_one.state_names == ("1", "2") and from_one.action_names == ("1",)
    assert outcomes(from_one, 1, 0) == [(1.0, 0, 5.0, False)]
    as_floats = FiniteMDP.from_rows([(1.0, 0, 1.0, 0, 5.0), (0.0, 0, 1.0, 1.0, 2.0)])
    assert as_floats.state_names is None and outcomes(as_floats, 0, 0) == [(1.0, 1, 2.0, False)]
    listed = FiniteMDP.from_rows(ROWS, states=["park", "work", "home"], actions=["fly", "drive", "walk"])
    assert listed.state_names == ("park", "work", "home") and listed.num_actions == 3
    assert not listed.legal[:2, 0].all() and outcomes(listed, 2, 1) == [(1.0, 0, 0.5, True)]


def test_the_first_state_is_given_by_name_by_weights_or_as_a_distribution():
    for initial, found in (
        ("work", [0, 1, 0]),
        ({"home": 0.25, "park": 0.75}, [0.25, 0, 0.75]),
        ([0.5, 0.5, 0], [0.5, 0.5, 0]),
    ):
        assert FiniteMDP.from_rows(ROWS, initial=initial).initial.tolist() == found
    assert FiniteMDP.from_rows(ROWS).initial.tolist() == [1 / 3] * 3
    assert FiniteMDP.from_rows(ROWS, costs=True).reward[0] == -1


def test_rows_may_be_arrays_and_hold_numbers_of_any_library():
    made = FiniteMDP.from_rows(np.array([[0, 0, 1, 1, 2.5, 0], [1, 0, 1, 0, 0, 1]]))
    assert (made.state_names, made.reward.tolist()) == (None, [2.5, 0])
    assert made.terminated.tolist() == [False, True]
    other = FiniteMDP.from_rows(
        [("a", "b", Decimal("0.5"), "a", Fraction(1, 2)), ("a", "b", np.array(0.5), "a", 0)]
    )
    assert (other.probability.tolist(), sorted(other.reward)) == ([0.5, 0.5], [0, 0.5])


@given(mdps(max_states=4))
@settings(max_examples=20, deadline=None)
def test_the_rows_of_an_mdp_give_it_back(mdp):
    rows = mdp.to_rows()
    sizes = {"states": range(mdp.num_states), "actions": range(mdp.num_actions)}
    assert same_outcomes(FiniteMDP.from_rows(rows, **sizes, initial=mdp.initial), mdp)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([*ROWS, ("home", "walk", 2, "work", 1.0, False)], "row 5: probability = 2 is out of range 0 to 1"),
        ([("a", "b", -0.5, "a", 1.0)], "row 0: probability = -0.5 is out of range"),
        ([("a", "b", 1.0, "a", 1.0), ("a", "b", float("nan"), "a", 1.0)], "row 1: probability = nan"),
        ([("a", "b", "1", "a", 1.0)], "row 0: probability = '1' must be a number"),
        ([("a", "b", 1.0, "a", "five")], "row 0: reward = 'five' must be a number"),
        ([("a", "b", 1.0, "a", float("inf"))], "row 0: reward = inf must be finite"),
        ([("a", "b", 1.0, "a", 1 + 2j)], "row 0: reward = .* must be a number"),
        ([("a", "b", 1.0, "a", 1.0, "False")], "row 0: terminated = 'False' must be true or false"),
        ([("a", "b", 1.0, "a", 1.0, 2)], "row 0: terminated = 2 must be true or false"),
        ([("a", "b", 1.0)], "row 0: expected .state, action, probability"),
        ([["a", "b", 1.0, "a", 1.0], "abcde"], "row 1: expected .state"),
        ([(["a"], "b", 1.0, "a", 1.0)], r"row 0: the state \['a'\] cannot be hashed; use a tuple"),
        ([(float("nan"), "b", 1.0, "a", 1.0)], "row 0: the state is missing"),
        ([{"state": 0, "action": 0, "next_state": 0, "reward": 0}], "row 0 has no probability; its columns"),
        ({"state": [0], "action": [0], "p": [1.0]}, "the table has no probability and no next_state and no"),
        (
            {name: [1] for name in COLUMNS[:5]} | {"Terminated": [1]},
            "column Terminated; did you mean terminated",
        ),
        ({name: [1] for name in COLUMNS[:5]} | {"reward": [1, 2]}, "different lengths"),
        ([("a", "b", 1.0, "c", 1.0)], "row 0 leads to state 'c', which has no rows; .* say terminated"),
        ([("a", "b", 0.5, "a", 1.0)], r"state 0 \(a\), action 0 \(b\): the probabilities sum to 0.5"),
        ([("1", "b", 1.0, 1, 1.0), (1, "b", 1.0, "1", 1.0)], "two states are both written '1'"),
        ([("a", "b", 1.0, "a", 10**400)], "row 0: reward = 1000.* must be a number"),
        ([("a", "b", 1.0, "a", None)], "row 0: reward = None must be a number"),
        ({name: [1] for name in COLUMNS[:5]} | {"done": [1]}, "has a column done; did you mean terminated"),
        ([], "no row"),
        (5, "iterable of rows or a data frame; got int"),
        ("abc", "iterable of rows or a data frame; got str"),
    ],
    ids=range(26),
)
def test_rows_that_are_no_outcomes_are_refused_by_number(rows, words):
    with pytest.raises(UsageError, match=words):
        FiniteMDP.from_rows(rows)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"states": ["home", "work"]}, "row 3: the state 'park' is not among those that were listed"),
        ({"states": [["home"], "work"]}, r"states.0. = .'home'. cannot be hashed; use a tuple"),
        ({"actions": ["walk"]}, "row 3: the action 'drive' is not among"),
        ({"actions": ["walk", "walk", "drive"]}, "the action 'walk' is listed twice"),
        ({"initial": "hom"}, "initial = 'hom' is not a state"),
        ({"initial": {"hom": 1}}, "start in state 'hom': it is not a state"),
        ({"initial": {"home": 0.5}}, "start distribution"),
        ({"initial": ("a", "b")}, "initial must be an array of numbers"),
        ({"states": 5}, "states must be a list of names; got 5"),
        ({"actions": "walk"}, "actions must be a list of names; got 'walk'"),
    ],
    ids=range(10),
)
def test_names_that_no_row_has_are_refused(arguments, words):
    with pytest.raises(UsageError, match=words):
        FiniteMDP.from_rows(ROWS, **arguments)


# ----------------------------------------------------------------------------------------------- from_states
def two_dice(target=20):
    """Roll or stop; a pair of equal dice loses everything. State: points, and whether the last was a six."""

    def moves(state):
        return ["stop"] if state[0] >= target else ["roll", "stop"]

    def play(state, action):
        if action == "stop":
            return [(1.0, "over", float(state[0]), True)]
        return [(1 / 6, "over", 0.0, True)] + [
            (1 / 6, (state[0] + d, d == 6), 0.0, False) for d in range(2, 7)
        ]

    return moves, play


def test_all_states_that_can_be_reached_are_found_and_can_be_read_by_state():
    moves, play = two_dice()
    mdp = FiniteMDP.from_states((0, False), moves, play)
    found = solve(mdp, gamma=1)

    def value(points):
        rolled = sum(value(points + d) for d in range(2, 7)) / 6 if points < 20 else 0
        return max(points, rolled)

    for state in ((0, False), (12, True), (17, False), (25, True)):
        assert found.value[mdp.state_index(state)] == pytest.approx(value(state[0]))
    assert mdp.initial[mdp.state_index((0, False))] == 1
    assert mdp.action_names == ("roll", "stop") and not mdp.legal[mdp.state_index((21, False)), 0]
    assert mdp.legal[mdp.state_index("over")].tolist() == [True, False]
    assert mdp.num_states == len(set(mdp.state_names)) == 24 + 19 + 1  # the last a six or not, over


def test_states_are_numbered_breadth_first_and_actions_as_listed():
    def step(state, action):
        return [(1.0, (state * 2 + action) % 7, 1.0, False)] if (state, action) != (0, "x") else []

    mdp = FiniteMDP.from_states({3: 0.5, 1: 0.5}, [1, 0], step)
    assert mdp.state_names == ("3", "1", "0", "6", "2", "5", "4")
    assert mdp.action_names == ("1", "0") and mdp.initial.tolist() == [0.5, 0.5, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("start", "actions", "step", "words"),
    [
        (0, [0], lambda s, a: [(1.0, s + 1, 0.0, False)], "beyond max_states = 50; .* bound the states"),
        (0, [0], lambda s, a: None, "state 0, action 0: expected a list of outcomes .* got NoneType"),
        (0, [0], lambda s, a: [(1.0, s, 0.0)], "state 0, action 0: expected outcomes"),
        (0, [0], lambda s, a: [(1.5, s, 0.0, False)], "state 0, action 0: probability = 1.5"),
        (0, [0], lambda s, a: [(1.0, [s], 0.0, False)], r"the state \[0\] cannot be hashed"),
        ([0], [0], lambda s, a: [], r"the start: the state \[0\] cannot be hashed"),
        ({}, [0], lambda s, a: [], "start has no state"),
        ({0: "x"}, [0], lambda s, a: [(1.0, 0, 0.0, False)], "probability = 'x' must be a number"),
        (0, [0], lambda s, a: [], "no row"),
        (
            0,
            lambda s: [0] if s == 0 else [],
            lambda s, a: [(1.0, 1, 0.0, False)],
            "state 0, action 0 leads to state 1, which has no rows",
        ),
        (0, [0], lambda s, a: [(0.9, s, 0.0, False)], "probabilities sum to 0.9"),
        (0, 5, lambda s, a: [], "actions must be a list of names; got 5"),
        (0, lambda s: None, lambda s, a: [], "state 0: expected its legal actions, got NoneType"),
    ],
    ids=range(13),
)
def test_functions_that_return_something_else_are_refused_by_state(start, actions, step, words):
    with pytest.raises(UsageError, match=words):
        FiniteMDP.from_states(start, actions, step, max_states=50)


def test_a_name_that_is_unknown_or_not_unique_is_refused():
    mdp = FiniteMDP.from_rows(ROWS)
    assert mdp.state_index("work") == 1 and mdp.action_index("drive") == 1
    with pytest.raises(UsageError, match="did you mean home"):
        mdp.state_index("hom")
    plain = FiniteMDP.from_function(2, 1, lambda s, a: [(1.0, s, 0.0, True)])
    assert plain.state_index(1) == 1
    with pytest.raises(UsageError, match="states have no names; 2 is not a number from 0 to 1"):
        plain.state_index(2)
    same = FiniteMDP.from_function(2, 1, lambda s, a: [(1.0, s, 0.0, True)], state_names=("F", "F"))
    with pytest.raises(UsageError, match="2 states have the name 'F'"):
        same.state_index("F")
