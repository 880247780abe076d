"""Observations as whole numbers."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from bellgrad.core.errors import UsageError
from bellgrad.core.records import EnvSpec
from bellgrad.envs.discrete import DiscreteStates, known_dynamics
from bellgrad.envs.gym import obs_to_tensor

BOX = Box(np.array([-1.0, 0.0]), np.array([1.0, 10.0]), dtype=np.float64)


def bound(space, **options):
    return DiscreteStates(**options).bind(EnvSpec("any", space, Discrete(2)))


@pytest.mark.parametrize(
    ("obs", "state"),
    [
        ([-1.0, 0.0], 0),
        ([-0.1, 4.9], 4),  # first of 2 intervals, fifth of 10: 0 * 10 + 4
        ([0.0, 5.0], 15),  # a bound belongs to the interval above it
        ([1.0, 10.0], 19),  # the last one's upper bound to itself
        ([-7.0, 99.0], 9),  # what lies outside counts as in the nearest
    ],
)
def test_a_box_is_cut_into_cells_that_count_row_by_row(obs, state):
    cells = bound(BOX, bins=(2, 10))
    assert cells.spec.observation_space == Discrete(20)
    assert cells.observe({}, torch.tensor([obs])).tolist() == [state]


def test_one_number_of_bins_serves_every_dimension_and_bounds_may_be_given():
    cells = bound(Box(-np.inf, np.inf, (3,)), bins=(4,), low=(0.0, 0.0, 0.0), high=(4.0, 4.0, 4.0))
    assert cells.observe({}, torch.tensor([[1.5, 2.5, 3.5]])).tolist() == [1 * 16 + 2 * 4 + 3]


@pytest.mark.parametrize(
    "space",
    [
        Tuple((Discrete(3), Discrete(4), Discrete(2))),
        MultiDiscrete([3, 4, 2]),
        Dict({"a": Discrete(3), "b": MultiDiscrete([4, 2])}),
        Tuple((Discrete(3, start=5), MultiBinary(3))),
    ],
)
def test_every_tuple_of_categories_has_a_number_of_its_own(space):
    whole = bound(space)
    space.seed(0)
    seen = {}
    for _ in range(600):  # of 24 tuples; the probability of missing one is below 24 * (23/24)^600 < 1e-9
        obs = space.sample()
        state = int(whole.observe({}, obs_to_tensor(space, [obs]))[0])
        assert seen.setdefault(state, str(obs)) == str(obs)
    assert sorted(seen) == list(range(24)) and whole.spec.observation_space == Discrete(24)


@pytest.mark.parametrize(
    ("space", "options", "said"),
    [
        (BOX, {}, "say how many --bins"),
        (BOX, {"bins": (2, 2, 2)}, "has 2 numbers; there are 3 bins"),
        (BOX, {"bins": (0,)}, "each must be 1 or more"),
        (
            BOX,
            {"bins": (2,), "low": (0.0, 5.0), "high": (1.0, 5.0)},
            "number 1 of the observation lies between 5 and 5",
        ),
        (Box(-np.inf, np.inf, (2,)), {"bins": (2,)}, "give --bin-low and --bin-high"),
        (Discrete(3), {"bins": (2,)}, "bins are for observations in a Box"),
        (gymnasium.spaces.Text(3), {}, "finitely many states"),
    ],
)
def test_what_has_no_finite_number_of_states_is_refused(space, options, said):
    with pytest.raises(UsageError, match=said):
        bound(space, **options)


def test_dynamics_are_known_only_where_nothing_may_change_them():
    assert known_dynamics(gymnasium.make("FrozenLake-v1", disable_env_checker=True)).num_states == 16
    assert known_dynamics(gymnasium.make("CartPole-v1", disable_env_checker=True)) is None
    louder = gymnasium.wrappers.TransformReward(
        gymnasium.make("FrozenLake-v1", disable_env_checker=True), lambda r: 2 * r
    )
    assert known_dynamics(louder) is None
