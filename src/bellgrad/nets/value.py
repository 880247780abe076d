"""A value function as a network."""

import torch
from torch import Tensor

from bellgrad.core.records import EnvSpec
from bellgrad.core.tree import Tree
from bellgrad.nets.build import build, init_params, skeleton
from bellgrad.nets.layers import apply
from bellgrad.nets.recurrent import RecurrentNetwork
from bellgrad.nets.specs import Spec
from bellgrad.ops.grads import Params

PREFIX = "critic."  # of its parameters


class Value:
    """`V(obs)`, or `Q(obs, .)`: a module without numbers and pure functions; the parameters are outside,
    under `critic.*`.

    With `LSTM` or `GRU` it is `V(obs, memory)`: `step` and `unroll` take the place of `predict`.

    Args:
        network: of the value.
        spec: the environment.
        actions: None for V; A for `Q(obs, .)`, which gives `[B, A]` in place of `[B]`.

    Attributes:
        remembers: whether the network has a memory.
    """

    def __init__(self, network: Spec, spec: EnvSpec, actions: int | None = None):
        self._build = lambda: build(network, spec.observation_space, actions or 1, output_gain=1.0)
        self._one = actions is None
        self._module = skeleton(self._build)
        self.remembers = isinstance(self._module, RecurrentNetwork)

    def init(self, rng: torch.Generator) -> Params:
        """Random parameters, on the generator's device."""
        return {PREFIX + name: tensor for name, tensor in init_params(self._build, rng).items()}

    def predict(self, params: Params, obs: Tree) -> Tensor:
        """`V(obs)` for `obs [B, *O]`: `[B]`."""
        return self._shaped(apply(self._module, params, obs, prefix=PREFIX))

    def first_memory(self, num_envs: int) -> Tree:
        """The memory when an episode begins, on the CPU; None without one."""
        return self._module.first_memory(num_envs) if isinstance(self._module, RecurrentNetwork) else None

    def step(self, params: Params, obs: Tree, memory: Tree) -> tuple[Tensor, Tree]:
        """`V(obs, memory)` for `obs [B, *O]`: `[B]`, and the memory after it."""
        return self._unroll(params, obs, memory, None)

    def unroll(self, params: Params, obs: Tree, memory: Tree, ended: Tensor) -> Tensor:
        """The values of rows of consecutive steps; see `RecurrentNetwork.unroll`."""
        return self._unroll(params, obs, memory, ended)[0]

    def _unroll(self, params: Params, obs: Tree, memory: Tree, ended: Tensor | None) -> tuple[Tensor, Tree]:
        assert isinstance(self._module, RecurrentNetwork)  # `remembers`
        value, memory = self._module.unroll(params, PREFIX, obs, memory, ended)
        return self._shaped(value), memory

    def _shaped(self, value: Tensor) -> Tensor:
        return value.squeeze(-1) if self._one else value
