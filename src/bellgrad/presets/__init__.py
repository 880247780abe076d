"""Tuned settings per environment, as Python instances."""

from dataclasses import dataclass
from typing import Any

from bellgrad.core.errors import unknown


@dataclass(frozen=True)
class Preset:
    """Settings that the field has found good for one environment.

    Attributes:
        algorithm: every hyper-parameter.
        num_envs: environments that step together.
        steps: environment steps after which the source reports its result.
        source: where the settings come from.
        normalize_obs: see `Settings`.
        normalize_reward: see `Settings`.
        frame_stack: see `Settings`.
    """

    algorithm: Any
    num_envs: int
    steps: int
    source: str
    normalize_obs: bool = False
    normalize_reward: bool = False
    frame_stack: int = 1


def presets(algorithm: str) -> dict[str, Preset]:
    """Every preset of an algorithm, by name: an environment's id, or a recipe's name; many have none."""
    from bellgrad.presets import a2c, cma_es, dqn, openai_es, ppo, reinforce, sac, trpo, vpg

    tuned = {
        "a2c": a2c,
        "cma_es": cma_es,
        "dqn": dqn,
        "openai_es": openai_es,
        "ppo": ppo,
        "reinforce": reinforce,
        "sac": sac,
        "trpo": trpo,
        "vpg": vpg,
    }
    return tuned[algorithm].PRESETS if algorithm in tuned else {}


def find_preset(algorithm: str, name: str) -> Preset:
    """One preset.

    Raises:
        UsageError: with the nearest right names.
    """
    known = presets(algorithm)
    if name not in known:
        raise unknown(f"preset of {algorithm}", name, known)
    return known[name]
