"""Pictures of an agent that acts."""

from collections.abc import Iterator

import numpy as np
import torch

from bellgrad.core.rng import derive_seed, draw
from bellgrad.core.tree import to_device
from bellgrad.runs.folder import Which
from bellgrad.training.evaluate import EPISODE_CAP
from bellgrad.training.run import Run


def frames(
    run: Run, episodes: int, seed: int, deterministic: bool, checkpoint: Which
) -> tuple[Iterator[np.ndarray], float]:
    """Frames `[H, W, 3]` uint8 of whole episodes, drawn by the environment itself, and their frames per
    second.

    Args:
        run: the run.
        episodes: how many.
        seed: of the episodes.
        deterministic: the greedy action, or a sample of the policy.
        checkpoint: `last`, `best`, or the step of one.

    Raises:
        UsageError: the environment cannot draw itself.
    """
    env = run.make_env(1, backend="gymnasium", render_mode="rgb_array")
    learner, state, env = run.load(checkpoint, env)

    def play() -> Iterator[np.ndarray]:
        generator = torch.Generator(run.device).manual_seed(derive_seed(seed, "evaluation"))
        try:
            with torch.no_grad():
                obs, seen, length = env.reset(derive_seed(seed, "evaluation", "environment")), 0, 0
                first_carry = carry = to_device(learner.init_carry(1), run.device)
                yield env.render()[0]
                while seen < episodes and length < EPISODE_CAP:
                    acted = learner.act(
                        state, carry, obs, draw(learner.act_noise(1), generator), explore=not deterministic
                    )
                    step = env.step(acted.action)
                    obs, length = step.obs, int(step.episode.length)
                    ended = bool(step.terminated | step.truncated)
                    carry = first_carry if ended else acted.carry
                    seen += ended
                    if seen < episodes:
                        yield env.render()[0]
        finally:
            env.close()

    return play(), env.render_fps
