"""The driver of searches: what a candidate's fitness is, which steps count, and how a generation is
divided."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from bellgrad import api
from bellgrad.algos.openai_es import OpenAIES
from bellgrad.core.errors import UsageError
from bellgrad.envs.classic import CartPole, Pendulum
from bellgrad.envs.make import make_env
from bellgrad.envs.native import NativeEnv
from bellgrad.envs.transformed import TransformedEnv
from bellgrad.envs.transforms import NormalizeObs, NormalizeReward, RescaleAction
from bellgrad.nets.specs import MLP
from bellgrad.ops.optim import SGD
from bellgrad.runs.checkpoint import Checkpoint, save_checkpoint
from bellgrad.runs.settings import Settings
from bellgrad.training import population
from bellgrad.training.engine import Engine
from bellgrad.training.population import Population

CPU = torch.device("cpu")
LINEAR = MLP(())
SEARCH = OpenAIES(population=6, episodes=4, sigma=1.0, network=LINEAR)


@dataclass(frozen=True)
class Walk:
    """Every episode begins at 1 and moves by the action; a step's reward is the place that it leads to. It
    ends below 0, or after 11 steps. No episode differs from another under the same policy."""

    id: str = "Walk"
    max_episode_steps: int | None = 11
    dtype: torch.dtype = torch.float32

    reset_noise: ClassVar[int] = 1
    step_noise: ClassVar[int] = 0

    @property
    def observation_space(self):
        return Box(-100, 100, (1,), np.float32)

    @property
    def action_space(self):
        return Box(-1, 1, (1,), np.float32)

    def initial(self, noise):
        return torch.ones_like(noise)

    def advance(self, physics, action, noise):
        physics = physics + action
        return physics, physics[:, 0], physics[:, 0] < 0

    def observe(self, physics):
        return physics


def walk(candidate):
    """Return and length of an episode of the linear policy `(weight, bias)`."""
    place, total, length = torch.ones(()), torch.zeros(()), 0
    while place >= 0 and length < 11:
        place = place + candidate[0] * place + candidate[1]
        total, length = total + place, length + 1
    return total.item(), length


def driver(num_envs=24, algorithm=SEARCH, dynamics=None, seed=0, mode="eager", transforms=()):
    env = TransformedEnv(NativeEnv(dynamics or Walk(), num_envs), transforms)
    made = Population(algorithm.build(env.spec, steps=10_000), env, Engine(mode, 1, 4, ""), seed, CPU)
    made.told = []
    tell = made.learner.tell

    def watched(state, candidates, fitness, noise):
        made.told.append((candidates, fitness))
        return tell(state, candidates, fitness, noise)

    made.learner.tell = watched
    return made


def assert_same_bits(one, other):
    (counters, tensors), (other_counters, other_tensors) = one.snapshot(), other.snapshot()
    assert counters == other_counters and tensors.keys() == other_tensors.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], other_tensors[name])] == []


def test_fitness_is_the_return_of_whole_episodes_and_only_steps_that_were_taken_count():
    made = driver()
    report = made.advance()
    candidates, fitness = made.told[0]
    expected = [walk(candidate) for candidate in candidates]
    lengths = [length for _, length in expected]
    assert min(lengths) < 5 and max(lengths) == 11  # some candidates were done long before the others
    torch.testing.assert_close(fitness, torch.tensor([total for total, _ in expected]))
    assert made.steps == made.state.steps == 4 * sum(lengths)
    assert made.updates == made.state.updates == 1
    assert report.ended.ended.all() and report.ended.length.tolist() == [
        length for length in lengths for _ in range(4)
    ]
    torch.testing.assert_close(report.ended.return_.view(6, 4).mean(1), fitness)


@pytest.mark.parametrize("num_envs", [1, 2, 4, 8, 12])
def test_groups_one_after_another_find_the_fitness_of_all_at_once(num_envs):
    whole, parts = driver(), driver(num_envs)
    for _ in range(3):
        whole.advance()
        parts.advance()
    for (candidates, fitness), (same, again) in zip(whole.told, parts.told, strict=True):
        torch.testing.assert_close(same, candidates)
        torch.testing.assert_close(again, fitness)
    assert parts.steps == whole.steps


@pytest.mark.parametrize(("num_envs", "would"), [(5, 4), (6, 4), (16, 12), (48, 24)])
def test_other_numbers_of_environments_are_refused_with_one_that_would_do(num_envs, would):
    with pytest.raises(
        UsageError,
        match=f"groups of {num_envs} environments; {would} would do, and 24 would play them at once",
    ):
        driver(num_envs)


def test_a_generation_is_played_at_once_unless_told_otherwise():
    assert Settings(SEARCH, "CartPole-v1", 100).num_envs == 24
    assert Settings(SEARCH, "CartPole-v1", 100, num_envs=8).num_envs == 8


def test_every_generation_begins_new_episodes():
    still = replace(SEARCH, optimizer=SGD(), learning_rate=1e-12)
    one, again = (driver(algorithm=still, dynamics=CartPole(), seed=seed) for seed in (0, 0))
    for made in (one, again):
        made.streams["update"].manual_seed(5)
        made.advance()
        made.streams["update"].manual_seed(5)  # the same candidates once more
        made.advance()
    (first, fitness), (second, other) = one.told
    torch.testing.assert_close(first, second)
    assert not torch.equal(fitness, other)
    assert torch.equal(fitness, again.told[0][1]) and torch.equal(
        other, again.told[1][1]
    )  # the same seed, the same episodes
    assert_same_bits(one, again)


def test_environments_that_cannot_be_compiled_are_played_in_the_same_way():
    env = TransformedEnv(make_env("CartPole-v1", 24, backend="gymnasium"), ())
    made = Population(SEARCH.build(env.spec), env, Engine("eager", 1, 4, ""), 0, CPU)
    reports = [made.advance() for _ in range(2)]
    assert made.steps == sum(int(report.ended.length.sum()) for report in reports)
    for report in reports:
        assert torch.equal(report.ended.return_, report.ended.length.float())  # CartPole's reward is 1 a step
    env.close()


def test_trap_resume_goes_on_with_the_same_bits_in_a_new_driver(tmp_path):
    made = [
        driver(8, dynamics=Pendulum(max_episode_steps=9), transforms=(NormalizeObs(), RescaleAction()))
        for _ in range(3)
    ]
    whole, stopped, resumed = made
    for _ in range(4):
        whole.advance()
        resumed.advance()  # its numbers must all be replaced
    stopped.advance()
    counters, tensors = stopped.snapshot()
    assert (
        resumed.restore(Checkpoint.open(save_checkpoint(tmp_path, 1, {"driver": counters}, tensors))) is None
    )
    for _ in range(3):
        resumed.advance()
    assert_same_bits(whole, resumed)


def test_a_normalized_reward_needs_a_discount():
    with pytest.raises(
        UsageError, match="normalize_reward scales by the discounted return, and openai_es has no discount"
    ):
        Settings(SEARCH, "CartPole-v1", 100, transforms=(NormalizeReward(),))


def test_a_search_learns_cartpole_whatever_the_number_of_steps_in_a_generation(tmp_path):
    algorithm = OpenAIES(population=32, network=LINEAR)
    run = api.train(
        algorithm,
        "CartPole-v1",
        30_000,
        out=tmp_path / "run",
        max_episode_steps=80,
        checkpoints=6,
        engine="eager",
        progress="off",
        target_return=75.0,
    )
    assert run.status == "finished"
    assert api.evaluate(run, 16).return_mean > 75  # a random policy has about 20


@pytest.mark.compiled
def test_a_compiled_generation_equals_an_eager_one_within_rounding(monkeypatch):
    monkeypatch.setattr(population, "UNROLL", 2)  # compiles sooner
    # Rewards and ends of Pendulum do not depend on which side of a threshold a rounding falls.
    algorithm = replace(SEARCH, optimizer=SGD(), network=MLP((8,)))
    eager, compiled = (
        driver(
            algorithm=algorithm,
            dynamics=Pendulum(max_episode_steps=12),
            mode=mode,
            transforms=[RescaleAction()],
        )
        for mode in ("eager", "compiled")
    )
    for made in (eager, compiled):
        for _ in range(2):
            made.advance()
    for (_, fitness), (_, again) in zip(eager.told, compiled.told, strict=True):
        torch.testing.assert_close(again, fitness, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(compiled.state.params, eager.state.params, rtol=1e-3, atol=1e-4)
    assert compiled.steps == eager.steps == 2 * 24 * 12
