"""Transforms against brute-force twins, over episodes that end in both ways, and inside a compiled loop."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from bellgrad.core.errors import UsageError
from bellgrad.core.protocols import BatchedEnv
from bellgrad.core.records import EnvSpec, EpisodeTotals, Step
from bellgrad.core.rng import draw
from bellgrad.core.tree import leaves, named_leaves, nest
from bellgrad.envs.classic import CartPole, MountainCarContinuous, Pendulum
from bellgrad.envs.host import HostEnv
from bellgrad.envs.images import FrameStack
from bellgrad.envs.native import NativeEnv
from bellgrad.envs.transformed import TransformedEnv
from bellgrad.envs.transforms import ClipReward, NormalizeObs, NormalizeReward, RescaleAction, RescaleReward


class Scripted:
    """A `BatchedEnv` that keeps its state: observations from a table; environment i ends at every (3 + i)-th
    step, by turns terminated and truncated; the reward is the step's number, less 4."""

    device, workers, render_fps = torch.device("cpu"), 0, 30.0

    def __init__(self, num_envs: int, shape: tuple[int, ...], dtype=np.float32):
        self.num_envs, self._shape, self._dtype = num_envs, shape, dtype
        high = 255 if dtype == np.uint8 else 50.0
        self.observation_space = Box(0, high, shape, dtype)
        self.action_space = Discrete(2)
        self.spec = EnvSpec("Scripted", self.observation_space, self.action_space)

    def _obs(self) -> torch.Tensor:
        self._drawn += 1
        rng = np.random.default_rng([self._seed, self._drawn])
        return torch.from_numpy(rng.integers(0, 50, (self.num_envs, *self._shape)).astype(self._dtype))

    def reset(self, seed):
        self._seed, self._drawn, self._time = seed, 0, 0
        self._last = self._obs()
        return self._last

    def step(self, action, active=None):
        self._time += 1
        period = 3 + torch.arange(self.num_envs)
        ended = self._time % period == 0
        truncated = ended & (self._time // period % 2 == 0)
        next_obs, first = self._obs(), self._obs()
        mask = ended.reshape(-1, *[1] * len(self._shape))
        self._last = torch.where(mask, first, next_obs)
        reward = torch.full((self.num_envs,), self._time - 4.0)
        zeros = torch.zeros(self.num_envs)
        return Step(
            self._last,
            reward,
            ended & ~truncated,
            truncated,
            next_obs,
            EpisodeTotals(zeros + 7, zeros.long() + 3),
        )

    def snapshot(self):
        return {"place": torch.tensor([self._seed, self._drawn, self._time]), "last": self._last}

    def restore(self, tree):
        self._seed, self._drawn, self._time = tree["place"].tolist()
        self._last = tree["last"]
        return self._last

    def snapshot_rows(self, rows):
        raise NotImplementedError

    restore_rows = render = known_dynamics = snapshot_rows

    def as_pure(self):
        return HostEnv(self)

    def close(self):
        pass


def play(env, steps: int, seed: int = 0) -> tuple[torch.Tensor, list[Step]]:
    obs = env.reset(seed)
    return obs, [env.step(torch.zeros(env.num_envs, dtype=torch.int64)) for _ in range(steps)]


def test_running_normalizer_takes_in_what_is_acted_on_and_normalizes_terminal_observations_too():
    raw_first, raw = play(Scripted(2, (3,)), 20)
    first, steps = play(TransformedEnv(Scripted(2, (3,)), [NormalizeObs(clip=1.5)]), 20)
    seen = [raw_first.double().numpy()]

    def twin(x: torch.Tensor) -> np.ndarray:
        all_seen = np.concatenate(seen)
        return np.clip((x.double().numpy() - all_seen.mean(0)) / np.sqrt(all_seen.var(0) + 1e-8), -1.5, 1.5)

    np.testing.assert_allclose(first.numpy(), twin(raw_first), rtol=1e-4, atol=1e-5)
    for got, plain in zip(steps, raw, strict=True):
        seen.append(plain.obs.double().numpy())
        np.testing.assert_allclose(got.obs.numpy(), twin(plain.obs), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got.next_obs.numpy(), twin(plain.next_obs), rtol=1e-4, atol=1e-5)
        assert torch.equal(got.reward, plain.reward)
    assert any(s.terminated.any() for s in steps) and any(s.truncated.any() for s in steps)


def test_running_normalizers_stand_still_in_evaluation_and_survive_a_reset():
    transforms = [NormalizeObs(), NormalizeReward(0.9), FrameStack(2)]
    env = TransformedEnv(Scripted(2, (3,)), transforms)
    play(env, 10)
    moments = leaves(env.transform_state[0])
    evaluation = TransformedEnv(Scripted(5, (3,)), transforms)  # another number of environments
    evaluation.frozen = True
    evaluation.transform_state = env.transform_state
    obs, steps = play(evaluation, 10, seed=1)
    assert obs.shape == (5, 2, 3) and steps[-1].obs.shape == (5, 2, 3)
    for before, after in zip(moments, leaves(evaluation.transform_state[0]), strict=True):
        assert torch.equal(before, after)
    reward_moments = (leaves(e.transform_state[1].moments) for e in (env, evaluation))
    assert all(torch.equal(a, b) for a, b in zip(*reward_moments, strict=True))
    plain, _ = play(Scripted(5, (3,)), 0, seed=1)
    expected = (plain - moments[0]) / (moments[1] / moments[2] + 1e-8).sqrt()
    torch.testing.assert_close(obs[:, -1], expected.float(), rtol=1e-4, atol=1e-5)


def test_reward_normalizer_divides_by_the_deviation_of_the_discounted_return():
    _, raw = play(Scripted(2, (3,)), 20)
    _, steps = play(TransformedEnv(Scripted(2, (3,)), [NormalizeReward(0.9, clip=2.0)]), 20)
    returns, seen = np.zeros(2), []
    for got, plain in zip(steps, raw, strict=True):
        returns = 0.9 * returns + plain.reward.double().numpy()
        seen.extend(returns)
        expected = np.clip(plain.reward.double().numpy() / np.sqrt(np.var(seen) + 1e-8), -2, 2)
        np.testing.assert_allclose(got.reward.numpy(), expected, rtol=1e-4)
        returns[(plain.terminated | plain.truncated).numpy()] = 0
        assert torch.equal(got.episode.return_, plain.episode.return_)
        assert torch.equal(got.next_obs, plain.next_obs)


@pytest.mark.parametrize(
    ("shape", "dtype", "stacked"),
    [((3,), np.float32, (4, 3)), ((5, 6), np.uint8, (4, 5, 6)), ((2, 5, 6), np.uint8, (8, 5, 6))],
    ids=["vector", "picture", "channels"],
)
def test_frame_stack_begins_anew_with_an_episode_and_keeps_the_true_successor(shape, dtype, stacked):
    raw_first, raw = play(Scripted(2, shape, dtype), 20)
    env = TransformedEnv(Scripted(2, shape, dtype), [FrameStack(4)])
    first, steps = play(env, 20)
    assert env.observation_space.shape == stacked and env.observation_space.dtype == dtype
    assert first.shape == (2, *stacked) and first.dtype == raw_first.dtype
    frames = [[raw_first[i].numpy()] * 4 for i in range(2)]
    for got, plain in zip(steps, raw, strict=True):
        for i in range(2):
            successor = [*frames[i][1:], plain.next_obs[i].numpy()]
            ended = bool(plain.terminated[i] | plain.truncated[i])
            frames[i] = [plain.obs[i].numpy()] * 4 if ended else successor
            np.testing.assert_array_equal(got.next_obs[i].numpy(), np.stack(successor).reshape(stacked))
            np.testing.assert_array_equal(got.obs[i].numpy(), np.stack(frames[i]).reshape(stacked))
        assert env.observation_space.contains(got.obs[0].numpy())


def test_action_scaling_maps_the_unit_box_onto_the_bounds_once_and_never_beyond():
    space = Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 0.3], np.float32))
    bound = RescaleAction().bind(EnvSpec("x", Box(0, 1, (1,)), space))
    state = bound.init(1, "cpu")
    action = bound.action(state, torch.tensor([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0], [5.0, -5.0]]))
    torch.testing.assert_close(action, torch.tensor([[-2.0, 0.0], [0.0, 0.15], [2.0, 0.3], [2.0, 0.0]]))
    assert all(space.contains(row) for row in action.numpy())
    assert bound.spec.action_space == Box(-1.0, 1.0, (2,), np.float32)


def test_scaled_action_reaches_the_environment_in_its_own_units():
    env, plain = TransformedEnv(NativeEnv(Pendulum(), 1), [RescaleAction()]), NativeEnv(Pendulum(), 1)
    env.reset(0), plain.reset(0)
    step, twin = env.step(torch.tensor([[0.5]])), plain.step(torch.tensor([[1.0]]))
    assert torch.equal(step.next_obs, twin.next_obs)


def test_an_action_passes_the_transforms_from_the_learner_inwards():
    once, twice = (TransformedEnv(NativeEnv(Pendulum(), 1), [RescaleAction()] * n) for n in (1, 2))
    once.reset(0), twice.reset(0)
    action = torch.tensor([[0.75]])  # the other way round, the torque of 1.5 would be cut to 1 on its way
    assert torch.equal(once.step(action).next_obs, twice.step(action).next_obs)


def test_rewards_are_rescaled_then_clipped_in_the_order_given():
    _, steps = play(TransformedEnv(Scripted(1, (3,)), [RescaleReward(0.25), ClipReward()]), 10)
    # the raw rewards are -3, -2, ... 6
    assert [s.reward.item() for s in steps] == [-0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert all(s.episode.return_.item() == 7 for s in steps)


@pytest.mark.parametrize(
    ("transform", "env"),
    [
        (RescaleAction(), Scripted(1, (3,))),
        (NormalizeObs(), Scripted(1, (3,), np.uint8)),
        (FrameStack(), Scripted(1, (1, 2, 3, 4))),
    ],
    ids=lambda x: type(x).__name__,
)
def test_spaces_that_do_not_fit_are_refused_in_words(transform, env):
    with pytest.raises(UsageError, match=f"{type(transform).__name__} needs"):
        TransformedEnv(env, [transform])


def test_infinite_action_bounds_are_refused():
    spec = EnvSpec("x", Box(0, 1, (1,)), Box(-np.inf, np.inf, (1,)))
    with pytest.raises(UsageError, match="finite"):
        RescaleAction().bind(spec)


@pytest.mark.parametrize(
    "make", [lambda: NormalizeObs(clip=0), lambda: NormalizeReward(1.1), lambda: FrameStack(0)]
)
def test_fields_out_of_range_are_refused(make):
    with pytest.raises(UsageError, match="out of range"):
        make()


def deep(inner) -> TransformedEnv:
    return TransformedEnv(inner, [NormalizeObs(), NormalizeReward(0.99), FrameStack(3), ClipReward()])


@pytest.mark.parametrize(
    "inner",
    [lambda: Scripted(2, (3,)), lambda: NativeEnv(CartPole(), 2, max_episode_steps=7)],
    ids=["any", "native"],
)
def test_snapshot_restores_bit_for_bit_in_a_new_object(inner):
    env = deep(inner())
    play(env, 10)
    # What a store of tensors keeps: names and tensors, in any order.
    named = named_leaves(env.snapshot())
    snapshot = nest(dict(sorted(named.items())))
    action = torch.zeros(2, dtype=torch.int64)
    current, expected = env.restore(snapshot), [env.step(action) for _ in range(12)]
    other = deep(inner())
    assert torch.equal(other.restore(snapshot), current)
    for step in expected:
        assert all(torch.equal(a, b) for a, b in zip(leaves(step), leaves(other.step(action)), strict=True))


def test_restore_returns_the_observation_that_the_last_step_gave():
    env = deep(Scripted(2, (3,)))
    _, steps = play(env, 10)
    assert torch.equal(deep(Scripted(2, (3,))).restore(env.snapshot()), steps[-1].obs)


def test_transforms_without_state_need_nothing_of_a_snapshot():
    env = TransformedEnv(Scripted(1, (3,)), [ClipReward()])
    play(env, 3)
    env.restore(nest(named_leaves(env.snapshot())))
    assert env.transform_state == ({},)


def test_a_transformed_environment_can_be_compiled_exactly_if_the_inner_one_can():
    pure, other = deep(NativeEnv(CartPole(), 2)), deep(Scripted(2, (3,)))
    assert isinstance(pure, BatchedEnv) and isinstance(other, BatchedEnv)
    assert pure.compilable and not other.compilable
    assert pure.as_pure() is pure and other.as_pure() is other
    assert pure.noise is not None and other.noise is None
    assert pure.spec.id == "CartPole-v1" and pure.spec.max_episode_steps == 500
    assert pure.spec.observation_space.shape == (3, 4)


def test_one_call_steps_environments_of_both_kinds_and_gives_what_step_gives():
    def as_a_driver_does(env):
        """Steps with the environment's own random numbers, where they are asked for."""
        env.reset(0)
        generator = torch.Generator()
        if env.compilable:
            generator.set_state(env.snapshot()["env"]["generator"])
        state, steps = env.state, []
        for _ in range(10):
            action = torch.zeros(2, dtype=torch.int64)
            state, step = env.pure_step(state, action, draw(env.noise, generator))
            steps.append(step)
        env.state = state
        return steps

    for make in (lambda: NativeEnv(CartPole(), 2, max_episode_steps=4), lambda: Scripted(2, (3,))):
        env, other = deep(make()), deep(make())
        pairs = zip(leaves(as_a_driver_does(env)), leaves(play(other, 10)[1]), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        assert all(torch.equal(a, b) for a, b in zip(leaves(env.state), leaves(other.state), strict=True))


def test_pure_step_equals_step_and_changes_nothing():
    env = TransformedEnv(
        NativeEnv(MountainCarContinuous(), 2), [RescaleAction(), NormalizeObs(), NormalizeReward(0.9)]
    )
    env.reset(0)
    before, generator = env.state, torch.Generator()
    generator.set_state(env.snapshot()["env"]["generator"])
    action = torch.tensor([[0.3], [-4.0]])
    state, step = env.pure_step(before, action, draw(env.noise, generator))
    assert all(a is b for a, b in zip(leaves(before), leaves(env.state), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(leaves(step), leaves(env.step(action)), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(leaves(state), leaves(env.state), strict=True))


@pytest.mark.compiled
def test_transforms_compile_whole_with_the_environment_and_equal_eager():
    env = TransformedEnv(
        NativeEnv(Pendulum(), 3, max_episode_steps=2),
        [RescaleAction(), NormalizeObs(), NormalizeReward(0.9), FrameStack(2)],
    )
    env.reset(0)

    def loop(state, action, noise):
        steps = []
        for k in range(3):
            state, step = env.pure_step(state, action[k], noise[k])
            steps.append(step)
        return state, steps

    generator = torch.Generator().manual_seed(0)
    action, noise = torch.rand(3, 3, 1, generator=generator) * 2 - 1, draw(env.noise, generator, 3)
    eager, compiled = (
        loop(env.state, action, noise),
        torch.compile(loop, fullgraph=True)(env.state, action, noise),
    )
    for a, b in zip(leaves(eager), leaves(compiled), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert eager[1][1].truncated.all()
