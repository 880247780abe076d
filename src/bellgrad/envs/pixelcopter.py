"""PixelCopter as native dynamics, with the rules, rewards and observations of the PyGame Learning
Environment's `Pixelcopter`.

The screen has 48 x 48 pixels and a step takes 1/30 s, both the original's defaults. Lengths are in pixels,
velocities in pixels per step, and y grows downwards. A position is that of something's middle.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from torch import Tensor

SIZE = 48
MILLISECONDS = 1000 / 30
SCROLL = 0.0004 * SIZE * MILLISECONDS  # pixels that blocks and terrain move per step: 0.64
CLIMB, FALL = -0.875 * SCROLL, 0.09 * SCROLL  # change of velocity per step
DRAG = 0.99

COPTER_X, COPTER_HEIGHT = 16, 0.05 * SIZE
HIGHEST, LOWEST = 0.125 * SIZE, 0.875 * SIZE  # the limits of flight, whatever the terrain
WIDTH = 4  # of a block, and of a column of the terrain
BLOCK_HEIGHT = 9
TUNNEL = SIZE / 4  # from a column's middle to its ceiling and to its floor
COLUMNS = 14  # on the screen or next to come; a column enters as one leaves


class Game(NamedTuple):
    """The parts of the physics, `[B, 1]` each but for the columns' `[B, COLUMNS]`."""

    y: Tensor
    velocity: Tensor
    block_x: Tensor  # of the block ahead
    block_y: Tensor
    passed_x: Tensor  # of the one behind
    passed_y: Tensor
    frequency: Tensor  # of the waves in this stretch of the terrain, radians a pixel
    newest: Tensor  # position of the last column in its stretch
    last: Tensor  # position of the stretch's last column
    column_x: Tensor  # from left to right
    column_y: Tensor

    @classmethod
    def of(cls, physics: Tensor) -> "Game":
        """The parts of `[B, P]`."""
        return cls(*physics.split([1] * 9 + [COLUMNS] * 2, -1))


@dataclass(frozen=True)
class PixelCopter:
    """Fly a helicopter through a tunnel with blocks in it; the physics `[B, 37]` is a `Game`, part by part.

    The reward is 1 for each block passed and for each column of the terrain that leaves the screen, one every
    6.25 steps, and -5 for the crash that ends the episode. The original knows no time limit; 1,000 steps, 33
    s, are worth about 175. It also draws the terrain 48 columns at a time; here each is drawn as it
    enters, from the same distribution.

    Source: Tasfi 2016, "PyGame Learning Environment", `ple/games/pixelcopter.py`.
    """

    id: str = "bellgrad/PixelCopter-v0"
    max_episode_steps: int | None = 1000
    dtype: torch.dtype = torch.float32

    reset_noise: ClassVar[int] = 3 + COLUMNS
    step_noise: ClassVar[int] = 4

    @property
    def observation_space(self) -> Box:
        """The copter's y, velocity, distance to ceiling and to floor; of the block ahead the distance, "top"
        and "bottom".

        The last two are the original's words for the y of the block's middle and that y plus the block's
        height.
        """
        low = np.array([-2, -8, -20, -20, 0, 12, 21], np.float32)
        high = np.array([46, 4, 40, 44, 55, 35, 44], np.float32)
        return Box(low, high, dtype=np.float32)

    @property
    def action_space(self) -> Discrete:
        """Climb, do nothing."""
        return Discrete(2)

    def initial(self, noise: Tensor) -> Tensor:
        """At rest halfway up, with the first block beyond the screen."""
        noise = noise.to(self.dtype)
        zero, frequency = torch.zeros_like(noise[:, :1]), _frequency(noise[:, 2:3])
        column_x = WIDTH / 2 + WIDTH * torch.arange(COLUMNS, dtype=self.dtype, device=noise.device).expand(
            len(noise), -1
        )
        column_y = _column_y(frequency, column_x, noise[:, 3:])
        block_x, block_y = _block(noise[:, :2])
        last = zero + 4 * SIZE - WIDTH / 2
        start = zero + SIZE / 2
        return torch.cat(
            Game(
                start,
                zero,
                block_x,
                block_y,
                zero - SIZE,
                zero,
                frequency,
                column_x[:, -1:],
                last,
                column_x,
                column_y,
            ),
            -1,
        )

    def advance(self, physics: Tensor, action: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The copter moves, all else scrolls, and what has gone by is replaced."""
        game, noise = Game.of(physics), noise.to(self.dtype)
        velocity = DRAG * (game.velocity + torch.where(action == 0, CLIMB, FALL).unsqueeze(-1).to(self.dtype))
        y = game.y + velocity
        block_x, passed_x, column_x = game.block_x - SCROLL, game.passed_x - SCROLL, game.column_x - SCROLL

        ceiling, floor = game.column_y - TUNNEL, game.column_y + TUNNEL
        scraped = _at_copter(column_x) & ((y - COPTER_HEIGHT <= ceiling) | (y >= floor))
        struck = _strikes(y, block_x, game.block_y) | _strikes(y, passed_x, game.passed_y)
        crashed = struck | scraped.any(-1, keepdim=True) | (y < HIGHEST) | (y > LOWEST)

        passing = block_x <= COPTER_X
        passed_x = torch.where(passing, block_x, passed_x)
        passed_y = torch.where(passing, game.block_y, game.passed_y)
        next_x, next_y = _block(noise[:, :2])
        block_x, block_y = torch.where(passing, next_x, block_x), torch.where(passing, next_y, game.block_y)

        leaving = column_x[:, :1] <= -WIDTH
        # a new stretch begins at the edge of the screen, whatever the end of the old one
        anew = leaving & (game.newest >= game.last)
        first = SIZE + WIDTH / 2
        frequency = torch.where(anew, _frequency(noise[:, 2:3]), game.frequency)
        newest = torch.where(anew, first, game.newest + WIDTH * leaving)
        last = torch.where(anew, 5 * SIZE - WIDTH / 2, game.last)
        entering_x = torch.where(anew, first, column_x[:, -1:] + WIDTH)
        entering_y = _column_y(frequency, newest, noise[:, 3:])
        column_x = torch.where(leaving, torch.cat([column_x[:, 1:], entering_x], -1), column_x)
        column_y = torch.where(leaving, torch.cat([game.column_y[:, 1:], entering_y], -1), game.column_y)

        reward = passing.to(self.dtype) + leaving.to(self.dtype) - 5 * crashed.to(self.dtype)
        after = Game(
            y, velocity, block_x, block_y, passed_x, passed_y, frequency, newest, last, column_x, column_y
        )
        return torch.cat(after, -1), reward.squeeze(-1), crashed.squeeze(-1)

    def observe(self, physics: Tensor) -> Tensor:
        """`[B, 7]` float32; ceiling and floor are those of the leftmost column at the copter."""
        game = Game.of(physics)
        column = (game.column_x < COPTER_X - 2).sum(-1, keepdim=True)
        above = game.y - (game.column_y.gather(-1, column) - TUNNEL)
        ahead = game.block_x - COPTER_X
        obs = [
            game.y,
            game.velocity,
            above,
            2 * TUNNEL - above,
            ahead,
            game.block_y,
            game.block_y + BLOCK_HEIGHT,
        ]
        return torch.cat(obs, -1).to(torch.float32)


def _block(noise: Tensor) -> tuple[Tensor, Tensor]:
    """x and y `[B, 1]` of a new block, whole pixels, from `[B, 2]`."""
    x, y = (noise * (SIZE // 2)).floor().split(1, -1)
    return SIZE + x, SIZE // 4 + y


def _frequency(noise: Tensor) -> Tensor:
    return 4.5 / SIZE - 0.01 + 0.02 * noise


def _column_y(frequency: Tensor, x: Tensor, noise: Tensor) -> Tensor:
    """The middle of the opening, in whole pixels: a wave of the tunnel with a little noise in its phase."""
    return (SIZE / 2 + SIZE / 8 * (frequency * x + 0.5 * noise).sin()).floor()


def _at_copter(x: Tensor) -> Tensor:
    """Whether something `WIDTH` wide meets the copter, 2 wide, as rectangles of whole pixels."""
    return (x >= COPTER_X - 2) & (x < COPTER_X + 3)


def _strikes(y: Tensor, block_x: Tensor, block_y: Tensor) -> Tensor:
    """Whether the copter, 2 x 2, meets a block, as rectangles of whole pixels; an odd height has its middle
    pixel below."""
    return _at_copter(block_x) & (y >= block_y - BLOCK_HEIGHT // 2) & (y < block_y + BLOCK_HEIGHT // 2 + 2)


GREEN, WHITE = (120, 240, 80), (255, 255, 255)
SCALE = 8  # pixels of a picture for one of the game's


def picture(physics: NDArray) -> NDArray[np.uint8]:
    """The screen as `[384, 384, 3]`, from one environment's physics `[P]`."""
    game = Game.of(torch.from_numpy(physics))
    screen = np.zeros((SIZE * SCALE, SIZE * SCALE, 3), np.uint8)

    def fill(left: float, right: float, top: float, bottom: float, color: tuple[int, int, int]) -> None:
        left, right, top, bottom = (max(0, round(SCALE * edge)) for edge in (left, right, top, bottom))
        screen[top:bottom, left:right] = color

    for x, y in zip(game.column_x.tolist(), game.column_y.tolist(), strict=True):
        fill(x - WIDTH / 2, x + WIDTH / 2, 0, y - TUNNEL, GREEN)
        fill(x - WIDTH / 2, x + WIDTH / 2, y + TUNNEL, SIZE, GREEN)
    for x, y in ((game.block_x, game.block_y), (game.passed_x, game.passed_y)):
        left, top = x.item() - WIDTH / 2, y.item() - BLOCK_HEIGHT / 2
        fill(left, left + WIDTH, top, top + BLOCK_HEIGHT, GREEN)
    y = game.y.item()
    fill(COPTER_X - 1, COPTER_X + 1, y - 1, y + 1, WHITE)
    return screen
