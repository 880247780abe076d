"""Double Q-learning: each of two tables evaluates the action that the other finds best, so that noise does
not raise the values.

    a* = argmax_a' Q_1(s', a')
    Q_1(s, a) <- Q_1(s, a) + alpha (r + gamma Q_2(s', a*) - Q_1(s, a))

where 1 is one of the two tables, drawn with equal probability at each step. It acts by their mean.

Source: van Hasselt (2010), algorithm 1; Sutton and Barto (2018), section 6.7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bellgrad.core.records import EnvSpec
from bellgrad.core.tree import Tree
from bellgrad.tabular.common import (
    Control,
    TabularLearner,
    act_epsilon_greedily,
    epsilon_greedy,
    inlined,
    next_uniform,
    step_size,
)

ALGORITHMS = {"double_q_learning": "DoubleQLearning"}


class DoubleQTable(NamedTuple):
    """Two tables and their mean."""

    q: Tensor  # [S, A] float64, the mean
    halves: Tensor  # [2, S, A] float64
    visits: Tensor  # [2, S, A] int64, updates of each table
    legal: Tensor  # [S, A] bool
    steps: Tensor  # [] int64, environment steps; the sampler increments it


@inlined
def learn(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Move one of the tables, then act epsilon-greedily by the mean."""
    one = int(2 * next_uniform(noise))
    two = 1 - one
    following = 0.0
    if not terminated:
        best_action = epsilon_greedy(
            table.halves[one, next_obs], table.legal[next_obs], 0.0, next_uniform(noise)
        )
        following = table.halves[two, next_obs, best_action]
    target = reward + config.gamma * following
    table.visits[one, obs, action] += 1
    table.halves[one, obs, action] += step_size(config, table.visits[one, obs, action]) * (
        target - table.halves[one, obs, action]
    )
    table.q[obs, action] = (table.halves[0, obs, action] + table.halves[1, obs, action]) / 2
    return act_epsilon_greedily(config, table, next_obs, noise)


@dataclass(frozen=True)
class DoubleQLearning(Control):
    """Hyper-parameters of double Q-learning, for discrete observations and actions."""

    def build(self, spec: EnvSpec, steps: int | None = None) -> DoubleQLearner:
        """The learner of these hyper-parameters for an environment; epsilon is scheduled over `steps`."""
        return DoubleQLearner(self, spec, steps)


class DoubleQLearner(TabularLearner):
    """Double Q-learning on two tables."""

    learn = staticmethod(learn)
    max_draws = 3  # which table, a tie in its best action, the next action

    def init(self, rng: torch.Generator) -> Tree:
        """Both tables before the first step."""
        q = self.full(self.config.initial_value)
        return DoubleQTable(
            q, torch.stack([q, q]), torch.zeros(2, *q.shape, dtype=torch.int64), self.legal(), torch.tensor(0)
        )
