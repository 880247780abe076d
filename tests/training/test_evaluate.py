"""Evaluation: which episodes count, and that it leaves everything as it was."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from bellgrad import api
from bellgrad.algos.ppo import PPO
from bellgrad.core.errors import UsageError
from bellgrad.core.records import Acted
from bellgrad.core.rng import Noise
from bellgrad.core.tree import leaves, map_tree
from bellgrad.envs.native import NativeEnv
from bellgrad.envs.transformed import TransformedEnv
from bellgrad.envs.transforms import NormalizeObs, NormalizeReward
from bellgrad.nets.specs import MLP
from bellgrad.training import session as session_module
from bellgrad.training.evaluate import EPISODE_CAP, EVAL_ENVS, Evaluation, evaluate_agent


@dataclass(frozen=True)
class Lengths:
    """Half the episodes have one step, half nine; the reward is 1 plus a tenth of the action. Observes
    `(length, steps)`.

    `endless` episodes never end by themselves.
    """

    endless: bool = False
    id: str = "Lengths"
    max_episode_steps: int | None = None
    dtype: torch.dtype = torch.float32

    reset_noise: ClassVar[int] = 1
    step_noise: ClassVar[int] = 0
    observation_space: ClassVar = Box(0, 100, (2,), np.float32)
    action_space: ClassVar = Discrete(5)

    def initial(self, noise):
        return torch.cat([torch.where(noise < 0.5, 1.0, 9.0), torch.zeros_like(noise)], -1)

    def advance(self, physics, action, noise):
        length, steps = physics.unbind(-1)
        ended = torch.zeros_like(steps, dtype=torch.bool) if self.endless else steps + 1 >= length
        return torch.stack([length, steps + 1], -1), 1 + 0.1 * action, ended

    def observe(self, physics):
        return physics


class OneState(NamedTuple):
    steps: Tensor


class Fixed:
    """Greedy: action 0. Exploring: 0 or 4 by a coin. Its carry counts the decisions of an episode, which
    `counted` collects."""

    def __init__(self):
        self.counted = []

    def init_carry(self, num_envs):
        return torch.zeros(num_envs, dtype=torch.int64)

    def act_noise(self, num_envs):
        return Noise("uniform", (num_envs,))

    def act(self, state, carry, obs, noise, explore=True):
        self.counted.append((carry.clone(), obs[:, 1].clone()))
        action = torch.where(noise < 0.5, 0, 4) if explore else torch.zeros_like(carry)
        return Acted(action=action, logprob=None, carry=carry + 1)


def evaluate(num_envs=4, episodes=16, dynamics=None, learner=None, seed=0, **options) -> Evaluation:
    env = NativeEnv(dynamics or Lengths(), num_envs)
    return evaluate_agent(learner or Fixed(), OneState(torch.tensor(0)), env, episodes, seed, **options)


def test_short_episodes_are_not_counted_more_often_than_long_ones():
    # Half the episodes return 1, half 9: mean 5, deviation 4. The first 400 episodes to end would nearly all
    # be short.
    result = evaluate(num_envs=400, episodes=400)
    assert result.return_mean == pytest.approx(5, abs=4 * 4 / 20)  # four standard errors
    assert set(result.returns) == {1.0, 9.0}


@pytest.mark.parametrize(("num_envs", "episodes"), [(1, 1), (1, 5), (3, 7), (4, 4), (8, 3)])
def test_every_environment_runs_its_fixed_share_and_no_more(num_envs, episodes):
    result = evaluate(num_envs, episodes)
    assert result.episodes == len(result.returns) == episodes and result.capped == 0
    # Environment i's episodes follow each other, so asking for more episodes of each does not change the
    # first ones.
    first = evaluate(num_envs, num_envs).returns
    longer = evaluate(num_envs, 2 * num_envs).returns
    assert longer[::2] == first


def test_figures_are_those_of_the_episodes():
    result = evaluate(num_envs=4, episodes=40)
    assert result.return_mean == pytest.approx(np.mean(result.returns))
    assert result.return_std == pytest.approx(np.std(result.returns))
    assert result.length_mean == pytest.approx(result.return_mean)  # reward 1 a step under action 0
    assert result.to_json()["returns"] == result.returns


def test_an_episode_without_end_is_cut_at_the_cap_and_counted_once_an_environment():
    result = evaluate(num_envs=4, episodes=12, dynamics=Lengths(endless=True), cap=25)
    assert (result.capped, result.episodes) == (4, 4)
    assert result.returns == [25.0] * 4 and result.length_mean == 25


def test_an_episode_with_an_end_is_not_capped():
    result = evaluate(episodes=12, cap=9)
    assert result.capped == 0 and result.episodes == 12 and max(result.returns) == 9
    assert EPISODE_CAP > 10_000


def test_a_time_limit_ends_an_episode_without_counting_as_a_cap():
    result = evaluate(num_envs=2, episodes=6, dynamics=Lengths(endless=True, max_episode_steps=7))
    assert result.returns == [7.0] * 6 and result.capped == 0


def test_a_time_limit_beyond_the_cap_is_left_to_end_its_episodes():
    result = evaluate(num_envs=2, episodes=4, dynamics=Lengths(endless=True, max_episode_steps=30), cap=25)
    assert result.returns == [30.0] * 4 and result.capped == 0


def test_deterministic_is_greedy_and_stochastic_explores():
    greedy, exploring = (evaluate(episodes=200, deterministic=flag) for flag in (True, False))
    assert {r % 1 for r in greedy.returns} == {0.0}
    # Exploring adds 0 or 0.4 per step, 0.2 in the mean.
    extra = exploring.return_mean / exploring.length_mean - 1
    assert extra == pytest.approx(0.2, abs=0.05)


def test_the_same_seed_gives_the_same_episodes_and_another_seed_others():
    first, again, other = (evaluate(episodes=60, seed=seed, deterministic=False) for seed in (1, 1, 2))
    assert first == again and first.returns != other.returns


def test_the_carry_begins_anew_with_each_episode():
    learner = Fixed()
    evaluate(episodes=30, learner=learner)
    for carry, steps in learner.counted:
        assert torch.equal(carry, steps.long())


def test_no_episodes_are_refused():
    with pytest.raises(UsageError, match="episodes = 0 is out of range"):
        evaluate(episodes=0)


def test_trap_running_normalizers_are_frozen_in_evaluation_and_returns_are_in_the_environments_own_reward():
    env = TransformedEnv(NativeEnv(Lengths(), 4), [NormalizeObs(), NormalizeReward(0.9)])
    env.reset(0)
    for _ in range(20):
        env.step(torch.zeros(4, dtype=torch.int64))
    before = map_tree(torch.clone, (env.transform_state[0], env.transform_state[1].moments))
    env.frozen = True
    result = evaluate_agent(Fixed(), OneState(torch.tensor(0)), env, 16, seed=0)
    after = (env.transform_state[0], env.transform_state[1].moments)
    assert all(torch.equal(a, b) for a, b in zip(leaves(before), leaves(after), strict=True))
    assert set(result.returns) == {1.0, 9.0}


@pytest.fixture
def train(tmp_path):
    def go(name, **options):
        algorithm = PPO(rollout_steps=16, epochs=1, minibatches=2, network=MLP((8,)))
        return api.train(
            algorithm,
            "CartPole-v1",
            256,
            out=tmp_path / name,
            progress="off",
            num_envs=4,
            normalize_obs=True,
            normalize_reward=True,
            engine="eager",
            checkpoints=4,
            **options,
        )

    return go


def parameters(run):
    checkpoint = run.checkpoint()
    return {name: checkpoint.read(name) for name in checkpoint.names()}


def test_evaluating_during_training_changes_nothing_that_is_learned(train):
    without, with_ = (parameters(train(name, eval_episodes=n)) for name, n in (("without", 0), ("with", 5)))
    assert without.keys() == with_.keys() and any(name.startswith("env/transforms") for name in without)
    assert all(torch.equal(without[name], with_[name]) for name in without)


def test_evaluating_a_run_changes_none_of_its_checkpoints_and_repeats_itself(train):
    run = train("run", eval_episodes=0)
    before = parameters(run)
    results = [api.evaluate(run, episodes=EVAL_ENVS + 4, seed=seed) for seed in (5, 5, 6)]
    assert results[0] == results[1] != results[2]
    assert results[0].episodes == EVAL_ENVS + 4
    assert all(torch.equal(before[name], tensor) for name, tensor in parameters(run).items())


def test_trap_running_normalizers_are_frozen_in_evaluation_wherever_it_is_called_from(train, monkeypatch):
    moments = []

    def spy(learner, state, env, *args, **options):
        before = map_tree(torch.clone, env.transform_state[0])
        result = evaluate_agent(learner, state, env, *args, **options)
        moments.append((before, env.transform_state[0]))
        return result

    monkeypatch.setattr(api, "evaluate_agent", spy)
    monkeypatch.setattr(session_module, "evaluate_agent", spy)
    run = train("run", eval_episodes=3)
    in_training = len(moments)
    api.evaluate(run, episodes=3)
    assert in_training >= 4 and len(moments) == in_training + 1
    for before, after in moments:
        assert before.count > 0 and all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    trained = run.checkpoint().tensors("env/transforms")
    assert any(
        torch.equal(tensor, moments[-1][0].mean) for tensor in trained.values()
    )  # and they are those of the run
