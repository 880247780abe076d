"""The cross-entropy method, with noise that keeps its Gaussian from collapsing too soon.

    theta_i ~ N(mu, sigma^2 + Z_t)                 i = 1 .. P, every parameter on its own
    mu, sigma^2 <- mean and variance of the elite: the candidates of the highest fitness
    Z_t = extra_std^2 * max(0, 1 - t / extra_generations)

Fitting the Gaussian to the elite by maximum likelihood minimizes the cross entropy between the two. The
policy found is mu.

Source: Szita and Lorincz 2006, "Learning Tetris using the noisy cross-entropy method", equations 2 and 3,
with noise that decays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bellgrad.algos.counters import zero_counters
from bellgrad.algos.search import Search, SearchLearner, fitness_metrics
from bellgrad.core.errors import check_range
from bellgrad.core.records import EnvSpec, Metrics

ALGORITHMS = {"cem": "CEM"}


@dataclass(frozen=True)
class CEM(Search):
    """Hyper-parameters of the noisy cross-entropy method, for discrete and continuous actions.

    Attributes:
        elite_fraction: share of the candidates to which the Gaussian is fitted, in (0, 1]; always at least
            one candidate.
        initial_std: standard deviation of every parameter at first, above 0.
        extra_std: standard deviation of the noise that is added at first, 0 or more.
        extra_generations: generations after which no noise is added.
    """

    population: int = 64
    episodes: int = 1
    elite_fraction: float = 0.2
    initial_std: float = 1.0
    extra_std: float = 0.5
    extra_generations: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(
            self, population=(2, 1e6), elite_fraction=(1e-9, 1), initial_std=(1e-12, 1e6), extra_std=(0, 1e6)
        )
        check_range(self, extra_generations=(1, 1e9))

    def build(self, spec: EnvSpec, steps: int | None = None) -> CEMLearner:
        """Join these hyper-parameters to an environment."""
        return CEMLearner(self, spec)


class CEMState(NamedTuple):
    """Everything that changes while it learns."""

    params: Tensor  # [n] mu
    std: Tensor  # [n] sigma, without the noise that is added
    updates: Tensor  # [] int64, generations
    steps: Tensor  # [] int64, environment steps; the driver advances it


class CEMLearner(SearchLearner):
    """The pure functions of the cross-entropy method for one environment."""

    config: CEM

    def __init__(self, config: CEM, spec: EnvSpec):
        super().__init__(config, spec)
        self.elite = max(1, round(config.elite_fraction * config.population))

    def init(self, rng: torch.Generator) -> CEMState:
        """A Gaussian about a random policy."""
        mean = self.random_params(rng)
        return CEMState(mean, torch.full_like(mean, self.config.initial_std), *zero_counters(rng.device))

    def ask(self, state: CEMState, noise: Tensor) -> Tensor:
        """A sample of the Gaussian `[P, n]`."""
        c = self.config
        extra = c.extra_std**2 * (1 - state.updates / c.extra_generations).clamp(min=0.0)
        return state.params + (state.std.square() + extra).sqrt() * noise

    def tell(
        self, state: CEMState, candidates: Tensor, fitness: Tensor, noise: None = None
    ) -> tuple[CEMState, Metrics]:
        """Fit the Gaussian to the elite."""
        elite = candidates[fitness.topk(self.elite).indices]
        std, mean = torch.std_mean(elite, 0, correction=0)
        metrics = fitness_metrics(fitness) | {
            "fitness_elite": fitness.topk(self.elite).values.mean(),
            "std": std.mean(),
        }
        return state._replace(params=mean, std=std, updates=state.updates + 1), metrics
