"""A replay from which every transition is as likely as any other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bellgrad.core.records import Batch, EnvSpec, Transition
from bellgrad.core.rng import Noise
from bellgrad.data import storage
from bellgrad.data.storage import Storage


@dataclass(frozen=True)
class UniformReplay:
    """The last transitions and the protected ones, each as likely as any other."""

    def allocate(self, spec: EnvSpec, capacity: int, num_envs: int, device: torch.device) -> Storage:
        """Room for `capacity` transitions, without anything in it; see `storage.allocate`."""
        return storage.allocate(spec, capacity, num_envs, device)

    def add(self, kept: Storage, transition: Transition) -> None:
        """Write one transition of every environment over the oldest ones that are not protected."""
        storage.add(kept, transition)

    def noise(self, batch_size: int) -> Noise:
        """A number for each transition of a batch."""
        return Noise("uniform", (batch_size,))

    def sample(self, kept: Storage, noise: Tensor, gamma: float | Tensor, steps: Tensor) -> Batch:
        """Transitions with weight 1 and the discount `gamma`, or 0 if terminated; `steps` is not used.

        Args:
            kept: the storage; holds at least one transition.
            noise: `[N]` float32 in [0, 1), one number for each transition to sample.
            gamma: discount per environment step.
            steps: `[]` int64, environment steps so far.
        """
        nth = torch.minimum((noise * kept.size).long(), kept.size - 1)  # the product may round up to `size`
        row = storage.whole_row(kept, nth)
        rows = storage.gather(kept, row)
        return Batch(*rows, gamma * ~rows.terminated, torch.ones_like(rows.reward), row)

    def feedback(self, kept: Storage, index: Tensor, priority: Tensor | None) -> None:
        """Nothing: no transition is preferred."""

    def filled(self, kept: Storage) -> dict[str, Tensor]:
        """What a checkpoint must keep, by name: views, no copies."""
        return storage.filled(kept)

    def restore_into(self, kept: Storage, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
        """Where the tensors of `filled` of these shapes are to be written, by name.

        Raises:
            CheckpointError: they do not fit.
        """
        return storage.restore_into(kept, shapes)
