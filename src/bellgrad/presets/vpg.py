"""Tuned settings for VPG."""

from bellgrad.algos.vpg import VPG
from bellgrad.presets import Preset

PRESETS = {
    "HalfCheetah-v5": Preset(
        VPG(
            learning_rate=3e-4,
            learning_rate_decay="constant",
            rollout_steps=4000,
            epochs=80,
            minibatches=1,
            lambda_=0.97,
            initial_log_std=-0.5,
        ),
        num_envs=1,
        steps=3_000_000,
        source="Spinning Up, spinup/algos/pytorch/vpg and its benchmark",
    ),
}
