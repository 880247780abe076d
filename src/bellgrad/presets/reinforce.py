"""Tuned settings for REINFORCE."""

from bellgrad.algos.reinforce import REINFORCE
from bellgrad.presets import Preset

PRESETS = {
    "bellgrad/VacuumWorld-v0": Preset(
        REINFORCE(episodes=32, truncation="horizon"),
        num_envs=32, steps=50_000, source="Bellgrad: the 20 steps are a part of the task",
    ),
}  # fmt: skip
