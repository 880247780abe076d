"""A finite Markov decision process, stored as a list of outcomes. Axes: `S` states, `A` actions, `N`
outcomes.

Rewards are always maximized. A cost is a negative reward: a builder that takes costs changes their sign once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from bellgrad.core.errors import UsageError, unknown
from bellgrad.mdp import build, conditions, frames, kernels, saving
from bellgrad.mdp.checks import count

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]

MAX_LISTED = 100  # names in a message


@dataclass(frozen=True, eq=False)
class FiniteMDP:
    """`p(s', r, terminated | s, a)` for finitely many states and actions, and the distribution of the first
    state.

    Outcomes are stored in the order in which they were given, grouped by state-action pair: those of pair
    `s * A + a` are `offset[s * A + a]` to `offset[s * A + a + 1]`, the last one excluded. A pair without
    outcomes is an illegal action. Whether the episode ends is a property of an outcome and not of a state, as
    in Gymnasium's `P`: in Taxi the same state is reached both with and without an end.

    The arrays are kept as read-only views and not copied: do not change them afterwards.

    Attributes:
        num_actions: `A`.
        offset: `[S*A + 1]` int32 or int64, non-decreasing.
        probability: `[N]` float64 of each outcome, 0 to 1; those of a legal pair sum to one.
        next_state: `[N]` of the same dtype as `offset`, 0 to `S - 1`.
        reward: `[N]` float64.
        terminated: `[N]` bool; the value after such an outcome is 0.
        initial: `[S]` float64, the distribution of the first state.
        max_episode_steps: the environment's time limit in steps; solvers ignore it.
        state_names: `[S]` names for pictures and tables.
        action_names: `[A]` the same.
        grid: rows and columns, if the states are the cells of a grid, row by row.

    Raises:
        UsageError: one of these conditions is violated; the message names the state and the action.
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
        conditions.check_plain_fields(self)
        conditions.check_sizes(self)
        for name in conditions.FIELD_TYPES:
            view = getattr(self, name).view()  # the caller's own array stays writable
            view.flags.writeable = False
            object.__setattr__(self, name, view)
        conditions.check_outcomes(self)

    @classmethod
    def from_arrays(
        cls,
        transition: ArrayLike | build.SparseRows,
        reward: ArrayLike | build.SparseRows,
        *,
        terminated: ArrayLike | build.SparseRows | None = None,
        legal: ArrayLike | None = None,
        initial: int | ArrayLike | None = None,
        order: build.Order | None = None,
        costs: bool = False,
        **other_fields: Any,
    ) -> FiniteMDP:
        """An MDP from its matrices. The arrays of a CSR transition are not copied: do not change them
        afterwards.

        Args:
            transition: `p(s' | s, a)`: dense `[S, A, S']`, whose zeros are not outcomes; sparse `[S*A, S']`,
                row `s * A + a`; or a list or an object array of `A` matrices `[S, S']`, sparse or dense if
                an object array, otherwise sparse.
            reward: `r(s)` as `[S]`, `r(s, a)` as `[S, A]`, `r(s, a, s')` as `[S, A, S']` or sparse like the
                transition.
            terminated: whether the episode ends: per next state, `[S']`, or in one of the reward's other
                shapes; None if it never does. A state in which episodes end still needs its rows, for example
                transitions to itself.
            legal: `[S, A]`; the row of an illegal action is ignored. None if every action is legal.
            initial: the first state, or the distribution `[S]` of it; None for a uniform distribution.
            order: of the axes of every dense array with three of them: `SAS` is `[S, A, S']`, and `ASS` is
                `[A, S, S']`, as in pymdptoolbox. Arrays with two axes are `[S, A]` in both. None is `SAS`,
                with a warning if there are as many actions as states, since a shape does not tell them apart.
            costs: whether `reward` contains costs, to be minimized: its sign is then changed.
            other_fields: other fields of `FiniteMDP`: names, grid and time limit.

        Raises:
            UsageError: the shapes do not fit, a legal action has no outcome, or `FiniteMDP` refuses the
                numbers.
        """
        num_actions, outcomes = build.from_arrays(transition, reward, terminated, legal, order)
        num_states = (len(outcomes.offset) - 1) // num_actions
        return cls._from_outcomes(num_states, num_actions, outcomes, initial, costs, other_fields)

    @classmethod
    def from_function(
        cls,
        num_states: int,
        num_actions: int,
        outcomes: Callable[[int, int], Iterable[tuple[float, int, float, bool]]],
        *,
        initial: int | ArrayLike | None = None,
        costs: bool = False,
        **other_fields: Any,
    ) -> FiniteMDP:
        """An MDP from a function of state and action.

        Args:
            num_states: `S`.
            num_actions: `A`.
            outcomes: returns `[(probability, next state, reward, terminated), ...]`, like an entry of
                Gymnasium's `P`; an empty list if the action is illegal.
            initial: the first state, or the distribution `[S]` of it; None for a uniform distribution.
            costs: whether the function returns costs, to be minimized: their sign is then changed.
            other_fields: other fields of `FiniteMDP`: names, grid and time limit.

        Raises:
            UsageError: the function returns something else, or `FiniteMDP` refuses the numbers.
        """
        num_states, num_actions = count("num_states", num_states), count("num_actions", num_actions)
        made = build.from_function(num_states, num_actions, outcomes)
        return cls._from_outcomes(num_states, num_actions, made, initial, costs, other_fields)

    @classmethod
    def from_transitions(
        cls,
        obs: ArrayLike,
        action: ArrayLike,
        reward: ArrayLike,
        next_obs: ArrayLike,
        terminated: ArrayLike,
        *,
        num_states: int,
        num_actions: int,
        unseen: build.Unseen = "absorb",
        initial: int | ArrayLike | None = None,
        **other_fields: Any,
    ) -> FiniteMDP:
        """The certainty-equivalent MDP of data: an outcome that followed a pair n times in m has probability
        n / m.

        Data with the same pair, next state, reward and `terminated` are one outcome; different rewards are
        different outcomes.

        Args:
            obs: `[N]` states.
            action: `[N]`.
            reward: `[N]`.
            next_obs: `[N]` the true next states, never those after a reset.
            terminated: `[N]`; a time limit is not a termination.
            num_states: `S`.
            num_actions: `A`.
            unseen: what a pair without data does, at reward 0: `absorb` ends the episode, `self_loop` stays
                in the state forever, `uniform` leads to a uniformly random state; `refuse` raises.
            initial: the first state, or the distribution `[S]` of it; None for a uniform distribution.
            other_fields: other fields of `FiniteMDP`: names, grid and time limit.

        Raises:
            UsageError: the arrays differ in length, a state or action is out of range, or there are unseen
                pairs and `unseen` is `refuse`.
        """
        num_states, num_actions = count("num_states", num_states), count("num_actions", num_actions)
        counted = build.from_transitions(
            obs, action, reward, next_obs, terminated, num_states, num_actions, unseen
        )
        return cls._from_outcomes(num_states, num_actions, counted, initial, False, other_fields)

    @classmethod
    def from_pairs(
        cls,
        state: ArrayLike,
        action: ArrayLike,
        reward: Any,
        transition: Any,
        *,
        terminated: Any = None,
        num_actions: int | None = None,
        initial: int | ArrayLike | None = None,
        costs: bool = False,
        **other_fields: Any,
    ) -> FiniteMDP:
        """An MDP from one row per legal state-action pair, like QuantEcon's `DiscreteDP`.

        Args:
            state: `[L]` integers.
            action: `[L]` integers; a pair that is not among the rows is illegal.
            reward: `r(s, a)` as `[L]`, or `r(s, a, s')` as `[L, S']`, dense or sparse.
            transition: `p(s' | s, a)` as `[L, S']`, dense or sparse.
            terminated: whether the episode ends, in one of the reward's shapes; None if it never does.
            num_actions: `A`; None is one more than the largest action.
            initial: the first state, or the distribution `[S]` of it; None for a uniform distribution.
            costs: whether `reward` contains costs, to be minimized: its sign is then changed.
            other_fields: other fields of `FiniteMDP`: names, grid and time limit.

        Raises:
            UsageError: shapes do not fit, a pair occurs twice, or a row is empty; names the row.
        """
        from bellgrad.mdp.pairs import from_pairs  # each builder is read when it is used

        actions, outcomes = from_pairs(state, action, reward, transition, terminated, num_actions)
        num_states = (len(outcomes.offset) - 1) // actions
        return cls._from_outcomes(num_states, actions, outcomes, initial, costs, other_fields)

    @classmethod
    def from_rows(
        cls,
        rows: Any,
        *,
        states: Iterable[Hashable] | None = None,
        actions: Iterable[Hashable] | None = None,
        initial: Any = None,
        costs: bool = False,
        **other_fields: Any,
    ) -> FiniteMDP:
        """An MDP from a table with one row per outcome.

        States and actions may be anything that can be hashed. They are numbered in the order in which they
        first occur, integers by size, and keep their names; the integers 0 to n - 1 are their own numbers.
        Rows that differ in their probability only are one outcome, whose probability is their sum. A pair
        without rows is illegal. A state that is reached only when an episode ends needs no rows.

        Args:
            rows: tuples (state, action, probability, next state, reward, terminated), the last one optional;
                dictionaries with these keys (`next_state`); or a table with these columns: a data frame of
                pandas or polars, a structured array, a dictionary of columns. Others are ignored.
            states: all states in the order of their numbers; None is as above.
            actions: all actions, the same.
            initial: the first state as the rows name it, a dictionary of states and their probabilities, or
                the distribution `[S]`; None for a uniform distribution.
            costs: whether the rewards are costs, to be minimized: their sign is then changed.
            other_fields: other fields of `FiniteMDP`: grid and time limit.

        Raises:
            UsageError: a row is not an outcome, or `FiniteMDP` refuses the numbers; names the row.
        """
        from bellgrad.mdp.rows import from_rows

        made = from_rows(rows, states, actions, initial)
        return cls._from_outcomes(costs=costs, other_fields=other_fields, **made)

    @classmethod
    def from_states(
        cls,
        start: Any,
        actions: Callable[[Any], Iterable[Hashable]] | Sequence[Hashable],
        outcomes: Callable[[Any, Any], Iterable[tuple[float, Any, float, bool]]],
        *,
        max_states: int = 1_000_000,
        costs: bool = False,
        **other_fields: Any,
    ) -> FiniteMDP:
        """An MDP of all states that can be reached from a start, found breadth first.

        States and actions may be anything that can be hashed, for example tuples. States are numbered in the
        order in which they are found, and named by `str`: `mdp.state_index(state)` gives the number.

        Args:
            start: the first state, or a dictionary of first states and their probabilities.
            actions: a function of a state that returns its legal actions, or a list, if all are always legal.
            outcomes: a function of state and action that returns `[(probability, next state, reward,
                terminated), ...]`; an empty list if the action is illegal. It is not asked about states that
                are reached only when an episode ends.
            max_states: more states than that are refused.
            costs: whether the function returns costs, to be minimized: their sign is then changed.
            other_fields: other fields of `FiniteMDP`: grid and time limit.

        Raises:
            UsageError: there are more states, or a function returns something else; names the state.
        """
        from bellgrad.mdp.rows import from_states

        made = from_states(start, actions, outcomes, max_states)
        return cls._from_outcomes(costs=costs, other_fields=other_fields, **made)

    @classmethod
    def from_gymnasium(cls, env: Any, **env_kwargs: Any) -> FiniteMDP:
        """The dynamics of a Gymnasium environment that has them in `P`, of Blackjack, or of a
        `FiniteMDPEnv`; see `bellgrad.mdp.from_gym`.

        Args:
            env: a registered id, an environment, or a class or function that makes one.
            env_kwargs: arguments of the environment.

        Raises:
            UsageError: the environment has no `P`, or its steps do not follow it.
        """
        from bellgrad.mdp.from_gym import from_gymnasium  # not before it is needed: it imports Gymnasium

        made: FiniteMDP = from_gymnasium(cls, env, env_kwargs)
        return made

    @classmethod
    def _from_outcomes(
        cls,
        num_states: int,
        num_actions: int,
        outcomes: build.Outcomes,
        initial: int | ArrayLike | None,
        costs: bool,
        other_fields: dict[str, Any],
        **names: Any,
    ) -> FiniteMDP:
        if not isinstance(costs, (bool, np.bool_)):
            raise UsageError(f"costs = {costs!r} must be True or False")
        check_fields(other_fields)
        if costs:
            outcomes = outcomes._replace(reward=-outcomes.reward)
        return cls(
            num_actions,
            *outcomes,
            initial=build.start_distribution(initial, num_states),
            **names | other_fields,
        )

    @property
    def num_states(self) -> int:
        """`S`."""
        return len(self.initial)

    @cached_property
    def legal(self) -> NDArray[np.bool_]:
        """`[S, A]` which actions are legal."""
        return (self.offset[1:] > self.offset[:-1]).reshape(self.num_states, self.num_actions)

    @cached_property
    def continuing(self) -> Floats:
        """`[N]` the probability of each outcome after which the episode continues, otherwise 0; the array
        `probability` itself if no outcome ends an episode."""
        if not self.terminated.any():
            return self.probability
        continuing = np.where(self.terminated, 0.0, self.probability)
        continuing.flags.writeable = False  # numba compiles once for read-only arrays and once for others
        return continuing

    @cached_property
    def transition(self) -> sparse.csr_array:
        """`[S*A, S]` the probability that the episode continues in each next state; a row sums to one minus
        the probability of ending."""
        shape = (len(self.offset) - 1, self.num_states)
        return sparse.csr_array((self.continuing, self.next_state, self.offset), shape=shape, copy=False)

    @cached_property
    def expected_reward(self) -> Floats:
        """`[S, A]` float64, `r(s, a)`; 0 if the action is illegal."""
        return kernels.row_dot(self.offset, self.probability, self.reward).reshape(
            self.num_states, self.num_actions
        )

    @cached_property
    def ending(self) -> Floats:
        """`[S, A]` float64, the probability that the episode ends with this step."""
        return kernels.row_dot(self.offset, self.probability, self.terminated).reshape(
            self.num_states, self.num_actions
        )

    def place(self, pair: int) -> str:
        """The name of a state-action pair, for messages."""
        state, action = divmod(int(pair), self.num_actions)
        return f"{self.state_name(state)}, {self.action_name(action)}"

    def state_name(self, state: int) -> str:
        """`state 3`, with its name if it has one."""
        return f"state {state}" + (f" ({self.state_names[state]})" if self.state_names else "")

    def action_name(self, action: int) -> str:
        """`action 1`, with its name if it has one."""
        return f"action {action}" + (f" ({self.action_names[action]})" if self.action_names else "")

    def save(self, path: str | Path) -> None:
        """Write the MDP to a file, from which `FiniteMDP.load` gives the same bits; an older file of this
        name is replaced.

        Raises:
            CheckpointError: the file cannot be written; an older one is then intact.
        """
        saving.save(path, "finite MDP", self)

    @classmethod
    def load(cls, path: str | Path) -> FiniteMDP:
        """An MDP from a file that `save` wrote; for other formats see `bellgrad.mdp.formats`.

        Raises:
            CheckpointError: there is no such file, it is damaged, or it holds something else.
        """
        return saving.load(path, "finite MDP", cls)

    def to_rows(self) -> list[dict[str, Any]]:
        """One dictionary per outcome, in the columns that `from_rows` reads; states and actions by name if
        all names are different, otherwise by number."""
        return frames.as_rows(frames.outcome_table(self))

    def to_frame(self) -> Any:
        """The rows of `to_rows` as a `pandas.DataFrame`.

        Raises:
            UsageError: pandas is not installed.
        """
        return frames.as_frame(frames.outcome_table(self))

    def state_index(self, state: Any) -> int:
        """The number of the state with this name; its own number if states have no names.

        Args:
            state: the name, or anything whose `str` is the name, as given to `from_states`.

        Raises:
            UsageError: there is none, or more than one.
        """
        return _index("state", state, self.state_names, self.num_states)

    def action_index(self, action: Any) -> int:
        """The number of the action with this name; see `state_index`."""
        return _index("action", action, self.action_names, self.num_actions)


def check_mdp(mdp: Any) -> FiniteMDP:
    """The same MDP.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(mdp, FiniteMDP):
        raise UsageError(
            f"mdp must be a FiniteMDP; got a {type(mdp).__name__}: make one with"
            " FiniteMDP.from_arrays(transition, reward) or another of its builders"
        )
    return mdp


def _index(kind: str, name: Any, names: tuple[str, ...] | None, number: int) -> int:
    if names is None:
        if isinstance(name, (int, np.integer)) and 0 <= name < number:
            return int(name)
        raise UsageError(f"{kind}s have no names; {name!r} is not a number from 0 to {number - 1}")
    text = str(name)
    if names.count(text) > 1:
        raise UsageError(f"{names.count(text)} {kind}s have the name {text!r}; use their numbers")
    if text not in names:
        raise unknown(kind, text, names if len(names) <= MAX_LISTED else names[:MAX_LISTED])
    return names.index(text)


def check_fields(given: dict[str, Any]) -> None:
    """Refuse arguments of a builder that are no field of `FiniteMDP`.

    Raises:
        UsageError: with the nearest right names.
    """
    known = {field.name for field in fields(FiniteMDP)} - conditions.FIELD_TYPES.keys() - {"num_actions"}
    for name in given:
        if name not in known:
            raise unknown("argument", name, known)
