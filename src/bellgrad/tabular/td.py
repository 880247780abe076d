"""TD(0): the value of a given policy, from one step at a time.

    V(s) <- V(s) + alpha (r + gamma V(s') - V(s))

Source: Sutton (1988), section 2.3; Sutton and Barto (2018), equation 6.2.
"""

from __future__ import annotations

from dataclasses import dataclass

from bellgrad.core.records import EnvSpec
from bellgrad.tabular.common import Prediction, PredictionLearner, StepSize, act_by_policy, inlined, step_size

ALGORITHMS = {"td_0": "TD0"}


@inlined
def learn(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Move `V(s)` towards the reward and the value of the next state, then act by the policy."""
    following = 0.0 if terminated else table.v[next_obs]
    target = reward + config.gamma * following
    table.visits[obs] += 1
    table.v[obs] += step_size(config, table.visits[obs]) * (target - table.v[obs])
    return act_by_policy(config, table, next_obs, noise)


@dataclass(frozen=True)
class TD0(Prediction, StepSize):
    """Hyper-parameters of TD(0), for discrete observations and actions."""

    def build(self, spec: EnvSpec, steps: int | None = None) -> TD0Learner:
        """The learner of these hyper-parameters for an environment."""
        return TD0Learner(self, spec, steps)


class TD0Learner(PredictionLearner):
    """TD(0) on a table."""

    learn = staticmethod(learn)
