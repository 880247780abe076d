"""Tuned settings for TRPO."""

from bellgrad.algos.trpo import TRPO
from bellgrad.envs.transforms import NormalizeObs, NormalizeReward
from bellgrad.presets import Preset

_ZOO = "RL Baselines3 Zoo, hyperparams/trpo.yml"

PRESETS = {
    "CartPole-v1": Preset(
        TRPO(rollout_steps=512, minibatches=2, lambda_=0.98, epochs=20, damping=1e-3),
        num_envs=2,
        steps=100_000,
        source=_ZOO,
    ),
    "Pendulum-v1": Preset(
        TRPO(rollout_steps=1024, minibatches=16, gamma=0.9, epochs=15),
        num_envs=2,
        steps=100_000,
        source=_ZOO + " (without its state-dependent noise)",
    ),
    "HalfCheetah-v5": Preset(
        TRPO(rollout_steps=1024, minibatches=16, epochs=20, target_kl=0.04),
        num_envs=2,
        steps=1_000_000,
        source=_ZOO + " (with 10 conjugate gradient steps, not 25)",
        transforms=(NormalizeObs(), NormalizeReward()),
    ),
}
