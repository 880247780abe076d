"""Whole episodes: exactly n, every one finished, none favored, and what stands still meanwhile."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar, NamedTuple

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from bellgrad import api
from bellgrad.algos.reinforce import REINFORCE
from bellgrad.core.errors import UsageError
from bellgrad.core.records import Acted
from bellgrad.core.rng import Noise
from bellgrad.core.tree import named_leaves
from bellgrad.envs.images import FrameStack
from bellgrad.envs.make import make_env
from bellgrad.envs.native import NativeEnv
from bellgrad.envs.transformed import TransformedEnv
from bellgrad.envs.transforms import NormalizeObs, NormalizeReward
from bellgrad.envs.worker import SubprocessEnv
from bellgrad.nets.specs import MLP
from bellgrad.runs.checkpoint import Checkpoint, save_checkpoint
from bellgrad.runs.settings import Settings
from bellgrad.training import assembly
from bellgrad.training import episodes as episodes_module
from bellgrad.training.engine import Engine
from bellgrad.training.episodes import WholeEpisodes

CPU = torch.device("cpu")
EAGER = Engine("eager", 1, 1, "")
SHORT, LONG, LIMIT = 1, 12, 9  # steps


@dataclass(frozen=True)
class Trip:
    """Observes `(origin, t)`: a number drawn from [0, 1) and the steps so far. The reward is `10 t + action`.

    Episodes with an origin below 1/2 terminate after one step, the others after twelve, or are cut after
    nine.
    """

    id: str = "Trip"
    max_episode_steps: int | None = LIMIT
    dtype: torch.dtype = torch.float32

    reset_noise: ClassVar[int] = 1
    step_noise: ClassVar[int] = 0
    observation_space: ClassVar = Box(0, 100, (2,), np.float32)
    action_space: ClassVar = Discrete(3)

    def initial(self, noise):
        return torch.cat([noise, torch.zeros_like(noise)], -1)

    def advance(self, physics, action, noise):
        origin, t = physics.unbind(-1)
        return (
            torch.stack([origin, t + 1], -1),
            10 * t + action,
            t + 1 == torch.where(origin < 0.5, SHORT, LONG),
        )

    def observe(self, physics):
        return physics


class GymTrip(gymnasium.Env):
    """The same, one at a time. It counts what is asked of it."""

    observation_space, action_space = Trip.observation_space, Trip.action_space
    stepped = 0  # in all environments together

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.origin, self.t = np.float32(self.np_random.random()), 0
        return np.array([self.origin, self.t], np.float32), {}

    def step(self, action):
        GymTrip.stepped += 1
        reward = 10.0 * self.t + action
        self.t += 1
        ended = self.t == (SHORT if self.origin < 0.5 else LONG)
        return np.array([self.origin, self.t], np.float32), reward, ended, False, {}


TRIPS = {
    "native": lambda num_envs, limit=LIMIT: NativeEnv(Trip(max_episode_steps=limit), num_envs),
    "gymnasium": lambda num_envs, limit=LIMIT: make_env(GymTrip, num_envs, max_episode_steps=limit),
}


class WatchState(NamedTuple):
    updates: Tensor
    steps: Tensor


class Watch:
    """Learns nothing and keeps what it is given. Its carry counts its decisions in an episode; the action is
    drawn."""

    def __init__(self, episodes):
        self.config, self.seen = SimpleNamespace(episodes=episodes), []

    def init(self, rng):
        zero = torch.zeros((), dtype=torch.int64)
        return WatchState(zero, zero.clone())

    def init_carry(self, num_envs):
        return {"count": torch.zeros(num_envs)}

    def act_noise(self, num_envs):
        return Noise("uniform", (num_envs,))

    def act(self, state, carry, obs, noise, explore=True):
        action = (3 * noise + (carry["count"] - obs.flatten(1)[:, -1])).long()  # their difference is 0
        return Acted(action, None, {"count": carry["count"] + 1})

    def update_noise(self, steps, episodes):
        return Noise("uniform", (steps, episodes))

    def update(self, state, episodes, noise):
        assert noise.shape == episodes.mask.shape
        self.seen.append(episodes)
        return state._replace(updates=state.updates + 1), {"reward": episodes.reward.sum()}


def drive(env, episodes, updates, engine=EAGER, seed=0):
    driver = WholeEpisodes(Watch(episodes), env, engine, seed, CPU)
    return driver, [driver.advance() for _ in range(updates)]


def assert_same(a, b):
    a, b = named_leaves(a), named_leaves(b)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


# ------------------------------------------------------------------------------------------- what is gathered
@pytest.mark.parametrize("num_envs", [1, 2, 3, 6])
@pytest.mark.parametrize("trip", TRIPS)
def test_exactly_n_whole_episodes_one_a_column_and_nothing_but_zeros_after_them(trip, num_envs):
    driver, reports = drive(TRIPS[trip](num_envs), 6, 5)
    for e, report in zip(driver.learner.seen, reports, strict=True):
        length = e.mask.sum(0)
        t = torch.arange(len(e.mask))[:, None]
        assert e.mask.shape == (length.max(), 6)
        assert torch.equal(e.mask, t < length)
        origin = e.obs[0, :, 0]
        assert torch.equal(length, torch.where(origin < 0.5, SHORT, LIMIT))
        assert torch.equal(e.obs, torch.stack(torch.broadcast_tensors(origin, t), -1) * e.mask[..., None])
        assert torch.equal(e.reward, (10 * t + e.action) * e.mask)
        assert torch.equal(e.terminated, e.mask & (t + 1 == length) & (origin < 0.5))
        assert torch.equal(e.truncated, e.mask & (t + 1 == length) & (origin >= 0.5))
        assert torch.equal(
            e.last_obs, torch.stack([origin, length.float()], -1)
        )  # never the next episode's first
        ended = report.ended.ended
        assert sorted(report.ended.length[ended].tolist()) == sorted(length.tolist())
        assert sorted(report.ended.return_[ended].tolist()) == sorted(e.reward.sum(0).tolist())
    taken = sum(int(e.mask.sum()) for e in driver.learner.seen)
    assert driver.steps == int(driver.state.steps) == taken and driver.updates == 5
    origins = torch.cat([e.obs[0, :, 0] for e in driver.learner.seen])
    assert len(origins.unique()) == 30  # no episode twice
    assert any(set(e.mask.sum(0).tolist()) == {SHORT, LIMIT} for e in driver.learner.seen)


@pytest.mark.parametrize("trip", TRIPS)
def test_short_episodes_are_not_favored_as_stopping_after_some_steps_does(trip):
    # 240 episodes of 1 or 9 steps: their mean length is 5 with a standard error of 4 / sqrt(240) = 0.26.
    # False alarm: 6e-5.
    driver, _ = drive(TRIPS[trip](4), 4, 60)
    lengths = torch.cat([e.mask.sum(0) for e in driver.learner.seen]).double()
    assert lengths.mean().item() == pytest.approx(5, abs=4 * 0.26)
    env, stopped = TRIPS[trip](60), []
    env.reset(0)
    for _ in range(LIMIT - 1):
        step = env.step(torch.zeros(60, dtype=torch.int64))
        stopped += step.episode.length[step.terminated | step.truncated].tolist()
    assert set(stopped) == {SHORT}  # those that were finished when it stopped


def test_environments_that_have_finished_their_share_are_not_stepped():
    GymTrip.stepped = 0
    driver, _ = drive(TRIPS["gymnasium"](4), 8, 6)
    assert GymTrip.stepped == driver.steps < 6 * 2 * 4 * LIMIT


def test_environments_in_worker_processes_run_the_same_episodes():
    one, _ = drive(TRIPS["gymnasium"](4), 8, 3)
    env = SubprocessEnv(GymTrip, 4, workers=2, max_episode_steps=LIMIT)
    try:
        other, _ = drive(env, 8, 3)
    finally:
        env.close()
    assert_same(one.learner.seen, other.learner.seen)


@pytest.mark.compiled
def test_compiled_collecting_gathers_what_eager_collecting_does(monkeypatch):
    monkeypatch.setattr(episodes_module, "UNROLL", 2)  # compiles faster
    runs = [drive(TRIPS["native"](3), 6, 3, Engine(mode, 1, 1, ""))[0] for mode in ("eager", "compiled")]
    assert_same(*(run.learner.seen for run in runs))


# --------------------------------------------------------------------------------------------- standing still
def wrapped(trip, num_envs):
    return TransformedEnv(TRIPS[trip](num_envs), [NormalizeObs(), FrameStack(2), NormalizeReward(gamma=0.9)])


@pytest.mark.parametrize("trip", TRIPS)
def test_normalizers_count_the_steps_taken_and_nothing_that_stood_still(trip):
    env = wrapped(trip, 3)
    driver, _ = drive(env, 6, 4)
    driver.sync_env()
    obs, _, reward = env.transform_state
    assert int(obs.count) == driver.steps + 3  # and the first observations
    assert int(reward.moments.count) == driver.steps


@pytest.mark.parametrize("trip", TRIPS)
def test_an_environment_that_stands_still_keeps_all_that_is_its_own(trip):
    env = TransformedEnv(TRIPS[trip](3), [FrameStack(2), NormalizeReward(gamma=0.9)])
    env.reset(5)
    for _ in range(4):
        before = env.step(torch.ones(3, dtype=torch.int64))
    still = env.step(torch.ones(3, dtype=torch.int64), torch.tensor([True, False, True]))
    for tensor in (still.obs, still.next_obs):
        assert torch.equal(tensor[1], before.obs[1])
    assert (still.reward[1], still.terminated[1], still.truncated[1]) == (0, False, False)
    length = torch.where(before.terminated | before.truncated, 0, before.episode.length)
    assert torch.equal(still.episode.length - length, torch.tensor([1, 0, 1]))
    alone = TransformedEnv(TRIPS[trip](3), [FrameStack(2), NormalizeReward(gamma=0.9)])
    alone.restore(env.snapshot())  # what was left out of a replayed past would show here
    again, after = (e.step(torch.ones(3, dtype=torch.int64)) for e in (alone, env))
    assert torch.equal(again.obs, after.obs) and torch.equal(again.episode.return_, after.episode.return_)


# ------------------------------------------------------------------------------------------------------ runs
@pytest.mark.parametrize("trip", TRIPS)
def test_trap_resume_goes_on_with_the_same_bits_between_updates(trip, tmp_path):
    def real(seed=0):
        env = wrapped(trip, 2)
        learner = REINFORCE(episodes=4, network=MLP((8,)), state_weight="geometric").build(env.spec)
        return WholeEpisodes(learner, env, EAGER, seed, CPU)

    whole, resumed = real(), real(seed=9)  # the other seed's numbers must all be replaced
    for _ in range(3):
        whole.advance()
    counters, tensors = whole.snapshot()
    path = save_checkpoint(
        tmp_path, whole.steps, {"driver": counters}, {name: x.clone() for name, x in tensors.items()}
    )
    assert resumed.restore(Checkpoint.open(path)) is None
    for _ in range(3):
        report, again = whole.advance(), resumed.advance()
    assert_same(report, again)
    assert_same(whole.snapshot()[1], resumed.snapshot()[1])
    assert (whole.steps, whole.updates) == (resumed.steps, resumed.updates)


def test_a_run_trains_stops_and_evaluates(tmp_path):
    algorithm = REINFORCE(episodes=4, network=MLP((8,)))
    run = api.train(
        algorithm, "CartPole-v1", 500, out=tmp_path / "run", num_envs=2, progress="off", eval_episodes=2
    )
    assert run.status == "finished" and run.checkpoint().step >= 500
    assert (
        run.record["engine_used"]["reason"]
        == "eager: 250 steps of all environments planned, fewer than 20,000"
    )
    assert api.resume(run.folder, 900, progress="off").checkpoint().step >= 900
    assert api.evaluate(run, 2).episodes == 2


def test_environments_that_cannot_share_the_episodes_equally_are_refused():
    with pytest.raises(
        UsageError, match=r"^20 episodes cannot be shared equally by 8 environments; 5 would do$"
    ):
        drive(TRIPS["native"](8), 20, 1)


def test_episodes_without_a_time_limit_are_cut_at_the_cap(monkeypatch):
    monkeypatch.setattr(assembly, "EPISODE_CAP", 7)
    env = assembly.make_run_env(Settings(REINFORCE(episodes=6), GymTrip, 100, num_envs=3), CPU, 3)
    driver, _ = drive(env, 6, 3)
    assert {int(n) for e in driver.learner.seen for n in e.mask.sum(0)} == {SHORT, 7}
    assert all(e.truncated[-1].any() for e in driver.learner.seen if len(e.mask) == 7)
