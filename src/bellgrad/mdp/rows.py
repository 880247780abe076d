"""A `FiniteMDP` from a table with one row per outcome, and from states that are found one after the other;
see `FiniteMDP.from_rows` and `FiniteMDP.from_states`.

States and actions may be anything that can be hashed. They are numbered in the order in which they are first
named, integers by size; if they are the integers 0 to n - 1, they need no names.
"""

import difflib
import math
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bellgrad.core.errors import UsageError
from bellgrad.mdp import build, checks

COLUMNS = ("state", "action", "probability", "next_state", "reward", "terminated")
ENDS = ("done", "end", "ended", "final", "absorbing")  # other words for `terminated`
MAX_STATES = 1_000_000

Row = tuple[str, Any, Any, Any, Any, Any, Any]  # where it stands, for messages; then the columns


def from_rows(
    rows: Any, states: Iterable[Hashable] | None, actions: Iterable[Hashable] | None, initial: Any
) -> dict[str, Any]:
    """Sizes, names, outcomes and the start distribution from rows or a data frame; see
    `FiniteMDP.from_rows`.

    Raises:
        UsageError: a row is not an outcome, or names an unknown state or action; the message names the row.
    """
    number, made = _tabulate(_read(rows), _listed("states", states), _listed("actions", actions))
    if isinstance(initial, Mapping):
        initial = _start(initial, number)
    elif isinstance(initial, Hashable) and initial is not None and _is_name(initial, number):
        initial = number[initial]
    elif isinstance(initial, (str, int)):
        raise UsageError(f"initial = {initial!r} is not a state of any row")
    elif initial is not None and np.ndim(initial):
        initial = checks.array("initial", initial)
    return made | {"initial": initial}


def from_states(
    start: Any,
    actions: Callable[[Any], Iterable[Hashable]] | Sequence[Hashable],
    outcomes: Callable[[Any, Any], Iterable[tuple[Any, Any, Any, Any]]],
    max_states: int,
) -> dict[str, Any]:
    """Sizes, names, outcomes and the start distribution of all states that can be reached; see
    `FiniteMDP.from_states`.

    Raises:
        UsageError: more than `max_states` states, or an outcome that is none; the message names the state.
    """
    max_states = checks.count("max_states", max_states)
    weights = dict(start) if isinstance(start, Mapping) else {_hashable("the start: the state", start): 1.0}
    if not weights:
        raise UsageError("start has no state")
    if not callable(outcomes):
        raise UsageError(f"outcomes must be a function of state and action; got a {type(outcomes).__name__}")
    order: list[Hashable] = []
    number, made = _tabulate(
        _explore(list(weights), actions, outcomes, max_states, order),
        order,  # filled while the rows are made
        None if callable(actions) else _listed("actions", actions),
    )
    return made | {"initial": _start(weights, number)}


def _start(weights: Mapping[Any, Any], number: Mapping[Hashable, int]) -> NDArray[np.float64]:
    """`[S]` the start distribution, from the probabilities of some states."""
    initial = np.zeros(len(number))
    for state, weight in weights.items():
        where = f"start in state {state!r}"
        if state not in number:
            raise UsageError(f"{where}: it is not a state of any row")
        initial[number[state]] = _finite(where, "probability", weight)
    return initial


def _listed(name: str, values: Iterable[Hashable] | None) -> list[Hashable] | None:
    if values is not None and (not isinstance(values, Iterable) or isinstance(values, str)):
        raise UsageError(f"{name} must be a list of names; got {values!r}")
    return None if values is None else [_hashable(f"{name}[{i}] =", value) for i, value in enumerate(values)]


def _is_name(value: Any, number: Mapping[Hashable, int]) -> bool:
    try:
        return value in number
    except TypeError:  # a tuple of lists
        return False


def _explore(
    start: list[Hashable],
    actions: Callable[[Any], Iterable[Hashable]] | Sequence[Hashable],
    outcomes: Callable[[Any, Any], Iterable[tuple[Any, Any, Any, Any]]],
    max_states: int,
    order: list[Hashable],
) -> Iterator[Row]:
    """The rows of every state that can be reached, breadth first; every state is appended to `order`."""
    seen = set(start)
    order += start
    ahead = deque(start)
    expanded = set(start)
    while ahead:
        state = ahead.popleft()
        legal = actions(state) if callable(actions) else actions
        if not isinstance(legal, Iterable):
            raise UsageError(f"state {state!r}: expected its legal actions, got {type(legal).__name__}")
        for action in legal:
            where = f"state {state!r}, action {action!r}"
            for outcome in _each(where, outcomes(state, action)):
                try:
                    probability, successor, reward, terminated = outcome
                except (TypeError, ValueError):
                    raise UsageError(
                        f"{where}: expected outcomes (probability, next state, reward, terminated), got"
                        f" {outcome!r}"
                    ) from None
                if _hashable(f"{where}: the state", successor) not in seen:
                    if len(seen) >= max_states:
                        raise UsageError(
                            f"{where} leads to a state beyond max_states = {max_states:,}; if there are"
                            " finitely many, raise max_states, otherwise bound the states (for example clip"
                            " them)"
                        )
                    seen.add(successor)
                    order.append(successor)
                if successor not in expanded and not _is_true(terminated):
                    expanded.add(successor)
                    ahead.append(successor)
                yield where, state, action, probability, successor, reward, terminated


def _each(where: str, given: Any) -> Iterable[Any]:
    if not isinstance(given, Iterable):
        raise UsageError(
            f"{where}: expected a list of outcomes (probability, next state, reward, terminated), got"
            f" {type(given).__name__}; an illegal action has an empty list"
        )
    return given


def _is_true(flag: Any) -> bool:
    return isinstance(flag, (bool, np.bool_, int)) and bool(flag)


# ------------------------------------------------------------------------------------------- rows of a table
def _read(rows: Any) -> Iterator[Row]:
    """The rows of a data frame, of a mapping of columns, or of an iterable of tuples or mappings."""
    columns = _columns_of(rows)
    if columns is not None:
        length = len(columns[0])
        ends = columns[5] if len(columns) == 6 else [False] * length
        for i, values in enumerate(zip(*columns[:5], ends, strict=True)):
            yield (f"row {i}", *values)
        return
    if not isinstance(rows, Iterable) or isinstance(rows, str):
        raise UsageError(f"rows must be an iterable of rows or a data frame; got {type(rows).__name__}")
    for i, row in enumerate(rows):
        where = f"row {i}"
        if isinstance(row, np.ndarray):
            row = row.tolist()
        if isinstance(row, Mapping):
            _check_columns(where, row)
            yield (where, *(row[name] for name in COLUMNS[:5]), row.get("terminated", False))
        elif isinstance(row, Sequence) and not isinstance(row, str) and len(row) in (5, 6):
            yield (where, *row[:5], row[5] if len(row) == 6 else False)
        else:
            raise UsageError(f"{where}: expected ({', '.join(COLUMNS)}), the last one optional; got {row!r}")


def _columns_of(table: Any) -> list[list[Any]] | None:
    """The columns in our order, each as a list; None if it is not a table by columns."""
    if isinstance(table, Mapping):
        names: Iterable[Any] = table.keys()
    elif hasattr(table, "columns") and hasattr(table, "__getitem__"):
        names = list(table.columns)
    elif isinstance(table, np.ndarray) and table.dtype.names:
        names = table.dtype.names
    else:
        return None
    _check_columns("the table", names)
    given = [table[name] for name in COLUMNS if name in set(names)]
    columns = [column.tolist() if hasattr(column, "tolist") else list(column) for column in given]
    lengths = {len(column) for column in columns}
    if len(lengths) > 1:
        raise UsageError(f"the columns have different lengths: {sorted(lengths)}")
    return columns


def _check_columns(where: str, names: Iterable[Any]) -> None:
    found = [str(name) for name in names]
    missing = [name for name in COLUMNS[:5] if name not in found]
    if missing:
        raise UsageError(f"{where} has no {' and no '.join(missing)}; its columns are {', '.join(found)}")
    unknown = [name for name in found if name not in COLUMNS]
    near = [
        name
        for name in unknown
        if name.lower() in ENDS or difflib.get_close_matches(name.lower(), ["terminated"], cutoff=0.6)
    ]
    if near and "terminated" not in found:
        raise UsageError(f"{where} has a column {near[0]}; did you mean terminated?")


# ------------------------------------------------------------------------------------- numbers from the names
class _Names:
    """Numbers for hashable names, in the order of their first use, or of a list that allows no others."""

    def __init__(self, kind: str, known: Sequence[Hashable] | None):
        self._kind, self._known = kind, known
        self.number: dict[Hashable, int] = {}

    def __call__(self, where: str, name: Any) -> int:
        try:
            found = self.number.get(name)
        except TypeError:
            raise UsageError(f"{where}: the {self._kind} {name!r} cannot be hashed; use a tuple") from None
        if found is not None:
            return found
        if isinstance(name, float) and math.isnan(name):
            raise UsageError(f"{where}: the {self._kind} is missing")
        if self._known is not None:
            for known in self._known[len(self.number) :]:  # names may have been added since
                if known in self.number:
                    raise UsageError(f"the {self._kind} {known!r} is listed twice")
                self.number[known] = len(self.number)
            if name not in self.number:
                raise UsageError(f"{where}: the {self._kind} {name!r} is not among those that were listed")
        else:
            self.number[name] = len(self.number)
        return self.number[name]

    def complete(self) -> None:
        """Number those of the list that no row names."""
        for known in (self._known or ())[len(self.number) :]:
            self.number[known] = len(self.number)

    def order(self) -> tuple[list[int], tuple[str, ...] | None]:
        """The final number of each, and their names; None if they are the integers from 0 on."""
        names = list(self.number)
        numbers = list(range(len(names)))
        whole = all(_is_whole(name) for name in names)
        if whole:  # a data frame may have made them floats
            names = [int(name) for name in names]
        if whole and self._known is None:
            rank = {name: i for i, name in enumerate(sorted(names))}
            numbers, names = [rank[name] for name in names], sorted(names)
        if whole and names == list(range(len(names))):
            return numbers, None
        texts = tuple(str(name) for name in names)
        if len(set(texts)) < len(texts):
            twice = next(text for text in texts if texts.count(text) > 1)
            raise UsageError(
                f"two {self._kind}s are both written {twice!r}; give them names that can be told apart"
            )
        return numbers, texts


def _tabulate(
    rows: Iterable[Row], states: Sequence[Hashable] | None, actions: Sequence[Hashable] | None
) -> tuple[dict[Hashable, int], dict[str, Any]]:
    """The number of each state; and sizes, names and outcomes.

    Outcomes that differ in their probability only are one. A next state that only follows the end of an
    episode and has no rows gets one, which ends too.
    """
    state_names, action_names = _Names("state", states), _Names("action", actions)
    weight: dict[tuple[int, int, int, float, bool], float] = {}
    going_on: dict[int, str] = {}  # next states after which the episode goes on, and a row that says so
    for where, state, action, probability, successor, reward, terminated in rows:
        here, chosen = state_names(where, state), action_names(where, action)
        there = state_names(where, successor)
        probability, reward = _finite(where, "probability", probability), _finite(where, "reward", reward)
        if not 0 <= probability <= 1:
            raise UsageError(f"{where}: probability = {probability:g} is out of range 0 to 1")
        if not (isinstance(terminated, (bool, np.bool_)) or _is_number(terminated, (0, 1))):
            raise UsageError(f"{where}: terminated = {terminated!r} must be true or false, or 1 or 0")
        if not terminated:
            going_on.setdefault(there, where)
        key = here, chosen, there, reward, bool(terminated)
        weight[key] = weight.get(key, 0.0) + probability
    if not weight:
        raise UsageError("there is no row; an MDP needs at least one outcome")
    state_names.complete()
    action_names.complete()
    new_state, state_texts = state_names.order()
    new_action, action_texts = action_names.order()
    num_states, num_actions = max(new_state) + 1, max(new_action) + 1
    table = np.array([(*key, p) for key, p in weight.items()], np.float64)
    from_state = np.array(new_state)[table[:, 0].astype(np.int64)]
    chosen_action = np.array(new_action)[table[:, 1].astype(np.int64)]
    to_state = np.array(new_state)[table[:, 2].astype(np.int64)]

    has_rows = np.zeros(num_states, bool)
    has_rows[from_state] = True
    names = list(state_names.number)
    for old, where in going_on.items():
        if not has_rows[new_state[old]]:
            raise UsageError(
                f"{where} leads to state {names[old]!r}, which has no rows; if the episode ends there, say"
                " terminated"
            )
    last = np.setdiff1d(to_state, from_state)  # reached by the end of an episode only
    zeros = np.zeros(len(last))
    pairs = np.concatenate([from_state * num_actions + chosen_action, last * num_actions])
    order = np.argsort(pairs, kind="stable")
    offset = build.offsets(np.bincount(pairs, minlength=num_states * num_actions))
    number = {name: new_state[old] for name, old in state_names.number.items()}
    return number, {
        "num_states": num_states,
        "num_actions": num_actions,
        "state_names": state_texts,
        "action_names": action_texts,
        "outcomes": build.Outcomes(
            offset,
            np.concatenate([table[:, 5], zeros + 1])[order],
            np.concatenate([to_state, last])[order].astype(offset.dtype),
            np.concatenate([table[:, 3], zeros])[order],
            np.concatenate([table[:, 4] == 1, zeros == 0])[order],
        ),
    }


def _finite(where: str, name: str, value: Any) -> float:
    try:
        checked = checks.number(name, value)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    if not math.isfinite(checked):
        raise UsageError(f"{where}: {name} = {checked} must be finite")
    return checked


def _is_whole(name: Any) -> bool:
    return isinstance(name, (Real, np.number)) and not isinstance(name, bool) and float(name).is_integer()


def _is_number(value: Any, among: tuple[int, ...]) -> bool:
    return isinstance(value, (Real, np.number)) and value in among


def _hashable(what: str, value: Any) -> Hashable:
    try:
        hash(value)
    except TypeError:
        raise UsageError(f"{what} {value!r} cannot be hashed; use a tuple") from None
    return value
