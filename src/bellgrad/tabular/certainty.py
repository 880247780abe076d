"""Certainty equivalence: count what follows each pair, and now and then plan as if the counts were the world.

    r(s, a) = mean reward after (s, a)        p(s' | s, a) = n(s, a, s') / n(s, a)
    Q(s, a) <- r(s, a) + gamma sum_s' p(s' | s, a) max_a' Q(s', a')          until it stands still

the best plan for the likeliest model, which may be wrong about what was tried rarely.

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
from bellgrad.tabular.common import OUTGREW, EpsilonGreedy, behave, inlined
from bellgrad.tabular.counts import CountingLearner, Counts, Planning, count, plan

ALGORITHMS = {"certainty_equivalence": "CertaintyEquivalence"}


@inlined
def learn(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Count the step, plan where it is time to, and act epsilon-greedily."""
    if not count(table.counts, obs, action, reward, next_obs, terminated):
        return OUTGREW
    if table.steps[()] % config.plan_period == 0:
        plan(config, table.q, table.legal, table.counts, 1, config.initial_value)
    return behave(config, table, next_obs, noise)


class CertaintyTable(NamedTuple):
    """The tables of `CertaintyEquivalence`."""

    q: Tensor  # [S, A] float64, of the last plan
    counts: Counts
    legal: Tensor  # [S, A] bool
    steps: Tensor  # [] int64, environment steps


@dataclass(frozen=True)
class CertaintyEquivalence(Planning, EpsilonGreedy):
    """Hyper-parameters of certainty-equivalent control: plan as if the counts so far were the truth.

    Attributes:
        plan_period: environment steps from one planning to the next.
    """

    plan_period: int = 1_000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, plan_period=(1, 1e15))

    def build(self, spec: EnvSpec, steps: int | None = None) -> CertaintyEquivalenceLearner:
        """Join these hyper-parameters to an environment; `steps` is the horizon of the schedule of
        epsilon."""
        return CertaintyEquivalenceLearner(self, spec, steps)


class CertaintyEquivalenceLearner(CountingLearner):
    """Certainty-equivalent control on a table."""

    learn = staticmethod(learn)

    def init(self, rng: torch.Generator) -> CertaintyTable:
        """Tables before the first step."""
        return CertaintyTable(
            self.full(self.config.initial_value), self.counts(), self.legal(), torch.tensor(0)
        )
