"""Which axis of an image is that of its channels."""

import numpy as np
import pytest
from gymnasium.spaces import Box

from bellgrad.core.errors import UsageError
from bellgrad.core.images import ImageBox, channels_of, known_channels


@pytest.mark.parametrize(
    ("shape", "channels"),
    [
        ((84, 84, 3), "last"),
        ((3, 84, 84), "first"),
        ((210, 160, 3), "last"),
        ((3, 210, 160), "first"),
        ((64, 64, 1), "last"),
        ((1, 64, 64), "first"),
        ((5, 7, 7), "first"),
        ((20, 7, 7), "first"),  # more channels than pixels in a row, as of a board
        ((8, 8, 111), "last"),
        ((12, 5, 6), "last"),  # neither is square: fewer channels than pixels
        ((7, 7, 7), None),
        ((3, 64, 3), None),
    ],
)
def test_the_odd_or_else_the_shorter_outer_axis_holds_the_channels(shape, channels):
    assert channels_of(Box(0, 255, shape, np.uint8)) == channels == channels_of(Box(0, 1, shape, np.float32))


@pytest.mark.parametrize("channels", ["first", "last"])
def test_what_a_space_says_of_its_layout_counts_more_than_its_shape(channels):
    for shape in ((84, 84, 3), (3, 84, 84), (7, 7, 7)):
        space = ImageBox(0, 255, channels, shape)
        assert channels_of(space) == channels == known_channels(space, "CNN")
        assert space == Box(0, 255, shape, np.uint8)


def test_a_layout_that_nothing_tells_is_asked_for():
    with pytest.raises(UsageError, match=r"CNN cannot tell .*\[7, 7, 7\].*image_layout:first"):
        known_channels(Box(0, 255, (7, 7, 7), np.uint8), "CNN")
