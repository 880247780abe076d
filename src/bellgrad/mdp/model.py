"""A finite Markov decision process, known outcome by outcome. Axes: `S` states, `A` actions, `N` outcomes.

Rewards are maximised everywhere. A cost is a reward below zero: builders that take costs change their sign, once, on the way in.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from bellgrad.core.errors import UsageError
from bellgrad.mdp import kernels

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]

ROW_TOLERANCE = 1e-6  # how far the probabilities of a pair may be from one: the rounding of float32 input


@dataclass(frozen=True, eq=False)
class FiniteMDP:
    """`p(s', r, terminated | s, a)` for finitely many states and actions, and where episodes begin.

    Outcomes are kept one by one in the order in which they were given, those of a state-action pair side by side: pair
    `s * A + a` owns the outcomes `offset[s * A + a]` to `offset[s * A + a + 1]`. A pair without outcomes is an illegal action.
    That an episode ends is a property of an outcome and not of a state, as in Gymnasium's `P`: Taxi reaches the same state both ways.

    Attributes:
        num_actions: `A`.
        offset: `[S*A + 1]` int32 or int64, never falling.
        probability: `[N]` float64 of each outcome, 0 to 1; those of a legal pair sum to one.
        next_state: `[N]` int32 or int64, 0 to `S - 1`.
        reward: `[N]` float64.
        terminated: `[N]` bool; what follows such an outcome is worth nothing.
        initial: `[S]` float64, the distribution of the first state.
        max_episode_steps: where the environment cuts its episodes; no solver without a `horizon` looks at it.
        state_names: `[S]` words for pictures and tables.
        action_names: `[A]` likewise.
        grid: rows and columns, where the states are the cells of a grid, row by row.

    Raises:
        UsageError: anything of this does not hold; the message names the state and the action.
    """

    num_actions: int
    offset: Ints
    probability: Floats
    next_state: Ints
    reward: Floats
    terminated: NDArray[np.bool_]
    initial: Floats
    max_episode_steps: int | None = None
    state_names: tuple[str, ...] | None = None
    action_names: tuple[str, ...] | None = None
    grid: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        _check_sizes(self)
        _check_outcomes(self)
        for array in (self.offset, self.probability, self.next_state, self.reward, self.terminated, self.initial):
            array.flags.writeable = False

    @property
    def num_states(self) -> int:
        """`S`."""
        return len(self.initial)

    @cached_property
    def legal(self) -> NDArray[np.bool_]:
        """`[S, A]` which actions may be chosen."""
        return (self.offset[1:] > self.offset[:-1]).reshape(self.num_states, self.num_actions)

    @cached_property
    def continuing(self) -> Floats:
        """`[N]` the probability of each outcome after which the episode goes on; the very array `probability` where none ends."""
        return np.where(self.terminated, 0.0, self.probability) if self.terminated.any() else self.probability

    @cached_property
    def transition(self) -> sparse.csr_array:
        """`[S*A, S]` where a pair leads while the episode goes on: rows sum to one minus the chance of ending."""
        shape = (len(self.offset) - 1, self.num_states)
        return sparse.csr_array((self.continuing, self.next_state, self.offset), shape=shape, copy=False)

    @cached_property
    def expected_reward(self) -> Floats:
        """`[S, A]` float64, `r(s, a)`; 0 where the action is illegal."""
        return kernels.row_dot(self.offset, self.probability, self.reward).reshape(self.num_states, self.num_actions)

    @cached_property
    def ending(self) -> Floats:
        """`[S, A]` float64, the chance that the episode ends with this step."""
        return kernels.row_dot(self.offset, self.probability, self.terminated).reshape(self.num_states, self.num_actions)

    def place(self, pair: int) -> str:
        """A state-action pair in words, for messages."""
        state, action = divmod(int(pair), self.num_actions)
        return f"{self.state_name(state)}, {self.action_name(action)}"

    def state_name(self, state: int) -> str:
        """`state 3`, with its name where it has one."""
        return f"state {state}" + (f" ({self.state_names[state]})" if self.state_names else "")

    def action_name(self, action: int) -> str:
        """`action 1`, with its name where it has one."""
        return f"action {action}" + (f" ({self.action_names[action]})" if self.action_names else "")


def _check_sizes(mdp: FiniteMDP) -> None:
    s, a, n = len(mdp.initial), mdp.num_actions, len(mdp.probability)
    if s < 1 or a < 1:
        raise UsageError(f"an MDP needs a state and an action; these are {s} and {a}")
    if mdp.offset.shape != (s * a + 1,) or mdp.offset[0] != 0 or mdp.offset[-1] != n or (np.diff(mdp.offset) < 0).any():
        raise UsageError(f"offset must rise from 0 to the number of outcomes, {n}, in {s} states x {a} actions + 1 entries")
    for name in ("next_state", "reward", "terminated"):
        if getattr(mdp, name).shape != (n,):
            raise UsageError(f"{name} has shape {getattr(mdp, name).shape}; there are {n} outcomes")
    for name, size in (("state_names", s), ("action_names", a)):
        names = getattr(mdp, name)
        if names is not None and len(names) != size:
            raise UsageError(f"{name} are {len(names)}; expected {size}")
    if mdp.grid is not None and mdp.grid[0] * mdp.grid[1] != s:
        raise UsageError(f"a grid of {mdp.grid[0]} x {mdp.grid[1]} cells does not have {s} states")


def _check_outcomes(mdp: FiniteMDP) -> None:
    """Every number is what it should be, in one pass over the outcomes each, with the place of the first that is not."""

    def refuse(wrong: NDArray[np.bool_], what: str, values: NDArray) -> None:
        if wrong.any():
            outcome = int(wrong.argmax())
            pair = int(np.searchsorted(mdp.offset, outcome, side="right")) - 1
            raise UsageError(f"{mdp.place(pair)}: {what} {values[outcome]}")

    refuse(~(mdp.probability >= 0), "an outcome has probability", mdp.probability)  # also catches NaN
    refuse((mdp.next_state < 0) | (mdp.next_state >= mdp.num_states), f"with {mdp.num_states} states, an outcome leads to state",
           mdp.next_state)  # fmt: skip
    refuse(~np.isfinite(mdp.reward), "an outcome has reward", mdp.reward)
    total = kernels.row_sum(mdp.offset, mdp.probability)
    wrong = ~(np.abs(total - 1) <= ROW_TOLERANCE) & mdp.legal.ravel()
    if wrong.any():
        raise UsageError(f"{mdp.place(int(wrong.argmax()))}: the probabilities sum to {total[wrong.argmax()]:.9g}, not to 1")
    stuck = ~mdp.legal.any(axis=1)
    if stuck.any():
        raise UsageError(f"{mdp.state_name(int(stuck.argmax()))} has no legal action")
    if not (mdp.initial >= 0).all() or not abs(mdp.initial.sum() - 1) <= ROW_TOLERANCE:
        raise UsageError(f"the start distribution must be probabilities that sum to 1; they sum to {mdp.initial.sum():.9g}")
