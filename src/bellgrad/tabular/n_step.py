"""Temporal differences over n steps: SARSA for control, and the prediction of a given policy.

    G = r_1 + gamma r_2 + ... + gamma^(n-1) r_n + gamma^n V(s_n)
    V(s_0) <- V(s_0) + alpha (G - V(s_0))

and with Q(s_n, a_n) in place of V(s_n) for SARSA. At the end of an episode the returns of the last states
have fewer steps: where it terminated nothing follows them, where it was cut off the value of the state that
it had reached does. n = 1 is TD(0) and SARSA(0); n as long as the episode is every-visit Monte Carlo.

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
    behave,
    follow,
    inlined,
    step_size,
)

ALGORITHMS = {"n_step_sarsa": "NStepSARSA", "n_step_td": "NStepTD"}


@dataclass(frozen=True)
class NSteps(Tabular):
    """The field of learners that look n steps ahead.

    Attributes:
        n: rewards in a return, 1 or more.
    """

    n: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, n=(1, 1e6))


class Window(NamedTuple):
    """The last steps of the episode, as many as have not been learned from: a ring with room for n."""

    obs: Tensor  # [n] int64
    action: Tensor  # [n] int64
    reward: Tensor  # [n] float64
    oldest: Tensor  # [] int64, where in the ring the oldest step is
    length: Tensor  # [] int64

    @classmethod
    def empty(cls, n: int) -> Window:
        """No step yet."""
        whole, zero = torch.zeros(n, dtype=torch.int64), torch.tensor(0)
        return cls(whole, whole.clone(), whole.double(), zero, zero.clone())


@inlined
def put(window, obs, action, reward):
    """Add a step; there is room."""
    newest = (window.oldest[()] + window.length[()]) % len(window.obs)
    window.obs[newest], window.action[newest], window.reward[newest] = obs, action, reward
    window.length[()] += 1


@inlined
def drop(window):
    """Drop the oldest step."""
    window.oldest[()] = (window.oldest[()] + 1) % len(window.obs)
    window.length[()] -= 1


@inlined
def return_of_oldest(window, gamma, following):
    """The discounted return from the oldest step on, `following` being what comes after the newest."""
    total = following
    for k in range(window.length[()] - 1, -1, -1):
        total = window.reward[(window.oldest[()] + k) % len(window.obs)] + gamma * total
    return total


# ---------------------------------------------------------------------------------------------------- control
class WindowedQTable(NamedTuple):
    """The value of state-action pairs, and the last steps."""

    q: Tensor  # [S, A] float64
    visits: Tensor  # [S, A] int64
    window: Window
    legal: Tensor  # [S, A] bool
    steps: Tensor  # [] int64, environment steps; the sampler advances it


@inlined
def begin_control(config, table, obs, noise):
    """Forget the episode before, then act epsilon-greedily."""
    table.window.length[()] = 0
    return behave(config, table, obs, noise)


@inlined
def learn_control(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Choose the next action, then learn from the step n steps ago; from all that are left where the episode
    ended."""
    next_action = behave(config, table, next_obs, noise)
    window = table.window
    put(window, obs, action, reward)
    least = 1 if terminated or truncated else len(window.obs)
    while window.length[()] >= least:
        following = 0.0 if terminated else table.q[next_obs, next_action]
        target = return_of_oldest(window, config.gamma, following)
        s, a = window.obs[window.oldest[()]], window.action[window.oldest[()]]
        table.visits[s, a] += 1
        table.q[s, a] += step_size(config, table.visits[s, a]) * (target - table.q[s, a])
        drop(window)
    return next_action


@dataclass(frozen=True)
class NStepSARSA(NSteps, Control):
    """Hyper-parameters of n-step SARSA, for discrete observations and actions."""

    def build(self, spec: EnvSpec, steps: int | None = None) -> NStepSARSALearner:
        """Join these hyper-parameters to an environment; `steps` is the horizon of the schedule of
        epsilon."""
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
    """The value of a given policy, and the last steps."""

    v: Tensor  # [S] float64
    visits: Tensor  # [S] int64
    window: Window
    policy: Tensor  # [S, A] float64, rows are probabilities
    legal: Tensor  # [S, A] bool
    steps: Tensor  # [] int64, environment steps; the sampler advances it


@inlined
def begin_prediction(config, table, obs, noise):
    """Forget the episode before, then follow the policy."""
    table.window.length[()] = 0
    return follow(config, table, obs, noise)


@inlined
def learn_prediction(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """Learn from the step n steps ago, from all that are left where the episode ended, then follow the
    policy."""
    window = table.window
    put(window, obs, action, reward)
    least = 1 if terminated or truncated else len(window.obs)
    while window.length[()] >= least:
        following = 0.0 if terminated else table.v[next_obs]
        target = return_of_oldest(window, config.gamma, following)
        s = window.obs[window.oldest[()]]
        table.visits[s] += 1
        table.v[s] += step_size(config, table.visits[s]) * (target - table.v[s])
        drop(window)
    return follow(config, table, next_obs, noise)


@dataclass(frozen=True)
class NStepTD(NSteps, Prediction, StepSize):
    """Hyper-parameters of n-step TD, also called k-step TD, for discrete observations and actions."""

    def build(self, spec: EnvSpec, steps: int | None = None) -> NStepTDLearner:
        """Join these hyper-parameters to an environment."""
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
