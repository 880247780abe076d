"""Native environments as Gymnasium environments `bellgrad/CartPole-v1` and so on, for every tool that uses
Gymnasium.

Importing this module registers them, and imports nothing heavy before an environment is made. In a fresh
process: `gymnasium.make("bellgrad.envs.registration:bellgrad/CartPole-v1")`, since Gymnasium 1.0 loads no
plugins by itself.
"""

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from gymnasium import Env
from gymnasium.envs.registration import register as register_id
from gymnasium.envs.registration import registry

from bellgrad.core.errors import unknown

TWINS = (
    "CartPole-v0",
    "CartPole-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "Acrobot-v1",
    "Pendulum-v1",
)
OWN = {  # and their time limits
    "bellgrad/VelocityFreeCartPole-v1": 500,
    "bellgrad/VelocityFreePendulum-v1": 200,
    "bellgrad/PixelCopter-v0": 1000,
    "bellgrad/VacuumWorld-v0": 20,
}
NATIVE_IDS = (*TWINS, *OWN)


def register() -> None:
    """Register every native environment with Gymnasium, a twin's time limit and reward threshold with it;
    again does nothing."""
    for name in TWINS:
        _register(f"bellgrad/{name}", name, registry[name].max_episode_steps, registry[name].reward_threshold)
    for name, max_episode_steps in OWN.items():
        _register(name, name, max_episode_steps)


def _register(id: str, native: str, max_episode_steps: int, reward_threshold: float | None = None) -> None:
    if id not in registry:
        register_id(
            id,
            entry_point="bellgrad.envs.registration:NativeGymnasiumEnv",
            kwargs={"native": native},
            max_episode_steps=max_episode_steps,
            reward_threshold=reward_threshold,
        )


class NativeGymnasiumEnv(Env):
    """One native environment behind Gymnasium's API. It computes in float64, and a seed gives the start of
    Gymnasium's own environment.

    It has no time limit of its own: Gymnasium's `TimeLimit` wrapper has.

    Args:
        native: a key of `bellgrad.envs.catalog.NATIVE`.
        render_mode: None or `"rgb_array"`.

    Raises:
        UsageError: `native` or `render_mode` is unknown.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(self, native: str, render_mode: str | None = None):
        import torch

        from bellgrad.envs.catalog import NATIVE
        from bellgrad.envs.render import FRAMES_PER_SECOND, Renderer

        if native not in NATIVE:
            raise unknown("native environment", native, NATIVE)
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise unknown("render mode", str(render_mode), self.metadata["render_modes"])
        self._dynamics = replace(NATIVE[native](), dtype=torch.float64)
        self._renderer = Renderer(native)
        self.metadata = self.metadata | {
            "render_fps": FRAMES_PER_SECOND.get(native, self.metadata["render_fps"])
        }
        self._physics, self._action = None, None
        self.observation_space = self._dynamics.observation_space
        self.action_space = self._dynamics.action_space
        self.render_mode = render_mode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray | np.int64, dict[str, Any]]:
        """Start an episode; `options` are accepted and ignored."""
        import torch

        super().reset(seed=seed)
        noise = torch.from_numpy(self.np_random.random((1, self._dynamics.reset_noise)))
        self._physics, self._action = self._dynamics.initial(noise), None
        return self._obs(), {}

    def step(self, action: Any) -> tuple[np.ndarray | np.int64, float, bool, bool, dict[str, Any]]:
        """Act; never truncates."""
        import torch

        self._action = np.asarray(action)
        noise = torch.from_numpy(self.np_random.random((1, self._dynamics.step_noise)))
        self._physics, reward, terminated = self._dynamics.advance(
            self._physics, torch.from_numpy(self._action[None]), noise
        )
        return self._obs(), reward.item(), terminated.item(), False, {}

    def render(self) -> np.ndarray | None:
        """A picture `[H, W, 3]` uint8 if the mode is `"rgb_array"`."""
        if self.render_mode is None:
            return None
        return self._renderer.frame(self._physics[0].numpy(), self._action)

    def close(self) -> None:
        """Release the drawing surface."""
        self._renderer.close()

    def _obs(self) -> np.ndarray | np.int64:
        # in a Discrete space a number, not an array without axes
        return self._dynamics.observe(self._physics)[0].numpy()[()]


register()
