"""What A2C and VPG share: advantages that may be weighted by how far into the episode a step is, and the loss
of the policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from bellgrad.algos.actor_critic import ActorCritic, ActorCriticLearner
from bellgrad.core.records import Metrics, Minibatch, Rollout
from bellgrad.core.rng import Noise
from bellgrad.core.tree import Tree
from bellgrad.nets.policy import Distribution
from bellgrad.ops.losses import normalize_advantage, policy_gradient_loss
from bellgrad.ops.policy_gradient import discount_weight, geometric_mask


@dataclass(frozen=True)
class PolicyGradient(ActorCritic):
    """Hyper-parameters that these algorithms share.

    Attributes:
        state_weight: how much step t of an episode counts in the policy gradient. `none`: all alike.
            `discount`: gamma^t, as in the gradient of the discounted return. `geometric`: it is kept with
            probability gamma^t, which has the same mean.
    """

    state_weight: Literal["none", "discount", "geometric"] = "none"


class PolicyGradientLearner(ActorCriticLearner):
    """Weighted advantages, and the loss whose gradient is the policy gradient."""

    def prepare_noise(self, num_envs: int) -> Noise | None:
        """A uniform for each step, if steps are kept at random."""
        c = self.config
        return Noise("uniform", (c.rollout_steps, num_envs)) if c.state_weight == "geometric" else None

    def prepare(self, state: Any, rollout: Rollout, noise: Tree = None) -> tuple[Any, Minibatch, Metrics]:
        """As in `ActorCriticLearner`; the advantages are normalized over the rollout, then weighted by
        `state_weight`."""
        c = self.config
        state, whole, metrics = super().prepare(state, rollout)
        advantage = normalize_advantage(whole.advantage) if c.normalize_advantages else whole.advantage
        if c.state_weight == "discount":
            advantage = advantage * discount_weight(rollout.age, c.gamma)
        elif c.state_weight == "geometric":
            advantage = torch.where(geometric_mask(rollout.age, c.gamma, noise), advantage, 0.0)
        return state, whole._replace(advantage=advantage), metrics

    def policy_loss(self, policy: Distribution, batch: Minibatch) -> tuple[Tensor, Metrics]:
        """Minus the surrogate whose gradient is the policy gradient, less the entropy bonus."""
        c = self.config
        loss = policy_gradient_loss(policy.logprob(batch.action), batch.advantage)
        entropy = policy.entropy().mean()
        bonus = c.entropy_coef * entropy if c.entropy_coef else 0.0  # 0 need not be differentiated
        return loss - bonus, {"policy_loss": loss, "entropy": entropy}
