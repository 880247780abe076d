"""R-max: what is not known is paradise, so that the agent goes there, until it is known.

A pair is known from its m-th visit on, and its model is what followed these m. Every other pair leads to
utopia: a big reward, that of the best imaginable life, and the end. Whenever a pair becomes known,

    Q(s, a) = r(s, a) + gamma sum_s' p(s' | s, a) max_a' Q(s', a')          if (s, a) is known
    Q(s, a) = r_max / (1 - gamma)                                           if not

is solved anew, and the agent always acts greedily by it: it either earns nearly the most, or finds out
something.

The paper's utopia is a state that pays r_max for ever, which is worth the same. Where every reward is a cost,
r_max is below zero, and the best life is one such step and the end: r_max itself.

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
from bellgrad.tabular.common import OUTGREW, behave, inlined, numbers
from bellgrad.tabular.counts import CountingLearner, Counts, Planning, count, plan

ALGORITHMS = {"r_max": "RMax"}


@inlined
def utopia(config, r_max):
    """The most that an episode can be worth."""
    return r_max / (1 - config.gamma) if r_max > 0.0 else r_max


@inlined
def learn(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Count the step where the pair is not known yet, plan where one becomes known, and act greedily."""
    counts = table.counts
    surprised = reward > table.r_max[()]
    if surprised:
        table.r_max[()] = reward
    learned = False
    if counts.visits[obs, action] < config.known_visits:
        if not count(counts, obs, action, reward, next_obs, terminated):
            return OUTGREW
        learned = counts.visits[obs, action] == config.known_visits
        if learned:
            table.known_at[obs, action] = table.steps[()]
    if learned or surprised:
        plan(config, table.q, table.legal, counts, config.known_visits, utopia(config, table.r_max[()]))
    return behave(config, table, next_obs, noise)


class RMaxTable(NamedTuple):
    """The tables of `RMax`."""

    q: Tensor  # [S, A] float64, of the last plan
    counts: Counts
    known_at: Tensor  # [S, A] int64, the environment step at which the pair became known; -1 where it is not
    r_max: Tensor  # [] float64, the largest reward that was named or seen
    legal: Tensor  # [S, A] bool
    steps: Tensor  # [] int64, environment steps


@dataclass(frozen=True)
class RMax(Planning):
    """Hyper-parameters of R-max: what is not known is paradise, until it is known.

    Attributes:
        r_max: the largest reward of a step. A larger one that is seen takes its place; if it is far away, it
            may never be seen.
        known_visits: after how many a pair is known, m in the paper: 1 is enough where nothing is random.
    """

    r_max: float = 1.0
    known_visits: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, gamma=(0, 1 - 1e-9), r_max=(-1e12, 1e12), known_visits=(1, 1e9))

    def build(self, spec: EnvSpec, steps: int | None = None) -> RMaxLearner:
        """Join these hyper-parameters to an environment."""
        return RMaxLearner(self, spec, steps)


class RMaxLearner(CountingLearner):
    """R-max on a table."""

    learn = staticmethod(learn)

    def make_numbers(self, **derived: float) -> np.record:
        """What the compiled functions read as `config`; there is no epsilon."""
        return numbers(self.config, epsilon_initial=0.0, epsilon_final=0.0, epsilon_steps=0.0, **derived)

    def init(self, rng: torch.Generator) -> RMaxTable:
        """Tables before the first step: nothing is known."""
        r_max = torch.tensor(self.config.r_max, dtype=torch.float64)
        q = self.full(utopia.py_func(self.config, self.config.r_max))
        return RMaxTable(q, self.counts(), self.full(-1, torch.int64), r_max, self.legal(), torch.tensor(0))

    def metrics(self, state: RMaxTable) -> dict[str, Tensor]:
        """How many pairs are known."""
        return {"known_pairs": (state.known_at >= 0).sum()}
