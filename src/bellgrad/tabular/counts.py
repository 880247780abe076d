"""What the learners share that count what follows each pair, and plan as if the counts were exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from numba import njit
from torch import Tensor

from bellgrad.core.errors import check_range
from bellgrad.tabular.common import Tabular, TabularLearner, max_q


@dataclass(frozen=True)
class Planning(Tabular):
    """Fields of the learners that plan on counts.

    Attributes:
        plan_tolerance: planning stops when a sweep changes no value by more than this. With gamma below 1 the
            values are then within `gamma / (1 - gamma)` times this of the model's exact values.
        plan_sweeps: most sweeps per planning; the next planning continues from there.
        max_successors: most different states that can follow one pair.
    """

    plan_tolerance: float = 1e-6
    plan_sweeps: int = 1_000
    max_successors: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, plan_tolerance=(0, 1e12), plan_sweeps=(1, 1e9), max_successors=(1, 1e9))


class Counts(NamedTuple):
    """What followed each pair. `K` is the number of successors that there is room for."""

    visits: Tensor  # [S, A] int64
    reward: Tensor  # [S, A] float64, mean reward
    successor: Tensor  # [S, A, K] int64, in the order in which they were first seen
    times: Tensor  # [S, A, K] int64, without those that ended the episode; 0 if no successor yet

    @classmethod
    def empty(cls, num_states: int, num_actions: int, max_successors: int) -> Counts:
        """The counts before the first step."""
        visits = torch.zeros(num_states, num_actions, dtype=torch.int64)
        successor = visits.unsqueeze(-1).repeat(1, 1, min(max_successors, num_states))
        return cls(visits, visits.double(), successor, successor.clone())


@njit
def count_step(counts, obs, action, reward, next_obs, terminated):
    """Count one step; False if there is no room for another successor."""
    counts.visits[obs, action] += 1
    counts.reward[obs, action] += (reward - counts.reward[obs, action]) / counts.visits[obs, action]
    if terminated:
        return True
    successor, times = counts.successor[obs, action], counts.times[obs, action]
    for k in range(len(times)):
        if times[k] == 0 or successor[k] == next_obs:
            successor[k] = next_obs
            times[k] += 1
            return True
    return False


@njit
def plan(config, q, legal, counts, min_visits, unknown_value):
    """Value iteration in place on the counted model; a pair with fewer than `min_visits` visits has the
    value `unknown_value`."""
    num_states, num_actions = q.shape
    for _ in range(config.plan_sweeps):
        change = 0.0
        for s in range(num_states):
            for a in range(num_actions):
                if legal[s, a]:
                    value = (
                        backup(config, q, legal, counts, s, a)
                        if counts.visits[s, a] >= min_visits
                        else unknown_value
                    )
                    change = max(change, abs(value - q[s, a]))
                    q[s, a] = value
        if change <= config.plan_tolerance:
            break


@njit
def backup(config, q, legal, counts, s, a):
    """`r + gamma sum_s' p(s') max_a' q(s', a')` of the counted model."""
    following = 0.0
    for successor, times in zip(counts.successor[s, a], counts.times[s, a]):  # noqa: B905 - `strict` does not compile
        if times == 0:
            break
        following += times * max_q(q[successor], legal[successor])
    return counts.reward[s, a] + config.gamma * following / counts.visits[s, a]


class CountingLearner(TabularLearner):
    """A learner that counts what follows each pair."""

    config: Planning

    def empty_counts(self) -> Counts:
        """The counts before the first step."""
        return Counts.empty(self.num_states, self.num_actions, self.config.max_successors)

    def table_full_message(self) -> str:
        """What to do if a pair leads to more states than there is room for."""
        return (
            f"an action of {self.spec.id} leads to more than {self.config.max_successors} states: raise"
            " max_successors"
        )
