"""What is made from a run's settings: the device, the environment with its wrappers, the trained policy."""

from typing import Any

import torch
from gymnasium.spaces import Discrete

from bellgrad.core.errors import UsageError
from bellgrad.core.process import settle
from bellgrad.core.registry import TRANSFORMS
from bellgrad.core.tree import restore_tree
from bellgrad.envs.discrete import DiscreteStates
from bellgrad.envs.make import make_env
from bellgrad.envs.transformed import TransformedEnv
from bellgrad.runs.folder import RunFolder, Which
from bellgrad.runs.settings import Settings, algorithm_name
from bellgrad.tabular.common import Tabular
from bellgrad.training.evaluate import EPISODE_CAP
from bellgrad.training.plan import Plan

STATE, REMEMBERED = "loop/state", "env/transforms"  # tensors of a checkpoint: all that a policy is made of


def device_of(settings: Settings) -> torch.device:
    """The device of a run's tensors; that of tables is the CPU, which samples them.

    Raises:
        UsageError: as `resolve_device`, or CUDA was asked for a table.
    """
    if isinstance(settings.algorithm, Tabular):
        if settings.device == "cuda":
            raise UsageError(
                f"{algorithm_name(settings.algorithm)} learns a table, on the CPU; leave the device at auto"
            )
        return torch.device("cpu")
    return resolve_device(settings.device)


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA if there is such a device, else the CPU.

    Raises:
        UsageError: `cuda` was asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device (see bellgrad doctor)")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def make_run_env(
    settings: Settings, device: torch.device, num_envs: int | None = None, **options: Any
) -> TransformedEnv:
    """The environment of a run with its wrappers: as the learner sees it.

    Args:
        settings: of the run.
        device: of the tensors.
        num_envs: environments that step together; None is the number in the settings.
        options: of `make_env`, in place of what the settings say.

    Raises:
        UsageError: the environment cannot be made, or the settings do not fit it.
    """
    num_envs = num_envs or settings.filled_num_envs()
    if isinstance(settings.algorithm, Tabular):
        return _make_table_env(settings, num_envs, **options)
    for given in ("bins", "bin_low", "bin_high", "tilings"):
        if getattr(settings, given) not in (None, 1):
            raise UsageError(
                f"{given} are for tabular algorithms, not for {algorithm_name(settings.algorithm)}"
            )
    options = {
        "backend": settings.backend,
        "env_kwargs": settings.env_kwargs,
        "max_episode_steps": settings.max_episode_steps,
        "worker_timeout": settings.worker_timeout,
        "transforms": settings.filled_transforms(),
        "num_envs": num_envs,
        "device": device,
    } | options
    env = make_env(settings.env, **options)
    # An algorithm that waits until episodes end might wait forever.
    if env.spec.max_episode_steps is None and hasattr(settings.algorithm, "episodes"):
        env.close()
        env = make_env(settings.env, **options | {"max_episode_steps": EPISODE_CAP})
    return env if isinstance(env, TransformedEnv) else TransformedEnv(env, ())


def _make_table_env(settings: Settings, num_envs: int, **options: Any) -> TransformedEnv:
    """An environment whose observations are rows of a table; with its exact dynamics, if they are known and
    wanted."""
    s, name = settings, algorithm_name(settings.algorithm)
    if s.transforms:
        unfit = TRANSFORMS.name_of(type(s.transforms[0]))
        raise UsageError(f"{unfit} is for networks; {name} learns a table")
    if s.backend == "subprocess" or s.num_envs != 1:
        raise UsageError(
            f"{name} learns in one environment of this process: leave num_envs at 1 and the backend at auto"
            " or gymnasium"
        )
    options = {"max_episode_steps": s.max_episode_steps, "env_kwargs": s.env_kwargs} | options
    made = make_env(s.env, num_envs=num_envs, **options | {"backend": "gymnasium"})
    try:
        if not isinstance(made.action_space, Discrete):
            raise UsageError(f"{name} learns a table and needs Discrete actions, not {made.action_space}")
        cells = (s.bins, s.bin_low, s.bin_high, None if s.tilings == 1 else s.tilings)
        has_states = isinstance(made.observation_space, Discrete) and not any(cells)
        transforms = () if has_states else (DiscreteStates(s.bins, s.bin_low, s.bin_high, s.tilings),)
        env = TransformedEnv(made, transforms)
        mdp = env.known_dynamics()
        if mdp is not None:
            sampled = mdp if s.backend in ("auto", "native") else None
            env = TransformedEnv(made, transforms, sampled, None if mdp.legal.all() else mdp.legal)
        if s.backend == "native" and env.mdp is None:
            raise UsageError(f"the dynamics of {env.spec.id} are not known; leave the backend at auto")
        return env
    except BaseException:
        made.close()
        raise


def load_policy(
    run: RunFolder, device: torch.device, which: Which = "last", env: TransformedEnv | None = None
) -> tuple[Any, Any, TransformedEnv]:
    """A trained policy, read from what a checkpoint has of it; the experience saved there is not touched.

    Args:
        run: that has the checkpoints.
        device: of the tensors.
        which: the checkpoint.
        env: the environment to use; by default a new one. It is closed if loading fails.

    Returns:
        The learner, its state, and the environment with the run's normalizers, frozen.

    Raises:
        UsageError: the checkpoint does not exist.
        CheckpointError: it is damaged or does not fit the run.
    """
    try:
        checkpoint = run.checkpoint(which, (STATE, REMEMBERED))
        env = env or make_run_env(run.settings, device, 1)
        settle()  # importing and making an environment may change torch's settings
        learner = run.settings.algorithm.build(env.spec, steps=Plan.read(run).horizon)
        state = learner.init(torch.Generator(device).manual_seed(0))
        state = restore_tree(state, checkpoint.tensors(STATE), STATE)
        template = tuple(t.init(run.settings.filled_num_envs(), device) for t in env.transforms)
        env.transform_state = restore_tree(template, checkpoint.tensors(REMEMBERED), REMEMBERED)
        env.frozen = True
        return learner, state, env
    except BaseException:
        if env is not None:
            env.close()
        raise
