"""Storm's explicit format DRN, read and written.

    @type: MDP
    @parameters

    @reward_models
    reward
    @nr_states
    2
    @nr_choices
    3
    @model
    state 0 [0] init
        action left [-1.0]
            0 : 0.5
            1 : 0.5
        ...

Rewards are per state and per action; those of a state are paid with every action in it. Models of type MDP
and DTMC are read. What the format cannot say is in a comment; see `bellgrad.mdp.explicit`.

Source: https://www.stormchecker.org/documentation/background/languages.html and the files that Storm writes.
"""

import re
from pathlib import Path

from bellgrad.core.errors import UsageError, unknown
from bellgrad.core.files import file_path, write_atomic
from bellgrad.mdp.explicit import (
    Choice,
    Lines,
    action_texts,
    assemble,
    labels_of,
    notes_of,
    transitions,
)
from bellgrad.mdp.model import FiniteMDP

VALUE_TYPES = ("double", "rational")
STATE = re.compile(
    r"state\s+(?P<state>\S+)\s*(?P<rate>![^\s\[]+)?\s*(?P<observation>\{.*?\})?\s*"
    r"(?P<rewards>\[.*?\])?(?P<labels>.*)"
)
ACTION = re.compile(r"action\s+(?P<name>[^\s\[]+)\s*(?P<rewards>\[.*?\])?\s*(?P<rest>.*)")
LABEL = re.compile(r'"([^"]*)"|(\S+)')
UNNAMED = "__NOLABEL__"


def write_drn(mdp: FiniteMDP, path: str | Path, *, expected_rewards: bool = False) -> None:
    """Write an MDP to a DRN file; an older file is replaced.

    Args:
        mdp: the MDP.
        path: the file.
        expected_rewards: whether rewards that depend on the outcome may be replaced by their mean, since the
            format has one reward per action.

    Raises:
        UsageError: a reward depends on the outcome and may not be replaced.
        CheckpointError: the file cannot be written; an older one is then intact.
    """
    rows = transitions(mdp, per_pair=True, expected_rewards=expected_rewards, file_format="DRN")
    states = mdp.num_states + len(rows.ends)
    texts = action_texts(mdp.action_names, mdp.num_actions)
    lines = [
        f"// {notes_of(mdp, rows.ends)}",
        *("@type: MDP", "@parameters", "", "@reward_models", "reward"),
        *("@nr_states", str(states), "@nr_choices", str(int(mdp.legal.sum()) + len(rows.ends)), "@model"),
    ]
    state = pair = -1
    for at, target, probability, reward in zip(*(column.tolist() for column in rows[:4]), strict=True):
        if at != pair:
            if at // mdp.num_actions != state:
                state = at // mdp.num_actions
                lines.append(" ".join([f"state {state} [0]", *labels_of(mdp, state)]))
            pair = at
            lines.append(f"\taction {texts[at % mdp.num_actions]} [{reward!r}]")
        lines.append(f"\t\t{target} : {probability!r}")
    for end in range(mdp.num_states, states):
        lines += [f"state {end} [0] terminated", f"\taction {texts[0]} [0]", f"\t\t{end} : 1"]
    write_atomic(file_path(path), "\n".join(lines) + "\n")


def read_drn(path: str | Path, *, reward_model: str | None = None, costs: bool = False) -> FiniteMDP:
    """An MDP from a DRN file. Labels other than `init` and `deadlock` become the names of states.

    Args:
        path: the file.
        reward_model: the one to read; None if the file has at most one.
        costs: whether it contains costs, to be minimized: their sign is then changed.

    Raises:
        UsageError: the file is not a DRN file of an MDP or DTMC; names the line.
    """
    lines = Lines(path, "//")
    head: dict[str, str] = {}
    placeholders: dict[str, str] = {}
    for line in lines:
        key, _, rest = line.partition(":")
        key = key.strip()
        if not key.startswith("@"):
            lines.refuse(f"expected a line that begins with @, got {line!r}")
        if key in head:
            lines.refuse(f"{key} occurs twice")
        if key == "@model":
            break
        words = rest.strip()
        while lines.peek() and not lines.peek().startswith("@"):
            line = next(lines)
            if key == "@placeholders":
                name, _, value = line.partition(":")
                placeholders[name.strip()] = value.strip()
            words = f"{words} {line}".strip()
        head[key] = words
    else:
        raise UsageError(f"{lines.path}: there is no @model; it is not a DRN file or was cut off")
    chosen, count = _checked_head(lines, head, reward_model)
    choices: list[list[Choice]] = []
    labels: list[list[str]] = []
    models = len(head["@reward_models"].split())

    def reward_in(text: str | None) -> float:
        """The reward of the chosen model from `[1, 2]`; 0 if nothing is there."""
        values = [value.strip() for value in (text or "").strip("[]").split(",")]
        if not values[0] or chosen is None:
            return 0.0
        if len(values) != models:
            lines.refuse(f"{len(values)} rewards for {models} reward models")
        return lines.real(placeholders.get(values[chosen], values[chosen]), "reward")

    state_reward = reward = 0.0
    for line in lines:
        if line.startswith("state"):
            match = STATE.fullmatch(line)
            if not match or lines.integer(match["state"], "state") != len(choices):
                lines.refuse(f"expected state {len(choices)}, got {line!r}")
            if match["observation"]:
                lines.refuse("states with observations, of a POMDP, cannot be read")
            if match["rate"]:
                lines.refuse("states with exit rates, of a Markov automaton, cannot be read")
            state_reward = reward_in(match["rewards"])
            choices.append([])
            labels.append([quoted or plain for quoted, plain in LABEL.findall(match["labels"])])
        elif line.startswith("action"):
            match = ACTION.fullmatch(line)
            if not match or match["rest"] or not choices:
                lines.refuse(f"expected an action of a state, got {line!r}")
            own = reward_in(match["rewards"])
            reward = state_reward + own if state_reward else own  # -0.0 stays what it is
            name = None if match["name"] == UNNAMED else match["name"]
            choices[-1].append(Choice(lines.number, name, []))
        else:
            target, colon, value = line.partition(":")
            if not colon or not choices or not choices[-1]:
                lines.refuse(f"expected a transition such as 3 : 0.5, got {line!r}")
            value = placeholders.get(value.strip(), value.strip())
            choices[-1][-1].row.append(
                (lines.integer(target.strip(), "state", count), lines.probability(value), reward)
            )
    if len(choices) != count:
        raise UsageError(f"{lines.path}: there are {len(choices)} states, and @nr_states says {count}")
    return assemble(lines, choices, labels, costs)


def _checked_head(lines: Lines, head: dict[str, str], reward_model: str | None) -> tuple[int | None, int]:
    """The place of the reward model among those of the file, and the number of states."""
    if head.get("@type", "").upper() not in ("MDP", "DTMC"):
        raise UsageError(
            f"{lines.path}: the type is {head.get('@type', 'missing')!r}; only models of type MDP and DTMC"
            " can be read"
        )
    if head.get("@parameters"):
        raise UsageError(
            f"{lines.path}: the model has parameters ({head['@parameters']}); give them values first"
        )
    if head.get("@value_type", "double") not in VALUE_TYPES:
        raise UsageError(f"{lines.path}: values of type {head['@value_type']!r} cannot be read, only numbers")
    if "@nr_states" not in head:
        raise UsageError(f"{lines.path}: @nr_states is missing")
    count = lines.integer(head["@nr_states"], "@nr_states")
    names = head.setdefault("@reward_models", "").split()
    if reward_model is None:
        if len(names) > 1:
            raise UsageError(
                f"{lines.path} has {len(names)} reward models: {', '.join(names)}; choose one with"
                " reward_model"
            )
        return (0 if names else None), count
    if reward_model not in names:
        raise unknown("reward model", reward_model, names)
    return names.index(reward_model), count
