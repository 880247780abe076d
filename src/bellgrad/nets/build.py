"""Build a network from its specification, and its parameters from a random stream."""

import threading
from collections.abc import Callable
from typing import Any

import gymnasium
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bellgrad.core.errors import UsageError
from bellgrad.core.guard import guarded
from bellgrad.core.tree import Tree
from bellgrad.nets.encoder import Encoder, EnsembleNetwork, Network
from bellgrad.nets.layers import (
    Perceptron,
    Stacked,
    replace_parameters,
)
from bellgrad.nets.recurrent import RecurrentNetwork
from bellgrad.nets.specs import CNN, MLP, OwnNetwork, Recurrent, Spec, check_spec
from bellgrad.ops.grads import Params

Space = gymnasium.Space[Any]


def build(
    spec: Spec,
    observation_space: Space,
    outputs: int,
    *,
    action_size: int = 0,
    ensemble: int | None = None,
    output_gain: float = 1.0,
) -> nn.Module:
    """A network from observations, and from actions too if asked, to `outputs` numbers.

    Its initial weights are drawn by torch's ordinary functions, so call it inside the function that
    `skeleton` and `init_params` take, which give these a generator.

    Args:
        spec: `MLP`, `CNN`, `LSTM`, `GRU`, a user's `torch.nn.Module` class, or a frozen dataclass of a user's
            with `build`. A user's network is made as `cls(observation_space, outputs)` or
            `spec.build(observation_space, outputs)`, with `action_size=D` too if actions are joined, and
            takes and returns what this network does without an ensemble.
        observation_space: a Gymnasium space.
        outputs: numbers per item.
        action_size: D, the size of an action that joins the features; 0 for no action.
        ensemble: E networks with separate parameters, or None for a single one.
        output_gain: scale of the last layer's orthogonal weights (not for a user's class).

    Returns:
        A module `(obs [B, *O]) -> [B, outputs]`, or `(obs, action [B, D]) -> [B, outputs]`; with an ensemble
        `[E, B, outputs]`. For `LSTM` and `GRU` a `RecurrentNetwork`, whose `unroll` takes and gives the
        memory too.

    Raises:
        UsageError: the spec does not fit the space or what is asked, or a user's module fails, returns a
            wrong shape, changes its buffers or draws random numbers.
    """
    if ensemble is not None and ensemble < 1:
        raise UsageError(f"an ensemble of {ensemble} networks is impossible; ask for 1 or more")

    if isinstance(spec, Recurrent):
        if action_size or ensemble is not None:
            raise UsageError(f"{type(spec).__name__} can neither join an action nor be one of an ensemble")
        return RecurrentNetwork(spec, observation_space, outputs, output_gain)

    def one() -> nn.Module:
        if isinstance(spec, MLP | CNN):
            cnn, hidden = (spec, spec.dense) if isinstance(spec, CNN) else (None, spec.hidden)
            encoder = Encoder(observation_space, cnn)
            sizes = (encoder.features + action_size, *hidden, outputs)
            return Network(encoder, Perceptron(sizes, spec.activation, spec.initialization, output_gain))
        return _user_module(spec, observation_space, outputs, action_size)

    if ensemble is None:
        return one()
    members = [one() for _ in range(ensemble)]
    networks = [member for member in members if isinstance(member, Network)]
    return EnsembleNetwork(networks) if networks else Stacked(members)


def skeleton(make: Callable[[], nn.Module]) -> nn.Module:
    """The module without its numbers: every parameter on the meta device, every buffer a constant.

    Buffers are those of a construction from seed 0, so that they are the same in every run.

    Args:
        make: builds the module, usually through `build`.
    """
    module = _make_from_seed(make, 0)
    replace_parameters(module, [parameter.detach().to("meta") for parameter in module.parameters()])
    return module


def init_params(make: Callable[[], nn.Module], generator: torch.Generator) -> Params:
    """Initial parameters, the same for the same generator state, whatever the module's class and the device.

    Args:
        make: builds the module, usually through `build`; the same function as the skeleton's.
        generator: draws the seed of the construction; the parameters move to its device.

    Returns:
        Every parameter by name, detached.
    """
    seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
    return {
        name: parameter.detach().to(generator.device)
        for name, parameter in _make_from_seed(make, seed).named_parameters()
    }


def _make_from_seed(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    # What takes no generator, as dropout, draws from the global one: one construction at a time.
    with _GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        with torch.device("cpu"), _DrawsFrom(torch.Generator().manual_seed(seed)):
            return make()


class _DrawsFrom(TorchFunctionMode):
    """In this thread, random numbers come from a generator in place of the global one, which other threads
    draw from and seed."""

    def __init__(self, generator: torch.Generator):
        super().__init__()
        self._generator = generator

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in _LIKE:
            fill, kwargs = _LIKE[function], {k: v for k, v in kwargs.items() if k != "generator"}
            like, *bounds = args
            low_high = {name: kwargs.pop(name) for name in ("low", "high") if name in kwargs}
            return fill(torch.empty_like(like, **kwargs), *bounds, **low_high, generator=self._generator)
        name = getattr(function, "__name__", "")
        if name in _DRAWING and kwargs.get("generator") is None:
            kwargs = kwargs | {"generator": self._generator}
        return function(*args, **kwargs)


def _random_integers(
    out: Tensor, *bounds: int, low: int = 0, high: int | None = None, **given: Any
) -> Tensor:
    if len(bounds) == 2:
        low, high = bounds
    elif bounds:
        low, high = (low, bounds[0]) if high is None else (bounds[0], high)
    return out.random_(low, high, **given)


_GLOBAL_GENERATOR = threading.RLock()
# Functions and methods that take a generator.
_DRAWING = frozenset(
    {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson", "orthogonal_"}
    | {"uniform_", "normal_", "random_", "bernoulli_", "exponential_", "geometric_", "log_normal_", "cauchy_"}
    | {"trunc_normal_", "xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_", "sparse_"}
)
# Those that take none, by what gives the same numbers.
_LIKE: dict[Any, Callable[..., Tensor]] = {
    torch.rand_like: lambda out, **given: out.uniform_(**given),
    torch.randn_like: lambda out, **given: out.normal_(**given),
    torch.randint_like: _random_integers,
}


def _user_module(
    spec: type[nn.Module] | OwnNetwork, observation_space: Space, outputs: int, action_size: int
) -> nn.Module:
    check_spec(spec)
    name, make = (spec.__name__, spec) if isinstance(spec, type) else (f"{spec!r}.build", spec.build)
    call = f"{name}(observation_space, {outputs}{f', action_size={action_size}' if action_size else ''})"
    with guarded("your network", "its constructor", f"your network could not be made as {call}"):
        module = make(observation_space, outputs, **({"action_size": action_size} if action_size else {}))
    _check_user_module(module, observation_space, outputs, action_size)
    return module


def _check_user_module(module: nn.Module, observation_space: Space, outputs: int, action_size: int) -> None:
    """Refuse what is not a pure function of parameters and inputs, which applying the module twice shows."""
    name = type(module).__name__
    frozen = [key for key, parameter in module.named_parameters() if not parameter.requires_grad]
    if frozen:
        raise UsageError(
            f"your network {name} freezes the parameter {frozen[0]!r}; register it as a buffer instead"
        )
    inputs = [_sample(observation_space, 2)] + ([torch.rand(2, action_size)] if action_size else [])
    before = {key: buffer.clone() for key, buffer in module.named_buffers()}
    refusal = f"your network {name} failed on two observations"
    with torch.no_grad(), guarded("your network", "forward()", refusal):
        first, second = module(*inputs), module(*inputs)
    if not isinstance(first, Tensor) or first.shape != (2, outputs):
        got = f"shape {list(first.shape)}" if isinstance(first, Tensor) else type(first).__name__
        raise UsageError(f"your network {name} must return shape [B, {outputs}]; for B = 2 it returned {got}")
    for key, buffer in module.named_buffers():
        if key not in before or not torch.equal(before[key], buffer):
            raise UsageError(
                f"your network {name} changes its buffer {key!r} when applied (as BatchNorm does), which a"
                " pure function cannot do; use LayerNorm, or batch normalization without running statistics"
            )
    if not torch.equal(first, second):
        raise UsageError(
            f"your network {name} gives two different outputs for one input (as dropout does); it must not"
            " draw random numbers"
        )


def _sample(space: Space, batch: int) -> Tree:
    """Made-up observations `[batch, *O]`, good enough to see shapes and side effects: zeros, or for a Box
    fractions."""
    if isinstance(space, gymnasium.spaces.Dict):
        return {key: _sample(child, batch) for key, child in space.spaces.items()}
    if isinstance(space, gymnasium.spaces.Tuple):
        return tuple(_sample(child, batch) for child in space.spaces)
    if isinstance(space, gymnasium.spaces.Box):
        values = torch.rand(batch, *space.shape)
        return (values * 255).to(torch.uint8) if space.dtype == "uint8" else values
    is_choice = isinstance(space, gymnasium.spaces.Discrete | gymnasium.spaces.MultiDiscrete)
    return torch.zeros(batch, *(space.shape or ()), dtype=torch.int64 if is_choice else torch.int8)
