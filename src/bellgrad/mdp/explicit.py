"""What the explicit text formats of model checkers have in common: an MDP as a list of transitions.

These formats know no end of an episode: an outcome that ends one leads to an absorbing state that is added
behind the others, with the label `terminated`, one for each next state. They know one transition per state,
action and next state, and no names but labels. So a comment of one line, which other programs skip, holds
what the format cannot say, and the MDP comes back as it was.

- probabilities of outcomes with the same target are added;
- a reward that the format cannot express is refused, or replaced by the expected one if the caller says so.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from bellgrad.core.errors import UsageError
from bellgrad.core.files import file_path, reason
from bellgrad.mdp import build
from bellgrad.mdp.checks import PROBABILITY_TOLERANCE
from bellgrad.mdp.model import FiniteMDP, check_mdp

NOTE = "bellgrad "  # how the comment begins, after the format's sign for comments
TERMINATED = "terminated"
RESERVED = ("init", "deadlock", TERMINATED)  # labels that are no names
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


class Transitions(NamedTuple):
    """The transitions of an MDP by target, ordered by pair and target.

    Attributes:
        pair: `[L]` int64, `s * A + a`.
        target: `[L]` int64; from `S` on, the absorbing states that stand for ends.
        probability: `[L]` float64.
        reward: `[L]` float64.
        ends: the next state of each absorbing state that was added.
    """

    pair: NDArray[np.int64]
    target: NDArray[np.int64]
    probability: NDArray[np.float64]
    reward: NDArray[np.float64]
    ends: list[int]


def transitions(mdp: FiniteMDP, per_pair: bool, expected_rewards: bool, file_format: str) -> Transitions:
    """The transitions of an MDP, without duplicates.

    Args:
        mdp: the MDP.
        per_pair: whether the format has one reward per pair, not one per target.
        expected_rewards: whether rewards that differ may be replaced by their mean.
        file_format: its name, for messages.

    Raises:
        UsageError: it is no MDP, or rewards differ where the format has one, and may not be replaced.
    """
    ends = np.unique(check_mdp(mdp).next_state[mdp.terminated])
    pair = np.repeat(np.arange(len(mdp.offset) - 1), np.diff(mdp.offset))
    target = mdp.next_state.astype(np.int64)
    target[mdp.terminated] = mdp.num_states + np.searchsorted(ends, target[mdp.terminated])
    order = np.lexsort((target, pair))
    pair, target = pair[order], target[order]
    probability, reward = mdp.probability[order], mdp.reward[order]
    first = np.flatnonzero((np.diff(pair, prepend=-1) != 0) | (np.diff(target, prepend=-1) != 0))
    group = np.flatnonzero(np.diff(pair, prepend=-1) != 0) if per_pair else first
    if not len(first):
        raise UsageError("the MDP has no outcome")
    least, most = np.minimum.reduceat(reward, group), np.maximum.reduceat(reward, group)
    differs = least != most
    if differs.any() and not expected_rewards:
        where = int(group[differs.argmax()])
        scope = "action" if per_pair else "action and next state"
        raise UsageError(
            f"{mdp.place(pair[where])}: rewards from {least[differs][0]:g} to {most[differs][0]:g}, and"
            f" {file_format} has one per {scope}; write their mean with expected_rewards=True"
        )
    if differs.any():
        weight = np.add.reduceat(probability, group)
        mean = np.add.reduceat(probability * reward, group) / np.where(weight > 0, weight, 1)
        # Where all are equal the mean would only add rounding.
        chosen = np.where(differs, mean, least)
        reward = np.repeat(chosen, np.diff(group, append=len(reward)))
    return Transitions(
        pair[first], target[first], np.add.reduceat(probability, first), reward[first], ends.tolist()
    )


def notes_of(mdp: FiniteMDP, ends: list[int]) -> str:
    """The comment, without the sign for comments: one line of JSON in ASCII."""
    here = np.flatnonzero(mdp.initial)
    return NOTE + json.dumps(
        {
            "num_actions": mdp.num_actions,
            "ends": ends,
            "initial": dict(zip(map(str, here.tolist()), mdp.initial[here].tolist(), strict=True)),
            "state_names": mdp.state_names,
            "action_names": mdp.action_names,
            "grid": mdp.grid,
            "max_episode_steps": mdp.max_episode_steps,
        }
    )


def labels_of(mdp: FiniteMDP, state: int) -> list[str]:
    """The labels of a state in a file: `init`, its name if that can be a label, or `terminated`."""
    if state >= mdp.num_states:
        return [TERMINATED]
    found = ["init"] if mdp.initial[state] > 0 else []
    name = mdp.state_names[state] if mdp.state_names else ""
    if WORD.fullmatch(name) and name not in RESERVED:
        found.append(name)
    return found


class Lines:
    """The lines of a text file with their numbers, without comments; and the note among the comments.

    Args:
        path: the file.
        comment: what a comment begins with.

    Raises:
        UsageError: the file cannot be read as text.
    """

    def __init__(self, path: str | Path, comment: str):
        self.path, self.number, self.note = file_path(path), 0, {}
        self._lines: list[tuple[int, str]] = []
        for number, line in enumerate(read_text(self.path).splitlines(), 1):
            text, _, said = line.partition(comment)
            if said.strip().startswith(NOTE):
                self.note = parsed_note(self.path, number, said.strip().removeprefix(NOTE))
            if text.strip():
                self._lines.append((number, text.strip()))
        self._lines.reverse()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if not self._lines:
            raise StopIteration
        self.number, text = self._lines.pop()
        return text

    def peek(self) -> str:
        """The next line, empty at the end of the file."""
        return self._lines[-1][1] if self._lines else ""

    def __len__(self) -> int:
        """Lines that are still to be read."""
        return len(self._lines)

    def refuse(self, problem: str, number: int | None = None) -> NoReturn:
        """Raise an error that names the file and the line."""
        raise UsageError(f"{self.path}, line {number or self.number}: {problem}")

    def integer(self, text: str, what: str, limit: int | None = None) -> int:
        """A whole number from 0 to `limit - 1`."""
        if not (text.isascii() and text.isdecimal()):
            self.refuse(f"{what} {text!r} is not a whole number")
        if limit is not None and int(text) >= limit:
            self.refuse(f"{what} {text} is out of range 0 to {limit - 1}")
        return int(text)

    def real(self, text: str, what: str) -> float:
        """A finite number, also as a fraction `1/3`."""
        try:
            value = float(Fraction(text)) if "/" in text else float(text)
        except (ValueError, ZeroDivisionError):
            self.refuse(f"{what} {text!r} is not a number")
        if not np.isfinite(value):
            self.refuse(f"{what} {text!r} must be finite")
        return value

    def probability(self, text: str) -> float:
        """A number from 0 to 1."""
        value = self.real(text, "probability")
        if not 0 <= value <= 1:
            self.refuse(f"probability {text} is out of range 0 to 1")
        return value


def parsed_note(path: Path, number: int, text: str) -> dict[str, Any]:
    """The content of the comment `text` on a line.

    Raises:
        UsageError: it is not JSON; names the line.
    """
    try:
        note = json.loads(text)
        if not isinstance(note, dict):
            raise ValueError("it is not an object")
    except ValueError as error:
        raise UsageError(f"{path}, line {number}: the comment of Bellgrad is damaged: {error}") from error
    return note


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        UsageError: it cannot be read, or is not text.
    """
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"{path} is not an ordinary file")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"{path} cannot be read: there is no such file") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a text file: {error}") from None


class Choice(NamedTuple):
    """One action of a state in a file: the line where it begins, its name or None, and (target, probability,
    reward) of each transition."""

    line: int
    name: str | None
    row: list[tuple[int, float, float]]


def assemble(
    lines: Lines,
    choices: list[list[Choice]],
    labels: list[list[str]],
    costs: bool,
    names: list[str] | None = None,
) -> FiniteMDP:
    """The MDP of a file.

    Args:
        lines: the file, for messages and its note.
        choices: per state.
        labels: per state; `init` marks the first states, with equal probabilities.
        costs: whether rewards are costs.
        names: of the states; None, or a note, for those of the note, otherwise the labels.

    Raises:
        UsageError: a state has no action, probabilities do not sum to one, or the note does not fit.
    """
    note = lines.note
    rows: list[tuple[float, ...]] = []
    with _fitting(lines.path):
        own_states = len(choices) - len(note.get("ends", []))
        numbers, num_actions, action_names = _number_actions(choices[:own_states], note)
        for state, own in enumerate(choices[:own_states]):
            if not own:
                raise UsageError(
                    f"{lines.path}: state {state} has no action; a state that nothing leaves needs a"
                    " transition to itself"
                )
            for choice, action in zip(own, numbers[state], strict=True):
                _check_sum(lines, f"state {state}, action {choice.name or action}", choice)
                rows += [(state, action, *transition) for transition in choice.row]
    first = np.array(["init" in own for own in labels])
    words = names or [" ".join(name for name in own if name not in RESERVED[:2]) for own in labels]
    fields = {
        "initial": first / first.sum() if first.any() else np.eye(1, len(choices))[0],
        "state_names": tuple(words) if any(words) else None,
        "action_names": action_names,
    }
    columns = list(np.array(rows, np.float64).T)
    if costs:
        columns[4] = -columns[4]
    return from_columns(lines.path, len(choices), num_actions, columns, note, fields)


def from_columns(
    path: Path,
    total: int,
    num_actions: int,
    columns: Sequence[NDArray[Any]],
    note: dict[str, Any],
    fields: dict[str, Any],
) -> FiniteMDP:
    """The MDP of a table of transitions.

    Args:
        path: the file, for messages.
        total: states, with those that stand for ends.
        num_actions: actions.
        columns: `[L]` each: state, action, target, probability, reward.
        note: of the file; its fields are used instead of `fields` if it has any.
        fields: the other fields of the MDP.

    Raises:
        UsageError: the note does not fit, or `FiniteMDP` refuses the numbers.
    """
    with _fitting(path):
        ends = np.array([int(end) for end in note.get("ends", [])], np.int64)
        num_states = total - len(ends)
        if note:
            initial = np.zeros(num_states)
            for state, weight in note["initial"].items():
                initial[int(state)] = weight
            fields = {"initial": initial} | {
                name: tuple(note[name]) if isinstance(note[name], list) else note[name]
                for name in ("state_names", "action_names", "grid", "max_episode_steps")
            }
        state, action, target = (column.astype(np.int64) for column in columns[:3])
        kept = state < num_states
        pairs = state[kept] * num_actions + action[kept]
        order = np.argsort(pairs, kind="stable")
        successor, probability, reward = target[kept][order], columns[3][kept][order], columns[4][kept][order]
        ended = successor >= num_states
        successor[ended] = ends[successor[ended] - num_states]
        offset = build.offsets(np.bincount(pairs, minlength=num_states * num_actions))
        try:
            return FiniteMDP(
                num_actions, offset, probability, successor.astype(offset.dtype), reward, ended, **fields
            )
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error


@contextmanager
def _fitting(path: Path) -> Iterator[None]:
    """What a note says may be anything: it does not fit the file if the block fails."""
    try:
        yield
    except (TypeError, KeyError, ValueError, IndexError, AttributeError) as error:
        raise UsageError(f"{path}: the comment of Bellgrad does not fit the file: {error!r}") from error


def _check_sum(lines: Lines, where: str, choice: Choice) -> None:
    total = sum(probability for _, probability, _ in choice.row)
    if not abs(total - 1) <= PROBABILITY_TOLERANCE:
        lines.refuse(f"the probabilities of {where} sum to {total:.9g}, not to 1", choice.line)


def action_texts(names: Sequence[str] | None, number: int) -> list[str]:
    """How actions are written: their names if these are words and different, otherwise their numbers."""
    if names and len(set(names)) == number and all(WORD.fullmatch(name) for name in names):
        return list(names)
    return [str(action) for action in range(number)]


def _number_actions(
    choices: list[list[Choice]], note: dict[str, Any]
) -> tuple[list[list[int]], int, tuple[str, ...] | None]:
    """The number of each action of each state, how many there are, and their names."""
    if note:
        count = int(note["num_actions"])
        known = {text: i for i, text in enumerate(action_texts(note["action_names"], count))}
        return [[known[str(choice.name)] for choice in own] for own in choices], count, None
    if all(
        None not in (found := {choice.name for choice in own}) and len(found) == len(own) for own in choices
    ):
        texts = list(dict.fromkeys(str(choice.name) for own in choices for choice in own))
        numbered = {str(action) for action in range(len(texts))} == set(texts)
        known = {text: int(text) if numbered else i for i, text in enumerate(texts)}
        names = None if numbered else tuple(texts)
        return [[known[str(choice.name)] for choice in own] for own in choices], len(texts), names
    return [list(range(len(own))) for own in choices], max(map(len, choices)), None
