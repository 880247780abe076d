"""What of a finite MDP and its solution is shown, in words and in pictures alike."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from bellgrad.mdp.model import FiniteMDP, Floats, Ints
from bellgrad.mdp.solution import Solution
from bellgrad.report.tables import format_value

# The names of actions that are moves on a grid: to the right and down in cells.
MOVES = {
    "left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "stay": (0, 0),
    "l": (-1, 0), "r": (1, 0), "u": (0, -1), "d": (0, 1),
    "west": (-1, 0), "east": (1, 0), "north": (0, -1), "south": (0, 1),
    "up left": (-1, -1), "up right": (1, -1), "down left": (-1, 1), "down right": (1, 1),
}  # fmt: skip
PLAIN = {
    "",
    " ",
    ".",
    "F",
    "#",
}  # letters of a map that need not be written into its cell: floor, and walls, which are drawn


class FirstStep(NamedTuple):
    """What a solution says of the first step; without a horizon every step is like it."""

    value: Floats  # [S]; the relative value where the criterion is the average reward
    q: Floats  # [S, A], -inf where the action is illegal
    policy: Floats  # [S, A]


def first_step(solution: Solution) -> FirstStep:
    """The value, the Q table and the policy of a solution at step 0."""
    if solution.horizon is not None:
        return FirstStep(solution.value[0], solution.q[0], solution.policy[0])
    return FirstStep(solution.value if solution.bias is None else solution.bias, solution.q, solution.policy)


def choices(policy: Floats) -> NDArray[np.bool_]:
    """`[S, A]` the actions that no other is likelier than."""
    return policy >= policy.max(axis=1, keepdims=True) - 1e-9


def how_solved(solution: Solution) -> str:
    """The method and what it maximized: `policy_iteration, discounted, gamma 0.99`."""
    parts = [solution.method, "average reward" if solution.criterion == "average" else solution.criterion]
    if solution.criterion == "discounted":
        parts.append(f"gamma {solution.gamma:g}")
    if solution.horizon is not None:
        parts.append(f"the first of {solution.horizon} steps")
    return ", ".join(parts)


def moves(mdp: FiniteMDP) -> list[tuple[int, int]] | None:
    """`[A]` where each action goes, as its name says; None where a name is no direction."""
    found = [MOVES.get(name.lower()) for name in mdp.action_names or ("",)]
    return None if None in found else found


def action_labels(mdp: FiniteMDP) -> tuple[str, ...]:
    """`[A]` names, or numbers where there are none."""
    return mdp.action_names or tuple(map(str, range(mdp.num_actions)))


def first_states(mdp: FiniteMDP, number: int) -> Ints:
    """Every state where there are no more than so many, else the first of those in which something is
    decided."""
    if mdp.num_states <= number:
        return np.arange(mdp.num_states)
    return np.flatnonzero(kinds(mdp).open)[:number]


def state_labels(mdp: FiniteMDP, states: Ints) -> list[str]:
    """The names of some states where these tell them apart, else their numbers, with the names that there
    are."""
    names = [mdp.state_names[state] for state in states] if mdp.state_names else [""] * len(states)
    if len(set(names)) == len(names):
        return names
    return [f"{state} {name}".rstrip() for state, name in zip(states, names, strict=True)]


def rounded(value: float) -> float | None:
    """Without the noise of its last bits; None, which is shown as a dash, for an action that is illegal."""
    return round(float(value), 9) + 0.0 if np.isfinite(value) else None


def digits(value: float) -> str:
    """A value for reading."""
    return format_value(rounded(value))


@dataclass(frozen=True)
class Kinds:
    """What each state is. All `[S]`; a state is at most one of `wall`, `end` and `unreached`.

    Attributes:
        wall: named `#`.
        end: nothing more is to be had there.
        unreached: no way leads there from where episodes begin.
        letter: what is written into its cell of a grid; empty for plain floor.
    """

    wall: NDArray[np.bool_]
    end: NDArray[np.bool_]
    unreached: NDArray[np.bool_]
    letter: tuple[str, ...]

    @property
    def open(self) -> NDArray[np.bool_]:
        """Where something is to be decided."""
        return ~(self.wall | self.end | self.unreached)


def kinds(mdp: FiniteMDP) -> Kinds:
    """What each state is, from its outcomes and from its name."""
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
        "" if name in PLAIN and not (starts and single_start) else name[0] if name not in PLAIN else "S"
        for name, starts in zip(names, mdp.initial > 0, strict=True)
    )
    return Kinds(wall, end, ~(reached | wall | end), letters)


def _reached(mdp: FiniteMDP, source: Ints, goes: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """`[S]` whether an episode can get there by outcomes that go on, from any of its starts."""
    starts = np.flatnonzero(mdp.initial > 0)
    before = mdp.num_states  # a node of its own, from which every start is one step away
    tails = np.concatenate([source[goes], np.full(len(starts), before)])
    heads = np.concatenate([mdp.next_state[goes], starts])
    graph = sparse.csr_array((np.ones(len(tails), np.int8), (tails, heads)), shape=(before + 1, before + 1))
    reached = np.zeros(before + 1, bool)
    reached[csgraph.breadth_first_order(graph, before, return_predecessors=False)] = True
    return reached[:-1]
