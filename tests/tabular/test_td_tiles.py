"""Tile coding: the tiles of Sutton and Barto, the same code for a batch and for a single step, and the
mountain car."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, MultiDiscrete

import bellgrad as bg
from bellgrad.core.errors import UsageError
from bellgrad.core.records import EnvSpec
from bellgrad.envs.discrete import DiscreteStates

UNIT_SQUARE = EnvSpec("square", Box(0.0, 1.0, (2,), np.float64), None)


def tiles(point, tilings=4, bins=(2,)):
    coded = DiscreteStates(bins, tilings=tilings).bind(UNIT_SQUARE)
    return coded.observe((), torch.tensor([point], dtype=torch.float64))[0].tolist()


def test_each_tiling_has_its_own_tiles_one_more_per_dimension_than_bins():
    coded = DiscreteStates((2,), tilings=4).bind(UNIT_SQUARE)
    assert coded.spec.observation_space == MultiDiscrete([4 * 3 * 3] * 4)
    assert [number // 9 for number in tiles([0.3, 0.9])] == [0, 1, 2, 3]
    assert tiles([0.0, 0.0])[0] == 0 and tiles([1.0, 1.0])[3] == 35


def test_tilings_are_shifted_by_the_first_odd_numbers():
    # Section 9.5.4 (2018, page 219): displacement (1, 3), in units of the tile width divided by the
    # number of tilings. With tiles of width 1/2 and four tilings, the next border of tiling 1 is at 3/8 in
    # the first dimension and at 1/8 in the second.
    def border(dimension, point, to):
        moved = list(point)
        moved[dimension] = to
        return tiles(point)[1] != tiles(moved)[1]

    assert not border(0, [0.01, 0.01], 0.37) and border(0, [0.01, 0.01], 0.38)
    assert not border(1, [0.01, 0.01], 0.12) and border(1, [0.01, 0.01], 0.13)


def test_near_points_share_tiles_and_far_ones_do_not():
    shared = [
        len(set(tiles([0.5, 0.5], 8, (4,))) & set(tiles([0.5 + far, 0.5], 8, (4,))))
        for far in (0.0, 0.02, 0.1, 0.2, 0.3)
    ]
    assert shared[0] == 8 and shared[-1] == 0 and sorted(shared, reverse=True) == shared


@pytest.mark.parametrize("tilings", [1, 8])
def test_one_observation_and_a_batch_are_coded_alike(tilings):
    coded = DiscreteStates((5, 7), tilings=tilings).bind(UNIT_SQUARE)
    # also outside, which counts as the outermost tile
    points = np.random.default_rng(0).uniform(-0.2, 1.2, (500, 2))
    batch = coded.observe((), torch.from_numpy(points)).numpy()
    single = np.array([coded.observe_one((point[None],)) for point in points])
    assert np.array_equal(batch, single) and batch.min() >= 0
    assert batch.max() < (tilings * 48 if tilings > 1 else 35)


@pytest.mark.parametrize(
    ("algorithm", "env", "options", "said"),
    [
        (
            bg.QLearning(),
            "MountainCar-v0",
            {"bins": (8,), "tilings": 8},
            "tile coding is for GradientQLearning and GradientSARSA",
        ),
        (bg.GradientSARSA(), "MountainCar-v0", {"tilings": 8}, "say how many --bins"),
        (bg.GradientSARSA(), "FrozenLake-v1", {"tilings": 8}, "tilings are for observations in a Box"),
        (bg.DQN(), "CartPole-v1", {"tilings": 8}, "tilings are for tabular algorithms"),
    ],
)
def test_tile_coding_that_does_not_fit_gives_a_usage_error(algorithm, env, options, said, tmp_path):
    with pytest.raises(UsageError, match=said):
        bg.train(algorithm, env, 100, out=tmp_path / "run", progress="off", **options)


def test_sarsa_with_tiles_drives_the_car_up_the_hill(tmp_path):
    # Example 10.1 (2018, page 245): 8 tilings of 8 x 8 tiles, alpha 0.5 divided by the number of tilings,
    # epsilon 0, and initial values of 0, which are above the true ones. Its curves converge to between 100
    # and 200 steps per episode.
    sarsa = bg.GradientSARSA(alpha=0.5, gamma=1.0, epsilon_initial=0.0, epsilon_final=0.0)
    run = bg.train(
        sarsa,
        "MountainCar-v0",
        40_000,
        out=tmp_path / "run",
        progress="off",
        bins=(8,),
        tilings=8,
        eval_episodes=0,
    )
    assert bg.evaluate(run, episodes=20).return_mean > -160
    agent = bg.load(run)
    assert agent.act(np.array([-0.5, 0.03], np.float32)) == 2  # moving right: accelerate to the right
