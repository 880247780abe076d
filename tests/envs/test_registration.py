"""Native environments under Gymnasium's names."""

import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from bellgrad.core.errors import UsageError
from bellgrad.envs.catalog import NATIVE
from bellgrad.envs.make import make_env
from bellgrad.envs.native import NativeEnv
from bellgrad.envs.registration import NATIVE_IDS, OWN, TWINS, NativeGymnasiumEnv, register

pytestmark = pytest.mark.filterwarnings("ignore:.*CartPole-v0 is out of date")


def registered(native: str) -> str:
    return native if native in OWN else f"bellgrad/{native}"


def in_a_fresh_process(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    ).stdout


def test_a_fresh_process_makes_one_by_module_and_id():
    code = (
        "import gymnasium;"
        ' print(gymnasium.make("bellgrad.envs.registration:bellgrad/CartPole-v1").reset(seed=0)[0].shape)'
    )
    assert in_a_fresh_process(code).strip() == "(4,)"


def test_registering_is_light():
    code = (
        "import sys, bellgrad.envs.registration; print([m for m in ('torch', 'pygame', 'matplotlib') if m in"
        " sys.modules])"
    )
    assert in_a_fresh_process(code).strip() == "[]"


def test_every_native_environment_is_registered_with_its_own_limit_and_registering_again_is_silent():
    assert set(NATIVE_IDS) == set(NATIVE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register()
    for name, make in NATIVE.items():
        assert gymnasium.spec(registered(name)).max_episode_steps == make().max_episode_steps


@pytest.mark.parametrize("name", NATIVE_IDS)
def test_gymnasiums_checker_finds_nothing(name):
    env = gymnasium.make(registered(name), render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # About the spaces, which are Gymnasium's own: CartPole's infinite velocities, Pendulum's torque of 2.
        for theirs in (
            "A Box observation space m.*imum value is -?infinity",
            "For Box action spaces, we recommend",
        ):
            warnings.filterwarnings("ignore", f".*{theirs}")
        warnings.filterwarnings("ignore", ".*is out of date")
        check_env(env.unwrapped)
    env.close()


@pytest.mark.parametrize("name", OWN)
def test_one_without_a_twin_is_native_by_its_only_name_and_draws_itself(name):
    env = make_env(name, num_envs=2)
    assert isinstance(getattr(env, "env", env), NativeEnv) and env.spec.id == name == NATIVE[name]().id
    env.reset(seed=0)
    shown = gymnasium.make(name, render_mode="rgb_array")
    shown.reset(seed=0)
    first = shown.render()
    while np.array_equal(first, shown.render()):
        shown.step(shown.action_space.sample())
    shown.close()


@pytest.mark.parametrize("name", TWINS)
def test_a_seed_starts_an_episode_where_gymnasiums_twin_starts_and_it_goes_the_same_way(name):
    env, twin = gymnasium.make(f"bellgrad/{name}"), gymnasium.make(name)
    obs, twin_obs = env.reset(seed=3)[0], twin.reset(seed=3)[0]
    rng, ended = np.random.default_rng(0), False
    # Acrobot and MountainCarContinuous round their state to float32 at first or at every step; errors grow
    # over an episode.
    tolerance = 2e-3 if name == "Acrobot-v1" else 1e-4 if name == "MountainCarContinuous-v0" else 1e-5
    while not ended:
        np.testing.assert_allclose(obs, twin_obs, atol=tolerance)
        if isinstance(env.action_space, gymnasium.spaces.Discrete):
            action = int(rng.integers(env.action_space.n))
        else:
            action = rng.uniform(env.action_space.low, env.action_space.high).astype(np.float32)
        obs, reward, terminated, truncated, _ = env.step(action)
        twin_obs, twin_reward, *twin_flags, _ = twin.step(action)
        assert reward == pytest.approx(twin_reward, abs=1e-4)
        assert [terminated, truncated] == twin_flags
        ended = terminated or truncated


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_a_picture_shows_what_gymnasium_would_show(name):
    pytest.importorskip("pygame")
    env = gymnasium.make(f"bellgrad/{name}", render_mode="rgb_array")
    twin = gymnasium.make(name, render_mode="rgb_array")
    env.reset(seed=0), twin.reset(seed=0)
    np.testing.assert_array_equal(env.render(), twin.render())
    action = 1 if name == "CartPole-v1" else np.array([1.3], np.float32)
    first = env.render()
    for _ in range(8):
        env.step(action), twin.step(action)
    picture = env.render()
    np.testing.assert_array_equal(picture, twin.render())
    assert picture.dtype == np.uint8 and not np.array_equal(picture, first)
    env.close(), twin.close()


def test_mistakes_are_named():
    with pytest.raises(UsageError, match="did you mean CartPole-v1"):
        NativeGymnasiumEnv("CartPole-v2")
    with pytest.raises(UsageError, match="render mode"):
        NativeGymnasiumEnv("CartPole-v1", render_mode="rgb")
