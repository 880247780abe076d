"""The vacuum world as a native environment, and its picture; its rules are those of the `FiniteMDP`."""

import numpy as np
from numpy.typing import NDArray

from bellgrad.envs.sampled import SampledMDP
from bellgrad.mdp.examples import VACUUM_OBSERVATIONS, vacuum_world

CELL = 64  # pixels
FLOOR, WALL = (235, 232, 224), (60, 60, 70)
ROBOT, DUST, HAMSTER = (50, 100, 200), (130, 120, 110), (215, 140, 60)


def vacuum_dynamics() -> SampledMDP:
    """`bellgrad.mdp.examples.vacuum_world`, seen by the walls around the robot."""
    mdp = vacuum_world()
    return SampledMDP(mdp, VACUUM_OBSERVATIONS, "bellgrad/VacuumWorld-v0", mdp.max_episode_steps)


def picture(physics: NDArray) -> NDArray[np.uint8]:
    """The corridor as `[256, 448, 3]`, robot blue, dust gray, hamsters brown; from one environment's physics
    `[1]`."""
    frame = np.full((4 * CELL, 7 * CELL, 3), WALL, np.uint8)
    rows, columns = np.indices(frame.shape[:2])

    def disc(row: float, column: float, radius: float, color: tuple[int, int, int]) -> None:
        frame[(rows - row * CELL) ** 2 + (columns - column * CELL) ** 2 <= (radius * CELL) ** 2] = color

    frame[CELL : 2 * CELL, CELL:-CELL] = FLOOR
    for cell in (1, 3, 5):
        frame[2 * CELL : 3 * CELL, cell * CELL : (cell + 1) * CELL] = FLOOR
    for cell in (1, 5):
        disc(2.5, cell + 0.45, 0.25, HAMSTER)
        disc(2.4, cell + 0.72, 0.15, HAMSTER)
    for right, below in ((0.3, 0.6), (0.45, 0.4), (0.6, 0.65), (0.7, 0.45), (0.5, 0.75)):
        disc(2 + below, 3 + right, 0.07, DUST)
    disc(1.5, int(physics[0]) + 1.5, 0.35, ROBOT)
    return frame
