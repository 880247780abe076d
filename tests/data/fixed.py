"""A kind of replay as somebody else would write it: data from a file, to which nothing is ever added."""

from dataclasses import dataclass

import numpy as np
import torch

from bellgrad.core.errors import CheckpointError
from bellgrad.core.records import Transition
from bellgrad.data import storage
from bellgrad.data.uniform import UniformReplay


@dataclass(frozen=True)
class FixedData:
    path: str  # an `.npz` with the columns of `Transition`

    noise, sample, feedback = UniformReplay.noise, UniformReplay.sample, UniformReplay.feedback

    def allocate(self, spec, capacity, num_envs, device):
        with np.load(self.path, allow_pickle=False) as columns:
            data = [torch.as_tensor(columns[name], device=device) for name in Transition._fields]
        kept = storage.allocate(spec, len(data[0]), device=device)
        for row in zip(*(column.split(1) for column in data), strict=True):
            storage.add(kept, Transition(*row))
        return kept

    def add(self, kept, transition):
        pass

    def filled(self, kept):
        return {}

    def restore_into(self, kept, shapes):
        if shapes:
            raise CheckpointError("the saved replay is not one of fixed data")
        return {}
