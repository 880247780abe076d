"""A solved MDP as text for a terminal."""

import numpy as np

from bellgrad.mdp.model import FiniteMDP, Floats
from bellgrad.mdp.solution import Solution
from bellgrad.report.finite.shown import (
    action_labels,
    choices,
    digits,
    first_states,
    first_step,
    how_solved,
    kinds,
    moves,
    rounded,
    state_labels,
    value_at_start,
)
from bellgrad.report.tables import markdown_table

MAX_ROWS = 20  # states in a table; of a larger MDP the first ones are shown
MAX_ACTIONS = 6  # columns of Q; the column of the policy names the other actions too
MAX_GRID = (40, 120)  # rows of a grid, characters in a line
ARROWS = {
    (-1, 0): "←",
    (1, 0): "→",
    (0, -1): "↑",
    (0, 1): "↓",
    (-1, -1): "↖",
    (1, -1): "↗",
    (-1, 1): "↙",
    (1, 1): "↘",
    (0, 0): "·",
}


def solution_text(mdp: FiniteMDP, solution: Solution) -> str:
    """A solution for a terminal: its accuracy, then a small grid cell by cell, or a table of states.

    Args:
        mdp: what was solved.
        solution: with a horizon, its first step is shown.

    Returns:
        Several lines, without a line break at the end.
    """
    value, q, policy = first_step(solution)
    ended = "converged" if solution.converged else "NOT converged"
    lines = [
        (
            f"{how_solved(solution)}: {ended} after {solution.iterations:,}"
            f" iteration{'s' * (solution.iterations != 1)}"
        ),
        f"residual {solution.residual:.3g}, error at most {solution.error_bound:.3g}",
    ]
    if solution.note:
        lines.append(solution.note)
    if solution.gain is not None:
        lines.append(f"gain {digits(solution.gain)} per step")
    lines.append(
        f"value {digits(value_at_start(mdp, value))} at the start, {digits(np.nanmin(value))} to"
        f" {digits(np.nanmax(value))} over {mdp.num_states:,} states with {mdp.num_actions:,} actions"
    )
    return "\n".join(
        [*lines, "", _grid(mdp, value, policy) or _table(mdp, value, q, policy, solution.residual)]
    )


def _grid(mdp: FiniteMDP, value: Floats, policy: Floats) -> str:
    """Value and arrows of every cell; empty without a grid of several rows, without directions, or without
    room."""
    directions = moves(mdp)
    if (
        mdp.grid is None
        or directions is None
        or not 2 <= mdp.grid[0] <= MAX_GRID[0]
        or 5 * mdp.grid[1] > MAX_GRID[1]
    ):
        return ""
    what, chosen = kinds(mdp), choices(policy)
    texts = []
    for state, letter in enumerate(what.letter):
        if what.wall[state]:
            texts.append("█")
        elif not what.open[state]:
            texts.append(letter or "-")
        else:
            best = "".join(ARROWS[directions[a]] for a in np.flatnonzero(chosen[state]))
            texts.append(f"{letter} {digits(value[state])} {best}".lstrip())
    width = max(map(len, texts))
    rows, columns = mdp.grid
    if columns * (width + 2) > MAX_GRID[1]:
        return ""
    return "\n".join(
        "  ".join(text.rjust(width) for text in texts[row * columns : (row + 1) * columns])
        for row in range(rows)
    )


def _table(mdp: FiniteMDP, value: Floats, q: Floats, policy: Floats, residual: float) -> str:
    """V, Q, the advantage A = Q - V if there are few actions, and the policy, state by state."""
    names = action_labels(mdp)
    states = first_states(mdp, MAX_ROWS)
    chosen = choices(policy)
    rows = []
    for state, label in zip(states, state_labels(mdp, states), strict=True):
        row = {"state": label, "V": rounded(value[state])}
        row |= {f"Q({name})": rounded(q[state, a]) for a, name in enumerate(names[:MAX_ACTIONS])}
        if len(names) <= 3:
            advantage = q[state] - value[state]
            advantage[np.abs(advantage) <= residual] = 0  # that of a best action is only its state's residual
            row |= {f"A({name})": rounded(advantage[a]) for a, name in enumerate(names)}
        row["policy"] = ", ".join(names[a] for a in np.flatnonzero(chosen[state]))
        rows.append(row)
    text = markdown_table(rows, list(rows[0])).rstrip("\n")
    return (
        text if len(states) == mdp.num_states else f"{text}\nand {mdp.num_states - len(states):,} more states"
    )
