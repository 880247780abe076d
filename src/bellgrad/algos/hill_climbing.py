"""Hill climbing with an adaptive step.

    theta_0 = theta,   theta_i = theta + noise * e_i,   e_i ~ N(0, I)         i = 1 .. P - 1
    theta <- the fittest of theta_0 .. theta_{P-1}
    noise <- noise * factor  if more than one in five neighbors are no worse than theta_0
    noise <- noise / factor  otherwise

If many steps succeed, they are too small. On a plateau all of them do, so that the search looks further and
further. The current policy plays again in every generation, as one of the candidates, so that one lucky
episode does not keep it in place for long.

Source: steepest-ascent hill climbing as in Russell and Norvig 2021, section 4.1.1, over neighbors drawn at
random; the one-fifth rule: Rechenberg 1973, "Evolutionsstrategie".
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

ALGORITHMS = {"hill_climbing": "HillClimbing"}

SUCCESSES = 0.2  # share of the neighbors


@dataclass(frozen=True)
class HillClimbing(Search):
    """Hyper-parameters of hill climbing, for discrete and continuous actions.

    Attributes:
        population: candidates in a generation: the current policy and its neighbors (P), 2 or more.
        noise: standard deviation of the neighbors' parameters about the current ones at first, above 0.
        noise_factor: by which the noise grows or shrinks per generation, 1 or more; 1 keeps it.
        noise_min: below this the noise does not shrink, above 0.
        noise_max: beyond this the noise does not grow, at least `noise_min`.
    """

    population: int = 16
    episodes: int = 4
    noise: float = 0.5
    noise_factor: float = 1.5
    noise_min: float = 1e-3
    noise_max: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(
            self, population=(2, 1e6), noise=(1e-12, 1e6), noise_factor=(1, 1e3), noise_min=(1e-12, 1e6)
        )
        if self.noise_max < self.noise_min:
            raise UsageError(
                f"HillClimbing.noise_max = {self.noise_max:g} is below noise_min = {self.noise_min:g}"
            )

    def build(self, spec: EnvSpec, steps: int | None = None) -> HillClimbingLearner:
        """Join these hyper-parameters to an environment."""
        return HillClimbingLearner(self, spec)


class HillClimbingState(NamedTuple):
    """Everything that changes while it learns."""

    params: Tensor  # [n] of the current policy
    noise: Tensor  # [] standard deviation of the neighbors
    updates: Tensor  # [] int64, generations
    steps: Tensor  # [] int64, environment steps; the driver advances it


class HillClimbingLearner(SearchLearner):
    """The pure functions of hill climbing for one environment."""

    config: HillClimbing

    def init(self, rng: torch.Generator) -> HillClimbingState:
        """A random policy."""
        return HillClimbingState(
            self.random_params(rng),
            torch.tensor(self.config.noise, device=rng.device),
            *zero_counters(rng.device),
        )

    def ask_noise(self) -> Noise:
        """A standard normal for each parameter of every neighbor."""
        return Noise("normal", (self.config.population - 1, self.size))

    def ask(self, state: HillClimbingState, noise: Tensor) -> Tensor:
        """The current policy and its neighbors `[P, n]`."""
        return torch.cat([state.params[None], state.params + state.noise * noise])

    def tell(
        self, state: HillClimbingState, candidates: Tensor, fitness: Tensor, noise: None = None
    ) -> tuple[HillClimbingState, Metrics]:
        """Move to the fittest neighbor; stay if none is fitter."""
        c = self.config
        best = fitness.argmax(0, keepdim=True)  # of equals the first, which is the current policy
        succeeded = (fitness[1:] >= fitness[0]).float().mean()
        spread = torch.where(
            succeeded > SUCCESSES, state.noise * c.noise_factor, state.noise / c.noise_factor
        )
        spread = spread.clamp(c.noise_min, c.noise_max)
        state = state._replace(params=candidates[best][0], noise=spread, updates=state.updates + 1)
        return state, fitness_metrics(fitness) | {"succeeded": succeeded, "noise": spread}
