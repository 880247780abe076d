"""MDPs and solutions as rows of named columns, plain or as a data frame."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bellgrad.core.errors import UsageError, missing_extra

Table = Mapping[str, Sequence[Any]]  # column by column


def as_rows(table: Table) -> list[dict[str, Any]]:
    """One dictionary per row, with Python's own numbers."""
    lists = [column.tolist() if isinstance(column, np.ndarray) else list(column) for column in table.values()]
    return [dict(zip(table, row, strict=True)) for row in zip(*lists, strict=True)]


def as_frame(table: Table) -> Any:
    """A `pandas.DataFrame`.

    Raises:
        UsageError: pandas is not installed; says how to install it.
    """
    try:
        import pandas
    except ImportError:
        raise missing_extra("pandas", "frames") from None
    return pandas.DataFrame(dict(table))


def unique_names(names: tuple[str, ...] | None, number: int) -> NDArray[Any]:
    """`[number]` names that can stand for states or actions: their own, or numbers if names are missing or
    occur twice."""
    if names is None or len(set(names)) < number:
        return np.arange(number)
    return np.array(names, dtype=object)


def outcome_table(mdp: Any) -> Table:
    """The outcomes of a `FiniteMDP`, one per row, in the columns that `FiniteMDP.from_rows` reads."""
    states = unique_names(mdp.state_names, mdp.num_states)
    actions = unique_names(mdp.action_names, mdp.num_actions)
    pair = np.repeat(np.arange(len(mdp.offset) - 1), np.diff(mdp.offset))
    return {
        "state": states[pair // mdp.num_actions],
        "action": actions[pair % mdp.num_actions],
        "probability": mdp.probability,
        "next_state": states[mdp.next_state],
        "reward": mdp.reward,
        "terminated": mdp.terminated,
    }


def solution_table(solution: Any, mdp: Any, by: str) -> Table:
    """A solution, one row per state or per legal state-action pair, and per step with a horizon.

    Raises:
        UsageError: `by` is neither `state` nor `pair`, or the MDP is of another size.
    """
    steps = solution.horizon is not None
    q = solution.q if steps else solution.q[None]
    policy = solution.policy if steps else solution.policy[None]
    value = solution.value if steps else solution.value[None]
    num_states, num_actions = q.shape[1:]
    if mdp is not None and mdp.legal.shape != (num_states, num_actions):
        raise UsageError(
            f"the solution is of {num_states} states and {num_actions} actions, the MDP has"
            f" {mdp.num_states} and {mdp.num_actions}"
        )
    states = unique_names(mdp.state_names if mdp is not None else None, num_states)
    actions = unique_names(mdp.action_names if mdp is not None else None, num_actions)
    if by == "pair":
        step, state, action = np.nonzero(q > -np.inf)
        chosen = {
            "step": step,
            "state": states[state],
            "action": actions[action],
            "q": q[step, state, action],
            "policy": policy[step, state, action],
        }
        return chosen if steps else {name: column for name, column in chosen.items() if name != "step"}
    if by != "state":
        raise UsageError(f"by = {by!r} must be 'state' or 'pair'")
    # The last row of values with a horizon is that of the end, where nothing is chosen.
    table: dict[str, Any] = {"step": np.repeat(np.arange(len(value)), num_states)} if steps else {}
    table |= {"state": np.tile(states, len(value)), "value": value.ravel()}
    if solution.bias is not None:
        table["bias"] = solution.bias
    table["action"] = _to_the_end(actions[policy.argmax(axis=2)].ravel(), len(value) * num_states, None)
    for action in range(num_actions):
        table[f"q({actions[action]})"] = _to_the_end(
            q[..., action].ravel(), len(value) * num_states, float("nan")
        )
    for action in range(num_actions):
        table[f"policy({actions[action]})"] = _to_the_end(
            policy[..., action].ravel(), len(value) * num_states, float("nan")
        )
    return table


def _to_the_end(column: NDArray[Any], length: int, filler: Any) -> NDArray[Any]:
    if len(column) == length:
        return column
    kind = object if filler is None else column.dtype
    return np.concatenate([column.astype(kind), np.full(length - len(column), filler, kind)])
