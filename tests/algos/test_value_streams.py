"""A learner with two values and a reward of its own, made from the observations that followed, is a short
file over the actor-critics: checked by hand on a made-up rollout."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from bellgrad.algos.actor_critic import ActorCritic, ActorCriticLearner, minibatch_of
from bellgrad.algos.ppo import PPO
from bellgrad.core.records import EnvSpec, Rollout
from bellgrad.core.tree import flat, map_tree
from bellgrad.nets.specs import MLP
from bellgrad.nets.value import Value
from bellgrad.ops.grads import value_and_grad
from bellgrad.ops.losses import policy_gradient_loss
from bellgrad.ops.optim import SGD
from bellgrad.ops.returns import gae
from bellgrad.ops.targets import squared_error

SPEC = EnvSpec("two numbers", Box(-np.inf, np.inf, (2,), np.float32), Discrete(3))


@dataclass(frozen=True)
class Curious(ActorCritic):
    """A further reward for every unit that the observation moved. It has its own value and discount, and does
    not stop at the end of an episode, as in Burda et al. 2018, arXiv 1810.12894, section 2.3.

    Attributes:
        intrinsic_gamma: discount of the reward of its own.
        intrinsic_coef: weight of its advantage.
    """

    intrinsic_gamma: float = 0.5
    intrinsic_coef: float = 2.0

    epochs: ClassVar[int] = 1
    minibatches: ClassVar[int] = 1

    def build(self, spec, steps=None):
        return CuriousLearner(self, spec, steps)


class CuriousLearner(ActorCriticLearner):
    needs_next_obs = True

    def __init__(self, config, spec, steps=None):
        super().__init__(config, spec, steps)
        self.critic = Value(config.network, spec, actions=2)  # one network, two values

    def value(self, state, obs, carry=None):
        extrinsic, intrinsic = self.critic.predict(state.params, obs).unbind(-1)
        return {"extrinsic": extrinsic, "intrinsic": intrinsic}

    def prepare(self, state, rollout, noise=None):
        c, r = self.config, rollout
        never = torch.zeros_like(r.terminated)
        streams = {
            "extrinsic": (r.reward, r.terminated, r.truncated, c.gamma),
            "intrinsic": ((r.next_obs - r.obs).norm(dim=-1), never, never, c.intrinsic_gamma),
        }
        advantage = {
            name: gae(*seen, r.value[name], r.next_value[name], gamma, c.lambda_)
            for name, (*seen, gamma) in streams.items()
        }
        return_ = map_tree(torch.add, advantage, r.value)
        total = advantage["extrinsic"] + c.intrinsic_coef * advantage["intrinsic"]
        extra = {"intrinsic_return": return_["intrinsic"]}
        whole = minibatch_of(r, r.value["extrinsic"], total, return_["extrinsic"], extra)
        return self.with_learning_rate(state, r), whole, {}

    def update(self, state, batch, noise=None):
        def loss(params):
            policy = self.policy.distribution(params, batch.obs)
            actor = policy_gradient_loss(policy.logprob(batch.action), batch.advantage)
            target = torch.stack([batch.return_, batch.extra["intrinsic_return"]], -1)
            critic = squared_error(self.critic.predict(params, batch.obs) - target).sum(-1).mean()
            return actor + critic, {"policy_loss": actor, "value_loss": critic}

        (_, metrics), grads = value_and_grad(loss, has_aux=True)(state.params)
        return self.optimizer_step(state, grads, metrics)


def begun(**fields):
    """A learner, its first state and a rollout `[3, 1]`: the observation moves by 1, 0 and 5, the second step
    terminates."""
    config = Curious(network=MLP((8,)), gamma=0.9, lambda_=1.0, max_grad_norm=None, **fields)
    learner = config.build(SPEC, 100)
    state = learner.init(torch.Generator().manual_seed(0))
    column = lambda *numbers: torch.tensor(numbers)[:, None]  # noqa: E731
    obs = torch.tensor([[0.0, 0.0], [1.0, 0.0], [7.0, 7.0]])[:, None]
    next_obs = torch.tensor([[1.0, 0.0], [1.0, 0.0], [10.0, 11.0]])[:, None]
    value = {"extrinsic": column(1.0, 2.0, 3.0), "intrinsic": column(0.1, 0.2, 0.3)}
    next_value = {"extrinsic": column(2.0, 50.0, 4.0), "intrinsic": column(0.2, 0.3, 8.0)}
    terminated = column(False, True, False)
    rollout = Rollout(
        obs,
        column(0, 1, 2),
        column(1.0, 10.0, 100.0),
        terminated,
        torch.zeros_like(terminated),
        column(-1.0, -1.0, -1.0),
        value,
        next_value,
        column(0, 1, 0),
        carry=None,
        next_obs=next_obs,
    )
    return learner, state, rollout


def test_each_value_has_returns_of_its_own_reward():
    learner, state, rollout = begun()
    _, whole, _ = learner.prepare(state, rollout)
    # Lambda 1: discounted sums. The extrinsic one, gamma 0.9, is cut by the termination after step 2 and
    # bootstraps with 4 at the end: 1 + 0.9 * 10, 10, 100 + 0.9 * 4. The intrinsic one, gamma 1/2, is not cut:
    # 5 + 8 / 2 = 9, 0 + 9 / 2 = 4.5, 1 + 4.5 / 2.
    extrinsic, intrinsic = torch.tensor([10.0, 10.0, 103.6]), torch.tensor([3.25, 4.5, 9.0])
    torch.testing.assert_close(whole.return_[:, 0], extrinsic)
    torch.testing.assert_close(whole.extra["intrinsic_return"][:, 0], intrinsic)
    expected = extrinsic - torch.tensor([1.0, 2.0, 3.0]) + 2 * (intrinsic - torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(whole.advantage[:, 0], expected)


def test_an_update_moves_each_value_towards_its_own_returns():
    learner, state, rollout = begun(optimizer=SGD(), learning_rate=1e-3, learning_rate_decay="constant")
    state, whole, _ = learner.prepare(state, rollout)
    batch = flat(whole)
    before, first = learner.value(state, batch.obs), None
    for _ in range(200):
        state, metrics = learner.update(state, batch)
        first = first or metrics["value_loss"].item()
    after = learner.value(state, batch.obs)
    assert before.keys() == after.keys() == {"extrinsic", "intrinsic"}
    target = {"extrinsic": batch.return_, "intrinsic": batch.extra["intrinsic_return"]}
    expected = sum(((before[name] - target[name]) ** 2).mean().item() for name in target)
    assert first == pytest.approx(expected, rel=1e-5)
    for name in target:
        assert (after[name] - target[name]).norm() < 0.5 * (before[name] - target[name]).norm()


def test_a_learner_needs_the_observations_that_followed_only_if_it_says_so():
    assert begun()[0].needs_next_obs
    assert not PPO(network=MLP((8,))).build(SPEC, 100).needs_next_obs
