"""Evaluation: whole episodes in separate environments, from fixed seeds, with frozen normalizers."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from bellgrad.core.errors import UsageError
from bellgrad.core.protocols import BatchedEnv, Learner
from bellgrad.core.rng import derive_seed, draw
from bellgrad.core.tree import to_device, where

EVAL_ENVS = 16  # environments that step together in an evaluation, at most
EPISODE_CAP = 27_000  # environment steps; only for environments that have no time limit


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns of whole episodes, in the environment's own reward.

    Attributes:
        return_mean: mean over episodes.
        return_std: standard deviation over episodes (of the population).
        length_mean: environment steps.
        episodes: how many.
        capped: how many were cut at the cap because the environment has no time limit.
        returns: one per episode.
    """

    return_mean: float
    return_std: float
    length_mean: float
    episodes: int
    capped: int
    returns: list[float]

    def to_json(self) -> dict[str, Any]:
        """A JSON-able record."""
        return asdict(self)


def evaluate_agent(
    learner: Learner,
    state: Any,
    env: BatchedEnv,
    episodes: int,
    seed: int,
    deterministic: bool = True,
    cap: int = EPISODE_CAP,
) -> Evaluation:
    """Run whole episodes.

    Each environment runs its own fixed share of them, so that short episodes are not counted more often than
    long ones.

    Args:
        learner: the algorithm's pure functions.
        state: the learner's state.
        env: an environment that nothing else uses, its normalizers frozen.
        episodes: how many, 1 or more.
        seed: of the episodes.
        deterministic: the greedy action, or a sample of the policy.
        cap: environment steps after which an episode is cut and counted as capped, if the environment has no
            time limit.

    Raises:
        UsageError: `episodes` is below 1.
    """
    if episodes < 1:
        raise UsageError(f"episodes = {episodes} is out of range [1, inf]")
    b, device, has_limit = env.num_envs, state.steps.device, env.spec.max_episode_steps is not None
    generator = torch.Generator(device).manual_seed(derive_seed(seed, "evaluation"))
    first_carry = carry = to_device(learner.init_carry(b), device)
    share = np.array([episodes // b + (i < episodes % b) for i in range(b)])
    returns: list[list[float]] = [[] for _ in range(b)]
    lengths: list[int] = []
    capped = 0
    with torch.no_grad():
        obs = env.reset(derive_seed(seed, "evaluation", "environment"))
        while any(len(r) < n for r, n in zip(returns, share, strict=True)):
            acted = learner.act(
                state, carry, obs, draw(learner.act_noise(b), generator), explore=not deterministic
            )
            step = env.step(acted.action)
            obs, ended = step.obs, step.terminated | step.truncated
            carry = where(ended, first_carry, acted.carry)
            over = (ended if has_limit else ended | (step.episode.length >= cap)).cpu().numpy()
            for i in np.flatnonzero(over):
                if len(returns[i]) < share[i]:
                    returns[i].append(step.episode.return_[i].item())
                    lengths.append(int(step.episode.length[i]))
                    if not ended[i]:
                        capped += 1
                        share[i] = len(returns[i])  # it never ends by itself: one episode is counted for all
    flat = [r for own in returns for r in own]
    return Evaluation(
        float(np.mean(flat)), float(np.std(flat)), float(np.mean(lengths)), len(flat), capped, flat
    )
