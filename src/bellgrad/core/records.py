"""The records that pass between rooms. Axes: `T` time, `B` environments or batch, `D` action dimensions, `*O`
one observation.

Records of tensors are NamedTuples, so that `torch.compile`, `vmap` and `grad` take them as they are. `obs`
may itself be a tree (Dict and Tuple observations).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bellgrad.core.tree import Tree

Metrics = dict[str, Tensor]  # scalars for the log, by name


@dataclass(frozen=True)
class EnvSpec:
    """What an algorithm must know of an environment to build its learner.

    How images are laid out is a matter of their space: `core.images`.
    """

    id: str
    observation_space: gymnasium.Space[Any]
    action_space: gymnasium.Space[Any]
    max_episode_steps: int | None = None  # environment steps; None if an episode has no limit
    # [S, A] which actions a state of a finite problem allows; None if all.
    legal: NDArray[np.bool_] | None = None
    frame_stack: int = 1  # n, if an observation is the last n ones along its first axis, the oldest first


class EpisodeTotals(NamedTuple):
    """Running totals of the current episode, including this step, of raw rewards; final if the episode
    ended."""

    return_: Tensor  # [B] float32, undiscounted
    length: Tensor  # [B] int64, environment steps


class Step(NamedTuple):
    """What one step of a batched environment gives. `obs` and `next_obs` differ only if an episode
    ended."""

    obs: Tree  # [B, *O] what to act on next (the first observation of a new episode if one ended)
    reward: Tensor  # [B] float32
    terminated: Tensor  # [B] bool
    truncated: Tensor  # [B] bool
    next_obs: Tree  # [B, *O] what the action led to: the true successor, never the reset one
    episode: EpisodeTotals


class Acted(NamedTuple):
    """What a learner's `act` gives."""

    action: Tensor  # [B] or [B, D] int64 counted from 0, or [B, D] float32 in [-1, 1]
    logprob: Tensor | None  # [B]
    carry: Tree  # the actor's own memory


class Transition(NamedTuple):
    """One step of experience."""

    obs: Tree  # [B, *O]
    action: Tensor  # [B] or [B, D]
    reward: Tensor  # [B]
    terminated: Tensor  # [B] bool
    truncated: Tensor  # [B] bool
    next_obs: Tree  # [B, *O] the true successor


class Batch(NamedTuple):
    """A sampled `Transition` with what a temporal-difference target needs."""

    obs: Tree  # [B, *O]
    action: Tensor  # [B] or [B, D]
    reward: Tensor  # [B]
    terminated: Tensor  # [B] bool
    truncated: Tensor  # [B] bool
    next_obs: Tree  # [B, *O]
    discount: Tensor  # [B] gamma to the number of steps really taken, 0 if terminated
    weight: Tensor  # [B] importance weight, 1 if sampling is uniform
    index: Tensor  # type: ignore[assignment]  # [B] int64, the row in the replay; hides tuple.index


class Updated(NamedTuple):
    """What one update from a replay gives."""

    state: Any  # the learner's
    metrics: Metrics
    # [B] how much there is to learn from each transition of the batch, 0 or more.
    priority: Tensor | None = None


class Rollout(NamedTuple):
    """`T` consecutive steps of `B` environments under one policy."""

    obs: Tree  # [T, B, *O]
    action: Tensor  # [T, B] or [T, B, D]
    reward: Tensor  # [T, B]
    terminated: Tensor  # [T, B] bool
    truncated: Tensor  # [T, B] bool
    logprob: Tensor  # [T, B]
    value: Tree  # [T, B]; several by name, if the learner's `value` gives several
    next_value: Tree  # [T, B] the same, of the true successor
    age: Tensor  # [T, B] int64, steps of the episode before this one
    carry: Tree  # [T, B, ...] the actor's memory before each step
    next_obs: Tree = None  # [T, B, *O] the true successor; None unless the learner needs it


class Minibatch(NamedTuple):
    """Steps of a prepared rollout: `[T, B]` as `prepare` gives it, time and environments as one axis `B` in
    updates."""

    obs: Tree  # [B, *O]
    action: Tensor  # [B] or [B, D]
    logprob: Tensor  # [B] under the policy that acted
    value: Tensor  # [B] predicted when acting
    advantage: Tensor  # [B]
    return_: Tensor  # [B] the value target
    ended: Tensor  # [B] bool, whether the episode ended with this step
    carry: Tree  # the actor's memory before each step [B, ...], in updates before each sequence; or None
    # [B, ...] further targets by name, of a learner that has several.
    extra: dict[str, Tensor] = {}  # noqa: RUF012


class Episodes(NamedTuple):
    """Whole trajectories from their first step, one per column, padded with zeros at the end to the
    longest."""

    obs: Tree  # [T, B, *O]
    action: Tensor  # [T, B] or [T, B, D]
    reward: Tensor  # [T, B]
    terminated: Tensor  # [T, B] bool
    truncated: Tensor  # [T, B] bool
    mask: Tensor  # [T, B] bool, True if the step was really taken
    last_obs: Tree  # [B, *O] what the last step led to
