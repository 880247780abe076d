"""What stands once for every algorithm with a replay is enough to write further ones: two that are not in the
package, each a short file, learn a probe environment through the real driver."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest
import torch
from probes import OPTIMUM, BestActionByObservation, TwoSteps, close, learn

from bellgrad.algos.counters import zero_counters
from bellgrad.algos.deep_q import DeepQ, DeepQLearner, Losses
from bellgrad.algos.dqn import DQN
from bellgrad.algos.from_replay import WithTargetNetwork
from bellgrad.algos.off_policy_actor_critic import OffPolicyActorCriticLearner
from bellgrad.algos.sac import SAC
from bellgrad.core.errors import UsageError
from bellgrad.core.records import Acted, Updated
from bellgrad.core.tree import map_tree
from bellgrad.data.uniform import UniformReplay
from bellgrad.envs.native import NativeEnv
from bellgrad.nets.build import build
from bellgrad.nets.layers import apply
from bellgrad.nets.specs import MLP
from bellgrad.ops.grads import value_and_grad
from bellgrad.ops.optim import Adam
from bellgrad.ops.polyak import move_every
from bellgrad.ops.targets import huber, td_target

OBS = torch.tensor([[-1.0], [1.0]])


# ----------------------------------------------------------------------------------- a distributional learner
@dataclass(frozen=True)
class QuantileDQN(DeepQ):
    """Dabney et al. 2018, arXiv 1710.10044, algorithm 1.

    Attributes:
        quantiles: of the return of every action (N).
    """

    quantiles: int = 8

    def build(self, spec, steps=None):
        return QuantileDQNLearner(self, spec)


class QuantileDQNLearner(DeepQLearner):
    def network(self):
        return build(self.config.network, self.spec.observation_space, self.actions * self.config.quantiles)

    def quantiles(self, params, obs):
        """`[B, A, N]`."""
        return apply(self.module, params, obs).unflatten(-1, (self.actions, -1))

    def q(self, params, obs):
        return self.quantiles(params, obs).mean(-1)

    def target(self, state, batch, noise=None):
        best = self.q(state.target, batch.next_obs).argmax(-1)
        following = self.quantiles(state.target, batch.next_obs)[torch.arange(len(best)), best]
        return batch.reward[:, None] + batch.discount[:, None] * following

    def losses(self, params, batch, target, noise=None):
        n = self.config.quantiles
        found = self.quantiles(params, batch.obs)[torch.arange(len(batch.action)), batch.action]
        error = target[:, None, :] - found[:, :, None]  # [B, predicted, target]
        level = ((torch.arange(n) + 0.5) / n)[:, None]
        loss = (level - (error < 0).float()).abs() * huber(error)
        td_error = target.mean(-1) - found.mean(-1)
        return Losses(loss.mean(-1).sum(-1), td_error.abs(), {"q": found.mean()})


def quantile_dqn(**fields):
    own = {"gamma": 0.5, "update_period": 16, "learning_starts": 64, "learning_rate": 1e-2, "batch_size": 32}
    own |= {"buffer_size": 512, "target_period": 10, "epsilon_final": 0.5, "epsilon_steps": 1}
    return QuantileDQN(network=MLP((16, 16)), **(own | fields))


def test_a_distributional_learner_finds_the_best_action_for_each_observation():
    learner, state = learn(quantile_dqn(), BestActionByObservation(), 600)
    close(learner.q(state.params, OBS), [[1.0, -1.0], [-1.0, 1.0]], 0.02)
    assert learner.act(state, None, OBS, None, explore=False).action.tolist() == [0, 1]


def test_a_distributional_learner_discounts_what_follows():
    learner, state = learn(quantile_dqn(), TwoSteps(), 600)
    close(learner.q(state.params, torch.tensor([[0.0], [1.0]])), [[0.5, 0.5], [1.0, 1.0]], 0.02)


# ------------------------------------------------------------------------------- a deterministic actor-critic
@dataclass(frozen=True)
class DDPG(WithTargetNetwork):
    """Lillicrap et al. 2016, arXiv 1509.02971, algorithm 1.

    Attributes:
        noise: standard deviation of the noise on an action.
    """

    noise: float = 0.3

    def build(self, spec, steps=None):
        return DDPGLearner(self, spec)


class DDPGState(NamedTuple):
    actor: dict
    critic: dict
    target_actor: dict
    target_critic: dict
    actor_optimizer: object
    critic_optimizer: object
    updates: torch.Tensor
    steps: torch.Tensor


class DDPGLearner(OffPolicyActorCriticLearner):
    def __init__(self, config, spec):
        super().__init__(config, spec, critics=1)

    def init(self, rng):
        networks, begin = self.init_networks(rng), self.config.optimizer.init
        targets, optimizers = map_tree(torch.clone, networks), map(begin, networks)
        return DDPGState(*networks, *targets, *optimizers, *zero_counters(rng.device))

    def policy(self, actor, obs):
        return self.actor_output(actor, obs).tanh()

    def act(self, state, carry, obs, noise, explore=True):
        action = self.policy(state.actor, obs)
        return Acted((action + self.config.noise * noise).clamp(-1, 1) if explore else action, None, None)

    def update(self, state, batch, noise=None):
        c, s = self.config, state
        next_q = self.q(s.target_critic, batch.next_obs, self.policy(s.target_actor, batch.next_obs))
        y = td_target(batch.reward, batch.discount, next_q[0])
        critic = self.critic_step(s.critic, s.critic_optimizer, batch, y)

        def actor_loss(actor):
            return -self.q(critic.params, batch.obs, self.policy(actor, batch.obs)).mean(), {}

        (actor_value, _), grads = value_and_grad(actor_loss, has_aux=True)(s.actor)
        actor, actor_optimizer = self.descend(s.actor, grads, s.actor_optimizer)
        updates = s.updates + 1
        targets = (
            move_every(new, old, updates, c.target_period, c.tau)
            for new, old in ((actor, s.target_actor), (critic.params, s.target_critic))
        )
        optimizers = actor_optimizer, critic.optimizer
        state = DDPGState(actor, critic.params, *targets, *optimizers, updates, s.steps)
        return Updated(state, {"critic_loss": critic.loss, "actor_loss": actor_value}, critic.td_error)


def ddpg(**fields):
    own = {"gamma": 0.5, "update_period": 16, "learning_starts": 64, "learning_rate": 1e-2, "batch_size": 64}
    return DDPG(network=MLP((16, 16)), buffer_size=2048, tau=0.1, **(own | fields))


def test_a_deterministic_actor_critic_finds_the_optimum_for_each_observation():
    learner, state = learn(ddpg(), BestActionByObservation(continuous=True), 1000)
    action = learner.act(state, None, OBS, None, explore=False).action
    close(action, [[-OPTIMUM], [OPTIMUM]], 0.1)
    close(learner.q(state.critic, OBS, action), [[0.0, 0.0]], 0.05)


def test_a_deterministic_actor_critic_discounts_what_follows():
    learner, state = learn(ddpg(), TwoSteps(continuous=True), 800)
    obs = torch.tensor([[0.0], [1.0]])
    close(learner.q(state.critic, obs, learner.policy(state.actor, obs)), [[0.5, 1.0]], 0.05)


# ----------------------------------------------------------------------------------------- the fields of both
@pytest.mark.parametrize("cls", [DQN, SAC])
def test_a_replay_is_part_of_the_algorithm(cls):
    assert cls().replay == UniformReplay() and replace(cls(), replay=UniformReplay()) == cls()
    assert cls(replay="uniform") == cls()
    for wrong, said in (
        (None, "is not a replay: give"),
        (UniformReplay, "is a class"),
        (Adam(), "is not a replay"),
    ):
        with pytest.raises(UsageError, match=said):
            cls(replay=wrong)


@pytest.mark.parametrize("make", [quantile_dqn, ddpg])
def test_the_gradients_of_each_network_are_clipped(make):
    learner = make(max_grad_norm=1e-3).build(NativeEnv(TwoSteps(continuous=make is ddpg), 1).spec)
    clipped = learner.clip({"a": torch.full((3,), 5.0), "b": torch.full((1, 4), -5.0)})
    norm = torch.cat([grad.flatten() for grad in clipped.values()]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


def test_deep_q_clips_entries_before_the_norm():
    learner = quantile_dqn(max_grad_value=1.0, max_grad_norm=2.0).build(NativeEnv(TwoSteps(), 1).spec)
    clipped = learner.clip({"a": torch.tensor([100.0, -0.5])})["a"]
    torch.testing.assert_close(clipped, torch.tensor([1.0, -0.5]))
