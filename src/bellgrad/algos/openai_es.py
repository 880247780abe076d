"""OpenAI's evolution strategy: stochastic gradient ascent on the fitness of a Gaussian about the parameters.

    J(theta) = E[ F(theta + sigma * e) ],   e ~ N(0, I)
    grad J   = E[ F(theta + sigma * e) * e ] / sigma

estimated over antithetic pairs, +e and -e, with the centered ranks of a generation in place of F. Ranks do
not depend on the scale of the rewards, nor on outliers; candidates that tie share the mean of their ranks, so
that the gradient is 0 if all are equally fit.

Source: Salimans et al. 2017, arXiv 1703.03864, algorithm 1 and section 2.1 (antithetic sampling, fitness
shaping, weight decay).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bellgrad.algos.counters import zero_counters
from bellgrad.algos.search import Search, SearchLearner, fitness_metrics
from bellgrad.core.errors import UsageError, check_range
from bellgrad.core.records import EnvSpec, Metrics
from bellgrad.core.registry import OPTIMIZERS, take_names
from bellgrad.core.rng import Noise
from bellgrad.core.tree import Tree
from bellgrad.ops.optim import Adam, Optimizer

ALGORITHMS = {"openai_es": "OpenAIES"}


@dataclass(frozen=True)
class OpenAIES(Search):
    """Hyper-parameters of OpenAI's evolution strategy, for discrete and continuous actions.

    Attributes:
        population: candidates per generation (P), an even number: pairs that mirror each other.
        sigma: standard deviation of the candidates about the parameters, above 0.
        learning_rate: of the optimizer, above 0.
        optimizer: how gradients become steps; its learning rate is replaced by the field above, and its
            `weight_decay` pulls the parameters towards 0.
    """

    population: int = 64
    sigma: float = 0.1
    learning_rate: float = 0.03
    optimizer: Optimizer = field(default_factory=lambda: Adam(weight_decay=0.005))

    def __post_init__(self) -> None:
        super().__post_init__()
        take_names(self, optimizer=OPTIMIZERS)
        check_range(self, population=(2, 1e6), sigma=(1e-12, 1e6), learning_rate=(1e-12, 10))
        if self.population % 2:
            raise UsageError(
                f"OpenAIES.population = {self.population} must be even: candidates come in pairs"
            )

    def build(self, spec: EnvSpec, steps: int | None = None) -> OpenAIESLearner:
        """Join these hyper-parameters to an environment."""
        return OpenAIESLearner(self, spec)


class OpenAIESState(NamedTuple):
    """Everything that changes while it learns."""

    params: Tensor  # [n] theta
    optimizer: Tree
    updates: Tensor  # [] int64, generations
    steps: Tensor  # [] int64, environment steps; the driver advances it


class OpenAIESLearner(SearchLearner):
    """The pure functions of OpenAI's evolution strategy for one environment."""

    config: OpenAIES

    def init(self, rng: torch.Generator) -> OpenAIESState:
        """A random policy."""
        params = self.random_params(rng)
        return OpenAIESState(
            params, self.config.optimizer.init({"params": params}), *zero_counters(rng.device)
        )

    def ask_noise(self) -> Noise:
        """A standard normal for each parameter of every pair."""
        return Noise("normal", (self.config.population // 2, self.size))

    def ask(self, state: OpenAIESState, noise: Tensor) -> Tensor:
        """`[P, n]`: first one half of every pair, then the other."""
        step = self.config.sigma * noise
        return torch.cat([state.params + step, state.params - step])

    def gradient(self, state: OpenAIESState, candidates: Tensor, score: Tensor) -> Tensor:
        """The estimate `[n]` of the gradient of the expected `score [P]`."""
        c = self.config
        return score @ (candidates - state.params) / (c.population * c.sigma**2)

    def tell(
        self, state: OpenAIESState, candidates: Tensor, fitness: Tensor, noise: None = None
    ) -> tuple[OpenAIESState, Metrics]:
        """One step of the optimizer up the gradient."""
        c = self.config
        gradient = self.gradient(state, candidates, centered_ranks(fitness))
        params, optimizer = c.optimizer.step(
            {"params": state.params}, {"params": -gradient}, state.optimizer, c.learning_rate
        )
        metrics = fitness_metrics(fitness) | {"grad_norm": gradient.norm(), "param_norm": state.params.norm()}
        return state._replace(
            params=params["params"], optimizer=optimizer, updates=state.updates + 1
        ), metrics


def centered_ranks(fitness: Tensor) -> Tensor:
    """Ranks of `fitness [P]`, scaled to -1/2 for the least fit and 1/2 for the fittest: `[P]`. Equals share
    their mean rank."""
    ordered = fitness.sort().values
    below, not_above = (torch.searchsorted(ordered, fitness, right=right) for right in (False, True))
    return (below + not_above - 1) / (2 * (len(fitness) - 1)) - 0.5
