"""Pictures of learned tables: where greedy policies go, and when each pair became known."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from bellgrad.core.errors import UsageError
from bellgrad.mdp.model import FiniteMDP, Floats, Ints
from bellgrad.report.figures import INK, checked_path, figure_in_style, save
from bellgrad.report.finite.grid import (
    COLORS,
    FLOOR,
    SIDES,
    color_bar,
    draw_floor,
    draw_path,
    draw_triangles,
    panel,
    scale,
)
from bellgrad.report.finite.shown import action_labels, digits, first_states, kinds, moves, state_labels
from bellgrad.report.tables import plain_name, short_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

TABLE_ROWS = 24  # states of an MDP that is not a grid; of a larger one the first ones are drawn


def paths(mdp: FiniteMDP, tables: Mapping[str, ArrayLike], out: Path | str) -> Path:
    """Draw side by side the paths of greedy policies from the start, each step by its likeliest outcome.

    Args:
        mdp: with a grid.
        tables: by name, tables `[S, A]` of Q or of a policy's probabilities.
        out: `.png`, `.svg` or `.pdf`.

    Returns:
        `out`.

    Raises:
        UsageError: the MDP has no grid, there is no table, or one has a wrong shape.
    """
    out = checked_path(out)
    if mdp.grid is None:
        raise UsageError("paths are drawn on a grid, and this MDP has none")
    if not tables:
        raise UsageError("there is no table to draw the path of")
    shape = (mdp.num_states, mdp.num_actions)
    for name, table in tables.items():
        if np.shape(table) != shape:
            raise UsageError(f"the table of {name} has shape {np.shape(table)}; expected [S, A] = {shape}")
    what, size = kinds(mdp), panel(mdp, 5.2)
    wide = mdp.grid[1] > 2 * mdp.grid[0]
    rows, columns = (len(tables), 1) if wide else (1, len(tables))
    with figure_in_style((columns * (size.width + 0.3), rows * (size.height + 0.5) + 0.2), "light") as figure:
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for number, (ax, (name, table)) in enumerate(zip(axes, tables.items(), strict=True)):
            states, total, ended = _walk(mdp, np.asarray(table, float))
            draw_floor(ax, mdp, what, size.cell)
            draw_path(ax, mdp, states, INK["light"].lines[number % len(INK["light"].lines)], size.cell)
            steps = len(states) - 1
            words = (
                f"{steps} steps, return {digits(total)}".replace("-", "\N{MINUS SIGN}")
                if ended
                else "never arrives"
            )
            ax.set_title(f"{plain_name(name)}: {words}")
        save(figure, out)
    return out


def _walk(mdp: FiniteMDP, table: Floats) -> tuple[list[int], float, bool]:
    """The states that the best actions visit, the sum of their rewards, and whether the episode ended."""
    best = np.where(mdp.legal, table, -np.inf).argmax(axis=1)
    states, total = [int(mdp.initial.argmax())], 0.0
    while len(states) <= mdp.num_states:  # a longer walk has been in some state twice: it goes round forever
        pair = states[-1] * mdp.num_actions + best[states[-1]]
        first, last = mdp.offset[pair], mdp.offset[pair + 1]
        outcome = first + int(mdp.probability[first:last].argmax())
        states.append(int(mdp.next_state[outcome]))
        total += float(mdp.reward[outcome])
        if mdp.terminated[outcome]:
            return states, total, True
    return states, total, False


def known_over_time(mdp: FiniteMDP, known: ArrayLike, out: Path | str) -> Path:
    """Draw when each state-action pair became known to R-max, and how many pairs were known over time.

    Args:
        mdp: with or without a grid.
        known: `[S, A]` the environment step at which the pair became known; -1 if it never did.
        out: `.png`, `.svg` or `.pdf`.

    Returns:
        `out`.

    Raises:
        UsageError: a wrong shape, or nothing is known.
    """
    out = checked_path(out)
    since = np.asarray(known)
    if since.shape != (mdp.num_states, mdp.num_actions):
        raise UsageError(
            f"known has shape {since.shape}; expected [S, A] = {(mdp.num_states, mdp.num_actions)}"
        )
    if not (since >= 0).any():
        raise UsageError("nothing to draw: no pair is known")
    directions = moves(mdp)
    on_grid = mdp.grid is not None and directions is not None and set(directions) <= SIDES.keys()
    states = first_states(mdp, TABLE_ROWS)
    pairs = int(mdp.legal[kinds(mdp).open].sum())
    width, height = panel(mdp, 4.8)[1:] if on_grid else (0.6 * mdp.num_actions + 1.2, 0.24 * len(states))
    with figure_in_style((width + 5.4, max(height + 0.9, 3.2)), "light") as figure:
        left, right = figure.subplots(1, 2, width_ratios=[width + 1, 4.0])
        colors = (
            _draw_grid_known(left, mdp, since) if on_grid else _draw_table_known(left, mdp, since, states)
        )
        color_bar(left, colors, "Known since step", width)
        left.set_title("Gray: not known")
        steps = np.sort(since[since >= 0])
        right.step([0, *steps], range(len(steps) + 1), where="post", color=INK["light"].lines[0])
        right.axhline(pairs, color=INK["light"].quiet, linestyle=":", linewidth=1.2)
        right.xaxis.set_major_formatter(short_count)
        right.set(
            title=f"{len(steps):,} of {pairs:,} pairs known", xlabel="Environment steps", ylabel="Known pairs"
        )
        save(figure, out)
    return out


def _draw_grid_known(ax: "Axes", mdp: FiniteMDP, since: Ints) -> "ScalarMappable":
    """Draw a triangle for each pair that is known."""
    from matplotlib.cm import ScalarMappable

    what = kinds(mdp)
    colors = ScalarMappable(scale(since[since >= 0].astype(float)), COLORS)
    drawn = what.open[:, None] & (since >= 0)
    draw_triangles(ax, mdp, what, drawn, colors.to_rgba(since[drawn]), panel(mdp, 4.8).cell)
    return colors


def _draw_table_known(ax: "Axes", mdp: FiniteMDP, since: Ints, states: Ints) -> "ScalarMappable":
    """Draw a cell for each pair of some states."""
    ax.set_facecolor(FLOOR)
    norm = scale(since[since >= 0].astype(float))
    image = ax.imshow(np.ma.masked_less(since[states], 0), cmap=COLORS, norm=norm, aspect="auto")
    ax.set_xticks(range(mdp.num_actions), action_labels(mdp), rotation=30 if mdp.action_names else 0)
    ax.set_yticks(range(len(states)), state_labels(mdp, states))
    ax.grid(False)
    return image
