"""Classic control as native dynamics, step for step equal to Gymnasium's own environments.

One step from the same state equals Gymnasium's to float32 rounding; whole episodes do when `dtype` is
float64. Only the random numbers of a reset come from elsewhere. Source: `gymnasium.envs.classic_control` 1.4.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor


@dataclass(frozen=True)
class CartPole:
    """Balance a pole on a cart; the physics `[B, 4]` is position, velocity (m, m/s), angle, angular velocity
    (rad, rad/s).

    The reward is 1 per step, the last one too. Source: Barto, Sutton and Anderson 1983; Gymnasium's
    `CartPoleEnv`.
    """

    id: str = "CartPole-v1"
    max_episode_steps: int | None = 500
    dtype: torch.dtype = torch.float32

    reset_noise: ClassVar[int] = 4
    step_noise: ClassVar[int] = 0
    POSITION_LIMIT: ClassVar[float] = 2.4
    ANGLE_LIMIT: ClassVar[float] = 12 * 2 * math.pi / 360

    @property
    def observation_space(self) -> Box:
        """Twice the limits, so that the failing observation lies within."""
        high = np.array([2 * self.POSITION_LIMIT, np.inf, 2 * self.ANGLE_LIMIT, np.inf], np.float32)
        return Box(-high, high, dtype=np.float32)

    @property
    def action_space(self) -> Discrete:
        """Push left, push right."""
        return Discrete(2)

    def initial(self, noise: Tensor) -> Tensor:
        """Every coordinate uniform on [-0.05, 0.05)."""
        return noise.to(self.dtype) * 0.1 - 0.05

    def advance(self, physics: Tensor, action: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Explicit Euler over 0.02 s: positions move with the velocities from before the step."""
        _, velocity, angle, spin = physics.unbind(-1)
        cos, sin = angle.cos(), angle.sin()
        pull = (action.to(self.dtype) * 20.0 - 10.0 + 0.05 * spin * spin * sin) / 1.1
        turn = (9.8 * sin - cos * pull) / (2.0 / 3.0 - 0.05 / 1.1 * cos * cos)
        rates = torch.stack([velocity, pull - 0.05 / 1.1 * turn * cos, spin, turn], -1)
        after = torch.add(physics, rates, alpha=0.02)
        terminated = (after[:, 0].abs() > self.POSITION_LIMIT) | (after[:, 2].abs() > self.ANGLE_LIMIT)
        return after, torch.ones_like(turn), terminated

    def observe(self, physics: Tensor) -> Tensor:
        """The physics itself, float32."""
        return physics.to(torch.float32)


@dataclass(frozen=True)
class VelocityFreeCartPole(CartPole):
    """`CartPole` of which only position and angle are seen: which way they move takes two observations to
    tell."""

    id: str = "bellgrad/VelocityFreeCartPole-v1"

    @property
    def observation_space(self) -> Box:
        """Every second number of `CartPole`'s."""
        whole = super().observation_space
        return Box(whole.low[::2], whole.high[::2], dtype=np.float32)

    def observe(self, physics: Tensor) -> Tensor:
        """`[B, 2]` float32."""
        return super().observe(physics)[:, ::2]


@dataclass(frozen=True)
class MountainCar:
    """Swing a weak car out of a valley; the physics `[B, 2]` is position and velocity per step.

    The reward is -1 per step. Source: Moore 1990; Gymnasium's `MountainCarEnv`.
    """

    id: str = "MountainCar-v0"
    max_episode_steps: int | None = 200
    dtype: torch.dtype = torch.float32

    reset_noise: ClassVar[int] = 1
    step_noise: ClassVar[int] = 0
    GOAL: ClassVar[float] = 0.5

    @property
    def observation_space(self) -> Box:
        """Position in [-1.2, 0.6], velocity in [-0.07, 0.07]."""
        return Box(np.array([-1.2, -0.07], np.float32), np.array([0.6, 0.07], np.float32), dtype=np.float32)

    @property
    def action_space(self) -> Discrete:
        """Push left, coast, push right."""
        return Discrete(3)

    def initial(self, noise: Tensor) -> Tensor:
        """Position uniform on [-0.6, -0.4), at rest."""
        position = noise.to(self.dtype) * 0.2 - 0.6
        return torch.cat([position, torch.zeros_like(position)], -1)

    def advance(self, physics: Tensor, action: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The car coasts up a cosine hill; the left wall stops it."""
        after = _drive(physics, (action.to(self.dtype) - 1.0) * 0.001)
        terminated = (after[:, 0] >= self.GOAL) & (after[:, 1] >= 0.0)
        return after, torch.full_like(after[:, 0], -1.0), terminated

    def observe(self, physics: Tensor) -> Tensor:
        """The physics itself, float32."""
        return physics.to(torch.float32)


@dataclass(frozen=True)
class MountainCarContinuous:
    """`MountainCar` with a continuous push; physics `[B, 2]`, goal at 0.45.

    The reward is 100 at the goal less 0.1 times the square of the action as given: the push is clipped to
    [-1, 1], its price is not. Source: Gymnasium's `Continuous_MountainCarEnv`, which rounds its state to
    float32 after every step.
    """

    id: str = "MountainCarContinuous-v0"
    max_episode_steps: int | None = 999
    dtype: torch.dtype = torch.float32

    reset_noise: ClassVar[int] = 1
    step_noise: ClassVar[int] = 0
    GOAL: ClassVar[float] = 0.45

    @property
    def observation_space(self) -> Box:
        """Position in [-1.2, 0.6], velocity in [-0.07, 0.07]."""
        return Box(np.array([-1.2, -0.07], np.float32), np.array([0.6, 0.07], np.float32), dtype=np.float32)

    @property
    def action_space(self) -> Box:
        """The push."""
        return Box(-1.0, 1.0, (1,), np.float32)

    def initial(self, noise: Tensor) -> Tensor:
        """Position uniform on [-0.6, -0.4), at rest."""
        position = noise.to(self.dtype) * 0.2 - 0.6
        return torch.cat([position, torch.zeros_like(position)], -1)

    def advance(self, physics: Tensor, action: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The car coasts up a cosine hill; the left wall stops it."""
        push = action.to(self.dtype).squeeze(-1)
        after = _drive(physics, push.clamp(-1.0, 1.0) * 0.0015)
        terminated = (after[:, 0] >= self.GOAL) & (after[:, 1] >= 0.0)
        return after, 100.0 * terminated.to(self.dtype) - 0.1 * push * push, terminated

    def observe(self, physics: Tensor) -> Tensor:
        """The physics itself, float32."""
        return physics.to(torch.float32)


def _drive(physics: Tensor, acceleration: Tensor) -> Tensor:
    """One step of either mountain car: `[B, 2]` and `[B]` to `[B, 2]`."""
    position, velocity = physics.unbind(-1)
    velocity = (velocity + acceleration - 0.0025 * (3.0 * position).cos()).clamp(-0.07, 0.07)
    reached = position + velocity
    velocity = torch.where((reached <= -1.2) & (velocity < 0.0), 0.0, velocity)
    return torch.stack([reached.clamp(-1.2, 0.6), velocity], -1)


@dataclass(frozen=True)
class Acrobot:
    """Swing a two-link pendulum up by its elbow; physics `[B, 4]`: two angles (rad, wrapped), two angular
    velocities (rad/s).

    The reward is -1 per step and 0 on the step that terminates. Both links have length, mass and moment of
    inertia 1 and their center of mass at one half; the constants below are what remains. Source: Sutton and
    Barto 2018, example 11.3 ("book").
    """

    id: str = "Acrobot-v1"
    max_episode_steps: int | None = 500
    dtype: torch.dtype = torch.float32

    reset_noise: ClassVar[int] = 4
    step_noise: ClassVar[int] = 0
    SPIN_LIMIT: ClassVar[tuple[float, float]] = (4 * math.pi, 9 * math.pi)

    @property
    def observation_space(self) -> Box:
        """Cosine and sine of both angles, both angular velocities."""
        high = np.array([1.0, 1.0, 1.0, 1.0, *self.SPIN_LIMIT], np.float32)
        return Box(-high, high, dtype=np.float32)

    @property
    def action_space(self) -> Discrete:
        """Torque -1, 0 or 1 N m."""
        return Discrete(3)

    def initial(self, noise: Tensor) -> Tensor:
        """Every coordinate uniform on [-0.1, 0.1)."""
        return noise.to(self.dtype) * 0.2 - 0.1

    def advance(self, physics: Tensor, action: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One Runge-Kutta step of fourth order over 0.2 s."""
        start, torque = physics.unbind(-1), action.to(self.dtype) - 1.0

        def moved(slope: tuple[Tensor, ...], seconds: float) -> tuple[Tensor, ...]:
            return tuple(s + seconds * d for s, d in zip(start, slope, strict=True))

        k1 = _acrobot_slope(start, torque)
        k2 = _acrobot_slope(moved(k1, 0.1), torque)
        k3 = _acrobot_slope(moved(k2, 0.1), torque)
        k4 = _acrobot_slope(moved(k3, 0.2), torque)
        mean = tuple((a + 2.0 * b + 2.0 * c + d) / 6.0 for a, b, c, d in zip(k1, k2, k3, k4, strict=True))
        angle1, angle2, spin1, spin2 = moved(mean, 0.2)
        angle1, angle2 = _wrap(angle1), _wrap(angle2)
        limit1, limit2 = self.SPIN_LIMIT
        after = torch.stack([angle1, angle2, spin1.clamp(-limit1, limit1), spin2.clamp(-limit2, limit2)], -1)
        terminated = -angle1.cos() - (angle2 + angle1).cos() > 1.0
        return after, terminated.to(self.dtype) - 1.0, terminated

    def observe(self, physics: Tensor) -> Tensor:
        """`[B, 6]` float32."""
        angle1, angle2, spin1, spin2 = physics.unbind(-1)
        return torch.stack([angle1.cos(), angle1.sin(), angle2.cos(), angle2.sin(), spin1, spin2], -1).to(
            torch.float32
        )


def _acrobot_slope(state: tuple[Tensor, ...], torque: Tensor) -> tuple[Tensor, ...]:
    """Time derivative of the acrobot's four coordinates, each `[B]`; gravity 9.8 m/s^2."""
    angle1, angle2, spin1, spin2 = state
    cos2, sin2 = angle2.cos(), angle2.sin()
    d1, d2 = 3.5 + cos2, 1.25 + 0.5 * cos2
    phi2 = 4.9 * (angle1 + angle2).sin()
    phi1 = 14.7 * angle1.sin() + phi2 - (0.5 * spin2 + spin1) * spin2 * sin2
    ratio = d2 / d1
    acceleration2 = (torque + ratio * phi1 - 0.5 * spin1 * spin1 * sin2 - phi2) / (1.25 - ratio * d2)
    return spin1, spin2, -(d2 * acceleration2 + phi1) / d1, acceleration2


def _wrap(angle: Tensor) -> Tensor:
    """The same angle in [-pi, pi], by any number of turns."""
    return angle - (2 * math.pi) * (angle * (0.5 / math.pi)).round()


@dataclass(frozen=True)
class Pendulum:
    """Swing a pendulum up and hold it there; physics `[B, 2]`: angle from upright (rad, unwrapped), angular
    velocity (rad/s).

    The cost is of the state before the step. Source: Gymnasium's `PendulumEnv`.
    """

    id: str = "Pendulum-v1"
    max_episode_steps: int | None = 200
    dtype: torch.dtype = torch.float32

    reset_noise: ClassVar[int] = 2
    step_noise: ClassVar[int] = 0

    @property
    def observation_space(self) -> Box:
        """Cosine and sine of the angle, angular velocity."""
        high = np.array([1.0, 1.0, 8.0], np.float32)
        return Box(-high, high, dtype=np.float32)

    @property
    def action_space(self) -> Box:
        """The torque, in N m."""
        return Box(-2.0, 2.0, (1,), np.float32)

    def initial(self, noise: Tensor) -> Tensor:
        """Angle uniform on [-pi, pi), angular velocity on [-1, 1)."""
        angle, spin = (noise.to(self.dtype) * 2.0 - 1.0).unbind(-1)
        return torch.stack([angle * math.pi, spin], -1)

    def advance(self, physics: Tensor, action: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Semi-implicit Euler over 0.05 s; never terminates."""
        angle, spin = physics.unbind(-1)
        torque = action.to(self.dtype).squeeze(-1).clamp(-2.0, 2.0)
        lean = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
        cost = lean * lean + 0.1 * spin * spin + 0.001 * torque * torque
        spin = (spin + (15.0 * angle.sin() + 3.0 * torque) * 0.05).clamp(-8.0, 8.0)
        return torch.stack([angle + spin * 0.05, spin], -1), -cost, torch.zeros_like(cost, dtype=torch.bool)

    def observe(self, physics: Tensor) -> Tensor:
        """`[B, 3]` float32."""
        angle, spin = physics.unbind(-1)
        return torch.stack([angle.cos(), angle.sin(), spin], -1).to(torch.float32)


@dataclass(frozen=True)
class VelocityFreePendulum(Pendulum):
    """`Pendulum` of which only the angle is seen, as cosine and sine."""

    id: str = "bellgrad/VelocityFreePendulum-v1"

    @property
    def observation_space(self) -> Box:
        """The first two numbers of `Pendulum`'s."""
        return Box(-1.0, 1.0, (2,), np.float32)

    def observe(self, physics: Tensor) -> Tensor:
        """`[B, 2]` float32."""
        return super().observe(physics)[:, :2]
