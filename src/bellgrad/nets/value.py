"""A value function as a network."""

import torch
from torch import Tensor

from bellgrad.core.records import EnvSpec
from bellgrad.core.tree import Tree
from bellgrad.nets.build import build, init_params, skeleton
from bellgrad.nets.layers import Params, apply
from bellgrad.nets.specs import Spec

PREFIX = "critic."  # of its parameters


class Value:
    """`V(obs)`: a skeleton module and pure functions; the parameters live outside, under `critic.*`.

    Args:
        network: of the value.
        spec: the environment.
    """

    def __init__(self, network: Spec, spec: EnvSpec):
        self._make = lambda: build(network, spec.observation_space, 1, output_gain=1.0)
        self._module = skeleton(self._make)

    def init(self, rng: torch.Generator) -> Params:
        """Random parameters, on the generator's device."""
        return {PREFIX + name: tensor for name, tensor in init_params(self._make, rng).items()}

    def predict(self, params: Params, obs: Tree) -> Tensor:
        """`V(obs)` for `obs [B, *O]`: `[B]`."""
        return apply(self._module, params, obs, prefix=PREFIX).squeeze(-1)
