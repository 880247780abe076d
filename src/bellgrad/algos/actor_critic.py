"""What the algorithms share that learn a policy and its value from rollouts: fields, state, acting,
advantages."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from bellgrad.core.errors import UsageError, check_range, check_types
from bellgrad.core.records import Acted, EnvSpec, Metrics, Minibatch, Rollout
from bellgrad.core.registry import NETWORKS, OPTIMIZERS, take_names
from bellgrad.core.rng import Noise
from bellgrad.core.tree import Tree
from bellgrad.nets.policy import Distribution, Head, LogStd, Policy
from bellgrad.nets.specs import MLP, Recurrent, Spec, check_spec
from bellgrad.nets.value import PREFIX as CRITIC
from bellgrad.nets.value import Value
from bellgrad.ops.grads import clip_by_norm, value_and_grad
from bellgrad.ops.losses import squared_error
from bellgrad.ops.optim import Adam, Optimizer
from bellgrad.ops.returns import gae
from bellgrad.ops.schedules import Constant, Linear


@dataclass(frozen=True)
class ActorCritic:
    """Hyper-parameters that these algorithms share; each gives them its own defaults.

    Attributes:
        learning_rate: of the optimizer, above 0.
        learning_rate_decay: `linear` falls to 0 at the end of the planned run; `constant` stays.
        gamma: discount per environment step, in [0, 1].
        lambda_: of the advantage estimate, in [0, 1].
        rollout_steps: steps of each environment between updates (T).
        entropy_coef: weight of the entropy bonus.
        normalize_advantages: to mean 0 and standard deviation 1 over what an update sees.
        max_grad_norm: gradients are scaled down to this global norm; None leaves them.
        head: how a policy scores Discrete actions: `vector` gives one output an action, `score` one output
            for the observation joined with an action, asked for every action.
        log_std: of a Gaussian policy: `free` is a parameter of each action dimension, `shared` are further
            outputs of the mean's network, `separate` is a network of its own.
        initial_log_std: of a Gaussian policy.
        optimizer: how gradients become steps; its learning rate is replaced by the field above.
        network: of actor and critic alike: an `MLP`, a `CNN`, an `LSTM`, a `GRU`, or a user's own `nn.Module`
            class.
    """

    learning_rate: float = 5e-4
    learning_rate_decay: Literal["constant", "linear"] = "linear"
    gamma: float = 0.99
    lambda_: float = 0.95
    rollout_steps: int = 256
    entropy_coef: float = 0.0
    normalize_advantages: bool = field(default=True, metadata={"formerly": "normalise_advantages"})
    max_grad_norm: float | None = 0.5
    head: Head = "vector"
    log_std: LogStd = "free"
    initial_log_std: float = 0.0
    optimizer: Optimizer = field(default_factory=lambda: Adam(epsilon=1e-5))
    network: Spec = field(default_factory=MLP)

    default_num_envs: ClassVar[int] = 8
    memory: ClassVar[bool] = False  # whether the updates unroll networks that remember

    def __post_init__(self) -> None:
        check_types(self)
        take_names(self, optimizer=OPTIMIZERS, network=NETWORKS)
        check_spec(self.network, memory=self.memory)
        check_range(self, learning_rate=(1e-12, 10), gamma=(0, 1), lambda_=(0, 1), rollout_steps=(1, 1e7))
        check_range(self, entropy_coef=(0, 1e6), max_grad_norm=(0, math.inf), initial_log_std=(-20, 20))


class ActorCriticState(NamedTuple):
    """Everything that changes while it learns."""

    params: dict[str, Tensor]  # those of `Policy` and "critic.*"
    optimizer: Tree
    learning_rate: Tensor  # [] of the updates on the present rollout
    updates: Tensor  # [] int64
    steps: Tensor  # [] int64, environment steps; the driver advances it


class ActorCriticLearner:
    """Acting and advantages; the subclass adds `update`."""

    driver = "on_policy"
    max_kl: float | None = None

    def __init__(self, config: Any, spec: EnvSpec, steps: int | None = None):
        if config.learning_rate_decay == "linear" and not steps:
            raise UsageError("a linear learning rate needs the planned number of environment steps")
        self.config = config
        self.policy = Policy(config.network, spec, config.head, config.log_std, config.initial_log_std)
        self.critic = Value(config.network, spec)
        self.sequence = config.network.backprop_steps if isinstance(config.network, Recurrent) else 1
        linear = config.learning_rate_decay == "linear"
        self._learning_rate = (
            Linear(config.learning_rate, 0.0, steps) if linear else Constant(config.learning_rate)
        )

    def init(self, rng: torch.Generator) -> ActorCriticState:
        """Random parameters; the policy begins close to uniform (discrete) or to a centered Gaussian."""
        params = self.policy.init(rng) | self.critic.init(rng)
        zero = torch.zeros((), dtype=torch.int64, device=rng.device)
        return ActorCriticState(
            params, self.config.optimizer.init(params), self._learning_rate.value(zero), zero, zero.clone()
        )

    def init_carry(self, num_envs: int) -> Tree:
        """What actor and critic remember where an episode begins, each its own; None for networks without a
        memory."""
        if not self.policy.remembers:
            return None
        return {"actor": self.policy.first_memory(num_envs), "critic": self.critic.first_memory(num_envs)}

    def act_noise(self, num_envs: int) -> Noise:
        """What a sample of the policy takes."""
        return self.policy.noise(num_envs)

    def act(
        self, state: ActorCriticState, carry: Tree, obs: Tree, noise: Tensor | None, explore: bool = True
    ) -> Acted:
        """A sample of the policy, or its mode; memories go on by one step."""
        if not self.policy.remembers:
            policy = self.policy.distribution(state.params, obs)
        else:
            policy, actor = self.policy.step(state.params, obs, carry["actor"])
            _, critic = self.critic.step(state.params, obs, carry["critic"])
            carry = {"actor": actor, "critic": critic}
        if not explore:
            return Acted(policy.mode(), None, carry)
        action = policy.sample(noise)
        return Acted(action, policy.logprob(action), carry)

    def value(self, state: ActorCriticState, obs: Tree, carry: Tree = None) -> Tensor:
        """`V(obs)`, given what was remembered before it: `[B]`."""
        if not self.critic.remembers:
            return self.critic.predict(state.params, obs)
        return self.critic.step(state.params, obs, carry["critic"])[0]

    def policy_and_value(self, params: dict[str, Tensor], batch: Minibatch) -> tuple[Distribution, Tensor]:
        """The policy's distributions and the values `[B]` at what a minibatch observed, remembered from each
        row's start."""
        if not self.policy.remembers:
            return self.policy.distribution(params, batch.obs), self.critic.predict(params, batch.obs)
        policy = self.policy.unroll(params, batch.obs, batch.carry["actor"], batch.ended)
        return policy, self.critic.unroll(params, batch.obs, batch.carry["critic"], batch.ended)

    def prepare_noise(self, num_envs: int) -> Tree:
        """Advantages are deterministic, given their rollout."""

    def prepare(self, state: Any, rollout: Rollout, noise: Tree = None) -> tuple[Any, Minibatch, Metrics]:
        """Advantages, value targets and the learning rate of a rollout, `[T, B]`."""
        c, r = self.config, rollout
        advantage = gae(r.reward, r.terminated, r.truncated, r.value, r.next_value, c.gamma, c.lambda_)
        state = state._replace(
            learning_rate=self._learning_rate.value(state.steps - r.reward.numel())
        )  # as the rollout began
        ended = r.terminated | r.truncated
        return (
            state,
            Minibatch(r.obs, r.action, r.logprob, r.value, advantage, advantage + r.value, ended, r.carry),
            {},
        )

    def update_noise(self) -> None:
        """An update is deterministic, given its minibatch."""

    def descend(self, state: Any, grads: dict[str, Tensor], metrics: Metrics) -> tuple[Any, Metrics]:
        """One step of the optimizer, the gradients clipped. Parameters that have none stay as they are."""
        c = self.config
        if c.max_grad_norm is not None:
            grads, norm = clip_by_norm(grads, c.max_grad_norm)
            metrics = metrics | {"grad_norm": norm}
        moving = {name: state.params[name] for name in grads}
        moved, optimizer = c.optimizer.step(moving, grads, state.optimizer, state.learning_rate)
        return state._replace(
            params=state.params | moved, optimizer=optimizer, updates=state.updates + 1
        ), metrics

    def regress(self, state: Any, batch: Minibatch) -> tuple[Any, Metrics]:
        """One step of the value alone down its squared error; `state.optimizer` is that of `critic.*`."""

        def loss(critic: dict[str, Tensor]) -> Tensor:
            return squared_error(self.critic.predict(critic, batch.obs) - batch.return_).mean()

        value_loss, grads = value_and_grad(loss)(split(state.params)[1])
        return self.descend(state, grads, {"value_loss": value_loss})


def split(params: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The policy's parameters and the critic's."""
    critic = {name: tensor for name, tensor in params.items() if name.startswith(CRITIC)}
    return {name: tensor for name, tensor in params.items() if name not in critic}, critic
