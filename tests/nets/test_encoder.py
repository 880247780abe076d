"""Every observation space becomes one row of features."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from bellgrad.core.errors import UsageError
from bellgrad.envs.gym import obs_to_tensor
from bellgrad.nets.build import init_params
from bellgrad.nets.encoder import Encoder
from bellgrad.nets.layers import apply
from bellgrad.nets.specs import CNN

SMALL_CNN = CNN(channels=(3,), kernels=(3,), strides=(1,))


@pytest.mark.parametrize(
    ("space", "obs", "features"),
    [
        (spaces.Box(-1, 1, ()), torch.tensor([0.5, 0.25]), [[0.5], [0.25]]),
        (spaces.Box(-1, 1, (1, 2)), torch.tensor([[[1.0, 2.0]]]), [[1.0, 2.0]]),
        (spaces.Box(0, 255, (2,), np.uint8), torch.tensor([[0, 255]], dtype=torch.uint8), [[0.0, 1.0]]),
        (spaces.Discrete(3), torch.tensor([0, 2]), [[1, 0, 0], [0, 0, 1]]),
        (spaces.MultiDiscrete([2, 3]), torch.tensor([[1, 0], [0, 2]]), [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]),
        (spaces.MultiBinary(3), torch.tensor([[1, 0, 1]], dtype=torch.int8), [[1, 0, 1]]),
        (
            spaces.Dict(
                {"b": spaces.Discrete(2), "a": spaces.Tuple([spaces.Box(-1, 1, (2,)), spaces.MultiBinary(1)])}
            ),
            {"b": torch.tensor([1]), "a": (torch.tensor([[3.0, 4.0]]), torch.tensor([[1]]))},
            # Gymnasium sorts the keys of a Dict space; the observation's own order does not matter.
            [[3, 4, 1, 0, 1]],
        ),
    ],
)
def test_features_of_each_space(space, obs, features):
    encoder = Encoder(space)
    got = encoder(obs)
    assert got.dtype == torch.float32
    assert got.tolist() == features
    assert encoder.features == len(features[0])


def uint8(low, high, shape=None):
    return spaces.Box(np.array(low, np.uint8), np.array(high, np.uint8), shape, np.uint8)


@pytest.mark.parametrize(
    ("space", "seen", "features"),
    [
        (spaces.Box(0, 1, (2,), np.uint8), [0, 1], [0, 1]),
        (spaces.Box(0, 255, (2,), np.uint8), [51, 255], [0.2, 1]),
        (spaces.Box(0, 15, (2,), np.uint8), [3, 15], [0.2, 1]),
        (spaces.Box(100, 104, (2,), np.uint8), [101, 104], [0.25, 1]),
        (uint8([0, 0, 7], [1, 255, 7]), [1, 51, 7], [1, 0.2, 0]),
        (spaces.Box(0, 1, (2,), np.int8), [0, 1], [0, 1]),
        (spaces.Box(0, 255, (2,), np.int32), [51, 255], [51, 255]),  # only bytes are scaled
    ],
    ids=str,
)
def test_bytes_are_scaled_by_the_bounds_of_their_space_wherever_they_are(space, seen, features):
    dtype = np.uint8 if space.dtype == np.uint8 else np.float32
    obs = torch.from_numpy(np.array([seen], dtype))
    wanted = torch.tensor([features], dtype=torch.float32)
    torch.testing.assert_close(Encoder(space)(obs), wanted)
    nested = spaces.Dict({"x": spaces.Tuple([space, spaces.Discrete(2)])})
    torch.testing.assert_close(Encoder(nested)({"x": (obs, torch.tensor([0]))})[:, :-2], wanted)


@pytest.mark.parametrize(("high", "divisor"), [(1, 1), (15, 15), (255, 255)])
def test_images_of_bytes_are_scaled_by_their_bounds_too(high, divisor):
    space, like = spaces.Box(0, high, (2, 5, 6), np.uint8), spaces.Box(0, 1, (2, 5, 6), np.float32)
    params = init_params(lambda: Encoder(space, SMALL_CNN), torch.Generator())
    obs = torch.randint(0, high + 1, (4, 2, 5, 6), dtype=torch.uint8)
    got = apply(Encoder(space, SMALL_CNN), params, obs)
    assert torch.equal(got, apply(Encoder(like, SMALL_CNN), params, obs.float() / divisor))


def test_categories_are_told_apart_wherever_an_environment_begins_to_count():
    space = spaces.Tuple([spaces.Discrete(3, start=5), spaces.MultiDiscrete([[2, 2]], start=[[1, 4]])])
    seen = obs_to_tensor(space, [(5, np.array([[2, 4]])), (7, np.array([[1, 5]]))])
    assert Encoder(space)(seen).tolist() == [[1, 0, 0, 0, 1, 1, 0], [0, 0, 1, 1, 0, 0, 1]]


def test_a_plain_vector_is_handed_on_without_any_work():
    obs = torch.randn(4, 3)
    assert Encoder(spaces.Box(-1, 1, (3,)))(obs) is obs


def test_images_with_the_channels_last_equal_those_with_the_channels_first():
    first, last = (
        Encoder(spaces.Box(0, 1, (2, 5, 6)), SMALL_CNN),
        Encoder(spaces.Box(0, 1, (5, 6, 2)), SMALL_CNN),
    )
    params = init_params(lambda: first, torch.Generator())
    obs = torch.rand(4, 2, 5, 6)
    torch.testing.assert_close(apply(last, params, obs.permute(0, 2, 3, 1)), apply(first, params, obs))
    assert first.features == last.features == 3 * 3 * 4  # filters, 5 - 3 + 1, 6 - 3 + 1


def test_an_image_and_a_vector_are_joined_and_time_axes_are_kept():
    space = spaces.Dict({"camera": spaces.Box(0, 255, (1, 5, 5), np.uint8), "speed": spaces.Box(-1, 1, (2,))})
    encoder = Encoder(space, SMALL_CNN)
    obs = {"camera": torch.randint(0, 256, (7, 4, 1, 5, 5), dtype=torch.uint8), "speed": torch.randn(7, 4, 2)}
    got = encoder(obs)
    assert got.shape == (7, 4, encoder.features) == (7, 4, 3 * 3 * 3 + 2)
    assert torch.equal(got[..., -2:], obs["speed"])
    torch.testing.assert_close(got[2], encoder({key: value[2] for key, value in obs.items()}))


@pytest.mark.parametrize(
    ("space", "cnn", "message"),
    [
        (spaces.Box(0, 255, (3, 7, 7), np.uint8), CNN(), "too small for CNN.kernels"),
        (spaces.Box(-1, 1, (4,)), CNN(), "CNN needs an image"),
        (spaces.Box(-1, 1, (9, 9, 9)), SMALL_CNN, "image_layout:first or image_layout:last"),
        (spaces.Text(5), None, "cannot read observations"),
        (spaces.Dict({"a": spaces.Sequence(spaces.Discrete(2))}), None, "cannot read observations"),
    ],
)
def test_what_cannot_be_encoded_is_refused_in_words(space, cnn, message):
    with pytest.raises(UsageError, match=message):
        Encoder(space, cnn)
