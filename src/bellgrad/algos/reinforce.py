"""REINFORCE, the score-function policy gradient over whole episodes, with every Phi that an episode offers.

    dJ = E[ sum_t w_t Phi_t dlog pi(a_t | s_t) ]    summed over an episode's steps, averaged over episodes

    phi             Phi_t
    return          R(tau) = sum_k gamma^k r_k, the same at every step: the simplest policy gradient
    reward_to_go    G_t = sum_{k >= t} gamma^(k-t) r_k
    baseline        G_t - V(s_t)
    q               Q(s_t, a_t)
    advantage       Q(s_t, a_t) - sum_a pi(a | s_t) Q(s_t, a)
    td_residual     r_t + gamma V(s_{t+1}) - V(s_t)
    gae             sum_k (gamma lambda)^k (td residual at t + k)

V and Q are learned from the same episodes, after the policy's step, so that they do not know the returns that
they are held against. In the form `all_actions` the drawn action gives way to the sum over all: sum_a
Phi(s_t, a) dpi(a | s_t).

The weight w_t of a discounted return is gamma^t: multiplied in (`discount`), or as the chance of keeping step
t (`geometric`). Practice leaves it out (`none`), and so does `return`, which holds it already.

Source: Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement
learning"; Schulman et al. 2016, arXiv 1506.02438, equation 1; gamma^t: Sutton and Barto 2018, section 13.3;
all actions: there, equation 13.7.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from bellgrad.core.errors import UsageError, check_range, check_types
from bellgrad.core.records import Acted, EnvSpec, Episodes, Metrics
from bellgrad.core.registry import NETWORKS, OPTIMIZERS, take_names
from bellgrad.core.rng import Noise
from bellgrad.core.tree import Tree, concat, flat
from bellgrad.nets.layers import Params
from bellgrad.nets.policy import Head, LogStd, Policy
from bellgrad.nets.specs import MLP, Spec, check_spec
from bellgrad.nets.value import Value
from bellgrad.ops.exploration import value_of_action
from bellgrad.ops.grads import clip_by_norm, value_and_grad
from bellgrad.ops.losses import normalize_advantage, squared_error
from bellgrad.ops.optim import Adam, Optimizer
from bellgrad.ops.policy_gradient import (
    all_actions_loss,
    discount_weight,
    geometric_mask,
    score_function_loss,
    total_return,
)
from bellgrad.ops.returns import gae, lambda_returns, td_residual

ALGORITHMS = {"reinforce": "REINFORCE"}

WITHOUT_CRITIC = ("return", "reward_to_go")
BY_ACTION = ("q", "advantage")


@dataclass(frozen=True)
class REINFORCE:
    """Hyper-parameters of REINFORCE, for discrete and continuous actions.

    Attributes:
        learning_rate: of the policy's optimizer, above 0.
        gamma: discount per environment step, in [0, 1].
        episodes: whole episodes to an update; the number of environments must divide it.
        phi: what the gradient of an action's log-probability is multiplied by; the file's head lists the
            choices.
        lambda_: of `gae`, in [0, 1].
        form: `sampled` learns from the action taken, `all_actions` from all of a Discrete space by their Q or
            advantage.
        state_weight: `none` counts every step alike, `discount` by gamma^t, `geometric` keeps step t with
            probability gamma^t.
        truncation: what an episode that was cut by a time limit is: `bootstrap` has the critic stand for what
            is missing, `exclude` learns nothing from it, `horizon` takes it for whole, the limit being a part
            of the task.
        entropy_coef: weight of the entropy bonus, a step.
        normalize_advantages: Phi to mean 0 and standard deviation 1 over the steps of an update.
        max_grad_norm: gradients are scaled down to this global norm; None leaves them.
        critic_learning_rate: of V or Q, above 0.
        critic_steps: gradient steps of V or Q to an update, each on all its episodes.
        critic_lambda: of the lambda-returns that V or Q learn; 1 is Monte Carlo.
        head: how a policy scores Discrete actions: `vector` gives one output an action, `score` one output
            for the observation joined with an action, asked for every action.
        log_std: of a Gaussian policy: `free` is a parameter of each action dimension, `shared` are further
            outputs of the mean's network, `separate` is a network of its own.
        initial_log_std: of a Gaussian policy.
        optimizer: how gradients become steps; its learning rate is replaced by the fields above.
        network: of policy and critic alike: an `MLP`, a `CNN`, or a user's own `nn.Module` class.
    """

    learning_rate: float = 5e-3
    gamma: float = 0.99
    episodes: int = 8
    phi: Literal["return", "reward_to_go", "baseline", "q", "advantage", "td_residual", "gae"] = "baseline"
    lambda_: float = 0.95
    form: Literal["sampled", "all_actions"] = "sampled"
    state_weight: Literal["none", "discount", "geometric"] = "none"
    truncation: Literal["bootstrap", "exclude", "horizon"] = "bootstrap"
    entropy_coef: float = 0.0
    normalize_advantages: bool = field(default=True, metadata={"formerly": "normalise_advantages"})
    max_grad_norm: float | None = None
    critic_learning_rate: float = 5e-3
    critic_steps: int = 10
    critic_lambda: float = 1.0
    head: Head = "vector"
    log_std: LogStd = "free"
    initial_log_std: float = 0.0
    optimizer: Optimizer = field(default_factory=Adam)
    network: Spec = field(default_factory=MLP)

    default_num_envs: ClassVar[int] = 8

    def __post_init__(self) -> None:
        check_types(self)
        take_names(self, optimizer=OPTIMIZERS, network=NETWORKS)
        check_spec(self.network)
        check_range(
            self,
            learning_rate=(1e-12, 10),
            gamma=(0, 1),
            episodes=(1, 1e7),
            lambda_=(0, 1),
            entropy_coef=(0, 1e6),
        )
        check_range(
            self, max_grad_norm=(0, math.inf), critic_learning_rate=(1e-12, 10), critic_steps=(1, 1e6)
        )
        check_range(self, critic_lambda=(0, 1), initial_log_std=(-20, 20))
        if self.form == "all_actions" and self.phi not in BY_ACTION:
            raise UsageError(
                f"form='all_actions' needs a Phi of every action: phi='q' or 'advantage', not {self.phi!r}"
            )
        if self.phi == "return" and self.state_weight != "none":
            raise UsageError(
                "phi='return' is discounted from the episode's start already: leave state_weight at 'none'"
            )
        if self.truncation == "bootstrap" and self.phi in WITHOUT_CRITIC:
            raise UsageError(
                f"phi={self.phi!r} has no critic to bootstrap from: take truncation='exclude' or 'horizon'"
            )

    def build(self, spec: EnvSpec, steps: int | None = None) -> REINFORCELearner:
        """Join these hyper-parameters to an environment; no schedule here depends on the planned `steps`."""
        return REINFORCELearner(self, spec)


class REINFORCEState(NamedTuple):
    """Everything that changes while it learns."""

    params: Params  # of the policy
    optimizer: Tree
    critic: Params | None  # of V or Q
    critic_optimizer: Tree
    updates: Tensor  # [] int64
    steps: Tensor  # [] int64, environment steps; the driver advances it


class REINFORCELearner:
    """The pure functions of REINFORCE for one environment."""

    driver = "episodes"

    def __init__(self, config: REINFORCE, spec: EnvSpec):
        self.config = config
        self.policy = Policy(config.network, spec, config.head, config.log_std, config.initial_log_std)
        self.by_action = config.phi in BY_ACTION
        if self.by_action and not isinstance(spec.action_space, Discrete):
            raise UsageError(
                f"phi={config.phi!r} needs a Discrete action space; {spec.id} has {spec.action_space}"
            )
        actions = self.policy.action_size if self.by_action else None
        self.critic = None if config.phi in WITHOUT_CRITIC else Value(config.network, spec, actions)

    def init(self, rng: torch.Generator) -> REINFORCEState:
        """Random parameters; the policy begins close to uniform (discrete) or to a centered Gaussian."""
        params, start = self.policy.init(rng), self.config.optimizer.init
        critic = None if self.critic is None else self.critic.init(rng)
        zero = torch.zeros((), dtype=torch.int64, device=rng.device)
        return REINFORCEState(
            params, start(params), critic, None if critic is None else start(critic), zero, zero.clone()
        )

    def init_carry(self, num_envs: int) -> None:
        """The actor has no memory."""

    def act_noise(self, num_envs: int) -> Noise:
        """What a sample of the policy takes."""
        return self.policy.noise(num_envs)

    def act(
        self, state: REINFORCEState, carry: None, obs: Tree, noise: Tensor | None, explore: bool = True
    ) -> Acted:
        """A sample of the policy, or its mode."""
        policy = self.policy.distribution(state.params, obs)
        return Acted(policy.sample(noise) if explore else policy.mode(), None, None)

    def update_noise(self, steps: int, episodes: int) -> Noise | None:
        """Which steps are kept, where that is left to chance."""
        return Noise("uniform", (steps, episodes)) if self.config.state_weight == "geometric" else None

    def update(
        self, state: REINFORCEState, episodes: Episodes, noise: Tensor | None
    ) -> tuple[REINFORCEState, Metrics]:
        """One step up the policy's gradient, then several of the critic towards what the episodes showed."""
        e = self.apply_truncation(episodes)
        values = self.critic_values(state, e)
        params, optimizer, metrics = self._improve(state, e, self.phi(e, values), noise)
        critic, critic_optimizer = state.critic, state.critic_optimizer
        if self.critic is not None:
            critic, critic_optimizer, metrics["value_loss"] = self._fit(state, e, values.next_value)
        return (
            REINFORCEState(params, optimizer, critic, critic_optimizer, state.updates + 1, state.steps),
            metrics,
        )

    def apply_truncation(self, e: Episodes) -> Episodes:
        """The episodes with those that were cut as `truncation` has it."""
        if self.config.truncation == "exclude":
            return e._replace(mask=e.mask & ~e.truncated.any(0))
        if self.config.truncation == "horizon":
            return e._replace(terminated=e.terminated | e.truncated, truncated=torch.zeros_like(e.truncated))
        return e

    def critic_values(self, state: REINFORCEState, e: Episodes) -> Values:
        """What the critic says of every step and of what it led to; zeros without a critic."""
        t, b = e.mask.shape
        if self.critic is None:
            return Values(torch.zeros_like(e.reward), torch.zeros_like(e.reward), None)
        seen = concat([flat(e.obs), e.last_obs])
        value, q = self.critic.predict(state.critic, seen), None
        if self.by_action:
            q = value
            value = (self.policy.distribution(state.params, seen).logprobs().exp() * q).sum(-1)
            q = q[: t * b].view(t, b, -1)
        value, last = value[: t * b].view(t, b), value[t * b :]
        follows = torch.cat([value[1:], last[None]])
        return Values(value, torch.where(e.terminated | e.truncated, last, follows), q)

    def phi(self, e: Episodes, v: Values) -> Tensor:
        """What the policy's gradient is weighed by: `[T, B]`, or `[T, B, A]` for all actions."""
        c, ends = self.config, (e.terminated, e.truncated)
        if c.phi == "return":
            return total_return(e.reward, c.gamma, e.mask)
        if c.phi == "td_residual":
            return td_residual(e.reward, e.terminated, v.value, v.next_value, c.gamma)
        if c.phi == "gae":
            return gae(e.reward, *ends, v.value, v.next_value, c.gamma, c.lambda_)
        if self.by_action:
            phi = v.q - v.value[..., None] if c.phi == "advantage" else v.q
            return phi if c.form == "all_actions" else value_of_action(phi, e.action)
        return_ = lambda_returns(e.reward, *ends, v.next_value, c.gamma, 1.0)
        return return_ - v.value if c.phi == "baseline" else return_

    def _improve(
        self, state: REINFORCEState, e: Episodes, phi: Tensor, noise: Tensor | None
    ) -> tuple[Params, Tree, Metrics]:
        c, mask, weight = self.config, e.mask, None
        n = mask.any(0).sum().clamp(min=1)
        age = torch.arange(len(mask), device=mask.device)[:, None].expand(mask.shape)
        if c.normalize_advantages:
            phi = normalize_advantage(phi, mask)
        if c.state_weight == "discount":
            weight = discount_weight(age, c.gamma)
        elif c.state_weight == "geometric":
            mask = mask & geometric_mask(age, c.gamma, noise)

        def loss(params: Params) -> tuple[Tensor, Metrics]:
            policy = self.policy.distribution(params, flat(e.obs))
            if c.form == "all_actions":
                actor = all_actions_loss(policy.logprobs().exp().view(phi.shape), phi, weight, mask, n)
            else:
                actor = score_function_loss(
                    policy.logprob(flat(e.action)).view(mask.shape), phi, weight, mask, n
                )
            entropy = torch.where(mask, policy.entropy().view(mask.shape), 0.0).sum()
            metrics = {"policy_loss": actor, "entropy": entropy / mask.sum().clamp(min=1)}
            return actor - (c.entropy_coef * entropy / n if c.entropy_coef else 0.0), metrics

        (_, metrics), grads = value_and_grad(loss, has_aux=True)(state.params)
        if c.max_grad_norm is not None:
            grads, metrics["grad_norm"] = clip_by_norm(grads, c.max_grad_norm)
        return *c.optimizer.step(state.params, grads, state.optimizer, c.learning_rate), metrics

    def _fit(self, state: REINFORCEState, e: Episodes, next_value: Tensor) -> tuple[Params, Tree, Tensor]:
        c, critic, optimizer = self.config, state.critic, state.critic_optimizer
        target = lambda_returns(e.reward, e.terminated, e.truncated, next_value, c.gamma, c.critic_lambda)

        def loss(params: Params) -> Tensor:
            value = self.critic.predict(params, flat(e.obs))
            if self.by_action:
                value = value_of_action(value, flat(e.action))
            error = torch.where(e.mask, value.view(target.shape) - target, 0.0)
            return 0.5 * squared_error(error).sum() / e.mask.sum().clamp(min=1)

        for _ in range(c.critic_steps):
            value_loss, grads = value_and_grad(loss)(critic)
            critic, optimizer = c.optimizer.step(critic, grads, optimizer, c.critic_learning_rate)
        return critic, optimizer, value_loss


class Values(NamedTuple):
    """A critic's judgment of episodes."""

    value: Tensor  # [T, B] V of each step
    next_value: Tensor  # [T, B] V of what it led to
    q: Tensor | None  # [T, B, A], where Q is learned
