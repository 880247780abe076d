"""Watkins's Q(lambda): Q-learning where each error also moves the pairs that came before, as long as the
actions were greedy.

    delta = r + gamma max_a' Q(s', a') - Q(s, a)
    Q(x, u) <- Q(x, u) + alpha e(x, u) delta    for every pair (x, u)

with the traces e of `bellgrad.tabular.traces`, which are cut where the next action is not a best one: what
follows it says nothing about acting greedily. lambda = 0 is Q-learning.

Source: Watkins (1989), section 7; Sutton and Barto (1998), figure 7.14, and (2018), section 12.10.
"""

from __future__ import annotations

from dataclasses import dataclass

from bellgrad.core.records import EnvSpec
from bellgrad.tabular.common import behave, best, inlined, step_size
from bellgrad.tabular.traces import TracedControl, TracedLearner, forget, update

ALGORITHMS = {"watkins_q_lambda": "WatkinsQLambda"}


@inlined
def learn(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Choose the next action, move every pair with a trace, and cut the traces where that action explores."""
    next_action = behave(config, table, next_obs, noise)
    most = best(table.q[next_obs], table.legal[next_obs])
    explores = table.q[next_obs, next_action] < most
    table.visits[obs, action] += 1
    alpha = step_size(config, table.visits[obs, action])
    following = 0.0 if terminated else most
    update(
        config, table.traces, table.q.reshape(-1), obs * table.q.shape[1] + action, alpha, reward, following
    )
    if explores:
        forget(table.traces)
    return next_action


@dataclass(frozen=True)
class WatkinsQLambda(TracedControl):
    """Hyper-parameters of Watkins's Q(lambda), for discrete observations and actions."""

    def build(self, spec: EnvSpec, steps: int | None = None) -> WatkinsQLearner:
        """Join these hyper-parameters to an environment; `steps` is the horizon of the schedule of
        epsilon."""
        return WatkinsQLearner(self, spec, steps)


class WatkinsQLearner(TracedLearner):
    """Watkins's Q(lambda) on a table."""

    learn = staticmethod(learn)
