"""For environments that tell separately from their observations which actions are allowed."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Dict, MultiBinary
from numpy.typing import NDArray

from bellgrad.core.errors import UsageError
from bellgrad.core.masks import KEY, choices
from bellgrad.envs.names import make_single


class WithActionMask(gymnasium.Wrapper):
    """Puts the mask of the allowed actions into the observation: `{"observation": ..., "action_mask": [A]
    int8}`.

    The mask is what `reset` and `step` give as `info["action_mask"]`, else what the environment's
    `action_masks()` says: not 0 for each allowed action; of MultiDiscrete actions those of all dimensions in
    one row.

    Args:
        env: an environment, or the id of a registered one.
        env_kwargs: arguments of the registered one.

    At the end of an episode the mask may be missing.

    Raises:
        UsageError: the actions are neither Discrete nor MultiDiscrete; in `reset` and `step`, no mask, or one
            of another length.
    """

    def __init__(self, env: gymnasium.Env | str, **env_kwargs: Any):
        # a saved run names this class without being trusted to import anything
        if isinstance(env, str) and ":" in env:
            raise UsageError(f"give the id of a registered environment or an environment itself, not {env!r}")
        super().__init__(make_single(env, env_kwargs=env_kwargs) if isinstance(env, str) else env)
        sizes = choices(self.action_space)
        if sizes is None:
            raise UsageError(
                f"actions can be forbidden if they are Discrete or MultiDiscrete, not in {self.action_space}"
            )
        self.observation_space = Dict(
            {"observation": self.env.observation_space, KEY: MultiBinary(sum(sizes))}
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        obs, info = self.env.reset(seed=seed, options=options)
        return {"observation": obs, KEY: self._mask(info)}, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Act."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        mask = self._mask(info, ended=bool(terminated or truncated))
        return {"observation": obs, KEY: mask}, reward, terminated, truncated, info

    def _mask(self, info: dict[str, Any], ended: bool = False) -> NDArray[np.int8]:
        mask = info.get(KEY)
        if mask is None and self.env.has_wrapper_attr("action_masks"):
            mask = self.env.get_wrapper_attr("action_masks")()
        if mask is None and ended:  # nothing acts there, so that an environment need not say
            mask = np.ones(self.observation_space[KEY].shape)
        if mask is None:
            raise UsageError(
                f"{self.env} does not say which actions are allowed, neither in info[{KEY!r}] nor by"
                " action_masks()"
            )
        mask = np.asarray(mask) != 0
        if mask.shape != self.observation_space[KEY].shape:
            raise UsageError(
                f"{self.env} gave an action mask of shape {mask.shape} for the actions {self.action_space}"
            )
        return mask.astype(np.int8)
