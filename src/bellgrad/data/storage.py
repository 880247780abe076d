"""Where every kind of replay keeps transitions: preallocated tensors, written in place, compiled or not.

Every transition keeps its own successor, so that truncated episodes bootstrap from the true one. Large uint8
observations are kept once (see `frames.py`); everything else is kept as `obs` and as `next_obs`.
"""

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from bellgrad.core.errors import CheckpointError, UsageError
from bellgrad.core.memory import available_bytes
from bellgrad.core.records import EnvSpec, Transition
from bellgrad.core.tree import Tree, escaped, map_tree, named_leaves, tree_bytes
from bellgrad.data.frames import (
    Frames,
    allocate_frames,
    can_protect_frames,
    lost_groups,
    protect_frames,
    read_frames,
    write_frames,
)

FRAME_BYTES = 1024  # a uint8 observation of this size or more is kept once
LARGEST = 2**24  # transitions that a float32 uniform number can tell apart
KEPT_DTYPES = {name: getattr(torch, name) for name in ("bool", "uint8", "int8", "int16", "int32", "int64")}


class Storage(NamedTuple):
    """Room for `N` transitions of `B` environments, a group of `B` rows at a time, row `b` of a group from
    environment `b`.

    Rows below `protected` are kept forever; the others are a ring, in which the oldest are overwritten. The
    first six fields are columns in the order of `Transition`.
    """

    obs: Tree  # [N, *O]; for a large uint8 observation [N, n] int64, its planes in `frames`
    action: Tree  # [N] int64 or [N, D] float32
    reward: Tensor  # [N] float32
    terminated: Tensor  # [N] bool
    truncated: Tensor  # [N] bool
    next_obs: Tree  # like obs
    extra: dict[str, Tensor]  # [N] each, what else a kind of replay keeps; undefined until written
    frames: dict[str, Frames]  # by the path of each large observation: `obs`, or for example `obs/camera`
    offset: Tensor  # [B] int64, 0 ... B - 1: the row of each environment in a group
    position: Tensor  # [] int64, the next row to write
    size: Tensor  # [] int64, whole transitions: the protected ones and those in the rows before `position`
    protected: Tensor  # [] int64, rows that are never overwritten


def storage_bytes(
    spec: EnvSpec, capacity: int, num_envs: int = 1, extra: Mapping[str, torch.dtype] | None = None
) -> int:
    """Bytes that `allocate` takes for the same arguments."""
    return tree_bytes(_empty(spec, capacity // num_envs, num_envs, "meta", extra or {}))


def allocate(
    spec: EnvSpec,
    capacity: int,
    num_envs: int = 1,
    device: torch.device | str = "cpu",
    extra: Mapping[str, torch.dtype] | None = None,
) -> Storage:
    """An empty storage. Its memory is reserved, and on a CPU taken only as rows are written.

    Floats are kept as float32, integers as they are. With `spec.frame_stack` n > 1, the first axis of a large
    uint8 observation is n frames, and each frame is kept once (about an eighth of keeping `obs` and
    `next_obs`, if n = 4). If the frames do not move on by one per step, or episodes end after fewer than 8,
    they fill their memory sooner and fewer transitions are kept.

    Args:
        spec: of the environment.
        capacity: transitions, rounded down to a multiple of `num_envs`.
        num_envs: B, the transitions of one `add`.
        device: of the tensors.
        extra: dtypes of further columns `[N]` by name.

    Raises:
        UsageError: the memory does not suffice (with the bytes needed, the bytes available and the largest
            capacity that fits), the capacity is below `num_envs` or above 2^24, or a space has no fixed size.
    """
    if not num_envs <= capacity <= LARGEST:
        raise UsageError(
            f"a replay of {capacity:,} transitions is out of range [{num_envs:,} (one per environment),"
            f" {LARGEST:,}]"
        )

    def needed(groups: int) -> int:
        return storage_bytes(spec, groups * num_envs, num_envs, extra)

    groups, available = capacity // num_envs, available_bytes(device)
    if available is not None and needed(groups) > available:
        fits = bisect.bisect_right(range(1, groups + 1), available, key=needed) * num_envs
        raise UsageError(
            f"a replay of {capacity:,} transitions needs {needed(groups):,} bytes of memory, but"
            f" {available:,} are available; the largest that fits is {fits:,}"
        )
    return _empty(spec, groups, num_envs, device, extra or {})


def _empty(
    spec: EnvSpec,
    groups: int,
    num_envs: int,
    device: torch.device | str,
    extra: Mapping[str, torch.dtype],
) -> Storage:
    frames: dict[str, Frames] = {}

    # torch.zeros would touch every page; rows that were never written are never read.
    def rows(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty((groups * num_envs, *shape), dtype=dtype, device=device)

    def column(space: gymnasium.Space[Any], path: str) -> Tree:
        if isinstance(space, spaces.Dict):
            return {key: column(child, f"{path}/{escaped(key)}") for key, child in space.spaces.items()}
        if isinstance(space, spaces.Tuple):
            return tuple(column(child, f"{path}/{i}") for i, child in enumerate(space.spaces))
        if space.shape is None or space.dtype is None:
            raise UsageError(f"a replay cannot keep {space}")
        if _is_large(space) and not path.startswith("action"):
            if space.shape[0] % spec.frame_stack:
                raise UsageError(
                    f"the first axis of an observation {list(space.shape)} is not {spec.frame_stack} frames"
                )
            if path.startswith("obs"):
                frames[path] = allocate_frames(space.shape, spec.frame_stack, groups, num_envs, device)
            return rows((spec.frame_stack,), torch.int64)
        is_float = np.issubdtype(space.dtype, np.floating)
        flat = path == "action" and not isinstance(space, spaces.Discrete)  # learners give [B, D]
        return rows(
            (math.prod(space.shape),) if flat else space.shape,
            torch.float32 if is_float else KEPT_DTYPES.get(str(space.dtype), torch.int64),
        )

    return Storage(
        obs=column(spec.observation_space, "obs"),
        action=column(spec.action_space, "action"),
        reward=rows((), torch.float32),
        terminated=rows((), torch.bool),
        truncated=rows((), torch.bool),
        next_obs=column(spec.observation_space, "next_obs"),
        extra={name: rows((), dtype) for name, dtype in extra.items()},
        frames=frames,
        offset=torch.arange(num_envs, device=device),
        position=torch.zeros((), dtype=torch.int64, device=device),
        size=torch.zeros((), dtype=torch.int64, device=device),
        protected=torch.zeros((), dtype=torch.int64, device=device),
    )


def _is_large(space: gymnasium.Space[Any]) -> bool:
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and math.prod(space.shape) >= FRAME_BYTES


def _columns(storage: Storage) -> Transition:
    return Transition(*storage[:6])


def add(storage: Storage, transition: Transition, extra: Mapping[str, Tensor] | None = None) -> None:
    """Write one transition of every environment over the oldest ones that are not protected, in place;
    compiles.

    Args:
        storage: changed in place.
        transition: `B` rows, row `b` from environment `b`.
        extra: `[B]` each, the same rows of every extra column; may be left out if there is none.
    """
    capacity, num_envs = storage.reward.shape[0], storage.offset.shape[0]
    row = storage.position + storage.offset  # never past the end: all rows come in groups of B
    new = named_leaves(transition)
    for path, frames in storage.frames.items():
        group = storage.position // num_envs
        new[path], new[f"next_{path}"] = write_frames(frames, new[path], new[f"next_{path}"], group)
    for name, column in named_leaves(_columns(storage)).items():
        column.index_copy_(0, row, new[name].to(column.dtype))
    for name, column in storage.extra.items():
        column.index_copy_(0, row, (extra or {})[name])
    storage.position.add_(num_envs)
    storage.position.masked_fill_(storage.position == capacity, storage.protected)
    storage.size.add_(num_envs).clamp_(max=capacity)
    if storage.frames:
        protected = storage.protected // num_envs
        groups = storage.size // num_envs - protected
        first = storage.position // num_envs - groups
        lost = [lost_groups(frames, first, groups, protected) for frames in storage.frames.values()]
        storage.size.sub_(torch.stack(lost).amax() * num_envs)


def missing(storage: Storage, steps: int) -> str | None:
    """What to tell a user if pictures fill their memory before the transitions asked for are there.

    Args:
        storage: as it is now.
        steps: transitions written so far.
    """
    asked, held = min(steps, storage.reward.shape[0]), int(storage.size)
    if not storage.frames or held >= asked:
        return None
    return (
        f"the replay holds {held:,} transitions of {asked:,}: episodes are short, or the frames of an"
        " observation do not move on by one; a larger buffer_size holds more"
    )


def protect(storage: Storage) -> None:
    """Keep everything written so far forever, for example demonstrations.

    Raises:
        UsageError: something was overwritten already, or no room is left for what comes next.
    """
    # Until something is overwritten, the whole transitions are the rows before the next one.
    written = int(storage.position)
    if int(storage.size) != written or not all(map(can_protect_frames, storage.frames.values())):
        raise UsageError(
            f"a replay of {storage.reward.shape[0]:,} transitions is too small to protect the ones it was"
            " given and to hold others; use a larger buffer_size"
        )
    storage.protected.fill_(written)
    for frames in storage.frames.values():
        protect_frames(frames)


def whole_row(storage: Storage, nth: Tensor) -> Tensor:
    """The row of the `nth` whole transition, counted from 0 to `size - 1` in an order that each `add`
    changes: int64 -> int64 of the same shape."""
    if not storage.frames:  # planes may run out before rows do; without frames the whole rows are the first
        return nth
    ring = storage.reward.shape[0] - storage.protected
    in_ring = storage.protected + (nth - storage.protected + storage.position - storage.size) % ring
    return torch.where(nth < storage.protected, nth, in_ring)


def is_whole(storage: Storage) -> Tensor:
    """`[N]` bool, whether each row holds a whole transition."""
    row = torch.arange(storage.reward.shape[0], device=storage.reward.device)
    ring = storage.reward.shape[0] - storage.protected
    newer = (storage.position - 1 - row) % ring  # rows of the ring written after this one
    return (row < storage.protected) | (newer < storage.size - storage.protected)


def gather(storage: Storage, row: Tensor) -> Transition:
    """The transitions in rows `[N]` int64; compiles."""
    columns = _columns(storage)
    values = []
    for name, column in named_leaves(columns).items():
        value, path = column.index_select(0, row), name.removeprefix("next_")
        if path in storage.frames:
            value = read_frames(storage.frames[path], value)
        values.append(value)
    remaining = iter(values)
    return Transition(*map_tree(lambda _: next(remaining), columns))


def filled(storage: Storage) -> dict[str, Tensor]:
    """What a checkpoint must keep: views of the rows written so far, by name, with no copy.

    `restore_into` gives the places of a new storage to read them back into. The numbers of protected rows and
    planes are left out if there are none.
    """
    position, num_envs = int(storage.position), storage.offset.shape[0]
    rows = position if position >= int(storage.size) else storage.reward.shape[0]
    lengths = dict.fromkeys(named_leaves(_columns(storage)), rows)
    lengths |= {f"extra/{name}": rows for name in storage.extra}
    for path, frames in storage.frames.items():
        lengths[f"frames/{path}/planes"] = min(int(frames.count), frames.planes.shape[0] - 1)
        lengths[f"frames/{path}/oldest"] = rows // num_envs
    tensors = _saved(storage, bool(storage.protected))
    return {name: tensor[: lengths[name]] if name in lengths else tensor for name, tensor in tensors.items()}


def restore_into(storage: Storage, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Where to write the tensors of `filled`, so that a storage goes on from them.

    Args:
        storage: newly allocated, as the saved one was.
        shapes: the shape of every saved tensor by name.

    Returns:
        A view of that shape in the storage by name, to be written in place.

    Raises:
        CheckpointError: a name or shape that does not fit this storage.
    """
    own = _saved(storage, "protected" in shapes)
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


def _saved(storage: Storage, protected: bool) -> dict[str, Tensor]:
    """What a checkpoint holds by name, at full length; with or without the numbers of what is protected."""
    tensors = named_leaves(storage._replace(frames={}))
    del tensors["offset"]
    for path, frames in storage.frames.items():
        tensors |= named_leaves(frames, f"frames/{path}")
        if frames.newest.shape[1] > 1:  # stacked frames of one channel are saved without that axis
            tensors[f"frames/{path}/planes"] = frames.planes.squeeze(1)
        if not protected:
            del tensors[f"frames/{path}/protected"]
    if not protected:
        del tensors["protected"]
    return tensors
