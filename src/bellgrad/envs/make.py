"""A batch of environments as a learner sees it, from what a user writes."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium

from bellgrad.core.errors import UsageError, unknown
from bellgrad.core.protocols import BatchedEnv
from bellgrad.envs.catalog import NATIVE
from bellgrad.envs.gym import GymEnv
from bellgrad.envs.names import BACKENDS, EnvLike, env_name, make_single, registered_id
from bellgrad.envs.native import NativeEnv
from bellgrad.envs.transformed import TransformedEnv
from bellgrad.envs.transforms import RescaleAction, Transform
from bellgrad.envs.worker import SubprocessEnv


def make_env(
    env: EnvLike,
    num_envs: int = 1,
    device: Any = "cpu",
    backend: str = "auto",
    max_episode_steps: int | None = None,
    env_kwargs: dict[str, Any] | None = None,
    transforms: Sequence[Transform] = (),
    render_mode: str | None = None,
    worker_timeout: float | None = None,
) -> BatchedEnv:
    """Make a batch of environments as a learner sees it: through the transforms, and with Box actions in [-1,
    1].

    Args:
        env: a registered id, `module:Class`, `module:Id-v0`, or a class or function that makes a Gymnasium
            environment.
        num_envs: environments that step together.
        device: of the tensors.
        backend: `native` (batched torch), `gymnasium` (in this process), `subprocess` (worker processes), or
            `auto`: native if there is such an environment and nothing is asked of it that only Gymnasium's
            has, else gymnasium.
        max_episode_steps: replaces the environment's time limit; in environment steps.
        env_kwargs: arguments of the environment.
        transforms: from `bellgrad.envs.transforms`, the first nearest to the environment.
        render_mode: Gymnasium's, for pictures; `rgb_array`.
        worker_timeout: with `subprocess`, seconds that a step may take before it counts as hung; a reset may
            take ten times as long. None is 60.

    Returns:
        A `BatchedEnv` with the attribute `spec`, an `EnvSpec`.

    Raises:
        UsageError: an unknown name, a missing extra, an environment that cannot be made, spaces that no
            learner can use.
    """
    kwargs = dict(env_kwargs or {}) | ({} if render_mode is None else {"render_mode": render_mode})
    made = _make_batch(env, num_envs, device, backend, max_episode_steps, kwargs, worker_timeout)
    try:
        rescale = (RescaleAction(),) if isinstance(made.action_space, gymnasium.spaces.Box) else ()
        return TransformedEnv(made, (*transforms, *rescale)) if transforms or rescale else made
    except BaseException:
        made.close()
        raise


def _make_batch(
    env: EnvLike,
    num_envs: int,
    device: Any,
    backend: str,
    max_episode_steps: int | None,
    kwargs: dict[str, Any],
    worker_timeout: float | None,
) -> BatchedEnv:
    if backend not in BACKENDS:
        raise unknown("backend", backend, BACKENDS)
    if isinstance(env, str) and ":" not in env:
        env = registered_id(env)
    if backend in ("auto", "native"):
        native = isinstance(env, str) and env in NATIVE
        if native and not kwargs:
            return NativeEnv(NATIVE[env](), num_envs, device, max_episode_steps)
        if backend == "native":
            if native:
                raise UsageError(
                    f"a native environment takes no arguments, got {kwargs}; use backend='gymnasium'"
                )
            raise unknown("native environment", env_name(env), NATIVE)
    if backend == "subprocess":
        return SubprocessEnv(
            env,
            num_envs,
            device,
            timeout=worker_timeout,
            max_episode_steps=max_episode_steps,
            env_kwargs=kwargs,
        )
    make = partial(make_single, env, max_episode_steps, kwargs)
    return GymEnv(make, num_envs, device, name=env_name(env))
