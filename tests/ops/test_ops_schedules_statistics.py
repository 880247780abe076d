import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bellgrad.core.errors import UsageError
from bellgrad.ops.polyak import hard_copy_every, polyak
from bellgrad.ops.schedules import Constant, Exponential, Linear
from bellgrad.ops.statistics import RunningMoments

STEPS = torch.tensor([0, 5, 10, 1000])


@pytest.mark.parametrize(
    "schedule, expected",
    [
        (Constant(0.3), [0.3, 0.3, 0.3, 0.3]),
        (Linear(1.0, 0.1, 10), [1.0, 0.55, 0.1, 0.1]),
        (Exponential(1.0, 0.2, 5.0), [1.0, 0.2 + 0.8 / math.e, 0.2 + 0.8 / math.e**2, 0.2]),
    ],
)
def test_schedules_by_hand(schedule, expected):
    torch.testing.assert_close(schedule.value(STEPS), torch.tensor(expected))
    scalar = schedule.value(torch.tensor(5))
    assert scalar.shape == ()
    assert scalar.dtype == torch.float32
    assert scalar.item() == pytest.approx(expected[1])


def test_a_linear_schedule_ends_exactly():
    assert Linear(1.0, 0.05, 7).value(torch.tensor(7)).item() == torch.tensor(0.05).item()


@pytest.mark.parametrize("make", [lambda: Linear(1.0, 0.0, 0), lambda: Exponential(1.0, 0.0, 0.0)])
def test_impossible_schedules_are_refused(make):
    with pytest.raises(UsageError):
        make()


def test_polyak_by_hand():
    params, target = {"w": torch.tensor([10.0])}, {"w": torch.tensor([2.0])}
    assert polyak(params, target, 0.25)["w"].item() == 4
    assert polyak(params, target, 0.0)["w"].item() == 2
    assert target["w"].item() == 2


def test_polyak_with_tau_one_copies_every_bit():
    params, target = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [[1e-6], [1e6]]
    )
    assert torch.equal(polyak({"w": params}, {"w": target}, 1.0)["w"], params)


def test_hard_copies_come_every_period():
    params, target = {"w": torch.tensor(1.0)}, {"w": torch.tensor(0.0)}
    assert [hard_copy_every(params, target, torch.tensor(s), 3)["w"].item() for s in range(1, 7)] == [
        0,
        0,
        1,
        0,
        0,
        1,
    ]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=6),
    st.integers(0, 2**31),
    st.sampled_from([(), (3,), (2, 2)]),
)
def test_running_moments_equal_numpys_over_all_the_data(sizes, seed, shape):
    rng = np.random.default_rng(seed)
    batches = [1e3 + rng.normal(size=(size, *shape)) * 10 ** rng.uniform(-1, 1) for size in sizes]
    moments = RunningMoments.init(shape)
    for batch in batches:
        moments = moments.update(torch.from_numpy(batch))
    everything = np.concatenate(batches)
    assert moments.count.item() == len(everything)
    np.testing.assert_allclose(moments.mean, everything.mean(0), rtol=1e-12)
    std = np.sqrt(everything.var(0) + 1e-8)
    np.testing.assert_allclose(moments.std(), std, rtol=1e-6)
    expected = np.clip((everything - everything.mean(0)) / std, -1.5, 1.5)
    np.testing.assert_allclose(moments.normalize(torch.from_numpy(everything), clip=1.5), expected, atol=1e-6)


def test_items_outside_the_mask_count_for_nothing():
    rng = torch.Generator().manual_seed(0)
    moments = masked = RunningMoments.init((2,))
    for inside in (
        torch.tensor([True, False, True]),
        torch.zeros(3, dtype=torch.bool),
        torch.tensor([False, True, True]),
    ):
        batch = torch.randn(3, 2, generator=rng)
        moments = moments.update(batch[inside]) if inside.any() else moments
        masked = masked.update(torch.where(inside[:, None], batch, 1e6), inside)
    torch.testing.assert_close(masked, moments)
    # nothing seen yet
    assert RunningMoments.init(()).update(torch.ones(2), torch.zeros(2, dtype=torch.bool)).std() == 1


def test_update_is_pure_and_float32_data_are_summed_in_float64():
    moments = RunningMoments.init(())
    after = moments.update(torch.tensor([1e8, 1e8 + 8], dtype=torch.float32))
    assert moments.count.item() == 0
    assert after.mean.item() == 1e8 + 4
    assert after.std().item() == pytest.approx(4)


def test_before_any_data_nothing_changes_and_after_one_item_nothing_is_nan():
    x = torch.tensor([[3.0, -20.0]])
    moments = RunningMoments.init((2,))
    assert moments.normalize(x).tolist() == moments.rescale(x).tolist() == [[3, -10]]
    one = moments.update(x)
    assert one.normalize(x).tolist() == [[0, 0]]
    assert one.normalize(x + 1).tolist() == [[10, 10]]  # no spread seen yet: clipped


def test_rescaling_keeps_the_sign_and_leading_axes_are_free():
    moments = RunningMoments.init(()).update(torch.tensor([10.0, 14.0]))  # mean 12, standard deviation 2
    assert moments.rescale(torch.tensor([[4.0, 100.0]])).tolist() == [[2, 10]]
    assert moments.normalize(torch.tensor(16, dtype=torch.uint8)).item() == 2


@pytest.mark.compiled
def test_schedules_statistics_and_targets_compile_whole():
    schedules = Constant(0.3), Linear(1.0, 0.1, 10), Exponential(1.0, 0.2, 5.0)

    def everything(step, moments, batch, params, target):
        new = moments.update(batch)
        copies = hard_copy_every(params, polyak(params, target, 0.1), step, 5)
        return [s.value(step) for s in schedules], tuple(new), new.normalize(batch), copies

    rng = torch.Generator().manual_seed(0)
    batch = torch.randn(8, 3, generator=rng)
    inputs = (torch.tensor(7), RunningMoments.init((3,)).update(batch), batch, {"w": batch}, {"w": -batch})
    torch.testing.assert_close(torch.compile(everything, fullgraph=True)(*inputs), everything(*inputs))
