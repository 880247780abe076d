"""Cassandra's text format for MDPs and POMDPs, read and written (`.MDP` and `.POMDP`).

    discount: 0.95
    values: reward
    states: tiger-left tiger-right
    actions: listen open-left open-right
    observations: hear-left hear-right
    start: uniform
    T: listen identity
    O: listen : tiger-left
    0.85 0.15
    R: open-left : tiger-left : * : * -100

A later line overrides an earlier one. The format knows neither illegal actions nor ends of episodes: outcomes
that end one lead to absorbing states that are added behind the others. What the format cannot say is in a
comment; see `bellgrad.mdp.explicit`. Rewards that depend on the observation are replaced by their mean over
observations, which leaves the value of every policy as it is.

Source: A. R. Cassandra, https://www.pomdp.org/code/pomdp-file-spec.html and pomdp-file-grammar.html.
"""

import re
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from bellgrad.core.errors import UsageError
from bellgrad.core.files import file_path, write_atomic
from bellgrad.mdp.checks import PROBABILITY_TOLERANCE
from bellgrad.mdp.explicit import NOTE, WORD, from_columns, notes_of, parsed_note, read_text, transitions
from bellgrad.mdp.model import FiniteMDP
from bellgrad.mdp.pomdp import POMDP

PREAMBLE = ("discount", "values", "states", "actions", "observations")
KEYWORDS = (*PREAMBLE, "start", "T", "O", "R")
TOKEN = re.compile(r":|[^\s:]+")
MAX_ENTRIES = 500_000_000  # of a dense table


class Parsed(NamedTuple):
    """The content of a file: dense tables, with costs as negative rewards.

    Attributes:
        discount: per step.
        names: of states, actions and observations; None if the file counts them.
        start: `[S]`.
        transition: `[A, S, S']`.
        observation: `[A, S', O]`; None if the file has no observations.
        reward: `[A, S, S']`, the mean over observations.
    """

    discount: float
    names: dict[str, tuple[str, ...] | None]
    start: NDArray[np.float64]
    transition: NDArray[np.float64]
    observation: NDArray[np.float64] | None
    reward: NDArray[np.float64]


def read_pomdp(path: str | Path) -> POMDP:
    """A POMDP from a file in Cassandra's format. Costs become negative rewards.

    In a file without observations the states are what is seen.

    Args:
        path: the file.

    Raises:
        UsageError: the file is not in this format; names the line.
    """
    mdp, parsed, count = _read(path)
    observation = parsed.observation
    if observation is None:
        observation = np.broadcast_to(np.eye(mdp.num_states), (mdp.num_actions, *[mdp.num_states] * 2)).copy()
        return POMDP(mdp, observation, parsed.discount, mdp.state_names)
    return POMDP(mdp, observation[:, :count], parsed.discount, parsed.names["observations"])


def read_cassandra_mdp(path: str | Path) -> tuple[FiniteMDP, float]:
    """An MDP and its discount from a file in Cassandra's format whose states can be seen: it has no
    observations, or each belongs to one state only.

    Args:
        path: the file.

    Raises:
        UsageError: the file is not in this format, names the line; or states cannot be seen.
    """
    mdp, parsed, count = _read(path)
    if parsed.observation is not None:
        found = POMDP(mdp, parsed.observation[:, :count])
        if not found.fully_observable:
            raise UsageError(
                f"{path} is partially observable, with {found.num_observations} observations of"
                f" {mdp.num_states} states, and solvers of MDPs would see the states; read it with"
                " bellgrad.read_pomdp"
            )
    return mdp, parsed.discount


def write_pomdp(
    model: POMDP | FiniteMDP,
    path: str | Path,
    *,
    discount: float | None = None,
    expected_rewards: bool = False,
) -> None:
    """Write a POMDP, or an MDP as a file without observations; an older file is replaced.

    Args:
        model: the POMDP or MDP; in every state every action is legal.
        path: the file.
        discount: of an MDP, whose file needs one; 0.99 if it is None. A POMDP has its own.
        expected_rewards: whether the rewards of outcomes with the same next state may be replaced by their
            mean.

    Raises:
        UsageError: an action is illegal, or rewards differ and may not be replaced.
        CheckpointError: the file cannot be written; an older one is then intact.
    """
    if isinstance(model, POMDP):
        if discount is not None:
            raise UsageError("a POMDP has its own discount; leave out the argument")
        mdp, discount = model.mdp, model.discount
    else:
        mdp, discount = model, 0.99 if discount is None else discount
    if not isinstance(mdp, FiniteMDP):
        raise UsageError(f"expected a POMDP or a FiniteMDP, got {type(mdp).__name__}")
    if not mdp.legal.all():
        raise UsageError(
            f"{mdp.place(int((~mdp.legal).argmax()))} is illegal, and this format has no illegal actions;"
            " give it an outcome with a large negative reward"
        )
    rows = transitions(mdp, per_pair=False, expected_rewards=expected_rewards, file_format="this format")
    states = mdp.num_states + len(rows.ends)
    lines = [
        f"# {notes_of(mdp, rows.ends)}",
        f"discount: {_text(discount)}",
        "values: reward",
        f"states: {_names(mdp.state_names, states) if not rows.ends else states}",
        f"actions: {_names(mdp.action_names, mdp.num_actions)}",
    ]
    if isinstance(model, POMDP):
        lines.append(f"observations: {_names(model.observation_names, model.num_observations)}")
    lines.append("start: " + " ".join(map(_text, [*mdp.initial.tolist(), *[0.0] * len(rows.ends)])))
    for pair, target, probability, reward in zip(*(column.tolist() for column in rows[:4]), strict=True):
        state, action = divmod(pair, mdp.num_actions)
        lines.append(f"T: {action} : {state} : {target} {_text(probability)}")
        if reward != 0 or str(reward)[0] == "-":
            seen = " : *" if isinstance(model, POMDP) else ""
            lines.append(f"R: {action} : {state} : {target}{seen} {_text(reward)}")
    lines += [f"T: * : {end} : {end} 1.0" for end in range(mdp.num_states, states)]
    if isinstance(model, POMDP):
        for action in range(mdp.num_actions):
            lines += [
                f"O: {action} : {state}\n{' '.join(map(_text, model.observation[action, state].tolist()))}"
                for state in range(mdp.num_states)
            ]
        # What an end looks like does not matter: nothing is done after it.
        lines += [f"O: * : {end} uniform" for end in range(mdp.num_states, states)]
    write_atomic(file_path(path), "\n".join(lines) + "\n")


def _text(value: float) -> str:
    """A number that reads back to the same bits, with digits on both sides of a point."""
    mantissa, letter, exponent = repr(float(value)).partition("e")
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}{letter}{exponent}"


def _names(names: tuple[str, ...] | None, number: int) -> str:
    """Names if the format can have them, otherwise how many there are."""
    good = names and len(set(names)) == number and all(WORD.fullmatch(n) and n not in RESERVED for n in names)
    return " ".join(names) if names and good else str(number)


RESERVED = (*KEYWORDS, "uniform", "identity", "reset", "reward", "cost", "include", "exclude")


# -------------------------------------------------------------------------------------------------- reading
def _read(path: str | Path) -> tuple[FiniteMDP, Parsed, int]:
    """The MDP of a file, its tables, and the number of states without those that stand for ends."""
    reader = _Reader(file_path(path))
    parsed = reader.parse()
    actions, states, _ = parsed.transition.shape
    state, action, target = np.nonzero(parsed.transition.transpose(1, 0, 2))
    columns = (
        state,
        action,
        target,
        parsed.transition[action, state, target],
        parsed.reward[action, state, target],
    )
    fields = {
        "state_names": parsed.names["states"],
        "action_names": parsed.names["actions"],
        "initial": parsed.start,
    }
    mdp = from_columns(reader.path, states, actions, columns, reader.note, fields)
    return mdp, parsed, mdp.num_states


class _Reader:
    """A recursive reader of the tokens of a file."""

    def __init__(self, path: Path):
        self.path, self.line, self.note = path, 0, {}
        self.tokens: list[tuple[int, str]] = []
        for number, line in enumerate(read_text(path).splitlines(), 1):
            code, _, said = line.partition("#")
            if said.strip().startswith(NOTE):
                self.note = parsed_note(path, number, said.strip().removeprefix(NOTE))
            self.tokens += [(number, token) for token in TOKEN.findall(code)]
        self.at = 0
        self.number: dict[str, int] = {}
        self.names: dict[str, tuple[str, ...] | None] = {"observations": None}
        self.index: dict[str, dict[str, int]] = {}

    def refuse(self, problem: str) -> NoReturn:
        raise UsageError(f"{self.path}, line {self.line}: {problem}")

    def peek(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead][1] if self.at + ahead < len(self.tokens) else ""

    def next(self, expected: str) -> str:
        if self.at >= len(self.tokens):
            self.refuse(f"expected {expected}, and the file ends")
        self.line, token = self.tokens[self.at]
        self.at += 1
        return token

    def colon(self) -> None:
        token = self.next("a colon")
        if token != ":":
            self.refuse(f"expected a colon, got {token!r}")

    def begins(self, ahead: int = 0) -> bool:
        """Whether a line of the grammar begins here: a keyword and a colon, `start include`, or the end."""
        token, after = self.peek(ahead), self.peek(ahead + 1)
        if token == "start" and after in ("include", "exclude"):
            return True
        return not token or (token in KEYWORDS and after == ":")

    def real(self, what: str) -> float:
        token = self.next(what)
        sign = 1.0
        if token in "+-":  # a sign may stand apart
            sign, token = (-1.0 if token == "-" else 1.0), self.next(what)
        try:
            value = sign * float(token)
        except ValueError:
            self.refuse(f"expected {what}, got {token!r}")
        if not np.isfinite(value):
            self.refuse(f"{what} {token} must be finite")
        return value

    def matrix(self, shape: tuple[int, ...], what: str, probabilities: bool = True) -> NDArray[np.float64]:
        """As many numbers as a table needs."""
        values = np.empty(int(np.prod(shape)))
        for i in range(len(values)):
            if self.begins():
                self.refuse(f"{what} needs {len(values)} numbers, and there are {i}")
            values[i] = self.real("a number")
            if probabilities and not 0 <= values[i] <= 1:
                self.refuse(f"probability {values[i]:g} is out of range 0 to 1")
        return values.reshape(shape)

    def which(self, kind: str) -> slice | int:
        """A state, action or observation by name or number; all of them for `*`."""
        token = self.next(f"one of the {kind}")
        if token == "*":
            return slice(None)
        if token in self.index[kind]:
            return self.index[kind][token]
        if token.isascii() and token.isdecimal():
            if int(token) < self.number[kind]:
                return int(token)
            self.refuse(f"{token} is out of range: there are {self.number[kind]} {kind}")
        self.refuse(f"{token!r} is not one of the {kind}")

    def sizes(self, kind: str) -> None:
        """A number, or names."""
        names = []
        while not self.begins():
            names.append(self.next("names"))
            if self.peek() == ":":
                self.refuse(f"expected one of {', '.join(KEYWORDS)} before a colon, got {names[-1]!r}")
        if not names:
            self.refuse(f"{kind} needs a number or names")
        if len(names) == 1 and names[0].isascii() and names[0].isdecimal():
            self.number[kind], self.names[kind] = int(names[0]), None
            if not self.number[kind]:
                self.refuse(f"there must be at least one of the {kind}")
        else:
            digit = next((name for name in names if name[0].isdigit()), None)
            if digit is not None:
                self.refuse(f"{kind}: the name {digit!r} begins with a digit")
            if len(set(names)) < len(names):
                self.refuse(f"{kind}: {next(name for name in names if names.count(name) > 1)!r} occurs twice")
            self.number[kind], self.names[kind] = len(names), tuple(names)
        self.index[kind] = {name: i for i, name in enumerate(self.names[kind] or ())}

    def parse(self) -> Parsed:
        """Read the whole file."""
        discount, sign = None, 1.0
        seen: set[str] = set()
        while self.peek() in PREAMBLE:
            key = self.next("a keyword")
            self.colon()
            if key in seen:
                self.refuse(f"{key} occurs twice")
            seen.add(key)
            if key == "discount":
                discount = self.real("a discount")
                if not 0 <= discount <= 1:
                    self.refuse(f"discount {discount} is out of range 0 to 1")
            elif key == "values":
                word = self.next("reward or cost")
                if word not in ("reward", "cost"):
                    self.refuse(f"values must be reward or cost, got {word!r}")
                sign = -1.0 if word == "cost" else 1.0
            else:
                self.sizes(key)
        missing = [key for key in PREAMBLE[:4] if key not in seen and key != "values"]
        if missing:
            self.line = self.line or 1
            self.refuse(f"missing before T, O and R: {', '.join(missing)}")
        s, a, o = self.number["states"], self.number["actions"], self.number.get("observations")
        if a * s * max(s, o or 0) > MAX_ENTRIES:
            self.refuse(f"{a} x {s} x {max(s, o or 0)} entries are too many for a table; use the DRN format")
        shape = (a, s, s, o or 1)
        self.number.setdefault("observations", 1)
        self.index.setdefault("observations", {})
        start = self.start() if self.peek() == "start" else np.full(s, 1 / s)
        transition = np.zeros((a, s, s))
        observation = None if o is None else np.zeros((a, s, o))
        rewards: list[tuple[tuple[int | slice, ...], NDArray[np.float64]]] = []
        while self.at < len(self.tokens):
            key = self.next("T, O or R")
            if key == "O" and observation is None:
                self.refuse("there are no observations")
            if key not in ("T", "R", "O"):
                self.refuse(f"expected T, O or R, got {key!r}")
            self.colon()
            if key == "R":
                kinds = ("actions", "states", "states", "observations")
                place = self.place(kinds)
                rewards.append((place, self.matrix(shape[len(place) :], "a reward", probabilities=False)))
            elif key == "T":
                self.fill(transition, ("actions", "states", "states"), start)
            elif observation is not None:
                self.fill(observation, ("actions", "states", "observations"), None)
        self.check("T", transition, "state")
        if observation is not None:
            self.check("O", observation, "next state")
        reward = self.mean_rewards(shape, rewards, observation)
        # 0.0 * -1 would be -0.0
        return Parsed(
            discount, self.names, start, transition, observation, np.where(reward == 0, reward, sign * reward)
        )

    def start(self) -> NDArray[np.float64]:
        """The first distribution: a vector, `uniform`, a state, or states that are included or excluded."""
        self.next("start")
        states = self.number["states"]
        word = self.peek()
        if word in ("include", "exclude"):
            self.next(word)
            self.colon()
            chosen = np.zeros(states, bool)
            while not self.begins():
                chosen[self.which("states")] = True
            if word == "exclude":
                chosen = ~chosen
            if not chosen.any():
                self.refuse(f"start {word} leaves no state")
            return chosen / chosen.sum()
        self.colon()
        if self.peek() == "uniform":
            self.next("uniform")
            return np.full(states, 1 / states)
        ahead = 0
        while ahead <= states and not self.begins(ahead):
            ahead += 1
        if ahead == 1 and (states > 1 or self.peek() in self.index["states"]):
            chosen = np.zeros(states)
            chosen[self.which("states")] = 1
            return chosen / chosen.sum()
        found = self.matrix((states,), "start")
        if not abs(found.sum() - 1) <= PROBABILITY_TOLERANCE:
            self.refuse(f"the probabilities of start sum to {found.sum():.9g}, not to 1")
        return found

    def place(self, kinds: tuple[str, ...]) -> tuple[int | slice, ...]:
        """Indices with colons between, as many as there are."""
        found = [self.which(kinds[0])]
        while len(found) < len(kinds) and self.peek() == ":":
            self.colon()
            found.append(self.which(kinds[len(found)]))
        return tuple(found)

    def fill(
        self, values: NDArray[np.float64], kinds: tuple[str, ...], start: NDArray[np.float64] | None
    ) -> None:
        """One line T or O: a probability, a row or a matrix."""
        place = self.place(kinds)
        shape = values.shape[len(place) :]
        word = self.peek()
        block: NDArray[np.float64]
        if word == "uniform" and shape:
            block = np.full(shape, 1 / shape[-1])
        elif word == "identity" and len(shape) == 2 and shape[0] == shape[1]:
            block = np.eye(shape[0])
        elif word == "reset" and shape and start is not None:
            block = np.broadcast_to(start, shape)
        else:
            if word in ("uniform", "identity", "reset"):
                self.next(word)
                self.refuse(f"{word} does not fit here")
            values[place] = self.matrix(shape, kinds[-1])
            return
        self.next(word)
        values[place] = block

    def check(self, key: str, values: NDArray[np.float64], row: str) -> None:
        """Whether each row is a distribution."""
        wrong = ~(np.abs(values.sum(axis=2) - 1) <= PROBABILITY_TOLERANCE)
        if wrong.any():
            action, state = divmod(int(wrong.argmax()), values.shape[1])
            raise UsageError(
                f"{self.path}: the probabilities of {key} for action {self.name('actions', action)}, {row}"
                f" {self.name('states', state)} sum to {values[action, state].sum():.9g}, not to 1"
            )

    def name(self, kind: str, number: int) -> str:
        """A name, or its number if there are no names."""
        names = self.names[kind]
        return names[number] if names else str(number)

    def mean_rewards(
        self,
        shape: tuple[int, ...],
        rewards: list[tuple[tuple[int | slice, ...], NDArray[np.float64]]],
        observation: NDArray[np.float64] | None,
    ) -> NDArray[np.float64]:
        """`[A, S, S']` from the lines R, in order; the mean over observations if they matter."""
        if all(len(place) == 4 and place[3] == slice(None) for place, _ in rewards) or observation is None:
            table = np.zeros(shape[:3])
            for place, values in rewards:
                table[place[:3]] = values if len(place) == 4 else values[..., 0]
            return table
        if np.prod(shape) > MAX_ENTRIES:
            raise UsageError(
                f"{self.path}: rewards by observation need a table of {shape}, which is too large"
            )
        full = np.zeros(shape)
        for place, values in rewards:
            full[place] = values
        same = (full == full[..., :1]).all(axis=3)
        return np.where(same, full[..., 0], np.einsum("aijo,ajo->aij", full, observation))
