"""A kind of replay as somebody else would write it: the rewards of n steps, fewer if an episode ends."""

from dataclasses import dataclass

import torch

from bellgrad.core.records import Batch
from bellgrad.data import storage
from bellgrad.data.uniform import UniformReplay


@dataclass(frozen=True)
class NStepReplay(UniformReplay):
    n: int = 3

    def sample(self, kept, noise, gamma, steps):
        first = super().sample(kept, noise, gamma, steps)
        index, k = first.index[:, None], torch.arange(self.n, device=first.index.device)
        b, protected = len(kept.offset), kept.protected
        ring = len(kept.reward) - protected

        # An environment's next step is b rows on, as far as its latest one or its latest protected one.
        newer = torch.where(index < protected, protected - 1 - index, (kept.position - 1 - index) % ring) // b
        row = index + k.minimum(newer) * b  # [N, n]
        row = torch.where(index < protected, row, protected + (row - protected) % ring)
        ended = (kept.terminated | kept.truncated)[row].long()
        taken = (k <= newer) & (ended.cumsum(1) - ended == 0)  # no end before it

        count = taken.sum(1)
        reward = (kept.reward[row] * taken * gamma**k).sum(1)
        last = storage.gather(kept, row.gather(1, count[:, None] - 1)[:, 0])
        discount = gamma**count * ~last.terminated
        return Batch(first.obs, first.action, reward, *last[3:], discount, first.weight, first.index)
