"""What the learners share that wait for the end of an episode: room for it, and when a visit to a state
counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from bellgrad.core.errors import check_range
from bellgrad.core.records import EnvSpec
from bellgrad.tabular.common import Tabular, TabularLearner


@dataclass(frozen=True)
class WholeEpisodes(Tabular):
    """Fields of the learners that wait for the end of an episode.

    Attributes:
        visit: whether the `first` visit of an episode counts, or `every` one.
        truncated_episodes: what an episode that was cut off teaches. `bootstrap` takes the present estimate
            of the state where it was cut off for the rest of the return. `exclude` learns nothing from it, so
            that the estimate is the mean over those episodes that end in time, which are not like the others:
            only for comparing with books that have no time limits.
        max_episode_length: environment steps for which there is room; a time limit of the environment's that
            is lower counts.
    """

    visit: Literal["first", "every"] = "first"
    truncated_episodes: Literal["bootstrap", "exclude"] = "bootstrap"
    max_episode_length: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, max_episode_length=(1, 1e9))


@njit
def begin_episode(episode):
    """Forget the episode before."""
    episode.length[()] = 0
    episode.number[()] += 1


@njit
def remember(episode, obs, action, reward, seen):
    """Note a step, and whether it is the episode's first visit: `seen [1]` is the number of the last episode
    that visited.

    False where there is no room left.
    """
    t = episode.length[()]
    if t == len(episode.obs):
        return False
    episode.obs[t], episode.action[t], episode.reward[t] = obs, action, reward
    episode.first[t] = seen[0] != episode.number[()]
    seen[0] = episode.number[()]
    episode.length[()] = t + 1
    return True


class Episode(NamedTuple):
    """The episode under way, for the learners that wait for its end. `L` is the longest one that there is
    room for."""

    obs: Tensor  # [L] int64
    action: Tensor  # [L] int64
    reward: Tensor  # [L] float64
    first: Tensor  # [L] bool, whether this is the first visit in this episode
    length: Tensor  # [] int64, steps so far
    number: Tensor  # [] int64, episodes begun

    @classmethod
    def empty(cls, config: WholeEpisodes, spec: EnvSpec) -> Episode:
        """No episode yet."""
        n = min(config.max_episode_length, spec.max_episode_steps or config.max_episode_length)
        whole, zero = torch.zeros(n, dtype=torch.int64), torch.tensor(0)
        return cls(whole, whole.clone(), whole.double(), whole.bool(), zero, zero.clone())


class EpisodeLearner(TabularLearner):
    """A learner that waits for the end of an episode."""

    config: WholeEpisodes

    def make_numbers(self, **derived: float) -> np.record:
        """What the compiled functions read as `config`."""
        c = self.config
        return super().make_numbers(
            every_visit=c.visit == "every", bootstraps=c.truncated_episodes == "bootstrap", **derived
        )

    def outgrown(self) -> str:
        """What to do where an episode does not end in time."""
        return (
            f"an episode of {self.spec.id} takes more than {self.config.max_episode_length:,} steps: raise "
            "max_episode_length, or cut episodes off with max_episode_steps"
        )
