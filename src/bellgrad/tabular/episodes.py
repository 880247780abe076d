"""What the learners share that learn at the end of an episode: a buffer for its steps, and which visits
count."""

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
class MonteCarloFields(Tabular):
    """Fields of the learners that learn at the end of an episode.

    Attributes:
        visit: whether only the `first` visit per episode counts, or `every` one.
        truncated_episodes: what is learned from an episode that was truncated. `bootstrap` uses the current
            estimate of the last state for the rest of the return. `exclude` learns nothing from it: the
            estimate is then the mean over the episodes that terminate in time, which is biased. Use it only
            to compare with books, which have no time limits.
        max_episode_length: environment steps that the buffer has room for; the environment's time limit, if
            that is lower.
    """

    visit: Literal["first", "every"] = "first"
    truncated_episodes: Literal["bootstrap", "exclude"] = "bootstrap"
    max_episode_length: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, max_episode_length=(1, 1e9))


@njit
def begin_episode(episode):
    """Clear the previous episode."""
    episode.length[()] = 0
    episode.number[()] += 1


@njit
def append_step(episode, obs, action, reward, last_episode):
    """Store a step, and whether it is the first visit of the episode. `last_episode [1]` is the number of the
    last episode that visited.

    False if there is no room left.
    """
    t = episode.length[()]
    if t == len(episode.obs):
        return False
    episode.obs[t], episode.action[t], episode.reward[t] = obs, action, reward
    episode.first[t] = last_episode[0] != episode.number[()]
    last_episode[0] = episode.number[()]
    episode.length[()] = t + 1
    return True


class EpisodeBuffer(NamedTuple):
    """The steps of the episode in progress. `L` is the longest episode that there is room for."""

    obs: Tensor  # [L] int64
    action: Tensor  # [L] int64
    reward: Tensor  # [L] float64
    first: Tensor  # [L] bool, whether it is the first visit of the episode
    length: Tensor  # [] int64, steps so far
    number: Tensor  # [] int64, episodes begun

    @classmethod
    def empty(cls, config: MonteCarloFields, spec: EnvSpec) -> EpisodeBuffer:
        """The buffer before the first episode."""
        n = min(config.max_episode_length, spec.max_episode_steps or config.max_episode_length)
        whole, zero = torch.zeros(n, dtype=torch.int64), torch.tensor(0)
        return cls(whole, whole.clone(), whole.double(), whole.bool(), zero, zero.clone())


class EpisodeBufferLearner(TabularLearner):
    """A learner that learns at the end of an episode."""

    config: MonteCarloFields

    def make_config_record(self, **derived: float) -> np.record:
        """What the compiled functions read as `config`."""
        c = self.config
        return super().make_config_record(
            every_visit=c.visit == "every", bootstraps=c.truncated_episodes == "bootstrap", **derived
        )

    def table_full_message(self) -> str:
        """What to do if an episode is longer than the buffer."""
        return (
            f"an episode of {self.spec.id} takes more than {self.config.max_episode_length:,} steps: raise "
            "max_episode_length, or cut episodes off with max_episode_steps"
        )
