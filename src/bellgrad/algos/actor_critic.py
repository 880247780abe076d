"""What the algorithms share that learn a policy and its value from rollouts: hyper-parameters, state, acting,
advantages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from bellgrad.algos.counters import zero_counters
from bellgrad.algos.policy_fields import PolicyFields
from bellgrad.core.errors import UsageError, check_range
from bellgrad.core.records import Acted, EnvSpec, Metrics, Minibatch, Rollout
from bellgrad.core.rng import Noise
from bellgrad.core.tree import Tree
from bellgrad.nets.policy import Distribution, Policy
from bellgrad.nets.specs import Recurrent
from bellgrad.nets.value import PREFIX as CRITIC
from bellgrad.nets.value import Value
from bellgrad.ops.grads import Params, clip_by_norm, value_and_grad
from bellgrad.ops.optim import Adam, Optimizer
from bellgrad.ops.returns import gae
from bellgrad.ops.schedules import Constant, Linear, Schedule
from bellgrad.ops.targets import squared_error


@dataclass(frozen=True)
class ActorCritic(PolicyFields):
    """Hyper-parameters that these algorithms share.

    Attributes:
        learning_rate_decay: `linear` falls to 0 at the end of the planned run; `constant` stays.
        rollout_steps: steps of each environment between updates (T).
        network: of actor and critic alike: an `MLP`, a `CNN`, an `LSTM`, a `GRU`, or a user's own `nn.Module`
            class.
    """

    learning_rate_decay: Literal["constant", "linear"] = "linear"
    rollout_steps: int = 256
    max_grad_norm: float | None = 0.5
    optimizer: Optimizer = field(default_factory=lambda: Adam(epsilon=1e-5))

    default_num_envs: ClassVar[int] = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, rollout_steps=(1, 1e7))


class ActorCriticState(NamedTuple):
    """Everything that changes while it learns."""

    params: Params  # those of `Policy` and "critic.*"
    optimizer: Tree
    learning_rate: Tensor  # [] of the updates on the current rollout
    updates: Tensor  # [] int64
    steps: Tensor  # [] int64, environment steps; the driver advances it


class ActorCriticLearner:
    """Acting and advantages; the subclass adds `update`.

    Attributes:
        policy: the actor.
        critic: its value.
        sequence: L, the steps through which a policy with a memory is differentiated; 1 without one.
        max_kl: the passes over a rollout stop once the policy has moved that far, nats; None never stops.
        needs_next_obs: whether `Rollout.next_obs` is kept for `prepare`.

    Raises:
        UsageError: the spaces do not fit, or a linear learning rate has no planned number of steps.
    """

    driver = "on_policy"
    max_kl: float | None = None
    needs_next_obs: bool = False

    def __init__(self, config: Any, spec: EnvSpec, steps: int | None = None):
        self.config = config
        self.policy: Policy = config.policy(spec)
        self.critic = Value(config.network, spec)
        self.sequence = config.network.backprop_steps if isinstance(config.network, Recurrent) else 1
        self._learning_rate = _learning_rate(config, steps)

    def init(self, rng: torch.Generator) -> Any:
        """Random parameters; the policy begins close to uniform (discrete) or to a centered Gaussian."""
        params, counters = self.policy.init(rng) | self.critic.init(rng), zero_counters(rng.device)
        learning_rate = self._learning_rate.value(counters[0])
        return ActorCriticState(params, self.config.optimizer.init(params), learning_rate, *counters)

    def init_carry(self, num_envs: int) -> Tree:
        """What actor and critic remember when an episode begins, each its own; None for networks without a
        memory."""
        if not self.policy.remembers:
            return None
        return {"actor": self.policy.first_memory(num_envs), "critic": self.critic.first_memory(num_envs)}

    def act_noise(self, num_envs: int) -> Noise:
        """What a sample of the policy needs."""
        return self.policy.noise(num_envs)

    def act(self, state: Any, carry: Tree, obs: Tree, noise: Tree, explore: bool = True) -> Acted:
        """A sample of the policy if it explores, else its mode; memories move on by one step."""
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

    def value(self, state: Any, obs: Tree, carry: Tree = None) -> Tree:
        """`V(obs)`, given what was remembered before it: `[B]`. A subclass may give several, by name."""
        if not self.critic.remembers:
            return self.critic.predict(state.params, obs)
        return self.critic.step(state.params, obs, carry["critic"])[0]

    def policy_and_value(self, params: Params, batch: Minibatch) -> tuple[Distribution, Tensor]:
        """The policy's distributions and the values `[B]` at the observations of a minibatch, each row with
        the memory from its start on."""
        if not self.policy.remembers:
            return self.policy.distribution(params, batch.obs), self.critic.predict(params, batch.obs)
        policy = self.policy.unroll(params, batch.obs, batch.carry["actor"], batch.ended)
        return policy, self.critic.unroll(params, batch.obs, batch.carry["critic"], batch.ended)

    def prepare_noise(self, num_envs: int) -> Tree:
        """Advantages are deterministic, given their rollout."""
        return None

    def prepare(self, state: Any, rollout: Rollout, noise: Tree = None) -> tuple[Any, Minibatch, Metrics]:
        """Advantages and value targets of a rollout `[T, B]` with one value, and its learning rate."""
        c, r = self.config, rollout
        advantage = gae(r.reward, r.terminated, r.truncated, r.value, r.next_value, c.gamma, c.lambda_)
        whole = minibatch_of(r, r.value, advantage, advantage + r.value)
        return self.with_learning_rate(state, r), whole, {}

    def with_learning_rate(self, state: Any, rollout: Rollout) -> Any:
        """The state with the learning rate that was due when the rollout began."""
        return state._replace(learning_rate=self._learning_rate.value(state.steps - rollout.reward.numel()))

    def update_noise(self) -> Tree:
        """An update is deterministic, given its minibatch."""
        return None

    def optimizer_step(self, state: Any, grads: Params, metrics: Metrics) -> tuple[Any, Metrics]:
        """One step of the optimizer, the gradients clipped. Parameters without a gradient stay as they
        are."""
        c = self.config
        if c.max_grad_norm is not None:
            grads, norm = clip_by_norm(grads, c.max_grad_norm)
            metrics = metrics | {"grad_norm": norm}
        moving = {name: state.params[name] for name in grads}
        moved, optimizer = c.optimizer.step(moving, grads, state.optimizer, state.learning_rate)
        params = state.params | moved
        return state._replace(params=params, optimizer=optimizer, updates=state.updates + 1), metrics

    def value_step(self, state: Any, batch: Minibatch) -> tuple[Any, Metrics]:
        """One step of the value alone down its squared error; `state.optimizer` is that of `critic.*`."""

        def loss(critic: Params) -> Tensor:
            return squared_error(self.critic.predict(critic, batch.obs) - batch.return_).mean()

        value_loss, grads = value_and_grad(loss)(split(state.params)[1])
        return self.optimizer_step(state, grads, {"value_loss": value_loss})


def minibatch_of(
    rollout: Rollout, value: Tree, advantage: Tensor, return_: Tensor, extra: Tree = None
) -> Minibatch:
    """The whole rollout as one minibatch, `[T, B]`, with what was worked out from it.

    Args:
        rollout: what was seen and done.
        value: predicted when acting.
        advantage: `[T, B]`.
        return_: `[T, B]`, the value target.
        extra: `[T, B, ...]`, whatever else the update needs, such as further value targets.
    """
    r = rollout
    ended = r.terminated | r.truncated
    return Minibatch(r.obs, r.action, r.logprob, value, advantage, return_, ended, r.carry, extra)


def split(params: Params) -> tuple[Params, Params]:
    """The policy's parameters and the critic's."""
    critic = {name: tensor for name, tensor in params.items() if name.startswith(CRITIC)}
    return {name: tensor for name, tensor in params.items() if name not in critic}, critic


def _learning_rate(config: Any, steps: int | None) -> Schedule:
    if config.learning_rate_decay == "constant":
        return Constant(config.learning_rate)
    if not steps:
        raise UsageError("a linear learning rate needs the planned number of environment steps")
    return Linear(config.learning_rate, 0.0, steps)
