"""Expected SARSA: SARSA with the mean over the next action in place of a sample of it.

    Q(s, a) <- Q(s, a) + alpha (r + gamma sum_a' pi(a' | s') Q(s', a') - Q(s, a))

with pi the epsilon-greedy policy that acts. It has the target of SARSA in expectation, and less variance.

Source: van Seijen et al. (2009), algorithm 1; Sutton and Barto (2018), equation 6.9.
"""

from __future__ import annotations

from dataclasses import dataclass

from bellgrad.core.records import EnvSpec
from bellgrad.tabular.common import Control, TabularLearner, behave, epsilon_at, expected, inlined, step_size

ALGORITHMS = {"expected_sarsa": "ExpectedSARSA"}


@inlined
def learn(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Move `Q(s, a)` towards what the policy that acts expects of the next state, then act by it."""
    following = 0.0
    if not terminated:
        following = expected(table.q[next_obs], table.legal[next_obs], epsilon_at(config, table.steps[()]))
    target = reward + config.gamma * following
    table.visits[obs, action] += 1
    table.q[obs, action] += step_size(config, table.visits[obs, action]) * (target - table.q[obs, action])
    return behave(config, table, next_obs, noise)


@dataclass(frozen=True)
class ExpectedSARSA(Control):
    """Hyper-parameters of Expected SARSA, for discrete observations and actions."""

    def build(self, spec: EnvSpec, steps: int | None = None) -> ExpectedSARSALearner:
        """Join these hyper-parameters to an environment; `steps` is the horizon of the schedule of
        epsilon."""
        return ExpectedSARSALearner(self, spec, steps)


class ExpectedSARSALearner(TabularLearner):
    """Expected SARSA on a table."""

    learn = staticmethod(learn)
