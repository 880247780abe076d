"""Image transforms and repeated actions against plain loops over Gymnasium, in NumPy."""

from collections import deque
from dataclasses import dataclass, replace
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, Tuple

from bellgrad.core.errors import UsageError
from bellgrad.core.images import channels_of
from bellgrad.core.records import EnvSpec
from bellgrad.core.rng import derive_seed, draw
from bellgrad.core.tree import leaves
from bellgrad.envs.classic import CartPole
from bellgrad.envs.gym import GymEnv
from bellgrad.envs.images import ChannelsFirst, FrameStack, Gray, ImageLayout, MaxPool, Resize
from bellgrad.envs.native import NativeEnv
from bellgrad.envs.transformed import TransformedEnv
from bellgrad.envs.transforms import ActionRepeat, ClipReward, NormalizeReward, RescaleReward
from bellgrad.nets.encoder import Encoder
from bellgrad.nets.specs import CNN

ATARI = [MaxPool(2), ActionRepeat(4), Gray(), Resize(14, 10), FrameStack(4), ClipReward()]


class Screen(gymnasium.Env):
    """Random color images; after 7 to 19 steps an episode ends, terminated or truncated. The reward depends
    on the action."""

    observation_space = Box(0, 255, (21, 16, 3), np.uint8)
    action_space = Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(7, 20))
        self.terminates = bool(self.np_random.integers(2))
        return self.image(), {}

    def image(self):
        return self.np_random.integers(0, 256, self.observation_space.shape, dtype=np.uint8)

    def step(self, action):
        self.left -= 1
        ended = self.left == 0
        reward = float(action) - 1.0 + self.np_random.integers(-1, 2)
        return self.image(), reward, ended and self.terminates, ended and not self.terminates, {}


def gray(image):
    return np.rint(image.astype(np.float64) @ [0.299, 0.587, 0.114])


def resized(image, height, width):
    """The mean over the area of each new pixel, by counting equal small parts of the old ones."""
    fine = image.repeat(height, 0).repeat(width, 1)
    return np.rint(fine.reshape(height, image.shape[0], width, image.shape[1]).mean((1, 3)))


class PlainAtari:
    """What Mnih et al. (2015) do to one environment, in a loop."""

    def __init__(self, seed, index):
        self.env, self.seed, self.index, self.episode = Screen(), seed, index, -1

    def reset(self):
        self.episode += 1
        image, _ = self.env.reset(seed=derive_seed(self.seed, self.index, self.episode) & (2**31 - 1))
        self.raw = deque([image, image], 2)
        self.stack = deque([self.seen()] * 4, 4)
        self.return_, self.length = 0.0, 0
        return np.stack(self.stack)

    def seen(self):
        return resized(gray(np.maximum(*self.raw)), 14, 10)

    def step(self, action):
        total = 0.0
        for _ in range(4):
            image, reward, terminated, truncated, _ = self.env.step(action)
            self.raw.append(image)
            total, self.return_, self.length = total + reward, self.return_ + reward, self.length + 1
            if terminated or truncated:
                break
        self.stack.append(self.seen())
        step = (np.stack(self.stack), np.clip(total, -1, 1), terminated, truncated, self.return_, self.length)
        return (self.reset() if terminated or truncated else step[0]), *step


def test_the_whole_atari_pipeline_is_that_of_a_plain_loop():
    env, twins = TransformedEnv(GymEnv(Screen, 3), ATARI), [PlainAtari(8, i) for i in range(3)]
    assert env.observation_space == Box(0, 255, (4, 14, 10), np.uint8) and env.spec.frame_stack == 4

    def close(tensor, arrays):  # float32 and float64 may round a mean or a luma to neighbors
        assert tensor.dtype == torch.uint8
        apart = np.abs(tensor.numpy().astype(float) - np.stack(arrays))
        assert apart.max() <= 1 and (apart > 0).mean() < 0.2
        return (apart > 0).mean()

    close(env.reset(8), [twin.reset() for twin in twins])
    actions = torch.randint(3, (60, 3), generator=torch.Generator().manual_seed(0))
    lengths = set()
    for action in actions:
        step = env.step(action)
        obs, next_obs, *numbers = zip(
            *(twin.step(int(a)) for twin, a in zip(twins, action, strict=True)), strict=True
        )
        close(step.obs, obs)
        close(step.next_obs, next_obs)
        got = (step.reward, step.terminated, step.truncated, *step.episode)
        assert [x.tolist() for x in got] == [list(x) for x in numbers]
        ended = step.terminated | step.truncated
        lengths |= set((step.episode.length[ended] % 4).tolist())
        assert torch.equal(step.obs[~ended], step.next_obs[~ended])
    assert lengths == {0, 1, 2, 3}  # episodes ended with each of the four steps of a decision


def test_gray_is_the_luma_as_opencv_rounds_it():
    colors = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 300, 300, 3), dtype=np.uint8))
    got = Gray().observe({}, colors)
    assert got.dtype == torch.uint8 and got.shape == (1, 300, 300)
    assert np.abs(got.numpy()[0] - gray(colors.numpy()[0])).max() <= 1
    pure = torch.tensor([[[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]]], dtype=torch.uint8)
    assert Gray().observe({}, pure).tolist() == [[[76, 150, 29, 255]]]  # as cv2.cvtColor gives


def bound(transform, shape):
    return transform.bind(EnvSpec("images", Box(0, 255, shape, np.uint8), Discrete(2)))


@pytest.mark.parametrize(("size", "wanted"), [((210, 160), (84, 84)), ((9, 7), (4, 3)), ((8, 8), (4, 2))])
@pytest.mark.parametrize("channels", [(), (3,)], ids=["gray", "color"])
def test_resized_pixels_are_means_over_the_area_that_they_cover(size, wanted, channels):
    images = np.random.default_rng(0).integers(0, 256, (2, *size, *channels), dtype=np.uint8)
    resize = bound(Resize(*wanted), (*size, *channels))
    got = resize.observe(resize.init(2, "cpu"), torch.from_numpy(images)).numpy()
    assert got.dtype == np.uint8 and got.shape[1:] == resize.spec.observation_space.shape
    planes = np.moveaxis(images, -1, 1) if channels else images[:, None]
    expected = np.stack([[resized(plane, *wanted) for plane in image] for image in planes])
    expected = np.moveaxis(expected, 1, -1) if channels else expected[:, 0]
    apart = np.abs(got - expected)
    assert apart.max() <= 1 and (apart > 0).mean() < 0.01  # a mean half-way between two integers


def test_an_image_of_the_wanted_size_stays_and_a_larger_one_repeats_pixels():
    image = torch.randint(256, (1, 5, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    same = bound(Resize(5, 6), (5, 6))
    assert torch.equal(same.observe(same.init(1, "cpu"), image), image)
    larger = bound(Resize(10, 12), (5, 6))
    twice = image.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(larger.observe(larger.init(1, "cpu"), image), twice)
    assert bound(Resize(84), (5, 6)).spec.observation_space.shape == (84, 84)


def test_color_images_are_stacked_one_after_another_once_their_channels_come_first():
    env = TransformedEnv(GymEnv(Screen, 1), [ChannelsFirst(), FrameStack(2)])
    assert env.observation_space.shape == (6, 21, 16)
    plain = GymEnv(Screen, 1)
    first, obs = plain.reset(0), env.reset(0)
    step, stacked = plain.step(torch.tensor([0])), env.step(torch.tensor([0]))
    assert torch.equal(obs[0], torch.cat([first[0].permute(2, 0, 1)] * 2))
    expected = torch.cat([first[0].permute(2, 0, 1), step.next_obs[0].permute(2, 0, 1)])
    assert torch.equal(stacked.next_obs[0], expected)


@pytest.mark.parametrize(
    ("transform", "shape", "words"),
    [
        (FrameStack(4), (7, 7, 7), "image_layout:first or image_layout:last"),
        (Gray(), (84, 84), "Gray needs color images"),
        (Gray(), (84, 84, 1), "Gray needs color images"),
        (Resize(84), (7, 5, 7), "image_layout:first or image_layout:last"),
        (ChannelsFirst(), (4, 84, 84), r"ChannelsFirst needs images \[H, W, C\]"),
        (ChannelsFirst(), (84, 84), r"ChannelsFirst needs images \[H, W, C\]"),
    ],
)
def test_images_of_another_layout_are_refused(transform, shape, words):
    with pytest.raises(UsageError, match=words):
        bound(transform, shape)


@pytest.mark.parametrize("transform", [Gray(), Resize(84), ChannelsFirst(), MaxPool()])
def test_what_is_no_image_is_refused_by_transforms_of_images(transform):
    space = Discrete(3) if isinstance(transform, MaxPool) else Box(0, 1, (84, 84, 3), np.float32)
    with pytest.raises(UsageError, match=f"{type(transform).__name__} needs"):
        transform.bind(EnvSpec("x", space, Discrete(2)))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(
    ("shape", "stacked"),
    [
        ((84, 84, 3), (12, 84, 84)),
        ((3, 84, 84), (12, 84, 84)),
        ((21, 16, 3), (12, 21, 16)),
        ((84, 84, 1), (4, 84, 84)),
        ((84, 84), (4, 84, 84)),
        ((5, 7, 7), (20, 7, 7)),
        ((3, 3), (4, 3, 3)),
    ],
)
def test_stacked_images_have_their_channels_first_and_networks_know_it(shape, stacked, dtype):
    space = Box(0, 200, shape, dtype)
    stack = FrameStack(4).bind(EnvSpec("images", space, Discrete(2)))
    seen = stack.spec.observation_space
    assert seen.shape == stacked and seen.dtype == dtype and stack.spec.frame_stack == 4
    assert channels_of(seen) == "first"
    layers = Encoder(seen, CNN(channels=(3,), kernels=(3,), strides=(1,))).convolutions[0]
    assert layers[0].in_channels == stacked[0]
    frames = torch.rand(2, 4, *shape)
    first = {2: frames, 3: frames.movedim(-1, 2) if shape[-1] in (1, 3) else frames}[len(shape)]
    assert torch.equal(stack.observe(frames, frames[:, -1]), first.reshape(2, *stacked))


def test_gray_and_resized_images_are_the_same_in_either_layout():
    image = torch.randint(256, (2, 12, 10, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for transform in (Gray(), Resize(6, 4)):
        last, first = bound(transform, (12, 10, 3)), bound(transform, (3, 12, 10))
        states = [each.init(2, "cpu") for each in (last, first)]
        a, b = last.observe(states[0], image), first.observe(states[1], image.movedim(-1, 1))
        assert a.shape[1:] == last.spec.observation_space.shape
        assert b.shape[1:] == first.spec.observation_space.shape
        assert torch.equal(a if a.dim() == 3 else a.movedim(-1, 1), b)


def test_the_layout_that_a_user_says_goes_through_every_other_transform():
    spec = EnvSpec("images", Box(0, 255, (9, 9, 9), np.uint8), Discrete(2))
    for channels, stacked in (("first", (27, 9, 9)), ("last", (27, 9, 9))):
        seen, image = spec, torch.randint(256, (1, 9, 9, 9), dtype=torch.uint8)
        for transform in (ImageLayout(channels), MaxPool(2), Resize(9), FrameStack(3)):
            joined = transform.bind(seen)
            seen = joined.spec
        assert seen.observation_space.shape == stacked
        got = joined.observe(torch.stack([image] * 3, 1), image)
        assert torch.equal(got, torch.cat([image if channels == "first" else image.movedim(-1, 1)] * 3, 1))
    tree = Dict(
        {"camera": spec.observation_space, "where": Tuple([Box(-1, 1, (2,)), spec.observation_space])}
    )
    laid = ImageLayout("last").bind(replace(spec, observation_space=tree)).spec.observation_space
    assert laid == tree
    assert channels_of(laid["camera"]) == channels_of(laid["where"][1]) == "last"
    with pytest.raises(UsageError, match="ImageLayout needs images"):
        ImageLayout("first").bind(EnvSpec("x", Box(0, 1, (3,)), Discrete(2)))
    with pytest.raises(UsageError, match=r"ImageLayout.channels"):
        ImageLayout("middle")


def test_frame_stack_tells_how_many_observations_one_is():
    env = TransformedEnv(GymEnv(Screen, 1), [Gray(), FrameStack(3), ClipReward()])
    assert env.spec.frame_stack == 3 and TransformedEnv(GymEnv(Screen, 1), [Gray()]).spec.frame_stack == 1


def test_reward_normalization_needs_a_discount():
    with pytest.raises(UsageError, match="NormalizeReward needs the learner's discount"):
        TransformedEnv(NativeEnv(CartPole(), 1), [NormalizeReward()])


@dataclass(frozen=True)
class Lights:
    """Native images that move with the action; episodes of 3 to 9 steps, by their first random number."""

    id: str = "Lights"
    max_episode_steps: int | None = 8
    dtype: torch.dtype = torch.float32

    reset_noise: ClassVar[int] = 1
    step_noise: ClassVar[int] = 1

    observation_space: ClassVar[Box] = Box(0, 255, (6, 5, 3), np.uint8)
    action_space: ClassVar[Discrete] = Discrete(2)

    def initial(self, noise):
        return torch.cat([3 + (noise * 7).floor(), 100 * noise], -1)

    def advance(self, physics, action, noise):
        left, light = physics.unbind(-1)
        light = light + 10 * action + 20 * noise[:, 0]
        return torch.stack([left - 1, light], -1), light, left <= 1

    def observe(self, physics):
        ramp = torch.arange(90.0, device=physics.device).reshape(6, 5, 3)
        return (torch.remainder(physics[:, 1, None, None, None] * ramp, 256.0)).to(torch.uint8)


def repeated_by_hand(env, n, actions, active=None):
    """`n` steps for each action, one after another, on the environment as it is without `ActionRepeat`."""
    steps = []
    for action in actions:
        going = torch.ones(env.num_envs, dtype=torch.bool) if active is None else active
        reward, parts = torch.zeros(env.num_envs), []
        for _ in range(n):
            step = env.step(action, going)
            reward = reward + step.reward
            parts.append((going, step))
            going = going & ~(step.terminated | step.truncated)
        rows = [[s for g, s in parts if g[i]][-1] if parts[0][0][i] else parts[0][1] for i in range(3)]
        picked = [[leaf[i] for leaf in leaves(row)] for i, row in enumerate(rows)]
        whole = [torch.stack(column) for column in zip(*picked, strict=True)]
        whole[1] = reward
        steps.append(whole)
    return steps


def test_transforms_before_repeated_actions_see_each_step_and_those_after_it_every_nth():
    before, after = [MaxPool(2), RescaleReward(0.5)], [Gray(), NormalizeReward(0.9), FrameStack(2)]
    env = TransformedEnv(NativeEnv(Lights(), 3), [*before, ActionRepeat(3), *after])
    plain = TransformedEnv(NativeEnv(Lights(), 3), before)
    env.reset(0), plain.reset(0)
    actions = torch.randint(2, (40, 3), generator=torch.Generator().manual_seed(0))
    expected = repeated_by_hand(plain, 3, actions)
    returns, seen = np.zeros(3), []
    for action, (obs, reward, terminated, truncated, next_obs, *episode) in zip(
        actions, expected, strict=True
    ):
        step = env.step(action)
        assert torch.equal(step.obs[:, 1], Gray().observe({}, obs))
        assert torch.equal(step.next_obs[:, 1], Gray().observe({}, next_obs))
        assert torch.equal(step.terminated, terminated) and torch.equal(step.truncated, truncated)
        assert all(torch.equal(a, b) for a, b in zip(step.episode, episode, strict=True))
        returns = 0.9 * returns + reward.double().numpy()
        seen.extend(returns)
        scaled = np.clip(reward.double().numpy() / np.sqrt(np.var(seen) + 1e-8), -10, 10)
        np.testing.assert_allclose(step.reward.numpy(), scaled, rtol=1e-4)
        returns[(terminated | truncated).numpy()] = 0
    assert any(row[2].any() for row in expected) and any(row[3].any() for row in expected)


def test_environments_that_stand_still_take_none_of_the_repeated_steps():
    env = TransformedEnv(NativeEnv(Lights(), 3), [MaxPool(2), ActionRepeat(3)])
    plain = TransformedEnv(NativeEnv(Lights(), 3), [MaxPool(2)])
    env.reset(0), plain.reset(0)
    active = torch.tensor([True, False, True])
    actions = torch.ones(10, 3, dtype=torch.int64)
    for action, expected in zip(actions, repeated_by_hand(plain, 3, actions, active), strict=True):
        step = env.step(action, active)
        assert all(torch.equal(a, b) for a, b in zip(leaves(step), expected, strict=True))
        assert step.reward[1] == 0 and step.episode.length[1] == 0


@pytest.mark.compiled
def test_repeated_actions_and_images_compile_whole_with_the_environment_and_equal_eager():
    transforms = [MaxPool(2), ActionRepeat(3), Gray(), Resize(4), FrameStack(2), ClipReward()]
    env = TransformedEnv(NativeEnv(Lights(), 3), transforms)
    env.reset(0)

    def loop(state, action, noise):
        steps = []
        for k in range(3):
            state, step = env.pure_step(state, action[k], (noise[0][k], noise[1][k], noise[2][k]))
            steps.append(step)
        return state, steps

    generator = torch.Generator().manual_seed(0)
    action, noise = torch.randint(2, (3, 3), generator=generator), draw(env.noise, generator, 3)
    eager = loop(env.state, action, noise)
    compiled = torch.compile(loop, fullgraph=True)(env.state, action, noise)
    for a, b in zip(leaves(eager), leaves(compiled), strict=True):
        assert a.dtype == b.dtype
        if a.dtype == torch.uint8:  # a brightness, or a mean, may be rounded to a neighbor
            apart = (a.int() - b.int()).abs()
            assert (torch.minimum(apart, 256 - apart) <= 1).all()
        else:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert any(step.terminated.any() for step in eager[1])
