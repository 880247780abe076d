"""The outcomes of a `FiniteMDP` from one row per legal state-action pair; see `FiniteMDP.from_pairs`."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from bellgrad.core.errors import UsageError
from bellgrad.mdp import build, checks

MAX_PAIRS = 10**11  # offsets of more take 800 GB


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
    given = build.matrix("transition", transition)
    if given.ndim != 2:
        raise UsageError(f"transition has shape {given.shape}; expected [L, S'], one row per pair")
    rows = sparse.csr_array(given).astype(np.float64)
    length, num_states = rows.shape
    if not length:
        raise UsageError(f"transition has shape {rows.shape}; an MDP needs at least one state and one action")
    if num_actions is not None:
        num_actions = checks.count("num_actions", num_actions)
    states, actions = (
        checks.indices("state", state, num_states),
        checks.indices("action", action, num_actions),
    )
    for name, values in (("state", states), ("action", actions)):
        if len(values) != length:
            raise UsageError(f"{name} has {len(values)} entries; the transition has {length} rows")
    num_actions = num_actions or int(actions.max()) + 1
    if num_states * num_actions > MAX_PAIRS:
        raise UsageError(f"{num_states} states and {num_actions} actions are too many pairs for the memory")
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
    if terminated is None:
        terminated = np.zeros(length, bool)
    ends = checks.flags("terminated", _per_outcome("terminated", terminated, rows))
    per_pair = np.zeros(num_states * num_actions, np.int64)
    per_pair[pairs] = counts
    offset = build.offsets(per_pair)
    # Where each outcome stands among the given ones: those of a row stay together.
    numbered = sparse.csr_array((np.arange(rows.nnz), rows.indices, rows.indptr), shape=rows.shape)
    taken = numbered[order].data
    return num_actions, build.Outcomes(
        offset,
        rows.data[taken],
        rows.indices[taken].astype(offset.dtype),
        rewards[taken].astype(np.float64),
        ends[taken],
    )


def _per_outcome(name: str, values: Any, rows: sparse.csr_array) -> NDArray[Any]:
    """One value per outcome, from one per pair, `[L]`, or per pair and next state, `[L, S']`."""
    given = build.matrix(name, values)
    if given.shape == (rows.shape[0],):
        return np.repeat(given, np.diff(rows.indptr))
    if given.shape != rows.shape:
        raise UsageError(
            f"{name} has shape {given.shape}; expected [L] = {(rows.shape[0],)} or [L, S'] = {rows.shape}"
        )
    return build.at_outcomes(sparse.csr_array(given) if sparse.issparse(given) else given, rows)
