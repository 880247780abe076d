"""Deep Q-network.

    L(params) = E[ loss( Q(s, a; params) - y ) ]
    y = r + gamma * Q(s', argmax_a' Q(s', a'; selector); target)

with the target network as the selector (DQN) or the one that learns (Double DQN), a discount of zero if the
episode terminated, and a behavior policy that is epsilon-greedy. The target network is copied every
`target_period` updates, or, with `tau` below 1, moves by `tau` towards the network that learns.

Source: Mnih et al. 2015, "Human-level control through deep reinforcement learning", algorithm 1; double
target: van Hasselt et al. 2016, equation 4. Deviates from the 2015 recipe by default in the optimizer (Adam),
the Huber loss on the whole error (the paper clips the error's derivative, which is the same thing) and the
small network; the preset `atari` restores the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from bellgrad.algos.deep_q import DeepQ, DeepQLearner, DeepQState, Losses
from bellgrad.core.records import Batch, EnvSpec
from bellgrad.ops.grads import Params
from bellgrad.ops.targets import double_q_target, huber, q_learning_target, squared_error, value_of_action

ALGORITHMS = {"dqn": "DQN"}


@dataclass(frozen=True)
class DQN(DeepQ):
    """Hyper-parameters of a deep Q-network, for discrete actions.

    Attributes:
        double: choose the next action with the network that learns (van Hasselt et al. 2016).
        loss: of the TD error: `huber` (quadratic within 1, linear beyond) or `squared`.
        network: from an observation to one Q-value per action; an `MLP`, a `CNN`, or a user's own `nn.Module`
            class.
    """

    double: bool = True
    loss: Literal["huber", "squared"] = "huber"

    def build(self, spec: EnvSpec, steps: int | None = None) -> DQNLearner:
        """Join these hyper-parameters to an environment; no schedule here depends on the planned `steps`."""
        return DQNLearner(self, spec)


class DQNLearner(DeepQLearner):
    """The pure functions of DQN for one environment."""

    config: DQN

    def target(self, state: DeepQState, batch: Batch, noise: None = None) -> Tensor:
        """The temporal-difference target y: `[B]`."""
        next_q_target = self.q(state.target, batch.next_obs)
        if not self.config.double:
            return q_learning_target(batch.reward, batch.discount, next_q_target)
        next_q = self.q(state.params, batch.next_obs)
        return double_q_target(batch.reward, batch.discount, next_q, next_q_target)

    def losses(self, params: Params, batch: Batch, target: Tensor, noise: None = None) -> Losses:
        """The loss of every TD error."""
        q = value_of_action(self.q(params, batch.obs), batch.action)
        error = q - target
        loss = huber if self.config.loss == "huber" else squared_error
        return Losses(loss(error), error.abs(), {"q": q.mean()})
