"""Dyna-Q: Q-learning from what happens, and then from what is remembered.

After each real step, `planning_steps` times: take a state that was visited and an action that was tried
there, recall what followed, and make the same update with it,

    Q(s, a) <- Q(s, a) + alpha (r + gamma max_a' Q(s', a') - Q(s, a))

The model is what followed the last `memory` times, each as likely; the book remembers the last time only,
which is enough where nothing is random.

Dyna-Q+ finds out when the world has changed: in what is recalled, an action that was not tried for `tau`
steps earns `kappa sqrt(tau)` more. It also imagines actions that were never tried, as staying at no reward.

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
from bellgrad.tabular.common import Control, TabularLearner, behave, best, choose, draw, inlined, step_size

ALGORITHMS = {"dyna_q": "DynaQ"}


@inlined
def learn(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Learn from the step, remember it, learn from memories, and act epsilon-greedily."""
    if not table.visits[obs].any():
        table.found[table.num_found[()]] = obs
        table.num_found[()] += 1
    place = table.visits[obs, action] % config.memory
    table.reward[obs, action, place] = reward
    table.next_obs[obs, action, place] = next_obs
    table.terminated[obs, action, place] = terminated
    table.visits[obs, action] += 1
    table.tried_at[obs, action] = table.steps[()]
    improve(config, table, obs, action, reward, next_obs, terminated)
    for _ in range(config.planning_steps):
        recall(config, table, noise)
    return behave(config, table, next_obs, noise)


@inlined
def recall(config, table, noise):
    """Learn from a remembered step."""
    obs = table.found[int(draw(noise) * table.num_found[()])]
    least_visits = 0 if config.kappa > 0.0 else 1
    action = choose(table.visits[obs], table.legal[obs], least_visits, draw(noise))
    kept = min(table.visits[obs, action], config.memory)
    bonus = config.kappa * np.sqrt(table.steps[()] - table.tried_at[obs, action])
    if kept == 0:
        improve(config, table, obs, action, bonus, obs, False)
    else:
        place = int(draw(noise) * kept)
        next_obs, terminated = table.next_obs[obs, action, place], table.terminated[obs, action, place]
        improve(config, table, obs, action, table.reward[obs, action, place] + bonus, next_obs, terminated)


@inlined
def improve(config, table, obs, action, reward, next_obs, terminated):
    """Move `Q(s, a)` towards the value of the best next action."""
    following = 0.0 if terminated else best(table.q[next_obs], table.legal[next_obs])
    target = reward + config.gamma * following
    table.q[obs, action] += step_size(config, max(table.visits[obs, action], 1)) * (
        target - table.q[obs, action]
    )


class DynaTable(NamedTuple):
    """The tables of `DynaQ`. `M` is how many outcomes of a pair are remembered."""

    q: Tensor  # [S, A] float64
    visits: Tensor  # [S, A] int64
    tried_at: Tensor  # [S, A] int64, the environment step of the last visit
    reward: Tensor  # [S, A, M] float64
    next_obs: Tensor  # [S, A, M] int64
    terminated: Tensor  # [S, A, M] bool
    found: Tensor  # [S] int64, the visited states in the order of their first visits
    num_found: Tensor  # [] int64
    legal: Tensor  # [S, A] bool
    steps: Tensor  # [] int64, environment steps


@dataclass(frozen=True)
class DynaQ(Control):
    """Hyper-parameters of Dyna-Q, which learns from memories too; Dyna-Q+ where kappa is above 0.

    Attributes:
        planning_steps: memories that are learned from after each environment step.
        kappa: of Dyna-Q+, the reward for having left an action alone, per square root of environment steps.
        memory: outcomes of a pair that are remembered; 1 where nothing is random.
    """

    planning_steps: int = 10
    kappa: float = 0.0
    memory: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, planning_steps=(0, 1e6), kappa=(0, 1e12), memory=(1, 1e6))

    def build(self, spec: EnvSpec, steps: int | None = None) -> DynaQLearner:
        """Join these hyper-parameters to an environment; `steps` is the horizon of the schedule of
        epsilon."""
        return DynaQLearner(self, spec, steps)


class DynaQLearner(TabularLearner):
    """Dyna-Q on a table."""

    learn = staticmethod(learn)

    def __init__(self, config: DynaQ, spec: EnvSpec, steps: int | None = None):
        super().__init__(config, spec, steps)
        self.draws = 1 + 3 * config.planning_steps

    def init(self, rng: torch.Generator) -> DynaTable:
        """Tables before the first step."""
        reward = self.full(0).unsqueeze(-1).repeat(1, 1, self.config.memory)
        return DynaTable(
            tried_at=self.full(0, torch.int64),
            reward=reward,
            next_obs=reward.long(),
            terminated=reward.bool(),
            found=torch.zeros(self.num_states, dtype=torch.int64),
            num_found=torch.tensor(0),
            **super().init(rng)._asdict(),
        )
