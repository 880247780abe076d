"""Sampling a known MDP for a tabular learner: one loop, compiled or plain, that gives the same bits either
way."""

import hashlib
import inspect
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
from numba import njit, typeof
from numba.core.caching import FunctionCache
from numba.core.dispatcher import Dispatcher

from bellgrad.mdp.model import FiniteMDP
from bellgrad.tabular.common import OUTGREW, draw, inlined

LOOP_DRAWS = 2  # uniform numbers that the loop itself takes at most in a step: a first state and an outcome


class World(NamedTuple):
    """A `FiniteMDP` as the loop reads it."""

    offset: np.ndarray  # [S*A + 1]
    probability: np.ndarray  # [N] float64
    next_state: np.ndarray  # [N]
    reward: np.ndarray  # [N] float64
    terminated: np.ndarray  # [N] bool
    start: np.ndarray  # [S] float64, cumulated
    num_actions: int
    limit: int  # environment steps after which an episode is truncated

    @classmethod
    def of(cls, mdp: FiniteMDP, limit: int | None, exploring_starts: bool) -> "World":
        """The world of an MDP; `exploring_starts` makes every state equally likely as the first."""
        start = np.full(mdp.num_states, 1 / mdp.num_states) if exploring_starts else mdp.initial
        outcomes = (
            mdp.offset,
            mdp.probability,
            mdp.next_state,
            mdp.reward,
            np.ascontiguousarray(mdp.terminated),
        )
        return cls(*outcomes, np.cumsum(start), mdp.num_actions, limit or np.iinfo(np.int64).max)


class Place(NamedTuple):
    """Where the episode under way stands; changed in place."""

    obs: np.ndarray  # [] int64
    action: (
        np.ndarray
    )  # [] int64, what is done next; -1 if no episode is under way, OUTGREW if the learner is out of room
    length: np.ndarray  # [] int64, environment steps
    return_: np.ndarray  # [] float64


@inlined
def first_state(world, uniform):
    """The state that cumulated chances put at a uniform number."""
    return min(np.searchsorted(world.start, uniform, side="right"), len(world.start) - 1)


@inlined
def outcome(world, obs, action, uniform):
    """The first outcome, in their order, whose cumulated chance is above a uniform number: Gymnasium's own
    rule."""
    pair = obs * world.num_actions + action
    last, total = world.offset[pair + 1] - 1, 0.0
    for k in range(world.offset[pair], last):
        total += world.probability[k]
        if uniform < total:
            return k
    return last


def make_loop(begin: Callable[..., int], learn: Callable[..., int]) -> Callable[..., tuple[int, int]]:
    """The sampling loop around a learner's two functions, still plain Python.

    Returns:
        A function `(config, table, world, place, noise, steps, draws, returns, lengths) -> (steps taken,
        episodes ended)`. It stops early when fewer uniform numbers are left than `draws`, what one step may
        take, or the learner is out of room; `returns` and `lengths` are filled.
    """

    def loop(config, table, world, place, noise, steps, draws, returns, lengths):
        obs, action, length, return_ = place.obs[()], place.action[()], place.length[()], place.return_[()]
        taken = ended = 0
        while taken < steps and noise.taken[0] + draws <= len(noise.uniform):
            if action < 0:
                obs, length, return_ = first_state(world, draw(noise)), 0, 0.0
                action = begin(config, table, obs, noise)
            k = outcome(world, obs, action, draw(noise))
            reward, next_obs, terminated = world.reward[k], world.next_state[k], world.terminated[k]
            taken, length, return_ = taken + 1, length + 1, return_ + reward
            truncated = length >= world.limit and not terminated
            table.steps[()] += 1
            action = learn(config, table, obs, action, reward, next_obs, terminated, truncated, noise)
            obs = next_obs
            if action == OUTGREW:
                break
            if terminated or truncated:
                returns[ended], lengths[ended] = return_, length
                ended, action = ended + 1, -1
        place.obs[()], place.action[()], place.length[()], place.return_[()] = obs, action, length, return_
        return taken, ended

    return loop


def make_step(begin: Callable[..., int], learn: Callable[..., int]) -> Callable[..., int]:
    """A learner's two functions as one, for an environment that steps by itself, still plain Python.

    Returns:
        A function `(configs, table, noise, obs, action, reward, next_obs, terminated, truncated) -> action`,
        where a negative action begins an episode in `next_obs`. `configs` is an array `[1]`, which costs less
        to hand over than its record.
    """

    def step(configs, table, noise, obs, action, reward, next_obs, terminated, truncated):
        if action < 0:
            return begin(configs[0], table, next_obs, noise)
        table.steps[()] += 1
        return learn(configs[0], table, obs, action, reward, next_obs, terminated, truncated, noise)

    return step


def compiled(make: Callable[..., Any], begin: Dispatcher, learn: Dispatcher) -> Callable[..., Any]:
    """What `make` makes of a learner's functions, compiled. The machine code is kept on disk, beside Numba's
    own, as long as its sources stay the same."""
    made = make(begin, learn)
    dispatcher = njit(made)
    dispatcher._cache = _MadeCache(made, sources(make, begin, learn))
    return dispatcher


def machine_code(dispatcher: Dispatcher, *arguments: Any) -> Callable[..., Any]:
    """A compiled function for arguments of these types and no others.

    Called by itself, it finds the type of every argument anew, which takes 1.7 of 2.1 microseconds of a step.
    """
    types = tuple(map(typeof, arguments))
    dispatcher.compile(types)
    return dispatcher.overloads[types].entry_point


def plain(make: Callable[..., Any], begin: Dispatcher, learn: Dispatcher) -> Callable[..., Any]:
    """The same as Python runs it, to step through in a debugger."""
    return as_python(make)(as_python(begin), as_python(learn))


def as_python(function: Any) -> Callable[..., Any]:
    """A function that calls no machine code: its Python, and that of every compiled function that it
    names."""
    python = getattr(function, "py_func", function)
    own = {name: as_python(value) for name, value in _named(python).items() if isinstance(value, Dispatcher)}
    return FunctionType(
        python.__code__, python.__globals__ | own, python.__name__, python.__defaults__, python.__closure__
    )


class _MadeCache(FunctionCache):
    """Numba's cache of machine code, keyed by what the function is made of.

    Numba itself keys a closure by a pickle of the functions in it, which no two processes have in common, and
    looks for changes in one file only.
    """

    def __init__(self, made: Callable[..., Any], digest: str):
        super().__init__(made)
        self._digest = digest

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        return (sig, codegen.magic_tuple(), self._digest)


def sources(*functions: Any) -> str:
    """SHA-256 of the functions' names, and of every file that holds one or a compiled function that they
    call, however deep."""
    named = [getattr(function, "py_func", function) for function in functions]
    files = {"": " ".join(f"{function.__module__}.{function.__qualname__}" for function in named).encode()}
    for function in _reached(functions, set()):
        file = inspect.getsourcefile(function) or ""
        try:
            with open(file, "rb") as handle:
                files[file] = handle.read()
        except OSError:  # typed at a prompt: its code is all there is
            files[repr(function)] = function.__code__.co_code + repr(function.__code__.co_consts).encode()
    return hashlib.sha256(b"\0".join(files[name] for name in sorted(files))).hexdigest()


def _reached(functions: Any, seen: set[Any]) -> Iterator[Any]:
    for function in functions:
        plain = getattr(function, "py_func", function)
        if plain in seen:
            continue
        seen.add(plain)
        yield plain
        inside = [cell.cell_contents for cell in plain.__closure__ or ()]
        yield from _reached(
            [f for f in (*_named(plain).values(), *inside) if isinstance(f, Dispatcher)], seen
        )


def _named(function: Callable[..., Any]) -> dict[str, Any]:
    """The globals that a function or one inside it may use, by their names."""
    code = [function.__code__, *(c for c in function.__code__.co_consts if inspect.iscode(c))]
    return {
        name: function.__globals__[name] for c in code for name in c.co_names if name in function.__globals__
    }
