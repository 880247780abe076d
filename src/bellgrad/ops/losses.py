"""Losses. Those named `*_loss` are means over the batch, `[]`; the others are per item, so that importance
weights can enter."""

from typing import NamedTuple

import torch
from torch import Tensor

from bellgrad.ops.checks import has_shape, same_shape


def policy_gradient_loss(logprob: Tensor, advantage: Tensor) -> Tensor:
    """Minus the mean of `A * log pi(a|s)`: minus its gradient estimates the policy gradient, per step.

    Args:
        logprob: `[B]` of the taken actions, with gradient.
        advantage: `[B]`; no gradient flows through it.

    Returns:
        `[]`.

    Raises:
        ValueError: shapes differ.

    Source: Sutton et al. 2000, "Policy gradient methods for reinforcement learning with function
    approximation", theorem 1.
    """
    same_shape(logprob=logprob, advantage=advantage)
    return -(logprob * advantage.detach()).mean()


def surrogate(logprob: Tensor, old_logprob: Tensor, advantage: Tensor) -> Tensor:
    """The mean of `ratio * A`, ratio = pi(a|s) / pi_old(a|s): to be maximized while the policy is near the
    old one.

    Args:
        logprob: `[B]` of the taken actions under the policy that learns.
        old_logprob: `[B]` under the policy that acted.
        advantage: `[B]`.

    Returns:
        `[]`.

    Raises:
        ValueError: shapes differ.

    Source: Schulman et al. 2015, arXiv 1502.05477, equation 14.
    """
    same_shape(logprob=logprob, old_logprob=old_logprob, advantage=advantage)
    return ((logprob - old_logprob).exp() * advantage).mean()


class PPOLoss(NamedTuple):
    """What `ppo_clip_loss` gives. Only `loss` carries a gradient."""

    loss: Tensor  # [] to be minimized
    approx_kl: Tensor  # [] estimate of KL(old || new), never negative
    clip_fraction: Tensor  # [] share of items whose ratio left [1 - epsilon, 1 + epsilon]


def ppo_clip_loss(
    logprob: Tensor, old_logprob: Tensor, advantage: Tensor, epsilon: float | Tensor
) -> PPOLoss:
    """The clipped surrogate: minus the mean of `min(ratio * A, clip(ratio, 1 - epsilon, 1 + epsilon) * A)`.

    Args:
        logprob: `[B]` of the taken actions under the policy that learns.
        old_logprob: `[B]` under the policy that acted.
        advantage: `[B]`.
        epsilon: clip range of the ratio, `[]`, above 0.

    Returns:
        `PPOLoss` of scalars.

    Raises:
        ValueError: shapes differ.

    Source: Schulman et al. 2017, arXiv 1707.06347, equation 7; approx_kl is k3 of Schulman 2020,
    "Approximating KL divergence".
    """
    same_shape(logprob=logprob, old_logprob=old_logprob, advantage=advantage)
    log_ratio = logprob - old_logprob
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)  # type: ignore[arg-type]  # torch types no float | Tensor
    loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
    change = ratio.detach() - 1
    return PPOLoss(
        loss, (change - log_ratio.detach()).mean(), (change.abs() > epsilon).to(ratio.dtype).mean()
    )


class PPOKLLoss(NamedTuple):
    """What `ppo_kl_loss` gives. Only `loss` carries a gradient."""

    loss: Tensor  # [] to be minimized
    approx_kl: Tensor  # [] estimate of KL(old || new), never negative


def ppo_kl_loss(logprob: Tensor, old_logprob: Tensor, advantage: Tensor, coef: float | Tensor) -> PPOKLLoss:
    """Minus the surrogate, plus the coefficient times an estimate of KL(old || new) from the taken actions.

    The estimate is the mean of `ratio - 1 - log ratio`. For actions of the old policy its expectation is the
    KL divergence, and the expectation of its gradient is the gradient of the KL divergence. The same is
    true of `-log ratio`, which has a larger variance.

    Args:
        logprob: `[B]` of the taken actions under the policy that learns.
        old_logprob: `[B]` under the policy that acted.
        advantage: `[B]`.
        coef: beta, `[]`, 0 or more.

    Returns:
        `PPOKLLoss` of scalars.

    Raises:
        ValueError: shapes differ.

    Source: Schulman et al. 2017, arXiv 1707.06347, equation 8; the estimate is k3 of Schulman 2020,
    "Approximating KL divergence".
    """
    log_ratio = logprob - old_logprob
    kl = (log_ratio.exp() - 1 - log_ratio).mean()
    return PPOKLLoss(coef * kl - surrogate(logprob, old_logprob, advantage), kl.detach())


def adapted_kl_coef(coef: Tensor, kl: Tensor, target: float) -> Tensor:
    """The penalty's next coefficient: doubled if the policy moved more than 1.5 targets, halved if less than
    target / 1.5.

    Args:
        coef: beta, `[]`, above 0.
        kl: how far the policy moved, `[]`, nats.
        target: how far it should, nats, above 0.

    Returns:
        `[]`, clipped to [1e-9, 1e9], so that a policy that does not move does not drive it to 0, which no
        doubling would leave.

    Source: Schulman et al. 2017, arXiv 1707.06347, section 4.
    """
    factor = torch.where(kl > 1.5 * target, 2.0, torch.where(kl < target / 1.5, 0.5, 1.0))
    return (coef * factor).clamp(1e-9, 1e9)


def clipped_value_loss(value: Tensor, old_value: Tensor, return_: Tensor, epsilon: float | Tensor) -> Tensor:
    """Half the mean squared error of the value, or of the value clipped to within epsilon of the old one,
    whichever is larger.

    Args:
        value: `[B]` that learns.
        old_value: `[B]` predicted when acting.
        return_: `[B]` the value target.
        epsilon: clip range in units of the value, `[]`, above 0.

    Returns:
        `[]`.

    Raises:
        ValueError: shapes differ.

    Source: the PPO2 of OpenAI Baselines; detail 9 of Huang et al. 2022, "The 37 implementation details of
    PPO".
    """
    same_shape(value=value, old_value=old_value, return_=return_)
    clipped = old_value + (value - old_value).clamp(-epsilon, epsilon)  # type: ignore[arg-type]  # as above
    return 0.5 * torch.maximum((value - return_).square(), (clipped - return_).square()).mean()


def normalize_advantage(advantage: Tensor, mask: Tensor | None = None) -> Tensor:
    """Shift and scale to mean 0 and standard deviation 1 over all items; a single item comes back as it is.

    Args:
        advantage: any shape.
        mask: bool, the same shape or its first axes: the items of which mean and standard deviation are
            taken; None for all.

    Returns:
        The same shape. A batch of one has no standard deviation, and centering would make it 0.

    Raises:
        ValueError: the mask's shape does not fit.
    """
    if mask is None:
        if advantage.numel() < 2:
            return advantage
        return (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    has_shape(advantage.shape[: mask.dim()], mask=mask)
    inside = mask.reshape(*mask.shape, *[1] * (advantage.dim() - mask.dim())).expand_as(advantage)
    items = inside.sum()
    centered = advantage - torch.where(inside, advantage, 0.0).sum() / items.clamp(min=1)
    variance = torch.where(inside, centered, 0.0).square().sum() / (items - 1).clamp(min=1)
    return torch.where(items < 2, advantage, centered / (variance.sqrt() + 1e-8))


def sac_actor_loss(logprob: Tensor, q: Tensor, alpha: float | Tensor) -> Tensor:
    """The mean of `alpha * log pi(a|s) - min_e Q_e(s, a)`.

    Args:
        logprob: `[B]` of reparameterized actions.
        q: `[E, B]` of the critics at those actions.
        alpha: temperature, `[]`, without gradient.

    Returns:
        `[]`.

    Raises:
        ValueError: shapes do not match.

    Source: Haarnoja et al. 2018, arXiv 1812.05905, equation 9.
    """
    has_shape(q.shape[1:], logprob=logprob)
    if isinstance(alpha, Tensor):
        has_shape((), alpha=alpha)
    return (alpha * logprob - q.amin(0)).mean()


def sac_temperature_loss(log_alpha: Tensor, logprob: Tensor, target_entropy: float) -> Tensor:
    """Minus the mean of `log_alpha * (log pi(a|s) + target_entropy)`: alpha rises while the entropy is below
    its target.

    Args:
        log_alpha: `[]`.
        logprob: `[B]` of the policy's actions; its gradient is stopped.
        target_entropy: usually minus the number of action dimensions (nats).

    Returns:
        `[]`.

    Raises:
        ValueError: `log_alpha` is not a scalar or `logprob` is not `[B]`.

    Source: Haarnoja et al. 2018, arXiv 1812.05905, equation 18, on log alpha as the authors' code has it.
    """
    has_shape((), log_alpha=log_alpha)
    has_shape(logprob.shape[:1], logprob=logprob)
    return -log_alpha * (logprob.detach().mean() + target_entropy)
