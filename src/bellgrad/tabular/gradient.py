"""Q-learning and SARSA as stochastic gradient descent on a squared error, with values that are linear in
features.

    L(w) = 1/2 (Q_w(s, a) - target)^2        the target counts as a constant
    w <- w - alpha dL/dw,                     dL/dw = (Q_w(s, a) - target) x(s)

where Q_w(s, a) is the sum of the weights `w[i, a]` of the features i that are active in s. The target of
Q-learning is r + gamma max_a' Q_w(s', a'), that of SARSA r + gamma Q_w(s', a'). If every state has its own
feature, this is the table form. For a Box the features are tiles, and the step size is divided by the number
of active tiles, one per tiling.

Source: Sutton and Barto (2018), sections 9.3 and 10.1 (semi-gradient methods), 9.5.4 (tile coding).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from gymnasium.spaces import MultiDiscrete, Space
from torch import Tensor

from bellgrad.core.records import EnvSpec
from bellgrad.core.tree import Tree
from bellgrad.tabular.common import (
    Control,
    TabularLearner,
    epsilon_at,
    epsilon_greedy,
    epsilon_greedy_probabilities,
    inlined,
    max_q,
    next_uniform,
    step_size,
)

ALGORITHMS = {"gradient_q_learning": "GradientQLearning", "gradient_sarsa": "GradientSARSA"}


class Weights(NamedTuple):
    """The weights of `F` features for each action."""

    weights: Tensor  # [F, A] float64
    visits: Tensor  # [F, A] int64
    # [S, 1] int64, the active features of each state; [0, n] if an observation is its active features
    features: Tensor
    legal: Tensor  # [F, A] bool
    steps: Tensor  # [] int64, environment steps; the sampler increments it


@inlined
def q_of_features(table, features):
    """`Q_w(s, .) [A]` of the state with the active features `[n]`."""
    q = np.zeros(table.weights.shape[1])
    for i in features:
        for action in range(len(q)):
            q[action] += table.weights[i, action]
    return q


@inlined
def act(config, table, features, noise):
    """An epsilon-greedy action."""
    return epsilon_greedy(
        q_of_features(table, features),
        table.legal[features[0]],
        epsilon_at(config, table.steps[()]),
        next_uniform(noise),
    )


@inlined
def gradient_step(config, table, features, action, target):
    """One gradient step on the squared error, with the target as a constant."""
    q = 0.0
    for i in features:
        q += table.weights[i, action]
    for i in features:
        table.visits[i, action] += 1
        alpha = step_size(config, table.visits[i, action]) / len(features)
        table.weights[i, action] -= alpha * (q - target)


@inlined
def learn_q(config, table, features, action, reward, next_features, terminated, truncated, noise):
    """Learn towards the target of Q-learning, then act."""
    following = (
        0.0 if terminated else max_q(q_of_features(table, next_features), table.legal[next_features[0]])
    )
    gradient_step(config, table, features, action, reward + config.gamma * following)
    return act(config, table, next_features, noise)


@inlined
def learn_sarsa(config, table, features, action, reward, next_features, terminated, truncated, noise):
    """Choose the next action, then learn towards the target of SARSA."""
    next_action = act(config, table, next_features, noise)
    following = 0.0 if terminated else q_of_features(table, next_features)[next_action]
    gradient_step(config, table, features, action, reward + config.gamma * following)
    return next_action


@inlined
def begin_in_state(config, table, obs, noise):
    """`act` for the number of a state."""
    return act(config, table, table.features[obs], noise)


@inlined
def learn_q_in_state(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """`learn_q` for the numbers of two states."""
    features, next_features = table.features[obs], table.features[next_obs]
    return learn_q(config, table, features, action, reward, next_features, terminated, truncated, noise)


@inlined
def learn_sarsa_in_state(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """`learn_sarsa` for the numbers of two states."""
    features, next_features = table.features[obs], table.features[next_obs]
    return learn_sarsa(config, table, features, action, reward, next_features, terminated, truncated, noise)


@dataclass(frozen=True)
class GradientQLearning(Control):
    """Hyper-parameters of Q-learning by gradient descent, for Discrete or tile-coded observations."""

    def build(self, spec: EnvSpec, steps: int | None = None) -> LinearLearner:
        """The learner of these hyper-parameters for an environment; epsilon is scheduled over `steps`."""
        return LinearLearner(self, spec, steps, (learn_q, learn_q_in_state))


@dataclass(frozen=True)
class GradientSARSA(Control):
    """Hyper-parameters of SARSA by gradient descent, for Discrete or tile-coded observations."""

    def build(self, spec: EnvSpec, steps: int | None = None) -> LinearLearner:
        """The learner of these hyper-parameters for an environment; epsilon is scheduled over `steps`."""
        return LinearLearner(self, spec, steps, (learn_sarsa, learn_sarsa_in_state))


class LinearLearner(TabularLearner):
    """A learner of weights. `learn` is a pair of functions: for active features, and for the numbers of
    states."""

    def __init__(self, config: Control, spec: EnvSpec, steps: int | None, learn: tuple):
        super().__init__(config, spec, steps)
        tiled = isinstance(spec.observation_space, MultiDiscrete)
        self.begin, self.learn = (act, learn[0]) if tiled else (begin_in_state, learn[1])

    def num_rows(self, space: Space) -> int:
        """The number of features; with tile coding, every entry of `nvec`."""
        return int(space.nvec[0]) if isinstance(space, MultiDiscrete) else super().num_rows(space)

    def init(self, rng: torch.Generator) -> Tree:
        """The weights before the first step; every value is `initial_value`."""
        space = self.spec.observation_space
        features = torch.arange(self.num_states).unsqueeze(1)
        if isinstance(space, MultiDiscrete):
            features = torch.zeros(0, len(space.nvec), dtype=torch.int64)
        weights = self.full(self.config.initial_value / features.shape[1])
        return Weights(weights, self.full(0, torch.int64), features, self.legal(), torch.tensor(0))

    def action_value(self, state: Weights) -> Tensor:
        """`[S, A]` float64; `[0, A]` with tile coding, where the states are not numbered."""
        return state.weights[state.features].sum(1)

    def action_probabilities(self, state: Weights, obs: Tensor, explore: bool) -> Tensor:
        """`[B, A]` float64, for `obs [B]`, or `[B, n]` active features."""
        features = obs if obs.dim() == 2 else state.features[obs]
        q = state.weights[features].sum(1)
        return epsilon_greedy_probabilities(
            q, state.legal[features[:, 0]], self.epsilon(state) if explore else 0.0
        )
