"""Environments so small that the right answer is known: each isolates one part of an algorithm.

They are native dynamics. `continuous` ones take a Box action in [0, 4], so that the learner's [-1, 1] must be
scaled to it; the others take one of two actions. After Jones 2021, "Debugging reinforcement learning systems
without the agonizing pain".
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from bellgrad.core.registry import DRIVERS
from bellgrad.envs.native import NativeEnv
from bellgrad.envs.transformed import TransformedEnv
from bellgrad.envs.transforms import RescaleAction
from bellgrad.training.engine import Engine

OPTIMUM = 0.5  # of the continuous probes, in the learner's units; 3.0 in the environment's
EAGER = Engine("eager", 1, 4, "")


@dataclass(frozen=True)
class Probe:
    """One number is observed; its first value is 0 unless said otherwise."""

    continuous: bool = False
    id: str = "Probe"
    max_episode_steps: int | None = None
    dtype: torch.dtype = torch.float32

    reset_noise: ClassVar[int] = 1
    step_noise: ClassVar[int] = 0

    @property
    def observation_space(self):
        return Box(-10, 10, (1,), np.float32)

    @property
    def action_space(self):
        return Box(0, 4, (1,), np.float32) if self.continuous else Discrete(2)

    def initial(self, noise):
        return torch.zeros_like(noise)

    def observe(self, physics):
        return physics

    def units(self, action):
        """The continuous action `[B]` back in the learner's units."""
        return action.squeeze(-1) / 2 - 1


@dataclass(frozen=True)
class ConstantValue(Probe):
    """One step, reward 1: every value is 1."""

    def advance(self, physics, action, noise):
        return physics, torch.ones_like(physics[:, 0]), torch.ones_like(physics[:, 0], dtype=torch.bool)


@dataclass(frozen=True)
class SignProbe(Probe):
    """The observation is -1 or 1, at random."""

    def initial(self, noise):
        return torch.where(noise < 0.5, -1.0, 1.0)


@dataclass(frozen=True)
class ValueByObservation(SignProbe):
    """One step; the reward is the observation, and so is the value."""

    def advance(self, physics, action, noise):
        return physics, physics[:, 0], torch.ones_like(physics[:, 0], dtype=torch.bool)


@dataclass(frozen=True)
class TwoSteps(Probe):
    """0, then 1, then the end, with reward 1 for the second step: the values are gamma and 1."""

    def advance(self, physics, action, noise):
        return physics + 1, physics[:, 0], physics[:, 0] == 1


@dataclass(frozen=True)
class BestAction(Probe):
    """One step. Of two actions the second is worth 1, the first -1; a continuous one is worth minus its
    squared distance from the optimum."""

    def advance(self, physics, action, noise):
        reward = -((self.units(action) - OPTIMUM) ** 2) if self.continuous else action * 2.0 - 1.0
        return physics, reward, torch.ones_like(reward, dtype=torch.bool)


@dataclass(frozen=True)
class BestChoices(Probe):
    """One step with three choices at once, of 3, 2 and 4 actions; each is worth 1 where it is the best
    one."""

    best: ClassVar[tuple[int, ...]] = (2, 0, 1)

    @property
    def action_space(self):
        return MultiDiscrete([3, 2, 4])

    def advance(self, physics, action, noise):
        reward = (action == torch.tensor(self.best)).sum(-1).float()
        return physics, reward, torch.ones_like(reward, dtype=torch.bool)


@dataclass(frozen=True)
class BestActionByObservation(SignProbe):
    """The same, but where the observation is -1 the first action is worth 1, or the continuous optimum has
    the other sign."""

    def advance(self, physics, action, noise):
        obs = physics[:, 0]
        reward = (
            -((self.units(action) - OPTIMUM * obs) ** 2) if self.continuous else (action * 2.0 - 1.0) * obs
        )
        return physics, reward, torch.ones_like(reward, dtype=torch.bool)


@dataclass(frozen=True)
class Endless(Probe):
    """Reward 1 per step, forever: the value is 1 / (1 - gamma), though a time limit cuts it into pieces."""

    max_episode_steps: int | None = 5

    def advance(self, physics, action, noise):
        return physics, torch.ones_like(physics[:, 0]), torch.zeros_like(physics[:, 0], dtype=torch.bool)


@dataclass(frozen=True)
class Arrival(Probe):
    """0, then 1 forever with reward 1 per step, cut after every second step.

    V(1) = 1 / (1 - gamma) and V(0) = gamma V(1). With gamma 1/2 that is 2 and 1. Taking the time-out for an
    end gives 1 and 1/2; bootstrapping from the observation after the reset gives 4/3 and 2/3.
    """

    max_episode_steps: int | None = 2

    def advance(self, physics, action, noise):
        return torch.ones_like(physics), physics[:, 0], torch.zeros_like(physics[:, 0], dtype=torch.bool)


def learn(algorithm, dynamics, updates):
    """The learner and its state after at least so many updates."""
    env = NativeEnv(dynamics, 16)
    if dynamics.continuous:
        env = TransformedEnv(env, [RescaleAction()])
    learner = algorithm.build(env.spec)
    driver = DRIVERS.find(learner.driver)(learner, env, EAGER, 0, torch.device("cpu"))
    while driver.updates < updates:
        driver.advance()
    return learner, driver.state


def close(actual, expected, tolerance):
    torch.testing.assert_close(actual, torch.as_tensor(expected), atol=tolerance, rtol=0)
