"""Temporal differences over n steps: SARSA for control, and the prediction of a given policy.

    G = r_1 + gamma r_2 + ... + gamma^(n-1) r_n + gamma^n V(s_n)
    V(s_0) <- V(s_0) + alpha (G - V(s_0))

SARSA uses Q(s_n, a_n) instead of V(s_n). At the end of an episode the last returns have fewer than n rewards.
They end with 0 if the episode terminated, and with the value of its last state if it was truncated. n = 1 is
TD(0) and SARSA(0); n at least as long as the episode is every-visit Monte Carlo.

Source: Sutton and Barto (2018), sections 7.1 and 7.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bellgrad.core.errors import check_range
from bellgrad.core.records import EnvSpec
from bellgrad.core.tree import Tree
from bellgrad.tabular.common import (
    Control,
    Prediction,
    PredictionLearner,
    StepSize,
    Tabular,
    TabularLearner,
    act_by_policy,
    act_epsilon_greedily,
    inlined,
    step_size,
)

ALGORITHMS = {"n_step_sarsa": "NStepSARSA", "n_step_td": "NStepTD"}


@dataclass(frozen=True)
class NSteps(Tabular):
    """The field of the n-step learners.

    Attributes:
        n: rewards per return, 1 or more.
    """

    n: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, n=(1, 1e6))


class Window(NamedTuple):
    """The steps of the episode that were not learned from yet: a ring buffer with room for n."""

    obs: Tensor  # [n] int64
    action: Tensor  # [n] int64
    reward: Tensor  # [n] float64
    oldest: Tensor  # [] int64, index of the oldest step
    length: Tensor  # [] int64, steps in the buffer

    @classmethod
    def empty(cls, n: int) -> Window:
        """The buffer before the first step."""
        whole, zero = torch.zeros(n, dtype=torch.int64), torch.tensor(0)
        return cls(whole, whole.clone(), whole.double(), zero, zero.clone())


@inlined
def append(window, obs, action, reward):
    """Add a step; the buffer must not be full."""
    newest = (window.oldest[()] + window.length[()]) % len(window.obs)
    window.obs[newest], window.action[newest], window.reward[newest] = obs, action, reward
    window.length[()] += 1


@inlined
def drop_oldest(window):
    """Remove the oldest step."""
    window.oldest[()] = (window.oldest[()] + 1) % len(window.obs)
    window.length[()] -= 1


@inlined
def return_of_oldest(window, gamma, following):
    """The discounted return from the oldest step on; `following` is the value after the newest step."""
    total = following
    for k in range(window.length[()] - 1, -1, -1):
        total = window.reward[(window.oldest[()] + k) % len(window.obs)] + gamma * total
    return total


# ---------------------------------------------------------------------------------------------------- control
class WindowedQTable(NamedTuple):
    """The values of state-action pairs, and the last steps."""

    q: Tensor  # [S, A] float64
    visits: Tensor  # [S, A] int64
    window: Window
    legal: Tensor  # [S, A] bool
    steps: Tensor  # [] int64, environment steps; the sampler increments it


@inlined
def begin_control(config, table, obs, noise):
    """Clear the previous episode, then act epsilon-greedily."""
    table.window.length[()] = 0
    return act_epsilon_greedily(config, table, obs, noise)


@inlined
def learn_control(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Choose the next action, then learn from the step n steps ago, or from all remaining steps if the
    episode ended."""
    next_action = act_epsilon_greedily(config, table, next_obs, noise)
    window = table.window
    append(window, obs, action, reward)
    min_length = 1 if terminated or truncated else len(window.obs)
    while window.length[()] >= min_length:
        following = 0.0 if terminated else table.q[next_obs, next_action]
        target = return_of_oldest(window, config.gamma, following)
        s, a = window.obs[window.oldest[()]], window.action[window.oldest[()]]
        table.visits[s, a] += 1
        table.q[s, a] += step_size(config, table.visits[s, a]) * (target - table.q[s, a])
        drop_oldest(window)
    return next_action


@dataclass(frozen=True)
class NStepSARSA(NSteps, Control):
    """Hyper-parameters of n-step SARSA, for discrete observations and actions."""

    def build(self, spec: EnvSpec, steps: int | None = None) -> NStepSARSALearner:
        """The learner of these hyper-parameters for an environment; epsilon is scheduled over `steps`."""
        return NStepSARSALearner(self, spec, steps)


class NStepSARSALearner(TabularLearner):
    """n-step SARSA on a table."""

    begin = staticmethod(begin_control)
    learn = staticmethod(learn_control)

    def init(self, rng: torch.Generator) -> Tree:
        """The table before the first step."""
        table = super().init(rng)
        return WindowedQTable(table.q, table.visits, Window.empty(self.config.n), table.legal, table.steps)


# ------------------------------------------------------------------------------------------------- prediction
class WindowedVTable(NamedTuple):
    """The values of a given policy, and the last steps."""

    v: Tensor  # [S] float64
    visits: Tensor  # [S] int64
    window: Window
    policy: Tensor  # [S, A] float64, rows are probabilities
    legal: Tensor  # [S, A] bool
    steps: Tensor  # [] int64, environment steps; the sampler increments it


@inlined
def begin_prediction(config, table, obs, noise):
    """Clear the previous episode, then act by the policy."""
    table.window.length[()] = 0
    return act_by_policy(config, table, obs, noise)


@inlined
def learn_prediction(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Learn from the step n steps ago, or from all remaining steps if the episode ended, then act by the
    policy."""
    window = table.window
    append(window, obs, action, reward)
    min_length = 1 if terminated or truncated else len(window.obs)
    while window.length[()] >= min_length:
        following = 0.0 if terminated else table.v[next_obs]
        target = return_of_oldest(window, config.gamma, following)
        s = window.obs[window.oldest[()]]
        table.visits[s] += 1
        table.v[s] += step_size(config, table.visits[s]) * (target - table.v[s])
        drop_oldest(window)
    return act_by_policy(config, table, next_obs, noise)


@dataclass(frozen=True)
class NStepTD(NSteps, Prediction, StepSize):
    """Hyper-parameters of n-step TD, also called k-step TD, for discrete observations and actions."""

    def build(self, spec: EnvSpec, steps: int | None = None) -> NStepTDLearner:
        """The learner of these hyper-parameters for an environment."""
        return NStepTDLearner(self, spec, steps)


class NStepTDLearner(PredictionLearner):
    """n-step TD on a table."""

    begin = staticmethod(begin_prediction)
    learn = staticmethod(learn_prediction)

    def init(self, rng: torch.Generator) -> Tree:
        """The table before the first step."""
        table = super().init(rng)
        return WindowedVTable(
            table.v, table.visits, Window.empty(self.config.n), table.policy, table.legal, table.steps
        )
