"""The conditions that the fields of a `FiniteMDP` fulfil, and the messages if they do not."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bellgrad.core.errors import UsageError
from bellgrad.mdp import kernels
from bellgrad.mdp.checks import PROBABILITY_TOLERANCE, count

FIELD_TYPES = {
    "offset": (np.int32, np.int64),
    "probability": (np.float64,),
    "next_state": (np.int32, np.int64),
    "reward": (np.float64,),
    "terminated": (np.bool_,),
    "initial": (np.float64,),
}
INFINITE = "rewards must be finite; an illegal action has no outcomes, or is marked in `legal` of from_arrays"


def check_plain_fields(mdp: Any) -> None:
    """Check what is not an array, and store it in its own type.

    Raises:
        UsageError: a field is not what it should be.
    """
    plain: dict[str, Any] = {"num_actions": mdp.num_actions}
    if not (isinstance(mdp.num_actions, int) and mdp.num_actions < 1):  # these are refused with the states
        plain["num_actions"] = count("num_actions", mdp.num_actions)
    if mdp.max_episode_steps is not None:
        plain["max_episode_steps"] = count("max_episode_steps", mdp.max_episode_steps)
    for name in ("state_names", "action_names"):
        names = getattr(mdp, name)
        if names is not None:
            if not isinstance(names, Iterable):
                raise UsageError(f"{name} must be a list of names, got a {type(names).__name__}")
            plain[name] = tuple(map(str, names))
    if mdp.grid is not None:
        if not isinstance(mdp.grid, Iterable) or len(tuple(mdp.grid)) != 2:
            raise UsageError(f"grid must be a number of rows and one of columns, got {mdp.grid!r}")
        plain["grid"] = tuple(count("grid", size) for size in mdp.grid)
    for name, value in plain.items():
        object.__setattr__(mdp, name, value)


def check_sizes(mdp: Any) -> None:
    """Check types and shapes, and that the offsets fit.

    Raises:
        UsageError: one of them is wrong.
    """
    for name, kinds in FIELD_TYPES.items():
        array = getattr(mdp, name)
        if not isinstance(array, np.ndarray) or array.dtype not in kinds:
            got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise UsageError(
                f"{name} must be an array of {' or '.join(kind.__name__ for kind in kinds)}, got {got}"
            )
        if array.ndim != 1:
            raise UsageError(f"{name} must have one axis; it has shape {array.shape}")
    if mdp.next_state.dtype != mdp.offset.dtype:
        raise UsageError(
            f"next_state is {mdp.next_state.dtype} and offset {mdp.offset.dtype}; they must have the same"
            " dtype"
        )
    s, a, n = len(mdp.initial), mdp.num_actions, len(mdp.probability)
    if s < 1 or a < 1:
        raise UsageError(f"an MDP needs at least one state and one action, got {s} and {a}")
    if (
        mdp.offset.shape != (s * a + 1,)
        or mdp.offset[0] != 0
        or mdp.offset[-1] != n
        or (np.diff(mdp.offset) < 0).any()
    ):
        raise UsageError(
            f"offset must rise from 0 to the number of outcomes, {n}, and have {s} states x {a} actions + 1"
            " entries"
        )
    for name in ("next_state", "reward", "terminated"):
        if getattr(mdp, name).shape != (n,):
            raise UsageError(f"{name} has shape {getattr(mdp, name).shape}; there are {n} outcomes")
    for name, size in (("state_names", s), ("action_names", a)):
        names = getattr(mdp, name)
        if names is not None and len(names) != size:
            raise UsageError(f"{name} has {len(names)} entries; expected {size}")
    if mdp.grid is not None and mdp.grid[0] * mdp.grid[1] != s:
        raise UsageError(f"a grid of {mdp.grid[0]} x {mdp.grid[1]} cells does not have {s} states")


def check_outcomes(mdp: Any) -> None:
    """Check the numbers; the message names the pair of the first that is wrong.

    Minima and maxima are checked before any mask is made, to save memory on large MDPs.

    Raises:
        UsageError: a number is out of range, probabilities do not sum to one, or a state has no action.
    """

    def refuse(wrong: NDArray[np.bool_], problem: str, values: NDArray, hint: str = "") -> None:
        outcome = int(wrong.argmax())
        pair = int(np.searchsorted(mdp.offset, outcome, side="right")) - 1
        raise UsageError(f"{mdp.place(pair)}: {problem} {values[outcome]}{hint}")

    probability, successor, reward = mdp.probability, mdp.next_state, mdp.reward
    if not probability.min(initial=0) >= 0:  # this also catches NaN, here and below
        refuse(~(probability >= 0), "an outcome has probability", probability)
    if successor.min(initial=0) < 0 or successor.max(initial=0) >= mdp.num_states:
        wrong = (successor < 0) | (successor >= mdp.num_states)
        refuse(wrong, f"with {mdp.num_states} states, an outcome leads to state", successor)
    if not np.isfinite([reward.min(initial=0), reward.max(initial=0)]).all():
        refuse(~np.isfinite(reward), "an outcome has reward", reward, "; " + INFINITE)
    error = kernels.row_sum(mdp.offset, probability) - 1.0
    wrong = ~(np.abs(error, out=error) <= PROBABILITY_TOLERANCE) & mdp.legal.ravel()
    if wrong.any():
        pair = int(wrong.argmax())
        total = probability[mdp.offset[pair] : mdp.offset[pair + 1]].sum()
        raise UsageError(f"{mdp.place(pair)}: the probabilities sum to {total:.9g}, not to 1")
    without_action = ~mdp.legal.any(axis=1)
    if without_action.any():
        state = int(without_action.argmax())
        raise UsageError(
            f"{mdp.state_name(state)} has no legal action; if the episode has ended there, give it the"
            f" outcome (1.0, {state}, 0.0, True)"
        )
    if not (mdp.initial >= 0).all() or not abs(mdp.initial.sum() - 1) <= PROBABILITY_TOLERANCE:
        raise UsageError(
            f"the start distribution must be probabilities that sum to 1; they sum to {mdp.initial.sum():.9g}"
        )
