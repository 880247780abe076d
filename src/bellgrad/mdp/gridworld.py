"""Grid worlds from text maps: walls, slippery ground, wind, rewards, cells that end the episode and cells
that lead back to the start."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bellgrad.core.errors import UsageError, unknown
from bellgrad.mdp.build import Outcomes, index_type, offsets
from bellgrad.mdp.checks import as_numbers, number
from bellgrad.mdp.model import FiniteMDP, check_fields

# Clockwise, so that a turn of 90 degrees is a quarter of the list: (name, rows down, columns right).
MOVES = {
    "four": (("up", -1, 0), ("right", 0, 1), ("down", 1, 0), ("left", 0, -1)),
    "king": (
        ("up", -1, 0), ("up right", -1, 1), ("right", 0, 1), ("down right", 1, 1),
        ("down", 1, 0), ("down left", 1, -1), ("left", 0, -1), ("up left", -1, -1),
    ),
}  # fmt: skip


def gridworld(
    text_map: str | Sequence[str],
    *,
    slip: float = 0.0,
    wind: Sequence[int] | None = None,
    stochastic_wind: bool = False,
    moves: Literal["four", "king"] = "four",
    step_reward: float = 0.0,
    rewards: Mapping[str, float] | None = None,
    start: str = "S",
    floor: str = ".",
    terminal: str = "G",
    walls: str = "#",
    restart: str = "X",
    **other_fields: Any,
) -> FiniteMDP:
    """The MDP of a map in which each letter is a cell. States are all cells, row by row, including walls.

    With the maps of `bellgrad.mdp.examples`, cliff walking is `gridworld(CLIFF, step_reward=-1, rewards={"X":
    -100})`, and the windy grid `gridworld(WINDY, wind=[0, 0, 0, 1, 1, 1, 2, 2, 1, 0], step_reward=-1,
    rewards={})`.

    A step goes to the neighbor cell, is moved by the wind of the column that it leaves, and is then clipped
    to the grid; if that leads to a wall, the agent stays where it was. The reward is that of the cell it
    reaches. Terminal cells and walls lead to themselves, at reward 0, and end the episode.

    Args:
        text_map: lines of equal length, or one text of them; spaces around a line are ignored.
        slip: probability of going to the right or left of the chosen direction instead, half of it for each.
        wind: for each column, the number of rows by which the wind moves the agent upwards.
        stochastic_wind: whether wind is stronger or weaker by one row, with probability 1/3 each.
        moves: `four`: up, right, down, left; `king`: those and the diagonals, clockwise from up.
        step_reward: reward for reaching any cell that is not in `rewards`.
        rewards: reward for reaching a cell, by letter; None is `{"G": 1.0}`.
        start: letters of the cells in which episodes begin, with equal probability. If the map has none,
            they begin in any cell except walls, restarts and terminals.
        floor: letters of ordinary cells.
        terminal: letters whose cells end the episode.
        walls: letters that cannot be entered.
        restart: letters whose cells lead back to the start; there must then be exactly one start.
        other_fields: other fields of `FiniteMDP`, such as `max_episode_steps`, or other names.

    Raises:
        UsageError: the lines differ in length, a letter is unknown, a reward is for a letter that is not on
            the map, the wind is not one number per column, or slip is outside [0, 1].

    Source: Sutton and Barto 2018, examples 3.5, 6.5 and 6.6, exercises 6.9 and 6.10 (king's moves, stochastic
    wind).
    """
    if moves not in tuple(MOVES):
        raise unknown("set of moves", str(moves), MOVES)
    slip, step_reward = number("slip", slip), number("step_reward", step_reward)
    if not 0 <= slip <= 1:
        raise UsageError(f"slip = {slip} is out of range [0, 1]")
    kinds = {"start": start, "floor": floor, "terminal": terminal, "walls": walls, "restart": restart}
    for name, kind in kinds.items():
        if not isinstance(kind, str):
            raise UsageError(f"{name} = {kind!r} must be letters, as one text")
    if rewards is not None and not isinstance(rewards, Mapping):
        raise UsageError(f"rewards = {rewards!r} must be a dictionary from a letter to its reward")
    check_fields(other_fields)
    given, rewards = rewards, {"G": 1.0} if rewards is None else rewards
    if not all(isinstance(letter, str) for letter in rewards):
        raise UsageError(f"the keys of rewards must be letters, got {', '.join(map(repr, rewards))}")
    letters = _letters(text_map, {*start, *floor, *terminal, *walls, *restart, *rewards})
    rows, columns = letters.shape
    absent = [letter for letter in given or () if letter not in set(letters.ravel().tolist())]
    if absent:
        raise UsageError(
            f"rewards has {', '.join(map(repr, absent))}, which is not on the map; on it are"
            f" {' '.join(sorted(set(letters.ravel().tolist())))}"
        )
    strength = np.zeros(columns, int) if wind is None else as_numbers("wind", wind)
    if strength.shape != (columns,) or not np.issubdtype(strength.dtype, np.integer):
        raise UsageError(f"wind must be one integer for each of {columns} columns, got {wind}")
    if stochastic_wind and not strength.any():
        raise UsageError("stochastic_wind needs a wind")
    flat = letters.ravel()
    is_wall, is_terminal, is_restart = (np.isin(flat, list(kind)) for kind in (walls, terminal, restart))
    begins = np.isin(flat, list(start))
    if not begins.any():
        begins = ~(is_wall | is_terminal | is_restart)
    if not begins.any():
        raise UsageError("the map has no cell to start in")
    if is_restart.any() and begins.sum() != 1:
        raise UsageError(
            f"a map with restarts ({restart}) needs one start ({start}); this one has {begins.sum()}"
        )

    cell_reward = np.full(flat.size, float(step_reward))
    for letter, reward in rewards.items():
        cell_reward[flat == letter] = number(f"rewards[{letter!r}]", reward)

    cell = np.arange(flat.size, dtype=index_type(flat.size))
    row, column = np.divmod(cell, columns)
    wind_strength = strength.astype(cell.dtype)[column]
    stays = is_terminal | is_wall
    directions = MOVES[moves]
    quarter = len(directions) // 4
    turns = [(0, 1 - slip), (quarter, slip / 2), (-quarter, slip / 2)] if slip else [(0, 1.0)]
    # Variations of zero wind, and moves out of terminal cells and walls, have probability 0 and are left out.
    varies = np.where(wind_strength != 0, 1 / 3, 0.0)
    gusts = [(0, 1 - 2 * varies), (1, varies), (-1, varies)] if stochastic_wind else [(0, np.ones(flat.size))]

    shape = (flat.size, len(directions), len(turns) * len(gusts))
    probability, reward = np.empty(shape), np.empty(shape)
    next_state, terminated = np.empty(shape, cell.dtype), np.empty(shape, bool)
    for direction, (_, down, right) in enumerate(directions):
        for g, (gust, gust_probability) in enumerate(gusts):
            next_row = np.clip(row + down - wind_strength - gust, 0, rows - 1)
            landed = next_row * columns + np.clip(column + right, 0, columns - 1)
            landed = np.where(stays | is_wall[landed], cell, landed)
            next_cell = np.where(is_restart[landed], begins.argmax(), landed) if is_restart.any() else landed
            for t, (turn, turn_probability) in enumerate(turns):
                action, k = (direction - turn) % len(directions), t * len(gusts) + g
                probability[:, action, k] = np.where(
                    stays, float(k == 0), turn_probability * gust_probability
                )
                next_state[:, action, k] = next_cell
                reward[:, action, k] = np.where(stays, 0.0, cell_reward[landed])
                terminated[:, action, k] = is_terminal[landed] | stays
    happens = probability > 0
    outcomes = Outcomes(
        offsets(happens.sum(axis=2).ravel()),
        probability[happens],
        next_state[happens],
        reward[happens],
        terminated[happens],
    )
    return FiniteMDP(
        len(directions),
        *outcomes._replace(next_state=outcomes.next_state.astype(outcomes.offset.dtype, copy=False)),
        initial=begins / begins.sum(),
        **{
            "state_names": tuple(flat.tolist()),
            "action_names": tuple(name for name, _, _ in directions),
            "grid": (rows, columns),
        }
        | other_fields,
    )


def _letters(text_map: str | Sequence[str], known: set[str]) -> NDArray[np.str_]:
    """`[rows, columns]` the letters of the map."""
    rows = [text_map] if isinstance(text_map, str) else text_map
    if not isinstance(rows, Sequence | np.ndarray) or not all(isinstance(line, str) for line in rows):
        raise UsageError(
            f"a map is one text with several lines, or a list of lines of equal length; got"
            f" {type(text_map).__name__}"
        )
    lines = [
        line.strip() for line in (text_map.strip().splitlines() if isinstance(text_map, str) else text_map)
    ]
    if not lines or not lines[0]:
        raise UsageError("the map is empty")
    for index, line in enumerate(lines):
        if len(line) != len(lines[0]):
            raise UsageError(f"row {index} of the map has {len(line)} cells; row 0 has {len(lines[0])}")
    letters = np.array([list(line) for line in lines])
    unknown_letter = ~np.isin(letters, sorted(known))
    if unknown_letter.any():
        row, column = np.unravel_index(int(unknown_letter.argmax()), letters.shape)
        raise UsageError(
            f"row {row}, column {column} of the map is {str(letters[row, column])!r}; known:"
            f" {' '.join(sorted(known))}"
        )
    return letters
