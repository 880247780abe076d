"""What is asked of an environment that a user gives, wherever it comes from: its spaces, its wrappers, its
time limit."""

import gc
import math
from collections.abc import Iterator
from typing import Any

import gymnasium
from gymnasium import spaces
from gymnasium.wrappers import NormalizeObservation, NormalizeReward, TimeLimit

from bellgrad.core.errors import UsageError
from bellgrad.core.guard import guarded
from bellgrad.core.output import warn

# Wrappers of Gymnasium's that remember over episodes, what they change, and what to use in their place.
# Each environment has statistics of its own, which no checkpoint holds.
REMEMBERING = {
    NormalizeReward: ("rewards", "--normalize-reward", "normalize_reward=True"),
    NormalizeObservation: ("observations", "--normalize-obs", "normalize_obs=True"),
}
_warned: set[str] = set()


def layers(env: gymnasium.Env) -> Iterator[gymnasium.Env]:
    """The wrappers of an environment from the outside, and the environment inside."""
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env
    yield env


def own_limit(env: gymnasium.Env) -> int | None:
    """The shortest `TimeLimit` around an environment, in environment steps; None if there is none."""
    limits = [layer._max_episode_steps for layer in layers(env) if isinstance(layer, TimeLimit)]
    least = min(limits, default=math.inf)
    return None if least == math.inf else int(least)


def checked(env: Any, name: str, max_episode_steps: int | None = None) -> gymnasium.Env:
    """An environment that can be trained in, as far as can be told before its first reset.

    Args:
        env: what the user's code gave.
        name: what it is called.
        max_episode_steps: a time limit in place of all that it has; None leaves them.

    Raises:
        UsageError: it is not an environment, its spaces are not Gymnasium's, or a wrapper inside it
            remembers over episodes.
        EnvironmentFault: its own code fails while it is looked at.
    """
    if not isinstance(env, gymnasium.Env):
        hint = _instead(env)
        raise UsageError(f"{name} made a {type(env).__name__}, not a gymnasium.Env{hint}")
    for attribute in ("observation_space", "action_space"):
        with guarded(f"the environment {name}", attribute):
            space = getattr(env, attribute, None)
        if not isinstance(space, spaces.Space):
            found = "missing" if space is None else f"a {type(space).__module__}.{type(space).__name__}"
            raise UsageError(
                f"{name}: its {attribute} is not a gymnasium.Space but {found}; set self.{attribute} in"
                " __init__, for example to a gymnasium.spaces.Box"
            )
    with guarded(f"the environment {name}", "what is inside it"):
        inside = _inside(env)
    for layer in inside:
        for kind, (what, flag, option) in REMEMBERING.items():
            if isinstance(layer, kind) and layer.update_running_mean:
                raise UsageError(
                    f"{name}: Gymnasium's {kind.__name__} inside the environment changes its {what} by"
                    " statistics that no checkpoint holds and no evaluation shares; leave it out and train"
                    f" with {flag} (in Python {option})"
                )
    return env if max_episode_steps is None else _limited(env, name, max_episode_steps)


def _inside(env: gymnasium.Env) -> list[gymnasium.Env]:
    """An environment and all that it keeps in its attributes, as wrappers do, and theirs.

    `vars` would read every later attribute of these objects slower: Python 3.11 and 3.12 keep attributes in
    place until somebody asks for their dictionary.
    """
    found: list[gymnasium.Env] = []
    waiting = [env, env.unwrapped]
    while waiting:
        one = waiting.pop()
        if all(one is not other for other in found):
            found.append(one)
            held = gc.get_referents(one)
            held += [value for part in held if type(part) is dict for value in part.values()]
            waiting += [value for value in held if isinstance(value, gymnasium.Env)]
    return found


def _instead(made: Any) -> str:
    if isinstance(made, gymnasium.vector.VectorEnv):
        return ": give what makes one environment; num_envs says how many step together"
    bases = {base.__module__.partition(".")[0] for base in type(made).__mro__}
    return ": it is of the old package gym; derive it from gymnasium.Env" if "gym" in bases else ""


def _limited(env: gymnasium.Env, name: str, max_episode_steps: int) -> gymnasium.Env:
    for layer in layers(env):
        if isinstance(layer, TimeLimit):
            layer._max_episode_steps = math.inf
    return EpisodeLimit(env, max_episode_steps, name)


class EpisodeLimit(TimeLimit):
    """The time limit that a user asked for: of the steps that the learner takes, outside of all wrappers.

    It says once if the environment truncates an episode earlier by itself. An environment whose `reset` takes
    no options can be used.

    Args:
        env: without another limit.
        max_episode_steps: environment steps, 1 or more.
        name: of the environment.
    """

    def __init__(self, env: gymnasium.Env, max_episode_steps: int, name: str = ""):
        super().__init__(env, max_episode_steps)
        self._name = name

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Start an episode."""
        self._elapsed_steps = 0
        return self.env.reset(seed=seed, **({} if options is None else {"options": options}))

    def step(self, action: Any) -> Any:
        """Act; truncates at the limit. What is not a step's result is left to the caller's check."""
        result = self.env.step(action)
        self._elapsed_steps += 1
        if type(result) is not tuple or len(result) != 5:
            return result
        if self._elapsed_steps >= self._max_episode_steps:
            return (*result[:3], True, result[4])
        if result[3] and self._name not in _warned:
            _warned.add(self._name)
            warn(f"{self._name} {self.too_short(self._elapsed_steps)}")
        return result

    def too_short(self, steps: int) -> str:
        """What is to be said of an episode that the environment truncated by itself after some steps."""
        return (
            f"truncated an episode by itself after {steps} steps: max_episode_steps ="
            f" {self._max_episode_steps} cannot make its episodes longer; change the limit inside it"
        )
