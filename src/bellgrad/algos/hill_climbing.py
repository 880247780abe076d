"""Hill climbing with an adaptive step.

    theta_0 = theta,   theta_i = theta + noise * e_i,   e_i ~ N(0, I)         i = 1 .. P - 1
    theta <- the fittest of theta_0 .. theta_{P-1}
    noise <- noise * factor  if more than one in five neighbors are no worse than theta_0
    noise <- noise / factor  otherwise

Where many steps succeed they are too small. On a plateau all do, so that the search looks further and
further. The present policy plays again in every generation, as one of the candidates, so that a lucky episode
makes nothing unbeatable for long.

Source: steepest-ascent hill climbing as in Russell and Norvig 2021, section 4.1.1, over neighbors drawn at
random; the one-fifth rule: Rechenberg 1973, "Evolutionsstrategie".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bellgrad.algos.search import Search, SearchLearner, counters, described
from bellgrad.core.errors import UsageError, check_range
from bellgrad.core.records import EnvSpec, Metrics
from bellgrad.core.rng import Noise

ALGORITHMS = {"hill_climbing": "HillClimbing"}

SUCCESSES = 0.2  # share of the neighbors


@dataclass(frozen=True)
class HillClimbing(Search):
    """Hyper-parameters of hill climbing, for discrete and continuous actions.

    Attributes:
        population: candidates in a generation: the present policy and its neighbors (P), 2 or more.
        noise: standard deviation of the neighbors' parameters about the present ones at first, above 0.
        noise_factor: by which it grows or shrinks in a generation, 1 or more; 1 keeps it.
        noise_min: it shrinks no further, above 0.
        noise_max: it grows no further, at least `noise_min`.
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

    params: Tensor  # [n] where it stands
    noise: Tensor  # [] standard deviation of the neighbors
    updates: Tensor  # [] int64, generations
    steps: Tensor  # [] int64, environment steps; the driver advances it


class HillClimbingLearner(SearchLearner):
    """The pure functions of hill climbing for one environment."""

    def init(self, rng: torch.Generator) -> HillClimbingState:
        """A random policy."""
        return HillClimbingState(
            self.first_params(rng), torch.tensor(self.config.noise, device=rng.device), *counters(rng)
        )

    def ask_noise(self) -> Noise:
        """A standard normal a parameter of every neighbor."""
        return Noise("normal", (self.config.population - 1, self.size))

    def ask(self, state: HillClimbingState, noise: Tensor) -> Tensor:
        """The present policy and its neighbors `[P, n]`."""
        return torch.cat([state.params[None], state.params + state.noise * noise])

    def tell(
        self, state: HillClimbingState, candidates: Tensor, fitness: Tensor, noise: None = None
    ) -> tuple[HillClimbingState, Metrics]:
        """Go to the fittest; stay where none is fitter."""
        c = self.config
        best = fitness.argmax(0, keepdim=True)  # the first of several, which is the present one
        succeeded = (fitness[1:] >= fitness[0]).float().mean()
        spread = torch.where(
            succeeded > SUCCESSES, state.noise * c.noise_factor, state.noise / c.noise_factor
        )
        spread = spread.clamp(c.noise_min, c.noise_max)
        state = state._replace(params=candidates[best][0], noise=spread, updates=state.updates + 1)
        return state, described(fitness) | {"succeeded": succeeded, "noise": spread}
