"""One Gymnasium environment stepped in plain numbers, for tables."""

from collections.abc import Callable
from typing import Any, Self

import numpy as np

from bellgrad.core.errors import EnvironmentFault
from bellgrad.core.rng import derive_seed
from bellgrad.envs.arrays import MAX_SEED, ContractBreach
from bellgrad.envs.gym import LARGEST_REWARD, GymEnv


class SingleEnvStepper:
    """A `GymEnv` of one environment with Discrete actions, stepped in plain numbers: tensors would take
    longer than the step.

    It is used in a `with` block, at whose end the environment's own counters are right again.

    Args:
        env: the environment, already reset.
        observe: makes what is observed of the environment's arrays `[1, ...]`; None for a Discrete
            observation, which is its number.

    Attributes:
        obs: what is acted on next.
        return_: of the episode under way.
        length: of the episode under way, environment steps.
    """

    def __init__(self, env: GymEnv, observe: Callable[[tuple[np.ndarray, ...]], Any] | None):
        self._env, self._observe, self._step = env, observe, env._batch.step
        self._read = env._leaves[0].category if observe is None else self._read_arrays
        self._first_action = int(env.action_space.start)
        self.obs = int(env._rows.obs[0][0]) if observe is None else observe(env._rows.obs)
        self.return_, self.length = float(env._return[0]), int(env._length[0])
        self._episode, self._seed = int(env._episode[0]), env._seeds[0]
        self._steps_before = env._steps - self.length  # the present episode
        self._new_actions: list[int] = []  # that are not in the environment's history yet

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._write_back()

    def step(self, action: int) -> tuple[Any, float, bool, bool]:
        """Act; if the episode ended, `restart` must follow.

        Args:
            action: counted from 0.

        Returns:
            obs, reward, terminated, truncated.

        Raises:
            EnvironmentFault: as `GymEnv.step`.
        """
        given = action + self._first_action
        try:
            obs, reward, terminated, truncated = self._step(0, given)
            self.obs = obs = self._read(obs)
            if not -LARGEST_REWARD <= reward <= LARGEST_REWARD:
                raise ContractBreach(0, f"returned the reward {reward}")
        except (ContractBreach, ValueError) as error:
            raise self._fault(error) from error.__cause__
        self.return_ += reward
        self.length += 1
        self._new_actions.append(given)
        return obs, reward, terminated, truncated and not terminated

    def restart(self) -> Any:
        """Start the next episode; returns its first observation.

        Raises:
            EnvironmentFault: as `GymEnv.step`.
        """
        env = self._env
        seed = derive_seed(env._seed, 0, self._episode + 1) & MAX_SEED
        try:
            self.obs = self._read(env._batch.reset(0, seed))
        except (ContractBreach, ValueError) as error:
            raise self._fault(error) from error.__cause__
        self._episode, self._seed = self._episode + 1, seed
        self._steps_before += self.length
        self.return_, self.length = 0.0, 0
        self._new_actions.clear()
        env._history[0].clear()
        return self.obs

    def _read_arrays(self, obs: Any) -> Any:
        env = self._env
        env._batch.write(env._rows.obs, 0, obs)
        env._check_obs(env._rows.obs)
        return self._observe(env._rows.obs)

    def _write_back(self) -> None:
        env = self._env
        env._steps, env._episode[0] = self._steps_before + self.length, self._episode
        env._seeds[0], env._return[0], env._length[0] = self._seed, self.return_, self.length
        env._history[0] += np.array(self._new_actions, np.int64).tobytes()
        self._new_actions.clear()
        if self._observe is None:
            env._rows.obs[0][0] = self.obs
        env._set_next_seeds()

    def _fault(self, error: ContractBreach | ValueError) -> EnvironmentFault:
        self._write_back()
        return self._env._fault(error if isinstance(error, ContractBreach) else ContractBreach(0, str(error)))
