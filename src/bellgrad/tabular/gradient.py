"""Q-learning and SARSA as stochastic gradient descent on a squared error, with values that are linear in
features.

    L(w) = 1/2 (Q_w(s, a) - target)^2        the target is held fixed
    w <- w - alpha dL/dw,                     dL/dw = (Q_w(s, a) - target) x(s)

with Q_w(s, a) the sum of the weights `w[i, a]` of the features i that are active in s. For Q-learning the
target is r + gamma max_a' Q_w(s', a'), for SARSA r + gamma Q_w(s', a'). Where every state is a feature of its
own this is the table form. Over a Box the features are tiles, and the step size is shared among the active
ones, one of each tiling.

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
    best,
    chances,
    draw,
    epsilon_at,
    epsilon_greedy,
    inlined,
    step_size,
)

ALGORITHMS = {"gradient_q_learning": "GradientQLearning", "gradient_sarsa": "GradientSARSA"}


class Weights(NamedTuple):
    """The weights of `F` features for each action."""

    weights: Tensor  # [F, A] float64
    visits: Tensor  # [F, A] int64
    features: (
        Tensor  # [S, 1] int64, each state's active features; [0, n] if an observation is its active features
    )
    legal: Tensor  # [F, A] bool
    steps: Tensor  # [] int64, environment steps; the sampler advances it


@inlined
def values(table, features):
    """`Q_w(s, .) [A]` of the state with these active features `[n]`."""
    q = np.zeros(table.weights.shape[1])
    for i in features:
        for action in range(len(q)):
            q[action] += table.weights[i, action]
    return q


@inlined
def act(config, table, features, noise):
    """An epsilon-greedy action."""
    return epsilon_greedy(
        values(table, features), table.legal[features[0]], epsilon_at(config, table.steps[()]), draw(noise)
    )


@inlined
def descend(config, table, features, action, target):
    """One step down the gradient of the squared error, the target held fixed."""
    q = 0.0
    for i in features:
        q += table.weights[i, action]
    for i in features:
        table.visits[i, action] += 1
        alpha = step_size(config, table.visits[i, action]) / len(features)
        table.weights[i, action] -= alpha * (q - target)


@inlined
def learn_q(config, table, features, action, reward, next_features, terminated, truncated, noise):
    """Q-learning's target."""
    following = 0.0 if terminated else best(values(table, next_features), table.legal[next_features[0]])
    descend(config, table, features, action, reward + config.gamma * following)
    return act(config, table, next_features, noise)


@inlined
def learn_sarsa(config, table, features, action, reward, next_features, terminated, truncated, noise):
    """SARSA's target, for which the next action is chosen first."""
    next_action = act(config, table, next_features, noise)
    following = 0.0 if terminated else values(table, next_features)[next_action]
    descend(config, table, features, action, reward + config.gamma * following)
    return next_action


@inlined
def begin_in_state(config, table, obs, noise):
    """`act` in a state that is given by its number."""
    return act(config, table, table.features[obs], noise)


@inlined
def learn_q_in_state(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """`learn_q` between two states that are given by their numbers."""
    features, next_features = table.features[obs], table.features[next_obs]
    return learn_q(config, table, features, action, reward, next_features, terminated, truncated, noise)


@inlined
def learn_sarsa_in_state(config, table, obs, action, reward, next_obs, terminated, truncated, noise):
    """`learn_sarsa` between two states that are given by their numbers."""
    features, next_features = table.features[obs], table.features[next_obs]
    return learn_sarsa(config, table, features, action, reward, next_features, terminated, truncated, noise)


@dataclass(frozen=True)
class GradientQLearning(Control):
    """Hyper-parameters of Q-learning by gradient descent, for Discrete observations, or a Box under tile
    coding."""

    def build(self, spec: EnvSpec, steps: int | None = None) -> LinearLearner:
        """Join these hyper-parameters to an environment; `steps` is the horizon of the schedule of
        epsilon."""
        return LinearLearner(self, spec, steps, (learn_q, learn_q_in_state))


@dataclass(frozen=True)
class GradientSARSA(Control):
    """Hyper-parameters of SARSA by gradient descent, for Discrete observations, or a Box under tile
    coding."""

    def build(self, spec: EnvSpec, steps: int | None = None) -> LinearLearner:
        """Join these hyper-parameters to an environment; `steps` is the horizon of the schedule of
        epsilon."""
        return LinearLearner(self, spec, steps, (learn_sarsa, learn_sarsa_in_state))


class LinearLearner(TabularLearner):
    """A learner of weights. `learn` is its function of active features, and its function of the numbers of
    states."""

    def __init__(self, config: Control, spec: EnvSpec, steps: int | None, learn: tuple):
        super().__init__(config, spec, steps)
        tiled = isinstance(spec.observation_space, MultiDiscrete)
        self.begin, self.learn = (act, learn[0]) if tiled else (begin_in_state, learn[1])

    def rows_for(self, space: Space) -> int:
        """How many features there are; tile coding counts them in every part of the observation."""
        return int(space.nvec[0]) if isinstance(space, MultiDiscrete) else super().rows_for(space)

    def init(self, rng: torch.Generator) -> Tree:
        """The weights before the first step: all values are the initial one."""
        space = self.spec.observation_space
        features = torch.arange(self.num_states).unsqueeze(1)
        if isinstance(space, MultiDiscrete):
            features = torch.zeros(0, len(space.nvec), dtype=torch.int64)
        weights = self.full(self.config.initial_value / features.shape[1])
        return Weights(weights, self.full(0, torch.int64), features, self.legal(), torch.tensor(0))

    def action_value(self, state: Weights) -> Tensor:
        """`[S, A]` float64; `[0, A]` under tile coding, which knows no number of states."""
        return state.weights[state.features].sum(1)

    def chances(self, state: Weights, obs: Tensor, explore: bool) -> Tensor:
        """`[B, A]` float64, for `obs [B]`, or `[B, n]` active features."""
        features = obs if obs.dim() == 2 else state.features[obs]
        q = state.weights[features].sum(1)
        return chances(q, state.legal[features[:, 0]], self.epsilon(state) if explore else 0.0)
