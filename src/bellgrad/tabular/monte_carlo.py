"""Monte Carlo: the value of a state, or of a state-action pair, is the mean of the returns that followed it.

    G_t = r_t + gamma G_{t+1}          backwards from the end of an episode
    V(s_t) <- V(s_t) + alpha_n (G_t - V(s_t))          alpha_n = 1/n at the n-th visit: the plain mean

and likewise for `Q(s_t, a_t)`. First-visit methods learn from the first visit to a state in each episode,
every-visit methods from all visits. Control acts epsilon-greedily by Q. With exploring starts the first state
and action are uniformly random, and the actions after that are greedy. If an episode is truncated, the rest
of its return is estimated by the value of the last state: in control, the mean of Q under the policy.

Source: Sutton and Barto (2018), sections 5.1 (prediction), 5.3 (exploring starts) and 5.4 (epsilon-greedy
control).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bellgrad.core.records import EnvSpec
from bellgrad.tabular.common import (
    TABLE_FULL,
    EpsilonGreedy,
    Prediction,
    PredictionLearner,
    StepSize,
    act_by_policy,
    act_epsilon_greedily,
    epsilon_at,
    expected_q,
    inlined,
    next_uniform,
    random_action_at_least,
    step_size,
)
from bellgrad.tabular.episodes import (
    EpisodeBuffer,
    EpisodeBufferLearner,
    MonteCarloFields,
    append_step,
    begin_episode,
)

ALGORITHMS = {"monte_carlo": "MonteCarlo", "monte_carlo_control": "MonteCarloControl"}


@dataclass(frozen=True)
class MeanOfReturns(MonteCarloFields, StepSize):
    """Fields of both Monte Carlo learners. The default step size gives the plain mean."""

    alpha: float = 1.0
    alpha_power: float = 1.0


# ------------------------------------------------------------------------------------------------- prediction
@inlined
def begin_prediction(config, table, obs, noise):
    """Clear the previous episode, then act by the policy."""
    begin_episode(table.episode)
    return act_by_policy(config, table, obs, noise)


@inlined
def learn_prediction(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Store the step; at the end of the episode, update the means with its returns."""
    episode = table.episode
    if not append_step(episode, obs, action, reward, table.last_episode[obs : obs + 1]):
        return TABLE_FULL
    if terminated or (truncated and config.bootstraps):
        return_ = 0.0 if terminated else table.v[next_obs]
        for t in range(episode.length[()] - 1, -1, -1):
            return_ = episode.reward[t] + config.gamma * return_
            if config.every_visit or episode.first[t]:
                state = episode.obs[t]
                table.visits[state] += 1
                table.v[state] += step_size(config, table.visits[state]) * (return_ - table.v[state])
    return act_by_policy(config, table, next_obs, noise)


class MonteCarloTable(NamedTuple):
    """The tables of `MonteCarlo`."""

    v: Tensor  # [S] float64
    visits: Tensor  # [S] int64, visits that counted
    last_episode: Tensor  # [S] int64, the number of the last episode that visited the state
    episode: EpisodeBuffer
    policy: Tensor  # [S, A] float64, rows are probabilities
    legal: Tensor  # [S, A] bool
    steps: Tensor  # [] int64, environment steps


@dataclass(frozen=True)
class MonteCarlo(MeanOfReturns, Prediction):
    """Hyper-parameters of Monte Carlo prediction: the value of a given policy."""

    def build(self, spec: EnvSpec, steps: int | None = None) -> MonteCarloLearner:
        """The learner of these hyper-parameters for an environment."""
        return MonteCarloLearner(self, spec, steps)


class MonteCarloLearner(EpisodeBufferLearner, PredictionLearner):
    """Monte Carlo prediction on a table."""

    begin = staticmethod(begin_prediction)
    learn = staticmethod(learn_prediction)

    def init(self, rng: torch.Generator) -> MonteCarloTable:
        """The tables before the first step."""
        last_episode = torch.zeros(self.num_states, dtype=torch.int64)
        return MonteCarloTable(
            last_episode=last_episode,
            episode=EpisodeBuffer.empty(self.config, self.spec),
            **super().init(rng)._asdict(),
        )


# ---------------------------------------------------------------------------------------------------- control
@inlined
def begin_control(config, table, obs, noise):
    """Clear the previous episode, then act: randomly with exploring starts, otherwise epsilon-greedily."""
    begin_episode(table.episode)
    if config.exploring_starts:
        return random_action_at_least(table.q[obs], table.legal[obs], -np.inf, next_uniform(noise))
    return act_epsilon_greedily(config, table, obs, noise)


@inlined
def learn_control(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Store the step; at the end of the episode, update the means with its returns."""
    episode = table.episode
    if not append_step(episode, obs, action, reward, table.last_episode[obs, action : action + 1]):
        return TABLE_FULL
    if terminated or (truncated and config.bootstraps):
        epsilon = epsilon_at(config, table.steps[()])
        return_ = 0.0 if terminated else expected_q(table.q[next_obs], table.legal[next_obs], epsilon)
        for t in range(episode.length[()] - 1, -1, -1):
            return_ = episode.reward[t] + config.gamma * return_
            if config.every_visit or episode.first[t]:
                s, a = episode.obs[t], episode.action[t]
                table.visits[s, a] += 1
                table.q[s, a] += step_size(config, table.visits[s, a]) * (return_ - table.q[s, a])
    return act_epsilon_greedily(config, table, next_obs, noise)


class MonteCarloControlTable(NamedTuple):
    """The tables of `MonteCarloControl`."""

    q: Tensor  # [S, A] float64
    visits: Tensor  # [S, A] int64, visits that counted
    last_episode: Tensor  # [S, A] int64, the number of the last episode that visited the pair
    episode: EpisodeBuffer
    legal: Tensor  # [S, A] bool
    steps: Tensor  # [] int64, environment steps


@dataclass(frozen=True)
class MonteCarloControl(MeanOfReturns, EpsilonGreedy):
    """Hyper-parameters of Monte Carlo control.

    Attributes:
        exploring_starts: episodes begin in a uniformly random state with a uniformly random action; later
            actions are greedy, with epsilon 0. This needs known dynamics.
    """

    exploring_starts: bool = False

    def build(self, spec: EnvSpec, steps: int | None = None) -> MonteCarloController:
        """The learner of these hyper-parameters for an environment; epsilon is scheduled over `steps`."""
        return MonteCarloController(self, spec, steps)


class MonteCarloController(EpisodeBufferLearner):
    """Monte Carlo control on a table."""

    begin = staticmethod(begin_control)
    learn = staticmethod(learn_control)

    def __init__(self, config: MonteCarloControl, spec: EnvSpec, steps: int | None = None):
        super().__init__(config, spec, steps)
        self.exploring_starts = config.exploring_starts

    def make_config_record(self, **derived: float) -> np.record:
        """What the compiled functions read as `config`."""
        if self.config.exploring_starts:
            derived |= {"epsilon_initial": 0.0, "epsilon_final": 0.0}
        return super().make_config_record(**derived)

    def init(self, rng: torch.Generator) -> MonteCarloControlTable:
        """The tables before the first step."""
        last_episode = self.full(0, torch.int64)
        return MonteCarloControlTable(
            last_episode=last_episode,
            episode=EpisodeBuffer.empty(self.config, self.spec),
            **super().init(rng)._asdict(),
        )
