"""Pictures of solved MDPs: what is drawn is read back from the figures."""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.quiver import Quiver
from PIL import Image

from bellgrad.core.errors import UsageError
from bellgrad.report import mdp_learning, mdp_pictures
from bellgrad.report.mdp_film import GROWTH, Sweeps, animate
from bellgrad.report.mdp_learning import known_over_time, paths
from bellgrad.report.mdp_pictures import blackjack, picture

MINUS = "\N{MINUS SIGN}"


@pytest.fixture
def drawn(monkeypatch):
    """The figure that was saved last."""
    kept = []
    save = mdp_pictures.save
    for module in (mdp_pictures, mdp_learning):
        monkeypatch.setattr(module, "save", lambda figure, out: (kept.append(figure), save(figure, out)))
    return lambda: kept[-1]


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


# ------------------------------------------------------------------------------------------------------ paths
def test_paths_stand_beside_each_other_with_their_returns(grid, solved, tmp_path, drawn):
    mdp = grid("...", "S#G")
    q = solved(mdp).q
    round_and_round = np.zeros_like(q)  # left for ever, against the edge
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
    (triangles,) = of_kind(pairs, PolyCollection)
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


# ------------------------------------------------------------------------------------------------------- film
def test_of_many_sweeps_a_film_keeps_the_first_some_later_ones_and_the_last():
    sweeps = Sweeps()
    buffer = np.zeros(3)
    for sweep in range(1, 5_001):
        buffer[:] = sweep  # a solver may write each sweep over the one before it
        sweeps(sweep, buffer)
    numbers = [frame.sweep for frame in sweeps.frames]
    assert numbers[:8] == [1, 2, 3, 4, 5, 6, 7, 8] and numbers[-1] == 5_000
    assert len(numbers) <= 70
    assert all(b <= max(a + 1, a * GROWTH + 1) for a, b in pairwise(numbers))
    assert all((frame.value == frame.sweep).all() for frame in sweeps.frames)


def test_a_gif_has_a_frame_for_each_sweep(maze, solved, tmp_path):
    mdp, _ = maze
    sweeps = Sweeps()
    solved(mdp, sweeps=sweeps)
    out = animate(mdp, sweeps, tmp_path / "sweeps.gif", gamma=1.0)
    with Image.open(out) as film:
        assert film.n_frames == len(sweeps.frames) == 3
        first = film.convert("RGB")
        film.seek(1)
        assert first.size == film.size and first.tobytes() != film.convert("RGB").tobytes()


def test_an_mp4_and_an_mdp_without_a_grid(random_mdp, solved, tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    for states in (3, 61):  # bars, and a line
        mdp = random_mdp(states, 2)
        values = []
        solved(mdp, gamma=0.5, sweeps=lambda _, value, kept=values: kept.append(value))
        out = animate(mdp, values[:2], tmp_path / f"{states}.mp4")
        assert out.read_bytes()[4:8] == b"ftyp"  # ISO/IEC 14496-12: the first box of an MP4


# --------------------------------------------------------------------------------------------------- mistakes
def test_a_wrong_suffix_or_an_empty_film_is_one_clear_line_and_no_file(maze, tmp_path):
    mdp, solution = maze
    with pytest.raises(UsageError, match=r"\.png, \.svg or \.pdf, not 'a\.jpg'"):
        picture(mdp, solution, tmp_path / "a.jpg")
    with pytest.raises(UsageError, match=r"\.gif or \.mp4, not 'a\.avi'"):
        animate(mdp, [solution.value], tmp_path / "a.avi")
    with pytest.raises(UsageError, match="no sweep"):
        animate(mdp, [], tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())
