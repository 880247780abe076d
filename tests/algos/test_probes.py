"""Every algorithm on environments with known answers, through the real drivers; gamma is 1/2 unless said
otherwise."""

import pytest
import torch
from probes import (
    OPTIMUM,
    Arrival,
    BestAction,
    BestActionByObservation,
    BestChoices,
    ConstantValue,
    Endless,
    TwoSteps,
    ValueByObservation,
    close,
    learn,
)

from bellgrad.algos.a2c import A2C
from bellgrad.algos.dqn import DQN
from bellgrad.algos.ppo import PPO
from bellgrad.algos.reinforce import REINFORCE
from bellgrad.algos.sac import SAC
from bellgrad.algos.trpo import TRPO
from bellgrad.algos.vpg import VPG
from bellgrad.nets.specs import MLP

NETWORK = MLP((16, 16))
# Updates are few and the networks small, so the learning rates are high; each driver acts in 16 environments.
COMMON = {"learning_rate": 1e-2, "network": NETWORK}
REPLAY = {"update_period": 16, "learning_starts": 64} | COMMON


def dqn(gamma=0.5, **fields):
    own = {
        "batch_size": 32,
        "buffer_size": 512,
        "target_period": 10,
        "epsilon_final": 0.5,
        "epsilon_steps": 1,
    }
    return DQN(gamma=gamma, **(REPLAY | own | fields))


def ppo(gamma=0.5, **fields):
    own = {"rollout_steps": 16, "epochs": 4, "minibatches": 4, "learning_rate_decay": "constant"}
    return PPO(gamma=gamma, **(COMMON | own | fields))


def a2c(gamma=0.5, **fields):
    own = {"rollout_steps": 8, "learning_rate": 2e-2, "learning_rate_decay": "constant"}
    return A2C(gamma=gamma, **(COMMON | own | fields))


def vpg(gamma=0.5, **fields):
    own = {
        "rollout_steps": 16,
        "epochs": 1,
        "minibatches": 4,
        "learning_rate_decay": "constant",
        "value_learning_rate": 1e-2,
    }
    return VPG(gamma=gamma, **(COMMON | own | fields))


def trpo(gamma=0.5, **fields):
    own = {"rollout_steps": 16, "epochs": 2, "minibatches": 4, "learning_rate_decay": "constant"}
    return TRPO(gamma=gamma, conjugate_steps=3, line_search_steps=4, **(COMMON | own | fields))


def ppo_kl(gamma=0.5, **fields):
    return ppo(gamma, objective="kl", **fields)


def reinforce(gamma=0.5, **fields):
    own = {
        "learning_rate": 3e-2,
        "critic_learning_rate": 2e-2,
        "critic_steps": 5,
        "episodes": 16,
        "network": NETWORK,
    }
    return REINFORCE(gamma=gamma, **(own | fields))


EVERY_PHI = {
    "return": {"phi": "return", "truncation": "horizon"},
    "reward_to_go": {"phi": "reward_to_go", "truncation": "horizon"},
    **{phi: {"phi": phi} for phi in ("baseline", "q", "advantage", "td_residual", "gae")},
    "q of all actions": {"phi": "q", "form": "all_actions"},
}


def sac(gamma=0.5, temperature=1e-6, **fields):
    own = {"batch_size": 64, "buffer_size": 2048, "tau": 0.1, "learn_temperature": False}
    return SAC(gamma=gamma, temperature=temperature, **(REPLAY | own | fields))


# What is observed, the values, and gamma. They depend on no action.
VALUES = {
    ConstantValue: ([0.0], [1.0], 0.5),
    ValueByObservation: ([-1.0, 1.0], [-1.0, 1.0], 0.5),
    TwoSteps: ([0.0, 1.0], [0.5, 1.0], 0.5),
    Arrival: ([0.0, 1.0], [1.0, 2.0], 0.5),
    Endless: ([0.0], [10.0], 0.9),
}


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("probe", VALUES)
def test_dqn_knows_values(probe, double):
    observed, values, gamma = VALUES[probe]
    learner, state = learn(dqn(gamma, double=double), probe(), 1200 if probe is Endless else 400)
    q = learner.q(state.params, torch.tensor(observed)[:, None])
    close(q, [[value, value] for value in values], 1e-3 * max(values))


@pytest.mark.parametrize("probe", VALUES)
@pytest.mark.parametrize("continuous", [False, True])
def test_ppo_knows_values(probe, continuous):
    observed, values, gamma = VALUES[probe]
    learner, state = learn(ppo(gamma), probe(continuous), 1000 if probe is Endless else 400)
    close(learner.value(state, torch.tensor(observed)[:, None]), values, 1e-2 * max(values))


@pytest.mark.parametrize("probe", [ValueByObservation, Arrival])
@pytest.mark.parametrize("make", [a2c, vpg, trpo])
def test_the_other_actor_critics_know_values(make, probe):
    observed, values, gamma = VALUES[probe]
    learner, state = learn(make(gamma), probe(), 400)
    close(learner.value(state, torch.tensor(observed)[:, None]), values, 0.03 * max(values))


@pytest.mark.parametrize("probe", VALUES)
def test_sac_knows_values(probe):
    observed, values, gamma = VALUES[probe]
    learner, state = learn(sac(gamma), probe(continuous=True), 800)
    obs = torch.tensor(observed)[:, None]
    q = learner.q(state.critic, obs, learner.policy(state.actor, obs).mode())
    close(q, [values, values], 0.05 * max(values))


@pytest.mark.parametrize(
    ("phi", "probe"), [*(("baseline", probe) for probe in VALUES), ("advantage", Arrival)]
)
def test_reinforce_knows_values(phi, probe):
    observed, values, gamma = VALUES[probe]
    # what lies beyond the cut is all that is left to learn by then
    far = {"critic_lambda": 0.0} if probe is Endless else {}
    learner, state = learn(reinforce(gamma, phi=phi, **far), probe(), 120 if probe is Endless else 70)
    value = learner.critic.predict(state.critic, torch.tensor(observed)[:, None])
    close(value, values if phi == "baseline" else [[v, v] for v in values], 0.01 * max(values))


@pytest.mark.parametrize("loss", ["huber", "squared"])
def test_dqn_finds_the_best_action(loss):
    learner, state = learn(dqn(loss=loss), BestAction(), 300)
    close(learner.q(state.params, torch.zeros(1, 1)), [[-1.0, 1.0]], 1e-3)
    assert learner.act(state, None, torch.zeros(1, 1), None, explore=False).action.tolist() == [1]


def test_dqn_finds_the_best_action_for_each_observation():
    learner, state = learn(dqn(), BestActionByObservation(), 400)
    obs = torch.tensor([[-1.0], [1.0]])
    close(learner.q(state.params, obs), [[1.0, -1.0], [-1.0, 1.0]], 1e-3)
    assert learner.act(state, None, obs, None, explore=False).action.tolist() == [0, 1]


def test_ppo_finds_the_best_action():
    learner, state = learn(ppo(), BestAction(), 300)
    assert learner.act(state, None, torch.zeros(1, 1), None, explore=False).action.tolist() == [1]
    assert learner.policy.distribution(state.params, torch.zeros(1, 1)).logprobs().exp()[0, 1] > 0.95
    close(learner.value(state, torch.zeros(1, 1)), [1.0], 0.02)


def test_ppo_finds_the_best_of_several_choices_at_once():
    learner, state = learn(ppo(), BestChoices(), 400)
    assert learner.act(state, None, torch.zeros(1, 1), None, explore=False).action.tolist() == [
        list(BestChoices.best)
    ]
    policy = learner.policy.distribution(state.params, torch.zeros(1, 1))
    assert policy.logprob(torch.tensor([BestChoices.best])).exp() > 0.9
    close(learner.value(state, torch.zeros(1, 1)), [3.0], 0.1)


@pytest.mark.parametrize(
    ("make", "updates"), [(ppo, 400), (ppo_kl, 400), (a2c, 400), (vpg, 400), (trpo, 200)]
)
def test_actor_critics_find_the_best_action_for_each_observation(make, updates):
    learner, state = learn(make(), BestActionByObservation(), updates)
    obs = torch.tensor([[-1.0], [1.0]])
    assert learner.act(state, None, obs, None, explore=False).action.tolist() == [0, 1]
    assert learner.policy.distribution(state.params, obs).logprobs().exp().amax(-1).min() > 0.95
    close(learner.value(state, obs), [1.0, 1.0], 0.02)


def test_ppo_finds_the_optimum_of_a_continuous_action():
    learner, state = learn(ppo(), BestAction(continuous=True), 600)
    close(learner.act(state, None, torch.zeros(1, 1), None, explore=False).action, [[OPTIMUM]], 0.05)
    assert state.params["log_std"].exp() < 0.2  # it began at 1: noise costs reward here
    close(learner.value(state, torch.zeros(1, 1)), [0.0], 0.05)


@pytest.mark.parametrize(
    ("make", "updates"), [(ppo, 800), (ppo_kl, 800), (a2c, 600), (vpg, 800), (trpo, 400)]
)
def test_actor_critics_find_the_optimum_for_each_observation(make, updates):
    learner, state = learn(make(), BestActionByObservation(continuous=True), updates)
    obs = torch.tensor([[-1.0], [1.0]])
    close(learner.act(state, None, obs, None, explore=False).action, [[-OPTIMUM], [OPTIMUM]], 0.05)


@pytest.mark.parametrize("fields", EVERY_PHI.values(), ids=EVERY_PHI)
def test_reinforce_finds_the_best_action_for_each_observation_by_every_phi(fields):
    learner, state = learn(reinforce(**fields), BestActionByObservation(), 50)
    obs = torch.tensor([[-1.0], [1.0]])
    assert learner.act(state, None, obs, None, explore=False).action.tolist() == [0, 1]
    assert learner.policy.distribution(state.params, obs).logprobs().exp().amax(-1).min() > 0.95


@pytest.mark.parametrize("phi", ["reward_to_go", "gae"])
def test_reinforce_finds_the_optimum_for_each_observation(phi):
    learner, state = learn(
        reinforce(**EVERY_PHI[phi], learning_rate=1e-2), BestActionByObservation(continuous=True), 250
    )
    obs = torch.tensor([[-1.0], [1.0]])
    close(learner.act(state, None, obs, None, explore=False).action, [[-OPTIMUM], [OPTIMUM]], 0.1)


def test_sac_finds_the_optimum_of_a_continuous_action():
    learner, state = learn(sac(temperature=0.01), BestAction(continuous=True), 800)
    action = learner.act(state, None, torch.zeros(1, 1), None, explore=False).action
    close(action, [[OPTIMUM]], 0.1)
    close(learner.q(state.critic, torch.zeros(1, 1), action), [[0.0], [0.0]], 0.05)


def test_sac_finds_the_optimum_for_each_observation():
    learner, state = learn(sac(temperature=0.01), BestActionByObservation(continuous=True), 1000)
    obs = torch.tensor([[-1.0], [1.0]])
    close(learner.act(state, None, obs, None, explore=False).action, [[-OPTIMUM], [OPTIMUM]], 0.1)


def test_trap_sac_target_holds_the_entropy_of_every_step_but_the_terminal_one():
    # Rewards do not depend on the action, so the best policy is the one of greatest entropy. Uniform actions
    # would have log 2 = 0.693 nats; the best squashed Gaussian has 0.684 (log_std -0.13, integrated
    # numerically). So Q(1) = 1 with nothing after it, and Q(0) = gamma * (1 + 0.684) = 0.84.
    learner, state = learn(sac(temperature=1.0), TwoSteps(continuous=True), 800)
    q = learner.q(state.critic, torch.tensor([[0.0], [1.0]]), torch.zeros(2, 1))
    close(q, [[0.84, 1.0], [0.84, 1.0]], 0.06)


def test_sac_learns_the_temperature_that_gives_the_target_entropy():
    # -1 nat, minus the number of action dimensions. The density exp(-(a - optimum)^2 / alpha) has the
    # variance alpha / 2 and the entropy (1 + log(pi * alpha)) / 2, which is -1 at alpha = exp(-3) / pi =
    # 0.0158; the squashing moves it a little.
    learner, state = learn(sac(temperature=0.1, learn_temperature=True), BestAction(continuous=True), 1000)
    noise = torch.randn(4096, 1, generator=torch.Generator().manual_seed(0))
    logprob = learner.policy(state.actor, torch.zeros(4096, 1)).sample(noise).logprob
    assert -logprob.mean().item() == pytest.approx(-1.0, abs=0.25)
    assert 0.008 < state.log_alpha["value"].exp().item() < 0.025
