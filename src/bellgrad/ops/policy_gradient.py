"""Estimates of the policy gradient, as losses whose gradient they are. Each column of `[T, B]` is an episode,
padded at its end.

    dJ = E[sum_t gamma^t Phi_t dlog pi(a_t | s_t)]

    Phi_t                                         made by
    R(tau) / gamma^t, the whole return            `total_return`, which takes the place of gamma^t Phi_t
    G_t, the reward to go                         `ops.returns.discounted_returns`
    G_t - b(s_t)                                  the same, minus a baseline
    Q(s_t, a_t), A(s_t, a_t)                      a critic
    r_t + gamma V(s_{t+1}) - V(s_t)               `ops.returns.td_residual`
    GAE(lambda)                                   `ops.returns.gae`

With the true V and Q each of them gives the gradient without bias. A baseline does not change the mean, since
what depends on the state alone has mean 0: E[dlog pi(a | s) b(s)] = b(s) sum_a dpi(a | s) = 0, the
expected gradient of the log-probability (EGLP).

Source: Schulman et al. 2016, arXiv 1506.02438, equation 1; gamma^t: Sutton and Barto 2018, section 13.3;
EGLP: Spinning Up, "Intro to policy optimization".
"""

from collections.abc import Callable

import torch
from torch import Tensor

from bellgrad.ops.checks import has_shape, same_shape
from bellgrad.ops.distributions import DiagonalGaussian
from bellgrad.ops.returns import discounted_returns


def total_return(reward: Tensor, gamma: float, mask: Tensor) -> Tensor:
    """R(tau), the return of the whole episode, at each of its steps: the weight of the simplest policy
    gradient.

    It is discounted from the episode's start, so that it is `gamma^t Phi_t` already: it needs no weight
    gamma^t.

    Args:
        reward: `[T, B]`, one episode per column.
        gamma: discount per step, in [0, 1].
        mask: `[T, B]` bool, True if the step was taken.

    Returns:
        `[T, B]`, 0 on padding.

    Raises:
        ValueError: shapes differ.

    Source: Schulman et al. 2016, below equation 1, number 1.
    """
    return torch.where(mask, discounted_returns(reward, gamma, mask)[:1], 0.0)


def discount_weight(age: Tensor, gamma: float) -> Tensor:
    """`gamma^t`, the weight of step t in the gradient of a discounted return.

    Args:
        age: t, steps of the episode before this one, int64, any shape.
        gamma: discount per step, in [0, 1].

    Returns:
        The same shape, floating point.

    Source: Sutton and Barto 2018, section 13.3, the box of REINFORCE.
    """
    return torch.pow(gamma, age)


def geometric_mask(age: Tensor, gamma: float, noise: Tensor) -> Tensor:
    """Whether to learn from a step: with probability `gamma^t`, so that the kept steps are a sample of the
    discounted visits.

    The mean is `discount_weight`; late steps are left out instead of having a small weight.

    Args:
        age: t, steps of the episode before this one, int64, any shape.
        gamma: discount per step, in [0, 1].
        noise: the same shape, uniform on [0, 1).

    Returns:
        The same shape, bool.

    Raises:
        ValueError: shapes differ.
    """
    same_shape(age=age, noise=noise)
    return noise < discount_weight(age, gamma)


def score_function_loss(
    logprob: Tensor, phi: Tensor, weight: Tensor | None, mask: Tensor | None, episodes: int | Tensor
) -> Tensor:
    """Minus the sum over all steps of `weight * phi * log pi(a|s)`, per episode: minus its gradient estimates
    dJ.

    J is the return of an episode, so that the sum is divided by the number of episodes. The number of steps
    depends on the actions; a sum divided by that would be a ratio of two random numbers, which is biased.

    Args:
        logprob: `[T, B]` of the actions taken, with gradient.
        phi: `[T, B]`; no gradient flows through it.
        weight: `[T, B]` as of `discount_weight`; None for 1 everywhere.
        mask: `[T, B]` bool, True for the steps that count; the others may hold anything. None for all.
        episodes: how many there are, 1 or more.

    Returns:
        `[]`, to be minimized.

    Raises:
        ValueError: shapes differ.

    Source: Williams 1992, "Simple statistical gradient-following algorithms", theorem 1; Schulman et al.
    2016, equation 1.
    """
    same_shape(logprob=logprob, phi=phi)
    return _per_episode(logprob[..., None], phi[..., None], weight, mask, episodes)


def all_actions_loss(
    prob: Tensor, q: Tensor, weight: Tensor | None, mask: Tensor | None, episodes: int | Tensor
) -> Tensor:
    """Minus the sum over all steps of `weight * sum_a pi(a|s) Q(s, a)`, per episode: it does not depend on
    which action was drawn.

    Args:
        prob: `[T, B, A]` probabilities of all actions, with gradient.
        q: `[T, B, A]` action values or advantages, of any value if the probability is 0; no gradient flows
            through it.
        weight: `[T, B]` as of `discount_weight`; None for 1 everywhere.
        mask: `[T, B]` bool, True for the steps that count; the others may hold anything. None for all.
        episodes: how many there are, 1 or more.

    Returns:
        `[]`, to be minimized.

    Raises:
        ValueError: shapes differ.

    Source: Sutton and Barto 2018, equation 13.7; Allen et al. 2017, arXiv 1709.00503, "Mean actor critic".
    """
    same_shape(prob=prob, q=q)
    return _per_episode(prob, torch.where(prob > 0, q, 0.0), weight, mask, episodes)


def _per_episode(
    term: Tensor, factor: Tensor, weight: Tensor | None, mask: Tensor | None, episodes: int | Tensor
) -> Tensor:
    """Minus the sum of `weight * factor * term [T, B, A]`, per episode."""
    factor = factor.detach()
    if weight is not None:
        has_shape(term.shape[:-1], weight=weight)
        factor = weight[..., None] * factor
    if mask is not None:
        has_shape(term.shape[:-1], mask=mask)
        factor, term = torch.where(mask[..., None], factor, 0.0), torch.where(mask[..., None], term, 0.0)
    return -(factor * term).sum() / episodes


def pathwise(f: Callable[[Tensor], Tensor], distribution: DiagonalGaussian, noise: Tensor) -> Tensor:
    """`f(x)` of reparameterized draws: its gradient in the distribution's parameters estimates that of
    `E[f(x)]`.

    Args:
        f: `[B, D]` to `[B]`, differentiable.
        distribution: of x, `[B, D]`.
        noise: `[B, D]` standard normal.

    Returns:
        `[B]`.

    Raises:
        ValueError: shapes do not match.

    Source: Kingma and Welling 2014, arXiv 1312.6114, section 2.4; Mohamed et al. 2020, arXiv 1906.10652,
    section 5.
    """
    value = f(distribution.sample(noise))
    has_shape(noise.shape[:1], value=value)
    return value


def score_function(
    f: Callable[[Tensor], Tensor],
    distribution: DiagonalGaussian,
    noise: Tensor,
    baseline: float | Tensor = 0.0,
) -> Tensor:
    """`(f(x) - b) log p(x)` of drawn x: its gradient in the distribution's parameters estimates that of
    `E[f(x)]`.

    Only its gradient has a meaning, not its value. f need not be differentiable.

    Args:
        f: `[B, D]` to `[B]`.
        distribution: of x, `[B, D]`.
        noise: `[B, D]` standard normal.
        baseline: b, `[]` or `[B]`, which must not depend on x.

    Returns:
        `[B]`.

    Raises:
        ValueError: shapes do not match.

    Source: Williams 1992, section 6; Mohamed et al. 2020, arXiv 1906.10652, section 4.
    """
    x = distribution.sample(noise).detach()
    value = f(x).detach()
    has_shape(noise.shape[:1], value=value)
    if isinstance(baseline, Tensor) and baseline.dim():
        same_shape(value=value, baseline=baseline)
    return (value - baseline) * distribution.logprob(x)
