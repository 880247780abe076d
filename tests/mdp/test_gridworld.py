"""Grids from text: next cells, rewards, and refused maps."""

import numpy as np
import pytest
from plain import outcomes

from bellgrad.core.errors import UsageError
from bellgrad.mdp.examples import windy_gridworld
from bellgrad.mdp.gridworld import gridworld
from bellgrad.mdp.model import FiniteMDP

UP, RIGHT, DOWN, LEFT = range(4)


def as_dictionary(entry):
    """`{(next state, reward, terminated): probability}`, for any order and number of equal
    outcomes."""
    found = {}
    for probability, *rest in entry:
        found[tuple(rest)] = found.get(tuple(rest), 0) + probability
    return {key: pytest.approx(value) for key, value in found.items()}


def test_cells_are_states_row_by_row_and_actions_go_clockwise_from_up():
    mdp = gridworld("""
        ...
        .S.
        ...
    """)
    assert mdp.grid == (3, 3)
    assert mdp.state_names == tuple("....S....")
    assert mdp.action_names == ("up", "right", "down", "left")
    assert [outcomes(mdp, 4, action)[0][1] for action in range(4)] == [1, 5, 7, 3]
    assert mdp.initial.argmax() == 4
    king = gridworld(["...", ".S.", "..."], moves="king")
    assert [outcomes(king, 4, action)[0][1] for action in range(8)] == [1, 2, 5, 8, 7, 6, 3, 0]


def test_edges_and_walls_stop_the_agent():
    mdp = gridworld("S#G")
    for action in (UP, DOWN, LEFT, RIGHT):
        assert outcomes(mdp, 0, action) == [(1.0, 0, 0.0, False)]


def test_a_terminal_cell_pays_on_entry_and_steps_from_walls_and_terminals_end_at_reward_0():
    mdp = gridworld("S.G#", step_reward=-0.5, rewards={"G": 3})
    assert outcomes(mdp, 0, RIGHT) == [(1.0, 1, -0.5, False)]
    assert outcomes(mdp, 1, RIGHT) == [(1.0, 2, 3.0, True)]
    for cell in (2, 3):
        assert [outcomes(mdp, cell, action) for action in range(4)] == [[(1.0, cell, 0.0, True)]] * 4


def test_a_slip_turns_right_or_left_with_half_the_probability_each():
    mdp = gridworld(["...", ".S.", "..."], slip=0.25)
    assert outcomes(mdp, 4, UP) == [(0.75, 1, 0, False), (0.125, 5, 0, False), (0.125, 3, 0, False)]
    assert outcomes(mdp, 4, LEFT) == [(0.75, 3, 0, False), (0.125, 1, 0, False), (0.125, 7, 0, False)]
    king = gridworld(["...", ".S.", "..."], slip=0.25, moves="king")
    assert outcomes(king, 4, 1) == [(0.75, 2, 0, False), (0.125, 8, 0, False), (0.125, 0, 0, False)]


def test_with_slip_1_no_step_is_straight():
    assert [outcome[1] for outcome in outcomes(gridworld(["...", ".S.", "..."], slip=1), 4, UP)] == [5, 3]


def test_a_step_is_moved_upwards_by_the_wind_of_its_first_column():
    mdp = windy_gridworld()
    # Row 3 of 10 columns: column 6 has wind 2, column 2 none, column 3 has 1.
    assert outcomes(mdp, 36, RIGHT) == [(1.0, 17, -1.0, False)]
    assert outcomes(mdp, 32, RIGHT) == [(1.0, 33, -1.0, False)]
    assert outcomes(mdp, 33, DOWN) == [(1.0, 33, -1.0, False)]
    assert outcomes(mdp, 6, LEFT) == [(1.0, 5, -1.0, False)]  # clipped to the grid


def test_a_stochastic_wind_is_stronger_or_weaker_by_one():
    # Sutton and Barto 2018, exercise 6.10: one cell to the left of the goal, in wind 2.
    mdp = windy_gridworld(stochastic_wind=True, moves="king")
    third = pytest.approx(1 / 3)
    assert outcomes(mdp, 36, 6) == [(third, 15, -1, False), (third, 5, -1, False), (third, 25, -1, False)]
    assert len(outcomes(mdp, 32, 6)) == 1


def test_a_restart_pays_and_leads_back_to_the_start():
    mdp = gridworld(["..G", "SXX"], step_reward=-1, rewards={"X": -100})
    assert outcomes(mdp, 3, RIGHT) == [(1.0, 3, -100.0, False)]
    assert outcomes(mdp, 1, DOWN) == [(1.0, 3, -100.0, False)]
    assert outcomes(mdp, 1, RIGHT) == [(1.0, 2, -1.0, True)]


def test_episodes_begin_on_any_start_or_on_any_open_cell():
    assert gridworld("S.SG").initial.tolist() == [0.5, 0, 0.5, 0]
    assert gridworld(".#.G").initial.tolist() == [0.5, 0, 0.5, 0]


def test_a_frozen_lake_is_a_grid_that_slips():
    lake = FiniteMDP.from_gymnasium("FrozenLake-v1", map_name="8x8")
    drawn = ["".join(lake.state_names[row * 8 : row * 8 + 8]) for row in range(8)]
    mdp = gridworld(drawn, slip=2 / 3, floor="F", terminal="GH")
    turned = [lake.action_names.index(name) for name in mdp.action_names]
    for state in range(64):
        for action in range(4):
            assert as_dictionary(outcomes(mdp, state, action)) == as_dictionary(
                outcomes(lake, state, turned[action])
            )
    np.testing.assert_array_equal(mdp.initial, lake.initial)


def test_names_may_be_given():
    named = gridworld("S.G", state_names=["start", "middle", "goal"], action_names="urdl")
    assert (named.state_names, named.action_names) == (("start", "middle", "goal"), tuple("urdl"))
    with pytest.raises(UsageError, match="a grid of 2 x 2 cells does not have 3 states"):
        gridworld("S.G", grid=(2, 2))


@pytest.mark.parametrize(
    "drawn, options, words",
    [
        (["S..", "..q"], {}, r"row 1, column 2 of the map is 'q'; known: # \. G S X"),
        (["S..", ".."], {}, "row 1 of the map has 2 cells; row 0 has 3"),
        ("", {}, "the map is empty"),
        ("##", {}, "the map has no cell to start in"),
        ("SXS", {}, r"a map with restarts \(X\) needs one start \(S\); this one has 2"),
        ("S.G", {"slip": 1.1}, r"slip = 1.1 is out of range \[0, 1\]"),
        ("S.G", {"wind": [1, 0]}, "wind must be one integer for each of 3 columns"),
        ("S.G", {"wind": [0.5, 0, 0]}, "wind must be one integer for each of 3 columns"),
        ("S.G", {"stochastic_wind": True}, "stochastic_wind needs a wind"),
        ("S.G", {"moves": "kings"}, "unknown set of moves 'kings'; did you mean king"),
        ("S.G", {"rewards": {"G": np.nan}}, r"state 1 \(\.\), action 1 \(right\): an outcome has reward nan"),
    ],
)
def test_a_map_that_is_not_a_grid_is_refused_with_the_cell(drawn, options, words):
    with pytest.raises(UsageError, match=words):
        gridworld(drawn, **options)
