"""Soft actor-critic with twin critics and a learned temperature.

    critic:       J_Q = E[ (Q_i(s, a) - y)^2 ],
                  y = r + gamma * ( min_i Q_i(s', a'; target) - alpha * log pi(a' | s') ),   a' ~ pi(s')
    actor:        J_pi = E[ alpha * log pi(a | s) - min_i Q_i(s, a) ],   a = tanh(mean(s) + std(s) * noise)
    temperature:  J_alpha = E[ -log(alpha) * ( log pi(a | s) + target_entropy ) ]

The discount is zero if the episode terminated, so the entropy bonus of the successor is masked there too.

Source: Haarnoja et al. 2018, arXiv 1812.05905, equations 5, 7, 9 and 18. As in the authors' code the
temperature's loss is taken in log(alpha). Deviates from the paper's table 1 in two defaults: a learning rate
of 1e-3, not 3e-4, and a first temperature of 0.2, not 1, from which Adam takes some 15,000 updates to fall
until rewards near 1 per step begin to count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bellgrad.algos.counters import zero_counters
from bellgrad.algos.from_replay import WithTargetNetwork
from bellgrad.algos.off_policy_actor_critic import OffPolicyActorCriticLearner
from bellgrad.core.errors import check_range
from bellgrad.core.records import Acted, Batch, EnvSpec, Updated
from bellgrad.core.rng import Noise
from bellgrad.core.tree import Tree, map_tree
from bellgrad.ops.distributions import SquashedGaussian
from bellgrad.ops.grads import Params, value_and_grad
from bellgrad.ops.losses import sac_actor_loss, sac_temperature_loss
from bellgrad.ops.polyak import move_every
from bellgrad.ops.targets import soft_q_target

ALGORITHMS = {"sac": "SAC"}

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0  # the authors' bounds: outside them the density under- or overflows


@dataclass(frozen=True)
class SAC(WithTargetNetwork):
    """Hyper-parameters of soft actor-critic, for continuous actions.

    Attributes:
        learning_rate: of actor, critics and temperature, above 0.
        temperature: alpha at the start, above 0.
        learn_temperature: whether alpha follows `target_entropy`.
        target_entropy: in nats; None is minus the number of action dimensions.
        network: of actor and critics alike: an `MLP`, a `CNN`, or a user's own `nn.Module` class.
    """

    temperature: float = 0.2
    learn_temperature: bool = True
    target_entropy: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, temperature=(1e-12, 1e6), target_entropy=(-1e9, 1e9))

    def build(self, spec: EnvSpec, steps: int | None = None) -> SACLearner:
        """Join these hyper-parameters to an environment; no schedule here depends on the planned `steps`."""
        return SACLearner(self, spec)


class SACState(NamedTuple):
    """Everything that changes while SAC learns."""

    actor: Params
    critic: Params  # stacked: every leaf is [2, ...]
    target: Params  # of the target critics
    log_alpha: Params  # {"value": []}
    actor_optimizer: Tree
    critic_optimizer: Tree
    alpha_optimizer: Tree
    updates: Tensor  # [] int64
    steps: Tensor  # [] int64, environment steps; the driver advances it


class SACLearner(OffPolicyActorCriticLearner):
    """The pure functions of soft actor-critic for one environment."""

    config: SAC

    def __init__(self, config: SAC, spec: EnvSpec):
        super().__init__(config, spec, outputs_per_dimension=2)
        entropy = config.target_entropy
        self.target_entropy = -float(self.action_size) if entropy is None else entropy

    def init(self, rng: torch.Generator) -> SACState:
        """Random parameters; the target critics begin as copies."""
        actor, critic = self.init_networks(rng)
        log_alpha = {"value": torch.tensor(math.log(self.config.temperature), device=rng.device)}
        target, begin = map_tree(torch.clone, critic), self.config.optimizer.init
        optimizers = begin(actor), begin(critic), begin(log_alpha)
        return SACState(actor, critic, target, log_alpha, *optimizers, *zero_counters(rng.device))

    def policy(self, actor: Params, obs: Tree) -> SquashedGaussian:
        """`pi(. | obs)` on [-1, 1]^D."""
        mean, log_std = self.actor_output(actor, obs).chunk(2, -1)
        return SquashedGaussian(mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX))

    def act(self, state: SACState, carry: None, obs: Tree, noise: Tensor, explore: bool = True) -> Acted:
        """A sample of the policy if it explores, else its mode; `action [B, D]` in [-1, 1]."""
        policy = self.policy(state.actor, obs)
        return Acted(policy.sample(noise).action if explore else policy.mode(), None, None)

    def update_noise(self) -> dict[str, Noise]:
        """Standard normals for the next action and for the reparameterized one."""
        noise = Noise("normal", (self.config.batch_size, self.action_size))
        return {"next_action": noise, "action": noise}

    def target_q(self, state: SACState, batch: Batch, alpha: Tensor, noise: Tensor) -> Tensor:
        """The critics' target y: `[B]`."""
        next_action, next_logprob = self.policy(state.actor, batch.next_obs).sample(noise)
        next_q = self.q(state.target, batch.next_obs, next_action)
        return soft_q_target(batch.reward, batch.discount, next_q, next_logprob, alpha)

    def update(self, state: SACState, batch: Batch, noise: dict[str, Tensor]) -> Updated:
        """One step each for critics, actor and temperature, then the target critics' move."""
        c = self.config
        alpha = state.log_alpha["value"].exp()
        y = self.target_q(state, batch, alpha, noise["next_action"])
        critic = self.critic_step(state.critic, state.critic_optimizer, batch, y)

        def actor_loss(params: Params) -> tuple[Tensor, Tensor]:
            action, logprob = self.policy(params, batch.obs).sample(noise["action"])
            return sac_actor_loss(logprob, self.q(critic.params, batch.obs, action), alpha), logprob

        (actor_value, logprob), grads = value_and_grad(actor_loss, has_aux=True)(state.actor)
        actor, actor_optimizer = self.descend(state.actor, grads, state.actor_optimizer)

        def temperature_loss(log_alpha: Params) -> Tensor:
            return sac_temperature_loss(log_alpha["value"], logprob, self.target_entropy)

        log_alpha, alpha_optimizer = state.log_alpha, state.alpha_optimizer
        if c.learn_temperature:
            _, grads = value_and_grad(temperature_loss)(log_alpha)
            log_alpha, alpha_optimizer = c.optimizer.step(log_alpha, grads, alpha_optimizer, c.learning_rate)

        updates = state.updates + 1
        target = move_every(critic.params, state.target, updates, c.target_period, c.tau)
        metrics = {
            "critic_loss": critic.loss,
            "actor_loss": actor_value,
            "q": critic.q,
            "temperature": alpha,
            "entropy": -logprob.mean(),
        }
        networks = actor, critic.params, target, log_alpha
        optimizers = actor_optimizer, critic.optimizer, alpha_optimizer
        return Updated(SACState(*networks, *optimizers, updates, state.steps), metrics, critic.td_error)
