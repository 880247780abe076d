"""Expected SARSA: SARSA with the expected value of the next action instead of a sample.

    Q(s, a) <- Q(s, a) + alpha (r + gamma sum_a' pi(a' | s') Q(s', a') - Q(s, a))

where pi is the epsilon-greedy policy that acts. Its target is the mean of SARSA's and has less variance.

Source: van Seijen et al. (2009), algorithm 1; Sutton and Barto (2018), equation 6.9.
"""

from __future__ import annotations

from dataclasses import dataclass

from bellgrad.core.records import EnvSpec
from bellgrad.tabular.common import (
    Control,
    TabularLearner,
    act_epsilon_greedily,
    epsilon_at,
    expected_q,
    inlined,
    step_size,
)

ALGORITHMS = {"expected_sarsa": "ExpectedSARSA"}


@inlined
def learn(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Move `Q(s, a)` towards the expected value of the next action, then act epsilon-greedily."""
    following = 0.0
    if not terminated:
        following = expected_q(table.q[next_obs], table.legal[next_obs], epsilon_at(config, table.steps[()]))
    target = reward + config.gamma * following
    table.visits[obs, action] += 1
    table.q[obs, action] += step_size(config, table.visits[obs, action]) * (target - table.q[obs, action])
    return act_epsilon_greedily(config, table, next_obs, noise)


@dataclass(frozen=True)
class ExpectedSARSA(Control):
    """Hyper-parameters of Expected SARSA, for discrete observations and actions."""

    def build(self, spec: EnvSpec, steps: int | None = None) -> ExpectedSARSALearner:
        """The learner of these hyper-parameters for an environment; epsilon is scheduled over `steps`."""
        return ExpectedSARSALearner(self, spec, steps)


class ExpectedSARSALearner(TabularLearner):
    """Expected SARSA on a table."""

    learn = staticmethod(learn)
