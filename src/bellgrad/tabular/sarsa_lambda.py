"""SARSA(lambda): SARSA in which each error also changes the pairs that were visited before.

    delta = r + gamma Q(s', a') - Q(s, a)
    Q(x, u) <- Q(x, u) + alpha e(x, u) delta    for every pair (x, u)

with the traces e of `bellgrad.tabular.traces`. lambda = 0 is SARSA(0). lambda = 1 is SARSA(1): every-visit
Monte Carlo control, except that values change during the episode.

Source: Rummery and Niranjan (1994), section 2.4; Sutton and Barto (2018), section 12.7, which also has
    true online updates (Dutch traces).
"""

from __future__ import annotations

from dataclasses import dataclass

from bellgrad.core.errors import check_range
from bellgrad.core.records import EnvSpec
from bellgrad.tabular.common import act_epsilon_greedily, inlined, step_size
from bellgrad.tabular.traces import TracedControl, TracedLearner, td_update

ALGORITHMS = {"sarsa_1": "SARSA1", "sarsa_lambda": "SARSALambda"}


@inlined
def learn(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Choose the next action, then update every pair with a trace."""
    next_action = act_epsilon_greedily(config, table, next_obs, noise)
    following = 0.0 if terminated else table.q[next_obs, next_action]
    table.visits[obs, action] += 1
    alpha = step_size(config, table.visits[obs, action])
    td_update(
        config, table.traces, table.q.reshape(-1), obs * table.q.shape[1] + action, alpha, reward, following
    )
    return next_action


@dataclass(frozen=True)
class SARSALambda(TracedControl):
    """Hyper-parameters of SARSA(lambda), for discrete observations and actions."""

    def build(self, spec: EnvSpec, steps: int | None = None) -> SARSALambdaLearner:
        """The learner of these hyper-parameters for an environment; epsilon is scheduled over `steps`."""
        return SARSALambdaLearner(self, spec, steps)


@dataclass(frozen=True)
class SARSA1(SARSALambda):
    """Hyper-parameters of SARSA(1): SARSA(lambda) with lambda = 1.

    An error reaches back to the first step of the episode."""

    lambda_: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, lambda_=(1, 1))


class SARSALambdaLearner(TracedLearner):
    """SARSA(lambda) on a table."""

    learn = staticmethod(learn)
