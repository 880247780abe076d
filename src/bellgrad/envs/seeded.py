"""The bookkeeping of a batch of Gymnasium environments, wherever they step.

Every episode starts from its own seed, derived from the run's seed, the environment's index and the episode's
index. So a snapshot is that seed and the actions since: replaying them restores any environment that is
deterministic given its seed, without a copy of its internal state. For the same reason an episode can be
continued in any row.
"""

import math
import threading
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from bellgrad.core.actions import within_bounds
from bellgrad.core.errors import BellgradError, EnvironmentFault, UsageError
from bellgrad.core.masks import KEY, choices, has_mask, nothing_allowed
from bellgrad.core.records import EnvSpec, EpisodeTotals, Step
from bellgrad.core.rng import derive_seed
from bellgrad.core.tree import Tree
from bellgrad.envs.arrays import (
    MAX_SEED,
    ContractBreach,
    EnvArrays,
    check_rows,
    nest_obs,
    obs_leaves,
)
from bellgrad.envs.host import HostEnv
from bellgrad.envs.screen import no_pictures
from bellgrad.mdp.model import FiniteMDP

LARGEST_REWARD = float(np.finfo(np.float32).max)  # learners see float32


class UnderWay(NamedTuple):
    """Where one environment is in its present episode."""

    number: int  # of the episode, from 0 at the reset
    seed: int  # from which it began
    return_: float  # so far
    length: int  # environment steps so far


class SeededEnvs:
    """The bookkeeping of a batch of Gymnasium environments, in any process: seeds, totals, checks,
    snapshots.

    A subclass says how the environments advance (`_advance`) and how some of them repeat a past (`_replay`).
    Satisfies `bellgrad.core.protocols.BatchedEnv`.

    Args:
        rows: the arrays that go into and come out of the environments' steps.
        spec: of one environment.
        device: of the tensors that `step` gives.
    """

    workers = 0
    render_fps = 30.0

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
        with _batches_lock:
            _batches.add(self)

    def _begin(self, seed: int) -> None:
        self._seed = seed  # -1 until the first reset
        self._steps = 0  # environment steps of each environment since reset
        self._episode = np.zeros(self.num_envs, np.int64)
        self._seeds = [0] * self.num_envs  # from which each environment's present episode began
        self._return = np.zeros(self.num_envs, np.float64)
        self._length = np.zeros(self.num_envs, np.int64)
        self._history = [bytearray() for _ in range(self.num_envs)]  # actions since each environment's reset

    def _advance(self) -> None:
        raise NotImplementedError

    def _replay(self, rows: Sequence[int], seeds: Sequence[int], actions: Sequence[np.ndarray]) -> None:
        raise NotImplementedError

    def as_pure(self) -> HostEnv:
        """An adapter around this environment."""
        return HostEnv(self)

    def known_dynamics(self) -> FiniteMDP | None:
        """None: they are not known."""
        return None

    def render(self) -> list[NDArray[np.uint8]]:
        """Always refuses.

        Raises:
            UsageError: saying which environments draw pictures.
        """
        raise no_pictures(self.spec.id)

    def reset(self, seed: int) -> Tree:
        """Start every environment's episode 0 of the run `seed`; returns `obs [B, *O]`.

        Raises:
            EnvironmentFault: an environment raised, or gave what its space forbids.
        """
        if not 0 <= seed < 2**63:
            raise UsageError(f"seed {seed} is out of range [0, 2^63)")
        self._begin(seed)
        self._seeds = [self._episode_seed(i) for i in range(self.num_envs)]
        try:
            self._begin_episodes(range(self.num_envs))
        except ContractBreach as broken:
            raise self.fault(broken) from broken.__cause__
        self._set_next_seeds()
        return self._obs(self._rows.obs)

    def step(self, action: Tensor, active: Tensor | None = None) -> Step:
        """Act in every environment; those that end start their next episode at once.

        Args:
            action: `[B]` or `[B, D]` int64 counted from 0, or `[B, D]` float32 in the environment's units;
                flattened.
            active: `[B]` bool, False for environments that are not stepped; None if all are.

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
            raise self.fault(broken) from broken.__cause__
        self._steps += 1
        self._return += rows.reward
        self._length += rows.active
        self._remember()
        # from here on rows.obs is to be acted on
        for obs, next_obs in zip(rows.obs, rows.next_obs, strict=True):
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
                self._next_episode(i)
        return step

    def snapshot(self) -> dict[str, Any]:
        """What `restore` needs: the run's seed, and per environment its episode's number, seed, actions,
        return and present observation."""
        self._need_reset()
        rows = self._rows
        past = self._actions(b"".join(self._history))
        return {
            "seed": torch.tensor(self._seed),
            "steps": torch.tensor(self._steps),
            "episode": torch.from_numpy(self._episode.copy()),
            "episode_seed": torch.tensor(self._seeds),
            "length": torch.from_numpy(self._length.copy()),
            "return_": torch.from_numpy(self._return.copy()),
            "action": torch.from_numpy(past),  # of all environments, one after another
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
        saved = {key: value.cpu().numpy() for key, value in tree.items() if key != "obs"}
        current = self._present(tree, (self.num_envs,))
        self._begin(int(saved["seed"]))
        self._steps = int(saved["steps"])
        self._episode[:] = saved["episode"]
        every = range(self.num_envs)
        # Snapshots of before episodes could change rows do not tell their seeds.
        seeds = saved["episode_seed"].tolist() if "episode_seed" in saved else map(self._episode_seed, every)
        actions = np.split(
            saved["action"].astype(self._rows.action.dtype, copy=False), np.cumsum(saved["length"])[:-1]
        )
        try:
            self._repeat(every, list(seeds), actions, current, saved["return_"])
        except ContractBreach as broken:
            self._begin(-1)
            raise EnvironmentFault(
                f"exact resume is impossible for this environment: environment {broken.index} {broken.text}"
            ) from broken.__cause__
        self._set_next_seeds()
        return self._obs(self._rows.obs)

    def snapshot_rows(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """The episodes under way in `rows`: of each its seed, actions, return and present observation."""
        self._need_reset()
        check_rows(rows, self.num_envs)
        return [
            {
                "seed": torch.tensor(self._seeds[row]),
                "return_": torch.tensor(self._return[row]),
                "action": torch.from_numpy(self._actions(self._history[row])),
                "obs": {str(i): torch.tensor(array[row]) for i, array in enumerate(self._rows.obs)},
            }
            for row in rows
        ]

    def restore_rows(self, rows: Sequence[int], snapshots: Sequence[dict[str, Any]]) -> Tree:
        """Continue the episodes of `snapshots` in `rows`, by replaying their actions there.

        Without rows it gives the present observations.

        Raises:
            EnvironmentFault: a replay did not lead to the snapshot's observation and return. All of `rows`
                then began new episodes; or, if the text says so, the environments are fit for `reset` only.
            UsageError: rows that are not there or named twice, or a snapshot of other spaces.
        """
        self._need_reset()
        check_rows(rows, self.num_envs, distinct=True)
        present = [self._present(tree, ()) for tree in snapshots]
        actions = [tree["action"].cpu().numpy().astype(self._rows.action.dtype) for tree in snapshots]
        seeds, returns = ([int(tree["seed"]) for tree in snapshots], [float(t["return_"]) for t in snapshots])
        try:
            if rows:
                together = [np.stack(leaf) for leaf in zip(*present, strict=True)]
                self._repeat(rows, seeds, actions, together, returns)
        except ContractBreach as broken:
            text = f"environment {broken.index} {broken.text}"
            try:
                for row in rows:
                    self._next_episode(row)
                self._begin_episodes(rows)
            except ContractBreach:
                self._begin(-1)
                text += ", and could not begin a new episode; the environments must be reset"
            raise EnvironmentFault(f"an earlier state cannot be restored: {text}") from broken.__cause__
        return self._obs(self._rows.obs)

    def _repeat(
        self,
        rows: Sequence[int],
        seeds: Sequence[int],
        actions: Sequence[np.ndarray],
        present: Sequence[np.ndarray],
        returns: Sequence[float],
    ) -> None:
        """Replay episodes in `rows`, check that they lead to the observations `present`, per leaf `[R, ...]`,
        and to the `returns`, and take them over.

        Raises:
            ContractBreach: they lead elsewhere.
        """
        self._replay(rows, seeds, actions)
        for i, row in enumerate(rows):
            same = all(np.array_equal(a[row], b[i]) for a, b in zip(self._rows.obs, present, strict=True))
            if not same or self._rows.reward[row] != returns[i]:
                raise ContractBreach(
                    row, "gave another observation or reward when its seed and actions were replayed"
                )
        for row, seed, past, return_ in zip(rows, seeds, actions, returns, strict=True):
            self._seeds[row], self._return[row], self._length[row] = seed, return_, len(past)
            self._history[row] = bytearray(past.tobytes())

    def _begin_episodes(self, rows: Sequence[int]) -> None:
        """Start the episodes of the seeds `_seeds` in `rows`.

        Raises:
            ContractBreach: an environment raised, or gave what its space forbids.
        """
        nothing = self._rows.action[:0]
        self._replay(rows, [self._seeds[row] for row in rows], [nothing] * len(rows))
        self._check_obs(self._rows.obs)

    def _present(self, tree: dict[str, Any], lead: tuple[int, ...]) -> list[np.ndarray]:
        """The observation in a snapshot, per leaf `[*lead, ...]`.

        Raises:
            UsageError: it has other shapes.
        """
        present = [tree["obs"][str(i)].cpu().numpy() for i in range(len(tree["obs"]))]
        shapes = [(*lead, *leaf.shape) for leaf in self._leaves]
        if [array.shape for array in present] != shapes or tree["action"].shape[
            1:
        ] != self._rows.action.shape[1:]:
            raise UsageError("the snapshot is of another number of environments, or of other spaces")
        return present

    def _actions(self, history: bytes | bytearray) -> np.ndarray:
        """Remembered actions as `[n, *A]`, in memory of their own."""
        action = self._rows.action
        return np.frombuffer(history, action.dtype).reshape(-1, *action.shape[1:]).copy()

    def close(self) -> None:
        """Release processes and windows. May be called twice."""
        with _batches_lock:
            _batches.discard(self)

    def under_way(self, row: int) -> UnderWay:
        """The present episode of an environment."""
        return UnderWay(
            int(self._episode[row]), self._seeds[row], float(self._return[row]), int(self._length[row])
        )

    def go_on_from(self, row: int, now: UnderWay, actions: Sequence[int], steps: int) -> None:
        """Take over what was stepped past this object, in the only environment of a batch.

        Args:
            row: the environment.
            now: its present episode.
            actions: Discrete ones of that episode that this object does not know yet.
            steps: environment steps that were taken.
        """
        if now.number != self._episode[row]:
            self._history[row].clear()
        self._steps += steps
        self._episode[row], self._seeds[row], self._return[row], self._length[row] = now
        self._history[row] += np.array(actions, np.int64).tobytes()
        self._set_next_seeds()

    def episode_seed(self, row: int, number: int) -> int:
        """From which an environment's episode `number` begins."""
        return derive_seed(self._seed, row, number) & MAX_SEED

    def fault(self, broken: ContractBreach) -> EnvironmentFault:
        """What an environment did, with its index and its step."""
        i = broken.index
        where = f"at step {self._steps + 1} (step {self._length[i] + 1} of episode {self._episode[i]})"
        return EnvironmentFault(f"environment {i} {broken.text}, {where}")

    def _episode_seed(self, index: int, ahead: int = 0) -> int:
        return self.episode_seed(index, int(self._episode[index]) + ahead)

    def _set_next_seeds(self) -> None:
        for i in range(self.num_envs):
            self._rows.seed[i] = self._episode_seed(i, ahead=1)

    def _next_episode(self, index: int) -> None:
        """Turn to the next episode, which the environment began or is about to begin from its row's seed."""
        self._seeds[index] = int(self._rows.seed[index])
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
            self._rows.action[...] = within_bounds(self.action_space, array.reshape(self._rows.action.shape))

    def _need_reset(self) -> None:
        if self._seed < 0:
            raise UsageError("the environment must be reset first")

    def _check_obs(self, arrays: tuple[np.ndarray, ...], ended: np.ndarray | bool = False) -> None:
        """Numbers are finite, and some action is allowed; the latter not after the end of an episode, since
        nothing acts there."""
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

    def _tensor(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self._on_cpu else tensor.to(self.device)

    def _obs(self, arrays: tuple[np.ndarray, ...]) -> Tree:
        return nest_obs(self.observation_space, (self._tensor(array.copy()) for array in arrays))


_batches: weakref.WeakSet[SeededEnvs] = weakref.WeakSet()  # whose environments are open
_batches_lock = threading.Lock()


def open_batches() -> list[SeededEnvs]:
    """The batches of this process whose environments are open."""
    with _batches_lock:
        return list(_batches)


def several_open(others: int, name: str | None) -> str:
    """What is to be added if an environment cannot be made, and this may be because others are open.

    Args:
        others: of the same batch, which are open.
        name: of the environment.
    """
    count = others + sum(batch.num_envs for batch in open_batches() if name in (None, batch.spec.id))
    if not count:
        return ""
    return (
        f"; {count} of it {'is' if count == 1 else 'are'} open already: if only one can be, give --num-envs 1"
        " --eval-episodes 0 (an evaluation opens as many more as it has episodes, at most 16)"
    )
