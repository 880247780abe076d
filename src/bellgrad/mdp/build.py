"""The outcomes of a `FiniteMDP` from arrays, from a function, or from counted data; its builders use these
functions."""

from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from bellgrad.core.errors import UsageError, unknown

SparseRows = sparse.sparray | sparse.spmatrix | Sequence[sparse.sparray | sparse.spmatrix]
Unseen = Literal["absorb", "self_loop", "uniform", "refuse"]
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
    if np.ndim(initial) == 0:
        if not 0 <= initial < num_states:
            raise UsageError(f"initial = {initial} is not a state: there are {num_states}")
        distribution = np.zeros(num_states)
        distribution[initial] = 1
        return distribution
    distribution = np.array(initial, np.float64)
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
) -> tuple[int, Outcomes]:
    """The number of actions, and the outcomes; see `FiniteMDP.from_arrays`. The arrays of a CSR matrix are
    not copied."""
    rows = _pair_rows(transition)
    num_states = rows.shape[1]
    shape = (num_states, rows.shape[0] // num_states)
    counts = np.diff(rows.indptr)
    allowed = np.ones(shape, bool) if legal is None else _booleans("legal", np.asarray(legal))
    if allowed.shape != shape:
        raise UsageError(f"legal has shape {allowed.shape}; expected [S, A] = {shape}")
    empty = (counts == 0) & allowed.ravel()
    if empty.any():
        state, action = divmod(int(empty.argmax()), shape[1])
        raise UsageError(
            f"state {state}, action {action} has an empty row; if it is illegal, mark it in `legal`"
        )
    index = index_type(rows.nnz, rows.shape[0])
    outcomes = Outcomes(
        rows.indptr.astype(index, copy=False).view(),
        rows.data.astype(np.float64, copy=False).view(),
        rows.indices.astype(index, copy=False).view(),
        _per_outcome("reward", reward, rows, of_next_state=False).astype(np.float64, copy=False).view(),
        (
            np.zeros(rows.nnz, bool)
            if terminated is None
            else _booleans("terminated", _per_outcome("terminated", terminated, rows, of_next_state=True))
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
    counts, next_state, terminated = array("q"), array("i"), array("b")
    probability, reward = array("d"), array("d")
    for state in range(num_states):
        for action in range(num_actions):
            before = len(probability)
            given = outcomes(state, action)
            try:
                for p, successor, r, terminates in given:
                    probability.append(p)
                    next_state.append(successor)
                    reward.append(r)
                    terminated.append(bool(terminates))
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
        raise unknown("choice for unseen pairs", unseen, UNSEEN)
    states = _indices("obs", obs, num_states)
    actions = _indices("action", action, num_actions)
    successors = _indices("next_obs", next_obs, num_states)
    rewards, ends = np.asarray(reward, np.float64), _booleans("terminated", np.asarray(terminated))
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


def _pair_rows(transition: ArrayLike | SparseRows) -> sparse.csr_array:
    """`[S*A, S]` from a dense `[S, A, S']`, a sparse `[S*A, S']`, or a list of one sparse `[S, S']` per
    action."""
    if sparse.issparse(transition) or _is_list_of_sparse(transition):
        rows = _sparse_rows(transition)
        if rows.shape[1] == 0 or rows.shape[0] == 0 or rows.shape[0] % rows.shape[1]:
            raise UsageError(
                f"transition has shape {rows.shape}; expected [S*A, S'], row s * A + a for state s and"
                " action a"
            )
        return rows
    dense = np.asarray(transition, np.float64)
    if dense.ndim != 3 or dense.shape[0] != dense.shape[2]:
        actions_first = dense.ndim == 3 and dense.shape[1] == dense.shape[2]
        hint = "; actions come first: transpose(1, 0, 2)" if actions_first else ""
        raise UsageError(f"transition has shape {dense.shape}; expected [S, A, S']{hint}")
    return sparse.csr_array(dense.reshape(-1, dense.shape[2]))


def _is_list_of_sparse(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and any(sparse.issparse(part) for part in values)


def _sparse_rows(values: SparseRows) -> sparse.csr_array:
    if sparse.issparse(values):
        return sparse.csr_array(values)
    num_states, num_actions = values[0].shape[0], len(values)
    for action, part in enumerate(values):
        if not sparse.issparse(part) or part.shape != (num_states, num_states):
            raise UsageError(
                f"the matrix of action {action} has shape {np.shape(part)}; expected sparse"
                f" {(num_states, num_states)}"
            )
    stacked = sparse.vstack([sparse.csr_array(part) for part in values], format="csr")
    return stacked[np.arange(num_states * num_actions).reshape(num_actions, num_states).T.ravel()]


def _per_outcome(
    name: str, values: ArrayLike | SparseRows, rows: sparse.csr_array, of_next_state: bool
) -> NDArray:
    """One value per outcome, from one per state (before or after the step), per pair, or per pair and next
    state."""
    s, a = rows.shape[1], rows.shape[0] // rows.shape[1]
    counts = np.diff(rows.indptr)
    if sparse.issparse(values) or _is_list_of_sparse(values):
        given = _sparse_rows(values)
        if given.shape != rows.shape:
            raise UsageError(
                f"{name} has shape {given.shape}; expected [S*A, S'] = {rows.shape}, like the transition"
            )
        if np.array_equal(given.indptr, rows.indptr) and np.array_equal(given.indices, rows.indices):
            return given.data
        return given[np.repeat(np.arange(s * a), counts), rows.indices]
    dense = np.asarray(values)
    if dense.shape == (s,):
        return dense[rows.indices] if of_next_state else np.repeat(np.repeat(dense, a), counts)
    if dense.shape == (s, a):
        return np.repeat(dense.ravel(), counts)
    if dense.shape == (s, a, s):
        return dense.reshape(s * a, s)[np.repeat(np.arange(s * a), counts), rows.indices]
    by_state = "[S']" if of_next_state else "[S]"
    raise UsageError(
        f"{name} has shape {dense.shape}; expected {by_state} = {(s,)}, [S, A] = {(s, a)}, [S, A, S'] ="
        f" {(s, a, s)}, or sparse [S*A, S'] = {rows.shape}"
    )


def _booleans(name: str, values: NDArray) -> NDArray[np.bool_]:
    if values.dtype != bool and not ((values == 0) | (values == 1)).all():
        raise UsageError(f"{name} must contain only true and false, or 0 and 1")
    return values.astype(bool, copy=False).view()


def _indices(name: str, values: ArrayLike, number: int) -> NDArray[np.int64]:
    """`[N]` integers from 0 to `number - 1`, checked."""
    checked = np.asarray(values)
    if checked.ndim != 1 or not (np.issubdtype(checked.dtype, np.integer) or checked.size == 0):
        raise UsageError(
            f"{name} must be one integer per step, [N]; got shape {checked.shape} of {checked.dtype}"
        )
    wrong = (checked < 0) | (checked >= number)
    if wrong.any():
        raise UsageError(
            f"{name}[{wrong.argmax()}] = {checked[wrong.argmax()]} is out of range 0 to {number - 1}"
        )
    return checked.astype(np.int64)
