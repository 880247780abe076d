"""Watkins's Q(lambda): Q-learning in which each error also changes the pairs visited before, as long as the
actions were greedy.

    delta = r + gamma max_a' Q(s', a') - Q(s, a)
    Q(x, u) <- Q(x, u) + alpha e(x, u) delta    for every pair (x, u)

with the traces e of `bellgrad.tabular.traces`. They are cleared if the next action is not greedy, because the
rewards after it are not those of the greedy policy. lambda = 0 is Q-learning.

Source: Watkins (1989), section 7; Sutton and Barto (1998), figure 7.14, and (2018), section 12.10.
"""

from __future__ import annotations

from dataclasses import dataclass

from bellgrad.core.records import EnvSpec
from bellgrad.tabular.common import act_epsilon_greedily, inlined, max_q, step_size
from bellgrad.tabular.traces import TracedControl, TracedLearner, clear_traces, td_update

ALGORITHMS = {"watkins_q_lambda": "WatkinsQLambda"}


@inlined
def learn(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Choose the next action and update every pair with a trace; clear the traces if the action is not
    greedy."""
    next_action = act_epsilon_greedily(config, table, next_obs, noise)
    highest = max_q(table.q[next_obs], table.legal[next_obs])
    explores = table.q[next_obs, next_action] < highest
    table.visits[obs, action] += 1
    alpha = step_size(config, table.visits[obs, action])
    following = 0.0 if terminated else highest
    td_update(
        config, table.traces, table.q.reshape(-1), obs * table.q.shape[1] + action, alpha, reward, following
    )
    if explores:
        clear_traces(table.traces)
    return next_action


@dataclass(frozen=True)
class WatkinsQLambda(TracedControl):
    """Hyper-parameters of Watkins's Q(lambda), for discrete observations and actions."""

    def build(self, spec: EnvSpec, steps: int | None = None) -> WatkinsQLearner:
        """The learner of these hyper-parameters for an environment; epsilon is scheduled over `steps`."""
        return WatkinsQLearner(self, spec, steps)


class WatkinsQLearner(TracedLearner):
    """Watkins's Q(lambda) on a table."""

    learn = staticmethod(learn)
