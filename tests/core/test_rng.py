"""Random streams: independent, repeatable, and part of every snapshot."""

import pytest
import torch

from bellgrad.core.errors import UsageError
from bellgrad.core.rng import Noise, Streams, derive_seed, draw

NAMES = ("init", "action", "environment", "batch", "update")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_derived_seeds_are_fixed_for_all_time():
    # sha256sum of "0/init" and "1/0/2": the first eight bytes, little-endian, halved. Another rule would
    # change every run.
    assert derive_seed(0, "init") == 3330654677893223573
    assert derive_seed(1, 0, 2) == 5350762332678057247


def test_derived_seeds_fit_63_bits_and_differ_by_every_part():
    seeds = {derive_seed(a, b) for a in range(50) for b in range(50)}
    assert len(seeds) == 2500 and all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62
    assert derive_seed(1, 23) != derive_seed(12, 3)


def test_each_kind_of_noise_is_what_it_says():
    normal = draw(Noise("normal", (20_000,)), generator())
    assert abs(normal.mean().item()) < 0.03 and normal.std().item() == pytest.approx(
        1, abs=0.03
    )  # four standard errors
    uniform = draw(Noise("uniform", (20_000,)), generator())
    assert (
        0 <= uniform.min() < 0.001
        and 0.999 < uniform.max() < 1
        and uniform.mean().item() == pytest.approx(0.5, abs=0.01)
    )
    permutation = draw(Noise("permutation", (3, 50)), generator(), 4)
    assert permutation.shape == (4, 3, 50) and permutation.dtype == torch.int64
    assert torch.equal(permutation.sort(-1).values, torch.arange(50).expand(4, 3, 50))
    assert len({tuple(row.tolist()) for row in permutation.flatten(0, 1)}) == 12


def test_every_place_of_a_permutation_is_equally_likely():
    first = draw(Noise("permutation", (4,)), generator(), 8000)[:, 0]
    assert (
        (torch.bincount(first) - 2000).abs() < 4 * (8000 * 0.25 * 0.75) ** 0.5
    ).all()  # four standard deviations


def test_a_tree_of_declarations_becomes_a_tree_of_tensors_with_leading_axes():
    declared = {"a": Noise("normal", (2,)), "b": (Noise("uniform", ()), None), "c": None}
    drawn = draw(declared, generator(), 5, 3)
    assert drawn["a"].shape == (5, 3, 2) and drawn["b"][0].shape == (5, 3)
    assert drawn["b"][1] is None and drawn["c"] is None and draw(None, generator()) is None


def test_leading_axes_of_uniform_noise_are_the_draws_one_after_another():
    together, one_by_one = generator(), generator()
    noise = Noise("uniform", (7, 2))
    assert torch.equal(draw(noise, together, 3), torch.stack([draw(noise, one_by_one) for _ in range(3)]))


def test_streams_are_independent_of_each_other():
    alone, beside = Streams(3, "cpu", NAMES), Streams(3, "cpu", NAMES)
    draw(Noise("normal", (100,)), beside["action"])
    for name in set(NAMES) - {"action"}:
        assert torch.equal(torch.rand(5, generator=alone[name]), torch.rand(5, generator=beside[name]))
    first = {tuple(torch.rand(3, generator=Streams(3, "cpu", [name])[name]).tolist()) for name in NAMES}
    assert len(first) == len(NAMES)


def test_streams_follow_from_the_seed():
    def numbers(seed):
        return torch.rand(5, generator=Streams(seed, "cpu", NAMES)["batch"])

    assert torch.equal(numbers(1), numbers(1)) and not torch.equal(numbers(1), numbers(2))
    assert numbers(2**63 - 1).shape == (5,)


def test_streams_continue_from_a_snapshot():
    streams = Streams(0, "cpu", NAMES)
    torch.rand(3, generator=streams["update"])
    snapshot = {name: state.clone() for name, state in streams.snapshot().items()}
    expected = {name: torch.rand(4, generator=streams[name]) for name in NAMES}
    other = Streams(99, "cpu", NAMES)
    other.restore(snapshot)
    assert set(snapshot) == {f"streams/{name}" for name in NAMES}
    for name in NAMES:
        assert torch.equal(torch.rand(4, generator=other[name]), expected[name])


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(UsageError, match="out of range"):
        Streams(seed, "cpu", NAMES)
