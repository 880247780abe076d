"""Pictures of native environments: their own, or drawn by Gymnasium's environments with the physics copied
in."""

import gymnasium
import numpy as np
from numpy.typing import NDArray

from bellgrad.core.errors import missing_extra
from bellgrad.envs import pixelcopter, vacuum
from bellgrad.envs.screen import without_screen

PICTURES = {"bellgrad/PixelCopter-v0": pixelcopter.picture, "bellgrad/VacuumWorld-v0": vacuum.picture}
SAME_PHYSICS = {
    "bellgrad/VelocityFreeCartPole-v1": "CartPole-v1",
    "bellgrad/VelocityFreePendulum-v1": "Pendulum-v1",
}

FRAMES_PER_SECOND = {"bellgrad/VacuumWorld-v0": 3}  # if they are not 30


class Renderer:
    """Draws the physics of one native environment; Gymnasium's environment is made on the first frame that
    needs it.

    Args:
        id: of the native environment, for example `"CartPole-v1"`.
    """

    def __init__(self, id: str):
        self._picture = PICTURES.get(id)
        self._id = SAME_PHYSICS.get(id, id)
        self._env: gymnasium.Env | None = None

    def frame(self, physics: NDArray, action: NDArray | None = None) -> NDArray[np.uint8]:
        """A picture `[H, W, 3]`.

        Args:
            physics: `[P]`, one environment's.
            action: `[D]`, the action that led there (Pendulum draws its torque); None at the start of an
                episode.

        Raises:
            UsageError: pygame is not installed.
        """
        if self._picture is not None:
            return self._picture(physics)
        if self._env is None:
            without_screen()
            self._env = gymnasium.make(self._id, render_mode="rgb_array", disable_env_checker=True).unwrapped
            self._env.reset(seed=0)
        self._env.state = np.array(physics, dtype=np.float64)
        if hasattr(self._env, "last_u"):  # Pendulum: the torque as it acted
            self._env.last_u = (
                None
                if action is None
                else float(np.clip(action, -self._env.max_torque, self._env.max_torque)[0])
            )
        try:
            return np.array(self._env.render(), dtype=np.uint8)
        except gymnasium.error.DependencyNotInstalled as error:
            raise missing_extra("pygame-ce", "video") from error

    def close(self) -> None:
        """Release the drawing surface. May be called twice."""
        if self._env is not None:
            self._env.close()
            self._env = None
