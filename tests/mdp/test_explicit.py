"""The explicit formats of Storm (DRN) and PRISM: files typed by hand, round trips, and wrong files."""

from dataclasses import replace

import numpy as np
import pytest
from drawn import mdps
from hypothesis import given, settings
from plain import outcomes
from test_saving import same

from bellgrad.core.errors import CheckpointError, UsageError
from bellgrad.mdp.drn import read_drn, write_drn
from bellgrad.mdp.examples import cliff_walking, corridor
from bellgrad.mdp.explicit import transitions
from bellgrad.mdp.model import FiniteMDP
from bellgrad.mdp.prism import read_prism, write_prism
from bellgrad.mdp.solve import solve

DRN = """// a machine that may break
@type: MDP
@parameters

@reward_models
time money
@nr_states
3
@nr_choices
4
@model
state 0 [1, 0] init
// [s=0]
	action careful [1, 2.5]
		0 : 0.75
		1 : 1/4
	action fast [0, 4]
		1 : 0.5
		2 : $half
state 1 [1, 0] "in repair" slow
	action fast [0, -1e1]
		0 : 1
state 2 [0, 0] broken deadlock
	action __NOLABEL__
		2 : 1
"""
PLACEHOLDERS = "@placeholders\n$half : 0.5\n"


@pytest.fixture
def drn(tmp_path):
    path = tmp_path / "machine.drn"
    path.write_text(DRN.replace("@nr_states", PLACEHOLDERS + "@nr_states"))
    return path


def test_a_drn_file_is_read(drn):
    mdp = read_drn(drn, reward_model="money")
    # the last action has no name: actions are then numbered in each state
    assert mdp.num_states == 3 and mdp.num_actions == 2 and mdp.action_names is None
    assert mdp.state_names == ("", "in repair slow", "broken")
    assert outcomes(mdp, 0, 0) == [(0.75, 0, 2.5, False), (0.25, 1, 2.5, False)]
    assert outcomes(mdp, 0, 1) == [(0.5, 1, 4, False), (0.5, 2, 4, False)]
    assert outcomes(mdp, 1, 0) == [(1.0, 0, -10, False)]
    assert mdp.initial.tolist() == [1, 0, 0]
    assert read_drn(drn, reward_model="time").expected_reward.tolist() == [[2, 1], [1, 0], [0, 0]]
    assert read_drn(drn, reward_model="time", costs=True).reward[0] == -2


def test_actions_of_a_drn_file_that_are_all_named_keep_their_names(drn):
    drn.write_text(drn.read_text().replace("__NOLABEL__", "wait"))
    mdp = read_drn(drn, reward_model="money")
    assert mdp.action_names == ("careful", "fast", "wait")
    assert outcomes(mdp, 1, 1) == [(1.0, 0, -10, False)]


def test_a_chain_is_an_mdp_with_one_action(drn):
    drn.write_text(
        "@type: DTMC\n@parameters\n\n@reward_models\n\n@nr_states\n2\n@model\n"
        "state 0 init\n\taction 0\n\t\t1 : 1\nstate 1 init\n\taction 0\n\t\t0 : 1\n"
    )
    mdp = read_drn(drn)
    assert mdp.num_actions == 1 and mdp.initial.tolist() == [0.5, 0.5] and mdp.state_names is None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("@type: MDP", "@type: Markov Automaton", "'Markov Automaton'; only models of type MDP and DTMC"),
        ("@parameters\n", "@parameters\np q\n", r"has parameters \(p q\)"),
        ("@parameters\n", "@parameters\n@value_type: double-interval\n", "'double-interval' cannot be read"),
        ("@model", "@mode", "there is no @model"),
        ("@nr_states\n3", "@nr_states\nthree", "'three' is not a whole number"),
        ("@nr_states\n3\n", "", "@nr_states is missing"),
        ("@nr_states\n3", "@nr_states\n4", "there are 3 states, and @nr_states says 4"),
        ("@nr_states\n3", "@nr_states\n2", "line 21: state 2 is out of range 0 to 1"),
        ("@nr_choices", "@nr_states", "line 11: @nr_states occurs twice"),
        ("state 1 [1", "state 3 [1", "line 22: expected state 1"),
        ("1 : 1/4", "1 : 1/5", r"line 16: the probabilities of state 0, action careful sum to 0.95"),
        ("1 : 1/4", "1 : 1/0", "line 18: probability '1/0' is not a number"),
        ("1 : 1/4", "1 : 1.25", "line 18: probability 1.25 is out of range 0 to 1"),
        ("1 : 1/4", "1 : -0.25", "line 18: probability -0.25 is out of range"),
        ("1 : 1/4", "1 : x", "line 18: probability 'x' is not a number"),
        ("1 : 1/4", "1 0.25", "line 18: expected a transition such as 3 : 0.5"),
        ("1 : 1/4", "9 : 0.25", "line 18: state 9 is out of range 0 to 2"),
        ("[1, 2.5]", "[1, 2.5, 3]", "line 16: 3 rewards for 2 reward models"),
        ("[1, 2.5]", "[1, inf]", "line 16: reward 'inf' must be finite"),
        ("[1, 2.5]", "[1, 2.5] x", "line 16: expected an action of a state"),
        ("state 0 [1, 0] init", "state 0 {3} [1, 0] init", "line 14: states with observations"),
        ("state 0 [1, 0] init", "state 0 !2.5 [1, 0] init", "line 14: states with exit rates"),
        ("\taction fast [0, -1e1]\n\t\t0 : 1\n", "", "state 1 has no action"),
        ("state 0 [1, 0] init\n", "", "line 15: expected an action of a state"),
        ("@type", "type", "line 2: expected a line that begins with @"),
    ],
    ids=range(25),
)
def test_a_drn_file_that_is_wrong_is_refused_by_line(drn, old, new, words):
    text = drn.read_text()
    assert old in text
    drn.write_text(text.replace(old, new, 1))
    with pytest.raises(UsageError, match=words) as caught:
        read_drn(drn, reward_model="money")
    assert str(caught.value).startswith(str(drn))


def test_a_reward_model_must_be_chosen_if_there_are_several(drn):
    with pytest.raises(UsageError, match="2 reward models: time, money; choose one with reward_model"):
        read_drn(drn)
    with pytest.raises(UsageError, match="did you mean money"):
        read_drn(drn, reward_model="mony")


@pytest.mark.parametrize("read", [read_drn, read_prism])
def test_files_that_are_no_text_or_not_there_are_refused(tmp_path, read):
    with pytest.raises(UsageError, match=r"x.tra cannot be read: there is no such file"):
        read(tmp_path / "x.tra")
    (tmp_path / "folder.tra").mkdir()
    with pytest.raises(UsageError, match="is not an ordinary file"):
        read(tmp_path / "folder.tra")
    (tmp_path / "x.tra").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is not a text file"):
        read(tmp_path / "x.tra")
    (tmp_path / "x.tra").write_text("")
    with pytest.raises(UsageError, match=r"x.tra"):
        read(tmp_path / "x.tra")


# ----------------------------------------------------------------------------------------------- round trips
FORMATS = {"drn": (read_drn, write_drn), "prism": (read_prism, write_prism)}


def expressible(mdp: FiniteMDP, per_pair: bool) -> FiniteMDP:
    """The nearest MDP that a format can express: one reward per pair or target, no duplicate outcomes, in
    order."""
    rows = transitions(mdp, per_pair, True, "")
    end = rows.target >= mdp.num_states
    target = np.where(
        end, np.array([*rows.ends, 0])[np.where(end, rows.target - mdp.num_states, 0)], rows.target
    )
    offset = np.searchsorted(rows.pair, np.arange(len(mdp.offset))).astype(np.int32)
    return replace(
        mdp,
        offset=offset,
        probability=rows.probability,
        next_state=target.astype(np.int32),
        reward=rows.reward,
        terminated=end,
    )


@pytest.mark.parametrize("name", FORMATS)
@given(mdps(max_states=5))
@settings(max_examples=25, deadline=None)
def test_an_mdp_comes_back_exactly_and_means_the_same(tmp_path_factory, name, mdp):
    path = tmp_path_factory.mktemp("files") / "x.tra"
    read, write = FORMATS[name]
    given_mdp = expressible(mdp, per_pair=name == "drn")
    np.testing.assert_allclose(solve(given_mdp, gamma=0.9).value, solve(mdp, gamma=0.9).value, atol=1e-9)
    write(given_mdp, path)
    assert same(read(path), given_mdp)
    # Without the comment, as other programs read it, it has the same values in the states that it had.
    for file in path.parent.iterdir():
        file.write_text(
            "\n".join(line for line in file.read_text().splitlines() if "bellgrad" not in line) + "\n"
        )
    plain = read(path)
    value = solve(plain, gamma=0.9).value
    np.testing.assert_allclose(value[: mdp.num_states], solve(mdp, gamma=0.9).value, atol=1e-9)
    np.testing.assert_allclose(value[mdp.num_states :], 0, atol=1e-9)


@pytest.mark.parametrize("name", FORMATS)
def test_names_grid_limit_and_start_come_back(tmp_path, name):
    read, write = FORMATS[name]
    rules = {"num_states": 4, "num_actions": 3}
    for fields in (
        {"state_names": ("goal", "pit of $5", "", "größer"), "action_names": ("up", "down", "never")},
        {"state_names": ("F", "F", "init", "4"), "action_names": ("a b", "a b", "[c]"), "grid": (2, 2)},
        {"max_episode_steps": 9},
    ):
        mdp = FiniteMDP.from_function(
            **rules,
            outcomes=lambda s, a: [(0.1, 0, -0.0, True), (0.9, 3 - s, -0.0, False)] if a < 2 - s % 2 else [],
            initial=[0.1, 0.2, 0.3, 0.4],
            **fields,
        )
        given_mdp = expressible(mdp, per_pair=True)
        write(given_mdp, tmp_path / "x.tra")
        assert same(read(tmp_path / "x.tra"), given_mdp)


def test_rewards_that_a_format_cannot_express_are_refused_or_replaced_by_their_mean(tmp_path):
    mdp = FiniteMDP.from_function(1, 1, lambda s, a: [(0.25, 0, 4.0, False), (0.75, 0, 0.0, False)])
    for write, read in ((write_drn, read_drn), (write_prism, read_prism)):
        with pytest.raises(UsageError, match=r"rewards from 0 to 4.*expected_rewards=True"):
            write(mdp, tmp_path / "x.tra")
        assert list(tmp_path.iterdir()) == []
        write(mdp, tmp_path / "x.tra", expected_rewards=True)
        assert outcomes(read(tmp_path / "x.tra"), 0, 0) == [(1.0, 0, 1.0, False)]
        for file in tmp_path.iterdir():
            file.unlink()


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path, name):
    with pytest.raises(CheckpointError, match="could not be written"):
        FORMATS[name][1](corridor(), tmp_path / "missing" / "x.tra")


def test_labels_and_sizes_are_written_for_other_programs(tmp_path):
    write_prism(cliff_walking(), tmp_path / "cliff.tra")
    lab = (tmp_path / "cliff.lab").read_text().splitlines()
    assert lab[0].startswith('0="init" 1="deadlock"') and '"terminated"' in lab[0]
    tra = (tmp_path / "cliff.tra").read_text().splitlines()
    states, choices, count = map(int, tra[0].split())
    assert count == len(tra) - 1 and states == cliff_walking().num_states + 1
    assert choices == len({tuple(line.split()[:2]) for line in tra[1:]})


# ----------------------------------------------------------------------------------------------------- PRISM
FILES = {
    "tra": "3 4 5\n0 0 1 0.5 go\n0 0 2 0.5 go\n0 1 0 1 wait\n1 0 0 1.0 go\n2 0 2 1 wait\n",
    "sta": "(x,b)\n0:(0,true)\n1:(1,true)\n2:(2,false)\n",
    "lab": '0="init" 1="deadlock"\n1: 0\n2: 1\n',
    "srew": '# Reward structure "money"\n# State rewards\n3 1\n1 -1\n',
    "trew": "# Transition rewards\n3 4 2\n0 0 1 2.5\n1 0 0 0.25\n",
}


def written(folder, **changed):
    for suffix, text in (FILES | changed).items():
        if text is not None:
            (folder / f"x.{suffix}").write_text(text)
    return folder / "x.tra"


def test_files_of_prism_are_read(tmp_path):
    mdp = read_prism(written(tmp_path))
    assert mdp.action_names == ("go", "wait") and mdp.state_names == ("(0,true)", "(1,true)", "(2,false)")
    assert outcomes(mdp, 0, 0) == [(0.5, 1, 2.5, False), (0.5, 2, 0.0, False)]
    assert outcomes(mdp, 1, 0) == [(1.0, 0, -0.75, False)] and not mdp.legal[1, 1]
    assert mdp.initial.tolist() == [0, 1, 0]


def test_only_the_transitions_of_prism_are_needed(tmp_path):
    mdp = read_prism(written(tmp_path, **dict.fromkeys(("sta", "lab", "srew", "trew"))))
    assert not mdp.reward.any() and mdp.state_names is None and mdp.initial.tolist() == [1, 0, 0]
    chain = read_prism(
        written(
            tmp_path, tra="2 2\n0 1 1\n1 0 1\n", sta=None, lab=None, srew="2 1\n1 3\n", trew="2 1\n0 1 4\n"
        )
    )
    assert chain.num_actions == 1 and chain.expected_reward.tolist() == [[4], [3]]
    (tmp_path / "x.lab").write_text('0="init" 1="deadlock" 2="goal"\n0: 0 2\n')
    assert read_prism(tmp_path / "x.tra").state_names == ("goal", "")


@pytest.mark.parametrize(
    ("suffix", "old", "new", "words"),
    [
        ("tra", "3 4 5\n", "999999999999 4 5\n", "x.tra, line 1: 999999999999 states need as many"),
        ("tra", "3 4 5\n", "3\n", "x.tra, line 1: expected the numbers of states"),
        ("tra", "3 4 5\n", "3 4 6\n", "x.tra: there are 5 transitions, and the first line says 6"),
        ("tra", "0 1 0 1 wait", "0 1 0", "x.tra, line 4: expected a transition of 4 numbers"),
        ("tra", "0 1 0 1 wait", "0 1 7 1 wait", "x.tra, line 4: target 7 is out of range 0 to 2"),
        ("tra", "0 1 0 1 wait", "0 1 0 1.5 wait", "x.tra, line 4: probability 1.5"),
        (
            "tra",
            "0 0 2 0.5 go",
            "0 0 2 0.5 fly",
            "x.tra, line 3: choice 0 of state 0 is called 'fly'",
        ),
        (
            "tra",
            "0 0 2 0.5",
            "0 0 2 0.4",
            r"x.tra, line 2: the probabilities of state 0, action go sum to 0.9",
        ),
        ("tra", "2 0 2 1 wait", "1 1 2 1 wait", "state 2 has no action"),
        ("srew", "1 -1", "1 -1 2", "x.srew, line 4: expected a state and its reward"),
        ("srew", "1 -1", "5 -1", "x.srew, line 4: state 5 is out of range"),
        ("trew", "1 0 0 0.25", "1 0 0.25", "x.trew, line 4: expected state, choice, target and reward"),
        (
            "trew",
            "1 0 0 0.25",
            "1 0 2 0.25",
            "state 1, choice 0 has a reward for target 2",
        ),
        ("trew", "0.25", "nan", "x.trew, line 4: reward 'nan' must be finite"),
        ("lab", "1: 0", "1: 5", "x.lab, line 2: label 5 is not among"),
        ("lab", "1: 0", "9: 0", "x.lab, line 2: state 9 is out of range"),
        ("lab", '0="init"', "init", "x.lab, line 1: expected labels"),
        ("sta", "(x,b)", "x,b", "x.sta, line 1: expected the names of the variables"),
        ("sta", "2:(", "8:(", "x.sta, line 4: state 8 is out of range"),
        (
            "trew",
            "# Transition rewards",
            "# bellgrad {",
            "x.trew, line 1: the comment of Bellgrad",
        ),
        (
            "trew",
            "# Transition rewards",
            '# bellgrad {"ends": [9, 9]}',
            "comment of Bellgrad does not fit",
        ),
    ],
    ids=range(21),
)
def test_files_of_prism_that_are_wrong_are_refused_by_line(tmp_path, suffix, old, new, words):
    assert old in FILES[suffix]
    with pytest.raises(UsageError, match=words):
        read_prism(written(tmp_path, **{suffix: FILES[suffix].replace(old, new, 1)}))
