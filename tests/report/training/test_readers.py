import pytest

from bellgrad.core.errors import CheckpointError, UsageError
from bellgrad.report.training.readers import find_runs, read_evaluation, read_metrics, read_record


def test_a_run_folder_stands_for_itself(make_run):
    run = make_run()
    assert find_runs(run) == find_runs(str(run)) == [run]


def test_a_folder_of_seeds_stands_for_its_seeds_in_the_order_of_numbers(make_run, tmp_path):
    runs = [make_run(f"many/seed-{seed}", seed=seed, lines=2) for seed in (10, 2, 0)]
    (tmp_path / "many" / "seed-11").mkdir()  # made, but nothing started in it
    assert find_runs(tmp_path / "many") == runs[::-1]


def test_any_other_folder_is_refused_with_what_was_expected(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UsageError, match=r"run\.json.*seed-0, seed-1"):
            find_runs(path)


def test_a_torn_last_line_is_skipped(make_run):
    run = make_run(lines=3)
    whole = read_metrics(run)
    with (run / "metrics.jsonl").open("ab") as out:
        out.write('{"step": 99, "note": "é'.encode()[:-1])  # killed in the middle of a character
    assert read_metrics(run) == whole and len(whole) == 3


def test_a_damaged_line_before_the_last_is_named(make_run, write_metrics):
    run = make_run()
    write_metrics(run, '{"step": 1}', '{"step": 2', '{"step": 3}')
    with pytest.raises(CheckpointError, match="line 2"):
        read_metrics(run)


def test_a_run_that_logged_nothing_has_no_metrics(make_run, write_metrics):
    run = make_run()
    write_metrics(run, end="")
    assert read_metrics(run) == []
    (run / "metrics.jsonl").unlink()
    assert read_metrics(run) == []


def test_a_damaged_record_or_evaluation_is_named(make_run):
    run = make_run()
    (run / "evaluation.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"evaluation\.json"):
        read_evaluation(run)
    for text in ("{", "[]", "{}", '{"algorithm": "ppo", "env": "x"}'):
        (run / "run.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"run\.json"):
            read_record(run)
