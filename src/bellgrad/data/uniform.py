"""Uniform sampling from the replay."""

from dataclasses import dataclass

from torch import Tensor

from bellgrad.core.records import Batch
from bellgrad.core.tree import Tree
from bellgrad.data.replay import sample


@dataclass(frozen=True)
class UniformReplay:
    """Every transition that is kept is as likely as any other."""

    def sample(self, kept: Tree, noise: Tree, gamma: float | Tensor, steps: Tensor) -> Batch:
        """As many transitions as the noise has rows."""
        return sample(kept, noise, gamma)
