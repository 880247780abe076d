"""Runs of policies with a memory: what is remembered reaches acting, values, updates, checkpoints, evaluation
and agents."""

import shutil
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from bellgrad import api
from bellgrad.algos.a2c import A2C
from bellgrad.algos.ppo import PPO
from bellgrad.core.errors import UsageError
from bellgrad.core.tree import flat, leaves, named_leaves
from bellgrad.envs.native import NativeEnv
from bellgrad.nets.specs import GRU, LSTM, MLP
from bellgrad.ops.grads import value_and_grad
from bellgrad.runs.checkpoint import open_latest
from bellgrad.training.engine import Engine
from bellgrad.training.evaluate import evaluate_agent
from bellgrad.training.on_policy import OnPolicy
from bellgrad.training.session import Session

CPU = torch.device("cpu")
EAGER = Engine("eager", 1, 4, "")
LENGTH = 4  # steps of an episode of `Recall`


@dataclass(frozen=True)
class Recall:
    """The first observation is -1 or 1, the others are 0; in every step the action that names the first earns
    1, the other -1.

    The physics `[B, 2]` is the cue and the steps so far. Whoever remembers returns 4; whoever does not knows
    the cue in the first step alone, and returns 1 on average.
    """

    id: str = "Recall"
    max_episode_steps: int | None = None
    dtype: torch.dtype = torch.float32

    reset_noise: ClassVar[int] = 1
    step_noise: ClassVar[int] = 0
    observation_space: ClassVar = Box(-1, 1, (1,), np.float32)
    action_space: ClassVar = Discrete(2)

    def initial(self, noise):
        return torch.cat([torch.where(noise < 0.5, -1.0, 1.0), torch.zeros_like(noise)], -1)

    def advance(self, physics, action, noise):
        cue, age = physics.unbind(-1)
        return torch.stack([cue, age + 1], -1), (2.0 * action - 1) * cue, age + 1 == LENGTH

    def observe(self, physics):
        return torch.where(physics[:, 1:] == 0, physics[:, :1], 0.0)


def driver_of(network, seed=0, engine=EAGER, algorithm=PPO, **fields):
    own = {"rollout_steps": 16, "gamma": 0.5, "learning_rate": 1e-2, "learning_rate_decay": "constant"}
    env = NativeEnv(Recall(), 16)
    return OnPolicy(algorithm(network=network, **(own | fields)).build(env.spec), env, engine, seed, CPU)


def learned(network):
    driver = driver_of(network, epochs=4, minibatches=2)
    while driver.updates < 120:
        driver.advance()
    return evaluate_agent(driver.learner, driver.state, NativeEnv(Recall(), 16), 64, seed=1).return_mean


def rows_of(driver):
    """A rollout as one minibatch, which nothing learns from."""
    rows = []
    driver._run_epochs = lambda whole: (rows.append(whole), [{"loss": torch.zeros(())}])[1]
    driver.advance()
    return flat(rows[0]._replace(carry=None))._replace(carry=rows[0].carry)


@pytest.mark.parametrize("network", [LSTM(16, (16,), 8), GRU(16, (16,), 4)])
def test_a_policy_that_remembers_solves_what_one_that_does_not_cannot(network):
    assert learned(network) == LENGTH
    assert learned(MLP((16,))) < 2.5  # whatever it answers to 0, one cue in two is another


@pytest.mark.parametrize(
    "steps", [1, 2, 4, 16]
)  # episodes of 4 steps span rows, end with them, or end within them
def test_rows_give_back_the_log_probabilities_and_values_of_acting(steps):
    driver = driver_of(LSTM(8, (8,), steps), rollout_steps=32)
    for batch in (rows_of(driver), rows_of(driver)):
        policy, value = driver.learner.policy_and_value(driver.state.params, batch)
        torch.testing.assert_close(policy.logprob(batch.action), batch.logprob)
        torch.testing.assert_close(value, batch.value)


def test_a_successor_is_valued_with_the_memory_after_the_step():
    driver = driver_of(GRU(8, (8,), 4))
    rollouts, prepare = [], driver.learner.prepare
    driver.learner.prepare = lambda state, rollout, noise: (
        rollouts.append(rollout),
        prepare(state, rollout, noise),
    )[1]
    driver.advance()
    (r,) = rollouts
    within = ~r.terminated[:-1]
    assert within.any() and (~within).any()
    torch.testing.assert_close(r.next_value[:-1][within], r.value[1:][within])


def test_memory_is_empty_where_an_episode_begins_and_only_there():
    driver = driver_of(LSTM(8, (8,), 4))
    for _ in range(LENGTH + 1):
        empty = all((part == 0).all() for part in leaves(driver.actor.state.carry))
        assert empty == (int(driver.actor.state.env.age[0]) == 0)
        actor = driver.actor
        driver.state, actor.state, _ = actor.step(driver.state, actor.state, actor.draw())


def test_a2c_may_remember_too():
    driver = driver_of(GRU(8, (8,), 4), algorithm=A2C, rollout_steps=4)
    before = driver.state.params
    driver.advance()
    after = driver.state.params
    assert (after["actor.cell.weight_hh"] != before["actor.cell.weight_hh"]).any()
    with pytest.raises(UsageError, match="a rollout of 5 steps cannot be split into sequences of 4"):
        driver_of(GRU(8, (8,), 4), algorithm=A2C, rollout_steps=5)


# ------------------------------------------------------------------------------------------------- whole runs
def train(out, steps, **options):
    algorithm = PPO(network=LSTM(8, (8,), 8), rollout_steps=16, minibatches=2, epochs=2)
    options = {
        "num_envs": 4,
        "eval_episodes": 2,
        "max_episode_steps": 40,
        "engine": "eager",
        "progress": "off",
    } | options
    return api.train(algorithm, "CartPole-v1", steps, out=out, **options)


def tensors(folder):
    checkpoint, _ = open_latest(folder / "checkpoints")
    return {name: checkpoint.read(name).numpy().tobytes() for name in checkpoint.names()}


@pytest.mark.parametrize("backend", ["native", "gymnasium"])
def test_trap_resume_goes_on_with_what_was_remembered_in_the_middle_of_an_episode(
    backend, tmp_path, monkeypatch
):
    save, copies = Session._save, []

    def saved(self):
        save(self)
        if self.driver.steps == 512:
            copies.append(
                {name: leaf.clone() for name, leaf in named_leaves(self.driver.actor.state.carry).items()}
            )
            shutil.copytree(tmp_path / "whole", tmp_path / "stopped")

    monkeypatch.setattr(Session, "_save", saved)
    train(tmp_path / "whole", 1024, checkpoints=4, backend=backend)
    monkeypatch.setattr(Session, "_save", save)
    (carry,) = copies
    assert any((leaf != 0).any() for leaf in carry.values())
    api.resume(tmp_path / "stopped", progress="off")
    whole, resumed = tensors(tmp_path / "whole"), tensors(tmp_path / "stopped")
    assert whole.keys() == resumed.keys() and [name for name in whole if whole[name] != resumed[name]] == []


def test_an_agent_remembers_until_it_is_reset_and_cannot_be_exported(tmp_path):
    agent = api.load(train(tmp_path / "run", 256))
    seen = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)

    def memory():
        agent.reset()
        for obs in seen:
            agent.act(obs)
        return leaves(agent._carry)

    first, again = memory(), memory()
    assert all(torch.equal(a, b) and (a != 0).any() for a, b in zip(first, again, strict=True))
    learner, state, carry = agent.learner, agent.state, agent.learner.init_carry(1)
    for obs in seen:
        carry = learner.act(state, carry, torch.from_numpy(obs)[None], None, explore=False).carry
    assert all(torch.equal(a, b) for a, b in zip(first, leaves(carry), strict=True))
    with pytest.raises(UsageError, match="a policy with a memory cannot be exported"):
        agent.as_module()


# --------------------------------------------------------------------------------------------------- compiled
@pytest.mark.compiled
def test_compiled_rows_and_their_gradients_equal_eager_ones_within_rounding():
    driver = driver_of(LSTM(3, (), 2))
    learner, state, batch = driver.learner, driver.state, rows_of(driver)
    critic = {name: tensor for name, tensor in state.params.items() if name.startswith("critic.")}

    def learn(params, batch):
        def loss(p):
            return learner.critic.unroll(p, batch.obs, batch.carry["critic"], batch.ended).square().mean()

        return value_and_grad(loss)(params)

    (loss, grads), expected = Engine("compiled", 1, 1, "").compile(learn)(critic, batch), learn(critic, batch)
    torch.testing.assert_close(loss, expected[0])
    for name, grad in expected[1].items():
        torch.testing.assert_close(grads[name], grad)
    assert (grads["critic.cell.weight_hh"] != 0).all()
