"""Which runs are seeds of one experiment."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bellgrad.runs.reading import find_runs, read_record
from bellgrad.runs.settings import settings_that_matter


class Experiment(NamedTuple):
    """Runs that differ in nothing that matters but their seed."""

    label: str  # the algorithm's name, and the settings in which it differs from its neighbors
    algorithm: str
    env: str
    runs: tuple[Path, ...]


def group_runs(runs: Iterable[Path | str]) -> list[Experiment]:
    """Put runs together that agree in every setting that matters, in the order of their first run.

    Args:
        runs: run folders and folders of seeds; a run that is given twice counts once.

    Raises:
        UsageError: a path is neither of these.
        CheckpointError: a run's record is damaged.
    """
    groups: list[tuple[dict[str, Any], list[Path]]] = []
    for run in dict.fromkeys(found.resolve() for path in runs for found in find_runs(path)):
        settings = settings_that_matter(read_record(run))
        for known, members in groups:
            if known == settings:
                members.append(run)
                break
        else:
            groups.append((settings, [run]))

    experiments = []
    for settings, members in groups:
        algorithm, env = settings["algorithm"]["name"], settings["env"]
        neighbors = [
            _named(other)
            for other, _ in groups
            if other["algorithm"]["name"] == algorithm and other["env"] == env
        ]
        difference = _difference(_named(settings), neighbors)
        label = f"{algorithm} ({difference})" if difference else algorithm
        experiments.append(Experiment(label, algorithm, env, tuple(members)))
    return experiments


def _named(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Hyper-parameters and settings, each with its name."""
    others = {name: value for name, value in settings.items() if name not in ("algorithm", "env")}
    return flatten(settings["algorithm"]["fields"]) | flatten(others)


def _difference(own: Mapping[str, Any], neighbors: Iterable[Mapping[str, Any]]) -> str:
    """The settings in which an experiment differs from any of its neighbors, as `name=value`."""
    neighbors = list(neighbors)
    names = dict.fromkeys(name for other in neighbors for name in other)
    differing = [name for name in names if any(other.get(name) != own.get(name) for other in neighbors)]
    return ", ".join(f"{name}={_shown(own.get(name))}" for name in differing)


def flatten(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one dictionary with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _shown(value: Any) -> str:
    """A setting for a label: `20,000`, `[64, 64]`, `[frame_stack(n=4)]`."""
    return f"{value:,}" if type(value) is int else in_words(value)


def in_words(value: Any) -> str:
    """A value from a record as text; an object with a `kind` like `frame_stack(n=4)`."""
    if isinstance(value, list):
        return f"[{', '.join(map(in_words, value))}]"
    if isinstance(value, Mapping):
        rest = [f"{name}={in_words(v)}" for name, v in value.items() if name != "kind" and v is not None]
        return f"{value.get('kind', '')}({', '.join(rest)})".removesuffix("()")
    return str(value)
