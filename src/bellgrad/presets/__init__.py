"""Tuned settings per environment, as Python instances."""

import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from bellgrad.core.errors import unknown
from bellgrad.core.registry import ALGORITHMS


@dataclass(frozen=True)
class Preset:
    """Settings that the field has found good for one environment.

    Attributes:
        algorithm: every hyper-parameter.
        num_envs: environments that step together.
        steps: environment steps after which the source reports its result.
        source: where the settings come from.
        transforms: see `Settings`.
    """

    algorithm: Any
    num_envs: int
    steps: int
    source: str
    transforms: tuple[Any, ...] = ()


def presets(algorithm: str) -> dict[str, Preset]:
    """Every preset of an algorithm, by name: an environment's id, or a recipe's name; many have none.

    Those of Bellgrad's algorithms are in `bellgrad/presets/NAME.py`; those of a user's own algorithm are
    `PRESETS` in its module.

    Raises:
        UsageError: no algorithm has that name.
    """
    if algorithm not in ALGORITHMS.own:
        return getattr(sys.modules[ALGORITHMS.find(algorithm).__module__], "PRESETS", {})
    home = f"{__name__}.{algorithm}"
    return import_module(home).PRESETS if find_spec(home) else {}


def find_preset(algorithm: str, name: str) -> Preset:
    """One preset.

    Raises:
        UsageError: with the nearest right names.
    """
    known = presets(algorithm)
    if name not in known:
        raise unknown(f"preset of {algorithm}", name, known)
    return known[name]
