import json

import numpy as np
import pytest

from bellgrad.core.errors import CheckpointError, UsageError
from bellgrad.report.files import replacing
from bellgrad.report.runs import find_runs, group_runs, read_curve, read_evaluation, read_info, read_metrics


def write_lines(run, *lines, end="\n"):
    (run / "metrics.jsonl").write_text("\n".join(lines) + end)


def test_a_run_folder_stands_for_itself(make_run):
    run = make_run()
    assert find_runs(run) == find_runs(str(run)) == [run]


def test_a_folder_of_seeds_stands_for_its_seeds_in_the_order_of_numbers(make_run, tmp_path):
    runs = [make_run(f"many/seed-{seed}", seed=seed, lines=2) for seed in (10, 2, 0)]
    (tmp_path / "many" / "seed-11").mkdir()  # made, but nothing started in it
    assert find_runs(tmp_path / "many") == runs[::-1]


def test_a_folder_of_seeds_is_one_experiment(make_run, tmp_path):
    runs = [make_run(f"many/seed-{seed}", seed=seed, lines=2) for seed in range(3)]
    (experiment,) = group_runs([tmp_path / "many", runs[1]])
    assert experiment.runs == tuple(runs)


def test_any_other_folder_is_refused_with_what_was_expected(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UsageError, match=r"run\.json.*seed-0, seed-1"):
            find_runs(path)


def test_a_torn_last_line_is_passed_over(make_run):
    run = make_run(lines=3)
    whole = read_metrics(run)
    with (run / "metrics.jsonl").open("ab") as out:
        out.write('{"step": 99, "note": "é'.encode()[:-1])  # killed in the middle of a character
    assert read_metrics(run) == whole and len(whole) == 3


def test_a_damaged_line_before_the_last_is_named(make_run):
    run = make_run()
    write_lines(run, '{"step": 1}', '{"step": 2', '{"step": 3}')
    with pytest.raises(CheckpointError, match="line 2"):
        read_metrics(run)


def test_a_run_that_logged_nothing_has_no_metrics(make_run):
    run = make_run()
    write_lines(run, end="")
    assert read_metrics(run) == []
    (run / "metrics.jsonl").unlink()
    assert read_metrics(run) == []


def test_a_curve_leaves_out_what_is_absent_null_or_not_finite(make_run):
    run = make_run()
    write_lines(
        run,
        '{"step": 1, "x": null}',
        '{"step": 2}',
        '{"step": 3, "x": NaN}',
        '{"step": 4, "x": 7}',
        '{"step": 6, "x": -Infinity}',
    )
    steps, values = read_curve(run, "x")
    np.testing.assert_array_equal((steps, values), ([4.0], [7.0]))
    assert read_curve(run, "unheard")[0].shape == (0,)


def test_resume_lines_written_again_count_once_and_steps_rise(make_run):
    run = make_run()
    write_lines(
        run,
        '{"step": 1, "x": 1}',
        '{"step": 2, "x": 2}',
        '{"step": 3, "x": 3}',
        '{"step": 2, "x": 20}',
        '{"step": 3, "x": 30}',
    )
    np.testing.assert_array_equal(read_curve(run, "x"), [[1, 2, 3], [1, 20, 30]])


def test_a_damaged_description_or_evaluation_is_named(make_run):
    run = make_run()
    (run / "evaluation.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"evaluation\.json"):
        read_evaluation(run)
    for text in ("{", "[]", "{}", '{"algorithm": "ppo", "env": "x"}'):
        (run / "run.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"run\.json"):
            read_info(run)


def test_runs_that_differ_only_in_the_seed_are_one_experiment(make_run):
    runs = [make_run(f"r{seed}", seed=seed, lines=2, device_used=f"cuda:{seed}") for seed in range(3)]
    (experiment,) = group_runs([*runs, runs[0]])  # one path given twice
    assert experiment == ("ppo", "ppo", "CartPole-v1", tuple(runs))


def test_experiments_are_named_by_what_differs(make_run):
    runs = [
        make_run("a", fields={"gamma": 0.99, "net": {"hidden": [64, 64]}}, lines=2),
        make_run("b", fields={"gamma": 0.99, "net": {"hidden": [256, 256]}}, lines=2),
        make_run("c", fields={"gamma": 0.99, "net": {"hidden": [64, 64]}}, steps=1_000_000, lines=2),
        make_run("d", algorithm="dqn", fields={"gamma": 0.9}, lines=2),
        make_run("e", env="Acrobot-v1", fields={"gamma": 0.5}, lines=2),
        make_run("f", env="Lake", fields={}, env_kwargs={"is_slippery": True}, lines=2),
        make_run("g", env="Lake", fields={}, env_kwargs={"is_slippery": False}, lines=2),
    ]
    assert [experiment.label for experiment in group_runs(runs)] == [
        "ppo (net.hidden=[64, 64], steps=20,000)",
        "ppo (net.hidden=[256, 256], steps=20,000)",
        "ppo (net.hidden=[64, 64], steps=1,000,000)",
        "dqn",  # alone in its environment: nothing to tell apart
        "ppo",
        "ppo (env_kwargs.is_slippery=True)",
        "ppo (env_kwargs.is_slippery=False)",
    ]


def test_a_file_is_replaced_only_when_its_successor_is_whole(tmp_path):
    out = tmp_path / "new" / "a.txt"
    with replacing(out) as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("first")
    with pytest.raises(KeyError), replacing(out) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert out.read_text() == "first"
    assert list(out.parent.iterdir()) == [out]


def test_run_json_without_fields_is_enough(tmp_path):
    run = tmp_path / "bare"
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"algorithm": {"name": "q_learning"}, "env": "FrozenLake-v1"}))
    assert group_runs([run])[0].label == "q_learning"
