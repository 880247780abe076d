"""One actor, wherever it runs: the same experience from a compiled graph, a thread, and another process."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from gymnasium.spaces import Discrete
from safetensors.torch import load_file, save_file

from bellgrad.algos.dqn import DQN
from bellgrad.algos.ppo import PPO
from bellgrad.algos.sac import SAC
from bellgrad.core.tree import named_leaves, stack
from bellgrad.envs.names import env_name
from bellgrad.nets.specs import MLP
from bellgrad.runs.settings import Settings
from bellgrad.training.actor import Actor
from bellgrad.training.assembly import make_run_env
from bellgrad.training.engine import Engine

CPU = torch.device("cpu")
EAGER = Engine("eager", 1, 1, "")
STEPS = 40
SMALL = MLP((8,))
RUNS = {
    "native": Settings(DQN(network=SMALL, epsilon_steps=30), "CartPole-v1", 1000, seed=3, num_envs=2),
    "gymnasium": Settings(
        PPO(network=SMALL), "CartPole-v1", 1000, seed=4, num_envs=2, backend="gymnasium", env_kwargs={}
    ),
    "continuous": Settings(SAC(network=SMALL), "Pendulum-v1", 1000, seed=5, num_envs=2),
}


def actor_of(settings, engine=EAGER):
    """An actor and a policy's state, made of a run's settings alone."""
    env = make_run_env(settings, CPU, settings.num_envs)
    learner = settings.algorithm.build(env.spec, settings.steps)
    actor = Actor(learner, env, engine, settings.seed, CPU)
    return actor, learner.init(torch.Generator().manual_seed(0))


def collect(actor, state):
    """A block of experience by name, and the policy's state after it."""
    state, actor.state, block = actor.run(state, actor.state, actor.draw(STEPS), STEPS)
    return named_leaves(stack(block)), state


def assert_same(block, expected):
    assert block.keys() == expected.keys()
    for name in expected:
        assert torch.equal(block[name], expected[name]), name


@pytest.mark.parametrize("name", RUNS)
def test_an_actor_in_a_thread_gives_the_same_block(name):
    expected, _ = collect(*actor_of(RUNS[name]))
    found = []
    thread = threading.Thread(target=lambda: found.append(collect(*actor_of(RUNS[name]))))
    thread.start()
    thread.join()
    assert_same(found[0][0], expected)


CHILD = """
import json, sys
from safetensors.torch import load_file, save_file
from bellgrad.core.tree import restore_tree
from bellgrad.runs.settings import Settings
sys.path.insert(0, sys.argv[1])
from test_actor import actor_of, collect

folder = sys.argv[2]
settings = Settings.from_json(json.load(open(f"{folder}/settings.json")))
actor, state = actor_of(settings)
block, _ = collect(actor, restore_tree(state, load_file(f"{folder}/policy.safetensors")))
save_file(block, f"{folder}/block.safetensors")
"""


@pytest.mark.parametrize("name", RUNS)
def test_an_actor_in_another_process_needs_the_settings_and_a_policys_tensors(name, tmp_path):
    settings = RUNS[name]
    actor, state = actor_of(settings)
    (tmp_path / "settings.json").write_text(json.dumps(settings.to_json(env_name(settings.env))))
    save_file(named_leaves(state), tmp_path / "policy.safetensors")
    here = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", CHILD, here, str(tmp_path)], check=True)
    expected, _ = collect(actor, state)
    assert_same(load_file(tmp_path / "block.safetensors"), expected)


@pytest.mark.compiled
def test_a_compiled_actor_agrees_with_an_eager_one():
    actor, state = actor_of(RUNS["native"])
    other, _ = actor_of(RUNS["native"])
    expected, _ = collect(actor, state)

    def four_steps(state, now, noise):
        state, now, block = other.run(state, now, noise, 4)
        return state, now, stack(block)

    compiled = Engine("compiled", 1, 1, "").compile(four_steps)
    now, noise, blocks = other.state, other.draw(STEPS), []
    for t in range(0, STEPS, 4):
        part = {"act": noise["act"][t : t + 4], "env": noise["env"][t : t + 4]}
        state, now, block = compiled(state, now, part)
        blocks.append(named_leaves(block))
    for name in expected:
        torch.testing.assert_close(torch.cat([block[name] for block in blocks]), expected[name])


@pytest.mark.parametrize("name", RUNS)
def test_a_policys_state_comes_back_with_nothing_but_its_steps_advanced(name):
    actor, state = actor_of(RUNS[name])
    before = {name: leaf.clone() for name, leaf in named_leaves(state).items()}
    _, after = collect(actor, state)
    after = named_leaves(after)
    assert int(after.pop("steps")) == int(before.pop("steps")) + 2 * STEPS
    assert_same(after, before)


def test_uniform_actions_are_in_the_policys_own_units():
    actor, _ = actor_of(RUNS["native"])
    assert isinstance(actor.env.action_space, Discrete)
    actions = torch.stack([actor.uniform_action() for _ in range(200)])
    assert set(actions.flatten().tolist()) == {0, 1}
    actor, _ = actor_of(RUNS["continuous"])
    actions = torch.stack([actor.uniform_action() for _ in range(200)])
    assert -1 <= actions.min() < -0.9 and 0.9 < actions.max() < 1
