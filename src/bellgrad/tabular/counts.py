"""What the learners share that count what follows each pair, and plan on the counts as if they were the
world."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from numba import njit
from torch import Tensor

from bellgrad.core.errors import check_range
from bellgrad.tabular.common import Tabular, TabularLearner, best


@dataclass(frozen=True)
class Planning(Tabular):
    """Fields of the learners that plan on counts.

    Attributes:
        plan_tolerance: planning ends with a sweep that changes no value by more; at gamma below 1 they are
            then within `gamma / (1 - gamma)` times this of the model's own.
        plan_sweeps: sweeps after which it ends anyhow; the next planning goes on from there.
        max_successors: different states for which there is room, after each pair.
    """

    plan_tolerance: float = 1e-6
    plan_sweeps: int = 1_000
    max_successors: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, plan_tolerance=(0, 1e12), plan_sweeps=(1, 1e9), max_successors=(1, 1e9))


class Counts(NamedTuple):
    """What followed each pair. `K` is the most successors that there is room for."""

    visits: Tensor  # [S, A] int64
    reward: Tensor  # [S, A] float64, the mean
    successor: Tensor  # [S, A, K] int64, in the order in which they were first seen
    times: Tensor  # [S, A, K] int64, without those that ended the episode; 0 where there is no successor yet

    @classmethod
    def none(cls, num_states: int, num_actions: int, most: int) -> Counts:
        """Nothing was seen yet."""
        visits = torch.zeros(num_states, num_actions, dtype=torch.int64)
        successor = visits.unsqueeze(-1).repeat(1, 1, min(most, num_states))
        return cls(visits, visits.double(), successor, successor.clone())


@njit
def count(counts, obs, action, reward, next_obs, terminated):
    """Take in one step; False where there is no room for another successor."""
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
def plan(config, q, legal, counts, enough, otherwise):
    """Value iteration in place on the counted model: a pair of fewer visits than `enough` is worth
    `otherwise`."""
    num_states, num_actions = q.shape
    for _ in range(config.plan_sweeps):
        change = 0.0
        for s in range(num_states):
            for a in range(num_actions):
                if legal[s, a]:
                    value = (
                        backup(config, q, legal, counts, s, a) if counts.visits[s, a] >= enough else otherwise
                    )
                    change = max(change, abs(value - q[s, a]))
                    q[s, a] = value
        if change <= config.plan_tolerance:
            break


@njit
def backup(config, q, legal, counts, s, a):
    """`r + gamma sum_s' p(s') max_a' q(s', a')` of the counted model."""
    following = 0.0
    for successor, times in zip(counts.successor[s, a], counts.times[s, a]):  # noqa: B905 - compiled code knows no `strict`
        if times == 0:
            break
        following += times * best(q[successor], legal[successor])
    return counts.reward[s, a] + config.gamma * following / counts.visits[s, a]


class CountingLearner(TabularLearner):
    """A learner that counts what follows each pair."""

    config: Planning

    def counts(self) -> Counts:
        """Nothing was seen yet."""
        return Counts.none(self.num_states, self.num_actions, self.config.max_successors)

    def outgrown(self) -> str:
        """What to do where a pair leads to more states than there is room for."""
        return (
            f"an action of {self.spec.id} leads to more than {self.config.max_successors} states: raise"
            " max_successors"
        )
