"""R-max: unknown pairs have the highest possible value, so that the agent explores them until they are known.

A pair is known from its m-th visit on, and its model is what followed these m visits. Whenever a pair becomes
known,

    Q(s, a) = r(s, a) + gamma sum_s' p(s' | s, a) max_a' Q(s', a')          if (s, a) is known
    Q(s, a) = r_max / (1 - gamma)                                           if not

is solved again, and the agent always acts greedily by Q. So it either earns nearly the optimal reward, or
visits an unknown pair.

In the paper an unknown pair leads to a state that pays r_max forever, which has the same value. If every
reward is a cost, r_max is below zero, and the best possible episode is one such step: its value is r_max.

Source: Brafman and Tennenholtz (2002), "R-max - a general polynomial time algorithm for near-optimal
reinforcement learning", section 3; discounted as in Strehl, Li and Littman (2009), "Reinforcement learning in
finite MDPs: PAC analysis", algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bellgrad.core.errors import check_range
from bellgrad.core.records import EnvSpec
from bellgrad.tabular.common import TABLE_FULL, act_epsilon_greedily, inlined, numeric_fields
from bellgrad.tabular.counts import CountingLearner, Counts, Planning, count_step, plan

ALGORITHMS = {"r_max": "RMax"}


@inlined
def unknown_value(config, r_max):
    """The highest possible value of a pair."""
    return r_max / (1 - config.gamma) if r_max > 0.0 else r_max


@inlined
def learn(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Count the step if the pair is not known yet, plan if it becomes known, and act greedily."""
    counts = table.counts
    reward_is_larger = reward > table.r_max[()]
    if reward_is_larger:
        table.r_max[()] = reward
    became_known = False
    if counts.visits[obs, action] < config.known_visits:
        if not count_step(counts, obs, action, reward, next_obs, terminated):
            return TABLE_FULL
        became_known = counts.visits[obs, action] == config.known_visits
        if became_known:
            table.known_at[obs, action] = table.steps[()]
    if became_known or reward_is_larger:
        plan(
            config, table.q, table.legal, counts, config.known_visits, unknown_value(config, table.r_max[()])
        )
    return act_epsilon_greedily(config, table, next_obs, noise)


class RMaxTable(NamedTuple):
    """The tables of `RMax`."""

    q: Tensor  # [S, A] float64, from the last planning
    counts: Counts
    known_at: Tensor  # [S, A] int64, environment step at which the pair became known; -1 if it is not
    r_max: Tensor  # [] float64, the largest reward that was given or seen
    legal: Tensor  # [S, A] bool
    steps: Tensor  # [] int64, environment steps


@dataclass(frozen=True)
class RMax(Planning):
    """Hyper-parameters of R-max, which gives unknown pairs the highest possible value.

    Attributes:
        r_max: the largest reward per step. If a larger one is seen, it replaces this; one that is hard to
            reach may never be seen.
        known_visits: visits after which a pair is known, m in the paper; 1 is enough if the environment is
            deterministic.
    """

    r_max: float = 1.0
    known_visits: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, gamma=(0, 1 - 1e-9), r_max=(-1e12, 1e12), known_visits=(1, 1e9))

    def build(self, spec: EnvSpec, steps: int | None = None) -> RMaxLearner:
        """The learner of these hyper-parameters for an environment."""
        return RMaxLearner(self, spec, steps)


class RMaxLearner(CountingLearner):
    """R-max on a table."""

    learn = staticmethod(learn)

    def make_config_record(self, **derived: float) -> np.record:
        """What the compiled functions read as `config`; there is no epsilon."""
        return numeric_fields(
            self.config, epsilon_initial=0.0, epsilon_final=0.0, epsilon_steps=0.0, **derived
        )

    def init(self, rng: torch.Generator) -> RMaxTable:
        """The tables before the first step: no pair is known."""
        r_max = torch.tensor(self.config.r_max, dtype=torch.float64)
        q = self.full(unknown_value.py_func(self.config, self.config.r_max))
        return RMaxTable(
            q, self.empty_counts(), self.full(-1, torch.int64), r_max, self.legal(), torch.tensor(0)
        )

    def metrics(self, state: RMaxTable) -> dict[str, Tensor]:
        """The number of known pairs."""
        return {"known_pairs": (state.known_at >= 0).sum()}
