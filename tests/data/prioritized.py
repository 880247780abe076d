"""A kind of replay as somebody else would write it: proportional prioritization (Schaul et al. 2016)."""

from dataclasses import dataclass

import torch

from bellgrad.core.records import Batch
from bellgrad.core.rng import Noise
from bellgrad.data import storage


@dataclass(frozen=True)
class PrioritizedReplay:
    alpha: float = 0.6
    beta_initial: float = 0.4
    beta_steps: int = 1000

    filled, restore_into = staticmethod(storage.filled), staticmethod(storage.restore_into)

    def allocate(self, spec, capacity, num_envs, device):
        return storage.allocate(spec, capacity, num_envs, device, {"priority": torch.float32})

    def add(self, kept, transition):
        highest = self.priority(kept).amax()
        new = torch.where(highest > 0, highest, 1.0).expand(len(kept.offset))
        storage.add(kept, transition, {"priority": new})

    def priority(self, kept):
        return torch.where(storage.is_whole(kept), kept.extra["priority"], 0.0)

    def noise(self, batch_size):
        return Noise("uniform", (batch_size,))

    def sample(self, kept, noise, gamma, steps):
        total = (self.priority(kept).double() ** self.alpha).cumsum(0)
        row = torch.searchsorted(total, noise.double() * total[-1], right=True)
        chosen = torch.diff(total, prepend=torch.zeros_like(total[:1]))[row] / total[-1]
        beta = self.beta_initial + (1 - self.beta_initial) * (steps / self.beta_steps).clamp(max=1)
        weight = (kept.size * chosen) ** -beta
        batch = storage.gather(kept, row)
        return Batch(*batch, gamma * ~batch.terminated, (weight / weight.amax()).float(), row)

    def feedback(self, kept, index, priority):
        kept.extra["priority"].index_copy_(0, index, priority)
