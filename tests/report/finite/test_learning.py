"""Pictures of learning on a table: what is drawn is read back from the figures."""

import numpy as np
import pytest
from matplotlib.collections import PolyCollection

from bellgrad.core.errors import UsageError
from bellgrad.report.finite.learning import known_over_time, paths

MINUS = "\N{MINUS SIGN}"


# ------------------------------------------------------------------------------------------------------ paths
def test_paths_are_drawn_side_by_side_with_their_returns(grid, solved, tmp_path, drawn):
    mdp = grid("...", "S#G")
    q = solved(mdp).q
    round_and_round = np.zeros_like(q)  # left forever, against the edge
    paths(mdp, {"greedy": q, "lost": round_and_round}, tmp_path / "paths.png")
    greedy, lost = drawn().axes
    assert greedy.get_title("left") == f"greedy: 4 steps, return {MINUS}4"
    assert len(greedy.patches) == 4
    assert lost.get_title("left") == "lost: never arrives"


def test_paths_need_a_grid_and_tables_that_fit(maze, random_mdp, tmp_path):
    mdp, _ = maze
    with pytest.raises(UsageError, match="this MDP has none"):
        paths(random_mdp(2, 2), {"a": np.zeros((2, 2))}, tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"table of a has shape \(2, 2\); expected \[S, A\] = \(4, 4\)"):
        paths(mdp, {"a": np.zeros((2, 2))}, tmp_path / "a.png")
    with pytest.raises(UsageError, match="no table"):
        paths(mdp, {}, tmp_path / "a.png")


# ------------------------------------------------------------------------------------------------------ known
def test_what_is_known_has_triangles_and_a_count_over_time(maze, tmp_path, drawn):
    mdp, _ = maze
    known = np.full((4, 4), -1)
    known[0, :3] = (30, 10, 20)
    known_over_time(mdp, known, tmp_path / "known.png")
    pairs, curve = drawn().axes
    (triangles,) = (drawn for drawn in pairs.collections if isinstance(drawn, PolyCollection))
    assert len(triangles.get_paths()) == 3
    assert curve.get_title("left") == "3 of 12 pairs known"
    np.testing.assert_array_equal(curve.lines[0].get_xydata(), [(0, 0), (10, 1), (20, 2), (30, 3)])


def test_what_is_known_of_an_mdp_without_a_grid_is_a_table(random_mdp, tmp_path, drawn):
    known_over_time(random_mdp(3, 2), [[5, -1], [1, 2], [-1, -1]], tmp_path / "known.png")
    shown = drawn().axes[0].images[0].get_array()
    np.testing.assert_array_equal(shown.mask, [[False, True], [False, False], [True, True]])
    with pytest.raises(UsageError, match="no pair is known"):
        known_over_time(random_mdp(3, 2), np.full((3, 2), -1), tmp_path / "b.png")
    with pytest.raises(UsageError, match="known has shape"):
        known_over_time(random_mdp(3, 2), np.zeros((2, 2)), tmp_path / "b.png")
