"""A run's environment checked before the run: what training builds is built, and a policy acts in it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bellgrad.core.protocols import BatchedEnv
from bellgrad.core.rng import draw
from bellgrad.core.tree import Tree, to_device
from bellgrad.envs.check import EnvReport, check_env
from bellgrad.runs.settings import Settings
from bellgrad.training.assembly import device_of, make_run_env

MOST_ENVS = 4  # of the run's, which step together in the check


@dataclass(frozen=True)
class AnyAlgorithm:
    """Stands for an algorithm that is not chosen yet: what any of them asks of an environment."""

    gamma: float = 0.99
    default_num_envs: int = 2

    def build(self, spec: Any, steps: int | None = None) -> Any:
        """Nothing learns; actions are chosen at random."""
        return None


def check_settings(settings: Settings, renders: bool = False) -> EnvReport:
    """Try the environment of a run that is to begin: alone, and as the run's learner sees it.

    Args:
        settings: of the run; with `AnyAlgorithm` for what every algorithm needs.
        renders: whether the environment is to draw itself too.
    """
    make = partial(make_run_env, settings, device_of(settings))
    return check_env(
        settings.env,
        seed=settings.seed,
        env_kwargs=settings.env_kwargs,
        max_episode_steps=settings.max_episode_steps,
        num_envs=min(settings.filled_num_envs(), MOST_ENVS),
        evaluates=settings.eval_episodes > 0,
        renders=renders,
        make_batch=make,
        policy=None if isinstance(settings.algorithm, AnyAlgorithm) else partial(_untrained, settings),
    )


def _untrained(settings: Settings, env: BatchedEnv) -> Callable[[Tree], Tensor]:
    """The policy of the algorithm before it has learned.

    Raises:
        UsageError: the algorithm does not fit the environment.
    """
    learner = settings.algorithm.build(env.spec, steps=settings.steps)
    generator = torch.Generator(env.device).manual_seed(0)
    state = learner.init(generator)
    carry = to_device(learner.init_carry(env.num_envs), env.device)

    def choose(obs: Tree) -> Tensor:
        nonlocal carry
        with torch.no_grad():
            acted = learner.act(state, carry, obs, draw(learner.act_noise(env.num_envs), generator))
        carry = acted.carry
        action: Tensor = acted.action
        return action

    return choose
