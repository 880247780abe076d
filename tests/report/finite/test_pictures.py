"""Pictures of solved MDPs: what is drawn is read back from the figures."""

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.quiver import Quiver

from bellgrad.core.errors import UsageError
from bellgrad.report.finite.pictures import blackjack, picture

MINUS = "\N{MINUS SIGN}"


def words(ax):
    return [text.get_text() for text in ax.texts]


def of_kind(ax, kind):
    return [collection for collection in ax.collections if isinstance(collection, kind)]


# ------------------------------------------------------------------------------------------------------ grids
def test_a_grid_has_values_and_an_arrow_for_each_best_action(maze, tmp_path, drawn):
    out = tmp_path / "deep" / "grid.png"
    assert picture(*maze, out, "maze") == out and out.stat().st_size > 0
    values = drawn().axes[0]
    assert drawn().get_suptitle() == "maze: value_iteration, total"
    assert sorted(words(values)) == sorted(["S", "G", f"{MINUS}2", f"{MINUS}1", f"{MINUS}1"])
    (arrows,) = of_kind(values, Quiver)
    pointing = {(round(float(x)), round(float(y)), np.sign(u), np.sign(v))
                for x, y, u, v in zip(arrows.X, arrows.Y, arrows.U, arrows.V, strict=True)}  # fmt: skip
    # x to the right, y down: from the start down and right, from its right neighbor down, from the cell below
    # it right
    assert pointing == {(0, 0, 0, 1), (0, 0, 1, 0), (1, 0, 0, 1), (0, 1, 1, 0)}


def test_q_is_a_triangle_on_its_side_for_each_legal_action(maze, tmp_path, drawn, changed):
    mdp, solution = maze
    q = np.where(np.arange(4) == 3, -np.inf, solution.q)  # up is illegal everywhere
    picture(mdp, changed(solution, q=q), tmp_path / "grid.png")
    (triangles,) = of_kind(drawn().axes[1], PolyCollection)
    corners = [path.vertices[:3] for path in triangles.get_paths()]
    assert len(corners) == 3 * 3  # three cells that are open, three actions
    first_left = corners[0]
    assert first_left[0].tolist() == [0, 0] and set(first_left[1:, 0]) == {-0.5}


def test_walls_and_ends_are_not_in_the_colors_of_the_scale(grid, solved, tmp_path, drawn):
    mdp = grid("S#G", "...")
    picture(mdp, solved(mdp), tmp_path / "grid.png")
    pixels = drawn().axes[0].images[0].get_array().reshape(6, 4)
    as_hex = ["#" + "".join(f"{round(255 * c):02x}" for c in pixel[:3]) for pixel in pixels]
    assert (as_hex[1], as_hex[2]) == ("#4a5058", "#ffffff")
    assert len({as_hex[0], as_hex[3], as_hex[4], as_hex[5]}) == 4  # -4, -3, -2 and -1


def test_a_large_grid_has_no_numbers_and_few_arrows(grid, solved, tmp_path, drawn):
    mdp = grid("S" + "." * 69, *["." * 70] * 68, "." * 69 + "G")
    picture(mdp, solved(mdp, gamma=0.99), tmp_path / "grid.png")
    values = drawn().axes[0]
    assert sorted(words(values)) == ["G", "S"]
    assert "one cell in 3 x 3" in values.get_title("left")
    (arrows,) = of_kind(values, Quiver)
    assert len({*zip(np.round(arrows.X / 3), np.round(arrows.Y / 3), strict=True)}) <= 24 * 24
    assert not any(of_kind(ax, PolyCollection) for ax in drawn().axes if ax is not values)


# ----------------------------------------------------------------------------------------------------- tables
def test_an_mdp_without_a_grid_is_a_table_with_the_policy_in_bold(random_mdp, solved, tmp_path, drawn):
    mdp = random_mdp(5, 3, illegal=[(2, 1)])
    solution = solved(mdp, gamma=0.9)
    picture(mdp, solution, tmp_path / "table.png")
    table = drawn().axes[0]
    texts = np.array(table.texts).reshape(5, 4)
    assert [label.get_text() for label in table.get_xticklabels()] == ["V", "Q(0)", "Q(1)", "Q(2)"]
    assert texts[2, 2].get_text() == "illegal"
    bold = np.array([[text.get_fontweight() == "bold" for text in row] for row in texts])
    np.testing.assert_array_equal(bold[:, 1:], solution.policy > 0)
    assert not bold[:, 0].any()


def test_a_small_grid_whose_actions_are_no_directions_is_a_table(corridor, changed, tmp_path, drawn):
    mdp, solution = corridor
    picture(changed(mdp, action_names=("back", "forth")), solution, tmp_path / "table.png")
    assert [label.get_text() for label in drawn().axes[0].get_xticklabels()] == ["V", "Q(back)", "Q(forth)"]
    picture(mdp, solution, tmp_path / "grid.png")  # L and R are left and right
    assert len(of_kind(drawn().axes[0], Quiver)[0].X) == 4


def test_a_table_of_many_states_and_actions_says_what_it_leaves_out(random_mdp, solved, tmp_path, drawn):
    mdp = random_mdp(40, 12)
    solution = solved(mdp, gamma=0.9)
    picture(mdp, solution, tmp_path / "table.png")
    table, curve = drawn().axes
    assert "16 more states, 2 more actions" in table.get_title("left")
    # Where the best action is not among those that are shown, none is bold.
    texts = np.array(table.texts).reshape(24, 11)
    hidden = solution.policy[:24].argmax(axis=1) >= 10
    assert hidden.any()
    assert not any(text.get_fontweight() == "bold" for text in texts[hidden].ravel())
    np.testing.assert_array_equal(curve.lines[0].get_ydata(), np.sort(solution.value)[::-1])


# -------------------------------------------------------------------------------------------------- blackjack
def test_blackjack_has_two_panels_with_the_line_between_hit_and_stick(
    solved, random_mdp, changed, tmp_path, drawn
):
    sums, cards, ace = np.unravel_index(np.arange(704), (32, 11, 2))
    hits = sums < np.where(ace == 1, 18, 17)
    policy = np.stack([~hits, hits], axis=1).astype(float)
    small = random_mdp(2, 2)
    solution = changed(solved(small, gamma=0.9), value=sums + cards / 100, policy=policy)
    blackjack(solution, tmp_path / "blackjack.png")
    for ax, name, first_stick in (
        (drawn().axes[0], "Usable ace", 18),
        (drawn().axes[1], "No usable ace", 17),
    ):
        assert ax.get_title("left") == name
        line = np.concatenate([collection.get_segments() for collection in of_kind(ax, LineCollection)])
        assert set(line[..., 1].ravel()) == {first_stick - 12 - 0.5}
        assert ax.texts[0].get_text() == "12\nhit"
        assert ax.texts[-1].get_text() == "21\nstick"


# --------------------------------------------------------------------------------------------------- mistakes
def test_a_wrong_suffix_is_refused_in_one_line_and_leaves_no_file(maze, tmp_path):
    with pytest.raises(UsageError, match=r"\.png, \.svg or \.pdf, not 'a\.jpg'"):
        picture(*maze, tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())
