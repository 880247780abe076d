"""Dyna-Q: Q-learning from real steps and from remembered steps.

After each real step, `planning_steps` times: draw a visited state, an action tried in it, and one of the
remembered outcomes of that pair, and make the same update with it,

    Q(s, a) <- Q(s, a) + alpha (r + gamma max_a' Q(s', a') - Q(s, a))

The model of a pair is its last `memory` outcomes, all equally likely. The book remembers only the last one,
which is enough if the environment is deterministic.

Dyna-Q+ notices when the environment changes: in a remembered step, an action that was not tried for `tau`
steps earns `kappa sqrt(tau)` more. Actions that were never tried are included, as if they stayed in the state
at reward 0.

Source: Sutton and Barto (2018), section 8.2 (Dyna-Q), section 8.3 and its footnote (Dyna-Q+).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bellgrad.core.errors import check_range
from bellgrad.core.records import EnvSpec
from bellgrad.tabular.common import (
    Control,
    TabularLearner,
    act_epsilon_greedily,
    inlined,
    max_q,
    next_uniform,
    random_action_at_least,
    step_size,
)

ALGORITHMS = {"dyna_q": "DynaQ"}


@inlined
def learn(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Remember the step, learn from it and from remembered steps, and act epsilon-greedily."""
    if not table.visits[obs].any():
        table.visited_states[table.num_visited[()]] = obs
        table.num_visited[()] += 1
    slot = table.visits[obs, action] % config.memory
    table.reward[obs, action, slot] = reward
    table.next_obs[obs, action, slot] = next_obs
    table.terminated[obs, action, slot] = terminated
    table.visits[obs, action] += 1
    table.tried_at[obs, action] = table.steps[()]
    q_learning_update(config, table, obs, action, reward, next_obs, terminated)
    for _ in range(config.planning_steps):
        learn_from_memory(config, table, noise)
    return act_epsilon_greedily(config, table, next_obs, noise)


@inlined
def learn_from_memory(config, table, noise):
    """Learn from a remembered step."""
    obs = table.visited_states[int(next_uniform(noise) * table.num_visited[()])]
    min_visits = 0 if config.kappa > 0.0 else 1
    action = random_action_at_least(table.visits[obs], table.legal[obs], min_visits, next_uniform(noise))
    kept = min(table.visits[obs, action], config.memory)
    bonus = config.kappa * np.sqrt(table.steps[()] - table.tried_at[obs, action])
    if kept == 0:
        q_learning_update(config, table, obs, action, bonus, obs, False)
    else:
        slot = int(next_uniform(noise) * kept)
        next_obs, terminated = table.next_obs[obs, action, slot], table.terminated[obs, action, slot]
        q_learning_update(
            config, table, obs, action, table.reward[obs, action, slot] + bonus, next_obs, terminated
        )


@inlined
def q_learning_update(config, table, obs, action, reward, next_obs, terminated):
    """Move `Q(s, a)` towards the value of the best next action."""
    following = 0.0 if terminated else max_q(table.q[next_obs], table.legal[next_obs])
    target = reward + config.gamma * following
    table.q[obs, action] += step_size(config, max(table.visits[obs, action], 1)) * (
        target - table.q[obs, action]
    )


class DynaTable(NamedTuple):
    """The tables of `DynaQ`. `M` is the number of outcomes that are remembered per pair."""

    q: Tensor  # [S, A] float64
    visits: Tensor  # [S, A] int64
    tried_at: Tensor  # [S, A] int64, the environment step of the last visit
    reward: Tensor  # [S, A, M] float64
    next_obs: Tensor  # [S, A, M] int64
    terminated: Tensor  # [S, A, M] bool
    visited_states: Tensor  # [S] int64, the visited states in the order of their first visits
    num_visited: Tensor  # [] int64
    legal: Tensor  # [S, A] bool
    steps: Tensor  # [] int64, environment steps


@dataclass(frozen=True)
class DynaQ(Control):
    """Hyper-parameters of Dyna-Q, which also learns from remembered steps; Dyna-Q+ if kappa is above 0.

    Attributes:
        planning_steps: updates from remembered steps after each environment step.
        kappa: of Dyna-Q+: bonus reward for an action that was not tried for a while, per square root of
            environment steps.
        memory: outcomes that are remembered per pair; 1 is enough if the environment is deterministic.
    """

    planning_steps: int = 10
    kappa: float = 0.0
    memory: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, planning_steps=(0, 1e6), kappa=(0, 1e12), memory=(1, 1e6))

    def build(self, spec: EnvSpec, steps: int | None = None) -> DynaQLearner:
        """The learner of these hyper-parameters for an environment; epsilon is scheduled over `steps`."""
        return DynaQLearner(self, spec, steps)


class DynaQLearner(TabularLearner):
    """Dyna-Q on a table."""

    learn = staticmethod(learn)

    def __init__(self, config: DynaQ, spec: EnvSpec, steps: int | None = None):
        super().__init__(config, spec, steps)
        self.max_draws = 1 + 3 * config.planning_steps

    def init(self, rng: torch.Generator) -> DynaTable:
        """The tables before the first step."""
        reward = self.full(0).unsqueeze(-1).repeat(1, 1, self.config.memory)
        return DynaTable(
            tried_at=self.full(0, torch.int64),
            reward=reward,
            next_obs=reward.long(),
            terminated=reward.bool(),
            visited_states=torch.zeros(self.num_states, dtype=torch.int64),
            num_visited=torch.tensor(0),
            **super().init(rng)._asdict(),
        )
