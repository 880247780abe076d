"""SARSA: the value of the policy that acts, learned while it acts.

    Q(s, a) <- Q(s, a) + alpha (r + gamma Q(s', a') - Q(s, a))

The next action a' is chosen before the update, and is then taken. At a time limit the target is the same,
since the task went on.

Source: Rummery and Niranjan (1994), section 2.2; Sutton and Barto (2018), section 6.4.
"""

from __future__ import annotations

from dataclasses import dataclass

from bellgrad.core.records import EnvSpec
from bellgrad.tabular.common import Control, TabularLearner, behave, inlined, step_size

ALGORITHMS = {"sarsa": "SARSA"}


@inlined
def learn(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Choose the next action, then move `Q(s, a)` towards what it is worth."""
    next_action = behave(config, table, next_obs, noise)
    following = 0.0 if terminated else table.q[next_obs, next_action]
    target = reward + config.gamma * following
    table.visits[obs, action] += 1
    table.q[obs, action] += step_size(config, table.visits[obs, action]) * (target - table.q[obs, action])
    return next_action


@dataclass(frozen=True)
class SARSA(Control):
    """Hyper-parameters of SARSA, also called SARSA(0), for discrete observations and actions."""

    def build(self, spec: EnvSpec, steps: int | None = None) -> SARSALearner:
        """Join these hyper-parameters to an environment; `steps` is the horizon of the schedule of
        epsilon."""
        return SARSALearner(self, spec, steps)


class SARSALearner(TabularLearner):
    """SARSA on a table."""

    learn = staticmethod(learn)
