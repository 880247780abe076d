"""What text and pictures both show of a finite MDP and its solution."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from bellgrad.mdp.model import FiniteMDP, Floats, Ints
from bellgrad.mdp.solution import Solution
from bellgrad.report.tables import format_value, plain_name

# The names of actions that are moves on a grid, as (cells to the right, cells down).
MOVES = {
    "left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "stay": (0, 0),
    "l": (-1, 0), "r": (1, 0), "u": (0, -1), "d": (0, 1),
    "west": (-1, 0), "east": (1, 0), "north": (0, -1), "south": (0, 1),
    "up left": (-1, -1), "up right": (1, -1), "down left": (-1, 1), "down right": (1, 1),
}  # fmt: skip
# Names that are not written into a cell: of floor, and of walls, which are drawn.
PLAIN = {"", " ", ".", "F", "#"}


class FirstStep(NamedTuple):
    """The first step of a solution; without a horizon all steps are the same."""

    value: Floats  # [S]; the relative value if the criterion is the average reward
    q: Floats  # [S, A], -inf for an illegal action
    policy: Floats  # [S, A]


def first_step(solution: Solution) -> FirstStep:
    """The value, the Q table and the policy of a solution at step 0."""
    if solution.horizon is not None:
        return FirstStep(solution.value[0], solution.q[0], solution.policy[0])
    return FirstStep(solution.value if solution.bias is None else solution.bias, solution.q, solution.policy)


def value_at_start(mdp: FiniteMDP, value: Floats) -> float:
    """The mean of `value [S]` over the first state; it may be NaN in states that are never reached."""
    starts = mdp.initial > 0
    return float(mdp.initial[starts] @ value[starts])


def choices(policy: Floats) -> NDArray[np.bool_]:
    """`[S, A]` the most likely actions."""
    return policy >= policy.max(axis=1, keepdims=True) - 1e-9


def how_solved(solution: Solution) -> str:
    """The method and the criterion: `policy_iteration, discounted, gamma 0.99`."""
    parts = [solution.method, "average reward" if solution.criterion == "average" else solution.criterion]
    if solution.criterion == "discounted":
        parts.append(f"gamma {solution.gamma:g}")
    if solution.horizon is not None:
        parts.append(f"the first of {solution.horizon} steps")
    return ", ".join(parts)


def moves(mdp: FiniteMDP) -> list[tuple[int, int]] | None:
    """`[A]` the direction of each action, from its name; None if a name is not a direction."""
    found = [MOVES.get(name.lower()) for name in mdp.action_names or ("",)]
    return None if None in found else found


def action_labels(mdp: FiniteMDP) -> tuple[str, ...]:
    """`[A]` names if these are all different; otherwise numbers and names."""
    return _labels(mdp.action_names, range(mdp.num_actions))


def first_states(mdp: FiniteMDP, number: int) -> Ints:
    """All states if there are at most `number`; otherwise the first of those that are open (see `Kinds`)."""
    if mdp.num_states <= number:
        return np.arange(mdp.num_states)
    return np.flatnonzero(kinds(mdp).open)[:number]


def state_labels(mdp: FiniteMDP, states: Ints) -> list[str]:
    """The names of some states if these are all different; otherwise their numbers and names."""
    return list(_labels(mdp.state_names, states))


def _labels(names: tuple[str, ...] | None, numbers: Iterable[int]) -> tuple[str, ...]:
    """The names with these numbers, each with its number if that is needed to tell them apart."""
    numbers = list(numbers)
    found = [plain_name(names[number]) if names else "" for number in numbers]
    if len(set(found)) == len(found) and all(found):
        return tuple(found)
    return tuple(f"{number} {name}".rstrip() for number, name in zip(numbers, found, strict=True))


def rounded(value: float) -> float | None:
    """Without the noise of its last bits; None, which is shown as a dash, for an illegal action."""
    return round(float(value), 9) + 0.0 if np.isfinite(value) else None


def digits(value: float) -> str:
    """A value as text."""
    return format_value(rounded(value))


@dataclass(frozen=True)
class Kinds:
    """The kind of each state. All `[S]`; a state is at most one of `wall`, `end` and `unreached`.

    Attributes:
        wall: named `#`.
        end: no more reward can be gained there.
        unreached: no path leads there from any state in which episodes begin.
        letter: what is written into its cell of a grid; empty for plain floor.
    """

    wall: NDArray[np.bool_]
    end: NDArray[np.bool_]
    unreached: NDArray[np.bool_]
    letter: tuple[str, ...]

    @property
    def open(self) -> NDArray[np.bool_]:
        """The states in which there is something to decide."""
        return ~(self.wall | self.end | self.unreached)


def kinds(mdp: FiniteMDP) -> Kinds:
    """The kind of each state, from its outcomes and its name."""
    source = np.repeat(np.arange(mdp.num_states), np.diff(mdp.offset[:: mdp.num_actions]))
    goes = (mdp.next_state != source) & (mdp.probability > 0)
    reached = _reached(mdp, source, goes & ~mdp.terminated)
    ended = np.zeros(mdp.num_states, bool)
    ended[mdp.next_state[goes & mdp.terminated]] = True
    alive = np.zeros(mdp.num_states, bool)
    alive[source[(mdp.probability > 0) & ((mdp.reward != 0) | (goes & ~mdp.terminated))]] = True
    names = mdp.state_names or ("",) * mdp.num_states
    wall = np.array([name == "#" for name in names])
    end = (~alive | (ended & ~reached)) & ~wall
    single_start = np.count_nonzero(mdp.initial) == 1
    letters = tuple(
        ""
        if name in PLAIN and not (starts and single_start)
        else plain_name(name)[:1]
        if name not in PLAIN
        else "S"
        for name, starts in zip(names, mdp.initial > 0, strict=True)
    )
    return Kinds(wall, end, ~(reached | wall | end), letters)


def _reached(mdp: FiniteMDP, source: Ints, goes: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """`[S]` whether an episode can get there without ending, from any of its start states."""
    starts = np.flatnonzero(mdp.initial > 0)
    before = mdp.num_states  # an extra node, one step before every start
    tails = np.concatenate([source[goes], np.full(len(starts), before)])
    heads = np.concatenate([mdp.next_state[goes], starts])
    graph = sparse.csr_array((np.ones(len(tails), np.int8), (tails, heads)), shape=(before + 1, before + 1))
    reached = np.zeros(before + 1, bool)
    reached[csgraph.breadth_first_order(graph, before, return_predecessors=False)] = True
    return reached[:-1]
