"""Native environments equal Gymnasium's, restart by themselves, and are restored bit for bit."""

import math
import types

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import continuous_mountain_car

from bellgrad.core.errors import UsageError
from bellgrad.core.protocols import BatchedEnv
from bellgrad.core.rng import draw
from bellgrad.core.tree import leaves
from bellgrad.envs.catalog import NATIVE
from bellgrad.envs.classic import (
    CartPole,
    MountainCarContinuous,
    Pendulum,
    VelocityFreeCartPole,
    VelocityFreePendulum,
)
from bellgrad.envs.native import NativeEnv, NativeState, reset_state, step_state
from bellgrad.envs.registration import TWINS

pytestmark = pytest.mark.filterwarnings("ignore:.*CartPole-v0 is out of date")

NO_NOISE = torch.empty(0)  # classic control draws no random number
# Ranges from which physics are drawn: at least what the environment can reach, ends and terminal regions
# included.
RANGE = {
    "CartPole-v0": ([-2.6, -4, -0.25, -4], [2.6, 4, 0.25, 4]),
    "CartPole-v1": ([-2.6, -4, -0.25, -4], [2.6, 4, 0.25, 4]),
    "MountainCar-v0": ([-1.2, -0.07], [0.6, 0.07]),
    "MountainCarContinuous-v0": ([-1.2, -0.07], [0.6, 0.07]),
    "Acrobot-v1": (
        [-math.pi, -math.pi, -4 * math.pi, -9 * math.pi],
        [math.pi, math.pi, 4 * math.pi, 9 * math.pi],
    ),
    "Pendulum-v1": ([-20, -8], [20, 8]),
}


def random_actions(env, count: int, rng: np.random.Generator) -> np.ndarray:
    """Discrete `[n]`, or continuous `[n, D]` up to half as far again as the bounds, so that clipping is
    seen."""
    if isinstance(env.action_space, gymnasium.spaces.Discrete):
        return rng.integers(env.action_space.n, size=count)
    return (
        1.5 * rng.uniform(env.action_space.low, env.action_space.high, (count, *env.action_space.shape))
    ).astype(np.float32)


def twin_steps(name: str, physics: np.ndarray, actions: np.ndarray):
    """Gymnasium's own next physics, reward and termination from each row."""
    env = gymnasium.make(name).unwrapped
    env.reset(seed=0)
    rows = []
    for state, action in zip(physics, actions, strict=True):
        env.state = np.array(state)
        if name.startswith("CartPole"):
            env.steps_beyond_terminated = None
        _, reward, terminated, _, _ = env.step(action)
        rows.append((np.array(env.state, np.float64), reward, terminated))
    after, reward, terminated = zip(*rows, strict=True)
    return np.stack(after), np.array(reward, np.float64), np.array(terminated)


def modulo_turns(name: str, difference: np.ndarray) -> np.ndarray:
    """Acrobot's angles are equal modulo a turn: rounding may fall on either side of the half turn."""
    if name == "Acrobot-v1":
        difference = difference.copy()
        difference[:, :2] = (difference[:, :2] + np.pi) % (2 * np.pi) - np.pi
    return difference


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", TWINS)
def test_one_step_from_the_same_state_equals_gymnasium(name, dtype):
    rng = np.random.default_rng(0)
    count = 3000
    # The same float32 numbers on both sides, so that only the step itself rounds.
    physics = rng.uniform(*RANGE[name], (count, len(RANGE[name][0]))).astype(np.float32)
    if name == "Acrobot-v1" and dtype == torch.float32:
        # At full spin the last bit of the *state* alone moves the result by up to 1e-3 (measured).
        physics[:, 2:] /= 2
    dynamics = type(NATIVE[name]())(dtype=dtype)
    actions = random_actions(dynamics, count, rng)
    if dtype == torch.float64 and actions.dtype == np.float32:
        actions = actions.astype(np.float64)
    expected, expected_reward, expected_terminated = twin_steps(name, physics.astype(np.float64), actions)

    after, reward, terminated = dynamics.advance(
        torch.from_numpy(physics).to(dtype), torch.from_numpy(actions), NO_NOISE
    )

    # Float32 rounds to 6e-8 of the size of what is added. Acrobot at half spin: largest of 20,000 states
    # 3.9e-6, where the last bit of the state itself moves the result by 4.1e-6. Gymnasium rounds
    # MountainCarContinuous to float32.
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5 if name == "Acrobot-v1" else 2e-6
    if name == "MountainCarContinuous-v0":
        tolerance = max(tolerance, 1e-7)
    difference = np.abs(modulo_turns(name, after.double().numpy() - expected)) / np.maximum(
        1, np.abs(expected)
    )
    assert difference.max() < tolerance

    if name == "Acrobot-v1":  # wrapped, so that float32 keeps its last bits however often the joint turns
        assert after[:, :2].abs().max() <= math.pi + 1e-6

    # A flag may differ only where the exact state lies within rounding of the boundary.
    safe = np.ones(count, bool)
    if dtype == torch.float32 or name == "MountainCarContinuous-v0":
        if name.startswith("CartPole"):
            safe = (np.abs(np.abs(expected[:, 0]) - 2.4) > 1e-5) & (
                np.abs(np.abs(expected[:, 2]) - 12 * math.pi / 180) > 1e-5
            )
        elif name.startswith("MountainCar"):
            goal = 0.45 if "Continuous" in name else 0.5
            safe = (np.abs(expected[:, 0] - goal) > 1e-5) & (np.abs(expected[:, 1]) > 1e-5)
        elif name == "Acrobot-v1":
            safe = np.abs(-np.cos(expected[:, 0]) - np.cos(expected[:, 0] + expected[:, 1]) - 1) > 1e-3
    assert safe.mean() > 0.9
    np.testing.assert_array_equal(terminated.numpy()[safe], expected_terminated[safe])
    np.testing.assert_allclose(
        reward.double().numpy()[safe],
        expected_reward[safe],
        rtol=1e-12 if dtype == torch.float64 else 1e-5,
        atol=1e-7,
    )
    assert 0 < expected_terminated.sum() < count or name == "Pendulum-v1"


@pytest.mark.parametrize("name", TWINS)
def test_whole_episodes_in_float64_equal_gymnasium(name, monkeypatch):
    # Gymnasium rounds this state to float32 each step: lift that, compare the rest
    if name == "MountainCarContinuous-v0":
        unrounded = types.SimpleNamespace(array=np.array, float32=np.float64)
        monkeypatch.setattr(continuous_mountain_car, "np", unrounded)
    dynamics = type(NATIVE[name]())(
        id=name, max_episode_steps=NATIVE[name]().max_episode_steps, dtype=torch.float64
    )
    rng = np.random.default_rng(1)
    ends = set()
    for _ in range(4):
        noise = torch.from_numpy(rng.random((1, dynamics.reset_noise)))
        state = reset_state(dynamics, noise)
        twin = gymnasium.make(name)
        twin.reset(seed=0)
        twin.unwrapped.state = state.physics[0].numpy().copy()
        total, ended = 0.0, False
        while not ended:
            action = random_actions(dynamics, 1, rng)
            if action.dtype == np.float32:
                action = action.astype(np.float64)
            if name == "MountainCar-v0":  # push along the motion, which gets out of the valley
                action = np.array([2 if state.physics[0, 1] >= 0 else 0])
            if name == "MountainCarContinuous-v0":
                action = np.array([[1.0 if state.physics[0, 1] >= 0 else -1.0]])
            if name == "Acrobot-v1":  # torque along the first link's motion pumps energy in
                action = np.array([2 if state.physics[0, 2] <= 0 else 0])
            physics, reward, _ = dynamics.advance(state.physics, torch.from_numpy(action), NO_NOISE)
            state, step = step_state(dynamics, state, torch.from_numpy(action), noise)
            _, twin_reward, terminated, truncated, _ = twin.step(action[0])
            twin_state = np.array(twin.unwrapped.state)[None]
            np.testing.assert_allclose(modulo_turns(name, physics.numpy() - twin_state), 0, atol=1e-9)
            assert float(reward[0]) == pytest.approx(float(twin_reward), abs=1e-9)
            total += float(twin_reward)
            # Gymnasium may set both flags at once; here termination wins.
            assert (step.terminated.item(), step.truncated.item()) == (
                terminated,
                truncated and not terminated,
            )
            ended = terminated or truncated
        assert step.episode.return_.item() == pytest.approx(total, rel=1e-5)
        ends.add("terminated" if terminated else "truncated")
    assert ends == ({"truncated"} if name == "Pendulum-v1" else {"terminated"})


@pytest.mark.parametrize("name", TWINS)
def test_first_states_fill_gymnasiums_ranges_and_nothing_else(name):
    # Ranges as documented in Gymnasium's reset() of each environment.
    low, high = {
        "CartPole-v0": ([-0.05] * 4, [0.05] * 4),
        "CartPole-v1": ([-0.05] * 4, [0.05] * 4),
        "MountainCar-v0": ([-0.6, 0], [-0.4, 0]),
        "MountainCarContinuous-v0": ([-0.6, 0], [-0.4, 0]),
        "Acrobot-v1": ([-0.1] * 4, [0.1] * 4),
        "Pendulum-v1": ([-math.pi, -1], [math.pi, 1]),
    }[name]
    low, high = torch.tensor(low), torch.tensor(high)
    env = NativeEnv(NATIVE[name](), 4096)
    env.reset(seed=0)
    physics = env.state.physics
    width = high - low
    assert (physics >= low - 1e-6).all() and (physics <= high + 1e-6).all()
    # 4096 uniform draws leave less than 1 % of the range empty at either end, and their mean within 4
    # standard errors.
    assert ((physics.amin(0) - low) <= 0.01 * width).all() and (
        (high - physics.amax(0)) <= 0.01 * width
    ).all()
    assert ((physics.mean(0) - (low + high) / 2).abs() <= 4 * width / math.sqrt(12 * 4096) + 1e-6).all()


@pytest.mark.parametrize("name", TWINS)
def test_spaces_and_time_limit_are_gymnasiums(name):
    twin, env = gymnasium.make(name), NativeEnv(NATIVE[name](), 2)
    assert env.observation_space == twin.observation_space
    assert env.action_space == twin.action_space
    assert env.spec.max_episode_steps == twin.spec.max_episode_steps
    assert env.spec.id == name
    assert isinstance(env, BatchedEnv) and env.as_pure() is env and env.compilable
    obs = env.reset(seed=0)
    assert obs.dtype == torch.float32 and obs.shape == (2, *env.observation_space.shape)


@pytest.mark.parametrize(
    "blind, seeing, seen",
    [(VelocityFreeCartPole(), CartPole(), [0, 2]), (VelocityFreePendulum(), Pendulum(), [0, 1])],
)
def test_without_velocities_the_same_happens_and_less_is_seen(blind, seeing, seen):
    envs = [NativeEnv(dynamics, 3) for dynamics in (blind, seeing)]
    first = [env.reset(seed=0) for env in envs]
    action = torch.zeros(3, 1) if blind.action_space.shape else torch.zeros(3, dtype=torch.int64)
    steps = [env.step(action) for env in envs]
    assert torch.equal(envs[0].state.physics, envs[1].state.physics)
    assert torch.equal(first[0], first[1][:, seen]) and torch.equal(
        steps[0].next_obs, steps[1].next_obs[:, seen]
    )
    assert torch.equal(steps[0].reward, steps[1].reward)
    assert blind.observation_space.low.tolist() == seeing.observation_space.low[seen].tolist()
    assert blind.observation_space.high.tolist() == seeing.observation_space.high[seen].tolist()
    assert blind.max_episode_steps == seeing.max_episode_steps


def test_autoreset_keeps_the_true_successor_and_restarts_only_the_ended():
    env = NativeEnv(CartPole(), 2)
    env.reset(seed=0)
    # 12 degrees are 0.20944 rad: one Euler step of 0.02 s goes beyond
    fallen = torch.tensor([0.0, 0.0, 0.2094, 1.0])
    env.state = NativeState(
        torch.stack([torch.zeros(4), fallen]), torch.tensor([3, 7]), torch.tensor([3.0, 7.0])
    )
    step = env.step(torch.tensor([1, 1]))
    assert step.terminated.tolist() == [False, True] and step.truncated.tolist() == [False, False]
    assert step.next_obs[1, 2] == pytest.approx(0.2094 + 0.02)
    assert step.obs[1].abs().max() <= 0.05
    assert torch.equal(step.obs[0], step.next_obs[0])
    assert step.episode.length.tolist() == [4, 8] and step.episode.return_.tolist() == [4.0, 8.0]
    assert env.state.age.tolist() == [4, 0] and env.state.return_.tolist() == [4.0, 0.0]


def test_truncation_is_not_termination_and_termination_wins_when_both_fall_together():
    env = NativeEnv(CartPole(), 2, max_episode_steps=8)
    env.reset(seed=0)
    fallen = torch.tensor([0.0, 0.0, 0.2094, 1.0])
    env.state = NativeState(
        torch.stack([torch.zeros(4), fallen]), torch.tensor([7, 7]), torch.tensor([7.0, 7.0])
    )
    step = env.step(torch.tensor([1, 1]))
    assert step.terminated.tolist() == [False, True] and step.truncated.tolist() == [True, False]
    assert env.state.age.tolist() == [0, 0]


def test_successor_shares_no_memory_with_what_is_acted_on_next():
    env = NativeEnv(CartPole(), 2)
    env.reset(seed=0)
    step = env.step(torch.tensor([0, 1]))
    assert step.obs.data_ptr() != step.next_obs.data_ptr()


def test_an_environment_without_a_limit_never_truncates():
    env = NativeEnv(Pendulum(max_episode_steps=None), 1)
    env.reset(seed=0)
    assert not any(env.step(torch.zeros(1, 1)).truncated.item() for _ in range(250))


def test_the_price_of_a_push_is_not_clipped_though_the_push_is():
    dynamics = MountainCarContinuous()
    physics = torch.tensor([[-0.5, 0.0]]).repeat(2, 1)
    after, reward, _ = dynamics.advance(physics, torch.tensor([[1.0], [2.0]]), NO_NOISE)
    assert torch.equal(after[0], after[1])
    assert reward.tolist() == pytest.approx([-0.1, -0.4])


def test_snapshot_restores_bit_for_bit_in_a_new_object():
    def run(env, steps):
        out = []
        for t in range(steps):
            out += leaves(env.step(torch.tensor([t % 2, 1, 0])))
        return out

    env = NativeEnv(CartPole(), 3, max_episode_steps=20)
    env.reset(seed=5)
    run(env, 30)
    snapshot = env.snapshot()
    first = run(env, 60)
    for other in (env, NativeEnv(CartPole(), 3, max_episode_steps=20)):
        obs = other.restore(snapshot)
        assert torch.equal(obs, other.observe(other.state))
        assert all(torch.equal(a, b) for a, b in zip(first, run(other, 60), strict=True))


def test_same_seed_same_bits_and_another_seed_others():
    env = NativeEnv(CartPole(), 3)
    first = env.reset(seed=1)
    assert torch.equal(first, env.reset(seed=1))
    assert not torch.equal(first, env.reset(seed=2))


def test_pure_step_equals_step_and_changes_nothing():
    env = NativeEnv(Pendulum(), 3)
    env.reset(seed=0)
    before = env.state
    generator = torch.Generator()
    generator.set_state(env.snapshot()["generator"])
    action = torch.tensor([[0.5], [-3.0], [2.0]])
    state, step = env.pure_step(before, action, draw(env.noise, generator))
    assert env.state is before
    assert all(torch.equal(a, b) for a, b in zip(leaves(step), leaves(env.step(action)), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(leaves(state), leaves(env.state), strict=True))


def test_mistakes_are_named():
    env = NativeEnv(CartPole(), 2)
    with pytest.raises(UsageError, match="reset"):
        env.step(torch.zeros(2, dtype=torch.int64))
    env.reset(seed=0)
    with pytest.raises(UsageError, match=r"shape \[2\], not \[2, 1\]"):
        env.step(torch.zeros(2, 1, dtype=torch.int64))
    with pytest.raises(UsageError, match="num_envs"):
        NativeEnv(CartPole(), 0)
    with pytest.raises(UsageError, match="max_episode_steps"):
        NativeEnv(CartPole(), 1, max_episode_steps=0)


@pytest.mark.compiled
def test_three_unrolled_steps_compile_whole_and_equal_eager():
    env = NativeEnv(CartPole(), 4, max_episode_steps=2)  # every environment ends within the three steps
    env.reset(seed=0)

    def loop(state, action, noise):
        steps = []
        for k in range(3):
            state, step = env.pure_step(state, action[k], noise[k])
            steps.append(step)
        return state, steps

    generator = torch.Generator().manual_seed(0)
    action, noise = torch.randint(2, (3, 4), generator=generator), draw(env.noise, generator, 3)
    eager, compiled = (
        loop(env.state, action, noise),
        torch.compile(loop, fullgraph=True)(env.state, action, noise),
    )
    for a, b in zip(leaves(eager), leaves(compiled), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert eager[1][1].truncated.all()
