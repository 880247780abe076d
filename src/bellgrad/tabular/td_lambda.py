"""TD(lambda): the value of a given policy; each error also changes the states that were visited before.

    delta = r + gamma V(s') - V(s)
    V(x) <- V(x) + alpha e(x) delta    for every state x

with the traces e of `bellgrad.tabular.traces`. lambda = 0 is TD(0). lambda = 1 is every-visit Monte Carlo,
exactly if the changes are made at the end of the episode (`online=False`).

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
from bellgrad.tabular.common import Prediction, PredictionLearner, StepSize, act_by_policy, inlined, step_size
from bellgrad.tabular.traces import Traces, add_trace, apply_error, clear_traces, td_update

ALGORITHMS = {"td_lambda": "TDLambda"}


class TracedVTable(NamedTuple):
    """The values of a given policy, with traces."""

    v: Tensor  # [S] float64
    visits: Tensor  # [S] int64
    traces: Traces  # of S entries
    pending: Tensor  # [S] float64, changes to make at the end of the episode
    policy: Tensor  # [S, A] float64, rows are probabilities
    legal: Tensor  # [S, A] bool
    steps: Tensor  # [] int64, environment steps; the sampler increments it


@inlined
def begin(config, table, obs, noise):
    """Clear the traces of the previous episode, then act by the policy."""
    clear_traces(table.traces)
    return act_by_policy(config, table, obs, noise)


@inlined
def learn(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Update every state with a trace, now or at the end of the episode, then act by the policy."""
    table.visits[obs] += 1
    alpha = step_size(config, table.visits[obs])
    following = 0.0 if terminated else table.v[next_obs]
    if config.online:
        td_update(config, table.traces, table.v, obs, alpha, reward, following)
    else:
        add_trace(table.traces, obs, config.kind, alpha)
        error = reward + config.gamma * following - table.v[obs]
        apply_error(table.traces, table.pending, error, config.gamma * config.lambda_)
        if terminated or truncated:
            table.v[:] += table.pending
            table.pending[:] = 0.0
    return act_by_policy(config, table, next_obs, noise)


@dataclass(frozen=True)
class TDLambda(Prediction, StepSize):
    """Hyper-parameters of TD(lambda), for discrete observations and actions.

    Attributes:
        lambda_: decay of the traces, how far back an error reaches, in [0, 1].
        traces: `accumulating`, `replacing` or `dutch`, which is true online TD(lambda).
        online: whether to change the values at every step, or at the end of each episode.
    """

    lambda_: float = 0.9
    traces: traces.Kind = "accumulating"
    online: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, lambda_=(0, 1))
        if self.traces == "dutch" and not self.online:
            raise UsageError("Dutch traces change the values at every step: online must be True")

    def build(self, spec: EnvSpec, steps: int | None = None) -> TDLambdaLearner:
        """The learner of these hyper-parameters for an environment."""
        return TDLambdaLearner(self, spec, steps)


class TDLambdaLearner(PredictionLearner):
    """TD(lambda) on a table."""

    begin = staticmethod(begin)
    learn = staticmethod(learn)

    def make_config_record(self) -> np.record:
        """What the compiled functions read as `config`."""
        return super().make_config_record(kind=traces.KINDS.index(self.config.traces))

    def init(self, rng: torch.Generator) -> Tree:
        """The table before the first step."""
        table = super().init(rng)
        return TracedVTable(
            table.v,
            table.visits,
            Traces.empty(self.num_states),
            torch.zeros_like(table.v),
            table.policy,
            table.legal,
            table.steps,
        )
