"""TD(lambda): the value of a given policy, where each error also moves the states that came before.

    delta = r + gamma V(s') - V(s)
    V(x) <- V(x) + alpha e(x) delta    for every state x

with the traces e of `bellgrad.tabular.traces`. lambda = 0 is TD(0); lambda = 1 is every-visit Monte Carlo,
exactly so where the changes wait for the end of the episode (`online=False`).

Source: Sutton (1988), section 3; Sutton and Barto (2018), sections 12.2 and 12.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bellgrad.core.errors import UsageError, check_range
from bellgrad.core.records import EnvSpec
from bellgrad.core.tree import Tree
from bellgrad.tabular import traces
from bellgrad.tabular.common import Prediction, PredictionLearner, StepSize, follow, inlined, step_size
from bellgrad.tabular.traces import Traces, forget, mark, spread, update

ALGORITHMS = {"td_lambda": "TDLambda"}


class TracedVTable(NamedTuple):
    """The value of a given policy, with traces."""

    v: Tensor  # [S] float64
    visits: Tensor  # [S] int64
    traces: Traces  # of S entries
    pending: Tensor  # [S] float64, changes that wait for the end of the episode
    policy: Tensor  # [S, A] float64, rows are probabilities
    legal: Tensor  # [S, A] bool
    steps: Tensor  # [] int64, environment steps; the sampler advances it


@inlined
def begin(config, table, obs, noise):
    """Cut the traces of the episode before, then follow the policy."""
    forget(table.traces)
    return follow(config, table, obs, noise)


@inlined
def learn(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Move every state with a trace, now or at the episode's end, then follow the policy."""
    table.visits[obs] += 1
    alpha = step_size(config, table.visits[obs])
    following = 0.0 if terminated else table.v[next_obs]
    if config.online:
        update(config, table.traces, table.v, obs, alpha, reward, following)
    else:
        mark(table.traces, obs, config.kind, alpha)
        error = reward + config.gamma * following - table.v[obs]
        spread(table.traces, table.pending, error, config.gamma * config.lambda_)
        if terminated or truncated:
            table.v[:] += table.pending
            table.pending[:] = 0.0
    return follow(config, table, next_obs, noise)


@dataclass(frozen=True)
class TDLambda(Prediction, StepSize):
    """Hyper-parameters of TD(lambda), for discrete observations and actions.

    Attributes:
        lambda_: how far an error reaches back, in [0, 1].
        traces: `accumulating`, `replacing` or `dutch`; the last is true online TD(lambda).
        online: change the values at every step, or else at the end of each episode.
    """

    lambda_: float = 0.9
    traces: traces.Kind = "accumulating"
    online: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, lambda_=(0, 1))
        if self.traces == "dutch" and not self.online:
            raise UsageError("Dutch traces are made for changes at every step: online must be True")

    def build(self, spec: EnvSpec, steps: int | None = None) -> TDLambdaLearner:
        """Join these hyper-parameters to an environment."""
        return TDLambdaLearner(self, spec, steps)


class TDLambdaLearner(PredictionLearner):
    """TD(lambda) on a table."""

    begin = staticmethod(begin)
    learn = staticmethod(learn)

    def make_numbers(self) -> np.record:
        """What the compiled functions read as `config`."""
        return super().make_numbers(kind=traces.KINDS.index(self.config.traces))

    def init(self, rng: torch.Generator) -> Tree:
        """The table before the first step."""
        table = super().init(rng)
        return TracedVTable(
            table.v,
            table.visits,
            Traces.none(self.num_states),
            torch.zeros_like(table.v),
            table.policy,
            table.legal,
            table.steps,
        )
