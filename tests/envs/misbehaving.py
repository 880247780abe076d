"""Small environments that do one thing wrong, importable from worker processes (no torch, no pytest here)."""

import os
import random
import sys
import time

import gymnasium
import numpy as np
from gymnasium import spaces


class Counter(gymnasium.Env):
    """Observes (steps, sum of actions) plus a seeded offset; ends after `length` steps. `fault` strikes at
    step `at`."""

    def __init__(
        self, length: int = 5, fault: str | None = None, at: int = 3, render_mode: str | None = None
    ):
        self.observation_space = spaces.Box(-1e6, 1e6, (2,), np.float32)
        self.action_space = spaces.Discrete(2, start=1)
        self.length, self.fault, self.at = length, fault, at
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.offset = self.np_random.random()
        if self.fault == "unseeded":
            self.offset = random.random()
        self.steps, self.total = 0, 0
        return self.obs(), {}

    def obs(self):
        return np.array([self.steps, self.total + self.offset], np.float32)

    def step(self, action):
        assert action in (1, 2)
        self.steps += 1
        self.total += int(action)
        result = [self.obs(), 0.1 * float(action), self.steps >= self.length, False, {}]
        if self.steps == self.at:
            result = self.strike(result)
        return tuple(result)

    def strike(self, result):
        match self.fault:
            case "raises":
                raise RuntimeError("the door is stuck")
            case "exits":
                os._exit(7)
            case "leaves":
                sys.exit()
            case "interrupts":
                raise KeyboardInterrupt
            case "hangs":
                time.sleep(3600)
            case "nan":
                result[0][1] = np.nan
            case "infinity":
                result[0][0] = np.inf
            case "shape":
                result[0] = np.zeros(3, np.float32)
            case "dtype":
                result[0] = np.array(["a", "b"])
            case "reward":
                result[1] = float("nan")
            case "reward array":
                result[1] = np.zeros(2)
            case "four":
                del result[3]
            case "both":
                result[2] = result[3] = True
        return result

    def render(self):
        return np.full((4, 6, 3), self.steps, np.uint8) if self.render_mode == "rgb_array" else None


class Slow(Counter):
    """Takes its time in `reset`, and does one more thing in `close`."""

    def __init__(self, seconds: float = 0.0, closing: str = ""):
        super().__init__()
        self.seconds, self.closing = seconds, closing

    def reset(self, *, seed=None, options=None):
        time.sleep(self.seconds)
        return super().reset(seed=seed)

    def close(self):
        if self.closing and hasattr(self, "steps"):
            self.fault = self.closing
            self.strike([])


class Different(Counter):
    """Has other spaces in every process."""

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Box(0, 1, (2 + os.getpid() % 1000,), np.float32)


class Endless(Counter):
    """Never ends."""

    def __init__(self, length: int = 10**9):
        super().__init__(length)


class Frames(gymnasium.Env):
    """A picture that is overwritten in place, as emulators do."""

    def __init__(self):
        self.observation_space = spaces.Box(0, 255, (8, 8), np.uint8)
        self.action_space = spaces.Box(-2.0, 2.0, (2, 2), np.float64)
        self.picture = np.zeros((8, 8), np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.picture[:] = 0
        return self.picture, {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.picture += 1
        self.last_action = action
        return self.picture, float(action.sum()), False, False, {}


class Crooked(gymnasium.Env):
    """Many things wrong at once."""

    observation_space = spaces.Dict({"x": spaces.Box(0, 1, (2,), np.float32), "k": spaces.Discrete(3)})
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None):
        return {"x": np.array([0.0, 2.0]), "k": 1}, {}

    def step(self, action):
        return {"x": np.array([np.nan, 0.0]), "k": 3}, np.array([1.0]), 0, False, None


class OldStyle(gymnasium.Env):
    """Gym's API before 2022."""

    observation_space = spaces.Box(0, 1, (2,), np.float32)
    action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def reset(self):
        return np.zeros(2, np.float32)

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, {}


class Strict(gymnasium.Env):
    """Forbids other actions at every step, and raises on them. Each choice is best with its last action that
    is allowed: the reward is minus what was missed. From step `stuck` on nothing is allowed in the last
    dimension; it ends after 5 steps."""

    def __init__(self, several: bool = False, stuck: int = 5):
        self.action_space = (
            spaces.MultiDiscrete([[3, 2]], start=[[1, 5]]) if several else spaces.Discrete(4, start=1)
        )
        self.sizes = [3, 2] if several else [4]
        seen = {
            "observation": spaces.Box(-1, 1, (1,), np.float32),
            "action_mask": spaces.MultiBinary(sum(self.sizes)),
        }
        self.observation_space = spaces.Dict(seen)
        self.stuck = stuck

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.obs(), {}

    def obs(self):
        self.masks = [self.np_random.integers(0, 2, n).astype(np.int8) for n in self.sizes]
        for mask in self.masks:
            mask[self.np_random.integers(len(mask))] = 1
        if self.steps >= self.stuck:
            self.masks[-1][:] = 0
        return {"observation": np.zeros(1, np.float32), "action_mask": np.concatenate(self.masks)}

    def step(self, action):
        assert self.action_space.contains(action), action
        missed = 0
        for mask, choice in zip(self.masks, np.ravel(action - self.action_space.start), strict=True):
            if not mask[choice]:
                raise ValueError(f"{choice} is forbidden by {mask}")
            missed += np.flatnonzero(mask)[-1] - choice
        self.steps += 1
        return self.obs(), -float(missed), self.steps == 5, False, {}


class Several(Strict):
    """Two choices at once."""

    def __init__(self):
        super().__init__(several=True)


def make_counter(**kwargs):
    return Counter(**kwargs)


def not_an_env():
    return 3


gymnasium.register("Misbehaving-v0", "misbehaving:Counter", max_episode_steps=4)
