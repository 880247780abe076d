"""Bellgrad: reinforcement learning from the Bellman equation to deep control. Names are imported when first
used."""

from importlib import import_module
from typing import Any

_HOMES = {
    "A2C": "bellgrad.algos.a2c",
    "CEM": "bellgrad.algos.cem",
    "CMAES": "bellgrad.algos.cma_es",
    "DQN": "bellgrad.algos.dqn",
    "HillClimbing": "bellgrad.algos.hill_climbing",
    "OpenAIES": "bellgrad.algos.openai_es",
    "PPO": "bellgrad.algos.ppo",
    "REINFORCE": "bellgrad.algos.reinforce",
    "SAC": "bellgrad.algos.sac",
    "SimulatedAnnealing": "bellgrad.algos.simulated_annealing",
    "TRPO": "bellgrad.algos.trpo",
    "VPG": "bellgrad.algos.vpg",
    "MonteCarlo": "bellgrad.tabular.monte_carlo",
    "MonteCarloControl": "bellgrad.tabular.monte_carlo",
    "OffPolicyMonteCarlo": "bellgrad.tabular.off_policy_monte_carlo",
    "OffPolicyMonteCarloControl": "bellgrad.tabular.off_policy_monte_carlo",
    "TD0": "bellgrad.tabular.td",
    "NStepTD": "bellgrad.tabular.n_step",
    "TDLambda": "bellgrad.tabular.td_lambda",
    "SARSA": "bellgrad.tabular.sarsa",
    "SARSA1": "bellgrad.tabular.sarsa_lambda",
    "SARSALambda": "bellgrad.tabular.sarsa_lambda",
    "NStepSARSA": "bellgrad.tabular.n_step",
    "ExpectedSARSA": "bellgrad.tabular.expected_sarsa",
    "QLearning": "bellgrad.tabular.q_learning",
    "DoubleQLearning": "bellgrad.tabular.double_q_learning",
    "WatkinsQLambda": "bellgrad.tabular.watkins_q_lambda",
    "GradientQLearning": "bellgrad.tabular.gradient",
    "GradientSARSA": "bellgrad.tabular.gradient",
    "DynaQ": "bellgrad.tabular.dyna",
    "CertaintyEquivalence": "bellgrad.tabular.certainty",
    "RMax": "bellgrad.tabular.r_max",
    "MLP": "bellgrad.nets.specs",
    "CNN": "bellgrad.nets.specs",
    "LSTM": "bellgrad.nets.specs",
    "GRU": "bellgrad.nets.specs",
    "Adam": "bellgrad.ops.optim",
    "AdamW": "bellgrad.ops.optim",
    "RMSprop": "bellgrad.ops.optim",
    "SGD": "bellgrad.ops.optim",
    "Agent": "bellgrad.training.agent",
    "Evaluation": "bellgrad.training.evaluate",
    "Run": "bellgrad.training.run",
    "FiniteMDP": "bellgrad.mdp.model",
    "Solution": "bellgrad.mdp.solution",
    "solve": "bellgrad.mdp.solve",
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
