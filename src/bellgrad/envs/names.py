"""From what a user writes to one Gymnasium environment: a registered id, `module:Class`, `module:Id-v0`, a
class, or a function.

Importing this file imports no torch, since worker processes resolve names here too.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any

import gymnasium
from gymnasium.envs.registration import find_highest_version, get_env_id, parse_env_id

from bellgrad.core.errors import EnvironmentFault, UsageError, missing_extra, unknown
from bellgrad.core.guard import describe, guarded
from bellgrad.core.imports import import_users, not_in
from bellgrad.envs.given import checked
from bellgrad.envs.registration import NATIVE_IDS  # its import also registers `bellgrad/...`

EnvLike = str | Callable[..., gymnasium.Env]

BACKENDS = ("auto", "native", "gymnasium", "subprocess")
# An id's beginning: the module that registers such ids, its package, the extra that installs it.
REGISTERED_BY = {
    "ALE/": ("ale_py", "ale-py", "atari"),
    "MiniGrid-": ("minigrid", "minigrid", "minigrid"),
    "BabyAI-": ("minigrid", "minigrid", "minigrid"),
}
# A registered entry point's module: the module that it imports, and the extra that installs it.
IMPLEMENTED_WITH = {"gymnasium.envs.box2d": ("Box2D", "box2d"), "gymnasium.envs.mujoco": ("mujoco", "mujoco")}
# Registered entry points whose `reset` leaves something of the episode before it: their Box2D world outlives
# it, with its warm starts and its order of contacts. Measured on BipedalWalker-v3: the same seed and actions
# gave another step 1 after an earlier episode, and in other cases the same 105 steps and another one after
# them, so that a check of a replay cannot see it.
NEW_EACH_EPISODE = ("gymnasium.envs.box2d.bipedal_walker", "gymnasium.envs.box2d.car_racing")
# Settings of a run, which an environment is not given as arguments.
SETTINGS = frozenset(
    {"backend", "bin_high", "bin_low", "bins", "checkpoints", "device", "engine", "env_kwargs"}
    | {"eval_episodes", "frame_stack", "max_episode_steps", "normalize_obs", "normalize_reward", "num_envs"}
    | {"seed", "steps", "target_return", "tilings", "transforms", "worker_timeout"}
)
# Modules of Bellgrad's own with environments that a saved run may name.
OWN_MODULES = ("bellgrad.envs.masks",)


class NewEachEpisode(gymnasium.Wrapper):
    """Makes the environment anew at each reset, so that an episode depends on its seed and actions alone.

    Args:
        make: makes one environment.
    """

    def __init__(self, make: Callable[[], gymnasium.Env]):
        super().__init__(make())
        self._make = make
        self._used = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode in an environment that has seen none."""
        if self._used:
            self.env.close()
            self.env = self._make()
        self._used = True
        return self.env.reset(seed=seed, options=options)


def make_single(
    env: EnvLike, max_episode_steps: int | None = None, env_kwargs: dict[str, Any] | None = None
) -> gymnasium.Env:
    """Make one Gymnasium environment, without Gymnasium's passive checker: `SteppedEnvs` checks every step.

    Args:
        env: a name, a class or a function.
        max_episode_steps: a time limit in place of every other one, in environment steps; None keeps them.
        env_kwargs: arguments of the environment.

    Raises:
        UsageError: an unknown name, a missing extra, or an environment that cannot be made or trained in.
        EnvironmentFault: the environment's own code ended the process.
    """
    if max_episode_steps is not None and max_episode_steps < 1:
        raise UsageError(f"max_episode_steps = {max_episode_steps} must be 1 or more")
    kwargs, name = env_kwargs or {}, env_name(env)
    target = resolve(env)
    try:
        with guarded(f"the environment {name}", "its constructor"):
            made = _make(target, max_episode_steps, kwargs)
    except EnvironmentFault as fault:
        if isinstance(fault.__cause__, Exception):
            raise _not_made(target, name, fault.__cause__) from fault.__cause__
        raise
    return checked(made, name, max_episode_steps)


def _make(
    target: str | Callable[..., gymnasium.Env], max_episode_steps: int | None, kwargs: dict[str, Any]
) -> gymnasium.Env:
    if not isinstance(target, str):
        return target(**kwargs)
    # Bellgrad resets first, so that this need not be checked at every step
    spec = replace(gymnasium.spec(target), order_enforce=False)
    limit = None if max_episode_steps is None else -1  # `checked` sets another one
    make = partial(gymnasium.make, spec, max_episode_steps=limit, disable_env_checker=True, **kwargs)
    leaves_traces = str(gymnasium.registry[target].entry_point).partition(":")[0] in NEW_EACH_EPISODE
    with _quiet():
        return NewEachEpisode(make) if leaves_traces else make()


def env_name(env: EnvLike) -> str:
    """How an environment is called on screen and in `run.json`: its id, or `module:qualname`."""
    if isinstance(env, str):
        return env
    if isinstance(env, partial):
        return env_name(env.func)
    named = env if hasattr(env, "__qualname__") else type(env)
    return f"{named.__module__}:{named.__qualname__}"


def importable_name(env: EnvLike) -> str:
    """The name by which another process can make the same environment.

    Raises:
        UsageError: a lambda, a closure, a partial, or something defined in a script.
    """
    if isinstance(env, str):
        return env
    name = env_name(env)
    module, _, path = name.partition(":")
    found = sys.modules.get(module)
    with contextlib.suppress(AttributeError):
        for part in path.split("."):
            found = getattr(found, part)
    if found is not env or module == "__main__":
        raise UsageError(
            f"a worker process cannot import {name}: define the class or function at the top of a module, "
            "or use backend='gymnasium'"
        )
    return name


def is_found_by_name(env: EnvLike) -> bool:
    """Whether `env_name` leads back to this very environment in a process that has its module: not for a
    lambda, a closure, or a partial, whose arguments the name does not tell."""
    if isinstance(env, str):
        return True
    module, _, path = env_name(env).partition(":")
    found = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    return found is env


def is_registered_here(env_id: str) -> bool:
    """Whether an id is known only because this program registered it, so that a command does not know it."""
    spec = gymnasium.registry.get(env_id)
    if spec is None or env_id in NATIVE_IDS or any(env_id.startswith(prefix) for prefix in REGISTERED_BY):
        return False
    if str(spec.entry_point).startswith(("gymnasium.envs", "bellgrad.")):
        return False
    plugins = {point.name for point in importlib.metadata.entry_points(group="gymnasium.envs")}
    return "__root__" not in plugins and spec.namespace not in plugins


def requires_import(env_id: str) -> bool:
    """Whether making `env_id` runs code that a saved run names and this process has not already chosen to
    trust.

    False for plain ids, and for `module:Class` or `module:Id-v0` if the module has been imported and the
    name is an environment class or a registered id. Any other callable counts as foreign even if imported:
    `os:system` is one.
    """
    module, colon, path = env_id.partition(":")
    if not colon:
        return False
    if module not in sys.modules and module not in OWN_MODULES:
        return True
    found = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    if found is None:
        return path not in gymnasium.registry
    return not (inspect.isclass(found) and issubclass(found, gymnasium.Env))


def list_envs() -> dict[str, list[str]]:
    """Every id that can be made: `native`, then Gymnasium's by namespace (`gymnasium` for ids without
    one)."""
    for prefix in REGISTERED_BY:
        with contextlib.suppress(UsageError):
            _import_registration(prefix)
    groups: dict[str, list[str]] = {"native": sorted(NATIVE_IDS), "gymnasium": []}
    for spec in gymnasium.registry.values():
        if _can_be_made(spec):
            groups.setdefault(spec.namespace or "gymnasium", []).append(spec.id)
    return {group: sorted(ids) for group, ids in groups.items()}


def _can_be_made(spec: Any) -> bool:
    """Not the ids that Gymnasium keeps only to say that they have moved, and not its bridges to the old
    API."""
    moved = getattr(spec.entry_point, "__module__", None) == "gymnasium.envs"
    return spec.entry_point is not None and not moved and not spec.id.startswith("GymV")


def resolve(env: EnvLike) -> str | Callable[..., gymnasium.Env]:
    """A registered id, or something to call.

    Raises:
        UsageError: neither, or a module that cannot be imported.
    """
    if isinstance(env, gymnasium.Env):
        raise UsageError(
            "give the environment's class, or a function that makes one: a batch needs several environments"
        )
    if not isinstance(env, str):
        if not callable(env):
            raise UsageError(
                f"{env!r} is not an environment: give an id, 'module:Class', a class, or a function that"
                " makes one"
            )
        return env
    module_name, colon, path = env.partition(":")
    if not colon:
        return registered_id(env)
    if not module_name or not path:
        raise UsageError(
            f"{env!r} is not an environment: write module:Class, for example my_package.my_env:MyEnv"
        )
    module = _import(module_name)
    with guarded(f"the module {module_name!r}", path):
        found: Any = module
        for part in path.split("."):
            found = getattr(found, part, None)
    if callable(found):
        return found
    if path in gymnasium.registry:
        return path
    there = [name for name, value in vars(module).items() if _makes_envs(value, module_name)]
    raise not_in(module, "environment", module_name, path, there)


def _makes_envs(value: Any, module: str) -> bool:
    """An environment class, or a function that is defined in the module."""
    if inspect.isclass(value):
        return issubclass(value, gymnasium.Env) and value is not gymnasium.Env
    return inspect.isfunction(value) and value.__module__ == module


def _import(name: str) -> ModuleType:
    refusal = f"cannot import the module {name!r} of the environment"
    with guarded(f"the module {name!r} of the environment", "its import", refusal):
        return import_users(name)


def registered_id(name: str) -> str:
    """The full id with its version; imports the package that registers it."""
    prefix = next((prefix for prefix in REGISTERED_BY if name.startswith(prefix)), None)
    if prefix is not None and name not in gymnasium.registry:
        _import_registration(prefix)
    if name in gymnasium.registry:
        return name
    with contextlib.suppress(gymnasium.error.Error):
        namespace, bare, version = parse_env_id(name)
        if version is None and (latest := find_highest_version(namespace, bare)) is not None:
            return get_env_id(namespace, bare, latest)
    known = [spec.id for spec in gymnasium.registry.values() if _can_be_made(spec)]
    raise unknown("environment", name, known)


def _import_registration(prefix: str) -> None:
    module, package, extra = REGISTERED_BY[prefix]
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise missing_extra(package, extra) from error


def _not_made(target: str | Callable[..., gymnasium.Env], name: str, error: Exception) -> UsageError:
    """What a user can do about an environment that raised while it was made: most often wrong arguments."""
    if isinstance(error, ImportError | gymnasium.error.DependencyNotInstalled) and isinstance(target, str):
        entry_point = str(gymnasium.registry[target].entry_point)
        for module, (imports, extra) in IMPLEMENTED_WITH.items():
            if entry_point.startswith(module) and importlib.util.find_spec(imports) is None:
                return missing_extra(imports, extra)
    unexpected = re.search(r"keyword argument '(\w+)'", str(error)) if isinstance(error, TypeError) else None
    if unexpected and unexpected[1] == "render_mode":
        is_function = not isinstance(target, str | type)
        return UsageError(
            f"{name} takes no render_mode, so that it cannot draw itself:"
            + (" let the function take render_mode=None and give it on;" if is_function else "")
            + " its __init__ must take render_mode=None and keep it in self.render_mode, metadata must be"
            ' {"render_modes": ["rgb_array"], "render_fps": 30}, and render() must return a picture'
            " [H, W, 3] uint8"
        )
    if unexpected and unexpected[1] in SETTINGS:
        key = unexpected[1]
        return UsageError(
            f"{name} takes no argument {key!r}; it is a setting of the run: --{key.replace('_', '-')} (in"
            f" Python {key}=...) in place of env_kwargs"
        )
    return UsageError(f"the environment {name} could not be made: {describe(error)}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Gymnasium's advice to use newer versions: results are compared by the version that was asked
    for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(?s).*is out of date", category=DeprecationWarning)
        yield
