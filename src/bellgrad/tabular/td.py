"""TD(0): the value of a given policy, from one step at a time.

    V(s) <- V(s) + alpha (r + gamma V(s') - V(s))

Source: Sutton (1988), section 2.3; Sutton and Barto (2018), equation 6.2.
"""

from __future__ import annotations

from dataclasses import dataclass

from bellgrad.core.records import EnvSpec
from bellgrad.tabular.common import Prediction, PredictionLearner, StepSize, follow, inlined, step_size

ALGORITHMS = {"td_0": "TD0"}


@inlined
def learn(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Move `V(s)` towards what the step gave and led to, then follow the policy."""
    following = 0.0 if terminated else table.v[next_obs]
    target = reward + config.gamma * following
    table.visits[obs] += 1
    table.v[obs] += step_size(config, table.visits[obs]) * (target - table.v[obs])
    return follow(config, table, next_obs, noise)


@dataclass(frozen=True)
class TD0(Prediction, StepSize):
    """Hyper-parameters of TD(0), for discrete observations and actions."""

    def build(self, spec: EnvSpec, steps: int | None = None) -> TD0Learner:
        """Join these hyper-parameters to an environment."""
        return TD0Learner(self, spec, steps)


class TD0Learner(PredictionLearner):
    """TD(0) on a table."""

    learn = staticmethod(learn)
