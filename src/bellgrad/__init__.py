"""Bellgrad: reinforcement learning from the Bellman equation to deep control. Names are imported when first
used."""

from importlib import import_module
from typing import Any

from bellgrad.core import registry, waiting

waiting.sleep_soon()  # before anything imports torch

_HOMES = {
    target.partition(":")[2]: target.partition(":")[0]
    for names in (registry.ALGORITHMS, *registry.PARTS)
    for target in names.own.values()
} | {
    "Agent": "bellgrad.training.agent",
    "Evaluation": "bellgrad.training.evaluate",
    "Run": "bellgrad.training.run",
    "FiniteMDP": "bellgrad.mdp.model",
    "Solution": "bellgrad.mdp.solution",
    "POMDP": "bellgrad.mdp.pomdp",
    "StateGrid": "bellgrad.mdp.state_grid",
    "read_mdp": "bellgrad.mdp.formats",
    "write_mdp": "bellgrad.mdp.formats",
    "read_pomdp": "bellgrad.mdp.cassandra",
    "write_pomdp": "bellgrad.mdp.cassandra",
    "solve": "bellgrad.mdp.solve",
    "stationary_distribution": "bellgrad.mdp.chains",
    "hitting_times": "bellgrad.mdp.chains",
    "train": "bellgrad.api",
    "resume": "bellgrad.api",
    "evaluate": "bellgrad.api",
    "load": "bellgrad.api",
    "record": "bellgrad.api",
    "picture": "bellgrad.api",
    "plot": "bellgrad.api",
    "compare": "bellgrad.api",
    "export": "bellgrad.api",
    "write_report": "bellgrad.api",
    "BellgradError": "bellgrad.core.errors",
    "UsageError": "bellgrad.core.errors",
    "EnvironmentFault": "bellgrad.core.errors",
    "CheckpointError": "bellgrad.core.errors",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bellgrad' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
