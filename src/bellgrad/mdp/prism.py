"""PRISM's explicit files, read and written: `NAME.tra` (transitions), and if they are there `NAME.sta`
(states), `NAME.lab` (labels), `NAME.srew` (rewards of states) and `NAME.trew` (rewards of transitions).

    NAME.tra    states choices transitions      then  state choice target probability [action]
    NAME.srew   states lines                    then  state reward
    NAME.trew   states choices lines            then  state choice target reward
    NAME.lab    0="init" 1="deadlock" ...       then  state: label label ...
    NAME.sta    (variable,...)                  then  state:(value,...)

A `.tra` file of a DTMC has no column of choices. What the files cannot say is in a comment of `NAME.trew`;
see `bellgrad.mdp.explicit`. PRISM itself wants one reward per state and choice.

Source: https://www.prismmodelchecker.org/manual/Appendices/ExplicitModelFiles
"""

import re
from pathlib import Path
from typing import Any

from bellgrad.core.errors import UsageError
from bellgrad.core.files import file_path, write_atomic
from bellgrad.mdp.explicit import (
    RESERVED,
    Choice,
    Lines,
    action_texts,
    assemble,
    labels_of,
    notes_of,
    transitions,
)
from bellgrad.mdp.model import FiniteMDP

LABEL = re.compile(r'(\d+)="([^"]*)"\s*')


def write_prism(mdp: FiniteMDP, path: str | Path, *, expected_rewards: bool = False) -> None:
    """Write an MDP to the explicit files of PRISM; older files are replaced.

    Args:
        mdp: the MDP.
        path: `NAME.tra`; the others are written beside it.
        expected_rewards: whether the rewards of outcomes with the same next state may be replaced by their
            mean.

    Raises:
        UsageError: such rewards differ and may not be replaced.
        CheckpointError: a file cannot be written; an older one is then intact.
    """
    rows = transitions(mdp, per_pair=False, expected_rewards=expected_rewards, file_format="PRISM")
    states = mdp.num_states + len(rows.ends)
    texts = action_texts(mdp.action_names, mdp.num_actions)
    place = mdp.legal.cumsum(axis=1).ravel() - 1  # of a pair among the legal ones of its state
    tra, trew = [], []
    for pair, target, probability, reward in zip(*(column.tolist() for column in rows[:4]), strict=True):
        state, action = divmod(pair, mdp.num_actions)
        tra.append(f"{state} {place[pair]} {target} {probability!r} {texts[action]}")
        if reward != 0 or str(reward)[0] == "-":  # -0.0 too comes back as it was
            trew.append(f"{state} {place[pair]} {target} {reward!r}")
    tra += [f"{end} 0 {end} 1 {texts[0]}" for end in range(mdp.num_states, states)]
    size = f"{states} {int(mdp.legal.sum()) + len(rows.ends)}"
    own = [labels_of(mdp, state) for state in range(states)]
    names = [*RESERVED[:2], *dict.fromkeys(name for found in own for name in found if name != "init")]
    number = {name: i for i, name in enumerate(names)}
    lab = [f"{state}: {' '.join(str(number[n]) for n in found)}" for state, found in enumerate(own) if found]
    whole = {
        ".tra": [f"{size} {len(tra)}", *tra],
        ".trew": [f"# {notes_of(mdp, rows.ends)}", f"{size} {len(trew)}", *trew],
        ".lab": [" ".join(f'{i}="{name}"' for i, name in enumerate(names)), *lab],
        ".sta": ["(s)", *(f"{state}:({state})" for state in range(states))],
    }
    for suffix, text in whole.items():
        write_atomic(_beside(path, suffix), "\n".join(text) + "\n")
    _beside(path, ".srew").unlink(missing_ok=True)  # of an older model: it would be read with these


def read_prism(path: str | Path, *, costs: bool = False) -> FiniteMDP:
    """An MDP from the explicit files of PRISM. States are named by their labels, otherwise by the values of
    their variables; the first state is the one with the label `init`, otherwise state 0.

    Args:
        path: `NAME.tra`; the others are read if they are beside it.
        costs: whether rewards are costs, to be minimized: their sign is then changed.

    Raises:
        UsageError: a file is missing, or a line is not as it should be; names file and line.
    """
    path = _beside(path, ".tra")
    tra = Lines(path, "#")
    size = next(tra, "").split()
    if len(size) not in (2, 3):
        tra.refuse("expected the numbers of states, choices and transitions", max(tra.number, 1))
    chain = len(size) == 2
    states, *_, count = (tra.integer(text, "size") for text in size)
    if states > len(tra):
        tra.refuse(f"{states} states need as many transitions at least, and there are {len(tra)}")
    found: list[dict[int, tuple[int, str | None, list[tuple[int, float]]]]] = [{} for _ in range(states)]
    read = 0
    for line in tra:
        words = line.split()
        if not 3 + (not chain) <= len(words) <= 4 + (not chain):
            tra.refuse(f"expected a transition of {3 + (not chain)} numbers, got {line!r}")
        state = tra.integer(words[0], "state", states)
        choice = 0 if chain else tra.integer(words[1], "choice")
        target, probability = words[1:3] if chain else words[2:4]
        name = words[4 - chain] if len(words) > 4 - chain and not chain else None
        _, named, row = found[state].setdefault(choice, (tra.number, name, []))
        if named != name:
            tra.refuse(f"choice {choice} of state {state} is called {name!r} here and {named!r} before")
        row.append((tra.integer(target, "target", states), tra.probability(probability)))
        read += 1
    if read != count:
        raise UsageError(f"{path}: there are {read} transitions, and the first line says {count}")
    state_reward = _state_rewards(_beside(path, ".srew"), states)
    reward, note = _transition_rewards(_beside(path, ".trew"), states, chain)
    tra.note = note

    def paid(s: int, k: int, t: int) -> float:
        one, other = reward.get((s, k, t), 0.0), state_reward.get(s)
        return one if other is None else one + other  # -0.0 stays what it is

    choices = [
        [
            Choice(line, name, [(t, p, paid(s, k, t)) for t, p in row])
            for k, (line, name, row) in sorted(own.items())
        ]
        for s, own in enumerate(found)
    ]
    known = {(s, k, t) for s, own in enumerate(found) for k, (_, _, row) in own.items() for t, _ in row}
    if reward.keys() - known:
        s, k, t = min(reward.keys() - known)
        raise UsageError(
            f"{_beside(path, '.trew')}: state {s}, choice {k} has a reward for target {t}, but no transition"
        )
    labels = _labels(_beside(path, ".lab"), states)
    named = any(name not in RESERVED[:2] for own in labels for name in own)
    values = None if named else _variables(_beside(path, ".sta"), states)
    return assemble(tra, choices, labels, costs, values)


def _beside(path: str | Path, suffix: str) -> Path:
    """The file of a model with this suffix; `.tra` may be left out of the model's name."""
    given = file_path(path)
    if given.suffix.lower() != ".tra":
        return given.with_name(f"{given.name}{suffix}")
    return given if suffix == ".tra" else given.with_suffix(suffix)


def _state_rewards(path: Path, states: int) -> dict[int, float]:
    if not path.exists():
        return {}
    lines, found = Lines(path, "#"), {}
    next(lines, None)
    for line in lines:
        words = line.split()
        if len(words) != 2:
            lines.refuse(f"expected a state and its reward, got {line!r}")
        found[lines.integer(words[0], "state", states)] = lines.real(words[1], "reward")
    return found


def _transition_rewards(
    path: Path, states: int, chain: bool
) -> tuple[dict[tuple[int, int, int], float], dict[str, Any]]:
    """The reward of each (state, choice, target), and the note."""
    if not path.exists():
        return {}, {}
    lines, found = Lines(path, "#"), {}
    next(lines, None)
    for line in lines:
        words = line.split()
        if len(words) != 4 - chain:
            lines.refuse(
                f"expected {'state, target' if chain else 'state, choice, target'} and reward, got {line!r}"
            )
        state, *choice, target = (lines.integer(text, "number") for text in words[:-1])
        found[state, choice[0] if choice else 0, target] = lines.real(words[-1], "reward")
    return found, lines.note


def _labels(path: Path, states: int) -> list[list[str]]:
    found: list[list[str]] = [[] for _ in range(states)]
    if path.exists():
        lines = Lines(path, "#")
        head = next(lines, "")
        if not LABEL.match(head) or LABEL.sub("", head):
            lines.refuse(f'expected labels such as 0="init" 1="deadlock", got {head!r}', 1)
        names = dict(LABEL.findall(head))
        for line in lines:
            state, _, own = line.partition(":")
            for label in own.split():
                if label not in names:
                    lines.refuse(f"label {label} is not among those of the first line")
                found[lines.integer(state.strip(), "state", states)].append(names[label])
    return found


def _variables(path: Path, states: int) -> list[str] | None:
    """The values of the variables in each state, as `(1,0)`."""
    if not path.exists():
        return None
    lines, found = Lines(path, "#"), [""] * states
    if not next(lines, "").startswith("("):
        lines.refuse("expected the names of the variables in parentheses", 1)
    for line in lines:
        state, _, values = line.partition(":")
        found[lines.integer(state.strip(), "state", states)] = values.strip()
    return found
