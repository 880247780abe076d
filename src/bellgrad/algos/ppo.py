"""Proximal policy optimisation with the clipped objective.

    L(params) = E[ -min( ratio * A, clip(ratio, 1 - epsilon, 1 + epsilon) * A ) ] + value_coef * L_value - entropy_coef * H(pi)

with ratio = pi(a | s) / pi_old(a | s), advantages A by generalised advantage estimation, and the value loss against the
lambda-return A + V_old. A rollout is used for several epochs of minibatches; with `target_kl` the epochs stop once the policy has
moved that far.

Source: Schulman et al. 2017, arXiv 1707.06347, equations 7 and 9; GAE: Schulman et al. 2016, arXiv 1506.02438, equation 16.
Actor and critic are separate networks; advantages are normalised per minibatch, as in the authors' code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from bellgrad.core.errors import UsageError, check_range, check_types
from bellgrad.core.protocols import Metrics
from bellgrad.core.records import Acted, EnvSpec, Minibatch, Rollout
from bellgrad.core.rng import Noise
from bellgrad.core.tree import Tree, map_tree
from bellgrad.nets.build import build, init_params, skeleton
from bellgrad.nets.layers import apply
from bellgrad.nets.specs import MLP, Spec, check_spec
from bellgrad.ops.distributions import Categorical, DiagonalGaussian
from bellgrad.ops.grads import clip_by_norm, value_and_grad
from bellgrad.ops.losses import clipped_value_loss, normalise_advantage, ppo_clip_loss, squared_error
from bellgrad.ops.optim import Adam, Optimiser, check_optimiser
from bellgrad.ops.returns import gae
from bellgrad.ops.schedules import Constant, Linear


@dataclass(frozen=True)
class PPO:
    """Hyper-parameters of proximal policy optimisation, for discrete and continuous actions.

    Attributes:
        learning_rate: of the optimiser, above 0.
        learning_rate_decay: `linear` falls to 0 at the end of the planned run; `constant` stays.
        gamma: discount per environment step, in [0, 1].
        lambda_: of the advantage estimate, in [0, 1].
        rollout_steps: steps of each environment between updates (T).
        epochs: passes over a rollout.
        minibatches: parts into which each pass splits it; must divide `rollout_steps` times the number of environments.
        clip_epsilon: how far the ratio may usefully move from 1, above 0.
        value_clip: the same for the value prediction; None does not clip.
        value_coef: weight of the value loss.
        entropy_coef: weight of the entropy bonus.
        normalise_advantages: to mean 0 and standard deviation 1 in every minibatch.
        target_kl: stop the epochs of a rollout once the mean KL divergence exceeds this; None never stops.
        max_grad_norm: gradients are scaled down to this global norm; None leaves them.
        initial_log_std: of the Gaussian policy; it is a free parameter of each action dimension.
        optimizer: how gradients become steps; its learning rate is replaced by the field above.
        network: of actor and critic alike: an `MLP`, a `CNN`, or a user's own `nn.Module` class.
    """

    learning_rate: float = 5e-4
    learning_rate_decay: Literal["constant", "linear"] = "linear"
    gamma: float = 0.99
    lambda_: float = 0.95
    rollout_steps: int = 256
    epochs: int = 10
    minibatches: int = 32
    clip_epsilon: float = 0.2
    value_clip: float | None = None
    value_coef: float = 0.5
    entropy_coef: float = 0.0
    normalise_advantages: bool = True
    target_kl: float | None = None
    max_grad_norm: float | None = 0.5
    initial_log_std: float = 0.0
    optimizer: Optimiser = field(default_factory=lambda: Adam(epsilon=1e-5))
    network: Spec = field(default_factory=MLP)

    def __post_init__(self) -> None:
        check_types(self)
        check_optimiser(self.optimizer)
        check_spec(self.network)
        check_range(self, learning_rate=(1e-12, 10), gamma=(0, 1), lambda_=(0, 1), clip_epsilon=(1e-6, 100), value_coef=(0, 1e6))
        check_range(self, rollout_steps=(1, 1e7), epochs=(1, 1e4), minibatches=(1, 1e6), entropy_coef=(0, 1e6))
        check_range(self, value_clip=(0, 1e9), target_kl=(0, 1e9), max_grad_norm=(0, math.inf), initial_log_std=(-20, 20))

    def build(self, spec: EnvSpec, steps: int | None = None) -> PPOLearner:
        """Join these hyper-parameters to an environment; `steps` planned are the horizon of a linear learning rate."""
        return PPOLearner(self, spec, steps)


class PPOState(NamedTuple):
    """Everything that changes while PPO learns."""

    params: dict[str, Tensor]  # "actor.*", "critic.*" and, for continuous actions, "log_std" [D]
    optimizer: Tree
    learning_rate: Tensor  # [] of the updates on the present rollout
    updates: Tensor  # [] int64
    steps: Tensor  # [] int64, environment steps; the driver advances it


class PPOLearner:
    """The pure functions of PPO for one environment."""

    driver = "on_policy"

    def __init__(self, config: PPO, spec: EnvSpec, steps: int | None = None):
        space = spec.action_space
        if not isinstance(space, Box | Discrete):
            raise UsageError(f"PPO needs a Box or Discrete action space; {spec.id} has {space}")
        if config.learning_rate_decay == "linear" and not steps:
            raise UsageError("a linear learning rate needs the planned number of environment steps")
        self.config = config
        self.discrete = isinstance(space, Discrete)
        self.action_size = int(space.n) if isinstance(space, Discrete) else math.prod(space.shape)
        self._make_actor = lambda: build(config.network, spec.observation_space, self.action_size, output_gain=0.01)
        self._make_critic = lambda: build(config.network, spec.observation_space, 1, output_gain=1.0)
        self._actor, self._critic = skeleton(self._make_actor), skeleton(self._make_critic)
        self._actor_names = [name for name, _ in self._actor.named_parameters()]
        self._critic_names = [name for name, _ in self._critic.named_parameters()]
        linear = config.learning_rate_decay == "linear"
        self._learning_rate = Linear(config.learning_rate, 0.0, steps) if linear else Constant(config.learning_rate)

    def init(self, rng: torch.Generator) -> PPOState:
        """Random parameters; the policy begins close to uniform (discrete) or to a centred Gaussian."""
        params = {f"actor.{name}": tensor for name, tensor in init_params(self._make_actor, rng).items()}
        params |= {f"critic.{name}": tensor for name, tensor in init_params(self._make_critic, rng).items()}
        if not self.discrete:
            params["log_std"] = torch.full((self.action_size,), self.config.initial_log_std, device=rng.device)
        zero = torch.zeros((), dtype=torch.int64, device=rng.device)
        return PPOState(params, self.config.optimizer.init(params), self._learning_rate.value(zero), zero, zero.clone())

    def init_carry(self, num_envs: int) -> None:
        """PPO's actor has no memory."""

    def policy(self, params: dict[str, Tensor], obs: Tree) -> Categorical | DiagonalGaussian:
        """`pi(. | obs)`."""
        output = apply(self._actor, {name: params[f"actor.{name}"] for name in self._actor_names}, obs)
        return Categorical(output) if self.discrete else DiagonalGaussian(output, params["log_std"])

    def predict(self, params: dict[str, Tensor], obs: Tree) -> Tensor:
        """`V(obs)`: `[B]`."""
        return apply(self._critic, {name: params[f"critic.{name}"] for name in self._critic_names}, obs).squeeze(-1)

    def value(self, state: PPOState, obs: Tree) -> Tensor:
        """`V(obs)`: `[B]`."""
        return self.predict(state.params, obs)

    def act_noise(self, num_envs: int) -> Noise:
        """A uniform an environment (discrete), or a standard normal an action dimension."""
        return Noise("uniform", (num_envs,)) if self.discrete else Noise("normal", (num_envs, self.action_size))

    def act(self, state: PPOState, carry: None, obs: Tree, noise: Tensor, explore: bool = True) -> Acted:
        """A sample of the policy with its log-probability where it explores, else the mode."""
        policy = self.policy(state.params, obs)
        if not explore:
            return Acted(policy.mode(), None, None)
        action = policy.sample(noise)
        return Acted(action, policy.logprob(action), None)

    def prepare(self, state: PPOState, rollout: Rollout) -> tuple[PPOState, Minibatch]:
        """Advantages, value targets and the learning rate of a rollout; time and environments are flattened into one axis."""
        c, r = self.config, rollout
        advantage = gae(r.reward, r.terminated, r.truncated, r.value, r.next_value, c.gamma, c.lambda_)
        state = state._replace(learning_rate=self._learning_rate.value(state.steps - r.reward.numel()))  # as the rollout began
        whole = Minibatch(r.obs, r.action, r.logprob, r.value, advantage, advantage + r.value)
        return state, map_tree(lambda x: x.flatten(0, 1), whole)

    def update_noise(self) -> None:
        """An update of PPO is deterministic, given its minibatch."""

    def update(self, state: PPOState, batch: Minibatch, noise: None = None) -> tuple[PPOState, Metrics]:
        """One step down the gradient of the clipped objective."""
        c = self.config
        advantage = normalise_advantage(batch.advantage) if c.normalise_advantages else batch.advantage

        def loss(params: dict[str, Tensor]) -> tuple[Tensor, Metrics]:
            policy, value = self.policy(params, batch.obs), self.predict(params, batch.obs)
            actor, kl, clipped = ppo_clip_loss(policy.logprob(batch.action), batch.logprob, advantage, c.clip_epsilon)
            if c.value_clip is None:
                critic = 0.5 * squared_error(value - batch.return_).mean()
            else:
                critic = clipped_value_loss(value, batch.value, batch.return_, c.value_clip)
            entropy = policy.entropy().mean()
            metrics = {"policy_loss": actor, "value_loss": critic, "entropy": entropy, "approx_kl": kl, "clip_fraction": clipped}
            bonus = c.entropy_coef * entropy if c.entropy_coef else 0.0  # a bonus of 0 need not be differentiated
            return actor + c.value_coef * critic - bonus, metrics

        (_, metrics), grads = value_and_grad(loss, has_aux=True)(state.params)
        if c.max_grad_norm is not None:
            grads, metrics["grad_norm"] = clip_by_norm(grads, c.max_grad_norm)
        params, optimizer = c.optimizer.step(state.params, grads, state.optimizer, state.learning_rate)
        return state._replace(params=params, optimizer=optimizer, updates=state.updates + 1), metrics
