"""Gymnasium environments behind `BatchedEnv`, stepping one after another in this process.

A plain loop over single environments was found faster than Gymnasium's `SyncVectorEnv` (CartPole, one
environment: 16 against 22 microseconds a step), and leaves nothing to its autoreset. Every episode starts
from its own seed, derived from the run's seed, the environment's index and the episode's index. So a snapshot
is that seed and the actions since: replaying them restores any environment that is deterministic given its
seed, with no copy of its insides.
"""

import math
from collections.abc import Callable
from typing import Any, Self

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from bellgrad.core.errors import BellgradError, EnvironmentFault, UsageError, missing_extra
from bellgrad.core.masks import KEY, choices, has_mask, nothing_allowed
from bellgrad.core.records import EnvSpec, EpisodeTotals, Step
from bellgrad.core.rng import derive_seed
from bellgrad.core.tree import Tree
from bellgrad.envs.arrays import (
    MAX_SEED,
    ContractBreach,
    EnvArrays,
    SteppedEnvs,
    check_action_space,
    flatten_obs,
    make_arrays,
    nest_obs,
    obs_leaves,
)
from bellgrad.envs.mdp import FiniteMDPEnv
from bellgrad.envs.screen import without_screen

LARGEST_REWARD = float(np.finfo(np.float32).max)  # learners see float32


def obs_to_tensor(space: spaces.Space, observations: list[Any], device: torch.device | str = "cpu") -> Tree:
    """Stack observations of a Gymnasium space as a learner sees them.

    Args:
        space: Box, Discrete, MultiDiscrete, MultiBinary, or Tuple and Dict of those.
        observations: one for each environment.
        device: of the tensors.

    Returns:
        `[B, *O]`: float32 (uint8 for a uint8 Box); int64 counted from 0 for Discrete `[B]` and MultiDiscrete;
        float32 for MultiBinary; a tuple or dictionary of those for Tuple and Dict, in the space's order.
        Memory of its own.

    Raises:
        UsageError: an observation that does not fit the space.
    """
    parts = obs_leaves(space)
    arrays = [np.zeros((len(observations), *leaf.shape), leaf.dtype) for leaf in parts]
    for row, obs in enumerate(observations):
        try:
            for leaf, array, value in zip(parts, arrays, flatten_obs(space, obs), strict=True):
                leaf.write(array, row, value)
        except ValueError as error:
            raise UsageError(f"observation {row}: {error}") from None
    return nest_obs(space, (torch.from_numpy(array).to(device) for array in arrays))


def gym_spec(env: gymnasium.Env) -> EnvSpec:
    """What an algorithm must know of a Gymnasium environment; its limit is the shortest `TimeLimit` around
    it.

    What is illegal in the states of a finite MDP is known where they are what is observed.
    """
    name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    limits = []
    layer = env
    while isinstance(layer, gymnasium.Wrapper):
        if isinstance(layer, gymnasium.wrappers.TimeLimit):
            limits.append(layer._max_episode_steps)
        layer = layer.env
    legal = (
        layer.mdp.legal
        if isinstance(layer, FiniteMDPEnv) and env.observation_space == layer.observation_space
        else None
    )
    legal = None if legal is None or legal.all() else legal
    return EnvSpec(name, env.observation_space, env.action_space, min(limits, default=None), legal)


class SeededEnvs:
    """The bookkeeping of a batch of Gymnasium environments, wherever they run: seeds, totals, checks,
    snapshots.

    A subclass says how the environments advance (`_advance`) and how they repeat a past (`_replay`).
    Satisfies `bellgrad.core.protocols.BatchedEnv`.

    Args:
        rows: the arrays through which the environments speak.
        spec: of one environment.
        device: of the tensors that `step` gives.
    """

    def __init__(self, rows: EnvArrays, spec: EnvSpec, device: torch.device | str = "cpu"):
        self.num_envs = len(rows.reward)
        self.spec = spec
        self.observation_space = observation_space = spec.observation_space
        self.action_space = action_space = spec.action_space
        self.device = torch.device(device)
        self._on_cpu = self.device.type == "cpu"  # a needless `.to` costs more than the rest of a small step
        self._rows = rows
        self._leaves = obs_leaves(observation_space)
        self._choices = choices(action_space)
        one_number = isinstance(action_space, spaces.Discrete)
        self._action_shape = (
            (self.num_envs,) if one_number else (self.num_envs, math.prod(action_space.shape))
        )
        paths = [leaf.path for leaf in self._leaves]
        self._mask = (
            paths.index(f"observation[{KEY!r}]") if has_mask(observation_space, action_space) else None
        )
        self._begin(-1)

    def _begin(self, seed: int) -> None:
        self._seed = seed  # -1 until the first reset
        self._steps = 0  # environment steps of each environment since reset
        self._episode = np.zeros(self.num_envs, np.int64)
        self._return = np.zeros(self.num_envs, np.float64)
        self._length = np.zeros(self.num_envs, np.int64)
        self._history = [bytearray() for _ in range(self.num_envs)]  # actions since each environment's reset

    def _advance(self) -> None:
        raise NotImplementedError

    def _replay(self, seeds: list[int], actions: list[np.ndarray]) -> None:
        raise NotImplementedError

    def reset(self, seed: int) -> Tree:
        """Start every environment's episode 0 of the run `seed`; returns `obs [B, *O]`.

        Raises:
            EnvironmentFault: an environment raised, or gave what its space forbids.
        """
        if not 0 <= seed < 2**63:
            raise UsageError(f"seed {seed} is out of range [0, 2^63)")
        self._begin(seed)
        nothing = self._rows.action[:0]
        try:
            self._replay([self._episode_seed(i) for i in range(self.num_envs)], [nothing] * self.num_envs)
            self._check_obs(self._rows.obs)
        except ContractBreach as broken:
            raise self._fault(broken) from broken.__cause__
        self._set_next_seeds()
        return self._obs(self._rows.obs)

    def step(self, action: Tensor, active: Tensor | None = None) -> Step:
        """Act in every environment; those that end start their next episode at once.

        Args:
            action: `[B]` or `[B, D]` int64 counted from 0, or `[B, D]` float32 in the environment's units;
                flattened.
            active: `[B]` bool, False for environments that are not stepped; None where all are.

        Raises:
            EnvironmentFault: an environment raised, or gave a NaN, an infinity, a wrong shape or dtype; with
                its index and step.
        """
        rows = self._rows
        self._put_action(action)
        rows.active[:] = True if active is None else active.numpy(force=True)
        try:
            self._advance()
            ended = rows.terminated | rows.truncated
            self._check_obs(rows.next_obs, ended)
            any_ended = bool(ended.any())
            if any_ended:
                self._check_obs(rows.obs)
            self._check_reward()
        except ContractBreach as broken:
            raise self._fault(broken) from broken.__cause__
        self._steps += 1
        self._return += rows.reward
        self._length += rows.active
        self._remember()
        for obs, next_obs in zip(
            rows.obs, rows.next_obs, strict=True
        ):  # from here on rows.obs is what to act on
            if any_ended:
                obs[~ended] = next_obs[~ended]
            else:
                obs[...] = next_obs
        step = Step(
            self._obs(rows.obs),
            self._tensor(rows.reward.astype(np.float32)),
            self._tensor(rows.terminated.copy()),
            self._tensor(rows.truncated.copy()),
            self._obs(rows.next_obs),
            EpisodeTotals(self._tensor(self._return.astype(np.float32)), self._tensor(self._length.copy())),
        )
        if any_ended:
            for i in np.flatnonzero(ended).tolist():
                self._start_anew(i)
        return step

    def snapshot(self) -> dict[str, Any]:
        """What `restore` needs: the run's seed, and per environment its episode, its actions since reset and
        its observation."""
        self._need_reset()
        rows = self._rows
        past = np.frombuffer(b"".join(self._history), rows.action.dtype).reshape(-1, *rows.action.shape[1:])
        return {
            "seed": torch.tensor(self._seed),
            "steps": torch.tensor(self._steps),
            "episode": torch.from_numpy(self._episode.copy()),
            "length": torch.from_numpy(self._length.copy()),
            "return_": torch.from_numpy(self._return.copy()),
            "action": torch.from_numpy(past.copy()),  # of all environments, one after another
            "obs": {str(i): torch.from_numpy(array.copy()) for i, array in enumerate(rows.obs)},
        }

    def restore(self, tree: dict[str, Any]) -> Tree:
        """Continue from a snapshot by replaying each environment's present episode.

        What an environment carries from one episode into the next in spite of its seed is not restored.

        Raises:
            EnvironmentFault: the replay did not lead to the snapshot's observations and returns. The
                environments are then fit for `reset` only; a caller may choose to go on from there, not
                exactly.
            UsageError: the snapshot is of another number of environments or of other spaces.
        """
        rows = self._rows
        saved = {key: value.cpu().numpy() for key, value in tree.items() if key != "obs"}
        current = [tree["obs"][str(i)].cpu().numpy() for i in range(len(tree["obs"]))]
        if [a.shape for a in current] != [a.shape for a in rows.obs] or saved["action"].shape[
            1:
        ] != rows.action.shape[1:]:
            raise UsageError("the snapshot is of another number of environments, or of other spaces")
        self._begin(int(saved["seed"]))
        self._steps = int(saved["steps"])
        self._episode[:] = saved["episode"]
        actions = np.split(
            saved["action"].astype(rows.action.dtype, copy=False), np.cumsum(saved["length"])[:-1]
        )
        try:
            self._replay([self._episode_seed(i) for i in range(self.num_envs)], actions)
            for i in range(self.num_envs):
                same = all(np.array_equal(a[i], b[i]) for a, b in zip(rows.obs, current, strict=True))
                if not same or rows.reward[i] != saved["return_"][i]:
                    raise ContractBreach(
                        i, "gave another observation or reward when its seed and actions were replayed"
                    )
        except ContractBreach as broken:
            self._begin(-1)
            raise EnvironmentFault(
                f"exact resume is impossible for this environment: environment {broken.index} {broken.text}"
            ) from broken.__cause__
        self._return[:] = saved["return_"]
        self._length[:] = saved["length"]
        self._history = [bytearray(past.tobytes()) for past in actions]
        self._set_next_seeds()
        return self._obs(rows.obs)

    def close(self) -> None:
        """Release processes and windows. May be called twice."""

    def _episode_seed(self, index: int, ahead: int = 0) -> int:
        return derive_seed(self._seed, index, int(self._episode[index]) + ahead) & MAX_SEED

    def _set_next_seeds(self) -> None:
        for i in range(self.num_envs):
            self._rows.seed[i] = self._episode_seed(i, ahead=1)

    def _start_anew(self, index: int) -> None:
        self._episode[index] += 1
        self._return[index] = 0.0
        self._length[index] = 0
        self._history[index] = bytearray()
        self._rows.seed[index] = self._episode_seed(index, ahead=1)

    def _remember(self) -> None:
        data = self._rows.action.tobytes()
        size = len(data) // self.num_envs
        for i, (history, active) in enumerate(zip(self._history, self._rows.active.tolist(), strict=True)):
            if active:
                history += data[i * size : (i + 1) * size]

    def _put_action(self, action: Tensor) -> None:
        self._need_reset()
        array = action.numpy(force=True)
        if array.shape != self._action_shape or (array.dtype.kind == "i") != (self._choices is not None):
            wanted = "int64" if self._choices else "float32"
            raise UsageError(
                f"the action is {array.dtype} {list(array.shape)}, expected {wanted}"
                f" {list(self._action_shape)}"
            )
        if self._choices:
            self._rows.action[...] = array.reshape(self._rows.action.shape) + self.action_space.start
        else:
            if not np.isfinite(array).all():
                raise BellgradError(
                    f"the learner chose an action that is not finite: {array.tolist()}; it has diverged"
                )
            self._rows.action[...] = array.reshape(self._rows.action.shape)
            if (
                self._rows.action.dtype != np.float32
            ):  # a float32 bound may lie beyond the space's by a rounding
                np.clip(
                    self._rows.action, self.action_space.low, self.action_space.high, out=self._rows.action
                )

    def _need_reset(self) -> None:
        if self._seed < 0:
            raise UsageError("the environment must be reset first")

    def _check_obs(self, arrays: tuple[np.ndarray, ...], ended: np.ndarray | bool = False) -> None:
        """Numbers are finite, and there is something to do; but not where an episode ended, since nobody acts
        there."""
        for leaf, array in zip(self._leaves, arrays, strict=True):
            if array.dtype == np.float32 and not np.isfinite(array).all():
                env, *place = (int(k) for k in np.argwhere(~np.isfinite(array))[0])
                raise ContractBreach(
                    env, f"returned an {leaf.path} with the value {array[(env, *place)]} at {place}"
                )

        if self._mask is not None:
            stuck = nothing_allowed(arrays[self._mask], self._choices) & np.logical_not(ended)
            if stuck.any():
                raise ContractBreach(int(stuck.argmax()), f"allows no action in its observation's {KEY!r}")

    def _check_reward(self) -> None:
        reward = self._rows.reward
        fits = np.abs(reward) <= LARGEST_REWARD  # False for NaN too
        if not fits.all():
            env = int(np.flatnonzero(~fits)[0])
            raise ContractBreach(env, f"returned the reward {reward[env]}")

    def _fault(self, broken: ContractBreach) -> EnvironmentFault:
        i = broken.index
        where = f"at step {self._steps + 1} (step {self._length[i] + 1} of episode {self._episode[i]})"
        return EnvironmentFault(f"environment {i} {broken.text}, {where}")

    def _tensor(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self._on_cpu else tensor.to(self.device)

    def _obs(self, arrays: tuple[np.ndarray, ...]) -> Tree:
        return nest_obs(self.observation_space, (self._tensor(array.copy()) for array in arrays))


class GymEnv(SeededEnvs):
    """Gymnasium environments that step in this process.

    Args:
        make: makes one environment.
        num_envs: how many.
        device: of the tensors that `step` gives.

    Raises:
        UsageError: a space that is not supported, or environments with different spaces.
    """

    def __init__(
        self, make: Callable[[], gymnasium.Env], num_envs: int = 1, device: torch.device | str = "cpu"
    ):
        if num_envs < 1:
            raise UsageError(f"num_envs = {num_envs} must be 1 or more")
        self.envs = [make() for _ in range(num_envs)]
        observation_space, action_space = self.envs[0].observation_space, self.envs[0].action_space
        for env in self.envs[1:]:
            if env.observation_space != observation_space or env.action_space != action_space:
                raise UsageError("the environments of one batch must have the same spaces")
        check_action_space(action_space, observation_space)
        rows = make_arrays(observation_space, action_space, num_envs)
        super().__init__(rows, gym_spec(self.envs[0]), device)
        self._batch = SteppedEnvs(self.envs, rows)

    def _advance(self) -> None:
        for _ in self._batch.advance():
            pass

    def _replay(self, seeds: list[int], actions: list[np.ndarray]) -> None:
        for _ in self._batch.replay(seeds, actions):
            pass

    def frames(self) -> list[np.ndarray]:
        """A picture of every environment, `[H, W, 3]` uint8; they must have been made with
        `render_mode="rgb_array"`.

        Raises:
            UsageError: the environments draw no pictures.
        """
        without_screen()
        try:
            pictures = [env.render() for env in self.envs]
        except gymnasium.error.DependencyNotInstalled:
            raise missing_extra("pygame", "video") from None
        if not all(isinstance(picture, np.ndarray) for picture in pictures):
            raise UsageError('the environment draws no pictures; make it with render_mode="rgb_array"')
        return pictures

    def close(self) -> None:
        """Close every environment. May be called twice."""
        envs, self.envs = self.envs, []
        for env in envs:
            env.close()


class SingleEnvStepper:
    """A `GymEnv` of one environment with Discrete actions, stepped in plain numbers: tensors would take
    longer than the step.

    It is used in a `with` block, at whose end the environment's own books are right again.

    Args:
        env: the environment, already reset.
        see: what is observed, made of the environment's arrays `[1, ...]`; of a Discrete observation it is
            the number.

    Attributes:
        obs: what is acted on next.
        return_: of the episode under way.
        length: of the episode under way, environment steps.
    """

    def __init__(self, env: GymEnv, see: Callable[[tuple[np.ndarray, ...]], Any] | None):
        self._env, self._see, self._act = env, see, env._batch.step
        self._read = env._leaves[0].category if see is None else self._read_arrays
        self._first = int(env.action_space.start)
        self.obs = int(env._rows.obs[0][0]) if see is None else see(env._rows.obs)
        self.return_, self.length = float(env._return[0]), int(env._length[0])
        self._episode, self._before = int(env._episode[0]), env._steps - self.length
        self._past: list[int] = []  # actions that are not in the environment's history yet

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._settle()

    def step(self, action: int) -> tuple[Any, float, bool, bool]:
        """Act; where the episode ended, `restart` must follow.

        Args:
            action: counted from 0.

        Returns:
            obs, reward, terminated, truncated.

        Raises:
            EnvironmentFault: as `GymEnv.step`.
        """
        given = action + self._first
        try:
            obs, reward, terminated, truncated = self._act(0, given)
            self.obs = obs = self._read(obs)
            if not -LARGEST_REWARD <= reward <= LARGEST_REWARD:
                raise ContractBreach(0, f"returned the reward {reward}")
        except (ContractBreach, ValueError) as error:
            raise self._fault(error) from error.__cause__
        self.return_ += reward
        self.length += 1
        self._past.append(given)
        return obs, reward, terminated, truncated and not terminated

    def restart(self) -> Any:
        """Start the next episode; returns its first observation.

        Raises:
            EnvironmentFault: as `GymEnv.step`.
        """
        env = self._env
        try:
            self.obs = self._read(
                env._batch.reset(0, derive_seed(env._seed, 0, self._episode + 1) & MAX_SEED)
            )
        except (ContractBreach, ValueError) as error:
            raise self._fault(error) from error.__cause__
        self._episode, self._before = self._episode + 1, self._before + self.length
        self.return_, self.length = 0.0, 0
        self._past.clear()
        env._history[0].clear()
        return self.obs

    def _read_arrays(self, obs: Any) -> Any:
        env = self._env
        env._batch.write(env._rows.obs, 0, obs)
        env._check_obs(env._rows.obs)
        return self._see(env._rows.obs)

    def _settle(self) -> None:
        env = self._env
        env._steps, env._episode[0] = self._before + self.length, self._episode
        env._return[0], env._length[0] = self.return_, self.length
        env._history[0] += np.array(self._past, np.int64).tobytes()
        self._past.clear()
        if self._see is None:
            env._rows.obs[0][0] = self.obs
        env._set_next_seeds()

    def _fault(self, error: ContractBreach | ValueError) -> EnvironmentFault:
        self._settle()
        return self._env._fault(error if isinstance(error, ContractBreach) else ContractBreach(0, str(error)))
