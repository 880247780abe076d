"""Eligibility traces: how much the current error changes each entry of a table.

Only entries with a trace are updated, so that the cost of a step depends on the number of traces and not on
the size of the table. A trace includes the step size: an error of 1 changes an entry by its trace.

    accumulating  e(s) <- e(s) + alpha
    replacing     e(s) <- alpha
    dutch         e(s) <- (1 - alpha) e(s) + alpha

at a visit to s, after all traces have decayed by gamma lambda. With Dutch traces the update is that of true
online TD(lambda), which equals the online lambda-return exactly.

Source: Sutton and Barto (2018), section 12.2 (accumulating) and the box in 12.5 (Dutch, and true online
    TD(lambda)); Singh and Sutton (1996), equation 7 (replacing); van Seijen et al. (2016), algorithm 1
    (traces that include the step size).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from bellgrad.core.errors import check_range
from bellgrad.core.tree import Tree
from bellgrad.tabular.common import Control, TabularLearner, act_epsilon_greedily, inlined

Kind = Literal["accumulating", "replacing", "dutch"]
KINDS = get_args(Kind)
REPLACING, DUTCH = KINDS.index("replacing"), KINDS.index("dutch")
MIN_STRENGTH = 1e-16  # a weaker trace is removed: after about 350 steps at gamma lambda = 0.9


class Traces(NamedTuple):
    """The traces of a table with `N` entries."""

    strength: Tensor  # [N] float64
    active: Tensor  # [N] int64, the entries with a trace: the first `count` of these
    count: Tensor  # [] int64
    previous: Tensor  # [] float64, the value in the previous target of the entry that is visited now

    @classmethod
    def empty(cls, size: int) -> Traces:
        """The traces before the first step."""
        strength = torch.zeros(size, dtype=torch.float64)
        return cls(strength, strength.long(), torch.tensor(0), torch.tensor(0.0, dtype=torch.float64))


@inlined
def clear_traces(traces):
    """Remove every trace."""
    for k in range(traces.count[()]):
        traces.strength[traces.active[k]] = 0.0
    traces.count[()] = 0


@inlined
def add_trace(traces, index, kind, alpha):
    """Set or raise the trace of the entry `index`, which is visited now."""
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
def apply_error(traces, values, error, decay):
    """Change every entry of `values [N]` by its trace times the error; then the traces decay."""
    k = 0
    while k < traces.count[()]:
        index = traces.active[k]
        values[index] += error * traces.strength[index]
        traces.strength[index] *= decay
        if traces.strength[index] < MIN_STRENGTH:
            traces.strength[index] = 0.0
            traces.count[()] -= 1
            traces.active[k] = traces.active[traces.count[()]]
        else:
            k += 1


@inlined
def td_update(config, traces, values, index, alpha, reward, following):
    """One step of TD(lambda) from the entry `index` of `values [N]` to one with the value `following`."""
    add_trace(traces, index, config.kind, alpha)
    value = values[index]
    error = reward + config.gamma * following - value
    correction = value - traces.previous[()] if config.kind == DUTCH else 0.0
    apply_error(traces, values, error + correction, config.gamma * config.lambda_)
    values[index] -= alpha * correction
    traces.previous[()] = following


# ---------------------------------------------------------------------------------------------------- control
@dataclass(frozen=True)
class TracedControl(Control):
    """Fields of the learners of state-action values with traces.

    Attributes:
        lambda_: decay of the traces, how far back an error reaches, in [0, 1].
        traces: `accumulating`, `replacing` or `dutch`, which gives true online updates.
    """

    lambda_: float = 0.9
    traces: Kind = "replacing"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, lambda_=(0, 1))


class TracedQTable(NamedTuple):
    """The values of state-action pairs, with traces."""

    q: Tensor  # [S, A] float64
    visits: Tensor  # [S, A] int64
    traces: Traces  # of S * A entries; the pair (s, a) is s * A + a
    legal: Tensor  # [S, A] bool
    steps: Tensor  # [] int64, environment steps; the sampler increments it


@inlined
def begin(config, table, obs, noise):
    """Clear the traces of the previous episode, then act epsilon-greedily."""
    clear_traces(table.traces)
    return act_epsilon_greedily(config, table, obs, noise)


class TracedLearner(TabularLearner):
    """A learner of state-action values with traces."""

    begin = staticmethod(begin)

    def make_config_record(self) -> np.record:
        """What the compiled functions read as `config`."""
        return super().make_config_record(kind=KINDS.index(self.config.traces))

    def init(self, rng: torch.Generator) -> Tree:
        """The table before the first step."""
        table = super().init(rng)
        return TracedQTable(table.q, table.visits, Traces.empty(table.q.numel()), table.legal, table.steps)
