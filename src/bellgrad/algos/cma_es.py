"""The covariance matrix adaptation evolution strategy.

    x_i = m + sigma * y_i,   y_i ~ N(0, C)                      i = 1 .. P, the fittest first
    m <- m + sigma * y_w,    y_w = sum of w_i * y_i over the better half
    sigma grows if the path of the means, scaled by C^(-1/2), is longer than a random one, else it shrinks
    C <- C moved towards the path's outer product and towards the weighted outer products of the y_i

The weights of the worse half are negative: C shrinks in their directions. The policy found is m.

Source: Hansen 2016, "The CMA evolution strategy: a tutorial", arXiv 1604.00772, figure 6 with the default
parameters of table 1; the comments are the numbers of its equations. Fitness is maximized here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bellgrad.algos.counters import zero_counters
from bellgrad.algos.search import Search, SearchLearner, fitness_metrics
from bellgrad.core.errors import UsageError, check_range
from bellgrad.core.records import EnvSpec, Metrics

ALGORITHMS = {"cma_es": "CMAES"}

MOST_PARAMETERS = 2_000  # with more, decomposing C takes seconds per generation


@dataclass(frozen=True)
class CMAES(Search):
    """Hyper-parameters of CMA-ES, for discrete and continuous actions; all others follow from the number of
    parameters n.

    Attributes:
        population: candidates per generation (P), 4 or more; if fitness has no noise, 4 + 3 ln(n) are
            usual.
        sigma: standard deviation of every parameter at first, above 0.
    """

    population: int = 32
    sigma: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, population=(4, 1e6), sigma=(1e-12, 1e6))

    def build(self, spec: EnvSpec, steps: int | None = None) -> CMAESLearner:
        """Join these hyper-parameters to an environment."""
        return CMAESLearner(self, spec)


class CMAESState(NamedTuple):
    """Everything that changes while it learns; float64."""

    params: Tensor  # [n] m
    sigma: Tensor  # []
    covariance: Tensor  # [n, n] C = basis diag(scale^2) basis'
    basis: Tensor  # [n, n] B, orthonormal columns
    scale: Tensor  # [n] D
    path_sigma: Tensor  # [n] path of the means, scaled by C^(-1/2)
    path_c: Tensor  # [n] path of the means
    updates: Tensor  # [] int64, generations
    steps: Tensor  # [] int64, environment steps; the driver advances it


class CMAESLearner(SearchLearner):
    """The pure functions of CMA-ES for one environment.

    Raises:
        UsageError: the network has more than `MOST_PARAMETERS` parameters.
    """

    config: CMAES

    def __init__(self, config: CMAES, spec: EnvSpec):
        super().__init__(config, spec)
        if self.size > MOST_PARAMETERS:
            raise UsageError(
                f"CMA-ES keeps the covariances of all parameters, and the network has {self.size:,}; it takes"
                f" up to {MOST_PARAMETERS:,}: give a smaller network, or use openai_es"
            )
        self.rates = Rates.of(self.size, config.population)

    def init(self, rng: torch.Generator) -> CMAESState:
        """A round Gaussian about a random policy."""
        mean = self.random_params(rng).to(torch.float64)
        identity, zero = torch.eye(self.size, dtype=mean.dtype, device=mean.device), torch.zeros_like(mean)
        sigma = torch.tensor(self.config.sigma, dtype=mean.dtype, device=mean.device)
        return CMAESState(
            mean, sigma, identity, identity.clone(), zero + 1, zero, zero.clone(), *zero_counters(rng.device)
        )

    def ask(self, state: CMAESState, noise: Tensor) -> Tensor:
        """A sample of the Gaussian `[P, n]` float64."""
        return state.params + state.sigma * (state.scale * noise) @ state.basis.T  # 38 to 40

    def tell(
        self, state: CMAESState, candidates: Tensor, fitness: Tensor, noise: None = None
    ) -> tuple[CMAESState, Metrics]:
        """Move the Gaussian."""
        s, r, n = state, self.rates, self.size
        weights = torch.tensor(r.weights, dtype=candidates.dtype, device=candidates.device)
        y = (candidates[fitness.argsort(descending=True)] - s.params) / s.sigma
        y_w = weights.clamp(min=0.0) @ y  # 41
        mean = s.params + s.sigma * y_w  # 42

        round_w = s.basis @ ((s.basis.T @ y_w) / s.scale)  # C^(-1/2) y_w
        path_sigma = (1 - r.c_sigma) * s.path_sigma + math.sqrt(
            r.c_sigma * (2 - r.c_sigma) * r.mu_eff
        ) * round_w  # 43
        length = path_sigma.norm() / r.chi
        sigma = s.sigma * ((r.c_sigma / r.d_sigma) * (length - 1)).exp()  # 44

        grown = (1 - (1 - r.c_sigma) ** (2 * (s.updates + 1))).sqrt()  # the path began at 0
        # h_sigma: 0 while sigma grows fast, so that the path waits.
        steady = (length / grown < 1.4 + 2 / (n + 1)).to(y.dtype)
        path_c = (1 - r.c_c) * s.path_c + steady * math.sqrt(r.c_c * (2 - r.c_c) * r.mu_eff) * y_w  # 45
        lengths = ((y @ s.basis) / s.scale).square().sum(-1)  # |C^(-1/2) y_i|^2
        active = torch.where(weights >= 0, weights, weights * n / lengths.clamp(min=1e-12))  # 46
        kept = 1 + r.c_1 * (1 - steady) * r.c_c * (2 - r.c_c) - r.c_1 - r.c_mu * weights.sum()
        # 47
        covariance = kept * s.covariance + r.c_1 * torch.outer(path_c, path_c) + r.c_mu * (y.T * active) @ y

        variances, basis = torch.linalg.eigh((covariance + covariance.T) / 2)
        # As a checkpoint gives it back: the rounding of a product depends on its factors' layout in memory.
        basis = basis.contiguous()
        scale = variances.clamp(min=1e-20).sqrt()
        metrics = fitness_metrics(fitness) | {"sigma": sigma, "axis_ratio": scale.max() / scale.min()}
        return (
            CMAESState(mean, sigma, covariance, basis, scale, path_sigma, path_c, s.updates + 1, s.steps),
            metrics,
        )


class Rates(NamedTuple):
    """The default parameters for `n` dimensions and `p` candidates, under the tutorial's names."""

    weights: list[float]  # [P] of the fittest to the least fit
    mu_eff: float  # as many candidates of equal weight would have the same variance
    c_sigma: float
    d_sigma: float
    c_c: float
    c_1: float
    c_mu: float
    chi: float  # the expected length of a standard normal vector

    @classmethod
    def of(cls, n: int, p: int) -> Rates:
        """Equations 49 to 58."""
        raw = [math.log((p + 1) / 2) - math.log(i + 1) for i in range(p)]  # 49
        better, worse = raw[: p // 2], raw[p // 2 :]
        mu_eff, mu_eff_minus = (sum(w) ** 2 / sum(x * x for x in w) for w in (better, worse))
        c_1 = 2 / ((n + 1.3) ** 2 + mu_eff)  # 57
        c_mu = min(1 - c_1 - 1e-8, 2 * (mu_eff - 2 + 1 / mu_eff) / ((n + 2) ** 2 + mu_eff))  # 58
        # 50 to 52
        alpha = min(1 + c_1 / c_mu, 1 + 2 * mu_eff_minus / (mu_eff + 2), (1 - c_1 - c_mu) / (n * c_mu))
        total, total_minus = sum(x for x in raw if x > 0), -sum(x for x in raw if x < 0)
        weights = [x / total if x >= 0 else alpha * x / total_minus for x in raw]  # 53
        c_sigma = (mu_eff + 2) / (n + mu_eff + 5)  # 55
        d_sigma = 1 + 2 * max(0.0, math.sqrt((mu_eff - 1) / (n + 1)) - 1) + c_sigma
        c_c = (4 + mu_eff / n) / (n + 4 + 2 * mu_eff / n)  # 56
        chi = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))
        return cls(weights, mu_eff, c_sigma, d_sigma, c_c, c_1, c_mu, chi)
