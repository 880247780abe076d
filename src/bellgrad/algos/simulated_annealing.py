"""Simulated annealing: a worse policy is accepted too, but less often the worse it is and the lower the
temperature has become.

    theta' = theta + noise * e,   e ~ N(0, I)
    theta <- theta' with probability min(1, exp((f(theta') - f(theta)) / T))
    T = T_0 * (T_1 / T_0)^(share of the run)

P such chains run in parallel, so that a generation is evaluated at once; the policy found is that of the
fittest chain.

Source: Kirkpatrick, Gelatt and Vecchi 1983, "Optimization by simulated annealing"; acceptance: Metropolis et
al. 1953. Fitness is maximized here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bellgrad.algos.counters import zero_counters
from bellgrad.algos.search import Search, SearchLearner, fitness_metrics
from bellgrad.core.errors import UsageError, check_range
from bellgrad.core.records import EnvSpec, Metrics
from bellgrad.core.rng import Noise

ALGORITHMS = {"simulated_annealing": "SimulatedAnnealing"}

# The fitness of a chain before its first generation: anything is accepted.
UNTRIED = torch.finfo(torch.float32).min


@dataclass(frozen=True)
class SimulatedAnnealing(Search):
    """Hyper-parameters of simulated annealing, for discrete and continuous actions.

    Attributes:
        population: chains, each with one candidate per generation (P).
        noise: standard deviation of a candidate's parameters about its chain's, above 0.
        initial_temperature: T_0, in units of the return, above 0: a loss of that size is accepted with
            probability 1/e.
        final_temperature: T_1 at the end of the planned run, above 0.
    """

    population: int = 16
    episodes: int = 4
    noise: float = 0.3
    initial_temperature: float = 10.0
    final_temperature: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(
            self, noise=(1e-12, 1e6), initial_temperature=(1e-12, 1e12), final_temperature=(1e-12, 1e12)
        )

    def build(self, spec: EnvSpec, steps: int | None = None) -> SimulatedAnnealingLearner:
        """Join these hyper-parameters to an environment; the final temperature is reached after the planned
        `steps`."""
        return SimulatedAnnealingLearner(self, spec, steps)


class SimulatedAnnealingState(NamedTuple):
    """Everything that changes while it learns."""

    params: Tensor  # [n] of the fittest chain
    chains: Tensor  # [P, n] the parameters that each chain has reached
    fitness: Tensor  # [P] float32, of each
    updates: Tensor  # [] int64, generations
    steps: Tensor  # [] int64, environment steps; the driver advances it


class SimulatedAnnealingLearner(SearchLearner):
    """The pure functions of simulated annealing for one environment."""

    config: SimulatedAnnealing

    def __init__(self, config: SimulatedAnnealing, spec: EnvSpec, steps: int | None = None):
        super().__init__(config, spec)
        if not steps:
            raise UsageError(
                "simulated annealing cools down over the planned number of environment steps, which is not"
                " known"
            )
        self._steps = steps

    def init(self, rng: torch.Generator) -> SimulatedAnnealingState:
        """A random policy, from which every chain starts."""
        first, p = self.random_params(rng), self.config.population
        return SimulatedAnnealingState(
            first,
            first.repeat(p, 1),
            torch.full((p,), UNTRIED, device=rng.device),
            *zero_counters(rng.device),
        )

    def ask(self, state: SimulatedAnnealingState, noise: Tensor) -> Tensor:
        """A neighbor of every chain `[P, n]`."""
        return state.chains + self.config.noise * noise

    def tell_noise(self) -> Noise:
        """A uniform per chain, which decides whether its candidate is accepted."""
        return Noise("uniform", (self.config.population,))

    def tell(
        self, state: SimulatedAnnealingState, candidates: Tensor, fitness: Tensor, noise: Tensor
    ) -> tuple[SimulatedAnnealingState, Metrics]:
        """Each chain moves to its neighbor, or stays."""
        temperature = self.temperature(state.steps)
        accepted = noise < acceptance(fitness - state.fitness, temperature)
        chains = torch.where(accepted[:, None], candidates, state.chains)
        kept = torch.where(accepted, fitness, state.fitness)
        metrics = fitness_metrics(fitness) | {"temperature": temperature, "accepted": accepted.float().mean()}
        best = chains[kept.argmax(0, keepdim=True)][0]
        return SimulatedAnnealingState(best, chains, kept, state.updates + 1, state.steps), metrics

    def temperature(self, steps: Tensor) -> Tensor:
        """T `[]` after `steps []` environment steps."""
        c = self.config
        share = (steps / self._steps).clamp(max=1.0)
        ratio: float = c.final_temperature / c.initial_temperature
        temperature: Tensor = c.initial_temperature * ratio**share
        return temperature


def acceptance(gain: Tensor, temperature: Tensor) -> Tensor:
    """The probability with which a change of fitness `gain [P]` is accepted, `[P]`."""
    return (gain / temperature).exp().clamp(max=1.0)
