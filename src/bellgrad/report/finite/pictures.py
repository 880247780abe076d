"""Pictures of a solved MDP: a grid as a heat map with arrows, Blackjack as in the book, or a table of Q."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bellgrad.mdp.model import FiniteMDP, Floats
from bellgrad.mdp.solution import Solution
from bellgrad.report.figures import INK, checked_path, figure_in_style, save
from bellgrad.report.finite.grid import (
    COLORS,
    SIDES,
    arrow_stride,
    color_bar,
    draw_q,
    draw_values,
    ink_on,
    panel,
    scale,
    short,
)
from bellgrad.report.finite.shown import (
    action_labels,
    choices,
    first_states,
    first_step,
    how_solved,
    kinds,
    moves,
    state_labels,
)
from bellgrad.report.tables import plain_name, short_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

TABLE_ROWS, TABLE_COLUMNS = 24, 10  # states and actions of a table; of a larger MDP the first ones are drawn
TRIANGLES_FROM = 0.24  # inches: in a cell of this size or larger, four triangles can be told apart
# Sizes of the observation: the player's sum, the dealer's card, and whether there is a usable ace.
BLACKJACK = (32, 11, 2)


def picture(mdp: FiniteMDP, solution: Solution, out: Path | str, title: str = "") -> Path:
    """Draw a solution in the form that fits its MDP: a grid, Blackjack, or a table.

    Args:
        mdp: what was solved.
        solution: with a horizon, its first step is drawn.
        out: `.png`, `.svg` or `.pdf`.
        title: put before the method and the criterion.

    Returns:
        `out`.

    Raises:
        UsageError: another suffix.
    """
    out = checked_path(out)
    heading = f"{plain_name(title)}: {how_solved(solution)}" if title else how_solved(solution)
    # A grid whose actions are not directions has no arrows, so a table shows more if it has room for every
    # state.
    if mdp.grid is not None and (moves(mdp) is not None or mdp.num_states > TABLE_ROWS):
        return _grid(mdp, solution, out, heading)
    if mdp.num_states == np.prod(BLACKJACK) and mdp.action_names == ("stick", "hit"):
        return blackjack(solution, out, heading)
    return _table(mdp, solution, out, heading)


def _grid(mdp: FiniteMDP, solution: Solution, out: Path, heading: str) -> Path:
    """The value with the policy's arrows, and next to it Q if its triangles can be told apart."""
    value, q, policy = first_step(solution)
    what, size = kinds(mdp), panel(mdp)
    directions = moves(mdp)
    with_q = directions is not None and set(directions) <= SIDES.keys() and size.cell >= TRIANGLES_FROM
    wide = mdp.grid[1] > mdp.grid[0]
    rows, columns = (2, 1) if with_q and wide else (1, 1 + with_q)
    stride = arrow_stride(mdp)
    sampled = f", one cell in {stride} x {stride} with arrows" if stride > 1 else ""
    with figure_in_style(
        (columns * (size.width + 1.15), rows * (size.height + 0.4) + 0.5), "light"
    ) as figure:
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        figure.suptitle(heading, x=0.015, ha="left", fontsize=11, fontweight="bold")
        colors = draw_values(axes[0], mdp, what, value, policy, scale(value[what.open]), size.cell)
        axes[0].set_title(f"Value and policy{sampled}" if directions is not None else "Value")
        color_bar(axes[0], colors, _unit(solution), size.width)
        if with_q:
            axes[1].set_title("Q of each action")
            color_bar(
                axes[1],
                draw_q(axes[1], mdp, what, q, scale(q[what.open]), size.cell),
                _unit(solution),
                size.width,
            )
        save(figure, out)
    return out


def _unit(solution: Solution) -> str:
    """What a value measures."""
    if solution.criterion == "average":
        return "Relative value"
    return "Expected discounted return" if solution.gamma < 1 else "Expected return"


def _table(mdp: FiniteMDP, solution: Solution, out: Path, heading: str) -> Path:
    """V and Q of each state; of many states only the first, and next to them the sorted values of all."""
    value, q, policy = first_step(solution)
    states, actions = first_states(mdp, TABLE_ROWS), min(mdp.num_actions, TABLE_COLUMNS)
    rows, labels = len(states), state_labels(mdp, states)
    names = ["V", *(f"Q({name})" for name in action_labels(mdp)[:actions])]
    shown = np.column_stack([value[states], q[states, :actions]])
    all_shown = rows == mdp.num_states
    width = 0.085 * max(map(len, labels)) + 0.78 * len(names) + 0.9
    with figure_in_style((width + (0 if all_shown else 3.6), 0.27 * rows + 1.3), "light") as figure:
        figure.suptitle(heading, x=0.015, ha="left", fontsize=11, fontweight="bold")
        axes = figure.subplots(
            1, 1 if all_shown else 2, squeeze=False, width_ratios=None if all_shown else [width, 3.6]
        )[0]
        colors = _draw_table(axes[0], shown, choices(policy)[states, :actions], labels, names)
        left_out = [
            f"{n:,} more {what}"
            for n, what in ((mdp.num_states - rows, "states"), (mdp.num_actions - actions, "actions"))
            if n
        ]
        axes[0].set_title(
            "Bold: the policy's actions" + (f". Not shown: {', '.join(left_out)}" if left_out else ""),
            fontsize=8.5,
            fontweight="normal",
        )
        if all_shown:
            color_bar(axes[0], colors, _unit(solution), width)
        else:
            axes[1].plot(np.arange(mdp.num_states), np.sort(value)[::-1], color=INK["light"].lines[0])
            axes[1].xaxis.set_major_formatter(short_count)
            axes[1].set(
                title=f"All {mdp.num_states:,} states, best first",
                xlabel="State's rank",
                ylabel=_unit(solution),
            )
        save(figure, out)
    return out


def _draw_table(
    ax: "Axes", shown: Floats, chosen: NDArray[np.bool_], labels: list[str], names: list[str]
) -> "ScalarMappable":
    """Draw a cell for V and for each action, in the color of its value and with its number."""
    from matplotlib.cm import ScalarMappable

    norm = scale(shown)
    colors = ScalarMappable(norm, COLORS)
    legal = np.isfinite(shown)
    pixels = colors.to_rgba(np.where(legal, shown, norm.vmin))
    pixels[~legal] = 1
    ax.imshow(pixels, aspect="auto")
    bold = np.column_stack([np.zeros(len(shown), bool), chosen])
    for (row, column), number in np.ndenumerate(shown):
        ax.text(
            column,
            row,
            short(number, norm) if legal[row, column] else "illegal",
            color=ink_on(pixels[row, column]),
            fontsize=8,
            ha="center",
            va="center",
            fontweight="bold" if bold[row, column] else "normal",
        )
    ax.set_xticks(range(len(names)), names, rotation=0 if max(map(len, names)) < 10 else 30)
    ax.set_yticks(range(len(labels)), labels)
    ax.xaxis.tick_top()
    ax.grid(False)
    ax.axvline(0.5, color="white", linewidth=4)
    ax.spines[:].set_visible(False)
    return colors


def blackjack(solution: Solution, out: Path | str, heading: str = "Blackjack") -> Path:
    """Draw value and policy of Blackjack: the player's sum over the dealer's card, with and without a usable
    ace.

    The states are those of `Tuple(Discrete(32), Discrete(11), Discrete(2))` in row-major order; action 0
    sticks, 1 hits.

    Args:
        solution: of Blackjack.
        out: `.png`, `.svg` or `.pdf`.
        heading: above both panels.

    Returns:
        `out`.

    Source: Sutton and Barto 2018, figure 5.2.
    """
    out = checked_path(out)
    value, _, policy = first_step(solution)
    sums, cards = range(12, 22), range(1, 11)
    values = value.reshape(BLACKJACK)[12:22, 1:11]  # [sum, card, ace]
    hits = policy[:, 1].reshape(BLACKJACK)[12:22, 1:11] > 0.5
    norm = scale(values)
    with figure_in_style((10.6, 5.4), "light") as figure:
        figure.suptitle(heading, x=0.015, ha="left", fontsize=11, fontweight="bold")
        axes = figure.subplots(1, 2)
        for ax, ace, name in ((axes[0], 1, "Usable ace"), (axes[1], 0, "No usable ace")):
            colors = _draw_hands(ax, values[..., ace], hits[..., ace], norm)
            ax.set(title=name, xlabel="Dealer shows", ylabel="Player's sum")
            ax.set_xticks(range(10), ["A", *map(str, cards[1:])])
            ax.set_yticks(range(10), map(str, sums))
        color_bar(axes[1], colors, _unit(solution), 4.5)
        save(figure, out)
    return out


def _draw_hands(ax: "Axes", values: Floats, hits: NDArray[np.bool_], norm: "Normalize") -> "ScalarMappable":
    """Draw the value and the action of each hand, and a line between hands that hit and hands that stick."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection

    colors = ScalarMappable(norm, COLORS)
    pixels = colors.to_rgba(values)
    ax.imshow(pixels, origin="lower")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(values):
        text = f"{short(value, norm, 2)}\n{'hit' if hits[row, column] else 'stick'}"
        ax.text(
            column,
            row,
            text,
            color=ink_on(pixels[row, column]),
            fontsize=6.5,
            ha="center",
            va="center",
            linespacing=1.3,
        )
    lines = [((c - 0.5, r + 0.5), (c + 0.5, r + 0.5)) for r, c in np.argwhere(hits[1:] != hits[:-1])]
    lines += [((c + 0.5, r - 0.5), (c + 0.5, r + 0.5)) for r, c in np.argwhere(hits[:, 1:] != hits[:, :-1])]
    for width, color in ((4.5, "white"), (2.2, INK["light"].lines[1])):
        ax.add_collection(LineCollection(lines, linewidths=width, colors=color, capstyle="round"))
    return colors
