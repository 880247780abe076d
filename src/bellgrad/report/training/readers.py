"""Reading the files of a run folder."""

import json
from pathlib import Path
from typing import Any

from bellgrad.core.errors import CheckpointError, UsageError


def find_runs(path: Path | str) -> list[Path]:
    """The run folders that a path names: itself, or its `seed-N` folders in the order of N.

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


def read_record(folder: Path) -> dict[str, Any]:
    """The content of `run.json`.

    Raises:
        UsageError: there is no such file.
        CheckpointError: it is not one JSON object with an algorithm and an environment.
    """
    path = Path(folder) / "run.json"
    if not path.is_file():
        raise UsageError(f"{folder} is not a run folder: there is no run.json in it")
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        record["algorithm"]["name"], record["algorithm"]["fields"], record["env"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read as a run's record: {error!r}") from error
    return record


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """The content of `evaluation.json`, or None if the run was not evaluated.

    Raises:
        CheckpointError: it is not JSON.
    """
    path = Path(folder) / "evaluation.json"
    if not path.is_file():
        return None
    try:
        evaluation: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    return evaluation


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`; an unfinished last line, which a killed run leaves, is skipped.

    Raises:
        CheckpointError: a line before the last is damaged.
    """
    path = Path(folder) / "metrics.jsonl"
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
