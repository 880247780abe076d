"""Which axis of an image is which: decided here and nowhere else, and carried by the space itself."""

from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from bellgrad.core.errors import UsageError

Channels = Literal["first", "last"]


class ImageBox(Box):
    """A Box of images whose layout is known, whatever its shape would suggest.

    Args:
        low: as of a Box.
        high: as of a Box.
        channels: of three axes: `first` is `[C, H, W]`, `last` is `[H, W, C]`.
        shape: as of a Box.
        dtype: as of a Box.
    """

    def __init__(
        self,
        low: Any,
        high: Any,
        channels: Channels,
        shape: tuple[int, ...] | None = None,
        dtype: Any = np.uint8,
    ):
        super().__init__(low, high, shape, dtype)
        self.channels = channels


def channels_of(space: gymnasium.Space[Any]) -> Channels | None:
    """Where the channels of images in a Box of three axes are; None if its shape does not tell.

    What an `ImageBox` says counts. Otherwise, where two neighboring axes are equal, as of a square image, the
    third one is that of the channels; else the shorter one of the first and the last axis is, since an image
    has fewer channels than pixels in a row. If neither tells, as of (7, 7, 7), the layout is not known.
    """
    if isinstance(space, ImageBox):
        return space.channels
    first, middle, last = space.shape or ()
    if (first == middle) != (middle == last):
        return "last" if first == middle else "first"
    return None if first == last else "first" if first < last else "last"


def known_channels(space: gymnasium.Space[Any], who: str) -> Channels:
    """As `channels_of`, for something that has to know.

    Args:
        space: a Box of three axes.
        who: needs to know it; begins the message.

    Raises:
        UsageError: the shape does not tell.
    """
    channels = channels_of(space)
    if channels is None:
        raise UsageError(
            f"{who} cannot tell whether images of shape {list(space.shape or ())} are [C, H, W] or [H, W, C]:"
            " put the transform image_layout:first or image_layout:last before it"
        )
    return channels


def is_picture(space: gymnasium.Space[Any]) -> bool:
    """Whether a space is that of images as cameras give them: a Box of uint8 of two or three axes."""
    return isinstance(space, Box) and space.dtype == np.uint8 and len(space.shape) in (2, 3)


def with_bounds(space: Box, low: float, high: float) -> Box:
    """A Box of the same shape and layout, of float32 between other bounds."""
    if isinstance(space, ImageBox):
        return ImageBox(low, high, space.channels, space.shape, np.float32)
    return Box(low, high, space.shape, np.float32)
