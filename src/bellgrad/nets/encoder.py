"""From any observation to one vector of features."""

import math
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from bellgrad.core.errors import UsageError
from bellgrad.core.images import Channels, known_channels
from bellgrad.core.masks import KEY, choices
from bellgrad.core.tree import Tree
from bellgrad.nets.layers import EnsemblePerceptron, Perceptron, PureModule, Stacked, initialize
from bellgrad.nets.specs import ACTIVATIONS, CNN
from bellgrad.ops.grads import Params

Space = gymnasium.Space[Any]
Path = tuple[str | int, ...]


class _Leaf(NamedTuple):
    path: Path  # from the root of the observation
    space: Space
    shape: tuple[int, ...]
    scale: "Scale | None"  # of uint8; None if values are taken as they are
    image: int | None  # which of the encoder's convolution stacks; None if it is not an image
    channels: Channels | None  # of an image; None if it has no axis of channels
    sizes: tuple[int, ...] | None  # categories in each dimension of a Discrete or MultiDiscrete space


def _leaf_spaces(space: Space, path: Path = ()) -> list[tuple[Path, Space, tuple[int, ...]]]:
    """Path, space and shape of everything that is observed, but for the mask of allowed actions."""
    if isinstance(space, spaces.Dict):
        parts = [(key, child) for key, child in space.spaces.items() if path or key != KEY]
        return [leaf for key, child in parts for leaf in _leaf_spaces(child, (*path, key))]
    if isinstance(space, spaces.Tuple):
        return [leaf for i, child in enumerate(space.spaces) for leaf in _leaf_spaces(child, (*path, i))]
    if not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        raise UsageError(f"a network cannot read observations of the space {space}")
    return [(path, space, space.shape or ())]


class Scale(NamedTuple):
    """Where values in a Box of uint8 lie: what is subtracted, and what then divides them; None for neither.
    Numbers, or one for each value if they differ."""

    low: int | Tensor | None
    width: int | Tensor | None

    @classmethod
    def of(cls, space: Space) -> "Scale | None":
        """That of a space; None if it is not of uint8."""
        if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
            return None

        def shortest(side: NDArray[np.int64], neutral: int) -> int | Tensor | None:
            if (side == side.flat[0]).all():
                return None if side.flat[0] == neutral else int(side.flat[0])
            return torch.from_numpy(side)

        low = space.low.astype(np.int64)
        return cls(shortest(low, 0), shortest(np.maximum(space.high - low, 1), 1)) if low.size else None

    def apply(self, x: Tensor) -> Tensor:
        """`x [..., *O]` float32 in [0, 1]."""
        if self.low is not None:
            x = x - _on_device(self.low, x)
        return x if self.width is None else x / _on_device(self.width, x)


def _on_device(value: int | Tensor, like: Tensor) -> int | Tensor:
    return value.to(like.device) if isinstance(value, Tensor) else value


def _convolutions(
    shape: tuple[int, ...], channels_at: Channels | None, cnn: CNN
) -> tuple[nn.ModuleList, int]:
    """The convolutions for an image of a shape, and how many features come out."""
    if channels_at is None:
        channels, height, width = (1, *shape)
    else:
        channels, height, width = (shape[-1], *shape[:-1]) if channels_at == "last" else shape
    layers = nn.ModuleList()
    for filters, kernel, stride in zip(cnn.channels, cnn.kernels, cnn.strides, strict=True):
        if min(height, width) < kernel:
            raise UsageError(
                f"an image of shape {list(shape)} is too small for CNN.kernels {cnn.kernels}, strides"
                f" {cnn.strides}"
            )
        layers.append(nn.Conv2d(channels, filters, kernel, stride))
        channels, height, width = filters, (height - kernel) // stride + 1, (width - kernel) // stride + 1
    if cnn.initialization == "orthogonal":
        for layer in layers:
            initialize(layer, math.sqrt(2))
    return layers, channels * height * width


class Encoder(PureModule):
    """Observations of any space as features `[..., F]` float32, for any leading axes.

    A Box is flattened (a vector stays as it is). One of uint8 is scaled to [0, 1] by the bounds of its space:
    255 divides images, and 0 and 1 stay; other numbers are taken as they are. Discrete and MultiDiscrete
    (counted from 0, whatever the space's `start`) become one-hot, MultiBinary becomes 0 and 1, Dict and Tuple
    are joined in the space's order, without the mask of allowed actions. With a `cnn`, every Box of three
    dimensions goes through its convolutions, its channels being where `core.images` finds them; and so does
    an observation `[H, W]` that is all there is to see.

    Args:
        observation_space: a Gymnasium space.
        cnn: the convolutions for images; None flattens images too.

    Attributes:
        features: F.

    Raises:
        UsageError: a space that is empty or none of these, an image too small for the kernels or of a layout
            that its shape does not tell, a `cnn` without an image.
    """

    def __init__(self, observation_space: Space, cnn: CNN | None = None):
        super().__init__()
        self.cnn = cnn
        self.leaves: list[_Leaf] = []
        self.convolutions = nn.ModuleList()
        self.features = 0
        for path, space, shape in _leaf_spaces(observation_space):
            image, sizes, channels = None, choices(space), None
            is_image = len(shape) == 3 or (len(shape) == 2 and not path)
            if cnn is not None and isinstance(space, spaces.Box) and is_image:
                image = len(self.convolutions)
                channels = known_channels(space, "CNN") if len(shape) == 3 else None
                layers, features = _convolutions(shape, channels, cnn)
                self.convolutions.append(layers)
                self.features += features
            else:
                self.features += sum(sizes) if sizes else math.prod(shape)
            self.leaves.append(_Leaf(path, space, shape, Scale.of(space), image, channels, sizes))
        if not self.features:
            raise UsageError(f"there is nothing to observe in {observation_space}")
        if cnn is not None and not self.convolutions:
            raise UsageError(
                "CNN needs an image (a Box of three axes, or of two alone), and"
                f" {observation_space} has none; use MLP"
            )

    def functional(self, params: Params, prefix: str, obs: Tree) -> Tensor:
        """`obs [..., *O]` -> `[..., F]`."""
        parts = [self._encode(leaf, params, prefix, obs) for leaf in self.leaves]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def _encode(self, leaf: _Leaf, params: Params, prefix: str, obs: Tree) -> Tensor:
        for key in leaf.path:
            obs = obs[key]
        dims = len(leaf.shape)
        if leaf.sizes is not None:
            columns = obs.flatten(-dims).unbind(-1) if dims else [obs]
            encoded = [_one_hot(column, n) for column, n in zip(columns, leaf.sizes, strict=True)]
            return encoded[0] if len(encoded) == 1 else torch.cat(encoded, -1)
        x: Tensor = obs if obs.is_floating_point() else obs.float()
        if leaf.scale is not None:
            x = leaf.scale.apply(x)
        if self.cnn is not None and leaf.image is not None:
            return self._convolve(self.cnn, leaf, params, prefix, x)
        return x if dims == 1 else x.unsqueeze(-1) if dims == 0 else x.flatten(-dims)

    def _convolve(self, cnn: CNN, leaf: _Leaf, params: Params, prefix: str, x: Tensor) -> Tensor:
        lead = x.shape[: -len(leaf.shape)]
        x = x.reshape(-1, *(leaf.shape if leaf.channels else (1, *leaf.shape)))
        if leaf.channels == "last":
            x = x.permute(0, 3, 1, 2)
        for i, stride in enumerate(cnn.strides):
            name = f"{prefix}convolutions.{leaf.image}.{i}"
            x = F.conv2d(x, params[f"{name}.weight"], params[f"{name}.bias"], stride)
            x = ACTIVATIONS[cnn.activation](x)
        return x.reshape(*lead, -1)


def _one_hot(x: Tensor, n: int) -> Tensor:
    # Not F.one_hot: it reads the values, which a compiled graph cannot.
    return (x.unsqueeze(-1) == torch.arange(n, device=x.device)).float()


class Network(PureModule):
    """An encoder and a perceptron; an action, if there is one, joins the features."""

    def __init__(self, encoder: Encoder, perceptron: Perceptron):
        super().__init__()
        self.encoder = encoder
        self.perceptron = perceptron

    def functional(self, params: Params, prefix: str, obs: Tree, action: Tensor | None = None) -> Tensor:
        """`obs [..., *O]`, `action [..., D]` -> `[..., outputs]`."""
        x = self.encoder.functional(params, f"{prefix}encoder.", obs)
        if action is not None:
            x = torch.cat([x, action], -1)
        return self.perceptron.functional(params, f"{prefix}perceptron.", x)


class EnsembleNetwork(PureModule):
    """`E` networks of one shape as one; features without parameters are computed once for all."""

    def __init__(self, members: list[Network]):
        super().__init__()
        encoders = [member.encoder for member in members]
        self.own_features = bool(encoders[0].convolutions)
        self.encoder = Stacked(encoders) if self.own_features else encoders[0]
        self.perceptron = EnsemblePerceptron([member.perceptron for member in members])

    def functional(self, params: Params, prefix: str, obs: Tree, action: Tensor | None = None) -> Tensor:
        """`obs [B, *O]`, `action [B, D]` -> `[E, B, outputs]`."""
        x = self.encoder.functional(params, f"{prefix}encoder.", obs)
        if action is not None:
            x = torch.cat([x, action.expand(*x.shape[:-1], -1)], -1)
        return self.perceptron.functional(params, f"{prefix}perceptron.", x)
