"""A value function as a network."""

import torch
from torch import Tensor

from bellgrad.core.records import EnvSpec
from bellgrad.core.tree import Tree
from bellgrad.nets.build import build, init_params, skeleton
from bellgrad.nets.layers import Params, apply
from bellgrad.nets.specs import Recurrent, Spec

PREFIX = "critic."  # of its parameters


class Value:
    """`V(obs)`: a skeleton module and pure functions; the parameters live outside, under `critic.*`.

    With `LSTM` or `GRU` it is `V(obs, memory)`: `step` and `unroll` take the place of `predict`.

    Args:
        network: of the value.
        spec: the environment.

    Attributes:
        remembers: whether the network has a memory.
    """

    def __init__(self, network: Spec, spec: EnvSpec):
        self._make = lambda: build(network, spec.observation_space, 1, output_gain=1.0)
        self._module = skeleton(self._make)
        self.remembers = isinstance(network, Recurrent)

    def init(self, rng: torch.Generator) -> Params:
        """Random parameters, on the generator's device."""
        return {PREFIX + name: tensor for name, tensor in init_params(self._make, rng).items()}

    def predict(self, params: Params, obs: Tree) -> Tensor:
        """`V(obs)` for `obs [B, *O]`: `[B]`."""
        return apply(self._module, params, obs, prefix=PREFIX).squeeze(-1)

    def first_memory(self, num_envs: int) -> Tree:
        """What is remembered where an episode begins, on the CPU; None without a memory."""
        return self._module.first_memory(num_envs) if self.remembers else None

    def step(self, params: Params, obs: Tree, memory: Tree) -> tuple[Tensor, Tree]:
        """`V(obs, memory)` for `obs [B, *O]`: `[B]`, and the memory after it."""
        value, memory = self._module.unroll(params, PREFIX, obs, memory)
        return value.squeeze(-1), memory

    def unroll(self, params: Params, obs: Tree, memory: Tree, ended: Tensor) -> Tensor:
        """The values of rows of consecutive steps; see `RecurrentNetwork.unroll`."""
        value, _ = self._module.unroll(params, PREFIX, obs, memory, ended)
        return value.squeeze(-1)
