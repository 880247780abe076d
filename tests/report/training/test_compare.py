import io
import json

import pytest
from rich.console import Console

from bellgrad.core.errors import UsageError
from bellgrad.report.training.compare import compare, comparison_table


def text_of(result, width=160):
    console = Console(file=io.StringIO(), width=width)
    console.print(comparison_table(result))
    return console.file.getvalue()


def test_two_experiments_are_compared_by_their_evaluations(make_run, evaluated):
    ppo = [
        evaluated(make_run(f"p{i}", "ppo", seed=i, lines=2), [score])
        for i, score in enumerate((10.0, 20.0, 30.0, 40.0))
    ]
    dqn = [
        evaluated(make_run(f"d{i}", "dqn", seed=i, lines=2), [score]) for i, score in enumerate((15.0, 25.0))
    ]
    result = compare([*ppo, *dqn])
    first, second = result["groups"]
    assert (first["label"], first["env"], first["seeds"], first["scores"]) == (
        "ppo",
        "CartPole-v1",
        4,
        [10, 20, 30, 40],
    )
    assert first["source"] == "evaluation.json"
    # one of four left out at each end; symmetric
    assert first["iqm"]["value"] == 25 and first["mean"]["value"] == 25
    assert 10 <= first["mean"]["low"] < 25 < first["mean"]["high"] <= 40
    assert second["mean"]["value"] == 20
    (pair,) = result["improvement"]
    # 20 > 15; 30 and 40 beat both
    assert (pair["x"], pair["y"], pair["probability"]) == ("ppo", "dqn", 5 / 8)
    assert pair["low"] < 5 / 8 < pair["high"]


def test_the_result_is_json(make_run):
    result = compare([make_run("a"), make_run("b", "dqn")])
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_a_single_seed_has_no_interval(make_run):
    result = compare([make_run("a"), make_run("b", "dqn")])
    assert {group["iqm"]["low"] for group in result["groups"]} == {None}
    assert result["improvement"][0]["low"] is None
    assert "[" not in text_of(result).replace("[95%]", "")


def test_the_best_source_that_every_run_has_is_used_and_named(make_run, evaluated):
    run = make_run("a", lines=20)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    training, evaluations = ([row for row in lines if ("time" in row) == own] for own in (True, False))
    evaluated(run, [7.0])
    assert compare([run])["groups"][0]["scores"] == [7.0]
    (run / "evaluation.json").unlink()

    (group,) = compare([run])["groups"]
    assert group["scores"] == [evaluations[-1]["eval_return_mean"]]
    assert "eval_return_mean" in group["source"]

    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in training))
    (group,) = compare([run])["groups"]
    # steps 18k, 19k, 20k of 20k
    assert group["scores"] == pytest.approx([sum(row["episode_return_mean"] for row in training[17:]) / 3])
    assert "last 10%" in group["source"] and "last 10%" in text_of({"groups": [group], "improvement": []})


def test_an_evaluated_run_is_not_compared_with_anothers_training_return(make_run, evaluated):
    runs = [evaluated(make_run("a"), [1e6]), make_run("b", "dqn")]
    result = compare(runs)
    assert {group["source"] for group in result["groups"]} == {"last eval_return_mean in metrics.jsonl"}
    assert max(score for group in result["groups"] for score in group["scores"]) < 1e6


def test_environments_are_not_compared_with_each_other(make_run, evaluated):
    runs = [make_run("a"), evaluated(make_run("b", env="Acrobot-v1"), [-80.0])]
    result = compare(runs)
    assert result["improvement"] == []
    assert [group["source"] == "evaluation.json" for group in result["groups"]] == [False, True]
    assert "(Acrobot-v1)" in text_of(result)


def test_a_run_without_any_return_is_named_rather_than_dropped(make_run):
    with pytest.raises(UsageError, match="empty"):
        compare([make_run("full"), make_run("empty", seed=1, lines=1)])
    with pytest.raises(UsageError, match="no run"):
        compare([])


def test_the_table_shows_names_as_they_are(make_run):
    runs = [make_run(name, fields={"hidden": hidden}) for name, hidden in (("a", [64, 64]), ("b", [32]))]
    shown = text_of(compare(runs))
    # rich would take brackets for markup
    assert "ppo (hidden=[64, 64])" in shown and "ppo (hidden=[32])" in shown
    assert "Probability of improvement" in shown


def test_runs_with_other_bins_are_compared_and_not_averaged(make_run, evaluated):
    runs = [
        evaluated(make_run(f"r{bins}{seed}", "q_learning", seed=seed, bins=[bins], lines=2), [float(bins)])
        for bins in (2, 9)
        for seed in (0, 1)
    ]
    result = compare(runs)
    assert [(group["label"], group["scores"]) for group in result["groups"]] == [
        ("q_learning (bins=[2])", [2, 2]),
        ("q_learning (bins=[9])", [9, 9]),
    ]
    assert result["improvement"][0]["probability"] == 0
