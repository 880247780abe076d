"""What a session makes of a learner and of a plan."""

from types import SimpleNamespace

import pytest

from bellgrad.algos.dqn import DQN
from bellgrad.runs.folder import Best
from bellgrad.runs.settings import Settings
from bellgrad.training.engine import Engine
from bellgrad.training.off_policy import OffPolicy
from bellgrad.training.plan import Plan
from bellgrad.training.session import driver_class

EAGER = Engine("eager", 1, 1, "")


@pytest.mark.parametrize("named", ["off_policy", "bellgrad.training.off_policy:OffPolicy", OffPolicy])
def test_a_learner_names_its_driver_by_a_short_name_by_a_long_one_or_by_the_class(named):
    assert driver_class(SimpleNamespace(driver=named)) is OffPolicy


def plan(device="cpu", **settings):
    return Plan.start(Settings(DQN(), "CartPole-v1", **settings), EAGER, SimpleNamespace(type=device))


def test_a_plan_has_200_lines_of_the_log_and_the_checkpoints_that_were_asked_for():
    made = plan(steps=1_001, checkpoints=10)
    assert (made.steps, made.horizon, made.log_every, made.checkpoint_every) == (1_001, 1_001, 6, 101)
    assert plan(steps=3).log_every == 1


def test_a_plan_is_read_as_it_was_written(tmp_path):
    made = plan("cuda", steps=500, target_return=3.0, eval_episodes=2)
    settings = Settings(DQN(), "CartPole-v1", 500, target_return=3.0, eval_episodes=2)
    run = SimpleNamespace(folder=tmp_path, settings=settings, record=made.to_json())
    assert Plan.read(run) == made


@pytest.mark.parametrize(
    ("target", "best", "reached"),
    [(None, Best(1, 9.0), False), (5.0, None, False), (5.0, Best(1, 4.9), False), (5.0, Best(1, 5.0), True)],
)
def test_a_target_is_reached_by_the_best_evaluation(target, best, reached):
    assert plan(steps=10, target_return=target).is_reached(best) is reached
