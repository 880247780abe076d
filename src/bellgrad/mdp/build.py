"""The outcomes of a `FiniteMDP` from arrays, from a function, or from counted data; its builders use these
functions."""

import warnings
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from bellgrad.core.errors import UsageError, unknown
from bellgrad.mdp.checks import as_numbers, count, flags, indices

SparseRows = sparse.sparray | sparse.spmatrix | Sequence[sparse.sparray | sparse.spmatrix]
Unseen = Literal["absorb", "self_loop", "uniform", "refuse"]
Order = Literal["SAS", "ASS"]
ORDERS = ("SAS", "ASS")
UNSEEN = ("absorb", "self_loop", "uniform", "refuse")


class Outcomes(NamedTuple):
    """The fields of a `FiniteMDP` that describe its outcomes."""

    offset: NDArray[np.integer]
    probability: NDArray[np.float64]
    next_state: NDArray[np.integer]
    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]


def index_type(*largest: int) -> type[np.signedinteger]:
    """int32 if the largest of these numbers fits, which halves the memory; otherwise int64."""
    return np.int32 if max(largest) <= np.iinfo(np.int32).max else np.int64


def offsets(counts: NDArray[np.integer]) -> NDArray[np.integer]:
    """`[pairs + 1]` the index of each pair's first outcome, from the number of outcomes per pair."""
    total = int(counts.sum())
    offset = np.zeros(len(counts) + 1, index_type(total, len(counts)))
    np.cumsum(counts, out=offset[1:])
    return offset


def start_distribution(initial: int | ArrayLike | None, num_states: int) -> NDArray[np.float64]:
    """`[S]` from a distribution, from one state, or from None for a uniform distribution.

    Raises:
        UsageError: the shape is wrong, or there is no such state.
    """
    if initial is None:
        return np.full(num_states, 1 / num_states)
    if isinstance(initial, (str, bytes)) or np.isscalar(initial) or getattr(initial, "ndim", None) == 0:
        if isinstance(initial, (int, np.integer)) and not 0 <= initial < num_states:
            raise UsageError(f"initial = {initial} is not a state: there are {num_states}, from 0")
        first = count("initial", initial, 0)
        if first >= num_states:
            raise UsageError(f"initial = {initial} is not a state: there are {num_states}, from 0")
        distribution = np.zeros(num_states)
        distribution[first] = 1
        return distribution
    distribution = as_numbers("initial", initial).astype(np.float64)
    if distribution.shape != (num_states,):
        raise UsageError(
            f"initial has shape {distribution.shape}; expected one state, or [S] = {(num_states,)}"
        )
    return distribution


def from_arrays(
    transition: ArrayLike | SparseRows,
    reward: ArrayLike | SparseRows,
    terminated: ArrayLike | SparseRows | None,
    legal: ArrayLike | None,
    order: Order | None,
) -> tuple[int, Outcomes]:
    """The number of actions, and the outcomes; see `FiniteMDP.from_arrays`. The arrays of a CSR matrix are
    not copied."""
    if order is not None and order not in ORDERS:
        raise unknown("order of axes", str(order), ORDERS)
    transition, reward, terminated = (
        _read("transition", transition),
        _read("reward", reward),
        (None if terminated is None else _read("terminated", terminated)),
    )
    rows = _pair_rows(transition, order)
    num_states = rows.shape[1]
    shape = (num_states, rows.shape[0] // num_states)
    if order is None:
        _warn_if_square(shape, transition=transition, reward=reward, terminated=terminated)
    counts = np.diff(rows.indptr)
    allowed = np.ones(shape, bool) if legal is None else flags("legal", legal)
    if allowed.shape != shape:
        raise UsageError(f"legal has shape {allowed.shape}; expected [S, A] = {shape}")
    empty = (counts == 0) & allowed.ravel()
    if empty.any():
        state, action = divmod(int(empty.argmax()), shape[1])
        raise UsageError(
            f"state {state}, action {action} has an empty row; if it is illegal, mark it in `legal`; if the"
            " episode has ended there, lead it to its own state and mark that in `terminated`"
        )
    index = index_type(rows.nnz, rows.shape[0])
    outcomes = Outcomes(
        rows.indptr.astype(index, copy=False).view(),
        rows.data.astype(np.float64, copy=False).view(),
        rows.indices.astype(index, copy=False).view(),
        _per_outcome("reward", reward, rows, order, of_next_state=False)
        .astype(np.float64, copy=False)
        .view(),
        (
            np.zeros(rows.nnz, bool)
            if terminated is None
            else flags("terminated", _per_outcome("terminated", terminated, rows, order, of_next_state=True))
        ),
    )
    kept = np.where(allowed.ravel(), counts, 0)
    if (kept < counts).any():
        keep = np.repeat(allowed.ravel(), counts)
        outcomes = Outcomes(offsets(kept), *(values[keep] for values in outcomes[1:]))
    return shape[1], outcomes


def from_function(
    num_states: int,
    num_actions: int,
    outcomes: Callable[[int, int], Iterable[tuple[float, int, float, bool]]],
) -> Outcomes:
    """The outcomes that a function returns for each pair; see `FiniteMDP.from_function`."""
    num_states, num_actions = count("num_states", num_states), count("num_actions", num_actions)
    if not callable(outcomes):
        raise UsageError(
            f"outcomes must be a function of state and action, got a {type(outcomes).__name__}; for arrays"
            " there is FiniteMDP.from_arrays"
        )
    counts, next_state, terminated = array("q"), array("i"), array("b")
    probability, reward = array("d"), array("d")
    for state in range(num_states):
        for action in range(num_actions):
            before = len(probability)
            given = outcomes(state, action)
            try:
                for p, successor, r, terminates in given:
                    probability.append(p)
                    next_state.append(_whole(successor))
                    reward.append(r)
                    terminated.append(_flag(terminates))
            except (TypeError, ValueError, OverflowError) as error:
                raise UsageError(
                    f"state {state}, action {action}: expected outcomes (probability, next state, reward,"
                    f" terminated): {error}"
                ) from error
            counts.append(len(probability) - before)
    return Outcomes(
        offsets(np.array(counts)),
        np.array(probability),
        np.array(next_state),
        np.array(reward),
        np.array(terminated, bool),
    )


def from_transitions(
    obs: ArrayLike,
    action: ArrayLike,
    reward: ArrayLike,
    next_obs: ArrayLike,
    terminated: ArrayLike,
    num_states: int,
    num_actions: int,
    unseen: Unseen,
) -> Outcomes:
    """The outcomes of the empirical distribution; see `FiniteMDP.from_transitions`."""
    if unseen not in UNSEEN:
        raise unknown("choice for unseen pairs", str(unseen), UNSEEN)
    num_states, num_actions = count("num_states", num_states), count("num_actions", num_actions)
    states = indices("obs", obs, num_states)
    actions = indices("action", action, num_actions)
    successors = indices("next_obs", next_obs, num_states)
    rewards = as_numbers("reward", reward).astype(np.float64, copy=False)
    ends = flags("terminated", terminated)
    for name, values in (
        ("action", actions),
        ("reward", rewards),
        ("next_obs", successors),
        ("terminated", ends),
    ):
        if values.shape != states.shape:
            raise UsageError(f"{name} has shape {values.shape}; there are {len(states)} observations")
    pairs = states * num_actions + actions
    seen = np.bincount(pairs, minlength=num_states * num_actions)
    unseen_pairs = np.flatnonzero(seen == 0)
    if unseen == "refuse" and len(unseen_pairs):
        state, action = divmod(int(unseen_pairs[0]), num_actions)
        raise UsageError(
            f"state {state}, action {action} was never tried, nor were {len(unseen_pairs) - 1} other pairs"
            f" of {len(seen)}"
        )
    # The assumed outcomes of unseen pairs are appended to the data: one, or one for every state.
    copies = num_states if unseen == "uniform" else 1
    more = (
        np.tile(np.arange(num_states), len(unseen_pairs))
        if unseen == "uniform"
        else unseen_pairs // num_actions
    )
    pairs = np.concatenate([pairs, np.repeat(unseen_pairs, copies)])
    successors = np.concatenate([successors, more])
    rewards = np.concatenate([rewards, np.zeros(len(more))])
    ends = np.concatenate([ends, np.full(len(more), unseen == "absorb")])

    order = np.lexsort((rewards, ends, successors, pairs))
    pairs, successors, rewards, ends = pairs[order], successors[order], rewards[order], ends[order]
    differs = np.ones(len(pairs), bool)
    differs[1:] = (
        (np.diff(pairs) != 0)
        | (np.diff(successors) != 0)
        | (rewards[1:] != rewards[:-1])
        | (ends[1:] != ends[:-1])
    )
    first = np.flatnonzero(differs)
    times = np.diff(first, append=len(pairs))
    pair = pairs[first]
    offset = offsets(np.bincount(pair, minlength=len(seen)))
    total = np.add.reduceat(times, offset[:-1])
    return Outcomes(
        offset, times / total[pair], successors[first].astype(offset.dtype), rewards[first], ends[first]
    )


def _read(name: str, values: Any) -> Any:
    """A sparse matrix, a list of one matrix per action, or a dense array; each of numbers."""
    listed = isinstance(values, (list, tuple)) and any(sparse.issparse(part) for part in values)
    objects = isinstance(values, np.ndarray) and values.dtype == object and values.ndim == 1
    if listed or (objects and any(sparse.issparse(part) or np.ndim(part) == 2 for part in values)):
        return [matrix(f"{name} of action {action}", part) for action, part in enumerate(values)]
    return matrix(name, values)


def matrix(name: str, values: Any) -> Any:
    """A sparse matrix as it is, or a dense array; of numbers.

    Raises:
        UsageError: it is something else.
    """
    if not sparse.issparse(values):
        return as_numbers(name, values)
    if values.ndim != 2 or values.dtype.kind not in "fiub":
        raise UsageError(
            f"{name} must be a sparse matrix of numbers, got {values.ndim} axes of {values.dtype}"
        )
    return values


def _pair_rows(transition: Any, order: Order | None) -> sparse.csr_array:
    """`[S*A, S]` from what `_read` gives: a dense `[S, A, S']` or `[A, S, S']`, a sparse `[S*A, S']`, or a
    list of one `[S, S']` per action."""
    if not isinstance(transition, np.ndarray):
        rows = _sparse_rows(transition)
        if rows.shape[1] == 0 or rows.shape[0] == 0 or rows.shape[0] % rows.shape[1]:
            raise UsageError(
                f"transition has shape {rows.shape}; expected [S*A, S'], row s * A + a for state s and"
                " action a"
            )
        return rows
    dense, expected = transition, "[A, S, S']" if order == "ASS" else "[S, A, S']"
    if dense.ndim == 3 and order == "ASS":
        dense = dense.transpose(1, 0, 2)
    if dense.ndim != 3 or dense.shape[0] != dense.shape[2]:
        other = dense.ndim == 3 and dense.shape[1] == dense.shape[2]
        hint = "; actions come first: transpose(1, 0, 2), or say order='ASS'" if other else ""
        if other and order == "ASS":
            hint = "; states come first: leave out order='ASS'"
        raise UsageError(f"transition has shape {transition.shape}; expected {expected}{hint}")
    if 0 in dense.shape:
        raise UsageError(
            f"an MDP needs at least one state and one action; transition has shape {transition.shape}"
        )
    return sparse.csr_array(dense.reshape(-1, dense.shape[2]).astype(np.float64, copy=False))


def _warn_if_square(shape: tuple[int, int], **arrays: Any) -> None:
    """Warn if there are as many actions as states, so that no shape tells which axis is which."""
    s, a = shape
    unclear = [
        name
        for name, values in arrays.items()
        if s == a and isinstance(values, np.ndarray) and values.shape == (s, a, s)
        if not np.array_equal(values, values.transpose(1, 0, 2))
    ]
    if unclear:
        warnings.warn(
            f"there are as many actions as states, {s}, so the shape of {' and '.join(unclear)} does not tell"
            " their order: read as [S, A, S']. Say order='SAS', or order='ASS' for [A, S, S'] as in"
            " pymdptoolbox",
            stacklevel=4,
        )


def _sparse_rows(values: Any) -> sparse.csr_array:
    if sparse.issparse(values):
        return sparse.csr_array(values)
    num_states, num_actions = np.shape(values[0])[0] if np.ndim(values[0]) else 0, len(values)
    for action, part in enumerate(values):
        if part.shape != (num_states, num_states):
            raise UsageError(
                f"the matrix of action {action} has shape {np.shape(part)}; expected sparse"
                f" {(num_states, num_states)}"
            )
    stacked = sparse.vstack([sparse.csr_array(part) for part in values], format="csr")
    return stacked[np.arange(num_states * num_actions).reshape(num_actions, num_states).T.ravel()]


def at_outcomes(given: Any, rows: sparse.csr_array) -> NDArray[Any]:
    """The entry of a matrix, dense or CSR, at each stored entry of `rows`, whose shape it has."""
    same = sparse.issparse(given) and np.array_equal(given.indptr, rows.indptr)
    if same and np.array_equal(given.indices, rows.indices):
        return given.data
    return np.asarray(given[np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr)), rows.indices])


def _per_outcome(
    name: str, values: Any, rows: sparse.csr_array, order: Order | None, of_next_state: bool
) -> NDArray:
    """One value per outcome, from one per state (before or after the step), per pair, or per pair and next
    state."""
    s, a = rows.shape[1], rows.shape[0] // rows.shape[1]
    counts = np.diff(rows.indptr)
    if isinstance(values, list) and all(np.ndim(part) == 1 for part in values):
        values = np.array(values)
    if not isinstance(values, np.ndarray):
        given = _sparse_rows(values)
        if given.shape != rows.shape:
            raise UsageError(
                f"{name} has shape {given.shape}; expected [S*A, S'] = {rows.shape}, like the transition"
            )
        return at_outcomes(given, rows)
    dense = values
    if dense.shape == (s,):
        return dense[rows.indices] if of_next_state else np.repeat(np.repeat(dense, a), counts)
    if dense.shape == (s, a):
        return np.repeat(dense.ravel(), counts)
    cube, axes = ((a, s, s), "[A, S, S']") if order == "ASS" else ((s, a, s), "[S, A, S']")
    if dense.shape == cube:
        by_pair = dense.transpose(1, 0, 2) if order == "ASS" else dense
        return at_outcomes(by_pair.reshape(s * a, s), rows)
    by_state = "[S']" if of_next_state else "[S]"
    hint = ""
    if dense.shape == (a, s):
        hint = f"; this is [A, S]: transpose it, {name}.T"
    elif dense.shape == (a, s, s):
        hint = "; actions come first: transpose(1, 0, 2), or say order='ASS' if they do in every array"
    elif dense.shape == (s, a, s):
        hint = "; states come first: transpose(1, 0, 2), or leave out order='ASS'"
    raise UsageError(
        f"{name} has shape {dense.shape}; expected {by_state} = {(s,)}, [S, A] = {(s, a)}, {axes} ="
        f" {cube}, or sparse [S*A, S'] = {rows.shape}{hint}"
    )


def _whole(value: Any) -> int:
    whole = int(value)
    if whole != value:  # also text that int() reads
        raise ValueError(f"next state {value!r} is not a whole number")
    return whole


def _flag(value: Any) -> bool:
    if value not in (True, False):
        raise ValueError(f"terminated is {value!r}, not True or False")
    return bool(value)
