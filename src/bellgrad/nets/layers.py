"""Modules that are functions of their parameters, and how any module is applied to a dictionary of
parameters."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from bellgrad.core.memory import need_memory
from bellgrad.nets.specs import ACTIVATIONS
from bellgrad.ops.grads import Params


class PureModule(nn.Module):
    """A module that is written as a function of its parameters; `forward` gives it the module's own."""

    def functional(self, params: Params, prefix: str, *inputs: Any, **options: Any) -> Tensor:
        """The output, with `params[prefix + name]` in place of each parameter `name`."""
        raise NotImplementedError

    def forward(self, *inputs: Any) -> Tensor:
        """The output with the module's own parameters."""
        return self.functional(dict(self.named_parameters()), "", *inputs)


def apply(module: nn.Module, params: Params, *inputs: Any, prefix: str = "") -> Tensor:
    """Apply a module to parameters that live outside it; pure.

    Args:
        module: usually a skeleton on the meta device. Its buffers are constants and follow the parameters'
            device.
        params: every parameter by name, as `init_params` gives them; with a prefix, also those of other
            modules.
        inputs: what `forward` takes.
        prefix: comes before the module's own names in `params`.
    """
    # Swapping parameters in and out of a module would take longer than a small network.
    if isinstance(module, PureModule):
        return module.functional(params, prefix, *inputs)
    if prefix:
        params = {
            name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)
        }
    buffers = dict(module.named_buffers())
    if buffers:
        device = next(iter(params.values())).device if params else torch.device("cpu")
        params = params | {name: buffer.to(device) for name, buffer in buffers.items()}
    output: Tensor = functional_call(module, params, inputs)
    return output


def initialize(layer: nn.Module, gain: float) -> None:
    """Orthogonal weights (a convolution's flattened to `[out, in * height * width]`) and zero biases, in
    place.

    Args:
        layer: an `nn.Linear` or `nn.Conv2d` with biases.
        gain: scale of the weights.

    Source: Saxe et al. 2014, arXiv 1312.6120.
    """
    nn.init.orthogonal_(layer.get_parameter("weight"), gain)
    nn.init.zeros_(layer.get_parameter("bias"))


def replace_parameters(module: nn.Module, tensors: Sequence[Tensor]) -> None:
    """Put other tensors in place of a module's parameters, in their order; shared parameters stay
    shared."""
    new = {old: nn.Parameter(tensor) for old, tensor in zip(module.parameters(), tensors, strict=True)}
    for owner in module.modules():
        for name, parameter in list(owner.named_parameters(recurse=False, remove_duplicate=False)):
            setattr(owner, name, new[parameter])


def check_layers(sizes: Sequence[int]) -> None:
    """Refuse layers, from `sizes[0]` units of input to `sizes[-1]` of output, that do not fit into memory.

    Raises:
        UsageError: naming the numbers of units.
    """
    units = ", ".join(f"{size:,}" for size in sizes)
    need_memory(sum(4 * (a + 1) * b for a, b in pairwise(sizes)), f"a network with layers of {units} units")


class Perceptron(PureModule):
    """Linear layers with an activation between them: `[..., sizes[0]] -> [..., sizes[-1]]`.

    Args:
        sizes: units from input to output, at least two.
        activation: a name in `ACTIVATIONS`.
        initialization: `"orthogonal"` or `"torch"`.
        output_gain: scale of the last layer's orthogonal weights; unused with `"torch"`.

    Raises:
        UsageError: the layers do not fit into memory.
    """

    def __init__(self, sizes: Sequence[int], activation: str, initialization: str, output_gain: float):
        super().__init__()
        check_layers(sizes)
        self.activation = ACTIVATIONS[activation]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        if initialization == "orthogonal":
            for i, layer in enumerate(self.layers):
                initialize(layer, output_gain if i == len(self.layers) - 1 else math.sqrt(2))

    def functional(self, params: Params, prefix: str, x: Tensor) -> Tensor:
        """`x [..., sizes[0]]` -> `[..., sizes[-1]]`."""
        last = len(self.layers) - 1
        for i in range(last):
            x = self.activation(
                F.linear(x, params[f"{prefix}layers.{i}.weight"], params[f"{prefix}layers.{i}.bias"])
            )
        return F.linear(x, params[f"{prefix}layers.{last}.weight"], params[f"{prefix}layers.{last}.bias"])


class EnsembleLinear(nn.Module):
    """The parameters of `E` linear layers of one shape: `weight [E, in, out]`, `bias [E, 1, out]`."""

    def __init__(self, members: Sequence[nn.Linear]):
        super().__init__()
        self.weight = nn.Parameter(torch.stack([member.weight.detach().T for member in members]))
        self.bias = nn.Parameter(torch.stack([member.bias.detach()[None] for member in members]))


class EnsemblePerceptron(PureModule):
    """`E` perceptrons of one shape, with one batched matrix product per layer."""

    def __init__(self, members: Sequence[Perceptron]):
        super().__init__()
        self.activation = members[0].activation
        self.size = len(members)
        columns = zip(*(member.layers for member in members), strict=True)
        self.layers = nn.ModuleList(EnsembleLinear(column) for column in columns)

    def functional(self, params: Params, prefix: str, x: Tensor) -> Tensor:
        """`x [B, in]` (the same for all) or `[E, B, in]` -> `[E, B, out]`."""
        if x.dim() == 2:
            x = x.expand(self.size, *x.shape)
        last = len(self.layers) - 1
        for i in range(last + 1):
            weight, bias = params[f"{prefix}layers.{i}.weight"], params[f"{prefix}layers.{i}.bias"]
            if weight.shape[-1] == 1:  # a product with one column is slower than multiplying and adding up
                x = (x * weight.transpose(1, 2)).sum(-1, keepdim=True) + bias
            else:
                x = torch.bmm(x, weight) + bias  # `baddbmm` would copy the bias for every row first
            if i < last:
                x = self.activation(x)
        return x


class Stacked(PureModule):
    """Any `E` modules of one class as one, by `vmap` over their stacked parameters; the inputs are the same
    for all.

    Buffers are constants; all members use those of the first.
    """

    def __init__(self, members: Sequence[nn.Module]):
        super().__init__()
        self.member = members[0]
        self.names = [name for name, _ in self.member.named_parameters()]
        columns = zip(*(member.parameters() for member in members), strict=True)
        replace_parameters(self.member, [torch.stack([p.detach() for p in column]) for column in columns])

    def functional(self, params: Params, prefix: str, *inputs: object) -> Tensor:
        """`inputs` as one member takes them -> `[E, ...]`."""
        mine = {name: params[f"{prefix}member.{name}"] for name in self.names}
        return vmap(lambda one: apply(self.member, one, *inputs))(mine)
