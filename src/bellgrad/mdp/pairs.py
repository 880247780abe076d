"""The outcomes of a `FiniteMDP` from one row per legal state-action pair; see `FiniteMDP.from_pairs`."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from bellgrad.core.errors import UsageError
from bellgrad.mdp import build, checks


def from_pairs(
    state: ArrayLike,
    action: ArrayLike,
    reward: Any,
    transition: Any,
    terminated: Any = None,
    num_actions: int | None = None,
) -> tuple[int, build.Outcomes]:
    """The number of actions, and the outcomes; see `FiniteMDP.from_pairs`.

    Raises:
        UsageError: shapes do not fit, a pair occurs twice or is out of range, or a row is empty; names the
            row.
    """
    rows = _matrix("transition", transition)
    length, num_states = rows.shape
    states = _numbers("state", state, length, num_states)
    actions = _numbers("action", action, length, None)
    if num_actions is None:
        num_actions = int(actions.max(initial=0)) + 1
    elif actions.max(initial=0) >= checks.count("num_actions", num_actions):
        row = int(actions.argmax())
        raise UsageError(f"row {row}: action {actions[row]} is out of range 0 to {num_actions - 1}")
    pairs = states * num_actions + actions
    order = np.argsort(pairs, kind="stable")
    repeated = np.flatnonzero(np.diff(pairs[order]) == 0)
    if len(repeated):
        first, second = order[repeated[0]], order[repeated[0] + 1]
        raise UsageError(
            f"rows {first} and {second} are both of state {states[first]}, action {actions[first]}"
        )
    counts = np.diff(rows.indptr)
    if (counts == 0).any():
        row = int((counts == 0).argmax())
        raise UsageError(
            f"row {row} (state {states[row]}, action {actions[row]}) of the transition is empty; leave out"
            " the pairs of illegal actions"
        )
    rewards = _per_outcome("reward", reward, rows)
    ends = (
        np.zeros(rows.nnz, bool)
        if terminated is None
        else _flags(_per_outcome("terminated", terminated, rows))
    )
    per_pair = np.zeros(num_states * num_actions, np.int64)
    per_pair[pairs] = counts
    offset = build.offsets(per_pair)
    # Where each outcome stands among the given ones: those of a row stay together.
    taken = np.repeat(rows.indptr[:-1][order], counts[order]) + _within(counts[order])
    return num_actions, build.Outcomes(
        offset,
        rows.data[taken].astype(np.float64),
        rows.indices[taken].astype(offset.dtype),
        rewards[taken].astype(np.float64),
        ends[taken],
    )


def _within(counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """0, 1, ... anew for each row."""
    total = int(counts.sum())
    return np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)


def _matrix(name: str, values: Any) -> sparse.csr_array:
    if sparse.issparse(values):
        return sparse.csr_array(values)
    dense = checks.as_numbers(name, values)
    if dense.ndim != 2:
        raise UsageError(f"{name} has shape {dense.shape}; expected [L, S'], one row per pair")
    return sparse.csr_array(dense.astype(np.float64))


def _numbers(name: str, values: ArrayLike, length: int, limit: int | None) -> NDArray[np.int64]:
    read = np.asarray(values)
    if read.shape != (length,) or read.dtype.kind not in "iu":
        raise UsageError(
            f"{name} must be {length} integers, one for each row of the transition; got shape {read.shape} of"
            f" {read.dtype}"
        )
    wrong = (read < 0) | (read >= limit if limit is not None else False)
    if wrong.any():
        row = int(wrong.argmax())
        bound = "0 or more" if limit is None else f"0 to {limit - 1}"
        raise UsageError(f"row {row}: {name} {read[row]} is out of range {bound}")
    return read.astype(np.int64)


def _per_outcome(name: str, values: Any, rows: sparse.csr_array) -> NDArray[Any]:
    """One value per outcome, from one per pair, `[L]`, or per pair and next state, `[L, S']`."""
    counts = np.diff(rows.indptr)
    if sparse.issparse(values):
        given = sparse.csr_array(values)
        shape = given.shape
    else:
        given = checks.as_numbers(name, values)
        shape = given.shape
        if shape == (rows.shape[0],):
            return np.repeat(given, counts)
    if shape != rows.shape:
        raise UsageError(
            f"{name} has shape {shape}; expected [L] = {(rows.shape[0],)} or [L, S'] = {rows.shape}"
        )
    return np.asarray(given[np.repeat(np.arange(rows.shape[0]), counts), rows.indices])


def _flags(values: NDArray[Any]) -> NDArray[np.bool_]:
    if not ((values == 0) | (values == 1)).all():
        raise UsageError("terminated must contain only true and false, or 0 and 1")
    return values.astype(bool)
