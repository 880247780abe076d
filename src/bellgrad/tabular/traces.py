"""Eligibility traces: how much each entry of a table is to blame for the present error.

Only entries with a trace are touched at a step, so that a step costs what the trace is long and not what the
table is large. A trace holds its step size: an error of 1 moves an entry by its trace.

    accumulating  e(s) <- e(s) + alpha
    replacing     e(s) <- alpha
    dutch         e(s) <- (1 - alpha) e(s) + alpha

where s is visited, after all have decayed by gamma lambda. With Dutch traces the update is that of true
online TD(lambda), which equals the online lambda-return exactly.

Source: Sutton and Barto (2018), section 12.2 (accumulating) and the box in 12.5 (Dutch, and true online
    TD(lambda)); Singh and Sutton (1996), equation 7 (replacing); van Seijen et al. (2016), algorithm 1
    (traces that hold their step size).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from bellgrad.core.errors import check_range
from bellgrad.core.tree import Tree
from bellgrad.tabular.common import Control, TabularLearner, behave, inlined

Kind = Literal["accumulating", "replacing", "dutch"]
KINDS = get_args(Kind)
REPLACING, DUTCH = KINDS.index("replacing"), KINDS.index("dutch")
FAINT = 1e-16  # a weaker trace is dropped: at gamma lambda = 0.9 after some 350 steps


class Traces(NamedTuple):
    """The traces of a table with `N` entries."""

    strength: Tensor  # [N] float64
    active: Tensor  # [N] int64, the entries with a trace: the first `count` of these
    count: Tensor  # [] int64
    previous: Tensor  # [] float64, what the entry visited now was worth in the target of the step before

    @classmethod
    def none(cls, size: int) -> Traces:
        """No trace yet."""
        strength = torch.zeros(size, dtype=torch.float64)
        return cls(strength, strength.long(), torch.tensor(0), torch.tensor(0.0, dtype=torch.float64))


@inlined
def forget(traces):
    """Cut every trace."""
    for k in range(traces.count[()]):
        traces.strength[traces.active[k]] = 0.0
    traces.count[()] = 0


@inlined
def mark(traces, index, kind, alpha):
    """Leave a trace at the entry `index`, which is visited now."""
    strength = traces.strength[index]
    if strength == 0.0:
        traces.active[traces.count[()]] = index
        traces.count[()] += 1
    if kind == REPLACING:
        traces.strength[index] = alpha
    elif kind == DUTCH:
        traces.strength[index] = (1 - alpha) * strength + alpha
    else:
        traces.strength[index] = strength + alpha


@inlined
def spread(traces, values, error, decay):
    """Move every entry of `values [N]` by its trace times the error; then the traces decay."""
    k = 0
    while k < traces.count[()]:
        index = traces.active[k]
        values[index] += error * traces.strength[index]
        traces.strength[index] *= decay
        if traces.strength[index] < FAINT:
            traces.strength[index] = 0.0
            traces.count[()] -= 1
            traces.active[k] = traces.active[traces.count[()]]
        else:
            k += 1


@inlined
def update(config, traces, values, index, alpha, reward, following):
    """One step of TD(lambda) from the entry `index` of `values [N]` to one that is worth `following`."""
    mark(traces, index, config.kind, alpha)
    value = values[index]
    error = reward + config.gamma * following - value
    moved = value - traces.previous[()] if config.kind == DUTCH else 0.0
    spread(traces, values, error + moved, config.gamma * config.lambda_)
    values[index] -= alpha * moved
    traces.previous[()] = following


# ---------------------------------------------------------------------------------------------------- control
@dataclass(frozen=True)
class TracedControl(Control):
    """Fields of the learners of state-action values with traces.

    Attributes:
        lambda_: how far an error reaches back, in [0, 1].
        traces: `accumulating`, `replacing` or `dutch`; the last makes the updates true online ones.
    """

    lambda_: float = 0.9
    traces: Kind = "replacing"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, lambda_=(0, 1))


class TracedQTable(NamedTuple):
    """The value of state-action pairs, with traces."""

    q: Tensor  # [S, A] float64
    visits: Tensor  # [S, A] int64
    traces: Traces  # of S * A entries, pair s * A + a
    legal: Tensor  # [S, A] bool
    steps: Tensor  # [] int64, environment steps; the sampler advances it


@inlined
def begin(config, table, obs, noise):
    """Cut the traces of the episode before, then act epsilon-greedily."""
    forget(table.traces)
    return behave(config, table, obs, noise)


class TracedLearner(TabularLearner):
    """A learner of state-action values with traces."""

    begin = staticmethod(begin)

    def make_numbers(self) -> np.record:
        """What the compiled functions read as `config`."""
        return super().make_numbers(kind=KINDS.index(self.config.traces))

    def init(self, rng: torch.Generator) -> Tree:
        """The table before the first step."""
        table = super().init(rng)
        return TracedQTable(table.q, table.visits, Traces.none(table.q.numel()), table.legal, table.steps)
