"""Image observations, each kept once however many transitions refer to it.

A plane is one frame of a stack, or a whole image that is not stacked. Planes are numbered in the order of
writing, and a transition keeps the numbers of its planes. With `P` protected planes and room for `M`, plane
`i < P` lies in row `i` forever; any other lies in row `P + (i - P) % (M - P)` and lives until plane `i + M -
P` is written. Nothing is assumed about episodes: an observation shares the planes of the same environment's
latest successor only if it equals them, and a successor shares those of its observation only if it is that
stack moved on by one frame. So a successor before a reset is kept as it was. Where an episode begins, the
equal frames of its first stack are one plane.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Frames(NamedTuple):
    """Room for `M` planes of `B` environments; an observation is `n` planes. Written in place."""

    planes: Tensor  # [M + 1, C, ...] uint8, C channels each; the last row takes what need not be kept
    newest: Tensor  # [B, n] int64, numbers of the planes of each environment's latest successor
    oldest: Tensor  # [G] int64, the smallest number that each group of B transitions refers to
    count: Tensor  # type: ignore[assignment]  # [] int64, planes ever written; hides tuple.count
    protected: Tensor  # [] int64, P, the planes that are never overwritten: the first ones


def allocate_frames(
    shape: tuple[int, ...], frame_stack: int, groups: int, num_envs: int, device: torch.device | str
) -> Frames:
    """No planes yet, and room for an eighth more of them than transitions, for what does not follow from its
    predecessor.

    Args:
        shape: one observation `[n * C, ...]`, uint8.
        frame_stack: n, the frames along its first axis; each step brings one new frame.
        groups: G, adds of B transitions that the replay holds.
        num_envs: B.
        device: of the tensors.
    """
    total = max(groups * num_envs * 9 // 8, _least_ring(num_envs, frame_stack))
    plane = (shape[0] // frame_stack, *shape[1:])
    return Frames(
        planes=torch.empty((total + 1, *plane), dtype=torch.uint8, device=device),
        newest=torch.full((num_envs, frame_stack), -total - 1, device=device),  # numbers that never lived
        oldest=torch.empty(groups, dtype=torch.int64, device=device),
        count=torch.zeros((), dtype=torch.int64, device=device),
        protected=torch.zeros((), dtype=torch.int64, device=device),
    )


def _least_ring(num_envs: int, frame_stack: int) -> int:
    """Planes that must be left to be overwritten, so that the transitions of an `add` are whole after it.

    An `add` writes at most `2 B n` planes, and the oldest plane of an observation was written at most `n`
    adds before.
    """
    return 2 * num_envs * frame_stack * (frame_stack + 1)


def write_frames(frames: Frames, obs: Tensor, next_obs: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the images of one step of every environment.

    Args:
        frames: changed in place.
        obs: `[B, n * C, ...]` uint8.
        next_obs: `[B, n * C, ...]` uint8, the true successors.
        group: `[]` int64, which group of transitions this is.

    Returns:
        The numbers of the planes of `obs` and of `next_obs`, `[B, n]` int64 each.
    """
    total = frames.planes.shape[0] - 1
    num_envs, n = frames.newest.shape
    shape = (num_envs, n, *frames.planes.shape[1:])
    rows = _words(frames.planes)  # [M + 1, W]
    both = _words(torch.cat([obs.reshape(shape), next_obs.reshape(shape)], 1).flatten(0, 1))  # [B * 2 n, W]
    pairs = both.reshape(num_envs, 2 * n, -1)
    before, after = pairs[:, :n], pairs[:, n:]  # [B, n, W]

    ring = _ring(frames)
    alive = frames.newest[:, 0] >= frames.count - ring
    kept = rows.index_select(0, _ring_row(frames, frames.newest, ring).flatten()).reshape(before.shape)
    continues = alive & (kept == before).flatten(1).all(1)  # [B]
    moves_on = (after[:, :-1] == before[:, 1:]).flatten(1).all(1)  # [B], True if n = 1

    one = torch.ones_like(alive)[:, None]
    differs = (before[:, 1:] != before[:, :-1]).any(-1)  # an episode begins with n times its first frame
    begins = ~continues[:, None] & torch.cat([one, differs], 1)
    new = torch.cat([begins, ~moves_on[:, None].expand(-1, n - 1), one], 1)
    number = frames.count + new.flatten().cumsum(0).reshape(new.shape) - 1  # [B, 2 n]
    obs_number = torch.where(continues[:, None], frames.newest, number[:, :n])
    next_number = torch.where(new[:, n:], number[:, n:], obs_number.roll(-1, 1))

    row = torch.where(new, _ring_row(frames, number, ring), total)
    rows.index_copy_(0, row.flatten(), both)
    frames.newest.copy_(next_number)
    frames.oldest.index_copy_(0, group[None], obs_number[:, 0].amin()[None])
    frames.count.add_(new.sum())
    return obs_number, next_number


def _words(planes: Tensor) -> Tensor:
    """`[R, C, ...]` as `[R, W]`, in words of eight bytes if they divide a plane: copied and compared several
    times faster."""
    flat = planes.flatten(1)
    return flat.view(torch.int64) if flat.shape[1] % 8 == 0 else flat


def _ring(frames: Frames) -> Tensor:
    """`[]` int64, the rows of planes that are overwritten in turn."""
    return frames.planes.shape[0] - 1 - frames.protected


def _ring_row(frames: Frames, number: Tensor, ring: Tensor) -> Tensor:
    """The row of a plane that is not protected, in a ring of that many rows."""
    return (number - frames.protected) % ring + frames.protected


def read_frames(frames: Frames, number: Tensor) -> Tensor:
    """The images of transitions by the numbers of their planes: `[N, n]` int64 -> `[N, n * C, ...]` uint8."""
    row = torch.where(number < frames.protected, number, _ring_row(frames, number, _ring(frames)))
    planes = frames.planes.index_select(0, row.flatten())  # [N * n, C, ...]
    return planes.reshape(*number.shape, *planes.shape[1:]).flatten(1, 2)


def lost_groups(frames: Frames, first: Tensor, groups: Tensor, protected: Tensor) -> Tensor:
    """How many of the oldest groups refer to planes that the latest write has replaced.

    `oldest` never falls from group to group, and no plane begins more than `n` observations one after
    another. So a write of at most `2 B n` planes takes at most `n` times as many groups, and they are the
    first ones.

    Args:
        frames: after the write.
        first: `[]` int64, the oldest group that was still whole before it (may lie outside the ring of
            groups: it is taken modulo its length).
        groups: `[]` int64, how many groups there are from there.
        protected: `[]` int64, groups that are never overwritten: the first ones.

    Returns:
        `[]` int64.
    """
    window = torch.arange(2 * frames.newest.numel() * frames.newest.shape[1], device=first.device)
    ring = frames.oldest.shape[0] - protected
    oldest = frames.oldest.index_select(0, protected + (first - protected + window) % ring)
    return ((oldest < frames.count - _ring(frames)) & (window < groups)).sum()


def can_protect_frames(frames: Frames) -> bool:
    """Whether enough planes would be left to be overwritten if all written so far were protected."""
    return frames.planes.shape[0] - 1 - int(frames.count) >= _least_ring(*frames.newest.shape)


def protect_frames(frames: Frames) -> None:
    """Keep every plane written so far forever. What comes next shares none of them."""
    frames.protected.copy_(frames.count)
    frames.newest.fill_(-frames.planes.shape[0])
