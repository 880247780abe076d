"""What the algorithms share that search for a policy by the returns of whole episodes: hyper-parameters, the
policy as one vector, acting.

A search proposes P candidates per generation, vectors of a network's parameters, and is told the fitness of
each. It needs no gradient and no replay, but many episodes at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from bellgrad.core.errors import check_range, check_types
from bellgrad.core.records import Acted, EnvSpec, Metrics
from bellgrad.core.registry import NETWORKS, take_names
from bellgrad.core.rng import Noise
from bellgrad.core.tree import Tree
from bellgrad.nets.policy import Policy
from bellgrad.nets.specs import MLP, Spec, check_spec
from bellgrad.ops.grads import Params


@dataclass(frozen=True)
class Search:
    """Hyper-parameters that these algorithms share; each has its own defaults.

    Attributes:
        population: candidates in a generation (P).
        episodes: whole episodes that a candidate plays in a generation (E); its fitness is their mean
            undiscounted return.
        network: of the policy: an `MLP`, a `CNN`, or a user's own `nn.Module` class. Small by default, since
            a search finds out only by trial what a parameter does.
    """

    population: int = 32
    episodes: int = 1
    network: Spec = field(default_factory=lambda: MLP((16,)))

    def __post_init__(self) -> None:
        check_types(self)
        take_names(self, network=NETWORKS)
        check_spec(self.network)
        check_range(self, population=(1, 1e6), episodes=(1, 1e6))

    @property
    def default_num_envs(self) -> int:
        """Environments that step together if the user does not say: a whole generation."""
        return self.population * self.episodes


class SearchLearner:
    """The policy as one vector of `n` parameters; the subclass adds `init`, `ask` and `tell`.

    Attributes:
        policy: the network that plays.
        size: n.
    """

    driver = "population"

    def __init__(self, config: Any, spec: EnvSpec):
        self.config = config
        self.policy = Policy(config.network, spec)
        # It acts greedily, so that the standard deviation of a Gaussian is not searched for.
        example = self.policy.init(torch.Generator())
        self._shapes = {
            name: tensor.shape for name, tensor in example.items() if not name.startswith("log_std")
        }
        self.size = sum(map(math.prod, self._shapes.values()))

    def init_carry(self, num_envs: int) -> None:
        """The actor has no memory."""

    def act_noise(self, num_envs: int) -> None:
        """The policy is deterministic."""

    def act(self, state: Any, carry: None, obs: Tree, noise: None, explore: bool = True) -> Acted:
        """The action of the policy found so far, `state.params [n]`; exploring or not."""
        return Acted(self._greedy(state.params, obs), None, None)

    def play(self, candidates: Tensor, obs: Tree) -> Tensor:
        """What each of `candidates [P, n]` does at its own observations `[P, E, *O]`: `[P, E]` or `[P, E,
        D]`."""
        return vmap(self._greedy)(candidates, obs)

    def ask_noise(self) -> Noise:
        """A standard normal for each parameter of every candidate."""
        return Noise("normal", (self.config.population, self.size))

    def tell_noise(self) -> Noise | None:
        """Most searches are deterministic, given the fitness of the candidates."""
        return None

    def random_params(self, rng: torch.Generator) -> Tensor:
        """The vector of a random policy, `[n]`."""
        params = self.policy.init(rng)
        return torch.cat([params[name].flatten() for name in self._shapes])

    def _greedy(self, vector: Tensor, obs: Tree) -> Tensor:
        return self.policy.distribution(self._named(vector), obs).mode()

    def _named(self, vector: Tensor) -> Params:
        sizes = [math.prod(shape) for shape in self._shapes.values()]
        parts = zip(self._shapes.items(), torch.split(vector.to(torch.float32), sizes), strict=True)
        named = {name: part.view(shape) for (name, shape), part in parts}
        if not self.policy.discrete:
            named["log_std"] = vector.new_zeros(self.policy.action_size)
        return named


def fitness_metrics(fitness: Tensor) -> Metrics:
    """What every search reports about the `fitness [P]` of a generation."""
    return {"fitness_mean": fitness.mean(), "fitness_max": fitness.max()}
