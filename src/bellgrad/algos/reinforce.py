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

V and Q are learned from the same episodes, after the policy's step, so that they have not yet seen the
returns that they are compared with. In the form `all_actions` the sum over all actions takes the place of the
drawn one: sum_a Phi(s_t, a) dpi(a | s_t).

The weight w_t of a discounted return is gamma^t: as a factor (`discount`), or as the probability of keeping
step t (`geometric`). In practice it is left out (`none`), as it must be with `return`, which contains it.

Source: Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement
learning"; Schulman et al. 2016, arXiv 1506.02438, equation 1; gamma^t: Sutton and Barto 2018, section 13.3;
all actions: the same, equation 13.7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from bellgrad.algos.counters import zero_counters
from bellgrad.algos.policy_fields import PolicyFields
from bellgrad.core.errors import UsageError, check_range
from bellgrad.core.records import Acted, EnvSpec, Episodes, Metrics
from bellgrad.core.rng import Noise
from bellgrad.core.tree import Tree, concat, flat
from bellgrad.nets.value import Value
from bellgrad.ops.distributions import Categorical
from bellgrad.ops.grads import Params, clip_by_norm, value_and_grad
from bellgrad.ops.losses import normalize_advantage
from bellgrad.ops.policy_gradient import (
    all_actions_loss,
    discount_weight,
    geometric_mask,
    score_function_loss,
    total_return,
)
from bellgrad.ops.returns import gae, lambda_returns, td_residual
from bellgrad.ops.targets import squared_error, value_of_action

ALGORITHMS = {"reinforce": "REINFORCE"}

WITHOUT_CRITIC = ("return", "reward_to_go")
BY_ACTION = ("q", "advantage")


@dataclass(frozen=True)
class REINFORCE(PolicyFields):
    """Hyper-parameters of REINFORCE, for discrete and continuous actions.

    Attributes:
        learning_rate: of the policy's optimizer, above 0.
        lambda_: of `gae`, in [0, 1].
        entropy_coef: weight of the entropy bonus, per step.
        normalize_advantages: Phi to mean 0 and standard deviation 1 over the steps of an update.
        max_grad_norm: the policy's gradients are scaled down to this global norm; None leaves them.
        optimizer: how gradients become steps; its learning rate is replaced by `learning_rate` and
            `critic_learning_rate`.
        episodes: whole episodes per update; the number of environments must divide it.
        phi: what the gradient of an action's log-probability is multiplied by; the choices are listed at the
            top of the file.
        form: `sampled` learns from the action taken, `all_actions` from all of a Discrete space by their Q or
            advantage.
        state_weight: `none` counts every step alike, `discount` by gamma^t, `geometric` keeps step t with
            probability gamma^t.
        truncation: how an episode counts that was cut by a time limit: `bootstrap` lets the critic estimate
            what is missing, `exclude` learns nothing from it, `horizon` takes it as complete, the limit being
            a part of the task.
        critic_learning_rate: of V or Q, above 0.
        critic_steps: gradient steps of V or Q per update, each on all its episodes.
        critic_lambda: of the lambda-returns that V or Q learn; 1 is Monte Carlo.
    """

    learning_rate: float = 5e-3
    episodes: int = 8
    phi: Literal["return", "reward_to_go", "baseline", "q", "advantage", "td_residual", "gae"] = "baseline"
    form: Literal["sampled", "all_actions"] = "sampled"
    state_weight: Literal["none", "discount", "geometric"] = "none"
    truncation: Literal["bootstrap", "exclude", "horizon"] = "bootstrap"
    critic_learning_rate: float = 5e-3
    critic_steps: int = 10
    critic_lambda: float = 1.0

    default_num_envs: ClassVar[int] = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, episodes=(1, 1e7), critic_learning_rate=(1e-12, 10), critic_steps=(1, 1e6))
        check_range(self, critic_lambda=(0, 1))
        if self.form == "all_actions" and self.phi not in BY_ACTION:
            raise UsageError(
                f"form='all_actions' needs a Phi of every action: phi='q' or 'advantage', not {self.phi!r}"
            )
        if self.phi == "return" and self.state_weight != "none":
            raise UsageError(
                "phi='return' is already discounted from the episode's start: leave state_weight at 'none'"
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
    critic: Params  # of V or Q; empty without a critic
    critic_optimizer: Tree
    updates: Tensor  # [] int64
    steps: Tensor  # [] int64, environment steps; the driver advances it


class EpisodeValues(NamedTuple):
    """What the critic predicts for the steps of episodes."""

    value: Tensor  # [T, B] V of each step
    next_value: Tensor  # [T, B] V of what it led to
    q: Tensor | None  # [T, B, A], if Q is learned


class REINFORCELearner:
    """The pure functions of REINFORCE for one environment.

    Attributes:
        policy: whose gradient is followed.
        critic: V or Q; None if `phi` needs neither.

    Raises:
        UsageError: the action space does not fit the policy, or `phi`.
    """

    driver = "episodes"

    def __init__(self, config: REINFORCE, spec: EnvSpec):
        self.config = config
        self.policy = config.policy(spec)
        self.by_action = config.phi in BY_ACTION
        if self.by_action and not isinstance(spec.action_space, Discrete):
            raise UsageError(
                f"phi={config.phi!r} needs a Discrete action space; {spec.id} has {spec.action_space}"
            )
        actions = self.policy.action_size if self.by_action else None
        self.critic = None if config.phi in WITHOUT_CRITIC else Value(config.network, spec, actions)

    def init(self, rng: torch.Generator) -> REINFORCEState:
        """Random parameters; the policy begins close to uniform (discrete) or to a centered Gaussian."""
        params, begin = self.policy.init(rng), self.config.optimizer.init
        critic = {} if self.critic is None else self.critic.init(rng)
        critic_optimizer = begin(critic) if critic else None
        counters = zero_counters(rng.device)
        return REINFORCEState(params, begin(params), critic, critic_optimizer, *counters)

    def init_carry(self, num_envs: int) -> None:
        """The actor has no memory."""

    def act_noise(self, num_envs: int) -> Noise:
        """What a sample of the policy needs."""
        return self.policy.noise(num_envs)

    def act(self, state: REINFORCEState, carry: None, obs: Tree, noise: Tree, explore: bool = True) -> Acted:
        """A sample of the policy if it explores, else its mode."""
        policy = self.policy.distribution(state.params, obs)
        return Acted(policy.sample(noise) if explore else policy.mode(), None, None)

    def update_noise(self, steps: int, episodes: int) -> Noise | None:
        """A uniform for each step, if steps are kept at random."""
        return Noise("uniform", (steps, episodes)) if self.config.state_weight == "geometric" else None

    def update(
        self, state: REINFORCEState, episodes: Episodes, noise: Tree
    ) -> tuple[REINFORCEState, Metrics]:
        """One step up the policy's gradient, then several of the critic towards what the episodes showed."""
        e = self.apply_truncation(episodes)
        values = self.critic_values(state, e)
        params, optimizer, metrics = self._policy_step(state, e, self.phi(e, values), noise)
        critic, critic_optimizer = state.critic, state.critic_optimizer
        if self.critic is not None:
            critic, critic_optimizer, loss = self._critic_steps(self.critic, state, e, values.next_value)
            metrics["value_loss"] = loss
        updates = state.updates + 1
        return REINFORCEState(params, optimizer, critic, critic_optimizer, updates, state.steps), metrics

    def apply_truncation(self, e: Episodes) -> Episodes:
        """The episodes, those that were cut treated as the field `truncation` says."""
        if self.config.truncation == "exclude":
            return e._replace(mask=e.mask & ~e.truncated.any(0))
        if self.config.truncation == "horizon":
            return e._replace(terminated=e.terminated | e.truncated, truncated=torch.zeros_like(e.truncated))
        return e

    def critic_values(self, state: REINFORCEState, e: Episodes) -> EpisodeValues:
        """The critic's predictions for every step and for what it led to; zeros without a critic."""
        t, b = e.mask.shape
        if self.critic is None:
            return EpisodeValues(torch.zeros_like(e.reward), torch.zeros_like(e.reward), None)
        seen = concat([flat(e.obs), e.last_obs])
        value, q = self.critic.predict(state.critic, seen), None
        if self.by_action:
            policy = self.policy.distribution(state.params, seen)
            assert isinstance(policy, Categorical)  # a Discrete space was asked for
            value, q = (policy.logprobs().exp() * value).sum(-1), value[: t * b].view(t, b, -1)
        value, last = value[: t * b].view(t, b), value[t * b :]
        follows = torch.cat([value[1:], last[None]])
        return EpisodeValues(value, torch.where(e.terminated | e.truncated, last, follows), q)

    def phi(self, e: Episodes, v: EpisodeValues) -> Tensor:
        """What the gradient of a log-probability is multiplied by: `[T, B]`, or `[T, B, A]` for all
        actions."""
        c, ends = self.config, (e.terminated, e.truncated)
        if c.phi == "return":
            return total_return(e.reward, c.gamma, e.mask)
        if c.phi == "td_residual":
            return td_residual(e.reward, e.terminated, v.value, v.next_value, c.gamma)
        if c.phi == "gae":
            return gae(e.reward, *ends, v.value, v.next_value, c.gamma, c.lambda_)
        if self.by_action and v.q is not None:
            phi = v.q - v.value[..., None] if c.phi == "advantage" else v.q
            return phi if c.form == "all_actions" else value_of_action(phi, e.action)
        return_ = lambda_returns(e.reward, *ends, v.next_value, c.gamma, 1.0)
        return return_ - v.value if c.phi == "baseline" else return_

    def _policy_step(
        self, state: REINFORCEState, e: Episodes, phi: Tensor, noise: Tree
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
            if isinstance(policy, Categorical) and c.form == "all_actions":
                actor = all_actions_loss(policy.logprobs().exp().view(phi.shape), phi, weight, mask, n)
            else:
                logprob = policy.logprob(flat(e.action)).view(mask.shape)
                actor = score_function_loss(logprob, phi, weight, mask, n)
            entropy = torch.where(mask, policy.entropy().view(mask.shape), 0.0).sum()
            metrics = {"policy_loss": actor, "entropy": entropy / mask.sum().clamp(min=1)}
            return actor - (c.entropy_coef * entropy / n if c.entropy_coef else 0.0), metrics

        (_, metrics), grads = value_and_grad(loss, has_aux=True)(state.params)
        if c.max_grad_norm is not None:
            grads, metrics["grad_norm"] = clip_by_norm(grads, c.max_grad_norm)
        return *c.optimizer.step(state.params, grads, state.optimizer, c.learning_rate), metrics

    def _critic_steps(
        self, network: Value, state: REINFORCEState, e: Episodes, next_value: Tensor
    ) -> tuple[Params, Tree, Tensor]:
        c, critic, optimizer = self.config, state.critic, state.critic_optimizer
        target = lambda_returns(e.reward, e.terminated, e.truncated, next_value, c.gamma, c.critic_lambda)

        def loss(params: Params) -> Tensor:
            value = network.predict(params, flat(e.obs))
            if self.by_action:
                value = value_of_action(value, flat(e.action))
            error = torch.where(e.mask, value.view(target.shape) - target, 0.0)
            return 0.5 * squared_error(error).sum() / e.mask.sum().clamp(min=1)

        for _ in range(c.critic_steps):
            value_loss, grads = value_and_grad(loss)(critic)
            critic, optimizer = c.optimizer.step(critic, grads, optimizer, c.critic_learning_rate)
        return critic, optimizer, value_loss
