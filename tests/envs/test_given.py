"""What is asked of an environment, however it is given."""

import gc

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import NormalizeObservation, NormalizeReward, RecordEpisodeStatistics, TimeLimit
from misbehaving import Counter, Endless

from bellgrad import api
from bellgrad.algos.ppo import PPO
from bellgrad.core.errors import UsageError
from bellgrad.core.registry import ALGORITHMS
from bellgrad.envs.check import check_env
from bellgrad.envs.make import make_env
from bellgrad.mdp.model import FiniteMDP
from bellgrad.runs.settings import SHORTHAND, Settings
from bellgrad.training.assembly import make_run_env

CPU = torch.device("cpu")


class ThreeAtOnce(gymnasium.Wrapper):
    """Takes every action three times."""

    def step(self, action):
        for _ in range(3):
            result = self.env.step(action)
            if result[2] or result[3]:
                break
        return result


class Holder(gymnasium.Env):
    """Keeps an environment as a wrapper does, and is none."""

    def __init__(self, env):
        self.simulator = env
        self.observation_space, self.action_space = env.observation_space, env.action_space


class OwnLimit(Endless):
    """Truncates after 10 steps by itself."""

    def step(self, action):
        obs, reward, terminated, _, info = super().step(action)
        return obs, reward, terminated, self.steps >= 10, info


def endless_mdp(**limit):
    return FiniteMDP.from_function(2, 2, lambda s, a: [(1.0, 1 - s, 1.0, False)], initial=0, **limit)


WAYS = {
    "native": "Pendulum-v1",
    "id": "bellgrad/Pendulum-v1",
    "id in a module": "misbehaving:Misbehaving-v0",
    "class": Endless,
    "module:Class": "misbehaving:Endless",
    "function": lambda: Endless(),
    "function with a limit": lambda: gymnasium.make("Pendulum-v1", max_episode_steps=10),
    "limit below a wrapper": lambda: RecordEpisodeStatistics(TimeLimit(Endless(), 10)),
    "limit below repeated actions": lambda: ThreeAtOnce(TimeLimit(Endless(), 10)),
    "two limits": lambda: TimeLimit(TimeLimit(Endless(), 10), 20),
    "a wrapper's class": lambda **kwargs: TimeLimit(Endless(**kwargs), 10),
    "FiniteMDP": api._sampler(endless_mdp()),
    "FiniteMDP with a limit": api._sampler(endless_mdp(max_episode_steps=10)),
}


def first_length(env, most=100):
    """Steps of the first episode of a batch, as its first environment counts them."""
    env.reset(0)
    for k in range(1, most):
        zero = torch.zeros(env.num_envs, *env.action_space.shape, dtype=torch.int64)
        step = env.step(zero if isinstance(env.action_space, spaces.Discrete) else zero.float())
        if (step.terminated | step.truncated)[0]:
            return k, bool(step.truncated[0])
    return most, False


@pytest.mark.parametrize("limit", [5, 33])
@pytest.mark.parametrize("way", WAYS)
def test_a_time_limit_takes_effect_however_the_environment_is_given(way, limit):
    settings = Settings(PPO(), WAYS[way], 100, max_episode_steps=limit, num_envs=2)
    env = make_run_env(settings, CPU)
    assert env.spec.max_episode_steps == limit
    assert first_length(env) == ((5, False) if way == "id in a module" else (limit, True))  # it ends at 5
    env.close()


@pytest.mark.parametrize("limit", [5, 33])
@pytest.mark.parametrize("backend", ["auto", "gymnasium"])
def test_a_time_limit_takes_effect_on_tables_with_and_without_known_dynamics(backend, limit):
    from bellgrad.tabular.q_learning import QLearning
    from bellgrad.training.engine import Engine
    from bellgrad.training.tabular import Tabular

    settings = Settings(
        QLearning(), WAYS["FiniteMDP with a limit"], 200, max_episode_steps=limit, backend=backend
    )
    env = make_run_env(settings, CPU)
    assert (env.mdp is not None) == (backend == "auto")
    learner = settings.algorithm.build(env.spec, steps=200)
    driver = Tabular(learner, env, Engine("eager", 1, 1, ""), 0, CPU, total=200)
    lengths = []
    while driver.steps < 200:
        ended = driver.advance().ended
        lengths += ended.length[ended.ended].tolist()
    assert set(lengths) == {limit}


def test_an_environment_that_ends_by_itself_says_so_once(capsys):
    env = make_env(OwnLimit, 2, max_episode_steps=400)
    assert first_length(env) == (10, True)
    first_length(env)
    said = capsys.readouterr().err
    assert said.count("max_episode_steps = 400 cannot make its episodes longer") == 1
    warnings = "\n".join(f.what for f in check_env(OwnLimit, max_episode_steps=400).of("warning"))
    assert "truncated an episode by itself after 10 steps" in warnings


@pytest.mark.parametrize(
    ("wrapper", "flag"), [(NormalizeReward, "--normalize-reward"), (NormalizeObservation, "--normalize-obs")]
)
@pytest.mark.parametrize("outside", [lambda env: env, RecordEpisodeStatistics, Holder])
def test_wrappers_with_statistics_over_episodes_are_refused_with_the_flag_to_use(
    wrapper, flag, outside, tmp_path
):
    def make():
        return outside(wrapper(Counter()))

    with pytest.raises(UsageError, match=f"{wrapper.__name__} inside .* {flag} "):
        api.train(PPO(), make, 100, out=tmp_path / "run", progress="off")
    assert not (tmp_path / "run").exists()
    assert flag in str(check_env(make).of("error"))


def test_a_wrapper_whose_statistics_stand_still_is_accepted():
    def make():
        env = NormalizeReward(Counter())
        env.update_running_mean = False
        return env

    assert make_env(make).reset(0).shape == (1, 2)


def test_a_function_must_make_a_new_environment_at_each_call():
    only = Counter()
    with pytest.raises(UsageError, match="make a new one at each call"):
        make_env(lambda: only, 2)
    batch = make_env(lambda: only)  # closed at the failure
    with pytest.raises(UsageError, match="make a new one at each call"):
        make_env(lambda: TimeLimit(only, 5))  # as an evaluation beside the training
    batch.close()
    make_env(lambda: only).close()


@pytest.mark.parametrize("which", ["observation_space", "action_space"])
@pytest.mark.parametrize("value", [None, (3,), np.float32])
def test_spaces_that_are_not_gymnasiums_are_named(which, value):
    class Odd(Counter):
        def __init__(self):
            super().__init__()
            setattr(self, which, value)

    with pytest.raises(UsageError, match=f"Odd: its {which} is not a gymnasium.Space but"):
        make_env(Odd)
    report = check_env(Odd)
    assert f"its {which} is not a gymnasium.Space" in str(report) and len(report.of("error")) == 1


def test_several_environments_in_one_are_refused_with_what_to_do():
    with pytest.raises(UsageError, match="num_envs says how many"):
        make_env(lambda: gymnasium.make_vec("CartPole-v1", 2))


def old_gym():
    """An environment of the package gym, which is not installed."""
    Env = type("Env", (), {"__module__": "gym.core"})
    return type("Old", (Env,), {"__module__": "mine"})()


def test_an_environment_of_the_old_package_is_named():
    with pytest.raises(UsageError, match="of the old package gym"):
        make_env(old_gym)


# ------------------------------------------------------------------------------------- arguments and settings
def test_the_settings_that_are_no_arguments_are_those_of_a_run():
    from bellgrad.envs.names import SETTINGS

    assert SETTINGS | {"algorithm", "env"} == Settings.__dataclass_fields__.keys() | SHORTHAND.keys()


@pytest.mark.parametrize("env", ["CartPole-v1", "misbehaving:Counter", Counter, lambda: Counter()])
@pytest.mark.parametrize("name", ["max_episode_steps", "num_envs", "seed", "frame_stack"])
def test_a_setting_among_the_arguments_is_refused_with_its_flag(env, name):
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} "):
        make_env(env, env_kwargs={name: 20})


def test_an_argument_that_the_environment_takes_itself_is_its_own():
    class Seeded(Counter):
        def __init__(self, seed, max_episode_steps):
            super().__init__(length=max_episode_steps)

    env = make_env(Seeded, env_kwargs={"seed": 3, "max_episode_steps": 4})
    assert first_length(env) == (4, False)


@pytest.mark.parametrize("env", [Endless, "misbehaving:Endless", lambda: Endless()])
def test_an_environment_without_render_mode_says_what_to_add(env):
    with pytest.raises(UsageError, match=r"takes no render_mode.*render_mode=None.*rgb_array.*\[H, W, 3\]"):
        make_env(env, render_mode="rgb_array")


def test_a_picture_that_is_none_is_said_to_be_none():
    class Blank(Counter):
        def render(self):
            return "an array"

    env = make_env(Blank, render_mode="rgb_array")
    env.reset(0)
    with pytest.raises(UsageError, match="render\\(\\) returned a str"):
        env.render()


def test_bounds_of_bins_without_bins_are_refused_on_networks_and_on_categories():
    with pytest.raises(UsageError, match="bin_low are for tabular algorithms"):
        make_run_env(Settings(PPO(), "CartPole-v1", 100, bin_low=(-1.0,)), CPU)
    with pytest.raises(UsageError, match="bin_low are for observations in a Box"):
        q = ALGORITHMS.make("q_learning")
        make_run_env(Settings(q, "FrozenLake-v1", 100, bin_low=(-1.0,)), CPU)


def test_a_simulator_of_which_one_can_be_open_says_how_to_avoid_more():
    from bellgrad.training.evaluate import EVAL_ENVS

    class Only(Counter):
        open = 0

        def __init__(self):
            super().__init__()
            if Only.open:
                raise RuntimeError("the port is taken")
            Only.open += 1

        def close(self):
            Only.open -= 1

    words = (
        rf"port is taken.*; 1 of it is open already.*--num-envs 1 --eval-episodes 0.*at most {EVAL_ENVS}\)"
    )
    with pytest.raises(UsageError, match=words):
        make_env(Only, 2)
    Only.open = 0
    batch = make_env(Only)
    with pytest.raises(UsageError, match=words):
        make_env(Only)
    batch.close()
    assert "--eval-episodes 0" in str(check_env(Only, num_envs=1))
    assert check_env(Only, num_envs=1, evaluates=False).ok


def test_looking_inside_an_environment_does_not_slow_its_attributes():
    """In CPython attributes lie in the object until somebody asks for its dictionary."""
    untouched = Counter()
    env = make_env(Counter, backend="gymnasium")
    kinds = [type(held) for held in gc.get_referents(env.envs[0].unwrapped)]
    assert kinds.count(dict) == [type(held) for held in gc.get_referents(untouched)].count(dict)
