"""Cassandra's format: files typed by hand, round trips, and files that are wrong."""

from dataclasses import replace

import numpy as np
import pytest
from drawn import mdps
from hypothesis import given, settings
from plain import outcomes
from test_explicit import expressible
from test_saving import same

from bellgrad.core.errors import UsageError
from bellgrad.mdp.cassandra import read_cassandra_mdp, read_pomdp, write_pomdp
from bellgrad.mdp.model import FiniteMDP
from bellgrad.mdp.pomdp import POMDP
from bellgrad.mdp.solve import solve

TIGER = """# A tiger behind one of two doors
discount: 0.95
values: reward
states: tiger-left tiger-right
actions: listen open-left open-right
observations: hear-left hear-right
T: listen
identity
T: open-left
uniform
T: open-right
uniform
O: listen
0.85 0.15
0.15 0.85
O: open-left
uniform
O: open-right
uniform
R: listen : * : * : * -1
R: open-left : tiger-left : * : * -100
R: open-left : tiger-right : * : * 10
R: open-right : tiger-left : * : * 10.0
R: open-right : tiger-right : * : * - 100
"""


def read(tmp_path, text):
    (tmp_path / "x.pomdp").write_text(text)
    return read_pomdp(tmp_path / "x.pomdp")


def test_the_tiger(tmp_path):
    tiger = read(tmp_path, TIGER)
    mdp = tiger.mdp
    assert mdp.state_names == ("tiger-left", "tiger-right")
    assert mdp.action_names == ("listen", "open-left", "open-right")
    assert tiger.observation_names == ("hear-left", "hear-right") and tiger.discount == 0.95
    assert mdp.initial.tolist() == [0.5, 0.5]
    assert outcomes(mdp, 0, 0) == [(1.0, 0, -1, False)]
    assert outcomes(mdp, 1, 2) == [(0.5, 0, -100, False), (0.5, 1, -100, False)]
    assert tiger.observation.tolist() == [[[0.85, 0.15], [0.15, 0.85]], *[[[0.5, 0.5]] * 2] * 2]
    assert not tiger.fully_observable
    # Who sees the tiger opens the other door every time: 10 / (1 - 0.95).
    assert solve(mdp, gamma=tiger.discount).value.tolist() == pytest.approx([200, 200])
    with pytest.raises(UsageError, match="partially observable, with 2 observations of 2 states"):
        read_cassandra_mdp(tmp_path / "x.pomdp")


MDP = """discount: 0.5 values: cost
states: 3
actions: go stay
T: go : 0 : 1 0.25   T: go : 0 : 2 0.75
T: go : 1 0 0 1
T : go:2 uniform
T: stay identity
T: stay : 2 reset
R: * : * : * 1
R: go : 0 : 1 2e0
R: stay : 1 0 -3 0
"""


def test_a_file_without_observations_is_an_mdp(tmp_path):
    (tmp_path / "x.MDP").write_text(MDP.replace("T: go : 0", "start: 1\nT: go : 0", 1))
    mdp, discount = read_cassandra_mdp(tmp_path / "x.MDP")
    assert discount == 0.5 and mdp.state_names is None and mdp.action_names == ("go", "stay")
    assert mdp.initial.tolist() == [0, 1, 0]
    assert outcomes(mdp, 0, 0) == [(0.25, 1, -2, False), (0.75, 2, -1, False)]
    assert outcomes(mdp, 1, 0) == [(1.0, 2, -1, False)]
    assert outcomes(mdp, 2, 0) == [(1 / 3, s, -1, False) for s in range(3)]
    assert outcomes(mdp, 1, 1) == [(1.0, 1, 3, False)]
    assert outcomes(mdp, 2, 1) == [(1.0, 1, -1, False)]  # back to the start
    seen = read_pomdp(tmp_path / "x.MDP")
    assert seen.fully_observable and seen.num_observations == 3


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("start: 0.1 0.2 0.7", [0.1, 0.2, 0.7]),
        ("start: uniform", [1 / 3] * 3),
        ("start: b", [0, 1, 0]),
        ("start: 2", [0, 0, 1]),
        ("start include: a c", [0.5, 0, 0.5]),
        ("start include : 0 b", [0.5, 0.5, 0]),
        ("start exclude: a", [0, 0.5, 0.5]),
        ("", [1 / 3] * 3),
    ],
)
def test_every_form_of_the_start(tmp_path, start, expected):
    text = f"discount: 0.9\nvalues: reward\nstates: a b c\nactions: 1\n{start}\nT: * identity\n"
    assert read(tmp_path, text).mdp.initial.tolist() == expected


def test_later_lines_override_earlier_ones_and_rewards_by_observation_are_replaced_by_their_mean(tmp_path):
    text = (
        "discount: 0.9\nvalues: reward\nstates: 2\nactions: 2\nobservations: 3\nT: * uniform\n"
        "T: 0 : 0 : * 0\nT: 0 : 0 : 1 1.0\nO: * uniform\nO: 1 : 1 0.5 0.25 0.25\n"
        "O: 1 : 0 : * 0\nO: 1 : 0 : 2 1\n"
        "R: 1 : * : * : * 4\nR: 1 : 0 : 1 : 0 8\nR: 1 : 1 : 1 4 8 16\nR: 0 : 1\n1 2 3\n6 6 6\n"
    )
    model = read(tmp_path, text)
    assert outcomes(model.mdp, 0, 0) == [(1.0, 1, 0, False)]
    assert outcomes(model.mdp, 0, 1) == [(0.5, 0, 4, False), (0.5, 1, 6, False)]
    assert outcomes(model.mdp, 1, 1) == [(0.5, 0, 4, False), (0.5, 1, 8, False)]
    assert outcomes(model.mdp, 1, 0) == [(0.5, 0, pytest.approx(2), False), (0.5, 1, 6, False)]
    assert model.observation[1].tolist() == [[0, 0, 1], [0.5, 0.25, 0.25]]


# ----------------------------------------------------------------------------------------------- round trips
def all_legal(mdp: FiniteMDP) -> FiniteMDP:
    """The same with a large cost for what was illegal."""

    def step(s, a):
        return outcomes(mdp, s, a) or [(1.0, s, -99.0, False)]

    made = FiniteMDP.from_function(mdp.num_states, mdp.num_actions, step, initial=mdp.initial)
    return expressible(made, per_pair=False)


@given(mdps(max_states=5))
@settings(max_examples=25, deadline=None)
def test_an_mdp_comes_back_exactly_and_means_the_same(tmp_path_factory, mdp):
    path = tmp_path_factory.mktemp("files") / "x.mdp"
    given_mdp = all_legal(mdp)
    write_pomdp(given_mdp, path, discount=0.875)
    found, discount = read_cassandra_mdp(path)
    assert same(found, given_mdp) and discount == 0.875
    path.write_text("\n".join(line for line in path.read_text().splitlines() if "bellgrad" not in line))
    value = solve(read_cassandra_mdp(path)[0], gamma=0.9).value
    np.testing.assert_allclose(value[: mdp.num_states], solve(given_mdp, gamma=0.9).value, atol=1e-9)
    np.testing.assert_allclose(value[mdp.num_states :], 0, atol=1e-9)


@given(mdps(max_states=4))
@settings(max_examples=20, deadline=None)
def test_a_pomdp_comes_back_exactly(tmp_path_factory, mdp):
    path = tmp_path_factory.mktemp("files") / "x.pomdp"
    weight = np.random.default_rng(0).exponential(size=(mdp.num_actions, mdp.num_states, 3))
    names = {"state_names": tuple(f"s{i}" for i in range(mdp.num_states)), "action_names": None}
    model = POMDP(
        replace(all_legal(mdp), **names), weight / weight.sum(axis=2, keepdims=True), 1e-05, ("a", "b-1", "c")
    )
    write_pomdp(model, path)
    found = read_pomdp(path)
    assert same(found.mdp, model.mdp)
    assert found.observation.tobytes() == model.observation.tobytes()
    assert (found.discount, found.observation_names) == (model.discount, model.observation_names)


def test_the_tiger_comes_back(tmp_path):
    tiger = read(tmp_path, TIGER)
    write_pomdp(tiger, tmp_path / "y.pomdp")
    found = read_pomdp(tmp_path / "y.pomdp")
    assert same(found.mdp, tiger.mdp) and np.array_equal(found.observation, tiger.observation)
    assert "states: tiger-left tiger-right" in (tmp_path / "y.pomdp").read_text()


def test_what_the_format_cannot_express_is_refused(tmp_path):
    def step(s, a):
        return [] if a else [(0.5, 0, 1.0, False), (0.5, 0, 2.0, False)]

    with pytest.raises(UsageError, match=r"state 0, action 1 is illegal.*large negative reward"):
        write_pomdp(FiniteMDP.from_function(1, 2, step), tmp_path / "x")
    with pytest.raises(UsageError, match=r"rewards from 1 to 2.*expected_rewards=True"):
        write_pomdp(FiniteMDP.from_function(1, 1, step), tmp_path / "x")
    with pytest.raises(UsageError, match="a POMDP has its own discount"):
        write_pomdp(read(tmp_path, TIGER), tmp_path / "x", discount=0.5)


# -------------------------------------------------------------------------------------------------- mistakes
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("discount: 0.95", "discount: 1.95", "line 2: discount 1.95 is out of range"),
        ("discount: 0.95", "discount 0.95", "line 2: expected a colon, got '0.95'"),
        ("discount: 0.95\n", "", "missing before T, O and R: discount"),
        ("values: reward", "values: gain", "line 3: values must be reward or cost, got 'gain'"),
        ("values: reward", "discount: 0.5", "line 3: discount occurs twice"),
        ("tiger-left tiger-right\n", "\n", "line 4: states needs a number or names"),
        ("states: tiger-left tiger-right", "states: 0", "line 4: there must be at least one"),
        ("states: tiger-left", "states: tiger-right", "line 4: states: 'tiger-right' occurs twice"),
        ("states: tiger-left", "states: 1tiger", "line 4: .* '1tiger' begins with a digit"),
        ("T: listen\n", "T: lisen\n", "line 7: 'lisen' is not one of the actions"),
        ("T: listen\n", "T: 3\n", "line 7: 3 is out of range: there are 3 actions"),
        ("T: listen\n", "X: listen\n", "line 7: expected one of discount, .* before a colon, got 'X'"),
        ("T: open-left\nuniform", "T: open-left\nidentical", "line 10: expected a number, got 'identical'"),
        ("0.15 0.85\nO", "0.15\nO", "observations needs 4 numbers, and there are 3"),
        ("0.15 0.85\nO", "0.15 0.85 0\nO", "line 15: expected T, O or R, got '0'"),
        ("0.15 0.85\nO", "0.15 0.80\nO", "O for action listen, next state tiger-right sum to 0.95"),
        ("0.85 0.15\n", "0.85 1.15\n", "line 14: probability 1.15 is out of range"),
        ("T: open-left\nuniform\n", "", "T for action open-left, state tiger-left sum to 0"),
        (": * 10.0", ": * nan", "line 23: a number nan must be finite"),
        ("- 100\n", "\n", "line 24: expected a number, and the file ends|needs 1 numbers"),
        ("* : * -1\n", "* -1\n", "line 20: "),
        ("O: open-left\nuniform", "O: open-left : 0 : 1 uniform", "line 16: uniform does not fit here"),
        ("T: listen\n", "start: 0.5 0.4\nT: listen\n", "line 7: the probabilities of start sum to 0.9"),
        ("T: listen\n", "start: nowhere\nT: listen\n", "line 7: 'nowhere' is not one of the states"),
        ("T: listen\n", "start exclude: *\nT: listen\n", "line 7: start exclude leaves no state"),
        ("observations: hear-left hear-right\n", "", "line 12: there are no observations"),
        ("# A tiger", "# bellgrad {", "line 1: the comment of Bellgrad is damaged"),
    ],
    ids=range(27),
)
def test_a_file_that_is_wrong_is_refused_by_line(tmp_path, old, new, words):
    assert old in TIGER
    with pytest.raises(UsageError, match=words) as caught:
        read(tmp_path, TIGER.replace(old, new, 1))
    assert "x.pomdp" in str(caught.value)


def test_a_file_that_is_too_large_for_a_table_is_refused(tmp_path):
    with pytest.raises(UsageError, match="too many for a table; use the DRN format"):
        read(tmp_path, "discount: 0.9\nvalues: reward\nstates: 1000000\nactions: 2\nT: * identity\n")


def test_an_observation_that_is_no_distribution_is_refused():
    mdp = FiniteMDP.from_function(2, 1, lambda s, a: [(1.0, s, 0.0, False)])
    for observation, words in (
        ([[[0.5, 0.5], [0.5, 0.6]]], "action 0, next state 1: the probabilities of the observations"),
        ([[[1.0], [-1.0]]], "action 0, next state 1"),
        ([[[1.0]]], r"observation has shape \(1, 1, 1\); expected \[A, S', O\] = \(1, 2, O\)"),
    ):
        with pytest.raises(UsageError, match=words):
            POMDP(mdp, np.array(observation))
    with pytest.raises(UsageError, match="observation_names has 1 entries; expected 2"):
        POMDP(mdp, np.full((1, 2, 2), 0.5), 0.9, ("a",))
