"""What is wrong with my environment? Tries one Gymnasium environment and says in plain words what to mend."""

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

from bellgrad.core.errors import BellgradError, UsageError
from bellgrad.core.masks import KEY, choices, has_mask, nothing_allowed
from bellgrad.envs.arrays import check_action_space, describe, flatten_obs, obs_leaves, short
from bellgrad.envs.gym import gym_spec
from bellgrad.envs.make import EnvLike, env_name, make_single

MAX_STEPS = 1000  # of one episode
MAX_SECONDS = 20.0  # of stepping in all
SLOW = 200.0  # steps per second below which worker processes pay


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: Literal["error", "warning", "ok"]
    what: str
    mend: str = ""


@dataclass(frozen=True)
class EnvReport:
    """Everything that `check_env` found. With an error the environment cannot be trained on; with a warning
    it can."""

    env: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.of("error")

    def of(self, level: str) -> tuple[Finding, ...]:
        """The findings of one level."""
        return tuple(finding for finding in self.findings if finding.level == level)

    def __str__(self) -> str:
        lines = [f"{self.env}: {len(self.of('error'))} errors, {len(self.of('warning'))} warnings"]
        for finding in self.findings:
            lines.append(
                f"  {finding.level:<7} {finding.what}" + (f"; {finding.mend}" if finding.mend else "")
            )
        return "\n".join(lines)


class _Step(NamedTuple):
    action: Any
    obs: Any
    reward: Any
    terminated: Any
    truncated: Any


class _Notes:
    """Findings, one of each kind: an environment that errs at every step says so once."""

    def __init__(self) -> None:
        self.findings: dict[str, Finding] = {}

    def error(self, kind: str, what: str, mend: str) -> None:
        self.findings.setdefault(kind, Finding("error", what, mend))

    def warn(self, kind: str, what: str, mend: str) -> None:
        self.findings.setdefault(kind, Finding("warning", what, mend))

    def ok(self, what: str) -> None:
        self.findings.setdefault(what, Finding("ok", what))

    @contextlib.contextmanager
    def trying(self, kind: str, what: str, mend: str) -> Iterator[None]:
        """Note an error where the block raises, and go on."""
        try:
            yield
        except Exception as error:
            self.error(kind, f"{what} raised {describe(error)}", mend)


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
    notes = _Notes()
    try:
        _check(env, episodes, seed, env_kwargs, notes)
    except BellgradError as error:
        notes.error("make", str(error), "")
    except Exception as error:
        notes.error(
            "check", f"the check could not go on: {describe(error)}", "mend what is named above first"
        )
    order = ("error", "warning", "ok")
    return EnvReport(
        env_name(env), tuple(sorted(notes.findings.values(), key=lambda finding: order.index(finding.level)))
    )


def _check(env: EnvLike, episodes: int, seed: int, env_kwargs: dict[str, Any] | None, notes: _Notes) -> None:
    made = make_single(env, None, env_kwargs)
    try:
        spaces_fit = _check_spaces(made, notes)
        _check_reset(made, seed, notes)
        if not spaces_fit:
            return
        past = _play(made, episodes, seed, notes)
        _check_limit(made, past, notes)
        if past and not any(finding.level == "error" for finding in notes.findings.values()):
            _check_replay(made, "the same", past[0], seed, notes)
            again = make_single(env, None, env_kwargs)
            _check_replay(again, "a new", past[-1], seed + len(past) - 1, notes)
            again.close()
    finally:
        with notes.trying("close", "close()", "release what the environment holds, and accept a second call"):
            made.close()


def _check_spaces(env: gymnasium.Env, notes: _Notes) -> bool:
    for name in ("observation_space", "action_space"):
        if not isinstance(getattr(env, name, None), spaces.Space):
            notes.error(name, f"{name} is no gymnasium.Space", f"set self.{name} in __init__")
    if notes.findings:
        return False
    try:
        obs_leaves(env.observation_space)
    except UsageError as error:
        notes.error("observation_space", str(error), "describe the observation by arrays of fixed shape")
    space = env.action_space
    try:
        check_action_space(space, env.observation_space)
    except UsageError as error:
        notes.error(
            "action_space",
            str(error),
            "use Discrete, MultiDiscrete or a Box of float32, and a mask of its length",
        )
    if isinstance(space, spaces.Box) and not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        notes.error(
            "bounds",
            f"the action space {short(space)} has infinite bounds",
            "give each dimension a finite low and high",
        )
    if notes.findings:
        return False
    notes.ok(f"observation space {short(env.observation_space)}")
    notes.ok(f"action space {short(space)}")
    return True


def _check_reset(env: gymnasium.Env, seed: int, notes: _Notes) -> None:
    parameters = inspect.signature(env.unwrapped.reset).parameters
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for name, level in (("seed", notes.error), ("options", notes.warn)):
        if name not in parameters and not takes_all:
            level(
                f"reset {name}",
                f"reset() takes no {name}",
                "write: def reset(self, *, seed=None, options=None)",
            )
    if "reset seed" in notes.findings:
        return
    first = _reset(env, seed, notes)
    if first is None:
        return
    before = _copies(env, first[0])
    second = _reset(env, seed, notes)
    if second is None:
        return
    after = _copies(env, second[0])
    if not _same(before, after):
        notes.warn(
            "seed",
            f"reset(seed={seed}) gave two different observations: runs cannot be repeated, nor resumed"
            " exactly",
            "call super().reset(seed=seed) and draw every random number from self.np_random",
        )


def _reset(env: gymnasium.Env, seed: int, notes: _Notes) -> tuple[Any, dict] | None:
    """What `reset` returned, or None and an error noted."""
    with notes.trying("reset", f"reset(seed={seed})", "mend reset()"):
        result = env.reset(seed=seed)
        if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict):
            return result
        notes.error(
            "reset result",
            f"reset() returned {short(result)}",
            "return the tuple (observation, info dictionary)",
        )
    return None


def _play(env: gymnasium.Env, episodes: int, seed: int, notes: _Notes) -> list[list[_Step]]:
    """Play episodes from the seeds `seed`, `seed + 1`, ... Returns what was seen, observations copied."""
    space = env.action_space
    space.seed(seed)
    extremes = _extremes(space)
    past: list[list[_Step]] = []
    steps, seconds = 0, 0.0
    for k in range(episodes):
        first = _reset(env, seed + k, notes)
        if first is None:
            return past
        previous = first[0]
        _check_obs(env, previous, "reset()", notes)
        trail: list[_Step] = []
        past.append(trail)
        while len(trail) < MAX_STEPS and seconds < MAX_SECONDS:
            allowed = _allowed(env, previous)
            if allowed is not None and nothing_allowed(allowed[None], choices(space))[0]:
                notes.error(
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
                notes.error("step raised", what, "every action must work that no mask forbids")
                break
            steps, seconds = steps + 1, seconds + time.perf_counter() - started
            if not np.array_equal(given, action):
                notes.warn(
                    "action", "step() changed the array of its action", "copy the action before changing it"
                )
            step = _check_step(env, given, result, previous, f"step {len(trail) + 1} of episode {k}", notes)
            if step is None:
                break
            previous = result[0]
            trail.append(step)
            if step.terminated or step.truncated:
                break
    if seconds > 0.0:
        _note_speed(steps / seconds, notes)
    return past


def _extremes(space: spaces.Space) -> list[Any]:
    """The first few categories, or both ends of each dimension."""
    if isinstance(space, spaces.Discrete):
        return [np.int64(space.start + k) for k in range(min(int(space.n), 20))]
    if isinstance(space, spaces.MultiDiscrete):
        return [space.start.copy(), (space.start + space.nvec - 1).astype(space.dtype)]
    return [space.low.copy(), space.high.copy()]


def _allowed(env: gymnasium.Env, obs: Any) -> np.ndarray | None:
    """The mask of the actions that an observation allows, those of all dimensions in one row; None where all
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
    env: gymnasium.Env, action: Any, result: Any, previous: Any, where: str, notes: _Notes
) -> _Step | None:
    """The step with its observation copied, or None where it cannot be told apart."""
    if not isinstance(result, tuple) or len(result) != 5:
        got = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
        mend = (
            "return (observation, reward, terminated, truncated, info): terminated by the task, truncated by"
            " a time limit"
        )
        notes.error("step result", f"step() returned {got} at {where}", mend)
        return None
    obs, reward, terminated, truncated, info = result
    _check_obs(env, obs, where, notes)
    old, new = _leaf_values(env, previous), _leaf_values(env, obs)
    arrays = [
        (a, b)
        for a, b in zip(old, new, strict=False)
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
    ]
    if any(np.shares_memory(a, b) for a, b in arrays):
        mend = "return a copy; Bellgrad copies too, but other libraries may not"
        notes.warn("shared", "each observation is written over the one before it, in the same memory", mend)
    _check_reward(reward, where, notes)
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(flag, bool | np.bool_):
            what = f"{name} is {flag!r}, a {type(flag).__name__}, at {where}"
            notes.warn(name, what, f"return bool({name})")
            if np.ndim(flag) != 0:
                notes.findings.pop(name)
                notes.error(name, what, f"return one bool as {name}")
                return None
    if not isinstance(info, dict):
        notes.warn("info", f"info is a {type(info).__name__}", "return a dictionary")
    return _Step(action, _copies(env, obs), reward, bool(terminated), bool(truncated))


def _check_reward(reward: Any, where: str, notes: _Notes) -> None:
    mend = "return one finite float"
    if isinstance(reward, np.ndarray) and reward.ndim > 0:
        notes.error("reward", f"the reward is an array of shape {reward.shape} at {where}", mend)
        return
    try:
        finite = math.isfinite(float(reward))
    except (TypeError, ValueError):
        notes.error("reward", f"the reward is {reward!r} at {where}", mend)
        return
    if not finite:
        notes.error("reward", f"the reward is {reward} at {where}", mend)


def _check_obs(env: gymnasium.Env, obs: Any, where: str, notes: _Notes) -> None:
    """Everything in which an observation departs from its space; what training would refuse is an error."""
    space = env.observation_space
    try:
        values = flatten_obs(space, obs)
    except ValueError as error:
        notes.error("structure", f"{where} {error}", "let observation_space describe what is returned")
        return
    for leaf, value in zip(obs_leaves(space), values, strict=True):
        try:
            leaf.write(np.zeros((1, *leaf.shape), leaf.dtype), 0, value)
        except ValueError as error:
            notes.error(
                f"value {leaf.path}", f"{where} {error}", "let observation_space describe what is returned"
            )
            continue
        array = np.asarray(value)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            what = f"{where} returned the {leaf.path} {short(value)}"
            notes.error(f"finite {leaf.path}", what, "NaN and infinity stop a training run")
            continue
        if array.dtype != leaf.source and not isinstance(leaf.space, spaces.Discrete):
            what = f"the {leaf.path} is {array.dtype}, its space says {leaf.source}"
            notes.warn(f"dtype {leaf.path}", what, f"return it .astype(np.{leaf.source})")
        if (
            isinstance(leaf.space, spaces.Box)
            and not ((array >= leaf.space.low) & (array <= leaf.space.high)).all()
        ):
            what = f"{where} returned the {leaf.path} {short(value)}, beyond the bounds of its space"
            notes.warn(f"bounds {leaf.path}", what, "widen low and high, or clip")


def _check_limit(env: gymnasium.Env, past: list[list[_Step]], notes: _Notes) -> None:
    limit = gym_spec(env).max_episode_steps
    ended = [trail for trail in past if trail and (trail[-1].terminated or trail[-1].truncated)]
    if ended:
        lengths = ", ".join(str(len(trail)) for trail in ended)
        notes.ok(
            f"{len(ended)} of {len(past)} episodes ended, after {lengths} steps; time limit {limit or 'none'}"
        )
    elif limit is None and any(past):
        what = f"there is no time limit, and no episode ended within {max(map(len, past))} random steps"
        notes.warn("limit", what, "train with max_episode_steps, or register the environment with it")


def _check_replay(env: gymnasium.Env, which: str, trail: list[_Step], seed: int, notes: _Notes) -> None:
    """Repeat an episode's actions from its seed."""
    with notes.trying(
        "replay", "a second episode with the same actions", "reset() must undo all that an episode did"
    ):
        env.reset(seed=seed)
        for k, step in enumerate(trail):
            obs, reward, terminated, truncated, _ = env.step(step.action[()])
            same = _same(step.obs, _copies(env, obs))
            if not same or (reward, bool(terminated), bool(truncated)) != step[2:]:
                what = f"the same seed and actions gave another step {k + 1} in {which} environment"
                mend = (
                    "draw every random number from self.np_random and let reset() undo all that an"
                    " episode did"
                )
                notes.warn("determinism", f"{what}: runs cannot be repeated, nor resumed exactly", mend)
                return
        notes.ok(f"the same seed and actions give the same episode in {which} environment")


def _note_speed(rate: float, notes: _Notes) -> None:
    if rate < SLOW:
        notes.warn(
            "speed",
            f"{rate:.0f} steps per second",
            "train with several environments in worker processes (backend subprocess)",
        )
    else:
        notes.ok(f"{rate:,.0f} steps per second")


def _leaf_values(env: gymnasium.Env, obs: Any) -> list[Any]:
    """The observation's parts, or the observation itself where it does not fit its space."""
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
