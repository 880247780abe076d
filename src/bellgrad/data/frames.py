"""Image observations, each kept once however many transitions refer to it.

A ring of planes is numbered in the order of writing: plane `i` lies in row `i % M` and lives until plane `i +
M` is written. What a transition keeps of an image is the numbers of its planes. Nothing is assumed about
episodes: an observation shares the planes of the same environment's latest successor only if it equals them,
and a successor shares those of its observation only if it is that stack moved on by one. So a successor
before a reset is kept as it was.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Frames(NamedTuple):
    """A ring of `M` planes for `B` environments; an observation is `C` planes, a single one or a stack.
    Written in place."""

    planes: Tensor  # [M + 1, *plane]; the last row takes what need not be kept
    newest: Tensor  # [B, C] int64, numbers of the planes of each environment's latest successor
    oldest: Tensor  # [G] int64, the smallest number that each group of B transitions refers to
    count: Tensor  # [] int64, planes ever written


def allocate_frames(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    groups: int,
    num_envs: int,
    stacked: bool,
    device: torch.device | str,
) -> Frames:
    """An empty ring with an eighth more planes than transitions, for what does not follow from its
    predecessor.

    Args:
        shape: one observation `[*O]`.
        dtype: of the observation.
        groups: G, adds of B transitions that the replay holds.
        num_envs: B.
        stacked: the first axis is time and moves on by one a step, so that a step brings one new plane.
        device: where it lies.
    """
    size = shape[0] if stacked else 1
    # An add writes at most 2 B C planes; an observation's oldest plane was written at most C adds before it
    # comes in.
    floor = 2 * num_envs * size * (size + 1)
    total = max(groups * num_envs * 9 // 8, floor)
    planes = torch.empty((total + 1, *(shape[1:] if stacked else shape)), dtype=dtype, device=device)
    newest = torch.full((num_envs, size), -total - 1, device=device)  # numbers that never lived
    oldest = torch.empty(groups, dtype=torch.int64, device=device)
    return Frames(planes, newest, oldest, torch.zeros((), dtype=torch.int64, device=device))


def write_frames(frames: Frames, obs: Tensor, next_obs: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the images of one step of every environment.

    Args:
        frames: the ring, changed in place.
        obs: `[B, *O]`.
        next_obs: `[B, *O]`, the true successors.
        group: `[]` int64, which group of transitions this is.

    Returns:
        The numbers of the planes of `obs` and of `next_obs`, `[B, C]` int64 each.
    """
    total = frames.planes.shape[0] - 1
    num_envs, size = frames.newest.shape
    shape = (num_envs, size, *frames.planes.shape[1:])
    ring = _words(frames.planes)  # [M + 1, W]
    both = _words(torch.cat([obs.reshape(shape), next_obs.reshape(shape)], 1).flatten(0, 1))  # [B * 2 C, W]
    before, after = both.unflatten(0, (num_envs, 2 * size)).split(size, 1)  # [B, C, W]

    alive = frames.newest[:, 0] >= frames.count - total
    kept = ring.index_select(0, (frames.newest % total).flatten()).reshape(before.shape)
    continues = alive & (kept == before).flatten(1).all(1)  # [B]
    moves_on = (after[:, :-1] == before[:, 1:]).flatten(1).all(1)  # [B], true where C = 1

    last = torch.ones_like(alive)[:, None]
    new = torch.cat(
        [~continues[:, None].expand(-1, size), ~moves_on[:, None].expand(-1, size - 1), last], 1
    )  # [B, 2 C]
    number = frames.count + new.flatten().cumsum(0).reshape(new.shape) - 1
    obs_number = torch.where(new[:, :size], number[:, :size], frames.newest)
    next_number = torch.where(new[:, size:], number[:, size:], obs_number.roll(-1, 1))

    row = torch.where(new, number % total, total)
    ring.index_copy_(0, row.flatten(), both)
    frames.newest.copy_(next_number)
    frames.oldest.index_copy_(0, group[None], obs_number[:, 0].amin()[None])
    frames.count.add_(new.sum())
    return obs_number, next_number


def _words(planes: Tensor) -> Tensor:
    """`[R, *plane]` as `[R, W]`, eight bytes a word where they go in evenly: copied and compared several
    times faster."""
    flat = planes.flatten(1)
    return flat.view(torch.int64) if flat.shape[1] % 8 == 0 else flat


def read_frames(frames: Frames, number: Tensor) -> Tensor:
    """The images of transitions by the numbers of their planes: `[N, C]` int64 -> `[N, *O]`."""
    rows = (number % (frames.planes.shape[0] - 1)).flatten()
    images = frames.planes.index_select(0, rows)
    # A single plane is a whole observation.
    return images if number.shape[1] == 1 else images.reshape(*number.shape, *images.shape[1:])


def lost_groups(frames: Frames, first: Tensor, groups: Tensor) -> Tensor:
    """How many of the oldest groups refer to planes that the latest write has replaced.

    `oldest` rises by at least one from group to group, because every observation begins with a later plane
    than the one before it in its environment. So a write of at most `2 B C` planes takes at most as many
    groups, and they are the first ones.

    Args:
        frames: the ring.
        first: `[]` int64, the oldest group that is still whole (may lie outside the ring: it is taken modulo
            G).
        groups: `[]` int64, how many groups there are from there.

    Returns:
        `[]` int64.
    """
    window = torch.arange(2 * frames.newest.numel(), device=first.device)
    oldest = frames.oldest.index_select(0, (first + window) % frames.oldest.shape[0])
    return ((oldest < frames.count - (frames.planes.shape[0] - 1)) & (window < groups)).sum()
