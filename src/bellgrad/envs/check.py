"""What is wrong with my environment? Tries one Gymnasium environment and says in plain words what to fix;
then steps a batch as training does, so that training trips over nothing that was not said."""

import contextlib
import inspect
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from bellgrad.core.actions import unusable_bounds
from bellgrad.core.errors import BellgradError, UsageError
from bellgrad.core.guard import describe, what_happened
from bellgrad.core.masks import KEY, choices, has_mask, nothing_allowed
from bellgrad.core.protocols import BatchedEnv
from bellgrad.core.tree import Tree
from bellgrad.envs.arrays import (
    as_array,
    as_flag,
    as_reward,
    check_action_space,
    flatten_obs,
    obs_leaves,
    short,
)
from bellgrad.envs.given import EpisodeLimit, own_limit
from bellgrad.envs.gym import gym_spec
from bellgrad.envs.make import make_env
from bellgrad.envs.names import EnvLike, env_name, make_single
from bellgrad.envs.seeded import LARGEST_REWARD
from bellgrad.nets.encoder import Encoder

MAX_STEPS = 1000  # of one episode
MAX_SECONDS = 20.0  # of stepping in all
REHEARSED_STEPS = 50  # of the batch
REHEARSED_SECONDS = 5.0
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
        except BaseException as error:
            self.error(kind, _failed(what, error), fix)

    @property
    def failed(self) -> bool:
        """Whether an error was found."""
        return any(finding.level == "error" for finding in self.by_kind.values())


def _failed(what: str, error: BaseException) -> str:
    if isinstance(error, Exception):
        return f"{what} raised {describe(error)}"
    return f"the environment {what_happened(error, what)}"


# Makes a batch of so many environments, with other options of `make_env` too.
MakeBatch = Callable[..., BatchedEnv]
# Gives for a batch what chooses its actions, given its observation.
Policy = Callable[[BatchedEnv], Callable[[Tree], Tensor]]


def check_env(
    env: EnvLike,
    episodes: int = 3,
    seed: int = 0,
    env_kwargs: dict[str, Any] | None = None,
    *,
    max_episode_steps: int | None = None,
    num_envs: int = 2,
    evaluates: bool = True,
    renders: bool = False,
    make_batch: MakeBatch | None = None,
    policy: Policy | None = None,
) -> EnvReport:
    """Try an environment: spaces, reset, steps, seeds, determinism, time limit, speed; then a batch. Raises
    nothing, whatever it does.

    Args:
        env: an id, `module:Class`, a class, or a function that makes an environment.
        episodes: how many to play with random actions, each of at most `MAX_STEPS` environment steps.
        seed: of the actions and the first episode.
        env_kwargs: arguments of the environment.
        max_episode_steps: a time limit in place of the environment's own.
        num_envs: in the batch.
        evaluates: whether another environment is opened beside the batch, as an evaluation does.
        renders: whether the environment is to draw itself.
        make_batch: makes the batch as training does; None is `make_env` with the arguments above.
        policy: chooses actions; None is at random.
    """
    found = _Findings()
    if make_batch is None:
        make_batch = partial(make_env, env, max_episode_steps=max_episode_steps, env_kwargs=env_kwargs)
    try:
        _check(partial(make_single, env, max_episode_steps, env_kwargs), episodes, seed, found)
        if not found.failed:
            _rehearse(make_batch, num_envs, seed, evaluates, renders, policy or _at_random, found)
    except BellgradError as error:
        found.error("make", str(error), "")
    except Exception as error:
        found.error("check", f"the check could not go on: {describe(error)}", "fix what is named above first")
    order = ("error", "warning", "ok")
    return EnvReport(
        env_name(env), tuple(sorted(found.by_kind.values(), key=lambda finding: order.index(finding.level)))
    )


def _check(make: Callable[[], gymnasium.Env], episodes: int, seed: int, found: _Findings) -> None:
    made, past = make(), []
    declared = made.observation_space, made.action_space
    try:
        spaces_fit = _check_spaces(made, found)
        _check_reset(made, seed, found)
        if spaces_fit:
            past = _play(made, episodes, seed, found)
            _check_limit(made, past, found)
        for name, before in zip(("observation_space", "action_space"), declared, strict=True):
            if getattr(made, name) != before:
                what = f"its {name} was {short(before)} and is now {short(getattr(made, name))}"
                found.error(f"{name} changed", what, "set it in __init__ and keep it: training does")
        if past and not found.failed:
            _check_replay(made, "the same", past[0], seed, found)
    finally:
        with found.trying("close", "close()", "release what the environment holds, and accept a second call"):
            made.close()
    if past and not found.failed:
        again = make()
        _check_replay(again, "a new", past[-1], seed + len(past) - 1, found)
        with found.trying("close", "close()", "release what the environment holds"):
            again.close()


def _rehearse(
    make_batch: MakeBatch,
    num_envs: int,
    seed: int,
    evaluates: bool,
    renders: bool,
    policy: Policy,
    found: _Findings,
) -> None:
    """What a run does, for a few steps: the batch that the learner sees, another one beside it as in an
    evaluation, a second reset, and a picture.

    Raises:
        BellgradError: what would stop the run.
    """
    with contextlib.closing(make_batch(num_envs=num_envs)) as batch:
        _act(batch, policy, seed)
        if evaluates:
            with contextlib.closing(make_batch(num_envs=1)) as other:
                _act(other, policy, seed + 1, steps=2)
        batch.reset(seed)
    if renders:
        drawing = {"backend": "gymnasium", "render_mode": "rgb_array"}
        with contextlib.closing(make_batch(num_envs=1, **drawing)) as drawn:
            drawn.reset(seed)
            picture = drawn.render()[0]
            found.ok(f"it draws itself, {list(picture.shape)} {picture.dtype}")
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
                what = f"render() returned {picture.dtype} {list(picture.shape)}"
                found.error("picture", what, "return an array [H, W, 3] uint8")
    beside = ", and another one beside as in evaluations" if evaluates else ""
    found.ok(f"a batch of {num_envs} as in training{beside}")


def _act(batch: BatchedEnv, policy: Policy, seed: int, steps: int = REHEARSED_STEPS) -> None:
    """Step a batch until its first environment ended two episodes, or for some steps."""
    obs, choose, ended = batch.reset(seed), policy(batch), 0
    since = time.perf_counter()
    while steps and ended < 2 and time.perf_counter() - since < REHEARSED_SECONDS:
        step = batch.step(choose(obs))
        obs, steps, ended = step.obs, steps - 1, ended + int(step.terminated[0] | step.truncated[0])


def _at_random(batch: BatchedEnv) -> Callable[[Tree], Tensor]:
    """Actions as a learner gives them, uniform among those that are allowed."""
    generator = torch.Generator().manual_seed(0)
    spec, count = batch.spec, batch.num_envs
    sizes = choices(spec.action_space)
    masked = has_mask(spec.observation_space, spec.action_space)

    def choose(obs: Tree) -> Tensor:
        if sizes is None:
            d = math.prod(spec.action_space.shape)
            return (2 * torch.rand(count, d, generator=generator) - 1).to(batch.device)
        weight = torch.ones(count, sum(sizes))
        if masked:
            weight = (obs[KEY].cpu() != 0).float()
        elif spec.legal is not None:
            weight = torch.as_tensor(spec.legal)[obs.cpu()].float()
        parts = [torch.multinomial(part, 1, generator=generator) for part in weight.split(sizes, -1)]
        action = torch.cat(parts, -1).to(batch.device)
        return action[:, 0] if isinstance(spec.action_space, spaces.Discrete) else action

    return choose


def _check_spaces(env: gymnasium.Env, found: _Findings) -> bool:
    try:
        obs_leaves(env.observation_space)
        Encoder(env.observation_space)
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
            except BaseException as error:
                what = _failed(f"step({short(given)})", error)
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
            what = f"{name} is {short(flag)}, a {type(flag).__name__}, at {where}"
            try:
                as_flag(flag)
            except ValueError:
                found.error(name, what, f"return one bool as {name}")
                return None
            found.warn(name, what, f"return bool({name})")
    if not isinstance(info, dict):
        found.warn("info", f"info is a {type(info).__name__}", "return a dictionary")
    return _Step(action, _copies(env, obs), reward, bool(terminated), bool(truncated))


def _check_reward(reward: Any, where: str, found: _Findings) -> None:
    fix = "return one finite float"
    try:
        value = as_reward(reward)
    except ValueError:
        shape = f"an array of shape {reward.shape}" if isinstance(reward, np.ndarray) else short(reward)
        found.error("reward", f"the reward is {shape} at {where}", fix)
        return
    if not abs(value) <= LARGEST_REWARD:
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
        seen = np.zeros((1, *leaf.shape), leaf.dtype)  # as the learner sees it
        try:
            with np.errstate(over="ignore"):
                leaf.write(seen, 0, value)
        except ValueError as error:
            found.error(
                f"value {leaf.path}", f"{where} {error}", "let observation_space describe what is returned"
            )
            continue
        array = np.asarray(value)
        if seen.dtype.kind == "f" and not np.isfinite(seen).all():
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
    limit = own_limit(env)
    if isinstance(env, EpisodeLimit):
        for trail in past:
            if trail and trail[-1].truncated and not trail[-1].terminated and len(trail) < limit:
                found.warn("own limit", f"it {env.too_short(len(trail))}", "")
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
            copies.append(as_array(value).copy())
        except ValueError:
            copies.append(np.array(short(value)))
    return copies


def _same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
