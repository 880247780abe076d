"""Distributions of actions as NamedTuples. Random numbers come in as an argument, so sampling is pure and
differentiable."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from bellgrad.ops.checks import has_shape, same_shape

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Categorical(NamedTuple):
    """A choice among `A` actions. A logit of minus infinity forbids an action."""

    logits: Tensor  # [B, A] unnormalized log-probabilities

    def logprobs(self) -> Tensor:
        """Normalized log-probabilities `[B, A]`."""
        return self.logits.log_softmax(-1)

    def sample(self, noise: Tensor) -> Tensor:
        """Actions `[B]` int64 by inverting the cumulative distribution at `noise [B]`, uniform on [0, 1].

        A forbidden action is never drawn, whatever the noise, even 0 or 1.

        Raises:
            ValueError: shapes do not match.
        """
        has_shape(self.logits.shape[:-1], noise=noise)
        cumulative = self.logits.softmax(-1).cumsum(-1)
        total = cumulative[..., -1:]  # 1 up to rounding
        below_total = total * (1 - 2 * torch.finfo(total.dtype).eps)
        return (cumulative <= torch.minimum(noise[..., None] * total, below_total)).sum(-1)

    def logprob(self, action: Tensor) -> Tensor:
        """Log-probability `[B]` of `action [B]` int64.

        Raises:
            ValueError: shapes do not match.
        """
        has_shape(self.logits.shape[:-1], action=action)
        return self.logprobs().gather(-1, action[..., None]).squeeze(-1)

    def entropy(self) -> Tensor:
        """Entropy `[B]`, nats."""
        logprobs = self.logprobs()
        return -(logprobs.exp() * _finite(logprobs)).sum(-1)

    def kl(self, other: "Categorical") -> Tensor:
        """`KL(self || other) [B]`, nats.

        Raises:
            ValueError: shapes differ.
        """
        same_shape(logits=self.logits, other=other.logits)
        logprobs = self.logprobs()
        return (logprobs.exp() * (_finite(logprobs) - _finite(other.logprobs()))).sum(-1)

    def mode(self) -> Tensor:
        """The most probable action `[B]` int64."""
        return self.logits.argmax(-1)


class MultiCategorical(NamedTuple):
    """Independent choices, one per action dimension. Dimensions with fewer actions than `N` are padded
    with minus infinity."""

    logits: Tensor  # [B, D, N] unnormalized log-probabilities

    @classmethod
    def of(cls, logits: Tensor, sizes: Sequence[int]) -> "MultiCategorical":
        """From the logits of all dimensions in one row, `[B, sum(sizes)]`.

        Raises:
            ValueError: the row is of another length.
        """
        has_shape((*logits.shape[:-1], sum(sizes)), logits=logits)
        parts = [
            F.pad(part, (0, max(sizes) - part.shape[-1]), value=-math.inf)
            for part in torch.split(logits, list(sizes), -1)
        ]
        return cls(torch.stack(parts, -2))

    def sample(self, noise: Tensor) -> Tensor:
        """Actions `[B, D]` int64 from `noise [B, D]`, uniform on [0, 1]; a forbidden one is never drawn.

        Raises:
            ValueError: shapes do not match.
        """
        return Categorical(self.logits).sample(noise)

    def logprob(self, action: Tensor) -> Tensor:
        """Log-probability `[B]` of `action [B, D]` int64: the sum over dimensions.

        Raises:
            ValueError: shapes do not match.
        """
        return Categorical(self.logits).logprob(action).sum(-1)

    def entropy(self) -> Tensor:
        """Entropy `[B]`, nats: the sum over dimensions."""
        return Categorical(self.logits).entropy().sum(-1)

    def kl(self, other: "MultiCategorical") -> Tensor:
        """`KL(self || other) [B]`, nats: the sum over dimensions.

        Raises:
            ValueError: shapes differ.
        """
        return Categorical(self.logits).kl(Categorical(other.logits)).sum(-1)

    def mode(self) -> Tensor:
        """The most probable action of each dimension, `[B, D]` int64."""
        return self.logits.argmax(-1)


class DiagonalGaussian(NamedTuple):
    """Independent normal distributions, one per action dimension."""

    mean: Tensor  # [B, D]
    log_std: Tensor  # [B, D], or [D] if it does not depend on the state

    def sample(self, noise: Tensor) -> Tensor:
        """`mean + std * noise`, `[B, D]`, from standard normal `noise [B, D]`; differentiable
        (reparameterized).

        Raises:
            ValueError: shapes do not match.
        """
        same_shape(mean=self.mean, noise=noise)
        return self.mean + self._log_std().exp() * noise

    def logprob(self, action: Tensor) -> Tensor:
        """Log-density `[B]` of `action [B, D]`: the sum over dimensions.

        Raises:
            ValueError: shapes do not match.
        """
        same_shape(mean=self.mean, action=action)
        log_std = self._log_std()
        return _normal_logprob((action - self.mean) * (-log_std).exp(), log_std)

    def entropy(self) -> Tensor:
        """Differential entropy `[B]`, nats: the sum over dimensions."""
        return (self._log_std() + (0.5 + HALF_LOG_2PI)).expand(self.mean.shape).sum(-1)

    def kl(self, other: "DiagonalGaussian") -> Tensor:
        """`KL(self || other) [B]`, nats.

        Raises:
            ValueError: shapes differ.
        """
        same_shape(mean=self.mean, other=other.mean)
        log_ratio = self._log_std() - other._log_std()
        distance = (self.mean - other.mean) * (-other._log_std()).exp()
        return (0.5 * ((2 * log_ratio).exp() + distance.square() - 1) - log_ratio).sum(-1)

    def mode(self) -> Tensor:
        """The mean `[B, D]`."""
        return self.mean

    def _log_std(self) -> Tensor:
        if self.log_std.dim() < self.mean.dim():
            has_shape(self.mean.shape[-1:], log_std=self.log_std)
        else:
            same_shape(mean=self.mean, log_std=self.log_std)
        return self.log_std


class SquashedSample(NamedTuple):
    """What `SquashedGaussian.sample` gives."""

    action: Tensor  # [B, D] in [-1, 1]
    logprob: Tensor  # [B]


class SquashedGaussian(NamedTuple):
    """A diagonal Gaussian pushed through tanh, so that actions lie in [-1, 1].

    Its log-density is computed from the value before tanh, `raw`, since in float32 tanh rounds to 1 near 9
    and cannot be inverted. Its entropy has no closed form.

    Source: Haarnoja et al. 2018, arXiv 1812.05905, appendix C, in the softplus form of its authors' code.
    """

    mean: Tensor  # [B, D] of the Gaussian, before tanh
    log_std: Tensor  # [B, D] or [D]

    def sample(self, noise: Tensor) -> SquashedSample:
        """Actions and their log-densities from standard normal `noise [B, D]`; differentiable
        (reparameterized).

        Raises:
            ValueError: shapes do not match.
        """
        raw = self._gaussian().sample(noise)
        return SquashedSample(raw.tanh(), _normal_logprob(noise, self.log_std) - _log_slope(raw))

    def logprob(self, raw: Tensor) -> Tensor:
        """Log-density `[B]` of the action `tanh(raw)`; `raw [B, D]` is the value before tanh.

        Raises:
            ValueError: shapes do not match.
        """
        return self._gaussian().logprob(raw) - _log_slope(raw)

    def kl(self, other: "SquashedGaussian") -> Tensor:
        """`KL(self || other) [B]`, nats: that of the Gaussians, since tanh is one to one.

        Raises:
            ValueError: shapes differ.
        """
        return self._gaussian().kl(other._gaussian())

    def mode(self) -> Tensor:
        """`tanh(mean) [B, D]`, the greedy action."""
        return self.mean.tanh()

    def _gaussian(self) -> DiagonalGaussian:
        return DiagonalGaussian(self.mean, self.log_std)


def _normal_logprob(standard: Tensor, log_std: Tensor) -> Tensor:
    return (-0.5 * standard.square() - (log_std + HALF_LOG_2PI)).sum(-1)


def _log_slope(raw: Tensor) -> Tensor:
    """`log(1 - tanh(raw)^2)` summed over dimensions, without its cancellation: `2 (log 2 - raw - softplus(-2
    raw))`."""
    return (2 * (math.log(2) - raw - F.softplus(-2 * raw))).sum(-1)


def _finite(logprobs: Tensor) -> Tensor:
    """Log-probabilities with minus infinity replaced by the lowest number, so that 0 times it is 0."""
    return logprobs.clamp(min=torch.finfo(logprobs.dtype).min)
