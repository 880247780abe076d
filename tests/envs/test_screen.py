"""Pictures are drawn without a word on machines that have no screen."""

import os
import subprocess
import sys

import pytest

NATIVE = "from bellgrad.envs.render import Renderer; Renderer('CartPole-v1').frame([0.0] * 4)"
GYMNASIUM = """
import gymnasium
from bellgrad.envs.gym import GymEnv
env = GymEnv(lambda: gymnasium.make("CartPole-v1", render_mode="rgb_array"))
env.reset(0)
env.render()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="SDL looks for a screen in this way on Linux alone")
@pytest.mark.parametrize("code", [NATIVE, GYMNASIUM], ids=["native", "gymnasium"])
def test_drawing_without_a_screen_says_nothing(code):
    unset = {"DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "SDL_VIDEODRIVER"}
    env = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "XDG_RUNTIME_DIR" not in done.stderr
