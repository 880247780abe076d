"""Tuned settings for SAC."""

from bellgrad.algos.sac import SAC
from bellgrad.nets.specs import MLP
from bellgrad.presets import Preset

_ZOO = "RL Baselines3 Zoo, hyperparams/sac.yml"

PRESETS = {
    "Pendulum-v1": Preset(SAC(temperature=1.0, learning_starts=100), num_envs=1, steps=20_000, source=_ZOO),
    "LunarLanderContinuous-v3": Preset(
        SAC(
            learning_rate=7.3e-4,
            temperature=1.0,
            tau=0.01,
            learning_starts=10_000,
            network=MLP((400, 300), activation="relu", initialization="torch"),
        ),
        num_envs=1,
        steps=500_000,
        source=_ZOO,
    ),
    "HalfCheetah-v5": Preset(
        SAC(learning_starts=5_000),
        num_envs=1,
        steps=1_000_000,
        source=(
            "the defaults, after more uniform steps: with 1,000 the one seed that was tried settled for a"
            " slow gait"
        ),
    ),
}
