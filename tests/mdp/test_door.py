"""What the builders and `bg.solve` accept, and that everything else is refused in a sentence."""

import warnings
from fractions import Fraction

import gymnasium
import numpy as np
import pytest
import torch
from plain import same_outcomes
from scipy import sparse

import bellgrad as bg
from bellgrad.core.errors import UsageError, unknown
from bellgrad.envs.mdp import FiniteMDPEnv, to_gymnasium
from bellgrad.envs.sampled import SampledMDP
from bellgrad.mdp.examples import chain, cliff_walking, garnet, random_walk
from bellgrad.mdp.gridworld import gridworld
from bellgrad.mdp.model import FiniteMDP

# pymdptoolbox's forest(3) and small(): actions first
FOREST = np.array([[[0.1, 0.9, 0], [0.1, 0, 0.9], [0.1, 0, 0.9]], [[1, 0, 0], [1, 0, 0], [1, 0, 0]]])
FOREST_REWARD = np.array([[0, 0], [0, 1], [4, 2.0]])
SMALL = np.array([[[0.5, 0.5], [0.8, 0.2]], [[0, 1], [0.1, 0.9]]])
SMALL_REWARD = np.array([[5, 10], [-1, 2.0]])
STATES_FIRST = FOREST.transpose(1, 0, 2)
EXPECTED = FiniteMDP.from_arrays(STATES_FIRST, FOREST_REWARD)


def objects(matrices):
    array = np.empty(len(matrices), object)
    array[:] = list(matrices)
    return array


def step(state, action):
    return [(1.0, state, 1.0, False)]


PER_ACTION = {
    "sparse objects": objects([sparse.csr_matrix(m) for m in FOREST]),
    "dense objects": objects(FOREST),
    "mixed objects": objects([sparse.csc_array(FOREST[0]), FOREST[1]]),
    "mixed list": [FOREST[0], sparse.coo_matrix(FOREST[1])],
    "tuple": tuple(sparse.csr_array(m) for m in FOREST),
}


@pytest.mark.parametrize("transition", PER_ACTION.values(), ids=PER_ACTION)
def test_matrices_per_action_are_read_in_every_container(transition):
    assert same_outcomes(FiniteMDP.from_arrays(transition, FOREST_REWARD), EXPECTED)
    by_action = objects([sparse.csr_matrix(FOREST_REWARD[:, [a]] * np.ones(3)) for a in range(2)])
    assert same_outcomes(FiniteMDP.from_arrays(transition, by_action), EXPECTED)


NUMBERS = {
    "objects": STATES_FIRST.astype(object),
    "fractions": np.array(
        [[[Fraction(p).limit_denominator(10) for p in r] for r in m] for m in STATES_FIRST]
    ),
    "lists": STATES_FIRST.tolist(),
    "tensor": torch.tensor(STATES_FIRST),
    "float32": STATES_FIRST.astype(np.float32),
}


@pytest.mark.parametrize("transition", NUMBERS.values(), ids=NUMBERS)
def test_any_array_of_real_numbers_is_a_transition(transition):
    made = FiniteMDP.from_arrays(transition, FOREST_REWARD)
    np.testing.assert_allclose(made.probability, EXPECTED.probability, rtol=1e-7)


def test_a_list_of_sparse_and_dense_matrices_may_have_as_many_actions_as_states():
    made = FiniteMDP.from_arrays([sparse.csr_array(SMALL[0]), SMALL[1].tolist()], SMALL_REWARD)
    assert bg.solve(made, gamma=0.9).value.round(2).tolist() == [42.44, 36.05]


def test_arguments_of_solve_that_do_nothing_are_refused_with_what_to_do():
    for on_sweep in (1, "x"):
        with pytest.raises(UsageError, match=r"on_sweep = .* must be a function of the sweep's number"):
            bg.solve(EXPECTED, gamma=0.9, on_sweep=on_sweep)
    with pytest.raises(
        UsageError, match="policy_iteration has no terminal_value; leave it out, or give a hor"
    ):
        bg.solve(EXPECTED, gamma=0.9, terminal_value=[0, 0, 0])
    with pytest.raises(UsageError, match=r"average_policy_iteration has no dtype; leave it out$"):
        bg.solve(EXPECTED, criterion="average", dtype="float32")


def test_the_order_of_axes_is_said_by_one_switch():
    small = FiniteMDP.from_arrays(SMALL, SMALL_REWARD, order="ASS")
    assert bg.solve(small, gamma=0.9).value.round(2).tolist() == [42.44, 36.05]
    with pytest.warns(
        UserWarning, match="as many actions as states, 2, so the shape of transition .*order='ASS'"
    ):
        unsaid = FiniteMDP.from_arrays(SMALL, SMALL_REWARD)
    assert bg.solve(unsaid, gamma=0.9).value.round(2).tolist() == [61.08, 39.46]
    forest = FiniteMDP.from_arrays(
        FOREST,
        np.broadcast_to(FOREST_REWARD.T[:, :, None], (2, 3, 3)),
        terminated=np.zeros((2, 3, 3)),
        order="ASS",
    )
    assert same_outcomes(forest, EXPECTED)


def test_no_warning_about_the_order_where_it_is_said_or_does_not_matter():
    same = np.full((2, 2, 2), 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FiniteMDP.from_arrays(SMALL, SMALL_REWARD, order="SAS")
        FiniteMDP.from_arrays(objects(SMALL), SMALL_REWARD)
        FiniteMDP.from_arrays(same, SMALL_REWARD)
        FiniteMDP.from_arrays([[[1.0]]], [[[1.0]]])
        FiniteMDP.from_arrays(STATES_FIRST, FOREST_REWARD)
    with pytest.warns(UserWarning, match="the shape of reward does not tell"):
        FiniteMDP.from_arrays(same, np.arange(8).reshape(2, 2, 2))


ARRAYS = {
    "strings": ({"reward": np.array([["a", "b"]] * 3)}, "reward must be an array of numbers, got <U1"),
    "numbers as text": ({"reward": [["1", "2"]] * 3}, "reward must be an array of numbers"),
    "complex": ({"reward": np.full((3, 2), 1j)}, "reward must be an array of numbers, got complex128"),
    "complex sparse": (
        {"reward": sparse.csr_array(np.full((6, 3), 1j))},
        "reward must be a sparse matrix of num",
    ),
    "complex matrices": (
        {"transition": [sparse.eye_array(3, dtype=complex)] * 2},
        "transition of action 0 must",
    ),
    "none": ({"reward": None}, "reward must be an array of numbers, got object"),
    "ragged": ({"transition": [[[1.0]], [[1.0], [1.0, 2.0]]]}, "transition cannot be read as an array"),
    "empty": ({"transition": []}, r"transition has shape \(0,\); expected"),
    "no states": ({"transition": np.zeros((0, 2, 0))}, "at least one state and one action"),
    "no actions": ({"transition": np.zeros((3, 0, 3))}, "at least one state and one action"),
    "dates": ({"reward": np.zeros((3, 2), "M8[s]")}, "reward must be an array of numbers, got datetime64"),
    "a dictionary": ({"transition": {0: 1}}, "transition must be an array of numbers, got object"),
    "a grad": (
        {"transition": torch.tensor(STATES_FIRST, requires_grad=True)},
        "transition cannot be .*detach",
    ),
    "a sparse tensor": (
        {"transition": torch.tensor(STATES_FIRST).to_sparse()},
        "transition cannot be .*dense",
    ),
    "masked": ({"reward": np.ma.masked_equal(FOREST_REWARD, 4)}, "reward has masked entries"),
    "transposed": (
        {"reward": FOREST_REWARD.T},
        r"reward has shape \(2, 3\).*this is \[A, S\]: transpose it, rew",
    ),
    "actions first": ({"reward": np.zeros((2, 3, 3))}, "reward has shape .*order='ASS' if they do in every"),
    "states first": ({"order": "ASS"}, "transition has shape .*expected .A, S, S'.; states come first"),
    "an order": ({"order": "SSA"}, "unknown order of axes 'SSA'; did you mean"),
    "a number as order": ({"order": 1}, "unknown order of axes '1'"),
    "-inf": ({"reward": np.full((3, 2), -np.inf)}, "an outcome has reward -inf; rewards must be .*`legal`"),
    "terminated text": ({"terminated": np.array(["False"] * 3)}, "terminated must be an array of numbers"),
    "terminated nan": ({"terminated": [0, 0, np.nan]}, "terminated must contain only true and false"),
    "legal text": ({"legal": [["yes", "no"]] * 3}, "legal must be an array of numbers"),
    "initial text": ({"initial": "S"}, "initial = 'S' must be a number"),
    "initial 0.5": ({"initial": 0.5}, "initial = 0.5 must be a whole number"),
    "initial true": ({"initial": True}, "initial = True must be a number"),
    "initial large": ({"initial": 3.0}, "initial = 3.0 is not a state"),
    "initial negative": ({"initial": -1}, "initial = -1 is not a state"),
    "initial nan": ({"initial": [np.nan, 1, 0]}, "the start distribution must be probabilities"),
    "initial complex": ({"initial": [1j, 0, 0]}, "initial must be an array of numbers"),
    "costs": ({"costs": "no"}, "costs = 'no' must be True or False"),
    "no field": ({"discount": 0.9}, "unknown argument 'discount'; known: action_names"),
    "limit 0": ({"max_episode_steps": 0}, "max_episode_steps = 0 must be 1 or more"),
    "limit -1": ({"max_episode_steps": -1}, "max_episode_steps = -1 must be 1 or more"),
    "limit text": ({"max_episode_steps": "x"}, "max_episode_steps = 'x' must be a number"),
    "limit true": ({"max_episode_steps": True}, "max_episode_steps = True must be a number"),
    "names": ({"state_names": 3}, "state_names must be a list of names"),
    "grid": ({"grid": 3}, "grid must be a number of rows and one of columns"),
    "grid text": ({"grid": ("1", 3)}, "grid = '1' must be a number"),
    "a 3-D sparse": (
        {"transition": [sparse.coo_array(np.ones(3)), sparse.eye_array(3)]},
        "must be a sparse matrix",
    ),
}


@pytest.mark.parametrize("change, words", ARRAYS.values(), ids=ARRAYS)
def test_arrays_of_any_other_kind_are_refused_in_a_sentence(change, words):
    with pytest.raises(UsageError, match=words):
        FiniteMDP.from_arrays(**{"transition": STATES_FIRST, "reward": FOREST_REWARD} | change)


CALLS = {
    "0 states": (lambda: FiniteMDP.from_function(0, 1, step), "num_states = 0 must be 1 or more"),
    "0 actions": (lambda: FiniteMDP.from_function(1, 0, step), "num_actions = 0 must be 1 or more"),
    "states text": (lambda: FiniteMDP.from_function("2", 1, step), "num_states = '2' must be a number"),
    "states 2.5": (lambda: FiniteMDP.from_function(2.5, 1, step), "num_states = 2.5 must be a whole number"),
    "states none": (lambda: FiniteMDP.from_function(None, 1, step), "num_states = None must be a number"),
    "no function": (
        lambda: FiniteMDP.from_function(1, 1, [[1.0]]),
        "outcomes must be a function .*from_arrays",
    ),
    "data of no states": (
        lambda: FiniteMDP.from_transitions([], [], [], [], [], num_states=0, num_actions=1),
        "num_states = 0 must be 1 or more",
    ),
    "data text": (
        lambda: FiniteMDP.from_transitions(["a"], [0], [0], [0], [0], num_states=1, num_actions=1),
        "obs must be an array of numbers",
    ),
    "complex data": (
        lambda: FiniteMDP.from_transitions([0], [0], [1j], [0], [0], num_states=1, num_actions=1),
        "reward must be an array of numbers",
    ),
    "terminated data": (
        lambda: FiniteMDP.from_transitions([0], [0], [1], [0], ["False"], num_states=1, num_actions=1),
        "terminated must be an array of numbers",
    ),
    "unseen": (
        lambda: FiniteMDP.from_transitions([0], [0], [1], [0], [0], num_states=1, num_actions=1, unseen=None),
        "unknown choice for unseen pairs 'None'",
    ),
    "a map": (lambda: gridworld(123), "a map is one text with several lines, .*got int"),
    "no map": (lambda: gridworld(None), "a map is one text"),
    "a map of numbers": (lambda: gridworld([[1, 2]]), "a map is one text"),
    "a letter": (
        lambda: gridworld("S.G", rewards={"g": 10}),
        "rewards has 'g', which is not on the map; .*G S",
    ),
    "a number as letter": (
        lambda: gridworld("S.G", rewards={1: 10}),
        "keys of rewards must be letters, got 1",
    ),
    "rewards": (lambda: gridworld("S.G", rewards=[1]), "rewards = .1. must be a dictionary"),
    "a reward": (lambda: gridworld("S.G", rewards={"G": "x"}), "= 'x' must be a number"),
    "a step reward": (lambda: gridworld("S.G", step_reward=None), "step_reward = None must be a number"),
    "slip": (lambda: gridworld("S.G", slip="0.1"), "slip = '0.1' must be a number"),
    "slip nan": (lambda: gridworld("S.G", slip=np.nan), "slip = nan is out of range"),
    "wind": (lambda: gridworld("S.G", wind="no"), "wind must be an array of numbers"),
    "moves": (lambda: gridworld("S.G", moves=4), "unknown set of moves '4'"),
    "start": (lambda: gridworld("S.G", start=None), "start = None must be letters"),
    "an option": (lambda: gridworld("S.G", stepreward=1), "unknown argument 'stepreward'"),
    "limit": (lambda: gridworld("S.G", max_episode_steps=0), "max_episode_steps = 0 must be 1 or more"),
    "env limit": (lambda: to_gymnasium(chain(), "x"), "max_episode_steps = 'x' must be a number"),
    "env": (lambda: FiniteMDPEnv(123), "mdp must be a FiniteMDP, got a int"),
    "sampled": (lambda: SampledMDP(None), "mdp must be a FiniteMDP, got a NoneType"),
    "sampled limit": (lambda: SampledMDP(chain(), max_episode_steps=0), "max_episode_steps = 0 must be 1"),
    "walk": (lambda: random_walk("5"), "num_states = '5' must be a number"),
    "chain": (lambda: chain(slip=None), "slip = None must be a number"),
    "garnet": (lambda: garnet(0, 1, 1, seed=0), "num_states = 0 must be 1 or more"),
    "garnet seed": (lambda: garnet(2, 1, 1, seed="a"), "seed = 'a' must be a number"),
    "solve arrays": (lambda: bg.solve(FOREST), "mdp must be a FiniteMDP, .*got a ndarray: make one with"),
    "solve none": (lambda: bg.solve(None), "mdp must be a FiniteMDP, .*got a NoneType"),
    "solve a name": (lambda: bg.solve("FrozenLak-v1"), "the environment FrozenLak-v1 could not be made"),
    "solve cartpole": (lambda: bg.solve("CartPole-v1"), "CartPole-v1 does not show its dynamics"),
    "solve method": (lambda: bg.solve(EXPECTED, 3), "unknown solver '3'"),
    "solve criterion": (lambda: bg.solve(EXPECTED, criterion=["total"]), "unknown criterion"),
}


@pytest.mark.parametrize("call, words", CALLS.values(), ids=CALLS)
def test_every_door_refuses_what_it_cannot_read(call, words):
    with pytest.raises(UsageError, match=words):
        call()


@pytest.mark.parametrize(
    "entry, words",
    [
        ((1.0, 0, 0.0, "False"), "terminated is 'False', not True or False"),
        ((1.0, 0, 0.0, None), "terminated is None"),
        ((1.0, 0, 0.0, 2), "terminated is 2"),
        ((1.0, "0", 0.0, False), "next state '0' is not a whole number"),
        ((1.0, 0, "1", False), "real number"),
        ((1.0, 0, 1j, False), "real number|complex"),
        (("1", 0, 1.0, False), "real number"),
        ((1.0, None, 1.0, False), "state 0, action 0: expected outcomes"),
    ],
)
def test_an_outcome_of_other_types_is_refused(entry, words):
    with pytest.raises(UsageError, match=words):
        FiniteMDP.from_function(1, 1, lambda state, action: [entry])


def test_whole_numbers_count_as_integers_everywhere():
    made = FiniteMDP.from_function(
        3.0, np.float64(2), lambda s, a: [(1, float(s), 1, np.bool_(False))], initial=1.0
    )
    assert (made.num_states, made.num_actions, made.initial.tolist()) == (3, 2, [0, 1, 0])
    limit = FiniteMDP.from_arrays(STATES_FIRST, FOREST_REWARD, max_episode_steps=1e2).max_episode_steps
    assert (limit, type(limit)) == (100, int)
    data = FiniteMDP.from_transitions([0.0], [0], [True], [0.0], [1.0], num_states=1.0, num_actions=1)
    assert (data.reward.tolist(), data.terminated.tolist()) == ([1.0], [True])


def test_the_callers_arrays_stay_writable_and_are_not_changed():
    own = {
        "offset": np.array([0, 1, 2], np.int32),
        "probability": np.ones(2),
        "next_state": np.array([1, 0], np.int32),
        "reward": np.ones(2),
        "terminated": np.zeros(2, bool),
        "initial": np.array([1.0, 0.0]),
    }
    before = {name: array.copy() for name, array in own.items()}
    made = FiniteMDP(1, **own, state_names=["a", "b"], grid=[1, 2])
    bg.solve(made)
    for name, array in own.items():
        assert array.flags.writeable and not getattr(made, name).flags.writeable, name
        np.testing.assert_array_equal(array, before[name])
    assert (made.state_names, made.grid) == (("a", "b"), (1, 2))
    transition, reward, initial = STATES_FIRST.copy(), FOREST_REWARD.copy(), np.full(3, 1 / 3)
    kept = FiniteMDP.from_arrays(transition, reward, initial=initial)
    transition[:], reward[:], initial[:] = 0, 7, 9
    assert same_outcomes(kept, EXPECTED) and kept.initial.tolist() == [1 / 3] * 3


def test_the_name_of_an_environment_and_an_environment_are_solved():
    expected = bg.solve(FiniteMDP.from_gymnasium("FrozenLake-v1")).value
    for env in ("FrozenLake-v1", gymnasium.make("FrozenLake-v1"), gymnasium.envs.toy_text.FrozenLakeEnv):
        np.testing.assert_array_equal(bg.solve(env).value, expected)
    assert bg.solve(to_gymnasium(cliff_walking(), 50)).value.shape == (48,)


def test_a_name_is_not_answered_with_an_empty_list():
    assert str(unknown("thing", "it", [])) == "unknown thing 'it'; there is none that could be named"


def test_an_empty_row_and_a_state_without_actions_say_how_an_end_is_written():
    empty = STATES_FIRST.copy()
    empty[2] = 0
    with pytest.raises(UsageError, match=r"state 2, action 0 has an empty row; .*`legal`; .*`terminated`"):
        FiniteMDP.from_arrays(empty, FOREST_REWARD)
    with pytest.raises(UsageError, match=r"state 1 has no legal action; .*\(1.0, 1, 0.0, True\)"):
        FiniteMDP.from_function(2, 1, lambda s, a: [] if s else step(s, a))
