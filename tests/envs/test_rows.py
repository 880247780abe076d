"""Single episodes put back, into any row: they go on as they did, and the other rows see nothing of it."""

import random

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.wrappers import TimeLimit
from misbehaving import Counter

from bellgrad.core.errors import EnvironmentFault, UsageError
from bellgrad.core.tree import leaves, map_tree, named_leaves, nest
from bellgrad.envs.classic import CartPole
from bellgrad.envs.gym import GymEnv
from bellgrad.envs.images import FrameStack, MaxPool
from bellgrad.envs.native import NativeEnv
from bellgrad.envs.transformed import TransformedEnv
from bellgrad.envs.transforms import NormalizeObs, NormalizeReward
from bellgrad.envs.worker import SubprocessEnv

B = 4


class Sometimes(gymnasium.Env):
    """Repeats itself unless `Sometimes.fickle`; ends after 6 steps."""

    observation_space = gymnasium.spaces.Box(-1e6, 1e6, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    fickle = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.offset = random.random() if Sometimes.fickle else self.np_random.random()
        self.steps = 0
        return self.obs(), {}

    def obs(self):
        return np.array([self.steps, self.offset], np.float32)

    def step(self, action):
        self.steps += 1
        return self.obs(), float(action), self.steps == 6, False, {}


def cartpole():
    return TimeLimit(gymnasium.make("CartPole-v1", disable_env_checker=True), 30)


def transformed(env):
    return TransformedEnv(env, [NormalizeObs(), MaxPool(2), NormalizeReward(0.9), FrameStack(3)])


MAKE = {
    "native": lambda: NativeEnv(CartPole(), B, max_episode_steps=30),
    "gymnasium": lambda: GymEnv(cartpole, B),
    "subprocess": lambda: SubprocessEnv("CartPole-v1", B, workers=2, max_episode_steps=30),
    "transformed native": lambda: transformed(MAKE["native"]()),
    "transformed gymnasium": lambda: transformed(MAKE["gymnasium"]()),
}


@pytest.fixture(params=MAKE)
def env(request):
    made = MAKE[request.param]()
    if isinstance(made, TransformedEnv):  # running statistics are shared, and not a part of an episode
        made.reset(3)
        play(made, actions_of(20, seed=9))
        made.frozen = True
    made.reset(5)
    yield made
    made.close()


def actions_of(steps, seed, rows=B):
    return torch.randint(2, (steps, rows), generator=torch.Generator().manual_seed(seed))


def play(env, actions):
    return [env.step(action) for action in actions]


def of_row(tree, row):
    return map_tree(lambda leaf: leaf[row], tree)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(leaves(a), leaves(b), strict=True))


def through_a_file(snapshot):
    return nest({name: leaf.clone() for name, leaf in named_leaves(snapshot).items()})


def of_one_episode(steps, row):
    """The steps of a row to the end of its episode, without the observation after the reset: which episode
    comes next is the row's own affair."""
    ended = [bool((step.terminated | step.truncated)[row]) for step in steps]
    episode = [of_row(step, row) for step in steps[: ended.index(True) + 1]]
    return [*episode[:-1], episode[-1]._replace(obs=None)]


def test_an_episode_goes_on_in_another_row_as_it_did(env):
    play(env, actions_of(12, seed=0))
    (saved,) = env.snapshot_rows([0])
    saved = through_a_file(saved)
    onwards = actions_of(40, seed=1)
    first = play(env, onwards)
    present = first[-1].obs

    obs = env.restore_rows([2], [saved])
    others = [0, 1, 3]
    assert same(of_row(obs, others), of_row(present, others))
    moved = onwards.clone()
    moved[:, 2] = onwards[:, 0]
    assert same(of_one_episode(play(env, moved), 2), of_one_episode(first, 0))


def test_restoring_a_row_changes_nothing_in_the_others(env):
    play(env, actions_of(12, seed=0))
    (saved,) = env.snapshot_rows([0])
    play(env, actions_of(3, seed=1))
    before = through_a_file(env.snapshot())
    untouched = play(env, actions_of(40, seed=2))
    env.restore(before)
    env.restore_rows([2], [saved])
    for step, plain in zip(play(env, actions_of(40, seed=2)), untouched, strict=True):
        assert same(of_row(step, [0, 1, 3]), of_row(plain, [0, 1, 3]))


def test_a_snapshot_of_the_whole_after_a_row_was_restored_is_exact(env):
    play(env, actions_of(12, seed=0))
    saved = env.snapshot_rows([0, 3])
    play(env, actions_of(7, seed=1))
    env.restore_rows([2, 0], saved)
    play(env, actions_of(2, seed=2))
    whole = through_a_file(env.snapshot())
    expected = play(env, actions_of(60, seed=3))
    env.reset(77)
    env.restore(whole)
    assert all(same(a, b) for a, b in zip(play(env, actions_of(60, seed=3)), expected, strict=True))


def test_restored_episodes_can_be_saved_and_restored_again(env):
    play(env, actions_of(5, seed=0))
    (first,) = env.snapshot_rows([1])
    env.reset(6)
    env.restore_rows([3], [first])
    (second,) = env.snapshot_rows([3])
    assert same(first, second)


def test_no_rows_give_the_present_observation(env):
    step = play(env, actions_of(4, seed=0))[-1]
    assert same(env.restore_rows([], []), step.obs)
    assert env.snapshot_rows([]) == []


def test_rows_that_are_not_there_are_refused(env):
    (saved,) = env.snapshot_rows([0])
    with pytest.raises(UsageError, match="row 4 is not in a batch of 4"):
        env.snapshot_rows([B])
    with pytest.raises(UsageError, match="row -1 is not"):
        env.restore_rows([-1], [saved])
    with pytest.raises(UsageError, match="each may be named once"):
        env.restore_rows([1, 1], [saved, saved])


@pytest.mark.parametrize("kind", ["native", "gymnasium", "transformed native", "transformed gymnasium"])
def test_nothing_is_saved_or_restored_before_a_reset(kind):
    env = MAKE[kind]()
    with pytest.raises(UsageError, match="reset"):
        env.snapshot_rows([0])
    with pytest.raises(UsageError, match="reset"):
        env.restore_rows([], [])


def test_a_snapshot_of_other_spaces_is_refused():
    env, other = GymEnv(Counter, 1), GymEnv(cartpole, 1)
    env.reset(0), other.reset(0)
    with pytest.raises(UsageError, match="of other spaces"):
        other.restore_rows([0], env.snapshot_rows([0]))


@pytest.mark.parametrize("transforms", [[], [FrameStack(2), NormalizeReward(0.9)]])
def test_an_environment_that_does_not_repeat_itself_begins_anew_and_leaves_the_others_alone(transforms):
    env = TransformedEnv(GymEnv(Sometimes, 3), transforms)
    env.reset(0)
    step = play(env, actions_of(4, seed=0, rows=3))[-1]
    saved = env.snapshot_rows([0, 1])
    Sometimes.fickle = True
    try:
        with pytest.raises(EnvironmentFault, match="cannot be restored: environment 2 gave another"):
            env.restore_rows([2, 1], saved)
    finally:
        Sometimes.fickle = False
    obs = env.restore_rows([], [])
    assert same(of_row(obs, 0), of_row(step.obs, 0))
    now = [step.reshape(-1, 2)[:, 0].unique().tolist() for step in obs[1:]]
    assert now == [[0.0], [0.0]]  # the first step of new episodes, for the transforms too
    after = play(env, actions_of(2, seed=1, rows=3))
    assert after[0].episode.length.tolist() == [5, 1, 1]
    assert after[1].terminated.tolist() == [True, False, False]


def test_an_environment_that_cannot_begin_anew_must_be_reset():
    class Stuck(Sometimes):
        def reset(self, *, seed=None, options=None):
            if Sometimes.fickle:
                raise RuntimeError("stuck")
            return super().reset(seed=seed)

    env = GymEnv(Stuck, 2)
    env.reset(0)
    saved = env.snapshot_rows([0])
    Sometimes.fickle = True
    try:
        with pytest.raises(EnvironmentFault, match="must be reset"):
            env.restore_rows([1], saved)
    finally:
        Sometimes.fickle = False
    with pytest.raises(UsageError, match="reset first"):
        env.step(torch.zeros(2, dtype=torch.int64))
    env.reset(0)


def test_snapshots_from_before_rows_could_change_are_restored():
    env = GymEnv(cartpole, 2)
    env.reset(0)
    play(env, actions_of(50, seed=0, rows=2))
    old = env.snapshot()
    del old["episode_seed"]
    expected = play(env, actions_of(50, seed=1, rows=2))
    env.restore(old)
    assert all(same(a, b) for a, b in zip(play(env, actions_of(50, seed=1, rows=2)), expected, strict=True))


def test_shared_statistics_are_not_a_part_of_an_episode():
    env = TransformedEnv(NativeEnv(CartPole(), 2), [NormalizeObs(), NormalizeReward(0.9)])
    env.reset(0)
    play(env, actions_of(3, seed=0, rows=2))
    (saved,) = env.snapshot_rows([0])
    assert set(named_leaves(saved["transforms"])) == {"1/return_"}
    play(env, actions_of(5, seed=1, rows=2))
    before = map_tree(torch.clone, (env.transform_state[0], env.transform_state[1].moments))
    env.restore_rows([1], [saved])
    assert same(before, (env.transform_state[0], env.transform_state[1].moments))
    assert torch.equal(env.transform_state[1].return_[1], saved["transforms"]["1"]["return_"])
