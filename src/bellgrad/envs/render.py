"""Pictures of native environments, drawn by Gymnasium's own environments with the physics copied in."""

import gymnasium
import numpy as np
from numpy.typing import NDArray

from bellgrad.core.errors import missing_extra


class Renderer:
    """Draws the physics of one native environment; Gymnasium's environment is made on the first frame.

    Args:
        id: the Gymnasium id whose physics are drawn, for example `"CartPole-v1"`.
    """

    def __init__(self, id: str):
        self._id = id
        self._env: gymnasium.Env | None = None

    def frame(self, physics: NDArray, action: NDArray | None = None) -> NDArray[np.uint8]:
        """A picture `[H, W, 3]`.

        Args:
            physics: `[P]`, one environment's.
            action: `[D]`, the action that led there (Pendulum draws its torque); None at the start of an episode.

        Raises:
            UsageError: pygame is not installed.
        """
        if self._env is None:
            self._env = gymnasium.make(self._id, render_mode="rgb_array", disable_env_checker=True).unwrapped
            self._env.reset(seed=0)
        self._env.state = np.array(physics, dtype=np.float64)
        if hasattr(self._env, "last_u"):  # Pendulum: the torque as it acted
            self._env.last_u = None if action is None else float(np.clip(action, -self._env.max_torque, self._env.max_torque)[0])
        try:
            return np.array(self._env.render(), dtype=np.uint8)
        except gymnasium.error.DependencyNotInstalled as error:
            raise missing_extra("pygame-ce", "video") from error

    def close(self) -> None:
        """Release the drawing surface. May be called twice."""
        if self._env is not None:
            self._env.close()
            self._env = None
