"""Reading what a run left on the disk. It is not trusted, and nothing in it is executed."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bellgrad.core.errors import CheckpointError, UsageError
from bellgrad.runs.files import read_bytes, read_json

RECORD, METRICS, EVALUATION = "run.json", "metrics.jsonl", "evaluation.json"  # files of a run folder
FORMAT = 1  # of run.json
METRICS_LIMIT = 2**30  # bytes; far more than a metrics.jsonl needs


def find_runs(path: Path | str) -> list[Path]:
    """The run folders that a path means: itself, or its `seed-N` folders in the order of N.

    Raises:
        UsageError: the path is neither a run folder nor a folder of seeds.
    """
    path = Path(path)
    if (path / RECORD).is_file():
        return [path]
    seeds = [found.parent for found in path.glob(f"seed-*/{RECORD}")]
    if not seeds:
        expected = f"a run folder (it holds a {RECORD}) or a folder of seeds (seed-0, seed-1, ...)"
        raise UsageError(f"{path} {'is not' if path.exists() else 'does not exist; expected'} {expected}")
    return sorted(seeds, key=lambda seed: (len(seed.name), seed.name))  # seed-2 before seed-10


def read_record(folder: Path | str) -> dict[str, Any]:
    """What `run.json` says: a record of known format, with an algorithm (name and fields), an environment and
    a status. Its other entries are checked by those who read them.

    Raises:
        UsageError: the file does not exist.
        CheckpointError: it cannot be read, is damaged, or is of another program.
    """
    path = Path(folder) / RECORD
    if not os.path.lexists(path):
        seeds = sorted(found.name for found in path.parent.glob("seed-*"))
        hint = f"; it holds the runs {', '.join(seeds)}" if seeds else ""
        raise UsageError(f"{folder} is not a run folder (no {RECORD} in it){hint}")
    record = read_json(path)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise CheckpointError(f"{path} has an unknown format")
    algorithm = record.get("algorithm")
    if (
        not isinstance(algorithm, dict)
        or not isinstance(algorithm.get("name"), str)
        or not isinstance(algorithm.get("fields"), dict)
    ):
        raise CheckpointError(f"{path} is damaged: algorithm is {algorithm!r}")
    for key in ("env", "status"):
        if not isinstance(record.get(key), str):
            raise CheckpointError(f"{path} is damaged: {key} is {record.get(key)!r}")
    return record


def read_metrics(folder: Path | str) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`, each with a `step`; none if the file does not exist. A last line that was
    not written to its end is left out.

    Raises:
        CheckpointError: the file cannot be read, or a line before the last is damaged; the message says
            which.
    """
    path = Path(folder) / METRICS
    if not os.path.lexists(path):
        return []
    lines = read_bytes(path, METRICS_LIMIT).splitlines()
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or type(row.get("step")) is not int:
                raise ValueError("not an object with a step")
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise CheckpointError(f"{path} is damaged in line {number}: {error}") from error
        rows.append(row)
    return rows


def read_evaluation(folder: Path | str) -> dict[str, Any] | None:
    """What `evaluation.json` says: the fields of an `Evaluation`, and how it was made. None if the file
    does not exist.

    Raises:
        CheckpointError: it cannot be read, or is damaged.
    """
    path = Path(folder) / EVALUATION
    if not os.path.lexists(path):
        return None
    evaluation = read_json(path)
    if not isinstance(evaluation, Mapping):
        raise CheckpointError(f"{path} is damaged: not an object")
    returns = evaluation.get("returns")
    numbers = {
        name: evaluation.get(name) for name in ("return_mean", "return_std", "length_mean", "episodes")
    }
    numbers |= {
        f"returns[{i}]": value for i, value in enumerate(returns if isinstance(returns, list) else [None])
    }
    for name, value in numbers.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise CheckpointError(f"{path} is damaged: {name} is {value!r}")
    return dict(evaluation)
