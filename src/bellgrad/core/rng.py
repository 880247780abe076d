"""Named random streams from one seed, and the noise that pure functions declare."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bellgrad.core.errors import CheckpointError, UsageError
from bellgrad.core.tree import Tree


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part, the same on every machine: SHA-256 of the parts joined by
    `/`."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


class Noise(NamedTuple):
    """A declaration of random numbers that a pure function takes as an argument."""

    kind: Literal[
        "normal", "uniform", "permutation"
    ]  # standard normal; uniform on [0, 1); int64 permutation of the last axis
    shape: tuple[int, ...]


def draw(noise: Tree, generator: torch.Generator, *lead: int) -> Tree:
    """Draw what a tree of `Noise` declares, with extra leading axes.

    Args:
        noise: a `Noise`, or a dict or tuple of them, or None.
        generator: that gives the numbers; the tensors are made on its device.
        lead: sizes of leading axes, for example K updates in a call.

    Returns:
        Tensors of shape `[*lead, *shape]` in place of the declarations.
    """
    if noise is None:
        return None
    if isinstance(noise, Noise):
        shape = (*lead, *noise.shape)
        if noise.kind == "normal":
            return torch.randn(shape, generator=generator, device=generator.device)
        if noise.kind == "uniform":
            return torch.rand(shape, generator=generator, device=generator.device)
        return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64).argsort(
            -1
        )
    if isinstance(noise, dict):
        return {key: draw(child, generator, *lead) for key, child in noise.items()}
    return tuple(draw(child, generator, *lead) for child in noise)


class Streams:
    """Independent `torch.Generator`s by name, all derived from one seed; their states are part of every
    checkpoint.

    Args:
        seed: the run's seed, 0 or more.
        device: on which the numbers are drawn.
        names: of the streams; what a stream gives does not depend on which others there are.

    Raises:
        UsageError: the seed is negative or does not fit 63 bits.
    """

    def __init__(self, seed: int, device: torch.device | str, names: Sequence[str]):
        if not 0 <= seed < 2**63:
            raise UsageError(f"seed {seed} is out of range [0, 2^63)")
        self._generators = {
            name: torch.Generator(device).manual_seed(derive_seed(seed, name)) for name in names
        }

    def __getitem__(self, name: str) -> torch.Generator:
        return self._generators[name]

    def snapshot(self) -> dict[str, Tensor]:
        """The state of every stream: uint8 tensors named `streams/NAME`."""
        return {f"streams/{name}": generator.get_state() for name, generator in self._generators.items()}

    def restore(self, states: Mapping[str, Tensor]) -> None:
        """Continue from a snapshot, which may hold other streams as well.

        Raises:
            CheckpointError: it lacks a stream.
        """
        for name, generator in self._generators.items():
            if f"streams/{name}" not in states:
                raise CheckpointError(f"the checkpoint has no tensor 'streams/{name}'")
            generator.set_state(states[f"streams/{name}"].cpu())
