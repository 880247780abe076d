"""Pictures of what a tabular run has learned."""

import numpy as np
import pytest

import bellgrad as bg
from bellgrad.cli import main
from bellgrad.core.errors import UsageError
from bellgrad.mdp.examples import corridor
from bellgrad.report.training.learned import learned

QUIET = {"progress": "off", "eval_episodes": 0, "engine": "eager"}


def test_a_table_is_a_solution_of_the_mdp_that_it_was_learned_in(tmp_path):
    # The corridor is deterministic: with a step size of 1 the table is exact, and so is its Bellman residual.
    run = bg.train(
        bg.QLearning(alpha=1.0, gamma=1.0),
        corridor(),
        3_000,
        out=tmp_path / "run",
        max_episode_steps=50,
        **QUIET,
    )
    _, solution = learned(run)
    assert solution.value.tolist() == [-13, -12, -11, -1, 0] and solution.residual == 0
    assert solution.policy[:4].tolist() == [[0, 1]] * 4 and np.isinf(solution.error_bound)


def test_training_a_table_draws_it_and_the_report_shows_it(tmp_path, capsys):
    words = [
        "train",
        "q_learning",
        "--env",
        "CliffWalking-v1",
        "--steps",
        "1k",
        "--engine",
        "eager",
        "--eval-episodes",
        "0",
    ]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    assert f"drawn: {tmp_path / 'run' / 'values.png'}" in capsys.readouterr().err
    assert (tmp_path / "run" / "values.png").read_bytes().startswith(b"\x89PNG")
    assert "Values and policy" in bg.write_report(tmp_path / "run").read_text()


def test_a_table_of_an_unknown_environment_cannot_be_drawn(tmp_path, capsys):
    options = [
        "--bins",
        "5",
        "--engine",
        "eager",
        "--eval-episodes",
        "0",
        "--out",
        str(tmp_path / "run"),
        "--quiet",
    ]
    assert main(["train", "q_learning", "--env", "MountainCar-v0", "--steps", "100", *options]) == 0
    assert capsys.readouterr() == ("", "")
    with pytest.raises(UsageError, match="nothing is known about the states of MountainCar-v0"):
        bg.picture(tmp_path / "run")


def test_lists_of_numbers_are_read_or_refused_in_words(capsys):
    for given, said in (("3,x", "not a list of numbers"), ("3,1.5", "not a list of whole numbers")):
        assert (
            main(["train", "q_learning", "--env", "MountainCar-v0", "--steps", "100", "--bins", given]) == 2
        )
        assert said in capsys.readouterr().err
