"""Tuned settings for A2C."""

from bellgrad.algos.a2c import A2C
from bellgrad.envs.transforms import NormalizeObs, NormalizeReward
from bellgrad.presets import Preset

_ZOO = "RL Baselines3 Zoo, hyperparams/a2c.yml"

PRESETS = {
    "CartPole-v1": Preset(A2C(learning_rate_decay="constant"), num_envs=8, steps=500_000, source=_ZOO),
    "Acrobot-v1": Preset(
        A2C(learning_rate_decay="constant"),
        num_envs=16,
        steps=500_000,
        source=_ZOO,
        transforms=(NormalizeObs(), NormalizeReward()),
    ),
    "LunarLander-v3": Preset(
        A2C(learning_rate=8.3e-4, gamma=0.995, entropy_coef=1e-5),
        num_envs=8,
        steps=200_000,
        source=_ZOO,
    ),
}
