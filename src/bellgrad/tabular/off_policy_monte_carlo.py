"""Off-policy Monte Carlo: the value of one policy from the returns of another, weighted by how much likelier
they would be.

    rho_t = prod_{k >= t} pi(a_k | s_k) / b(a_k | s_k)          to the end of the episode
    ordinary:  V(s) = mean of rho_t G_t          unbiased; its variance may be infinite
    weighted:  V(s) = sum of rho_t G_t / sum of rho_t          biased, and consistent; far less variance

over the visits t to s, where G_t is the return. Control learns Q of the greedy policy while it acts
epsilon-greedily; the weight of Q(s_t, a_t) is rho_{t+1}, so that only the end of an episode, from its last
action that is not greedy on, teaches anything. Where an episode is cut off, the present estimate stands for
what is missing.

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
    OUTGREW,
    EpsilonGreedy,
    Prediction,
    PredictionLearner,
    as_rows,
    behave,
    best,
    draw,
    epsilon_at,
    inlined,
    sample,
)
from bellgrad.tabular.episodes import Episode, EpisodeLearner, WholeEpisodes, begin_episode, remember

ALGORITHMS = {
    "off_policy_monte_carlo": "OffPolicyMonteCarlo",
    "off_policy_monte_carlo_control": "OffPolicyMonteCarloControl",
}


@dataclass(frozen=True)
class ImportanceSampling(WholeEpisodes):
    """Fields of both off-policy learners.

    Attributes:
        weighting: `weighted` or `ordinary` importance sampling.
    """

    weighting: Literal["weighted", "ordinary"] = "weighted"


class ImportanceSampler(EpisodeLearner):
    """Either off-policy learner."""

    config: ImportanceSampling

    def make_numbers(self, **derived: float) -> np.record:
        """What the compiled functions read as `config`."""
        return super().make_numbers(weighted=self.config.weighting == "weighted", **derived)


@inlined
def take_in(config, mean, weights, return_, weight):
    """Take a return into a mean; `mean [1]` and `weights [1]`, the sum of the weights or the number of
    returns, are views."""
    if config.weighted:
        weights[0] += weight
        mean[0] += weight / weights[0] * (return_ - mean[0])
    else:
        weights[0] += 1.0
        mean[0] += (weight * return_ - mean[0]) / weights[0]


# ------------------------------------------------------------------------------------------------- prediction
@inlined
def begin_prediction(config, table, obs, noise):
    """Forget the episode before, and follow the behavior."""
    begin_episode(table.episode)
    return sample(table.behavior[obs], draw(noise))


@inlined
def learn_prediction(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Note the step; at the end of the episode, take all its weighted returns into their means."""
    episode = table.episode
    if not remember(episode, obs, action, reward, table.seen[obs : obs + 1]):
        return OUTGREW
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
                take_in(config, table.v[s : s + 1], table.weights[s : s + 1], return_, weight)
    return sample(table.behavior[next_obs], draw(noise))


class OffPolicyMonteCarloTable(NamedTuple):
    """The tables of `OffPolicyMonteCarlo`."""

    v: Tensor  # [S] float64
    visits: Tensor  # [S] int64, those that counted
    weights: Tensor  # [S] float64, the sum of their weights; with ordinary sampling, their number
    seen: Tensor  # [S] int64, the number of the last episode that came here
    episode: Episode
    behavior: Tensor  # [S, A] float64, rows are probabilities
    policy: Tensor  # [S, A] float64, rows are probabilities
    legal: Tensor  # [S, A] bool
    steps: Tensor  # [] int64, environment steps


@dataclass(frozen=True)
class OffPolicyMonteCarlo(ImportanceSampling, Prediction):
    """Hyper-parameters of off-policy Monte Carlo prediction: the value of `policy` while `behavior` acts.

    Attributes:
        behavior: what acts: `uniform` over the legal actions, or a row of probabilities for each state,
            `[S][A]`. It must do now and then whatever `policy` does.
    """

    behavior: Literal["uniform"] | tuple[tuple[float, ...], ...] = field(
        default="uniform", metadata={"formerly": "behaviour"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "behavior", as_rows("behavior", self.behavior))

    def build(self, spec: EnvSpec, steps: int | None = None) -> OffPolicyMonteCarloLearner:
        """Join these hyper-parameters to an environment."""
        return OffPolicyMonteCarloLearner(self, spec, steps)


class OffPolicyMonteCarloLearner(ImportanceSampler, PredictionLearner):
    """Off-policy Monte Carlo prediction on a table."""

    begin = staticmethod(begin_prediction)
    learn = staticmethod(learn_prediction)

    def init(self, rng: torch.Generator) -> OffPolicyMonteCarloTable:
        """Tables before the first step.

        Raises:
            UsageError: a policy that does not fit, or one that does what the behavior never does.
        """
        kept, behavior = super().init(rng), self.probabilities("behavior")
        uncovered = (kept.policy > 0) & (behavior == 0)
        if uncovered.any():
            state, action = uncovered.nonzero()[0].tolist()
            raise UsageError(
                f"OffPolicyMonteCarlo: the policy may take action {action} in state {state}, the behavior"
                " never does"
            )
        return OffPolicyMonteCarloTable(
            weights=torch.zeros_like(kept.v),
            seen=torch.zeros_like(kept.visits),
            episode=Episode.empty(self.config, self.spec),
            behavior=behavior,
            **kept._asdict(),
        )

    def policy(self, state: OffPolicyMonteCarloTable, explore: bool) -> Tensor:
        """`[S, A]` float64: the behavior where it explores, else the policy that is evaluated."""
        return state.behavior if explore else state.policy


# ---------------------------------------------------------------------------------------------------- control
@inlined
def act_and_note(config, table, obs, noise):
    """An epsilon-greedy action, and the chance that it had, in `table.chance`."""
    q, legal, epsilon = table.q[obs], table.legal[obs], epsilon_at(config, table.steps[()])
    action = behave(config, table, obs, noise)
    ties = actions = 0
    highest = best(q, legal)
    for other in range(len(q)):
        if legal[other]:
            actions += 1
            ties += q[other] == highest
    t = table.episode.length[()]
    if t < len(table.chance):
        table.chance[t] = epsilon / actions + ((1 - epsilon) / ties if q[action] == highest else 0.0)
    return action


@inlined
def begin_control(config, table, obs, noise):
    """Forget the episode before, and act epsilon-greedily."""
    begin_episode(table.episode)
    return act_and_note(config, table, obs, noise)


@inlined
def learn_control(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Note the step; at the end of the episode, take in its returns, weighted for the greedy policy."""
    episode = table.episode
    if not remember(episode, obs, action, reward, table.seen[obs, action : action + 1]):
        return OUTGREW
    if terminated or (truncated and config.bootstraps):
        weight, return_ = 1.0, 0.0 if terminated else best(table.q[next_obs], table.legal[next_obs])
        for t in range(episode.length[()] - 1, -1, -1):
            s, a = episode.obs[t], episode.action[t]
            return_ = episode.reward[t] + config.gamma * return_
            if config.every_visit or episode.first[t]:
                table.visits[s, a] += 1
                take_in(config, table.q[s, a : a + 1], table.weights[s, a : a + 1], return_, weight)
            weight = weight / table.chance[t] if a == first_best(table.q[s], table.legal[s]) else 0.0
            if config.weighted and weight == 0.0:
                break
    return act_and_note(config, table, next_obs, noise)


@inlined
def first_best(q, legal):
    """The first of the best legal actions: a greedy policy needs no dice."""
    chosen = -1
    for action in range(len(q)):
        if legal[action] and (chosen < 0 or q[action] > q[chosen]):
            chosen = action
    return chosen


class OffPolicyMonteCarloControlTable(NamedTuple):
    """The tables of `OffPolicyMonteCarloControl`."""

    q: Tensor  # [S, A] float64
    visits: Tensor  # [S, A] int64, those that counted
    weights: Tensor  # [S, A] float64, the sum of their weights; with ordinary sampling, their number
    seen: Tensor  # [S, A] int64, the number of the last episode that did this here
    chance: Tensor  # [L] float64, with which each action of the episode was taken
    episode: Episode
    legal: Tensor  # [S, A] bool
    steps: Tensor  # [] int64, environment steps


@dataclass(frozen=True)
class OffPolicyMonteCarloControl(ImportanceSampling, EpsilonGreedy):
    """Hyper-parameters of off-policy Monte Carlo control; as in the book, every visit counts.

    Epsilon is best kept above 0. Ordinary importance sampling has an unbounded variance in control: long
    episodes can bring values that are off by orders of magnitude, so that `weighted` is what to use but for
    study.
    """

    visit: Literal["first", "every"] = "every"

    def build(self, spec: EnvSpec, steps: int | None = None) -> OffPolicyMonteCarloController:
        """Join these hyper-parameters to an environment; `steps` is the horizon of the schedule of
        epsilon."""
        return OffPolicyMonteCarloController(self, spec, steps)


class OffPolicyMonteCarloController(ImportanceSampler):
    """Off-policy Monte Carlo control on a table."""

    begin = staticmethod(begin_control)
    learn = staticmethod(learn_control)

    def init(self, rng: torch.Generator) -> OffPolicyMonteCarloControlTable:
        """Tables before the first step."""
        episode = Episode.empty(self.config, self.spec)
        return OffPolicyMonteCarloControlTable(
            weights=self.full(0),
            seen=self.full(0, torch.int64),
            chance=torch.zeros_like(episode.reward),
            episode=episode,
            **super().init(rng)._asdict(),
        )
