"""Tuned settings for OpenAI-ES."""

from bellgrad.algos.openai_es import OpenAIES
from bellgrad.presets import Preset

PRESETS = {
    "CartPole-v1": Preset(
        OpenAIES(population=256), num_envs=256, steps=2_000_000,
        source="the defaults, with a population that makes the most of a compiled environment",
    ),
}  # fmt: skip
