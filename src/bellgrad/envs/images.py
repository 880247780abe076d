"""Transforms of images, and of several observations as one: how screens become what networks see.

Which axis of an image is that of its channels is told by `core.images`: by the space if it says so, else by
its shape. Every transform here keeps it or says what it has become.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.spaces import Dict as DictSpace
from gymnasium.spaces import Tuple as TupleSpace
from numpy.typing import NDArray
from torch import Tensor

from bellgrad.core.errors import UsageError, check_range, check_types
from bellgrad.core.images import Channels, ImageBox, is_picture, known_channels
from bellgrad.core.records import EnvSpec, Step
from bellgrad.core.tree import Tree, where
from bellgrad.envs.transforms import ObsTransform, Transform


@dataclass(frozen=True)
class _LastObs(Transform):
    """Remembers the last `n` observations of each episode, `n` times the first one at its start. Its state is
    `[B, n, *O]`, the oldest first."""

    n: int

    def __post_init__(self) -> None:
        check_range(self, n=(1, math.inf))

    def init(self, num_envs: int, device: torch.device | str) -> Tensor:
        """Zeros."""
        space = self.inner.observation_space
        dtype = torch.uint8 if space.dtype == np.uint8 else torch.float32
        return torch.zeros(num_envs, self.n, *space.shape, dtype=dtype, device=device)

    def reset(self, state: Tensor, obs: Tensor, frozen: bool) -> Tensor:
        """`n` times the first observation."""
        return torch.stack([obs] * self.n, 1)

    def step(
        self, state: Tensor, step: Step, frozen: bool, active: Tensor | None = None
    ) -> tuple[Tensor, Step]:
        """Append the successor; after the end of an episode begin with the next one's first observation."""
        successor = torch.cat([state[:, 1:], step.next_obs.unsqueeze(1)], 1)
        if active is not None:
            successor = where(active, successor, state)
        first = step.obs.unsqueeze(1).expand_as(successor)
        state = where(step.terminated | step.truncated, first, successor)
        return state, step._replace(
            obs=self.observe(state, step.obs), next_obs=self.observe(successor, step.next_obs)
        )

    def episode(self, state: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """The observations."""
        return {"obs": state[rows]}

    def with_episode(self, state: Tensor, rows: Tensor, episode: dict[str, Tensor]) -> Tensor:
        """The observations replaced."""
        return state.index_copy(0, rows, episode["obs"])


@dataclass(frozen=True)
class FrameStack(_LastObs):
    """The last `n` observations as one, the oldest first. Its state is the stack `[B, n, *O]`.

    Vectors `(O,)` become `(n, O)`, images `(H, W)` become `(n, H, W)`, and `(C, H, W)` and `(H, W, C)` both
    become `(n * C, H, W)`. An episode begins with `n` times its first observation.

    Attributes:
        n: observations, 1 or more.
    """

    n: int = 4

    def bind(self, spec: EnvSpec) -> Self:
        """Refuses what is not a Box of one to three axes, and images whose layout is not known."""
        space = spec.observation_space
        if not isinstance(space, Box) or not 1 <= len(space.shape) <= 3:
            raise UsageError(f"FrameStack needs observations in a Box of one to three axes, not {space}")
        if len(space.shape) == 3:
            known_channels(space, "FrameStack")
        return replace(self, inner=spec)

    @property
    def spec(self) -> EnvSpec:
        """The stacked Box."""
        space = self.inner.observation_space
        axes = len(space.shape)
        join = np.concatenate if axes == 3 else np.stack
        low, high = (
            join([_channels_first(side)] * self.n) if self._moves else join([side] * self.n)
            for side in (space.low, space.high)
        )
        stacked = (
            Box(low, high, dtype=space.dtype)
            if axes == 1
            else ImageBox(low, high, "first", dtype=space.dtype)
        )
        return replace(self.inner, observation_space=stacked, frame_stack=self.n)

    @property
    def _moves(self) -> bool:
        """Whether the channels come to the front."""
        space = self.inner.observation_space
        return len(space.shape) == 3 and known_channels(space, "FrameStack") == "last"

    def observe(self, state: Tensor, obs: Tensor) -> Tensor:
        """The stack, channels of images joined."""
        if state.dim() != 5:
            return state
        return (state.movedim(-1, 2) if self._moves else state).flatten(1, 2)


@dataclass(frozen=True)
class MaxPool(_LastObs):
    """The elementwise maximum of an episode's last `n` observations: against sprites that are drawn in every
    second image only. Source: Mnih et al. 2015, methods.

    Attributes:
        n: observations, 1 or more.
    """

    n: int = 2

    def bind(self, spec: EnvSpec) -> Self:
        """Refuses observations that are not in a Box."""
        if not isinstance(spec.observation_space, Box):
            raise UsageError(f"MaxPool needs observations in a Box, not {spec.observation_space}")
        return replace(self, inner=spec)

    def observe(self, state: Tensor, obs: Tensor) -> Tensor:
        """`[B, *O]`."""
        return state.amax(1)


@dataclass(frozen=True)
class Gray(ObsTransform):
    """Color images `[H, W, 3]` or `[3, H, W]` uint8, red first, as gray ones `[H, W]` uint8, by their luma.

    Source: ITU-R BT.601 (weights 0.299, 0.587, 0.114); rounded as OpenCV's `RGB2GRAY` does, in fixed point.
    """

    def bind(self, spec: EnvSpec) -> Self:
        """Refuses what is not a color image."""
        space = spec.observation_space
        if not is_picture(space) or _num_channels(space, "Gray") != 3:
            raise UsageError(f"Gray needs color images [H, W, 3] or [3, H, W] of uint8, not {space}")
        return replace(self, inner=spec)

    @property
    def spec(self) -> EnvSpec:
        """Images without channels."""
        space = self.inner.observation_space
        size = space.shape[:2] if self._axis == -1 else space.shape[1:]
        gray = Box(space.low.min(), space.high.max(), size, np.uint8)
        return replace(self.inner, observation_space=gray)

    @property
    def _axis(self) -> int:
        """Where the channels are; the last one until it is bound."""
        space = None if self.inner is None else self.inner.observation_space
        return -1 if space is None or known_channels(space, "Gray") == "last" else -3

    def observe(self, state: Tree, obs: Tensor) -> Tensor:
        """`[B, H, W, 3]` or `[B, 3, H, W]` to `[B, H, W]`, uint8."""
        red, green, blue = obs.to(torch.int32).unbind(self._axis)
        return ((9798 * red + 19235 * green + 3735 * blue + 16384) >> 15).to(torch.uint8)


class AreaWeights(NamedTuple):
    """How much of each input row and column is in an output one; each output's weights sum to 1. Kept as a
    state so that they are on the environment's device."""

    rows: Tensor  # [height, H] float32
    columns: Tensor  # [width, W] float32


@dataclass(frozen=True)
class Resize(ObsTransform):
    """Images `[H, W]`, `[H, W, C]` or `[C, H, W]` uint8 at another size: each new pixel is the mean over the
    area that it covers, as of OpenCV's `INTER_AREA` for smaller images.

    Attributes:
        height: pixels, 1 or more.
        width: pixels, 1 or more; None for the height.
    """

    height: int
    width: int | None = None

    def __post_init__(self) -> None:
        check_range(self, height=(1, math.inf), width=(1, math.inf))

    def bind(self, spec: EnvSpec) -> Self:
        """Refuses what is not an image, and images whose layout is not known."""
        space = spec.observation_space
        if not is_picture(space):
            raise UsageError(f"Resize needs images [H, W], [H, W, C] or [C, H, W] of uint8, not {space}")
        _num_channels(space, "Resize")
        return replace(self, inner=spec, width=self.height if self.width is None else self.width)

    @property
    def spec(self) -> EnvSpec:
        """Images of the new size."""
        space = self.inner.observation_space
        low, high, size = space.low.min(), space.high.max(), (self.height, self.width)
        resized = Box(low, high, size, np.uint8)
        if len(space.shape) == 3:
            shape = (*size, space.shape[-1]) if self._channels_last else (space.shape[0], *size)
            channels: Channels = "last" if self._channels_last else "first"
            resized = ImageBox(low, high, channels, shape)
        return replace(self.inner, observation_space=resized)

    @property
    def _channels_last(self) -> bool:
        space = self.inner.observation_space
        return len(space.shape) == 3 and known_channels(space, "Resize") == "last"

    def init(self, num_envs: int, device: torch.device | str) -> AreaWeights:
        """The weights."""
        shape = self.inner.observation_space.shape
        h, w = shape[:2] if self._channels_last else shape[-2:]
        return AreaWeights(_area_weights(h, self.height).to(device), _area_weights(w, self.width).to(device))

    def observe(self, state: AreaWeights, obs: Tensor) -> Tensor:
        """`[B, H, W]`, `[B, H, W, C]` or `[B, C, H, W]` at the new size, uint8."""
        planes = obs.to(torch.float32)
        if self._channels_last:
            planes = planes.movedim(-1, 1)
        resized = (state.rows @ planes @ state.columns.T).round().to(torch.uint8)
        return resized.movedim(1, -1) if self._channels_last else resized


@dataclass(frozen=True)
class ChannelsFirst(ObsTransform):
    """Images `[H, W, C]` as `[C, H, W]`, for a network of your own that wants them so."""

    def bind(self, spec: EnvSpec) -> Self:
        """Refuses what is not an image with its channels on the last axis."""
        space = spec.observation_space
        if (
            not is_picture(space)
            or len(space.shape) != 3
            or known_channels(space, "ChannelsFirst") == "first"
        ):
            raise UsageError(f"ChannelsFirst needs images [H, W, C] of uint8, not {space}")
        return replace(self, inner=spec)

    @property
    def spec(self) -> EnvSpec:
        """The Box with its last axis first."""
        space = self.inner.observation_space
        moved = ImageBox(_channels_first(space.low), _channels_first(space.high), "first")
        return replace(self.inner, observation_space=moved)

    def observe(self, state: Tree, obs: Tensor) -> Tensor:
        """`[B, H, W, C]` to `[B, C, H, W]`."""
        return obs.movedim(-1, 1)


@dataclass(frozen=True)
class ImageLayout(ObsTransform):
    """Says where images have their channels, if their shape does not tell, as of (7, 7, 7); changes no
    number. Put it before every transform and network of images.

    Attributes:
        channels: of every Box of three axes: `first` is `[C, H, W]`, `last` is `[H, W, C]`.
    """

    channels: Channels

    def __post_init__(self) -> None:
        check_types(self)

    def bind(self, spec: EnvSpec) -> Self:
        """Refuses observations without a Box of three axes."""
        if not _has_image(spec.observation_space):
            raise UsageError(f"ImageLayout needs images, a Box of three axes, not {spec.observation_space}")
        return replace(self, inner=spec)

    @property
    def spec(self) -> EnvSpec:
        """The same space, whose images know their layout."""
        return replace(
            self.inner, observation_space=_with_layout(self.inner.observation_space, self.channels)
        )


def _with_layout(space: gymnasium.Space[Any], channels: Channels) -> gymnasium.Space[Any]:
    if isinstance(space, DictSpace):
        return DictSpace({key: _with_layout(child, channels) for key, child in space.spaces.items()})
    if isinstance(space, TupleSpace):
        return TupleSpace([_with_layout(child, channels) for child in space.spaces])
    if isinstance(space, Box) and len(space.shape) == 3:
        return ImageBox(space.low, space.high, channels, dtype=space.dtype)
    return space


def _has_image(space: gymnasium.Space[Any]) -> bool:
    if isinstance(space, DictSpace | TupleSpace):
        children = space.spaces.values() if isinstance(space, DictSpace) else space.spaces
        return any(map(_has_image, children))
    return isinstance(space, Box) and len(space.shape) == 3


def _num_channels(space: gymnasium.Space[Any], who: str) -> int | None:
    """C; None of images without channels."""
    shape = space.shape or ()
    if len(shape) != 3:
        return None
    return int(shape[-1] if known_channels(space, who) == "last" else shape[0])


def _channels_first(side: NDArray[Any]) -> NDArray[Any]:
    return np.moveaxis(side, -1, 0)


def _area_weights(size: int, wanted: int) -> Tensor:
    """`[wanted, size]` float32: which part of each of `wanted` equal stretches of a line lies in each of
    `size` pixels."""
    edges = np.linspace(0.0, size, wanted + 1)
    pixel = np.arange(size)
    covered = np.minimum(edges[1:, None], pixel + 1.0) - np.maximum(edges[:-1, None], pixel)
    return torch.from_numpy(covered.clip(0.0) * (wanted / size)).to(torch.float32)
