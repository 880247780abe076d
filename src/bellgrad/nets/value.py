"""A value function as a network."""

import torch
from torch import Tensor

from bellgrad.core.records import EnvSpec
from bellgrad.core.tree import Tree
from bellgrad.nets.build import build, init_params, skeleton
from bellgrad.nets.layers import apply
from bellgrad.nets.specs import Recurrent, Spec
from bellgrad.ops.grads import Params

PREFIX = "critic."  # of its parameters


class Value:
    """`V(obs)`, or `Q(obs, .)`: a skeleton module and pure functions; the parameters live outside, under
    `critic.*`.

    With `LSTM` or `GRU` it is `V(obs, memory)`: `step` and `unroll` take the place of `predict`.

    Args:
        network: of the value.
        spec: the environment.
        actions: None for V, or the A actions of `Q(obs, .)`, which is `[B, A]` wherever V is `[B]`.

    Attributes:
        remembers: whether the network has a memory.
    """

    def __init__(self, network: Spec, spec: EnvSpec, actions: int | None = None):
        self._make = lambda: build(network, spec.observation_space, actions or 1, output_gain=1.0)
        self._one = actions is None
        self._module = skeleton(self._make)
        self.remembers = isinstance(network, Recurrent)

    def init(self, rng: torch.Generator) -> Params:
        """Random parameters, on the generator's device."""
        return {PREFIX + name: tensor for name, tensor in init_params(self._make, rng).items()}

    def predict(self, params: Params, obs: Tree) -> Tensor:
        """`V(obs)` for `obs [B, *O]`: `[B]`."""
        return self._shaped(apply(self._module, params, obs, prefix=PREFIX))

    def first_memory(self, num_envs: int) -> Tree:
        """What is remembered where an episode begins, on the CPU; None without a memory."""
        return self._module.first_memory(num_envs) if self.remembers else None

    def step(self, params: Params, obs: Tree, memory: Tree) -> tuple[Tensor, Tree]:
        """`V(obs, memory)` for `obs [B, *O]`: `[B]`, and the memory after it."""
        value, memory = self._module.unroll(params, PREFIX, obs, memory)
        return self._shaped(value), memory

    def unroll(self, params: Params, obs: Tree, memory: Tree, ended: Tensor) -> Tensor:
        """The values of rows of consecutive steps; see `RecurrentNetwork.unroll`."""
        value, _ = self._module.unroll(params, PREFIX, obs, memory, ended)
        return self._shaped(value)

    def _shaped(self, value: Tensor) -> Tensor:
        return value.squeeze(-1) if self._one else value
