"""Why numbers may have become infinite: looked up after the fact, in an environment made for it."""

import contextlib
import math
import time
from collections.abc import Iterable
from typing import Any

import torch
from gymnasium.spaces import Box, Discrete

from bellgrad.core.tree import named_leaves
from bellgrad.envs.transformed import TransformedEnv
from bellgrad.runs.settings import Settings
from bellgrad.tabular.common import Tabular
from bellgrad.training.assembly import make_run_env

LARGE = 1e4  # from here on a reward or an observation is a likely reason
HOPELESS = 1e15  # its square, which a scaling by the standard deviation needs, leaves single precision
MOST_STEPS, MOST_SECONDS = 200, 2.0  # of looking


def advice(settings: Settings, device: torch.device, returns: Iterable[float], lengths: Iterable[int]) -> str:
    """What may help a run that diverged; empty if nothing is known.

    Args:
        settings: of the run.
        device: of its tensors.
        returns: undiscounted returns of recent episodes.
        lengths: their environment steps.
    """
    is_tabular = isinstance(settings.algorithm, Tabular)
    reward, obs = _largest(settings, device)
    if is_tabular:
        obs = 0.0  # the number of a row
    if not settings.transforms:  # which may scale what the learner is given
        reward = max([reward, *(abs(r) / n for r, n in zip(returns, lengths, strict=True))])
    if reward >= LARGE:
        fits = reward < HOPELESS and hasattr(settings.algorithm, "gamma") and not is_tabular
        scale = ", or use normalize_reward" if fits and not settings.transforms else ""
        return f"rewards of {reward:.1e} were seen; bring them near 1: divide them in the environment{scale}"
    if obs >= LARGE:
        scale = ", or use normalize_obs" if obs < HOPELESS and not settings.transforms else ""
        return (
            f"observations of {obs:.1e} were seen; bring them near 1: divide them in the environment{scale}"
        )
    if is_tabular:
        return "a smaller alpha often helps" if getattr(settings.algorithm, "alpha", None) else ""
    return "a lower learning rate often helps" if getattr(settings.algorithm, "learning_rate", None) else ""


def _largest(settings: Settings, device: torch.device) -> tuple[float, float]:
    """The largest reward and the largest observation, in size, as the learner sees them; of random
    actions."""
    reward = seen = 0.0
    with contextlib.suppress(Exception):  # whatever a user's environment does: it is another's error now
        env = make_run_env(settings, device, 1)
        try:
            until = time.monotonic() + MOST_SECONDS
            obs = env.reset(settings.seed)
            for _ in range(MOST_STEPS):
                seen = max([seen, *(_size(leaf) for leaf in named_leaves(obs).values())])
                if time.monotonic() > until:
                    break
                step = env.step(_random_action(env, device))
                obs, reward = step.obs, max(reward, _size(step.reward))
        finally:
            env.close()
    return reward, seen


def _size(tensor: torch.Tensor) -> float:
    largest = float(tensor.double().abs().max()) if tensor.numel() else 0.0
    return largest if math.isfinite(largest) else math.inf


def _random_action(env: TransformedEnv, device: torch.device) -> torch.Tensor:
    space: Any = env.action_space
    if isinstance(space, Discrete):
        return torch.randint(int(space.n), (1,), device=device)
    if isinstance(space, Box):
        return torch.rand(1, math.prod(space.shape), device=device) * 2 - 1
    return torch.tensor(space.nvec.reshape(1, -1), device=device) // 2
