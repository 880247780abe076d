"""Tuned settings for REINFORCE."""

from bellgrad.algos.reinforce import REINFORCE
from bellgrad.envs.transforms import NormalizeObs
from bellgrad.presets import Preset

PRESETS = {
    "bellgrad/VacuumWorld-v0": Preset(
        REINFORCE(episodes=32, truncation="horizon"),
        num_envs=32,
        steps=50_000,
        source="Bellgrad: the 20 steps are a part of the task",
    ),
    "bellgrad/PixelCopter-v0": Preset(
        REINFORCE(learning_rate=2e-3, episodes=32, entropy_coef=0.01, critic_steps=20),
        num_envs=32,
        steps=1_500_000,
        transforms=(NormalizeObs(),),
        source=(
            "Bellgrad: without the entropy bonus the copter soon never climbs, and is slow to find out that"
            " it should"
        ),
    ),
}
