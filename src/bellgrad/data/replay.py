"""A replay with uniform sampling: preallocated tensors, written in place, usable inside a compiled graph.

Every transition keeps its own successor, so time-outs bootstrap from the true one. Large uint8 observations
are kept once (see `frames.py`); everything else is kept as `obs` and as `next_obs`.
"""

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from bellgrad.core.errors import CheckpointError, UsageError
from bellgrad.core.records import Batch, Transition
from bellgrad.core.tree import Tree, map_tree, named_leaves, tree_bytes
from bellgrad.data.frames import Frames, allocate_frames, lost_groups, read_frames, write_frames
from bellgrad.data.memory import available_bytes

FRAME_BYTES = 1024  # a uint8 observation of this size or more is kept once
LARGEST = 2**24  # transitions that a float32 uniform number can tell apart
RANGES = {  # of the hyper-parameters that every algorithm with a replay has
    "buffer_size": (1, 1e10),
    "learning_starts": (0, 1e12),
    "batch_size": (1, 1e7),
    "update_period": (1, 1e9),
    "updates_per_period": (1, 1e6),
}
KEPT_DTYPES = {name: getattr(torch, name) for name in ("bool", "uint8", "int8", "int16", "int32", "int64")}


class Replay(NamedTuple):
    """The last `N` transitions. The first six fields are columns `[N, ...]` in the order of `Transition`."""

    obs: Tree  # [N, *O]; for a large uint8 observation [N, C] int64, its place in `frames`
    action: Tree  # [N] int64 or [N, D] float32
    reward: Tensor  # [N] float32
    terminated: Tensor  # [N] bool
    truncated: Tensor  # [N] bool
    next_obs: Tree  # like obs
    frames: dict[
        str, Frames
    ]  # by the observation's path, `obs` or `obs/camera`; empty where no observation is large
    position: Tensor  # [] int64, the next row to write
    size: Tensor  # [] int64, whole transitions: those in the `size` rows before `position`


def replay_bytes(
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    capacity: int,
    num_envs: int = 1,
    stacked_frames: bool = False,
) -> int:
    """Bytes that `allocate` takes for the same arguments."""
    return tree_bytes(
        _empty(observation_space, action_space, capacity // num_envs, num_envs, stacked_frames, "meta")
    )


def allocate(
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    capacity: int,
    device: torch.device | str = "cpu",
    *,
    num_envs: int = 1,
    stacked_frames: bool = False,
) -> Replay:
    """An empty replay. Its memory is reserved, and on a CPU taken only as rows are written.

    Args:
        observation_space: a Gymnasium space; floats are kept as float32, integers as they are.
        action_space: a Gymnasium space.
        capacity: transitions, rounded down to a multiple of `num_envs`.
        device: where it lies.
        num_envs: B, the transitions of one `add`.
        stacked_frames: the first axis of large uint8 observations is time, as in `[4, 84, 84]` Atari frames,
            and each frame is kept once (about an eighth of keeping `obs` and `next_obs`). Where frames do not
            move on by one a step, they fill their memory sooner and fewer transitions are kept.

    Raises:
        UsageError: the memory does not suffice (with the bytes needed, the bytes available and the largest
            capacity that fits), or the capacity is below `num_envs` or above 2^24.
    """
    if not num_envs <= capacity <= LARGEST:
        raise UsageError(
            f"a replay of {capacity:,} transitions is out of range [{num_envs:,} (one an environment),"
            f" {LARGEST:,}]"
        )

    def needed(groups: int) -> int:
        return replay_bytes(observation_space, action_space, groups * num_envs, num_envs, stacked_frames)

    groups, available = capacity // num_envs, available_bytes(device)
    if available is not None and needed(groups) > available:
        fits = bisect.bisect_right(range(1, groups + 1), available, key=needed) * num_envs
        raise UsageError(
            f"a replay of {capacity:,} transitions needs {needed(groups):,} bytes of memory, but"
            f" {available:,} are available; the largest that fits is {fits:,}"
        )
    return _empty(observation_space, action_space, groups, num_envs, stacked_frames, device)


def _empty(
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    groups: int,
    num_envs: int,
    stacked: bool,
    device: torch.device | str,
) -> Replay:
    capacity = groups * num_envs
    frames: dict[str, Frames] = {}

    def column(space: gymnasium.Space, path: str) -> Tree:
        if isinstance(space, spaces.Dict):
            return {key: column(child, f"{path}/{key}") for key, child in space.spaces.items()}
        if isinstance(space, spaces.Tuple):
            return tuple(column(child, f"{path}/{i}") for i, child in enumerate(space.spaces))
        if space.shape is None or space.dtype is None:
            raise UsageError(f"a replay cannot keep {space}")
        if _is_large(space) and not path.startswith("action"):
            moving = stacked and len(space.shape) >= 3 and space.shape[0] > 1
            if path.startswith("obs"):
                frames[path] = allocate_frames(space.shape, torch.uint8, groups, num_envs, moving, device)
            return rows((space.shape[0] if moving else 1,), torch.int64)
        is_float = np.issubdtype(space.dtype, np.floating)
        return rows(
            space.shape, torch.float32 if is_float else KEPT_DTYPES.get(str(space.dtype), torch.int64)
        )

    # torch.zeros would touch every page; rows that were never written are never read.
    def rows(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty((capacity, *shape), dtype=dtype, device=device)

    return Replay(
        obs=column(observation_space, "obs"),
        action=column(action_space, "action"),
        reward=rows((), torch.float32),
        terminated=rows((), torch.bool),
        truncated=rows((), torch.bool),
        next_obs=column(observation_space, "next_obs"),
        frames=frames,
        position=torch.zeros((), dtype=torch.int64, device=device),
        size=torch.zeros((), dtype=torch.int64, device=device),
    )


def _is_large(space: gymnasium.Space) -> bool:
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and math.prod(space.shape) >= FRAME_BYTES


def add(replay: Replay, transition: Transition) -> None:
    """Write one transition of every environment over the oldest ones, in place; compiles.

    Args:
        replay: changed in place.
        transition: `B` rows; with large uint8 observations `B` is the `num_envs` of `allocate`, and row `b`
            is environment `b`.
    """
    capacity, num_envs = replay.reward.shape[0], transition.reward.shape[0]
    row = (replay.position + torch.arange(num_envs, device=replay.position.device)) % capacity
    new = named_leaves(transition)
    for path, frames in replay.frames.items():
        group = replay.position // num_envs
        new[path], new[f"next_{path}"] = write_frames(frames, new[path], new[f"next_{path}"], group)
    for name, column in named_leaves(Transition(*replay[:6])).items():
        column.index_copy_(0, row, new[name].to(column.dtype))
    replay.position.add_(num_envs).remainder_(capacity)
    replay.size.add_(num_envs).clamp_(max=capacity)
    if replay.frames:
        groups = replay.size // num_envs
        first = replay.position // num_envs - groups
        lost = [lost_groups(frames, first, groups) for frames in replay.frames.values()]
        replay.size.sub_(torch.stack(lost).amax() * num_envs)


def sample(replay: Replay, uniform: Tensor, gamma: float | Tensor) -> Batch:
    """Transitions at random, each as likely as any other; compiles. The replay must hold at least one.

    Args:
        replay: where from.
        uniform: `[N]` float32 in [0, 1), one for each transition to sample.
        gamma: discount of one step.

    Returns:
        A `Batch` with `discount = gamma * (1 - terminated)` and weight 1.
    """
    index = torch.minimum(
        (uniform * replay.size).long(), replay.size - 1
    )  # the product may round up to `size`
    if replay.frames:  # planes may run out before rows do; without frames the whole rows are the first ones
        index = (index + replay.position - replay.size) % replay.reward.shape[0]
    return gather(replay, index, gamma)


def gather(replay: Replay, index: Tensor, gamma: float | Tensor) -> Batch:
    """The transitions in rows `index [N]` int64, as `sample` gives them."""
    columns = Transition(*replay[:6])
    values = []
    for name, column in named_leaves(columns).items():
        value, path = column.index_select(0, index), name.removeprefix("next_")
        if path in replay.frames:
            value = read_frames(replay.frames[path], value)
        values.append(value)
    remaining = iter(values)
    batch = map_tree(lambda _: next(remaining), columns)
    weight = torch.ones_like(batch.reward)
    return Batch(*batch, discount=gamma * ~batch.terminated, weight=weight, index=index)


def filled(replay: Replay) -> dict[str, Tensor]:
    """What a checkpoint must keep: views of the rows written so far, by name, with no copy.

    `restore_into` gives the places of a new replay to read them back into.
    """
    position, size, capacity = int(replay.position), int(replay.size), replay.reward.shape[0]
    rows = position if position >= size and size < capacity else capacity
    lengths = dict.fromkeys(named_leaves(Transition(*replay[:6])), rows)
    for path, frames in replay.frames.items():
        num_envs = frames.newest.shape[0]
        lengths[f"frames/{path}/planes"] = min(int(frames.count), frames.planes.shape[0] - 1)
        lengths[f"frames/{path}/oldest"] = rows // num_envs
    return {
        name: tensor[: lengths[name]] if name in lengths else tensor
        for name, tensor in named_leaves(replay).items()
    }


def restore_into(replay: Replay, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Where to write the tensors of `filled`, so that an allocated replay goes on from them.

    Args:
        replay: allocated as the saved one was.
        shapes: the shape of every saved tensor by name.

    Returns:
        A view of that shape in the replay by name, to be written in place.

    Raises:
        CheckpointError: a name or shape that does not fit this replay.
    """
    own = named_leaves(replay)
    if own.keys() != shapes.keys():
        raise CheckpointError(f"the saved replay differs in {', '.join(sorted(own.keys() ^ shapes.keys()))}")
    views = {}
    for name, tensor in own.items():
        shape = tuple(shapes[name])
        if len(shape) != tensor.dim() or shape[1:] != tensor.shape[1:] or shape[:1] > tuple(tensor.shape[:1]):
            raise CheckpointError(
                f"the saved replay's {name!r} has shape {list(shape)}, which does not fit"
                f" {list(tensor.shape)}"
            )
        views[name] = tensor[: shape[0]] if shape else tensor
    return views
