"""Soft actor-critic with twin critics and a learned temperature.

    critic:       J_Q = E[ (Q_i(s, a) - y)^2 ],
                  y = r + gamma * ( min_i Q_i(s', a'; target) - alpha * log pi(a' | s') ),   a' ~ pi(s')
    actor:        J_pi = E[ alpha * log pi(a | s) - min_i Q_i(s, a) ],   a = tanh(mean(s) + std(s) * noise)
    temperature:  J_alpha = E[ -log(alpha) * ( log pi(a | s) + target_entropy ) ]

The discount is zero where the episode terminated, so the entropy bonus of the successor is masked there too.

Source: Haarnoja et al. 2018, arXiv 1812.05905, equations 5, 7, 9 and 18. As in the authors' code the
temperature's loss is taken in log(alpha). Deviates from the paper's table 1 in two defaults: a learning rate
of 1e-3, not 3e-4, and a first temperature of 0.2, not 1, from which Adam takes some 15,000 updates to come
down to where rewards near 1 a step begin to count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from gymnasium.spaces import Box
from torch import Tensor

from bellgrad.core.errors import UsageError, check_range, check_types
from bellgrad.core.records import Acted, Batch, EnvSpec, Metrics
from bellgrad.core.registry import NETWORKS, OPTIMIZERS, take_names
from bellgrad.core.rng import Noise
from bellgrad.core.tree import Tree, map_tree
from bellgrad.data.replay import RANGES as REPLAY_RANGES
from bellgrad.nets.build import build, init_params, skeleton
from bellgrad.nets.layers import apply
from bellgrad.nets.specs import MLP, Spec, check_spec
from bellgrad.ops.distributions import SquashedGaussian
from bellgrad.ops.grads import value_and_grad
from bellgrad.ops.losses import sac_actor_loss, sac_temperature_loss
from bellgrad.ops.optim import Adam, Optimizer
from bellgrad.ops.polyak import move_every
from bellgrad.ops.targets import soft_q_target

ALGORITHMS = {"sac": "SAC"}

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0  # the authors' bounds: outside them the density under- or overflows


@dataclass(frozen=True)
class SAC:
    """Hyper-parameters of soft actor-critic, for continuous actions.

    Attributes:
        learning_rate: of actor, critics and temperature, above 0.
        gamma: discount per environment step, in [0, 1].
        tau: how far the target critics move at each update, in (0, 1].
        target_period: updates between moves of the target critics.
        temperature: alpha at the start, above 0.
        learn_temperature: whether alpha follows `target_entropy`.
        target_entropy: in nats; None is minus the number of action dimensions.
        buffer_size: transitions that the replay holds.
        learning_starts: environment steps with uniform actions before the first update.
        batch_size: transitions in an update.
        update_period: environment steps between updates.
        updates_per_period: updates at each of those moments.
        optimizer: how gradients become steps; its learning rate is replaced by the field above.
        network: of actor and critics alike: an `MLP`, a `CNN`, or a user's own `nn.Module` class.
    """

    learning_rate: float = 1e-3
    gamma: float = 0.99
    tau: float = 0.005
    target_period: int = 1
    temperature: float = 0.2
    learn_temperature: bool = True
    target_entropy: float | None = None
    buffer_size: int = 1_000_000
    learning_starts: int = 1_000
    batch_size: int = 256
    update_period: int = 1
    updates_per_period: int = 1
    optimizer: Optimizer = field(default_factory=Adam)
    network: Spec = field(default_factory=lambda: MLP((256, 256), activation="relu", initialization="torch"))

    default_num_envs: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_types(self)
        take_names(self, optimizer=OPTIMIZERS, network=NETWORKS)
        check_spec(self.network)
        check_range(self, learning_rate=(1e-12, 10), gamma=(0, 1), tau=(1e-12, 1), temperature=(1e-12, 1e6))
        check_range(self, target_period=(1, 1e12), target_entropy=(-1e9, 1e9), **REPLAY_RANGES)

    def build(self, spec: EnvSpec, steps: int | None = None) -> SACLearner:
        """Join these hyper-parameters to an environment; no schedule here depends on the planned `steps`."""
        return SACLearner(self, spec)


class SACState(NamedTuple):
    """Everything that changes while SAC learns."""

    actor: dict[str, Tensor]
    critic: dict[str, Tensor]  # stacked: every leaf is [2, ...]
    target: dict[str, Tensor]
    log_alpha: dict[str, Tensor]  # {"value": []}
    actor_optimizer: Tree
    critic_optimizer: Tree
    alpha_optimizer: Tree
    updates: Tensor  # [] int64
    steps: Tensor  # [] int64, environment steps; the driver advances it


class SACLearner:
    """The pure functions of soft actor-critic for one environment."""

    driver = "off_policy"

    def __init__(self, config: SAC, spec: EnvSpec):
        if not isinstance(spec.action_space, Box):
            raise UsageError(
                f"SAC needs a Box action space; {spec.id} has {spec.action_space}. Try dqn or ppo."
            )
        self.config = config
        self.action_size = math.prod(spec.action_space.shape)
        self.target_entropy = (
            -float(self.action_size) if config.target_entropy is None else config.target_entropy
        )
        self._make_actor = lambda: build(config.network, spec.observation_space, 2 * self.action_size)
        self._make_critic = lambda: build(
            config.network, spec.observation_space, 1, action_size=self.action_size, ensemble=2
        )
        self._actor, self._critic = skeleton(self._make_actor), skeleton(self._make_critic)

    def init(self, rng: torch.Generator) -> SACState:
        """Random parameters; the target critics begin as copies."""
        actor, critic = init_params(self._make_actor, rng), init_params(self._make_critic, rng)
        log_alpha = {"value": torch.tensor(math.log(self.config.temperature), device=rng.device)}
        zero = torch.zeros((), dtype=torch.int64, device=rng.device)
        init = self.config.optimizer.init
        target = map_tree(torch.clone, critic)
        return SACState(
            actor, critic, target, log_alpha, init(actor), init(critic), init(log_alpha), zero, zero.clone()
        )

    def init_carry(self, num_envs: int) -> None:
        """SAC's actor has no memory."""

    def policy(self, actor: dict[str, Tensor], obs: Tree) -> SquashedGaussian:
        """`pi(. | obs)` on [-1, 1]^D."""
        mean, log_std = apply(self._actor, actor, obs).chunk(2, -1)
        return SquashedGaussian(mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX))

    def q(self, critic: dict[str, Tensor], obs: Tree, action: Tensor) -> Tensor:
        """Both critics: `[2, B]`."""
        return apply(self._critic, critic, obs, action).squeeze(-1)

    def act_noise(self, num_envs: int) -> Noise:
        """A standard normal for every action dimension."""
        return Noise("normal", (num_envs, self.action_size))

    def act(self, state: SACState, carry: None, obs: Tree, noise: Tensor, explore: bool = True) -> Acted:
        """A sample of the policy where it explores, else its mode; `action [B, D]` in [-1, 1]."""
        policy = self.policy(state.actor, obs)
        return Acted(policy.sample(noise)[0] if explore else policy.mode(), None, None)

    def update_noise(self) -> dict[str, Noise]:
        """Standard normals for the next action and for the reparameterized one."""
        noise = Noise("normal", (self.config.batch_size, self.action_size))
        return {"next_action": noise, "action": noise}

    def update(self, state: SACState, batch: Batch, noise: dict[str, Tensor]) -> tuple[SACState, Metrics]:
        """One step each for critics, actor and temperature, then the target's turn."""
        c = self.config
        alpha = state.log_alpha["value"].exp()
        next_action, next_logprob = self.policy(state.actor, batch.next_obs).sample(noise["next_action"])
        next_q = self.q(state.target, batch.next_obs, next_action)
        y = soft_q_target(batch.reward, batch.discount, next_q, next_logprob, alpha)

        def critic_loss(critic: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            q = self.q(critic, batch.obs, batch.action)
            return (batch.weight * (q - y) ** 2).mean(-1).sum(), q

        (critic_value, q), grads = value_and_grad(critic_loss, has_aux=True)(state.critic)
        critic, critic_optimizer = c.optimizer.step(
            state.critic, grads, state.critic_optimizer, c.learning_rate
        )

        def actor_loss(actor: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            action, logprob = self.policy(actor, batch.obs).sample(noise["action"])
            return sac_actor_loss(logprob, self.q(critic, batch.obs, action), alpha), logprob

        (actor_value, logprob), grads = value_and_grad(actor_loss, has_aux=True)(state.actor)
        actor, actor_optimizer = c.optimizer.step(state.actor, grads, state.actor_optimizer, c.learning_rate)

        log_alpha, alpha_optimizer = state.log_alpha, state.alpha_optimizer
        if c.learn_temperature:

            def temperature_loss(log_alpha: dict[str, Tensor]) -> Tensor:
                return sac_temperature_loss(log_alpha["value"], logprob, self.target_entropy)

            _, grads = value_and_grad(temperature_loss)(log_alpha)
            log_alpha, alpha_optimizer = c.optimizer.step(log_alpha, grads, alpha_optimizer, c.learning_rate)

        updates = state.updates + 1
        target = move_every(critic, state.target, updates, c.target_period, c.tau)
        metrics = {
            "critic_loss": critic_value,
            "actor_loss": actor_value,
            "q": q.mean(),
            "temperature": alpha,
            "entropy": -logprob.mean(),
            "td_error": (q - y).mean(0),
        }
        new = SACState(
            actor,
            critic,
            target,
            log_alpha,
            actor_optimizer,
            critic_optimizer,
            alpha_optimizer,
            updates,
            state.steps,
        )
        return new, metrics
