"""Names that a user gives to states, actions and problems, in pictures and in text."""

import pytest
from matplotlib.text import Text

import bellgrad as bg
from bellgrad.envs.mdp import to_gymnasium
from bellgrad.mdp.model import FiniteMDP
from bellgrad.report.finite.pictures import picture
from bellgrad.report.finite.text import solution_text
from bellgrad.report.tables import plain_name

STRANGE = [
    "from $5 to $10",
    "$x_1^2$",
    "a_b^c",
    r"\frac{1}{0}",
    r"$\notacommand$",
    "_hidden",
    "<b>&amp;",
    "50 %",
    "é→中",
]


def problem(name, grid=None):
    return FiniteMDP.from_function(
        2,
        2,
        lambda s, a: [(1.0, a, float(s == a), False)],
        state_names=(name, "other"),
        action_names=(name, "stay"),
        grid=grid,
    )


def texts(figure):
    figure.canvas.draw()
    return [artist for artist in figure.findobj(Text) if artist.get_text()]


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("name", STRANGE)
def test_names_are_drawn_letter_by_letter_and_never_as_mathematics(name, tmp_path, drawn):
    mdp = problem(name)
    picture(mdp, bg.solve(mdp), tmp_path / "names.svg", name)
    found = texts(drawn())
    assert not any(text.get_parse_math() or text.get_usetex() for text in found)
    shown = [text.get_text() for text in found]
    assert name in shown and f"Q({name})" in shown and any(text.startswith(f"{name}: ") for text in shown)


@pytest.mark.parametrize(
    "name, shown",
    [
        ("two\nlines", "two lines"),
        ("tab\tand\x00null", "tab and null"),
        ("\x1b[31mred", "[31mred"),
        ("x" * 500, "x" * 30 + "…" + "x" * 29),
        ("", ""),
    ],
    ids=["line break", "control characters", "escape", "long", "empty"],
)
def test_names_are_one_short_line_without_control_characters(name, shown, tmp_path, drawn):
    assert plain_name(name) == shown
    mdp = problem(name)
    solution = bg.solve(mdp)
    picture(mdp, solution, tmp_path / "names.png", name)
    assert max(len(text.get_text()) for text in texts(drawn())) < 140
    lines = solution_text(mdp, solution).splitlines()
    assert max(map(len, lines)) < 600 and all(line.isprintable() for line in lines)


def test_actions_with_the_same_name_are_told_apart_by_their_numbers():
    mdp = problem("stay")
    text = solution_text(mdp, bg.solve(mdp))
    assert "Q(0 stay)" in text and "Q(1 stay)" in text


def test_a_grid_of_nameless_cells_is_drawn_and_rendered(tmp_path):
    mdp = problem("", grid=(1, 2))
    picture(mdp, bg.solve(mdp), tmp_path / "grid.png")
    env = to_gymnasium(mdp, render_mode="ansi")
    env.reset(seed=0)
    assert "o" in env.render()
