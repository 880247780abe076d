"""Q-learning: the value of the greedy policy, learned from any behavior that keeps trying every action.

    Q(s, a) <- Q(s, a) + alpha (r + gamma max_a' Q(s', a') - Q(s, a))

Source: Watkins and Dayan (1992), equation 1; Sutton and Barto (2018), section 6.5.
"""

from __future__ import annotations

from dataclasses import dataclass

from bellgrad.core.records import EnvSpec
from bellgrad.tabular.common import Control, TabularLearner, act_epsilon_greedily, inlined, max_q, step_size

ALGORITHMS = {"q_learning": "QLearning"}


@inlined
def learn(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Move `Q(s, a)` towards the value of the best next action, then act epsilon-greedily."""
    table.visits[obs, action] += 1
    following = 0.0 if terminated else max_q(table.q[next_obs], table.legal[next_obs])
    target = reward + config.gamma * following
    table.q[obs, action] += step_size(config, table.visits[obs, action]) * (target - table.q[obs, action])
    return act_epsilon_greedily(config, table, next_obs, noise)


@dataclass(frozen=True)
class QLearning(Control):
    """Hyper-parameters of Q-learning, for discrete observations and actions."""

    def build(self, spec: EnvSpec, steps: int | None = None) -> QLearner:
        """The learner of these hyper-parameters for an environment; epsilon is scheduled over `steps`."""
        return QLearner(self, spec, steps)


class QLearner(TabularLearner):
    """Q-learning on a table."""

    learn = staticmethod(learn)
