"""What the actor-critics share that learn continuous actions from a replay: the networks, the step of the
critics.

Actor and critics are built from one network specification. The critics are stacked, so that they are one
batched product: every leaf of their parameters is [E, ...]. A member adds its state, its policy and its
targets.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

from bellgrad.algos.from_replay import FromReplayLearner
from bellgrad.core.actions import unusable_bounds
from bellgrad.core.errors import UsageError
from bellgrad.core.records import Batch, EnvSpec
from bellgrad.core.rng import Noise
from bellgrad.core.tree import Tree
from bellgrad.nets.build import build, init_params, skeleton
from bellgrad.nets.layers import apply
from bellgrad.ops.grads import Params, value_and_grad
from bellgrad.ops.targets import squared_error


class CriticStep(NamedTuple):
    """What one step of the critics gives."""

    params: Params
    optimizer: Tree  # its state
    loss: Tensor  # [] before the step, the sum over the critics
    q: Tensor  # [] the mean prediction
    td_error: Tensor  # [B] 0 or more, the mean over the critics: the transition's priority in the replay


class OffPolicyActorCriticLearner(FromReplayLearner):
    """The networks of one environment and what is done with them; the subclass adds the state, `init`, `act`
    and `update`.

    Args:
        config: the algorithm's hyper-parameters, with the fields of `FromReplay`.
        spec: the environment.
        outputs_per_dimension: numbers that the actor gives for each action dimension: 1 for the action, 2 for
            mean and standard deviation.
        critics: E, how many there are.

    Attributes:
        action_size: D.

    Raises:
        UsageError: the action space is not a Box with finite bounds.
    """

    def __init__(self, config: Any, spec: EnvSpec, *, outputs_per_dimension: int = 1, critics: int = 2):
        name, space = type(config).__name__, spec.action_space
        if not isinstance(space, Box):
            raise UsageError(f"{name} needs a Box action space; {spec.id} has {space}. Try dqn or ppo.")
        wrong = unusable_bounds(space)
        if wrong is not None:
            raise UsageError(f"{name} needs actions with finite bounds; {spec.id} has {space}, with {wrong}.")
        self.config, self.spec = config, spec
        self.action_size = math.prod(space.shape)
        self._actor_outputs, self._critics = outputs_per_dimension * self.action_size, critics
        self._actor, self._critic = skeleton(self.actor_network), skeleton(self.critic_network)

    def actor_network(self) -> nn.Module:
        """The actor with random parameters: `obs [B, *O]` to `[B, D * outputs_per_dimension]`."""
        return build(self.config.network, self.spec.observation_space, self._actor_outputs)

    def critic_network(self) -> nn.Module:
        """The critics with random parameters: `obs [B, *O]` and `action [B, D]` to `[E, B, 1]`."""
        observed, action_size = self.spec.observation_space, self.action_size
        return build(self.config.network, observed, 1, action_size=action_size, ensemble=self._critics)

    def init_networks(self, rng: torch.Generator) -> tuple[Params, Params]:
        """Random parameters of the actor and of the critics."""
        actor = init_params(self.actor_network, rng)
        return actor, init_params(self.critic_network, rng)

    def actor_output(self, actor: Params, obs: Tree) -> Tensor:
        """What the actor's network gives for `obs [B, *O]`: `[B, D * outputs_per_dimension]`."""
        return apply(self._actor, actor, obs)

    def q(self, critic: Params, obs: Tree, action: Tensor) -> Tensor:
        """Every critic's value of `action [B, D]`: `[E, B]`."""
        return apply(self._critic, critic, obs, action).squeeze(-1)

    def act_noise(self, num_envs: int) -> Tree:
        """A standard normal for every action dimension."""
        return Noise("normal", (num_envs, self.action_size))

    def critic_step(self, critic: Params, optimizer: Tree, batch: Batch, target: Tensor) -> CriticStep:
        """One step of all critics down their weighted squared error.

        Args:
            critic: their parameters.
            optimizer: its state for these.
            batch: of transitions.
            target: `[B]` what they are to predict; no gradient flows through it.
        """

        def loss(critic: Params) -> tuple[Tensor, Tensor]:
            q = self.q(critic, batch.obs, batch.action)
            return (batch.weight * squared_error(q - target)).mean(-1).sum(), q

        (value, q), grads = value_and_grad(loss, has_aux=True)(critic)
        critic, optimizer = self.descend(critic, grads, optimizer)
        return CriticStep(critic, optimizer, value, q.mean(), (q - target).abs().mean(0))
