"""Monte Carlo: the value of a state, or of an action in it, is the mean of the returns that followed it.

    G_t = r_t + gamma G_{t+1}          backwards from the end of an episode
    V(s_t) <- V(s_t) + alpha_n (G_t - V(s_t))          alpha_n = 1/n at the n-th visit: the plain mean

and likewise for `Q(s_t, a_t)`. First-visit methods learn from the first visit that an episode pays to a
state, every-visit methods from all. Control acts epsilon-greedily by Q, or with exploring starts greedily,
after a first state and action of any kind; where an episode is cut off, the mean of Q under that policy
stands for what is missing.

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
    OUTGREW,
    EpsilonGreedy,
    Prediction,
    PredictionLearner,
    StepSize,
    behave,
    choose,
    draw,
    epsilon_at,
    expected,
    follow,
    inlined,
    step_size,
)
from bellgrad.tabular.episodes import Episode, EpisodeLearner, WholeEpisodes, begin_episode, remember

ALGORITHMS = {"monte_carlo": "MonteCarlo", "monte_carlo_control": "MonteCarloControl"}


@dataclass(frozen=True)
class MeanOfReturns(WholeEpisodes, StepSize):
    """Fields of both Monte Carlo learners: those of every step size, which is that of the plain mean unless
    said otherwise."""

    alpha: float = 1.0
    alpha_power: float = 1.0


# ------------------------------------------------------------------------------------------------- prediction
@inlined
def begin_prediction(config, table, obs, noise):
    """Forget the episode before, and follow the policy."""
    begin_episode(table.episode)
    return follow(config, table, obs, noise)


@inlined
def learn_prediction(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Note the step; at the end of the episode, take all its returns into their means."""
    episode = table.episode
    if not remember(episode, obs, action, reward, table.seen[obs : obs + 1]):
        return OUTGREW
    if terminated or (truncated and config.bootstraps):
        return_ = 0.0 if terminated else table.v[next_obs]
        for t in range(episode.length[()] - 1, -1, -1):
            return_ = episode.reward[t] + config.gamma * return_
            if config.every_visit or episode.first[t]:
                state = episode.obs[t]
                table.visits[state] += 1
                table.v[state] += step_size(config, table.visits[state]) * (return_ - table.v[state])
    return follow(config, table, next_obs, noise)


class MonteCarloTable(NamedTuple):
    """The tables of `MonteCarlo`."""

    v: Tensor  # [S] float64
    visits: Tensor  # [S] int64, those that counted
    seen: Tensor  # [S] int64, the number of the last episode that came here
    episode: Episode
    policy: Tensor  # [S, A] float64, rows are probabilities
    legal: Tensor  # [S, A] bool
    steps: Tensor  # [] int64, environment steps


@dataclass(frozen=True)
class MonteCarlo(MeanOfReturns, Prediction):
    """Hyper-parameters of Monte Carlo prediction: the value of a given policy."""

    def build(self, spec: EnvSpec, steps: int | None = None) -> MonteCarloLearner:
        """Join these hyper-parameters to an environment."""
        return MonteCarloLearner(self, spec, steps)


class MonteCarloLearner(EpisodeLearner, PredictionLearner):
    """Monte Carlo prediction on a table."""

    begin = staticmethod(begin_prediction)
    learn = staticmethod(learn_prediction)

    def init(self, rng: torch.Generator) -> MonteCarloTable:
        """Tables before the first step."""
        seen = torch.zeros(self.num_states, dtype=torch.int64)
        return MonteCarloTable(
            seen=seen, episode=Episode.empty(self.config, self.spec), **super().init(rng)._asdict()
        )


# ---------------------------------------------------------------------------------------------------- control
@inlined
def begin_control(config, table, obs, noise):
    """Forget the episode before; with exploring starts take any action, else act epsilon-greedily."""
    begin_episode(table.episode)
    if config.exploring_starts:
        return choose(table.q[obs], table.legal[obs], -np.inf, draw(noise))
    return behave(config, table, obs, noise)


@inlined
def learn_control(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Note the step; at the end of the episode, take all its returns into their means."""
    episode = table.episode
    if not remember(episode, obs, action, reward, table.seen[obs, action : action + 1]):
        return OUTGREW
    if terminated or (truncated and config.bootstraps):
        epsilon = epsilon_at(config, table.steps[()])
        return_ = 0.0 if terminated else expected(table.q[next_obs], table.legal[next_obs], epsilon)
        for t in range(episode.length[()] - 1, -1, -1):
            return_ = episode.reward[t] + config.gamma * return_
            if config.every_visit or episode.first[t]:
                s, a = episode.obs[t], episode.action[t]
                table.visits[s, a] += 1
                table.q[s, a] += step_size(config, table.visits[s, a]) * (return_ - table.q[s, a])
    return behave(config, table, next_obs, noise)


class MonteCarloControlTable(NamedTuple):
    """The tables of `MonteCarloControl`."""

    q: Tensor  # [S, A] float64
    visits: Tensor  # [S, A] int64, those that counted
    seen: Tensor  # [S, A] int64, the number of the last episode that did this here
    episode: Episode
    legal: Tensor  # [S, A] bool
    steps: Tensor  # [] int64, environment steps


@dataclass(frozen=True)
class MonteCarloControl(MeanOfReturns, EpsilonGreedy):
    """Hyper-parameters of Monte Carlo control.

    Attributes:
        exploring_starts: episodes begin in every state alike, with any action; from then on the best action
            is taken, and epsilon is 0. That needs known dynamics.
    """

    exploring_starts: bool = False

    def build(self, spec: EnvSpec, steps: int | None = None) -> MonteCarloController:
        """Join these hyper-parameters to an environment; `steps` is the horizon of the schedule of
        epsilon."""
        return MonteCarloController(self, spec, steps)


class MonteCarloController(EpisodeLearner):
    """Monte Carlo control on a table."""

    begin = staticmethod(begin_control)
    learn = staticmethod(learn_control)

    def __init__(self, config: MonteCarloControl, spec: EnvSpec, steps: int | None = None):
        super().__init__(config, spec, steps)
        self.exploring_starts = config.exploring_starts

    def make_numbers(self, **derived: float) -> np.record:
        """What the compiled functions read as `config`."""
        if self.config.exploring_starts:
            derived |= {"epsilon_initial": 0.0, "epsilon_final": 0.0}
        return super().make_numbers(**derived)

    def init(self, rng: torch.Generator) -> MonteCarloControlTable:
        """Tables before the first step."""
        seen = self.full(0, torch.int64)
        return MonteCarloControlTable(
            seen=seen, episode=Episode.empty(self.config, self.spec), **super().init(rng)._asdict()
        )
