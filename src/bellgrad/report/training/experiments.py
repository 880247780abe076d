"""Which runs are seeds of one experiment."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bellgrad.report.training.readers import find_runs, read_record

# What decides, beside the hyper-parameters, whether two runs are seeds of one experiment. Engine, device and
# threads do not.
SETTINGS = (
    "steps",
    "num_envs",
    "env_kwargs",
    "max_episode_steps",
    "normalize_obs",
    "normalize_reward",
    "frame_stack",
    "target_return",
)


class Experiment(NamedTuple):
    """Runs that differ in nothing but their seed."""

    label: str  # the algorithm's name, and the settings in which it differs from its neighbors
    algorithm: str
    env: str
    runs: tuple[Path, ...]


def group_runs(runs: Iterable[Path | str]) -> list[Experiment]:
    """Put runs of the same algorithm, environment and settings together, in the order of their first run.

    Args:
        runs: run folders and folders of seeds; what is given twice counts once.

    Raises:
        UsageError: a path is neither.
    """
    members: dict[tuple[str, str, str], list[Path]] = {}
    settings: dict[tuple[str, str, str], dict[str, Any]] = {}
    for run in dict.fromkeys(found.resolve() for path in runs for found in find_runs(path)):
        record = read_record(run)
        setting = flatten(record["algorithm"].get("fields", {}))
        setting |= flatten({name: record[name] for name in SETTINGS if name in record})
        key = (record["algorithm"]["name"], str(record["env"]), json.dumps(setting, sort_keys=True))
        members.setdefault(key, []).append(run)
        settings[key] = setting

    experiments = []
    for key, paths in members.items():
        algorithm, env, _ = key
        others = [settings[other] for other in members if other[:2] == key[:2]]
        names = dict.fromkeys(name for setting in others for name in setting)
        differing = [
            name for name in names if any(other.get(name) != settings[key].get(name) for other in others)
        ]
        difference = ", ".join(f"{name}={_show(settings[key].get(name))}" for name in differing)
        experiments.append(
            Experiment(
                f"{algorithm} ({difference})" if difference else algorithm, algorithm, env, tuple(paths)
            )
        )
    return experiments


def flatten(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one dictionary with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        flat |= (
            flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
        )
    return flat


def _show(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
