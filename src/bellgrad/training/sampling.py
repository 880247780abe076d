"""Sampling a known MDP for a tabular learner: one loop that gives the same bits compiled and in plain
Python."""

import hashlib
import inspect
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
from numba import njit, typeof
from numba.core.caching import IndexDataCacheFile
from numba.core.dispatcher import Dispatcher

from bellgrad.core.machine_code import KeptCode, keep
from bellgrad.mdp.model import FiniteMDP
from bellgrad.tabular.common import TABLE_FULL, inlined, next_uniform

# The most uniform numbers that the loop itself takes per step: for a first state and an outcome.
LOOP_DRAWS = 2


Function = Callable[..., Any]
Make = Callable[[Function, Function], Function]  # from a learner's `begin` and `learn`


class SampledDynamics(NamedTuple):
    """A `FiniteMDP` as the loop reads it."""

    offset: np.ndarray  # [S*A + 1]
    probability: np.ndarray  # [N] float64
    next_state: np.ndarray  # [N]
    reward: np.ndarray  # [N] float64
    terminated: np.ndarray  # [N] bool
    start: np.ndarray  # [S] float64, cumulative distribution of the first state
    num_actions: int
    limit: int  # environment steps after which an episode is truncated

    @classmethod
    def of(cls, mdp: FiniteMDP, limit: int | None, exploring_starts: bool) -> "SampledDynamics":
        """The dynamics of an MDP; `exploring_starts` makes the first state uniformly random."""
        start = np.full(mdp.num_states, 1 / mdp.num_states) if exploring_starts else mdp.initial
        outcomes = (
            mdp.offset,
            mdp.probability,
            mdp.next_state,
            mdp.reward,
            np.ascontiguousarray(mdp.terminated),
        )
        return cls(*outcomes, np.cumsum(start), mdp.num_actions, limit or np.iinfo(np.int64).max)


class EpisodePosition(NamedTuple):
    """The state of the episode in progress; changed in place."""

    obs: np.ndarray  # [] int64
    action: np.ndarray  # [] int64, the next action; -1 if no episode is in progress; or TABLE_FULL
    length: np.ndarray  # [] int64, environment steps so far
    return_: np.ndarray  # [] float64, undiscounted return so far


@inlined
def first_state(dynamics: Any, uniform: Any) -> Any:
    """The first state for a uniform number, by the cumulative distribution."""
    return min(np.searchsorted(dynamics.start, uniform, side="right"), len(dynamics.start) - 1)


@inlined
def outcome(dynamics: Any, obs: Any, action: Any, uniform: Any) -> Any:
    """The first outcome whose cumulative probability is above a uniform number, which is Gymnasium's own
    rule."""
    pair = obs * dynamics.num_actions + action
    last, total = dynamics.offset[pair + 1] - 1, 0.0
    for k in range(dynamics.offset[pair], last):
        total += dynamics.probability[k]
        if uniform < total:
            return k
    return last


def make_loop(begin: Function, learn: Function) -> Function:
    """The sampling loop around a learner's two functions, as plain Python.

    Returns:
        A function `(config, table, dynamics, position, noise, steps, max_draws, returns, lengths) -> (steps
        taken, episodes ended)`. It stops early if fewer uniform numbers are left than `max_draws`, the most
        that one step takes, or if a table is full. `returns` and `lengths` are filled, one per ended episode.
    """

    def loop(
        config: Any,
        table: Any,
        dynamics: Any,
        position: Any,
        noise: Any,
        steps: Any,
        max_draws: Any,
        returns: Any,
        lengths: Any,
    ) -> Any:
        obs, action, length, return_ = (
            position.obs[()],
            position.action[()],
            position.length[()],
            position.return_[()],
        )
        taken = ended = 0
        while taken < steps and noise.taken[0] + max_draws <= len(noise.uniform):
            if action < 0:
                obs, length, return_ = first_state(dynamics, next_uniform(noise)), 0, 0.0
                action = begin(config, table, obs, noise)
            k = outcome(dynamics, obs, action, next_uniform(noise))
            reward, next_obs, terminated = dynamics.reward[k], dynamics.next_state[k], dynamics.terminated[k]
            taken, length, return_ = taken + 1, length + 1, return_ + reward
            truncated = length >= dynamics.limit and not terminated
            table.steps[()] += 1
            action = learn(config, table, obs, action, reward, next_obs, terminated, truncated, noise)
            obs = next_obs
            if action == TABLE_FULL:
                break
            if terminated or truncated:
                returns[ended], lengths[ended] = return_, length
                ended, action = ended + 1, -1
        position.obs[()], position.action[()], position.length[()], position.return_[()] = (
            obs,
            action,
            length,
            return_,
        )
        return taken, ended

    return loop


def make_step(begin: Function, learn: Function) -> Function:
    """A learner's two functions as one, for an environment that is stepped in Python, as plain Python.

    Returns:
        A function `(configs, table, noise, obs, action, reward, next_obs, terminated, truncated) -> action`.
        A negative action begins an episode in `next_obs`. `configs` is an array `[1]`, which is cheaper to
        pass than its record.
    """

    def step(
        configs: Any,
        table: Any,
        noise: Any,
        obs: Any,
        action: Any,
        reward: Any,
        next_obs: Any,
        terminated: Any,
        truncated: Any,
    ) -> Any:
        if action < 0:
            return begin(configs[0], table, next_obs, noise)
        table.steps[()] += 1
        return learn(configs[0], table, obs, action, reward, next_obs, terminated, truncated, noise)

    return step


def build_compiled(make: Make, begin: Function, learn: Function) -> Function:
    """The function that `make` builds from a learner's functions, compiled. The machine code is cached on
    disk, in Numba's cache folder if there is one, for as long as its sources stay the same."""
    made = make(begin, learn)
    dispatcher: Function = keep(njit(made), _DigestCache, source_digest(make, begin, learn))
    return dispatcher


def specialize(dispatcher: Any, *arguments: Any) -> Function:
    """A compiled function for arguments of exactly these types.

    The dispatcher itself finds the type of every argument at each call, which takes 1.7 of the 2.1
    microseconds per step.
    """
    types = tuple(map(typeof, arguments))
    dispatcher.compile(types)
    compiled: Function = dispatcher.overloads[types].entry_point
    return compiled


def build_plain(make: Make, begin: Function, learn: Function) -> Function:
    """The same function without compilation, for a debugger."""
    plain: Function = as_python(make)(as_python(begin), as_python(learn))
    return plain


def as_python(function: Any) -> Function:
    """A function without compilation: its Python code, and that of every compiled function that it
    calls."""
    python = getattr(function, "py_func", function)
    own = {
        name: as_python(value)
        for name, value in _globals_used(python).items()
        if isinstance(value, Dispatcher)
    }
    return FunctionType(
        python.__code__, python.__globals__ | own, python.__name__, python.__defaults__, python.__closure__
    )


class _DigestCache(KeptCode):
    """Numba's cache of machine code, with the digest of the function's sources as the key and in the files'
    names.

    By default the key of a closure is a pickle of the functions in it, which differs between processes, and
    Numba looks for changes in one file only. Its index holds pickles of types, and those of another version
    may name classes that do not exist any more: so each version has its own index.
    """

    def __init__(self, made: Function, digest: str):
        super().__init__(made)  # type: ignore[no-untyped-call]  # numba has no types here
        self._digest = digest
        name = f"{self._impl.filename_base}-{digest[:16]}"
        self._cache_file = IndexDataCacheFile(  # type: ignore[no-untyped-call]  # nor here
            self._cache_path, name, source_stamp=digest
        )

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        return (sig, codegen.magic_tuple(), self._digest)


def source_digest(*functions: Any) -> str:
    """SHA-256 of the functions' names and of every file that contains one of them or a compiled function that
    they call, directly or not."""
    named = [getattr(function, "py_func", function) for function in functions]
    files = {"": " ".join(f"{function.__module__}.{function.__qualname__}" for function in named).encode()}
    for function in _functions_called(functions, set()):
        file = inspect.getsourcefile(function) or ""
        try:
            with open(file, "rb") as handle:
                files[file] = handle.read()
        except OSError:  # defined at a prompt: there is only its code
            files[repr(function)] = function.__code__.co_code + repr(function.__code__.co_consts).encode()
    return hashlib.sha256(b"\0".join(files[name] for name in sorted(files))).hexdigest()


def _functions_called(functions: Any, seen: set[Any]) -> Iterator[Any]:
    for function in functions:
        plain = getattr(function, "py_func", function)
        if plain in seen:
            continue
        seen.add(plain)
        yield plain
        inside = [cell.cell_contents for cell in plain.__closure__ or ()]
        yield from _functions_called(
            [f for f in (*_globals_used(plain).values(), *inside) if isinstance(f, Dispatcher)], seen
        )


def _globals_used(function: Function) -> dict[str, Any]:
    """The globals that a function or a function inside it may use, by name."""
    code = [function.__code__, *(c for c in function.__code__.co_consts if inspect.iscode(c))]
    return {
        name: function.__globals__[name] for c in code for name in c.co_names if name in function.__globals__
    }
