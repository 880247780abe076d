"""Bounds of actions that can be learned in, and actions that stay within them."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from bellgrad.core.actions import unusable_bounds, within_bounds
from bellgrad.core.errors import UsageError
from bellgrad.core.records import EnvSpec
from bellgrad.envs.transforms import RescaleAction

MAX = float(np.finfo(np.float32).max)


def box(low, high, dtype=np.float64):
    """A Box whose bounds Gymnasium itself might refuse."""
    space = Box(-1.0, 1.0, np.shape(low) or (1,), dtype)
    space.low, space.high = np.full(space.shape, low, dtype), np.full(space.shape, high, dtype)
    return space


@pytest.mark.parametrize(
    ("space", "wrong"),
    [
        (box(-np.inf, np.inf), "infinite"),
        (box(0.0, np.inf), "infinite"),
        (box(-np.inf, 0.0, np.float32), "infinite"),
        (box(np.nan, 1.0), "infinite"),
        (box([0.0, -1.0], [1.0, np.nan]), "infinite"),
        (box(1.0, -1.0), "above"),
        (box(-3.4e38, 3.4e38, np.float32), "too far apart"),
        (box([-1.0, -2e38], [1.0, 2e38], np.float32), "too far apart"),
        (box(0.0, 1e39), "too far apart"),
        (box(-1e300, 1e300), "too far apart"),
        (box(1e39, 2e39), "too far apart"),
        (box(1e10, 1e10 + 1), "too close together"),
        (Box(-1, 1, (0,)), "no dimension"),
    ],
    ids=str,
)
def test_bounds_between_which_float32_cannot_act_are_refused(space, wrong):
    assert wrong in unusable_bounds(space)
    with pytest.raises(UsageError, match=wrong):
        RescaleAction().bind(EnvSpec("x", Box(-1, 1, (2,)), space))


@pytest.mark.parametrize(
    "space",
    [
        box(-1.0, 1.0),
        box(-1.0, 0.1),
        box(0.0, MAX, np.float32),
        box(-1.7e38, 1.7e38, np.float32),
        box(2.0, 2.0),
        box(0.1, 0.1),
        box(-65504.0, 65504.0, np.float16),
        Box(0, 3, ()),
    ],
    ids=str,
)
def test_other_bounds_are_fit_and_every_action_between_them_is_in_the_space(space):
    assert unusable_bounds(space) is None
    transform = RescaleAction().bind(EnvSpec("x", Box(-1, 1, (2,)), space))
    state = transform.init(1, "cpu")
    for point in (-1.0, -0.3, 0.0, 0.999, 1.0):
        action = transform.action(state, torch.full((1, space.low.size), point)).numpy()
        given = within_bounds(space, action.reshape(space.shape))
        assert space.contains(given) and given.dtype == space.dtype
        middle = space.low.astype(float) / 2 * (1 - point) + space.high.astype(float) / 2 * (1 + point)
        np.testing.assert_allclose(given, middle, rtol=1e-3, atol=1e-6)
