"""Tuned settings for CMA-ES."""

from bellgrad.algos.cma_es import CMAES
from bellgrad.presets import Preset

PRESETS = {
    "Pendulum-v1": Preset(
        CMAES(episodes=8), num_envs=256, steps=5_000_000,
        source="the defaults, with as many episodes as tell a good candidate from a lucky start",
    ),
}  # fmt: skip
