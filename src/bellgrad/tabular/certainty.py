"""Certainty equivalence: count what follows each pair, and plan regularly as if the counts were exact.

    r(s, a) = mean reward after (s, a)        p(s' | s, a) = n(s, a, s') / n(s, a)
    Q(s, a) <- r(s, a) + gamma sum_s' p(s' | s, a) max_a' Q(s', a')          until it converges

This is the best plan for the maximum-likelihood model, which may be wrong about pairs with few visits.

Source: Kumar and Varaiya (1986), "Stochastic Systems", chapter 8 (certainty equivalence); Sutton and Barto
(2018), section 6.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bellgrad.core.errors import check_range
from bellgrad.core.records import EnvSpec
from bellgrad.tabular.common import TABLE_FULL, EpsilonGreedy, act_epsilon_greedily, inlined
from bellgrad.tabular.counts import CountingLearner, Counts, Planning, count_step, plan

ALGORITHMS = {"certainty_equivalence": "CertaintyEquivalence"}


@inlined
def learn(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Count the step, plan if it is time to, and act epsilon-greedily."""
    if not count_step(table.counts, obs, action, reward, next_obs, terminated):
        return TABLE_FULL
    if table.steps[()] % config.plan_period == 0:
        plan(config, table.q, table.legal, table.counts, 1, config.initial_value)
    return act_epsilon_greedily(config, table, next_obs, noise)


class CertaintyTable(NamedTuple):
    """The tables of `CertaintyEquivalence`."""

    q: Tensor  # [S, A] float64, from the last planning
    counts: Counts
    legal: Tensor  # [S, A] bool
    steps: Tensor  # [] int64, environment steps


@dataclass(frozen=True)
class CertaintyEquivalence(Planning, EpsilonGreedy):
    """Hyper-parameters of certainty-equivalent control: plan as if the counts so far were exact.

    Attributes:
        plan_period: environment steps from one planning to the next.
    """

    plan_period: int = 1_000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, plan_period=(1, 1e15))

    def build(self, spec: EnvSpec, steps: int | None = None) -> CertaintyEquivalenceLearner:
        """The learner of these hyper-parameters for an environment; epsilon is scheduled over `steps`."""
        return CertaintyEquivalenceLearner(self, spec, steps)


class CertaintyEquivalenceLearner(CountingLearner):
    """Certainty-equivalent control on a table."""

    learn = staticmethod(learn)

    def init(self, rng: torch.Generator) -> CertaintyTable:
        """The tables before the first step."""
        return CertaintyTable(
            self.full(self.config.initial_value), self.empty_counts(), self.legal(), torch.tensor(0)
        )
