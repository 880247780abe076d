"""What a network is, as data: a frozen dataclass, or a `torch.nn.Module` class."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bellgrad.core.errors import UsageError, check_range, check_types, unknown
from bellgrad.core.registry import NETWORKS

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "elu": F.elu,
    "gelu": F.gelu,
    "silu": F.silu,
    "leaky_relu": F.leaky_relu,
}
INITIALIZATIONS = ("orthogonal", "torch")


def _check_counts(owner: str, **fields: tuple[int, ...]) -> None:
    for name, sizes in fields.items():
        if not isinstance(sizes, tuple) or not all(type(size) is int and size >= 1 for size in sizes):
            raise UsageError(f"{owner}.{name} = {sizes!r} must be a tuple of whole numbers, each 1 or more")


def _check_choices(activation: str, initialization: str) -> None:
    if activation not in ACTIVATIONS:
        raise unknown("activation", str(activation), ACTIVATIONS)
    if initialization not in INITIALIZATIONS:
        raise unknown("initialization", str(initialization), INITIALIZATIONS)


def _initialization() -> Any:
    return field(default="orthogonal", metadata={"formerly": "initialisation"})


@dataclass(frozen=True)
class MLP:
    """Fully connected layers over the flattened observation (images too; for convolutions use `CNN`).

    Attributes:
        hidden: units of each hidden layer.
        activation: after each hidden layer: `tanh`, `relu`, `elu`, `gelu`, `silu` or `leaky_relu`.
        initialization: `orthogonal` (gain sqrt(2), zero biases), or `torch` (PyTorch's own defaults).

    Raises:
        UsageError: a width below 1, or an unknown activation or initialization.
    """

    hidden: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    initialization: str = _initialization()

    def __post_init__(self) -> None:
        _check_counts("MLP", hidden=self.hidden)
        _check_choices(self.activation, self.initialization)


@dataclass(frozen=True)
class CNN:
    """Convolutions over every image of the observation, then fully connected layers over their outputs and
    everything else.

    The defaults are the network that DeepMind used for Atari.

    Source: Mnih et al. 2015, Methods, "Model architecture".

    Attributes:
        channels: filters of each convolution.
        kernels: width and height of each convolution's filters, in pixels.
        strides: of each convolution, in pixels.
        dense: units of each fully connected hidden layer.
        activation: after each convolution and each hidden layer, as in `MLP`.
        initialization: as in `MLP`.

    Raises:
        UsageError: a size below 1, `channels`, `kernels` and `strides` of unequal lengths, or an unknown
            name.
    """

    channels: tuple[int, ...] = (32, 64, 64)
    kernels: tuple[int, ...] = (8, 4, 3)
    strides: tuple[int, ...] = (4, 2, 1)
    dense: tuple[int, ...] = (512,)
    activation: str = "relu"
    initialization: str = _initialization()

    def __post_init__(self) -> None:
        _check_counts(
            "CNN", channels=self.channels, kernels=self.kernels, strides=self.strides, dense=self.dense
        )
        if not len(self.channels) == len(self.kernels) == len(self.strides) >= 1:
            raise UsageError(
                "CNN.channels, CNN.kernels and CNN.strides must be equally long, with at least one"
                " convolution"
            )
        _check_choices(self.activation, self.initialization)


@dataclass(frozen=True)
class Recurrent:
    """What `LSTM` and `GRU` share: fully connected layers over the flattened observation, then a memory, then
    the output.

    Attributes:
        size: units of the memory.
        hidden: units of each fully connected layer before the memory.
        backprop_steps: L, consecutive steps through which gradients flow back; must divide the rollout's
            steps.
        activation: after each fully connected layer, as in `MLP`.
        initialization: `orthogonal` (each gate's matrix by itself), or `torch` (PyTorch's own defaults).

    Raises:
        UsageError: a size or a number of steps below 1, or an unknown activation or initialization.
    """

    size: int = 64
    hidden: tuple[int, ...] = (64,)
    backprop_steps: int = 16
    activation: str = "tanh"
    initialization: str = _initialization()

    def __post_init__(self) -> None:
        check_types(self)
        check_range(self, size=(1, 1e6), backprop_steps=(1, 1e6))
        _check_counts(type(self).__name__, hidden=self.hidden)
        _check_choices(self.activation, self.initialization)


@dataclass(frozen=True)
class LSTM(Recurrent):
    """A network with a memory: long short-term memory after fully connected layers.

    With orthogonal weights the forget gate's bias begins at 1, so that the memory lasts before anything is
    learned.

    Source: Hochreiter and Schmidhuber 1997; forget gate: Gers et al. 2000; its bias: Jozefowicz et al. 2015,
    section 3.1.
    """


@dataclass(frozen=True)
class GRU(Recurrent):
    """A network with a memory: a gated recurrent unit after fully connected layers.

    Source: Cho et al. 2014, arXiv 1406.1078, in the form that cuDNN and PyTorch compute (the reset gate after
    the product).
    """


class OwnNetwork(Protocol):
    """A specification of a user's own: a frozen dataclass that builds the network."""

    def build(self, observation_space: gymnasium.Space[Any], outputs: int, action_size: int = 0) -> nn.Module:
        """A module `(obs [B, *O]) -> [B, outputs]`; with an `action_size` D above 0
        `(obs, action [B, D]) -> [B, outputs]`."""


Spec = MLP | CNN | Recurrent | type[nn.Module] | OwnNetwork


def check_spec(spec: Any, memory: bool = False) -> None:
    """Refuse what is not a network's specification.

    Args:
        spec: what a user gave.
        memory: whether the algorithm carries a network's memory from step to step.

    Raises:
        UsageError: it is neither a specification nor a `torch.nn.Module` class; or it has a memory and must
            not.
    """
    if isinstance(spec, Recurrent) and not memory:
        raise UsageError(
            f"{type(spec).__name__} has a memory, which this algorithm does not carry from step to step: use"
            " ppo or a2c, or frame_stack"
        )
    NETWORKS.check(spec)
