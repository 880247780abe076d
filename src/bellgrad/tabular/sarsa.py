"""SARSA: the value of the policy that acts.

    Q(s, a) <- Q(s, a) + alpha (r + gamma Q(s', a') - Q(s, a))

The next action a' is chosen before the update, and is then taken. At a time limit the target is the same,
since the task did not end.

Source: Rummery and Niranjan (1994), section 2.2; Sutton and Barto (2018), section 6.4.
"""

from __future__ import annotations

from dataclasses import dataclass

from bellgrad.core.records import EnvSpec
from bellgrad.tabular.common import Control, TabularLearner, act_epsilon_greedily, inlined, step_size

ALGORITHMS = {"sarsa": "SARSA"}


@inlined
def learn(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Choose the next action, then move `Q(s, a)` towards its value."""
    next_action = act_epsilon_greedily(config, table, next_obs, noise)
    following = 0.0 if terminated else table.q[next_obs, next_action]
    target = reward + config.gamma * following
    table.visits[obs, action] += 1
    table.q[obs, action] += step_size(config, table.visits[obs, action]) * (target - table.q[obs, action])
    return next_action


@dataclass(frozen=True)
class SARSA(Control):
    """Hyper-parameters of SARSA, also called SARSA(0), for discrete observations and actions."""

    def build(self, spec: EnvSpec, steps: int | None = None) -> SARSALearner:
        """The learner of these hyper-parameters for an environment; epsilon is scheduled over `steps`."""
        return SARSALearner(self, spec, steps)


class SARSALearner(TabularLearner):
    """SARSA on a table."""

    learn = staticmethod(learn)
