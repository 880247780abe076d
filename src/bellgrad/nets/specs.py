"""What a network is, as data: frozen dataclasses, a user's module class, and both as JSON."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bellgrad.core.errors import CheckpointError, UsageError, check_range, check_types, unknown

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


@dataclass(frozen=True)
class MLP:
    """Fully connected layers over the flattened observation (images too; for convolutions use `CNN`).

    Attributes:
        hidden: units of each hidden layer.
        activation: after each hidden layer: tanh, relu, elu, gelu, silu or leaky_relu.
        initialization: orthogonal (gain sqrt(2), zero biases), or torch (PyTorch's own defaults).

    Raises:
        UsageError: a width below 1, or an unknown activation or initialization.
    """

    hidden: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    initialization: str = "orthogonal"

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
        kernels: sizes of the convolutions, pixels, square.
        strides: of the convolutions, pixels.
        dense: units of each fully connected hidden layer.
        activation: after each layer but the last; as for `MLP`.
        initialization: as for `MLP`.

    Raises:
        UsageError: a size below 1, `channels`, `kernels` and `strides` of unequal lengths, or an unknown
            name.
    """

    channels: tuple[int, ...] = (32, 64, 64)
    kernels: tuple[int, ...] = (8, 4, 3)
    strides: tuple[int, ...] = (4, 2, 1)
    dense: tuple[int, ...] = (512,)
    activation: str = "relu"
    initialization: str = "orthogonal"

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
        activation: after each fully connected layer.
        initialization: orthogonal (each gate's matrix on its own), or torch (PyTorch's own defaults).

    Raises:
        UsageError: a size or a number of steps below 1, or an unknown activation or initialization.
    """

    size: int = 64
    hidden: tuple[int, ...] = (64,)
    backprop_steps: int = 16
    activation: str = "tanh"
    initialization: str = "orthogonal"

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


# A user's module is a class, or its name as "module:Class".
Spec = MLP | CNN | Recurrent | type[nn.Module] | str

KINDS: dict[str, type[MLP] | type[CNN] | type[Recurrent]] = {"mlp": MLP, "cnn": CNN, "lstm": LSTM, "gru": GRU}


def load_class(name: str) -> type[nn.Module]:
    """Import a user's network class from `"module:Class"`.

    Raises:
        UsageError: the name has no colon, the import fails, or it does not name a `torch.nn.Module` class.
    """
    module_name, colon, _ = name.partition(":")
    if not colon:
        raise UsageError(f"network {name!r} must be written as 'module:Class'")
    try:
        importlib.import_module(module_name)
    except Exception as error:  # whatever a user's file raises when it is imported
        raise UsageError(
            f"network {name!r} could not be imported: {type(error).__name__}: {error}"
        ) from error
    return _imported_class(name)


def _imported_class(name: str) -> type[nn.Module]:
    module_name, _, class_name = name.partition(":")
    found: Any = sys.modules[module_name]
    for part in class_name.split("."):
        # Not getattr, with which a lazy module would run code.
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UsageError(f"network {name!r} does not name a torch.nn.Module class")
    return found


def spec_to_json(spec: Spec) -> dict[str, Any]:
    """A specification as a JSON object with a `kind`; a user's class is written as its name.

    Raises:
        UsageError: a class that was made inside a function, or something that is not a specification.
    """
    if isinstance(spec, str):
        return {"kind": "module", "name": spec}
    if isinstance(spec, type) and issubclass(spec, nn.Module):
        if "<locals>" in spec.__qualname__:
            raise UsageError(
                f"network {spec.__qualname__} is defined inside a function; move it to the top of its file"
            )
        return {"kind": "module", "name": f"{spec.__module__}:{spec.__qualname__}"}
    for kind, cls in KINDS.items():
        if isinstance(spec, cls):
            return {"kind": kind} | {
                key: list(v) if isinstance(v, tuple) else v for key, v in asdict(spec).items()
            }
    raise not_a_network(spec)


def not_a_network(spec: object) -> UsageError:
    """The error for what is not a network's specification."""
    return UsageError(
        f"{spec!r} is not a network: give MLP, CNN, LSTM or GRU, a torch.nn.Module class or 'module:Class'"
    )


def check_spec(spec: Any, memory: bool = False) -> None:
    """Refuse what is not a network's specification; a name is not imported yet.

    Args:
        spec: what a user gave.
        memory: whether the algorithm carries a network's memory from step to step.

    Raises:
        UsageError: it is not one of `MLP`, `CNN`, `LSTM`, `GRU`, a module class or its name; or it has a
            memory, which the algorithm does not carry.
    """
    if isinstance(spec, Recurrent) and not memory:
        raise UsageError(
            f"{type(spec).__name__} has a memory, which this algorithm does not carry from step to step: use"
            " ppo or a2c, or frame_stack"
        )
    if not isinstance(spec, str):
        spec_to_json(spec)
    elif ":" not in spec:
        raise UsageError(f"network {spec!r} must be written as 'module:Class'")


def spec_from_json(data: dict[str, Any], trust_imports: bool = False) -> Spec:
    """The specification that `spec_to_json` wrote. Reading runs no code, unless `trust_imports` allows a
    user's file.

    Args:
        data: the JSON object.
        trust_imports: whether a user's own module may be imported (which runs it).

    Raises:
        CheckpointError: an unknown kind, or fields that do not fit it.
        UsageError: a user's class whose module is not imported yet, without `trust_imports`.
    """
    fields = dict(data)
    kind = fields.pop("kind", None)
    if kind == "module":
        name = fields.get("name")
        if not isinstance(name, str) or ":" not in name or len(fields) != 1:
            raise CheckpointError(f"the network {data!r} must have exactly a name 'module:Class'")
        if trust_imports:
            return load_class(name)
        if name.partition(":")[0] not in sys.modules:
            raise UsageError(
                f"the network is your own class {name!r}; import its module first, or pass trust_imports=True"
                " to let it run"
            )
        return _imported_class(name)
    if not isinstance(kind, str) or kind not in KINDS:
        raise CheckpointError(f"unknown kind of network {kind!r}; known: {', '.join([*KINDS, 'module'])}")
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
    try:
        return KINDS[kind](**values)
    except (TypeError, UsageError) as error:
        raise CheckpointError(f"the network {data!r} is damaged: {error}") from error
