"""Off-policy Monte Carlo: the value of one policy from the returns of another, weighted by the ratio of their
probabilities.

    rho_t = prod_{k >= t} pi(a_k | s_k) / b(a_k | s_k)          to the end of the episode
    ordinary:  V(s) = mean of rho_t G_t          unbiased; its variance may be infinite
    weighted:  V(s) = sum of rho_t G_t / sum of rho_t          biased, and consistent; far less variance

over the visits t to s, where G_t is the return. Control learns Q of the greedy policy while it acts
epsilon-greedily. The weight of Q(s_t, a_t) is rho_{t+1}, so that it learns only from the end of an episode,
from the last action on that is not greedy. If an episode is truncated, the current estimate of the last state
is used for the rest of the return.

Source: Sutton and Barto (2018), equations 5.3 to 5.6, and sections 5.6 (prediction) and 5.7 (control).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bellgrad.core.errors import UsageError
from bellgrad.core.records import EnvSpec
from bellgrad.tabular.common import (
    TABLE_FULL,
    EpsilonGreedy,
    Prediction,
    PredictionLearner,
    act_epsilon_greedily,
    as_policy_rows,
    epsilon_at,
    inlined,
    max_q,
    next_uniform,
    sample_action,
)
from bellgrad.tabular.episodes import (
    EpisodeBuffer,
    EpisodeBufferLearner,
    MonteCarloFields,
    append_step,
    begin_episode,
)

ALGORITHMS = {
    "off_policy_monte_carlo": "OffPolicyMonteCarlo",
    "off_policy_monte_carlo_control": "OffPolicyMonteCarloControl",
}


@dataclass(frozen=True)
class ImportanceSampling(MonteCarloFields):
    """Fields of both off-policy learners.

    Attributes:
        weighting: `weighted` or `ordinary` importance sampling.
    """

    weighting: Literal["weighted", "ordinary"] = "weighted"


class ImportanceSampler(EpisodeBufferLearner):
    """What both off-policy learners share."""

    config: ImportanceSampling

    def make_config_record(self, **derived: float) -> np.record:
        """What the compiled functions read as `config`."""
        return super().make_config_record(weighted=self.config.weighting == "weighted", **derived)


@inlined
def add_to_mean(config, mean, weights, return_, weight):
    """Update a mean with a return. `mean [1]` and `weights [1]` are views; the latter is the sum of the
    weights, or with ordinary sampling the number of returns."""
    if config.weighted:
        weights[0] += weight
        mean[0] += weight / weights[0] * (return_ - mean[0])
    else:
        weights[0] += 1.0
        mean[0] += (weight * return_ - mean[0]) / weights[0]


# ------------------------------------------------------------------------------------------------- prediction
@inlined
def begin_prediction(config, table, obs, noise):
    """Clear the previous episode, then act by the behavior policy."""
    begin_episode(table.episode)
    return sample_action(table.behavior[obs], next_uniform(noise))


@inlined
def learn_prediction(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Store the step; at the end of the episode, update the means with its weighted returns."""
    episode = table.episode
    if not append_step(episode, obs, action, reward, table.last_episode[obs : obs + 1]):
        return TABLE_FULL
    if terminated or (truncated and config.bootstraps):
        weight, return_ = 1.0, 0.0 if terminated else table.v[next_obs]
        for t in range(episode.length[()] - 1, -1, -1):
            s, a = episode.obs[t], episode.action[t]
            return_ = episode.reward[t] + config.gamma * return_
            weight *= table.policy[s, a] / table.behavior[s, a]
            if config.weighted and weight == 0.0:
                break
            if config.every_visit or episode.first[t]:
                table.visits[s] += 1
                add_to_mean(config, table.v[s : s + 1], table.weights[s : s + 1], return_, weight)
    return sample_action(table.behavior[next_obs], next_uniform(noise))


class OffPolicyMonteCarloTable(NamedTuple):
    """The tables of `OffPolicyMonteCarlo`."""

    v: Tensor  # [S] float64
    visits: Tensor  # [S] int64, visits that counted
    weights: Tensor  # [S] float64, sum of the visits' weights; with ordinary sampling, their number
    last_episode: Tensor  # [S] int64, the number of the last episode that visited the state
    episode: EpisodeBuffer
    behavior: Tensor  # [S, A] float64, rows are probabilities
    policy: Tensor  # [S, A] float64, rows are probabilities
    legal: Tensor  # [S, A] bool
    steps: Tensor  # [] int64, environment steps


@dataclass(frozen=True)
class OffPolicyMonteCarlo(ImportanceSampling, Prediction):
    """Hyper-parameters of off-policy Monte Carlo prediction: the value of `policy` while `behavior` acts.

    Attributes:
        behavior: the policy that acts: `uniform` over the legal actions, or a row of probabilities for each
            state, `[S][A]`. Every action that `policy` may take must have a positive probability.
    """

    behavior: Literal["uniform"] | tuple[tuple[float, ...], ...] = field(
        default="uniform", metadata={"formerly": "behaviour"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "behavior", as_policy_rows("behavior", self.behavior))

    def build(self, spec: EnvSpec, steps: int | None = None) -> OffPolicyMonteCarloLearner:
        """The learner of these hyper-parameters for an environment."""
        return OffPolicyMonteCarloLearner(self, spec, steps)


class OffPolicyMonteCarloLearner(ImportanceSampler, PredictionLearner):
    """Off-policy Monte Carlo prediction on a table."""

    begin = staticmethod(begin_prediction)
    learn = staticmethod(learn_prediction)

    def init(self, rng: torch.Generator) -> OffPolicyMonteCarloTable:
        """Tables before the first step.

        Raises:
            UsageError: a policy does not fit, or may take an action that the behavior never takes.
        """
        kept, behavior = super().init(rng), self.policy_table("behavior")
        uncovered = (kept.policy > 0) & (behavior == 0)
        if uncovered.any():
            state, action = uncovered.nonzero()[0].tolist()
            raise UsageError(
                f"OffPolicyMonteCarlo: the policy may take action {action} in state {state}, but the behavior"
                " never does"
            )
        return OffPolicyMonteCarloTable(
            weights=torch.zeros_like(kept.v),
            last_episode=torch.zeros_like(kept.visits),
            episode=EpisodeBuffer.empty(self.config, self.spec),
            behavior=behavior,
            **kept._asdict(),
        )

    def policy(self, state: OffPolicyMonteCarloTable, explore: bool) -> Tensor:
        """`[S, A]` float64: the behavior policy if `explore`, otherwise the policy that is evaluated."""
        return state.behavior if explore else state.policy


# ---------------------------------------------------------------------------------------------------- control
@inlined
def act_and_record_probability(config, table, obs, noise):
    """An epsilon-greedy action; its probability is stored in `table.action_probability`."""
    q, legal, epsilon = table.q[obs], table.legal[obs], epsilon_at(config, table.steps[()])
    action = act_epsilon_greedily(config, table, obs, noise)
    ties = actions = 0
    highest = max_q(q, legal)
    for other in range(len(q)):
        if legal[other]:
            actions += 1
            ties += q[other] == highest
    t = table.episode.length[()]
    if t < len(table.action_probability):
        table.action_probability[t] = epsilon / actions + (
            (1 - epsilon) / ties if q[action] == highest else 0.0
        )
    return action


@inlined
def begin_control(config, table, obs, noise):
    """Clear the previous episode, then act epsilon-greedily."""
    begin_episode(table.episode)
    return act_and_record_probability(config, table, obs, noise)


@inlined
def learn_control(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Store the step; at the end of the episode, update the means with its returns, weighted for the greedy
    policy."""
    episode = table.episode
    if not append_step(episode, obs, action, reward, table.last_episode[obs, action : action + 1]):
        return TABLE_FULL
    if terminated or (truncated and config.bootstraps):
        weight, return_ = 1.0, 0.0 if terminated else max_q(table.q[next_obs], table.legal[next_obs])
        for t in range(episode.length[()] - 1, -1, -1):
            s, a = episode.obs[t], episode.action[t]
            return_ = episode.reward[t] + config.gamma * return_
            if config.every_visit or episode.first[t]:
                table.visits[s, a] += 1
                add_to_mean(config, table.q[s, a : a + 1], table.weights[s, a : a + 1], return_, weight)
            weight = (
                weight / table.action_probability[t]
                if a == greedy_action(table.q[s], table.legal[s])
                else 0.0
            )
            if config.weighted and weight == 0.0:
                break
    return act_and_record_probability(config, table, next_obs, noise)


@inlined
def greedy_action(q, legal):
    """The first of the best legal actions."""
    chosen = -1
    for action in range(len(q)):
        if legal[action] and (chosen < 0 or q[action] > q[chosen]):
            chosen = action
    return chosen


class OffPolicyMonteCarloControlTable(NamedTuple):
    """The tables of `OffPolicyMonteCarloControl`."""

    q: Tensor  # [S, A] float64
    visits: Tensor  # [S, A] int64, visits that counted
    weights: Tensor  # [S, A] float64, sum of the visits' weights; with ordinary sampling, their number
    last_episode: Tensor  # [S, A] int64, the number of the last episode that visited the pair
    action_probability: Tensor  # [L] float64, of each action of the episode when it was taken
    episode: EpisodeBuffer
    legal: Tensor  # [S, A] bool
    steps: Tensor  # [] int64, environment steps


@dataclass(frozen=True)
class OffPolicyMonteCarloControl(ImportanceSampling, EpsilonGreedy):
    """Hyper-parameters of off-policy Monte Carlo control; by default every visit counts, as in the book.

    Keep epsilon above 0. In control, ordinary importance sampling has an unbounded variance: long episodes
    can give values that are wrong by orders of magnitude. Use `weighted`, except to study this effect.
    """

    visit: Literal["first", "every"] = "every"

    def build(self, spec: EnvSpec, steps: int | None = None) -> OffPolicyMonteCarloController:
        """The learner of these hyper-parameters for an environment; epsilon is scheduled over `steps`."""
        return OffPolicyMonteCarloController(self, spec, steps)


class OffPolicyMonteCarloController(ImportanceSampler):
    """Off-policy Monte Carlo control on a table."""

    begin = staticmethod(begin_control)
    learn = staticmethod(learn_control)

    def init(self, rng: torch.Generator) -> OffPolicyMonteCarloControlTable:
        """The tables before the first step."""
        episode = EpisodeBuffer.empty(self.config, self.spec)
        return OffPolicyMonteCarloControlTable(
            weights=self.full(0),
            last_episode=self.full(0, torch.int64),
            action_probability=torch.zeros_like(episode.reward),
            episode=episode,
            **super().init(rng)._asdict(),
        )
