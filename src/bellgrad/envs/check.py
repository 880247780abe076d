"""What is wrong with my environment? Tries one Gymnasium environment and says in plain words what to fix."""

import contextlib
import inspect
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from bellgrad.core.actions import unusable_bounds
from bellgrad.core.errors import BellgradError, UsageError
from bellgrad.core.masks import KEY, choices, has_mask, nothing_allowed
from bellgrad.envs.arrays import check_action_space, describe, flatten_obs, obs_leaves, short
from bellgrad.envs.gym import gym_spec
from bellgrad.envs.names import EnvLike, env_name, make_single

MAX_STEPS = 1000  # of one episode
MAX_SECONDS = 20.0  # of stepping in all
SLOW = 200.0  # steps per second below which worker processes pay


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: Literal["error", "warning", "ok"]
    what: str
    fix: str = ""


@dataclass(frozen=True)
class EnvReport:
    """Everything that `check_env` found. With an error the environment cannot be trained on; with a warning
    it can."""

    env: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether no error was found."""
        return not self.of("error")

    def of(self, level: str) -> tuple[Finding, ...]:
        """The findings of one level."""
        return tuple(finding for finding in self.findings if finding.level == level)

    def __str__(self) -> str:
        lines = [f"{self.env}: {len(self.of('error'))} errors, {len(self.of('warning'))} warnings"]
        for finding in self.findings:
            lines.append(f"  {finding.level:<7} {finding.what}" + (f"; {finding.fix}" if finding.fix else ""))
        return "\n".join(lines)


class _Step(NamedTuple):
    action: Any
    obs: Any
    reward: Any
    terminated: Any
    truncated: Any


class _Findings:
    """Findings, one of each kind: an environment that errs at every step says so once."""

    def __init__(self) -> None:
        self.by_kind: dict[str, Finding] = {}

    def error(self, kind: str, what: str, fix: str) -> None:
        self.by_kind.setdefault(kind, Finding("error", what, fix))

    def warn(self, kind: str, what: str, fix: str) -> None:
        self.by_kind.setdefault(kind, Finding("warning", what, fix))

    def ok(self, what: str) -> None:
        self.by_kind.setdefault(what, Finding("ok", what))

    @contextlib.contextmanager
    def trying(self, kind: str, what: str, fix: str) -> Iterator[None]:
        """Note an error if the block raises, and go on."""
        try:
            yield
        except Exception as error:
            self.error(kind, f"{what} raised {describe(error)}", fix)


def check_env(
    env: EnvLike, episodes: int = 3, seed: int = 0, env_kwargs: dict[str, Any] | None = None
) -> EnvReport:
    """Try an environment: spaces, reset, steps, seeds, determinism, time limit, speed. Raises nothing,
    whatever it does.

    Args:
        env: an id, `module:Class`, a class, or a function that makes an environment.
        episodes: how many to play with random actions, each of at most `MAX_STEPS` environment steps.
        seed: of the actions and the first episode.
        env_kwargs: arguments of the environment.
    """
    found = _Findings()
    try:
        _check(env, episodes, seed, env_kwargs, found)
    except BellgradError as error:
        found.error("make", str(error), "")
    except Exception as error:
        found.error("check", f"the check could not go on: {describe(error)}", "fix what is named above first")
    order = ("error", "warning", "ok")
    return EnvReport(
        env_name(env), tuple(sorted(found.by_kind.values(), key=lambda finding: order.index(finding.level)))
    )


def _check(
    env: EnvLike, episodes: int, seed: int, env_kwargs: dict[str, Any] | None, found: _Findings
) -> None:
    made = make_single(env, None, env_kwargs)
    try:
        spaces_fit = _check_spaces(made, found)
        _check_reset(made, seed, found)
        if not spaces_fit:
            return
        past = _play(made, episodes, seed, found)
        _check_limit(made, past, found)
        if past and not any(finding.level == "error" for finding in found.by_kind.values()):
            _check_replay(made, "the same", past[0], seed, found)
            again = make_single(env, None, env_kwargs)
            _check_replay(again, "a new", past[-1], seed + len(past) - 1, found)
            again.close()
    finally:
        with found.trying("close", "close()", "release what the environment holds, and accept a second call"):
            made.close()


def _check_spaces(env: gymnasium.Env, found: _Findings) -> bool:
    for name in ("observation_space", "action_space"):
        if not isinstance(getattr(env, name, None), spaces.Space):
            found.error(name, f"{name} is not a gymnasium.Space", f"set self.{name} in __init__")
    if found.by_kind:
        return False
    try:
        obs_leaves(env.observation_space)
    except UsageError as error:
        found.error("observation_space", str(error), "describe the observation by arrays of fixed shape")
    space = env.action_space
    try:
        check_action_space(space, env.observation_space)
    except UsageError as error:
        found.error(
            "action_space",
            str(error),
            "use Discrete, MultiDiscrete or a Box of float32, and a mask of its length",
        )
    wrong = unusable_bounds(space) if isinstance(space, spaces.Box) else None
    if wrong is not None:
        found.error(
            "bounds",
            f"the action space {short(space)} has {wrong}",
            "give each dimension a finite low and high",
        )
    if found.by_kind:
        return False
    found.ok(f"observation space {short(env.observation_space)}")
    found.ok(f"action space {short(space)}")
    return True


def _check_reset(env: gymnasium.Env, seed: int, found: _Findings) -> None:
    parameters = inspect.signature(env.unwrapped.reset).parameters
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for name, level in (("seed", found.error), ("options", found.warn)):
        if name not in parameters and not takes_all:
            level(
                f"reset {name}",
                f"reset() takes no {name}",
                "write: def reset(self, *, seed=None, options=None)",
            )
    if "reset seed" in found.by_kind:
        return
    first = _reset(env, seed, found)
    if first is None:
        return
    before = _copies(env, first[0])
    second = _reset(env, seed, found)
    if second is None:
        return
    after = _copies(env, second[0])
    if not _same(before, after):
        found.warn(
            "seed",
            f"reset(seed={seed}) gave two different observations: runs cannot be repeated, nor resumed"
            " exactly",
            "call super().reset(seed=seed) and draw every random number from self.np_random",
        )


def _reset(env: gymnasium.Env, seed: int, found: _Findings) -> tuple[Any, dict] | None:
    """What `reset` returned, or None and an error noted."""
    with found.trying("reset", f"reset(seed={seed})", "fix reset()"):
        result = env.reset(seed=seed)
        if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict):
            return result
        found.error(
            "reset result",
            f"reset() returned {short(result)}",
            "return the tuple (observation, info dictionary)",
        )
    return None


def _play(env: gymnasium.Env, episodes: int, seed: int, found: _Findings) -> list[list[_Step]]:
    """Play episodes from the seeds `seed`, `seed + 1`, ... Returns what was seen, observations copied."""
    space = env.action_space
    space.seed(seed)
    extremes = _extremes(space)
    past: list[list[_Step]] = []
    steps, seconds = 0, 0.0
    for k in range(episodes):
        first = _reset(env, seed + k, found)
        if first is None:
            return past
        previous = first[0]
        _check_obs(env, previous, "reset()", found)
        trail: list[_Step] = []
        past.append(trail)
        while len(trail) < MAX_STEPS and seconds < MAX_SECONDS:
            allowed = _allowed(env, previous)
            if allowed is not None and nothing_allowed(allowed[None], choices(space))[0]:
                found.error(
                    "mask",
                    f"no action is allowed after {len(trail)} steps of episode {k}",
                    "terminate such an episode",
                )
                break
            action = extremes.pop() if extremes and allowed is None else _sample(space, allowed)
            given = np.array(action)
            started = time.perf_counter()
            try:
                result = env.step(action)
            except Exception as error:
                what = f"step({short(given)}) raised {describe(error)}"
                found.error("step raised", what, "every action must work that no mask forbids")
                break
            steps, seconds = steps + 1, seconds + time.perf_counter() - started
            if not np.array_equal(given, action):
                found.warn(
                    "action", "step() changed the array of its action", "copy the action before changing it"
                )
            step = _check_step(env, given, result, previous, f"step {len(trail) + 1} of episode {k}", found)
            if step is None:
                break
            previous = result[0]
            trail.append(step)
            if step.terminated or step.truncated:
                break
    if seconds > 0.0:
        _note_speed(steps / seconds, found)
    return past


def _extremes(space: spaces.Space) -> list[Any]:
    """The first few categories, or both ends of each dimension."""
    if isinstance(space, spaces.Discrete):
        return [np.int64(space.start + k) for k in range(min(int(space.n), 20))]
    if isinstance(space, spaces.MultiDiscrete):
        return [space.start.copy(), (space.start + space.nvec - 1).astype(space.dtype)]
    return [space.low.copy(), space.high.copy()]


def _allowed(env: gymnasium.Env, obs: Any) -> np.ndarray | None:
    """The mask of the actions that an observation allows, those of all dimensions in one row; None if all
    are."""
    if has_mask(env.observation_space, env.action_space):
        return np.asarray(obs[KEY])
    legal = gym_spec(env).legal
    return None if legal is None else legal[obs]


def _sample(space: spaces.Space, allowed: np.ndarray | None) -> Any:
    """A random action that is allowed."""
    if allowed is None:
        return space.sample()
    parts = np.split(allowed, np.cumsum(choices(space))[:-1])
    chosen = [space.np_random.choice(np.flatnonzero(part)) for part in parts]
    return (np.reshape(chosen, space.shape) + space.start).astype(space.dtype)


def _check_step(
    env: gymnasium.Env, action: Any, result: Any, previous: Any, where: str, found: _Findings
) -> _Step | None:
    """The step with its observation copied, or None if its parts cannot be told apart."""
    if not isinstance(result, tuple) or len(result) != 5:
        got = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
        fix = (
            "return (observation, reward, terminated, truncated, info): terminated by the task, truncated by"
            " a time limit"
        )
        found.error("step result", f"step() returned {got} at {where}", fix)
        return None
    obs, reward, terminated, truncated, info = result
    _check_obs(env, obs, where, found)
    old, new = _leaf_values(env, previous), _leaf_values(env, obs)
    arrays = [
        (a, b)
        for a, b in zip(old, new, strict=False)
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
    ]
    if any(np.shares_memory(a, b) for a, b in arrays):
        fix = "return a copy; Bellgrad copies too, but other libraries may not"
        found.warn("shared", "each observation overwrites the one before it, in the same memory", fix)
    _check_reward(reward, where, found)
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(flag, bool | np.bool_):
            what = f"{name} is {flag!r}, a {type(flag).__name__}, at {where}"
            found.warn(name, what, f"return bool({name})")
            if np.ndim(flag) != 0:
                found.by_kind.pop(name)
                found.error(name, what, f"return one bool as {name}")
                return None
    if not isinstance(info, dict):
        found.warn("info", f"info is a {type(info).__name__}", "return a dictionary")
    return _Step(action, _copies(env, obs), reward, bool(terminated), bool(truncated))


def _check_reward(reward: Any, where: str, found: _Findings) -> None:
    fix = "return one finite float"
    if isinstance(reward, np.ndarray) and reward.ndim > 0:
        found.error("reward", f"the reward is an array of shape {reward.shape} at {where}", fix)
        return
    try:
        finite = math.isfinite(float(reward))
    except (TypeError, ValueError):
        found.error("reward", f"the reward is {reward!r} at {where}", fix)
        return
    if not finite:
        found.error("reward", f"the reward is {reward} at {where}", fix)


def _check_obs(env: gymnasium.Env, obs: Any, where: str, found: _Findings) -> None:
    """Everything in which an observation departs from its space; what training would refuse is an error."""
    space = env.observation_space
    try:
        values = flatten_obs(space, obs)
    except ValueError as error:
        found.error("structure", f"{where} {error}", "let observation_space describe what is returned")
        return
    for leaf, value in zip(obs_leaves(space), values, strict=True):
        try:
            leaf.write(np.zeros((1, *leaf.shape), leaf.dtype), 0, value)
        except ValueError as error:
            found.error(
                f"value {leaf.path}", f"{where} {error}", "let observation_space describe what is returned"
            )
            continue
        array = np.asarray(value)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            what = f"{where} returned the {leaf.path} {short(value)}"
            found.error(f"finite {leaf.path}", what, "NaN and infinity stop a training run")
            continue
        if array.dtype != leaf.source and not isinstance(leaf.space, spaces.Discrete):
            what = f"the {leaf.path} is {array.dtype}, its space says {leaf.source}"
            found.warn(f"dtype {leaf.path}", what, f"return it .astype(np.{leaf.source})")
        if (
            isinstance(leaf.space, spaces.Box)
            and not ((array >= leaf.space.low) & (array <= leaf.space.high)).all()
        ):
            what = f"{where} returned the {leaf.path} {short(value)}, beyond the bounds of its space"
            found.warn(f"bounds {leaf.path}", what, "widen low and high, or clip")


def _check_limit(env: gymnasium.Env, past: list[list[_Step]], found: _Findings) -> None:
    limit = gym_spec(env).max_episode_steps
    ended = [trail for trail in past if trail and (trail[-1].terminated or trail[-1].truncated)]
    if ended:
        lengths = ", ".join(str(len(trail)) for trail in ended)
        found.ok(
            f"{len(ended)} of {len(past)} episodes ended, after {lengths} steps; time limit {limit or 'none'}"
        )
    elif limit is None and any(past):
        what = f"it has no time limit, and no episode ended within {max(map(len, past))} random steps"
        found.warn("limit", what, "train with max_episode_steps, or register the environment with it")


def _check_replay(env: gymnasium.Env, which: str, trail: list[_Step], seed: int, found: _Findings) -> None:
    """Repeat an episode's actions from its seed."""
    with found.trying(
        "replay", "a second episode with the same actions", "reset() must undo all that an episode did"
    ):
        env.reset(seed=seed)
        for k, step in enumerate(trail):
            obs, reward, terminated, truncated, _ = env.step(step.action[()])
            same = _same(step.obs, _copies(env, obs))
            if not same or (reward, bool(terminated), bool(truncated)) != step[2:]:
                what = f"the same seed and actions gave another step {k + 1} in {which} environment"
                fix = (
                    "draw every random number from self.np_random and let reset() undo all that an"
                    " episode did"
                )
                found.warn("determinism", f"{what}: runs cannot be repeated, nor resumed exactly", fix)
                return
        found.ok(f"the same seed and actions give the same episode in {which} environment")


def _note_speed(rate: float, found: _Findings) -> None:
    if rate < SLOW:
        found.warn(
            "speed",
            f"{rate:.0f} steps per second",
            "train with several environments in worker processes (backend subprocess)",
        )
    else:
        found.ok(f"{rate:,.0f} steps per second")


def _leaf_values(env: gymnasium.Env, obs: Any) -> list[Any]:
    """The observation's parts, or the observation itself if it does not fit its space."""
    try:
        return flatten_obs(env.observation_space, obs)
    except (ValueError, AttributeError):
        return [obs]


def _copies(env: gymnasium.Env, obs: Any) -> list[np.ndarray]:
    copies = []
    for value in _leaf_values(env, obs):
        try:
            copies.append(np.array(value))
        except ValueError:  # ragged nested lists
            copies.append(np.array(repr(value)))
    return copies


def _same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
