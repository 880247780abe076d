"""A grid of states, drawn on axes: colors for the value, arrows for the policy, triangles for Q."""

import math
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bellgrad.mdp.model import FiniteMDP, Floats
from bellgrad.report.figures import INK
from bellgrad.report.finite.shown import Kinds, choices, moves
from bellgrad.report.tables import format_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

COLORS = "viridis"  # perceptually uniform, and readable with any common color blindness
WALL, END, UNREACHED, FLOOR = "#4a5058", "#ffffff", "#c4c9cf", "#e7eaee"
ARROWS_ACROSS = 30  # in a larger grid, only every n-th cell has an arrow
NUMBERS_FROM = 0.5  # inches: in a cell of this size or larger, a number can be read
LINES_FROM = 0.12  # inches: between cells of this size or larger, lines are drawn
SIDES = {
    (-1, 0): ((-0.5, 0.5), (-0.5, -0.5)),
    (1, 0): ((0.5, -0.5), (0.5, 0.5)),
    (0, -1): ((-0.5, -0.5), (0.5, -0.5)),
    (0, 1): ((0.5, 0.5), (-0.5, 0.5)),
}


class Panel(NamedTuple):
    """The size of a grid in a figure, in inches."""

    cell: float
    width: float
    height: float


def panel(mdp: FiniteMDP, largest: float = 6.4) -> Panel:
    """Cells as large as a panel of at most `largest` inches permits, and at most 0.8 inches."""
    rows, columns = mdp.grid
    cell = min(0.8, largest / columns, largest / rows)
    return Panel(cell, cell * columns, cell * rows)


def scale(values: Floats) -> "Normalize":
    """A color scale from the smallest to the largest of the values, which may be equal."""
    from matplotlib.colors import Normalize

    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return Normalize(low, high if high > low else low + max(abs(low), 1.0) * 1e-9)


def ink_on(colors: NDArray) -> NDArray:
    """`[..., 4]` a dark or a light color, which can be read on `colors [..., 4]`."""
    from matplotlib.colors import to_rgba

    bright = colors[..., :3] @ (0.299, 0.587, 0.114) > 0.5
    return np.where(bright[..., None], to_rgba("#14171a"), to_rgba("#ffffff"))


def short(value: float, norm: "Normalize", digits: int = 3) -> str:
    """A number for a cell, with as many decimals as give `digits` digits to the scale's largest number."""
    largest = max(abs(norm.vmin), abs(norm.vmax))
    decimals = max(0, digits - 1 - math.floor(math.log10(largest))) if largest else 0
    text = f"{round(float(value), decimals) + 0.0:.{decimals}f}"
    return (text.split(".")[0] if float(text).is_integer() else text).replace("-", "\N{MINUS SIGN}")


def color_bar(ax: "Axes", colors: "ScalarMappable", label: str, width: float) -> None:
    """A color bar to the right of axes that are `width` inches wide, exactly as high as they are."""
    bar = ax.figure.colorbar(colors, cax=ax.inset_axes((1 + 0.12 / width, 0, 0.16 / width, 1)), label=label)
    bar.ax.yaxis.set_major_formatter(
        lambda value, _position: format_number(value).replace("-", "\N{MINUS SIGN}")
    )
    bar.outline.set_visible(False)


def draw_values(
    ax: "Axes",
    mdp: FiniteMDP,
    what: Kinds,
    value: Floats,
    policy: Floats | None,
    norm: "Normalize",
    cell: float,
) -> "ScalarMappable":
    """Draw a cell for each state in the color of its value, with a number if it can be read, and the arrows.

    Args:
        ax: where to draw; one unit is a cell.
        mdp: with a grid.
        what: `kinds(mdp)`.
        value: `[S]`.
        policy: `[S, A]`, or None for no arrows.
        norm: the color scale.
        cell: the side of a cell, in inches.

    Returns:
        The colors, for a color bar.
    """
    from matplotlib.cm import ScalarMappable

    colors = ScalarMappable(norm, COLORS)
    pixels = colors.to_rgba(value)
    draw_floor(ax, mdp, what, cell, pixels)
    numbers = cell >= NUMBERS_FROM
    directions = moves(mdp) if policy is not None else None
    if directions is not None:
        _arrows(ax, mdp, what, policy, directions, ink_on(pixels), lift=0.13 if numbers else 0.0)
    if numbers:
        below = 0.33 if directions is not None else 0.0
        for state in np.flatnonzero(what.open):
            row, column = divmod(int(state), mdp.grid[1])
            ax.text(
                column,
                row + below,
                short(value[state], norm),
                color=ink_on(pixels[state]),
                fontsize=10 * cell,
                ha="center",
                va="center",
            )
    return colors


def draw_q(
    ax: "Axes", mdp: FiniteMDP, what: Kinds, q: Floats, norm: "Normalize", cell: float
) -> "ScalarMappable":
    """Draw four triangles in each cell, one per direction, in the color of its Q; the best number is bold.

    Args:
        ax: where to draw; one unit is a cell.
        mdp: with a grid and actions that move to the four sides of a cell.
        what: `kinds(mdp)`.
        q: `[S, A]`; -inf leaves the triangle out.
        norm: the color scale.
        cell: the side of a cell, in inches.

    Returns:
        The colors, for a color bar.
    """
    from matplotlib.cm import ScalarMappable

    colors = ScalarMappable(norm, COLORS)
    drawn = what.open[:, None] & np.isfinite(q)
    shown = colors.to_rgba(q[drawn])
    centers = draw_triangles(ax, mdp, what, drawn, shown, cell)
    if cell >= 1.4 * NUMBERS_FROM:
        weights = np.where(choices(q)[drawn], "bold", "normal")
        for number, (x, y), ink, weight in zip(q[drawn], centers, ink_on(shown), weights, strict=True):
            ax.text(
                x,
                y,
                short(number, norm),
                color=ink,
                fontsize=7.8 * cell,
                ha="center",
                va="center",
                fontweight=weight,
            )
    return colors


def draw_triangles(
    ax: "Axes", mdp: FiniteMDP, what: Kinds, drawn: NDArray[np.bool_], colors: NDArray, cell: float
) -> NDArray:
    """Draw a triangle at its side of the cell for each pair in `drawn [S, A]`, in the colors `[n, 4]`.

    Returns:
        `[n, 2]` the places for their numbers.
    """
    from matplotlib.collections import PolyCollection

    draw_floor(ax, mdp, what, cell)
    state, action = np.nonzero(drawn)
    directions = moves(mdp)
    sides = np.array([((0, 0), *SIDES[direction]) for direction in directions])  # [A, 3, 2]
    centers = np.stack([state % mdp.grid[1], state // mdp.grid[1]], axis=1)
    corners = sides[action] + centers[:, None]
    ax.add_collection(
        PolyCollection(corners, facecolors=colors, edgecolors="white", linewidths=min(0.8, cell), zorder=2)
    )
    return centers + 0.31 * np.array(directions)[action]


def draw_path(ax: "Axes", mdp: FiniteMDP, states: list[int], color: str, cell: float) -> None:
    """Draw a line through the states, with a dot at its start and an arrowhead at each step that moves."""
    from matplotlib.patches import FancyArrowPatch

    points = np.array([(state % mdp.grid[1], state // mdp.grid[1]) for state in states], float)
    for start, end in pairwise(points):
        if (start != end).any():
            ax.add_patch(
                FancyArrowPatch(
                    start,
                    end,
                    arrowstyle="-|>",
                    mutation_scale=20 * cell,
                    linewidth=4 * cell,
                    color=color,
                    shrinkA=0,
                    shrinkB=0,
                    zorder=4,
                )
            )
    ax.plot(*points[0], "o", markersize=10 * cell, color=color, zorder=5)


def draw_floor(ax: "Axes", mdp: FiniteMDP, what: Kinds, cell: float, pixels: NDArray | None = None) -> None:
    """Draw the cells in their colors `[S, 4]`, or pale, then the letters.

    Walls and cells that are never reached are gray, ends white.
    """
    from matplotlib.colors import to_rgba
    from matplotlib.patheffects import withStroke

    rows, columns = mdp.grid
    pixels = np.full((mdp.num_states, 4), to_rgba(FLOOR)) if pixels is None else pixels.copy()
    for mask, color in ((what.wall, WALL), (what.end, END), (what.unreached, UNREACHED)):
        pixels[mask] = to_rgba(color)
    ax.imshow(pixels.reshape(rows, columns, 4), extent=(-0.5, columns - 0.5, rows - 0.5, -0.5), zorder=0)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    for side in ax.spines.values():
        side.set(visible=True, color=INK["light"].quiet, linewidth=0.8)
    if cell >= LINES_FROM:
        style = {"colors": "white", "linewidths": min(0.8, 2 * cell), "zorder": 1}
        ax.hlines(np.arange(1, rows) - 0.5, -0.5, columns - 0.5, **style)
        ax.vlines(np.arange(1, columns) - 0.5, -0.5, rows - 0.5, **style)
    written = [state for state, letter in enumerate(what.letter) if letter]
    if cell >= 0.2:
        style = {
            "fontsize": 14 * cell,
            "fontweight": "bold",
            "path_effects": [withStroke(linewidth=3 * cell, foreground="white")],
        }
        for state in written:
            row, column = divmod(state, columns)
            place = (
                (column - 0.43, row - 0.43, "left", "top")
                if what.open[state]
                else (column, row, "center", "center_baseline")
            )
            ax.text(*place[:2], what.letter[state], ha=place[2], va=place[3], zorder=6, **style)
    elif len(written) <= ARROWS_ACROSS:  # the cells are too small for letters, so these are in boxes
        for state in written:
            row, column = divmod(state, columns)
            box = {
                "boxstyle": "round,pad=0.2",
                "facecolor": "white",
                "edgecolor": INK["light"].text,
                "linewidth": 0.8,
            }
            ax.text(
                column,
                row,
                what.letter[state],
                fontsize=7,
                fontweight="bold",
                ha="center",
                va="center",
                bbox=box,
                zorder=6,
                clip_on=False,
            )


def arrow_stride(mdp: FiniteMDP) -> int:
    """n, if only every n-th cell in each direction has arrows, so that they are large enough to see."""
    return math.ceil(max(mdp.grid) / ARROWS_ACROSS)


def _arrows(
    ax: "Axes",
    mdp: FiniteMDP,
    what: Kinds,
    policy: Floats,
    directions: list[tuple[int, int]],
    inks: NDArray,
    lift: float,
) -> None:
    """Draw an arrow for each action, its length in proportion to the probability; a dot for staying."""
    rows, columns = mdp.grid
    stride = arrow_stride(mdp)
    sampled = np.zeros((rows, columns), bool)
    sampled[stride // 2 :: stride, stride // 2 :: stride] = True
    state, action = np.nonzero((policy > 1e-9) & (what.open & sampled.ravel())[:, None])
    length = 0.36 * stride * policy[state, action] / policy[state].max(axis=1)
    towards = np.array(directions, float)[action] * length[:, None]
    x, y = (state % columns).astype(float), state // columns - lift
    alone = np.count_nonzero(policy[state] > 1e-9, axis=1) == 1  # a single arrow is in the middle of its cell
    x, y = x - np.where(alone, towards[:, 0] / 2, 0), y - np.where(alone, towards[:, 1] / 2, 0)
    ax.quiver(
        x,
        y,
        towards[:, 0],
        towards[:, 1],
        color=inks[state],
        angles="xy",
        scale_units="xy",
        scale=1,
        units="xy",
        width=0.055 * stride,
        headwidth=3.6,
        headlength=3.6,
        headaxislength=3.2,
        minshaft=1.2,
        zorder=3,
    )
