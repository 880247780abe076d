"""Reading run folders: what a run was, what it logged, how it ended, and which runs are seeds of one
experiment."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bellgrad.core.errors import CheckpointError, UsageError


def find_runs(path: Path | str) -> list[Path]:
    """The run folders that a path stands for: itself, or its `seed-N` folders in the order of N.

    Raises:
        UsageError: the path is neither a run folder nor a folder of seeds.
    """
    path = Path(path)
    if (path / "run.json").is_file():
        return [path]
    seeds = [found.parent for found in path.glob("seed-*/run.json")]
    if not seeds:
        expected = "a run folder (it holds a run.json) or a folder of seeds (seed-0, seed-1, ...)"
        raise UsageError(f"{path} {'is not' if path.exists() else 'does not exist; expected'} {expected}")
    return sorted(seeds, key=lambda seed: (len(seed.name), seed.name))  # seed-2 before seed-10


def read_info(run: Path) -> dict[str, Any]:
    """What `run.json` says.

    Raises:
        UsageError: there is none.
        CheckpointError: it is not one JSON object with an algorithm and an environment.
    """
    path = Path(run) / "run.json"
    if not path.is_file():
        raise UsageError(f"{run} is not a run folder: there is no run.json in it")
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        info["algorithm"]["name"], info["env"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read as a run's description: {error!r}") from error
    return info


def read_evaluation(run: Path) -> dict[str, Any] | None:
    """What `evaluation.json` says, or None where the run was not evaluated.

    Raises:
        CheckpointError: it is not JSON.
    """
    path = Path(run) / "evaluation.json"
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`; a last line that a killed run left unfinished is passed over.

    Raises:
        CheckpointError: a line before the last is damaged.
    """
    path = Path(run) / "metrics.jsonl"
    if not path.is_file():
        return []
    lines = path.read_bytes().decode("utf-8", errors="replace").strip("\n").split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise CheckpointError(f"{path}, line {number} is damaged: {error}") from error
    return rows


def read_curve(run: Path, key: str) -> tuple[np.ndarray, np.ndarray]:
    """One metric over a run, in the order of steps; lines where it is absent, null or not finite are left
    out.

    Returns:
        steps `[T]` float64, strictly increasing environment steps, and values `[T]` float64.
    """
    return curve_of(read_metrics(run), key)


def curve_of(rows: Iterable[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """As `read_curve`, from lines already read. Of two lines at one step the later one counts."""
    points = {row["step"]: row[key] for row in rows if _is_finite_number(row.get(key)) and "step" in row}
    steps = sorted(points)
    return np.array(steps, dtype=float), np.array([points[step] for step in steps], dtype=float)


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


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
        info = read_info(run)
        setting = flatten(info["algorithm"].get("fields", {}))
        setting |= flatten({name: info[name] for name in SETTINGS if name in info})
        key = (info["algorithm"]["name"], str(info["env"]), json.dumps(setting, sort_keys=True))
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
