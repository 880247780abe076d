"""The agent outside its run: the same actions as in evaluation, from raw observations, and the same again as
ONNX."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from bellgrad import api
from bellgrad.algos.dqn import DQN
from bellgrad.algos.ppo import PPO
from bellgrad.algos.sac import SAC
from bellgrad.core.errors import UsageError
from bellgrad.core.tree import leaves
from bellgrad.envs.gym import GymEnv
from bellgrad.envs.images import FrameStack, Gray, MaxPool, Resize
from bellgrad.envs.transformed import TransformedEnv
from bellgrad.envs.transforms import ActionRepeat
from bellgrad.nets.specs import MLP
from bellgrad.report.training.export import export_onnx
from bellgrad.training.agent import Agent

SMALL = MLP((16, 16))
PPO_SMALL = PPO(rollout_steps=16, epochs=1, minibatches=2, network=SMALL)
SAC_SMALL = SAC(learning_starts=64, batch_size=16, buffer_size=1000, update_period=4, network=SMALL)
DQN_SMALL = DQN(learning_starts=64, batch_size=16, buffer_size=1000, update_period=4, network=SMALL)


class Shifted(gymnasium.Env):
    """Actions -1, 0, 1; observes where it stands."""

    def __init__(self):
        self.observation_space, self.action_space = Box(-50, 50, (2,), np.float32), Discrete(3, start=-1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.steps = self.np_random.uniform(-20, 20, 2).astype(np.float32), 0
        return self.place.copy(), {}

    def step(self, action):
        assert action in (-1, 0, 1)
        self.place[0] += action
        self.steps += 1
        return self.place.copy(), -abs(float(self.place[0])), False, self.steps >= 9, {}


class Compass(gymnasium.Env):
    """A Dict observation and a Box action of shape (2, 1)."""

    def __init__(self):
        self.observation_space = Dict({"where": Box(-1, 1, (2,), np.float32), "mode": Discrete(3)})
        self.action_space = Box(np.array([[0], [-3]], np.float32), np.array([[1], [5]], np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.steps += 1
        return self.observation_space.sample(), 0.0, self.steps >= 5, False, {}


class Cells(gymnasium.Env):
    """A Discrete observation of 4 to 8; the odd ones want action 1."""

    def __init__(self):
        self.observation_space, self.action_space = Discrete(5, start=4), Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.move(), {}

    def move(self):
        self.cell = int(self.np_random.integers(4, 9))
        return self.cell

    def step(self, action):
        reward = float(action == self.cell % 2)
        self.steps += 1
        return self.move(), reward, self.steps >= 5, False, {}


class Levers(gymnasium.Env):
    """Three levers, counted from 5; which positions are free changes at each step."""

    def __init__(self):
        seen = {
            "place": Discrete(5, start=4),
            "load": Box(-1, 1, (2,), np.float32),
            "action_mask": MultiBinary(7),
        }
        self.observation_space, self.action_space = (
            Dict(seen),
            MultiDiscrete([[2], [3], [2]], start=[[5], [5], [5]]),
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.move(), {}

    def move(self):
        rng = self.np_random
        mask = np.ones(7, np.int8)
        mask[[rng.integers(2), 2 + rng.integers(3), 5 + rng.integers(2)]] = 0
        return {
            "place": int(rng.integers(4, 9)),
            "load": rng.uniform(-1, 1, 2).astype(np.float32),
            "action_mask": mask,
        }

    def step(self, action):
        self.steps += 1
        return self.move(), 0.0, self.steps >= 5, False, {}


RUNS = {
    "discrete": (DQN_SMALL, "CartPole-v1", {}),
    "normalized": (
        PPO_SMALL,
        "CartPole-v1",
        {"normalize_obs": True, "normalize_reward": True, "num_envs": 4},
    ),
    "scaled": (SAC_SMALL, "Pendulum-v1", {}),
    "scaled, normalized": (PPO_SMALL, "Pendulum-v1", {"normalize_obs": True, "num_envs": 4}),
    "stacked": (DQN_SMALL, "CartPole-v1", {"frame_stack": 2}),
    "all at once": (
        PPO_SMALL,
        "Pendulum-v1",
        {"normalize_obs": True, "normalize_reward": True, "frame_stack": 2, "num_envs": 4},
    ),
    "actions from -1": (PPO_SMALL, Shifted, {"normalize_obs": True, "num_envs": 2}),
    "levers": (PPO_SMALL, Levers, {"num_envs": 2}),
    "cells from 4": (replace(DQN_SMALL, learning_rate=0.02, gamma=0.0), Cells, {}),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            algorithm, env, options = RUNS[name]
            out = tmp_path_factory.mktemp("runs") / "run"
            options = {"engine": "eager", "eval_episodes": 0, "checkpoints": 2} | options
            made[name] = api.train(algorithm, env, 256, out=out, progress="off", **options)
        return made[name]

    return get


def walk(run, steps=400):
    """`(raw observation, action that the evaluation's path gives the environment, whether an episode
    begins)`, step by step."""
    learner, state, env = run.load(env=run.make_env(1, backend="gymnasium"))
    (inner,) = env.env.envs
    raw, taken = [], []
    reset, step = inner.reset, inner.step

    def spy_reset(**options):
        obs, info = reset(**options)
        raw.append((obs, True))
        return obs, info

    def spy_step(action):
        taken.append(np.array(action))
        obs, *rest = step(action)
        raw.append((obs, False))
        return (obs, *rest)

    inner.reset, inner.step = spy_reset, spy_step
    pairs, carry = [], learner.init_carry(1)
    with torch.no_grad():
        obs = env.reset(3)
        for _ in range(steps):
            seen, first = raw[-1]
            obs = env.step(learner.act(state, carry, obs, None, explore=False).action).obs
            pairs.append((seen, taken[-1], first))
    env.close()
    return pairs


@pytest.mark.parametrize("name", RUNS)
def test_the_agent_acts_as_the_evaluation_does(runs, name):
    agent, begun = api.load(runs(name)), 0
    for obs, action, first in walk(runs(name)):
        if first:
            agent.reset()
            begun += 1
        given = agent.act(obs)
        assert agent.action_space.contains(given)
        np.testing.assert_allclose(given, action, atol=1e-6)
    assert begun >= 2 or name.startswith(("scaled", "all"))  # Pendulum's episodes are longer than the walk


def test_trap_running_normalizers_are_saved_with_the_policy_and_stand_still_in_it(runs):
    agent = api.load(runs("normalized"))
    moments = agent._saved[0]
    assert moments.count > 200 and moments.m2.min() > 0
    before = [leaf.clone() for leaf in moments]
    obs = np.array([0.02, 0.1, -0.03, 0.2], np.float32)
    first = agent.act(obs, deterministic=True)
    for _ in range(50):
        agent.act(100 * obs)
    assert agent.act(obs, deterministic=True) == first
    assert all(torch.equal(a, b) for a, b in zip(before, agent._saved[0], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, agent._memory[0], strict=True))


def test_the_frame_stack_is_the_agents_memory_and_reset_forgets_it(runs):
    agent = api.load(runs("all at once"))
    one, two = np.array([1.0, 0.0, 0.5], np.float32), np.array([-1.0, 0.0, -3.0], np.float32)
    fresh = agent.act(two)
    agent.reset()
    agent.act(one)
    after_one = agent.act(two)
    agent.reset()
    assert not np.allclose(after_one, fresh)
    np.testing.assert_array_equal(agent.act(two), fresh)
    np.testing.assert_array_equal(api.load(runs("all at once")).act(two), fresh)


def test_greedy_actions_repeat_and_samples_of_the_policy_differ(runs):
    agent = api.load(runs("scaled"))
    obs = np.array([1.0, 0.0, 0.5], np.float32)
    assert agent.act(obs) == agent.act(obs)
    agent = api.load(runs("scaled"))
    sampled = np.concatenate([agent.act(obs, deterministic=False) for _ in range(50)])
    assert len(set(sampled.tolist())) > 40 and (np.abs(sampled) <= 2).all()
    again = np.concatenate([api.load(runs("scaled")).act(obs, deterministic=False) for _ in range(2)])
    assert again[0] == again[1] == sampled[0]  # an agent's samples follow from the run's seed


def test_actions_have_the_environments_types(runs, tmp_path):
    assert type(api.load(runs("discrete")).act(np.zeros(4, np.float32))) is int
    run = api.train(
        PPO_SMALL,
        Compass,
        64,
        out=tmp_path / "run",
        progress="off",
        num_envs=2,
        engine="eager",
        eval_episodes=0,
    )
    agent = api.load(run)
    action = agent.act({"where": np.zeros(2, np.float32), "mode": 2})
    assert action.shape == (2, 1) and action.dtype == np.float32 and Compass().action_space.contains(action)
    action = api.load(runs("levers")).act(Levers().reset(seed=0)[0])
    assert action.shape == (3, 1) and action.dtype == np.int64


class Nested(gymnasium.Env):
    """Observations within observations, under keys that no graph can have as names; action 1 is the best one
    where the first number is positive."""

    def __init__(self):
        self.observation_space = Dict(
            {
                "action": Box(-1, 1, (2,)),
                "": Tuple([Box(-1, 1, ()), Dict({"tanh": Discrete(3, start=2), "linear": MultiBinary(2)})]),
                "a/b": Box(-1, 1, (1,)),
                "a": Dict({"b": Box(-1, 1, (3,))}),
                "é 1": Box(0, 1, (2,), np.uint8),
            }
        )
        self.action_space = Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.steps = 0
        return self.move(), {}

    def move(self):
        self.obs = self.observation_space.sample()
        return self.obs

    def step(self, action):
        reward = float(action == (self.obs["action"][0] > 0))
        self.steps += 1
        return self.move(), reward, self.steps >= 5, False, {}


STEADY_PPO = replace(PPO_SMALL, learning_rate_decay="constant")  # of which a longer run is a continuation


@pytest.mark.parametrize("algorithm", [STEADY_PPO, DQN_SMALL], ids=["ppo", "dqn"])
def test_observations_within_observations_are_trained_on_resumed_and_exported(algorithm, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    options = {"progress": "off", "engine": "eager", "eval_episodes": 0}
    api.train(algorithm, Nested, 128, out=tmp_path / "run", **options)
    run = api.resume(tmp_path / "run", steps=256, env=Nested, progress="off")
    whole = api.train(algorithm, Nested, 256, out=tmp_path / "whole", **options)
    same = [leaves(api.load(one, env=Nested).state.params) for one in (run, whole)]
    assert all(torch.equal(a, b) for a, b in zip(*same, strict=True))
    session = onnxruntime.InferenceSession(api.export(run, tmp_path / "policy.onnx", env=Nested))
    assert [given.name for given in session.get_inputs()] == (
        ["_0", "_1_linear", "_1_tanh", "a_b", "a_b_2", "obs_action", "__1"]
    )
    space, agent = Nested().observation_space, api.load(run, env=Nested)
    space.seed(3)
    for _ in range(20):
        obs = space.sample()
        within = obs[""][1]
        arrays = [
            obs[""][0].astype(np.float32),
            within["linear"].astype(np.float32),
            np.asarray(within["tanh"], np.int64),
            obs["a"]["b"],
            obs["a/b"],
            obs["action"],
            obs["é 1"],
        ]
        names = [given.name for given in session.get_inputs()]
        inputs = {name: array[None] for name, array in zip(names, arrays, strict=True)}
        assert session.run(["action"], inputs)[0].tolist() == [agent.act(obs)]


@pytest.mark.parametrize("obs", [np.zeros(3, np.float32), np.zeros((1, 4), np.float32), 0.0, [0.0] * 5])
def test_an_observation_of_a_wrong_shape_is_named(runs, obs):
    with pytest.raises(UsageError, match=r"the observation has shape \(.*\), expected \(4,\)"):
        api.load(runs("discrete")).act(obs)


def test_cells_that_are_not_counted_from_0_are_told_apart(runs):
    agent = api.load(runs("cells from 4"))
    assert [agent.act(cell) for cell in range(4, 9)] == [0, 1, 0, 1, 0]


@pytest.mark.parametrize("obs", [3, 9, "north", np.zeros(2)])
def test_an_observation_outside_a_discrete_space_is_refused(runs, obs):
    with pytest.raises(UsageError, match="observation"):
        api.load(runs("cells from 4")).act(obs)


def test_the_agent_reads_a_folder_and_a_step(runs):
    run = runs("discrete")
    trained, first = api.load(run.folder), api.load(run, 0)
    same = [
        torch.equal(a, b)
        for a, b in zip(trained.state.params.values(), first.state.params.values(), strict=True)
    ]
    assert not any(same)
    assert int(trained.state.steps) == 256 and int(first.state.steps) == 0


def test_a_policy_over_a_dictionary_is_exported_with_an_input_a_key_and_respects_its_mask(runs, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(api.export(runs("levers"), tmp_path / "policy.onnx"))
    seen, taken, _ = zip(*walk(runs("levers"), 40), strict=True)
    assert {given.name for given in session.get_inputs()} == {"place", "load", "action_mask"}
    dtypes = {"place": np.int64, "load": np.float32, "action_mask": np.float32}
    (action,) = session.run(
        ["action"], {key: np.stack([obs[key] for obs in seen]).astype(t) for key, t in dtypes.items()}
    )
    assert action.tolist() == np.stack(taken)[..., 0].tolist()
    mask, choice = np.stack([obs["action_mask"] for obs in seen]), action - 5 + [0, 2, 5]
    assert np.take_along_axis(mask, choice, 1).all() and len(np.unique(action, axis=0)) > 2


@pytest.mark.parametrize(
    "name", ["normalized", "scaled", "scaled, normalized", "all at once", "actions from -1", "cells from 4"]
)
def test_trap_running_normalizers_and_action_scaling_are_exported_with_the_policy(runs, name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    run = runs(name)
    session = onnxruntime.InferenceSession(api.export(run, tmp_path / "policy.onnx"))
    agent, pairs = api.load(run), walk(run, 20)
    rows, expected = [], []
    for obs, _, first in pairs:
        if first:
            agent.reset()
            before = obs
        expected.append(agent.act(obs))
        rows.append(np.stack([before, obs]) if FrameStack(2) in run.settings.transforms else obs)
        before = obs
    (action,) = session.run(["action"], {"obs": np.stack(rows)})
    np.testing.assert_allclose(action, np.stack(expected), atol=1e-5)
    assert len(np.unique(action.round(4))) > 1  # a constant would agree too easily


class Pictures(gymnasium.Env):
    """Color images of 6 x 5 pixels at random brightness; keeps all that it showed and was told."""

    def __init__(self, log):
        self.observation_space, self.action_space = Box(0, 255, (6, 5, 3), np.uint8), Discrete(3)
        self.log = log

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(4, 12))
        return self.show(True), {}

    def show(self, first):
        image = self.np_random.integers(0, 256, (6, 5, 3), dtype=np.uint8)
        self.log.append([image, first, None])
        return image

    def step(self, action):
        self.log[-1][2] = int(action)
        self.left -= 1
        return self.show(False), 0.0, self.left == 0, False, {}


def acted(transforms, decisions=60):
    """An untrained agent behind transforms, and `[raw image, whether it is an episode's first, action]` of
    every step that an environment took with the same policy."""
    log = []
    env = TransformedEnv(GymEnv(lambda: Pictures(log)), transforms)
    learner = DQN_SMALL.build(env.spec, steps=1000)
    state = learner.init(torch.Generator().manual_seed(0))
    obs = env.reset(0)
    for _ in range(decisions):
        obs = env.step(learner.act(state, None, obs, None, explore=False).action).obs
    env.frozen = True
    return Agent(learner, state, env, 0), [row for row in log if row[2] is not None]


def test_an_agent_behind_repeated_actions_is_asked_at_each_step_and_sees_what_lies_between():
    agent, log = acted([MaxPool(2), ActionRepeat(3), Gray(), Resize(4), FrameStack(2)])
    for image, first, action in log:
        if first:
            agent.reset()
        assert agent.act(image) == action
    assert len({action for *_, action in log}) > 1 and sum(first for _, first, _ in log) > 5


def test_a_policy_over_images_is_exported_with_what_makes_them_small_and_gray(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    agent, log = acted([Gray(), Resize(4), FrameStack(2)])
    session = onnxruntime.InferenceSession(export_onnx(*agent.as_module(), tmp_path / "policy.onnx"))
    images = [image for image, *_ in log]
    stacks = [[images[max(0, i - (not first))], image] for i, (image, first, _) in enumerate(log)]
    (action,) = session.run(["action"], {"obs": np.array(stacks)})
    assert action.tolist() == [action for *_, action in log] and len(set(action.tolist())) > 1


def test_a_policy_that_sees_the_maximum_of_several_images_is_not_exported():
    with pytest.raises(UsageError, match="max_pool"):
        acted([MaxPool(2)], 1)[0].as_module()
