"""Pictures of what a tabular run has learned, in its own environment."""

import math
from pathlib import Path

import numpy as np

from bellgrad.core.errors import UsageError
from bellgrad.envs.names import env_name
from bellgrad.mdp.model import FiniteMDP
from bellgrad.mdp.policies import bellman, q_from_value, value_from_q
from bellgrad.mdp.solution import Solution
from bellgrad.report.finite.learning import known_over_time
from bellgrad.report.finite.pictures import picture
from bellgrad.report.training.page import TABLE_PICTURES
from bellgrad.runs.settings import algorithm_name
from bellgrad.tabular.common import Tabular
from bellgrad.training.run import Run


def learned(run: Run) -> tuple[FiniteMDP, Solution]:
    """The MDP of a tabular run's environment, and the run's newest tables in the form of a solution.

    Raises:
        UsageError: the run has no tables, or the dynamics of its environment are not known.
    """
    algorithm = run.settings.algorithm
    if not isinstance(algorithm, Tabular):
        raise UsageError(f"{run.shown} has no table: {algorithm_name(algorithm)} learns a network")
    learner, state, env = run.load()
    try:
        mdp = env.known_dynamics()
    finally:
        env.close()
    if mdp is None or mdp.num_states != learner.num_states:
        raise UsageError(
            f"the values of {run.shown} cannot be drawn: nothing is known about the states of"
            f" {env_name(run.settings.env)}"
        )
    policy = learner.policy(state, explore=False).numpy()
    if "v" in state._fields:
        value = state.v.numpy()
        q = q_from_value(mdp, value, algorithm.gamma)
    else:
        q = np.where(mdp.legal, learner.action_value(state).numpy(), -np.inf)
        value = value_from_q(q, policy)
    residual = float(np.abs(bellman(mdp, value, algorithm.gamma) - value).max())
    method = f"{algorithm_name(algorithm)} after {int(state.steps):,} steps"
    return mdp, Solution(
        value, q, policy, method, "discounted", algorithm.gamma, int(state.steps), residual, math.inf, False
    )


def draw_learned(run: Run, folder: Path) -> list[Path]:
    """Draw a tabular run: its values and its policy, and for R-max also when each pair became known.

    Args:
        run: a tabular run.
        folder: where `values.png` and `known.png` are written.

    Returns:
        The pictures.

    Raises:
        UsageError: as in `learned`.
    """
    mdp, solution = learned(run)
    values, known = (folder / name for name in TABLE_PICTURES)
    made = [picture(mdp, solution, values, env_name(run.settings.env))]
    tables = run.checkpoint().tensors("loop/state")
    if "loop/state/known_at" in tables:
        made.append(known_over_time(mdp, tables["loop/state/known_at"].numpy(), known))
    return made
