"""One batch of Gymnasium environments as plain NumPy arrays: what the adapter and its worker processes share.

This file imports no torch, so that a worker process starts quickly and stays small. A row is one environment;
every array is `[B, ...]`. Whatever an environment returns is checked here, before it reaches an array.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from bellgrad.core.errors import UsageError
from bellgrad.core.guard import what_happened
from bellgrad.core.masks import choices, has_mask
from bellgrad.core.memory import need_memory

MAX_SEED = 2**31 - 1
# types of a reward and of a flag that need no second look
NUMBERS = frozenset({float, int, bool, np.float64, np.float32, np.int64, np.int32, np.bool_})


class ContractBreach(Exception):
    """An environment broke its contract. The adapter, which knows the step count, turns this into an
    `EnvironmentFault`.

    Args:
        index: the environment's index in the whole batch.
        text: what happened, to follow the words "environment i".
    """

    def __init__(self, index: int, text: str):
        super().__init__(text)
        self.index = index
        self.text = text


@dataclass(frozen=True)
class Leaf:
    """One array of an observation: its path in the tree, what the environment gives and what the learner
    gets."""

    path: str  # "observation", "observation['camera']", "observation[0]"
    space: spaces.Space
    shape: tuple[int, ...]  # of one environment's value
    source: np.dtype  # what the space promises
    dtype: np.dtype  # what the row holds
    categories: range | None = None  # of a Discrete space

    def write(self, array: np.ndarray, row: int, value: Any) -> None:
        """Check one environment's `value` and store it in `array [B, *shape]`.

        Raises:
            ValueError: a wrong type, dtype, shape, or a category out of range.
        """
        if self.categories is not None:
            array[row] = self.category(value)
            return
        if type(value) is not np.ndarray or value.dtype != self.source or value.shape != self.shape:
            value = self._coerce(value)
        if isinstance(self.space, spaces.MultiDiscrete):
            value = value - self.space.start
            if ((value < 0) | (value >= self.space.nvec)).any():
                raise ValueError(
                    f"returned the {self.path} {short(value + self.space.start)}, outside its space"
                    f" {self.space}"
                )
        array[row] = value

    def category(self, value: Any) -> int:
        """Check one environment's category of a Discrete space; returns it counted from 0.

        Raises:
            ValueError: not one integer, or out of range.
        """
        if type(value) is not int:
            value = self._integer(value)
        if value not in self.categories:
            raise ValueError(f"returned the {self.path} {short(value)}, outside its space {self.space}")
        return value - self.categories.start

    def _integer(self, value: Any) -> int:
        if type(value) is np.int64:
            return int(value)
        given = self._array(value)
        if given.shape != () or given.dtype.kind not in "biu":
            raise ValueError(
                f"returned the {self.path} {short(value)}, its space {self.space} wants one integer"
            )
        return int(given)

    def _coerce(self, value: Any) -> np.ndarray:
        given = self._array(value)
        if given.shape != self.shape:
            raise ValueError(f"returned an {self.path} of shape {given.shape}, its space says {self.shape}")
        if not np.can_cast(given.dtype, self.source, "same_kind"):
            raise ValueError(f"returned an {self.path} of dtype {given.dtype}, its space says {self.source}")
        if self.dtype == np.uint8 and (given > 255).any():
            raise ValueError(f"returned the {self.path} {short(given)}, which uint8 cannot hold")
        return given

    def _array(self, value: Any) -> np.ndarray:
        try:
            return as_array(value)
        except ValueError as error:
            raise ValueError(
                f"returned the {self.path} {short(value)}, which is not an array{error}"
            ) from None


def as_array(value: Any) -> np.ndarray:
    """What a user's environment gave as an array.

    Raises:
        ValueError: it is none. The text is why, after a colon, or empty.
    """
    try:
        # NumPy takes it where torch records nothing, as in a training, and nowhere else
        if getattr(value, "requires_grad", False) is True:
            raise TypeError("it requires a gradient; return it after .detach()")
        return np.asarray(value)
    except ValueError:  # ragged nested lists
        raise ValueError from None
    except Exception as error:  # for example a tensor on a GPU
        raise ValueError(f": {' '.join(str(error).split())}") from None
    except BaseException as error:
        raise ValueError(f": it {what_happened(error, '__array__()')}") from None


def as_reward(value: Any) -> float:
    """One real number, also one in an array without axes.

    Raises:
        ValueError: anything else; text and arrays of one number, which `float` takes, too.
    """
    return float(value if type(value) in NUMBERS else _number(value))


def as_flag(value: Any) -> bool:
    """One truth value, also as 0 or 1 or in an array without axes.

    Raises:
        ValueError: anything else: None, text and arrays have a truth value in Python too.
    """
    if type(value) is np.bool_:
        return bool(value)
    given = _number(value)
    if given not in (0, 1):
        raise ValueError(f"{short(value)} is not a truth value")
    return bool(given)


def _number(value: Any) -> Any:
    given = as_array(value)
    if given.shape != () or given.dtype.kind not in "biuf":
        raise ValueError(f"{short(value)} is not one number")
    return given[()]


def short(value: Any) -> str:
    """A value in one line of at most 100 characters."""
    try:
        text = " ".join(repr(value.item() if isinstance(value, np.generic) else value).split())
    except BaseException:  # a user's own `__repr__` fails
        text = f"a {type(value).__name__}"
    return text if len(text) <= 100 else text[:97] + "..."


def obs_leaves(space: spaces.Space, path: str = "observation") -> list[Leaf]:
    """The arrays that make up one observation, in the space's order.

    Float and other integer Boxes become float32; uint8 Boxes (frames) stay uint8. Discrete and MultiDiscrete
    become int64 counted from 0, MultiBinary becomes float32, so that a network can take it as it is.

    Raises:
        UsageError: a space that has no fixed set of arrays (Text, Graph, Sequence, OneOf).
    """
    if isinstance(space, spaces.Dict):
        if len({str(key) for key in space.spaces}) < len(space.spaces):
            raise UsageError(f"the {path} space has two keys of one name: {list(space.spaces)}")
        return [leaf for key, child in space.spaces.items() for leaf in obs_leaves(child, f"{path}[{key!r}]")]
    if isinstance(space, spaces.Tuple):
        return [leaf for i, child in enumerate(space.spaces) for leaf in obs_leaves(child, f"{path}[{i}]")]
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        dtype = np.dtype(
            np.uint8 if isinstance(space, spaces.Box) and space.dtype == np.uint8 else np.float32
        )
    elif isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        dtype = np.dtype(np.int64)
    else:
        raise UsageError(
            f"the {path} space {space} is not supported: use Box, Discrete, MultiDiscrete, MultiBinary, Tuple"
            " or Dict"
        )
    categories = (
        range(int(space.start), int(space.start + space.n)) if isinstance(space, spaces.Discrete) else None
    )
    return [Leaf(path, space, tuple(space.shape), np.dtype(space.dtype), dtype, categories)]


def flatten_obs(space: spaces.Space, obs: Any, path: str = "observation") -> list[Any]:
    """The values of one observation in the order of `obs_leaves`.

    Raises:
        ValueError: a tuple or dictionary with other parts than the space's.
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(obs, Mapping) or obs.keys() != space.spaces.keys():
            got = sorted(map(str, obs)) if isinstance(obs, Mapping) else type(obs).__name__
            raise ValueError(
                f"returned an {path} with {got}, its space is a Dict with {sorted(map(str, space.spaces))}"
            )
        return [
            leaf
            for key, child in space.spaces.items()
            for leaf in flatten_obs(child, obs[key], f"{path}[{key!r}]")
        ]
    if isinstance(space, spaces.Tuple):
        if not isinstance(obs, tuple | list) or len(obs) != len(space.spaces):
            got = f"{len(obs)} parts" if isinstance(obs, tuple | list) else type(obs).__name__
            raise ValueError(f"returned an {path} with {got}, its space is a Tuple of {len(space.spaces)}")
        parts = enumerate(zip(space.spaces, obs, strict=True))
        return [leaf for i, (child, part) in parts for leaf in flatten_obs(child, part, f"{path}[{i}]")]
    return [obs]


def nest_obs(space: spaces.Space, values: Iterator[Any]) -> Any:
    """The inverse of `flatten_obs`: tuples and dictionaries around the leaves' values."""
    if isinstance(space, spaces.Dict):
        return {key: nest_obs(child, values) for key, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(nest_obs(child, values) for child in space.spaces)
    return next(values)


def check_action_space(space: spaces.Space, obs_space: spaces.Space) -> None:
    """Refuse what no learner here can act in.

    Raises:
        UsageError: neither Discrete, MultiDiscrete nor a Box of floats; or the observations bring a mask that
            does not fit.
    """
    if choices(space) is None and not (isinstance(space, spaces.Box) and space.dtype.kind == "f"):
        raise UsageError(
            f"the action space {space} is not supported: it must be Discrete, MultiDiscrete, or a Box of"
            " floats"
        )
    has_mask(obs_space, space)


class EnvArrays(NamedTuple):
    """What goes into and comes out of one step of `B` environments."""

    action: np.ndarray  # [B] int64 or [B, *A] in the space's dtype and units
    active: np.ndarray  # [B] bool, False for environments that stand still
    seed: np.ndarray  # [B] int64, for the next episode, should this step end one
    reward: np.ndarray  # [B] float64
    terminated: np.ndarray  # [B] bool
    truncated: np.ndarray  # [B] bool
    obs: tuple[np.ndarray, ...]  # per leaf [B, ...], the first of the next episode if one ended
    next_obs: tuple[np.ndarray, ...]  # per leaf [B, ...], what the action led to


def make_arrays(
    obs_space: spaces.Space,
    action_space: spaces.Space,
    num_envs: int,
    new: Callable[[tuple[int, ...], np.dtype], np.ndarray] = np.zeros,
) -> EnvArrays:
    """Arrays filled with zeros; `new(shape, dtype)` makes each array (in shared memory, for workers).

    Raises:
        UsageError: they do not fit into memory.
    """
    leaves = obs_leaves(obs_space)
    sizes = [(leaf.shape, leaf.dtype.itemsize) for leaf in leaves] * 2
    if not isinstance(action_space, spaces.Discrete):
        sizes.append((action_space.shape, action_space.dtype.itemsize))
    need_memory(
        num_envs * sum(math.prod(shape) * itemsize for shape, itemsize in sizes),
        f"{num_envs} environments, each with the observations {short(obs_space)}",
    )

    def array(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return new((num_envs, *shape), np.dtype(dtype))

    action = (
        array((), np.int64)
        if isinstance(action_space, spaces.Discrete)
        else array(action_space.shape, action_space.dtype)
    )
    return EnvArrays(
        action,
        array((), np.bool_),
        array((), np.int64),
        array((), np.float64),
        array((), np.bool_),
        array((), np.bool_),
        tuple(array(leaf.shape, leaf.dtype) for leaf in leaves),
        tuple(array(leaf.shape, leaf.dtype) for leaf in leaves),
    )


def mapped_arrays(
    obs_space: spaces.Space, action_space: spaces.Space, num_envs: int, memory: Any
) -> tuple[EnvArrays, int]:
    """Arrays that lie in a buffer of bytes, in a layout that every process computes alike.

    Returns:
        The rows and the bytes they take. With `memory` None the rows are None and only the size is meant.
    """
    size = 0

    def place(shape: tuple[int, ...], dtype: np.dtype) -> Any:
        nonlocal size
        start = size
        size += -(-int(np.prod(shape)) * dtype.itemsize // 64) * 64  # whole cache lines
        if memory is None:
            return None
        return np.frombuffer(memory, dtype, int(np.prod(shape)), start).reshape(shape)

    rows = make_arrays(obs_space, action_space, num_envs, place)
    return rows, size


def check_rows(rows: Sequence[int], num_envs: int, distinct: bool = False) -> None:
    """Refuse rows that are not in a batch.

    Raises:
        UsageError: a row is not in 0 ... `num_envs - 1`; or is named twice, if they must be `distinct`.
    """
    for row in rows:
        if not 0 <= row < num_envs:
            raise UsageError(f"row {row} is not in a batch of {num_envs} environments")
    if distinct and len(set(rows)) < len(rows):
        raise UsageError(f"rows {list(rows)}: each may be named once")


class SteppedEnvs:
    """Some environments and the rows that are theirs.

    Args:
        envs: the environments.
        rows: the arrays of the whole batch.
        first: the row of the first environment here.
    """

    def __init__(self, envs: list[gymnasium.Env], rows: EnvArrays, first: int = 0):
        self.envs = envs
        self.rows = rows
        self.first = first
        self._space = envs[0].observation_space
        self._leaves = obs_leaves(self._space)
        self._flat = not isinstance(self._space, spaces.Dict | spaces.Tuple)

    def advance(self) -> Iterator[None]:
        """Act in every active environment and restart those that ended, yielding after each.

        Raises:
            ContractBreach: an environment raised, or returned what its spaces forbid.
        """
        rows = self.rows
        # an environment may keep its action; the row is overwritten at the next step
        actions = rows.action.copy()
        for row, active in enumerate(
            rows.active[self.first : self.first + len(self.envs)].tolist(), self.first
        ):
            if not active:
                self._stand_still(row)
                continue
            obs, rows.reward[row], terminated, truncated = self.step(row, actions[row])
            self.write(rows.next_obs, row, obs)
            # termination wins
            rows.terminated[row], rows.truncated[row] = terminated, truncated and not terminated
            if terminated or truncated:
                self.write(rows.obs, row, self.reset(row, int(rows.seed[row])))
            yield

    def _stand_still(self, row: int) -> None:
        rows = self.rows
        rows.reward[row], rows.terminated[row], rows.truncated[row] = 0.0, False, False
        for obs, next_obs in zip(rows.obs, rows.next_obs, strict=True):
            next_obs[row] = obs[row]

    def replay(
        self, which: Sequence[int], seeds: Sequence[int], actions: Sequence[np.ndarray]
    ) -> Iterator[None]:
        """Start environments from seeds and repeat actions in them, yielding after each step.

        Afterwards `obs` holds their present observation and `reward` the sum of the rewards so far.

        Args:
            which: rows of environments that are here.
            seeds: one for each of them.
            actions: likewise, `[n, *A]` each.

        Raises:
            ContractBreach: also if an episode ended on the way, which it had not done before.
        """
        rows = self.rows
        for row, seed, past in zip(which, seeds, actions, strict=True):
            obs, total = self.reset(row, seed), 0.0
            yield
            for action in past:
                obs, reward, terminated, truncated = self.step(row, action)
                total += reward
                if terminated or truncated:
                    raise ContractBreach(
                        row, "ended its episode during the replay, which it had not done before"
                    )
                yield
            self.write(rows.obs, row, obs)
            rows.reward[row] = total

    def reset(self, row: int, seed: int) -> Any:
        """Start the environment of a row from a seed; returns its observation, not yet checked.

        Raises:
            ContractBreach: it raised, or returned something else than an observation and a dictionary.
        """
        try:
            result = self.envs[row - self.first].reset(seed=seed)
        except BaseException as error:
            raise ContractBreach(row, what_happened(error, f"reset(seed={seed})")) from error
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
            raise ContractBreach(
                row, f"returned {short(result)} from reset(), which must return (observation, info)"
            )
        return result[0]

    def step(self, row: int, action: Any) -> tuple[Any, float, bool, bool]:
        """Act in the environment of a row; returns its observation, not yet checked, its reward, terminated
        and truncated.

        Raises:
            ContractBreach: it raised, or returned something of another kind.
        """
        try:
            result = self.envs[row - self.first].step(action)
        except BaseException as error:
            raise ContractBreach(row, what_happened(error, f"step({short(action)})")) from error
        if not (isinstance(result, tuple) and len(result) == 5):
            got = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
            wanted = "(observation, reward, terminated, truncated, info)"
            raise ContractBreach(row, f"returned {got} from step(), which must return {wanted}")
        obs, reward, terminated, truncated, _ = result
        kind = type(reward)
        try:
            return (
                obs,
                float(reward) if kind is float or kind is int else as_reward(reward),
                terminated if terminated is False or terminated is True else as_flag(terminated),
                truncated if truncated is False or truncated is True else as_flag(truncated),
            )
        except ValueError:
            flags = f"reward {short(reward)}, terminated {short(terminated)}, truncated {short(truncated)}"
            raise ContractBreach(row, f"returned {flags}; they must be a number and two booleans") from None

    def write(self, arrays: tuple[np.ndarray, ...], row: int, obs: Any) -> None:
        """Check an observation and store it.

        Raises:
            ContractBreach: it does not fit the observation space.
        """
        try:
            if self._flat:
                self._leaves[0].write(arrays[0], row, obs)
                return
            for leaf, array, value in zip(self._leaves, arrays, flatten_obs(self._space, obs), strict=True):
                leaf.write(array, row, value)
        except ValueError as error:
            raise ContractBreach(row, str(error)) from None
