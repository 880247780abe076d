"""Reading run folders that others may have made: what is whole is read, the rest is refused in one line."""

import json
import os

import pytest

from bellgrad.core.errors import CheckpointError, UsageError
from bellgrad.runs.reading import find_runs, read_evaluation, read_metrics, read_record

RECORD = {
    "format": 1,
    "algorithm": {"name": "ppo", "fields": {"gamma": 0.9}},
    "env": "CartPole-v1",
    "status": "finished",
}
EVALUATION = {"return_mean": 1.5, "return_std": 0.5, "length_mean": 9, "episodes": 2, "returns": [1, 2.0]}
READERS = {"run.json": read_record, "metrics.jsonl": read_metrics, "evaluation.json": read_evaluation}


def write(folder, name, value):
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))


def test_a_record_and_an_evaluation_are_read(tmp_path):
    write(tmp_path, "run.json", RECORD)
    write(tmp_path, "evaluation.json", EVALUATION | {"seed": 3})
    assert read_record(tmp_path) == read_record(str(tmp_path)) == RECORD
    assert read_evaluation(tmp_path) == EVALUATION | {"seed": 3}


def test_what_is_not_there_is_told_apart_from_damage(tmp_path):
    assert read_metrics(tmp_path) == [] and read_evaluation(tmp_path) is None
    with pytest.raises(UsageError, match=r"is not a run folder \(no run.json in it\)$"):
        read_record(tmp_path)
    (tmp_path / "seed-0").mkdir()
    with pytest.raises(UsageError, match=r"it holds the runs seed-0"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        {},
        RECORD | {"format": 2},
        RECORD | {"algorithm": "ppo"},
        RECORD | {"algorithm": {"name": "ppo"}},
        RECORD | {"algorithm": {"name": 3, "fields": {}}},
        RECORD | {"env": None},
        RECORD | {"status": 1},
    ],
)
def test_a_damaged_record_is_refused_in_one_line(value, tmp_path):
    write(tmp_path, "run.json", value)
    with pytest.raises(CheckpointError, match=r"run\.json (is damaged|has an unknown format)") as refused:
        read_record(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "value",
    [
        "{",
        "[1]",
        {},
        EVALUATION | {"return_mean": "1"},
        EVALUATION | {"returns": [1, None]},
        EVALUATION | {"returns": 1},
    ],
)
def test_a_damaged_evaluation_is_refused_in_one_line(value, tmp_path):
    write(tmp_path, "evaluation.json", value)
    with pytest.raises(CheckpointError, match=r"evaluation\.json is damaged") as refused:
        read_evaluation(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "torn",
    [b'{"step": 2, "lo', b"\0\0\0\0", b"17", b'{"step": 2, "lo\n', b'{"step": 2, "x": "\xc3', b"[" * 100_000],
)
def test_a_torn_last_line_is_left_out_and_a_damaged_one_before_it_named(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 0}\n{"step": 1}\n' + torn)
    assert [row["step"] for row in read_metrics(tmp_path)] == [0, 1]
    path.write_bytes(b'{"step": 0}\n' + torn.rstrip(b"\n") + b'\n{"step": 1}\n')
    with pytest.raises(CheckpointError, match=r"metrics.jsonl is damaged in line 2"):
        read_metrics(tmp_path)


def test_a_line_without_a_step_is_damaged(tmp_path):
    write(tmp_path, "metrics.jsonl", '{"loss": 1}\n{"step": "1"}\n{"step": 1}\n')
    with pytest.raises(CheckpointError, match="line 1: not an object with a step"):
        read_metrics(tmp_path)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["symbolic link", "dangling link", "hard link", "folder", "pipe"])
def test_only_ordinary_files_are_read(name, kind, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    path = tmp_path / name
    match kind:
        case "symbolic link":
            path.symlink_to(elsewhere)
        case "dangling link":
            path.symlink_to(tmp_path / "nowhere")
        case "hard link":
            path.hardlink_to(elsewhere)
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)  # nobody writes into it: opening must not wait
    with pytest.raises(CheckpointError, match=f"{name} is (a|not an)"):
        READERS[name](tmp_path)


def test_a_run_folder_stands_for_itself_and_a_folder_of_seeds_for_its_runs(tmp_path):
    for seed in (10, 2):
        (tmp_path / f"seed-{seed}").mkdir()
        write(tmp_path / f"seed-{seed}", "run.json", RECORD)
    (tmp_path / "seed-11").mkdir()  # made, but nothing started in it
    seeds = [tmp_path / "seed-2", tmp_path / "seed-10"]
    assert find_runs(tmp_path) == find_runs(str(tmp_path)) == seeds
    assert find_runs(seeds[0]) == [seeds[0]]
    for path in (tmp_path / "seed-11", tmp_path / "absent"):
        with pytest.raises(UsageError, match=r"run\.json.*seed-0, seed-1"):
            find_runs(path)
