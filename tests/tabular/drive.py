"""Train a tabular learner on an MDP without a run folder."""

from functools import partial

import numpy as np
import torch

from bellgrad.envs.mdp import to_gymnasium
from bellgrad.runs.settings import Settings
from bellgrad.tabular.common import UniformNumbers
from bellgrad.training.assembly import make_run_env
from bellgrad.training.engine import Engine
from bellgrad.training.sampling import as_python
from bellgrad.training.tabular import Tabular


def driver(algorithm, mdp, steps, seed=0, engine="compiled"):
    """A driver at the start of a run."""
    env = make_run_env(Settings(algorithm, partial(to_gymnasium, mdp), steps), torch.device("cpu"), 1)
    made = Tabular(
        algorithm.build(env.spec, steps), env, Engine(engine, 1, 1, ""), seed, torch.device("cpu"), steps
    )
    return made


def trained(algorithm, mdp, steps, seed=0, engine="compiled"):
    """The learner, its state after all steps, and the returns of its episodes, in order."""
    made, returns = driver(algorithm, mdp, steps, seed, engine), []
    while made.steps < steps:
        returns.append(made.advance().ended.return_)
    return made.learner, made.state, np.concatenate(returns)


class Lesson:
    """A learner in plain Python, its tables, and the uniform numbers that it draws: `numbers`, then
    zeros."""

    def __init__(self, algorithm, spec, numbers=()):
        self.learner = algorithm.build(spec, 1)
        self.table = as_arrays(self.learner.init(torch.Generator()))
        self.noise = UniformNumbers(np.array([*numbers, *[0.0] * 1_000]), np.array([0]))
        self._begins = True

    def show(self, *steps):
        """Learn from steps `(obs, action, reward, next_obs, terminated, truncated)` in order; returns the
        table."""
        for step in steps:
            if self._begins:
                as_python(self.learner.begin)(self.learner.config_record, self.table, step[0], self.noise)
            self.table.steps[()] += 1
            as_python(self.learner.learn)(self.learner.config_record, self.table, *step, self.noise)
            self._begins = step[4] or step[5]
        return self.table


def as_arrays(state):
    """The tables of a state as NumPy arrays of the same memory."""
    return type(state)(*(as_arrays(leaf) if isinstance(leaf, tuple) else leaf.numpy() for leaf in state))
