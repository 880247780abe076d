"""Training in spaces of every layout, shape, type and size: from the space alone, never from a guess."""

import re

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from bellgrad import api
from bellgrad.algos.a2c import A2C
from bellgrad.algos.cem import CEM
from bellgrad.algos.cma_es import CMAES
from bellgrad.algos.dqn import DQN
from bellgrad.algos.hill_climbing import HillClimbing
from bellgrad.algos.openai_es import OpenAIES
from bellgrad.algos.ppo import PPO
from bellgrad.algos.reinforce import REINFORCE
from bellgrad.algos.sac import SAC
from bellgrad.algos.simulated_annealing import SimulatedAnnealing
from bellgrad.algos.trpo import TRPO
from bellgrad.algos.vpg import VPG
from bellgrad.core.errors import UsageError
from bellgrad.core.records import Acted, Transition
from bellgrad.core.tree import named_leaves
from bellgrad.envs.gym import GymEnv
from bellgrad.envs.images import FrameStack
from bellgrad.envs.make import make_env
from bellgrad.nets import encoder
from bellgrad.nets.specs import CNN, LSTM, MLP
from bellgrad.report.training.export import export_onnx
from bellgrad.tabular.q_learning import QLearning
from bellgrad.training.agent import Agent

SMALL = MLP((8,))
TINY_CNN = CNN(channels=(3,), kernels=(8,), strides=(4,), dense=(8,))
ON_POLICY = {"rollout_steps": 16, "network": SMALL}
REPLAY = {"learning_starts": 32, "batch_size": 8, "buffer_size": 500, "network": SMALL}
OPTIONS = {"progress": "off", "engine": "eager", "eval_episodes": 0}


class Spaces(gymnasium.Env):
    """Random observations; refuses an action outside its space."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), (action, action.dtype)
        self.steps += 1
        return self.observation_space.sample(), float(np.sum(action)), self.steps >= 10, False, {}


class Camera(gymnasium.Env):
    """The same pictures in any layout: `[H, W]`, `[C, H, W]` or `[H, W, C]`."""

    SIZE = (36, 32)

    def __init__(self, layout, channels):
        self.layout, self.channels = layout, channels
        shape = {"hw": self.SIZE, "chw": (channels, *self.SIZE), "hwc": (*self.SIZE, channels)}[layout]
        self.observation_space, self.action_space = Box(0, 255, shape, np.uint8), Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.picture(), {}

    def picture(self):
        picture = self.np_random.integers(0, 256, (self.channels, *self.SIZE), dtype=np.uint8)
        return {"hw": picture[0], "chw": picture, "hwc": np.moveaxis(picture, 0, -1)}[self.layout]

    def step(self, action):
        self.steps += 1
        return self.picture(), float(action), self.steps >= 20, False, {}


def camera(layout, channels):
    class Made(Camera):
        def __init__(self):
            super().__init__(layout, channels)

    return Made


@pytest.mark.parametrize("stack", [1, 4])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("algorithm", ["dqn", "ppo"])
def test_the_same_pictures_give_the_same_in_every_layout(algorithm, channels, stack, tmp_path, monkeypatch):
    algorithm = {
        "dqn": DQN(**REPLAY | {"network": TINY_CNN, "buffer_size": 64}),
        "ppo": PPO(rollout_steps=8, minibatches=2, network=TINY_CNN, learning_rate_decay="constant"),
    }[algorithm]
    seen = []

    class Spy:
        @staticmethod
        def conv2d(x, *rest):
            seen.append(x.detach().contiguous())
            return torch.nn.functional.conv2d(x.contiguous(), *rest)

    monkeypatch.setattr(encoder, "F", Spy)
    options = OPTIONS | {"frame_stack": stack, "num_envs": 1}
    results = {}
    for layout in ("hw", "chw", "hwc") if channels == 1 else ("chw", "hwc"):
        env = camera(layout, channels)
        seen.clear()
        whole = api.train(algorithm, env, 96, out=tmp_path / layout / "whole", **options)
        inputs = list(seen)
        api.train(algorithm, env, 48, out=tmp_path / layout / "run", **options)
        resumed = api.resume(tmp_path / layout / "run", steps=96, env=env, progress="off")
        states = [named_leaves(api.load(run, env=env).state) for run in (whole, resumed)]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
        results[layout] = (inputs, states[0])
    first = results.pop("chw")
    assert first[0][0].shape[1] == channels * stack
    for other in results.values():
        assert all(torch.equal(a, b) for a, b in zip(first[0], other[0], strict=True))
        assert all(torch.equal(first[1][name], other[1][name]) for name in first[1])


@pytest.mark.parametrize("stack", [1, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_replay_of_pictures_holds_what_was_asked_in_every_layout(channels, stack):
    for layout in ("hw", "chw", "hwc") if channels == 1 else ("chw", "hwc"):
        env = make_env(camera(layout, channels), transforms=(FrameStack(stack),) if stack > 1 else ())
        replay = DQN().replay
        kept = replay.allocate(env.spec, 100, 1, torch.device("cpu"))
        obs, action = env.reset(0), torch.zeros(1, dtype=torch.int64)
        for _ in range(250):
            step = env.step(action)
            replay.add(kept, Transition(obs, action, *step[1:4], step.next_obs))
            obs = step.obs
        (frames,) = kept.frames.values()
        assert int(kept.size) == 100
        assert frames.planes.numel() <= 1.25 * 100 * channels * 36 * 32  # each picture once


def test_a_replay_that_holds_less_than_was_asked_says_so_once(tmp_path, capsys):
    class Short(camera("hwc", 1)):
        def step(self, action):
            return self.picture(), 0.0, True, False, {}  # 2 pictures for each transition

    algorithm = DQN(**REPLAY | {"network": TINY_CNN, "buffer_size": 100})
    api.train(algorithm, Short, 300, out=tmp_path / "run", frame_stack=2, checkpoints=3, **OPTIONS)
    said = capsys.readouterr().err
    assert len(re.findall(r"the replay holds \d+ transitions of \d+: ", said)) == 1


ACTORS = {
    "sac": SAC(**REPLAY, update_period=8),
    "ppo": PPO(**ON_POLICY),
    "a2c": A2C(**ON_POLICY),
    "vpg": VPG(**ON_POLICY),
    "trpo": TRPO(**ON_POLICY),
    "reinforce": REINFORCE(network=SMALL),
    "cem": CEM(population=4, network=SMALL),
    "openai_es": OpenAIES(population=4, network=SMALL),
    "cma_es": CMAES(population=4, network=SMALL),
    "hill_climbing": HillClimbing(network=SMALL),
    "simulated_annealing": SimulatedAnnealing(network=SMALL),
}


@pytest.mark.parametrize("shape", [(), (2, 3), (1, 2, 1)], ids=str)
@pytest.mark.parametrize("name", ACTORS)
def test_actions_of_any_shape_are_learned_by_every_algorithm(name, shape, tmp_path):
    action_space = Box(-1, 0.1, shape, np.float64)
    observation_space = Box(-1, 1, shape, np.float32)

    def make():
        return Spaces(observation_space, action_space)

    api.train(ACTORS[name], make, 64, out=tmp_path / "run", **OPTIONS)
    agent = api.load(api.resume(tmp_path / "run", steps=900, env=make, progress="off"), env=make)
    for explore in (True, False):
        assert action_space.contains(agent.act(observation_space.sample(), deterministic=explore))


class Extreme:
    """A learner whose action is the sign of what it sees: always a bound."""

    def init_carry(self, num_envs):
        return None

    def act_noise(self, num_envs):
        return None

    def act(self, state, carry, obs, noise, explore=True):
        return Acted(obs.sign(), None, None)


class NoState:
    steps = torch.tensor(0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_no_way_out_leaves_the_action_space(dtype, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    low, high = np.sort(rng.normal(0, [[0.1, 1, 3, 100]] * 2, (2, 4)), 0).astype(dtype)
    low[0], high[0] = -1, 0.1
    action_space, observation_space = Box(low, high, dtype=dtype), Box(-1, 1, (4,), np.float32)
    env = make_env(lambda: Spaces(observation_space, action_space))
    agent = Agent(Extreme(), NoState(), env, 0)
    policy, example = agent.as_module()
    session = onnxruntime.InferenceSession(export_onnx(policy, example, tmp_path / "policy.onnx"))
    env.reset(0)
    for _ in range(20):
        obs = rng.choice([-1, 1], 4).astype(np.float32)
        acted = agent.act(obs)
        (exported,) = session.run(["action"], {"obs": obs[None]})
        assert action_space.contains(acted) and action_space.contains(exported[0])
        np.testing.assert_array_equal(acted, exported[0])
        np.testing.assert_allclose(acted, np.where(obs > 0, high, low), rtol=1e-3)
        env.step(torch.from_numpy(obs[None]))  # whose own check is that of `Spaces`


def test_integers_are_refused_as_continuous_actions():
    with pytest.raises(UsageError, match="a Box of floats"):
        GymEnv(lambda: Spaces(Box(-1, 1, (2,)), Box(0, 5, (2,), np.int32)))


class Cell(gymnasium.Env):
    """One cell of eight is 1 and names the action that is rewarded."""

    def __init__(self):
        self.observation_space, self.action_space = Box(0, 1, (8,), np.uint8), Discrete(8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.move(), {}

    def move(self):
        self.cell = int(self.np_random.integers(8))
        return (np.arange(8) == self.cell).astype(np.uint8)

    def step(self, action):
        reward, self.steps = float(action == self.cell), self.steps + 1
        return self.move(), reward, False, self.steps >= 20, {}


def test_bytes_of_0_and_1_are_learned_from_like_any_other_numbers(tmp_path):
    run = api.train(PPO(), Cell, 10_000, out=tmp_path / "run", **OPTIONS)
    assert api.evaluate(run, episodes=10, env=Cell).return_mean == 20


BIG, VECTOR, TWO = 2**40, Box(-1, 1, (2,)), Discrete(2)


@pytest.mark.parametrize(
    ("algorithm", "observations", "actions", "words"),
    [
        (DQN(**REPLAY), Discrete(BIG), TWO, "a network with layers of 1,099,511,627,776, 8, 2 units"),
        (PPO(**ON_POLICY), Discrete(BIG), TWO, "a network with layers of"),
        (PPO(rollout_steps=16, network=LSTM(hidden=())), Discrete(BIG), TWO, "a network with layers of"),
        (PPO(**ON_POLICY), MultiDiscrete([2, BIG]), TWO, "a network with layers of"),
        (OpenAIES(population=4, network=SMALL), Discrete(BIG), TWO, "a network with layers of"),
        (DQN(**REPLAY), VECTOR, Discrete(BIG), "a network with layers of 2, 8, 1,099,511,627,776 units"),
        (PPO(**ON_POLICY), VECTOR, Discrete(BIG), r"a policy over Discrete\("),
        (PPO(**ON_POLICY, head="score"), VECTOR, Discrete(10**6), r"a policy over Discrete\("),
        (PPO(**ON_POLICY), MultiBinary(BIG), TWO, "environments, each with the observations MultiBinary"),
        (QLearning(), Discrete(BIG), TWO, "a table of 1,099,511,627,776 states and 2 actions"),
        (QLearning(), Discrete(4), Discrete(BIG), "a table of 4 states"),
        (QLearning(), MultiBinary(100), TWO, "more than 4e18 states"),
        (QLearning(), MultiBinary(BIG), TWO, "environments, each with|more than 4e18 states"),
        (DQN(buffer_size=2**24), Box(-1, 1, (20_000,)), TWO, "a replay of 16,777,216 transitions needs"),
    ],
    ids=lambda part: type(part).__name__,
)
def test_what_no_memory_could_hold_is_refused_in_one_sentence(
    algorithm, observations, actions, words, tmp_path
):
    with pytest.raises(UsageError, match=words) as refused:
        api.train(algorithm, lambda: Spaces(observations, actions), 64, out=tmp_path / "run", **OPTIONS)
    assert "bytes of memory" in str(refused.value) or "4e18" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_agent_takes_the_first_of_equally_good_actions_as_its_exported_policy_does(tmp_path):
    run = api.train(QLearning(), lambda: Spaces(Discrete(4), Discrete(5)), 1, out=tmp_path / "run", **OPTIONS)
    agent = api.load(run, 0, env=lambda: Spaces(Discrete(4), Discrete(5)))
    policy, _ = agent.as_module()
    for state in (0, 1, 2, 3) * 5:
        assert agent.act(state) == policy(torch.tensor([state])).item()
