"""One Gymnasium environment stepped in plain numbers, for tables."""

from collections.abc import Callable
from typing import Any, Self

import numpy as np

from bellgrad.core.errors import EnvironmentFault
from bellgrad.envs.arrays import ContractBreach
from bellgrad.envs.gym import GymEnv
from bellgrad.envs.seeded import LARGEST_REWARD, UnderWay


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
        self._env, self._observe, self._step = env, observe, env.stepped.step
        self._read = env.category if observe is None else self._see
        self._first_action = int(env.action_space.start)
        self.obs = int(env.present[0][0]) if observe is None else observe(env.present)
        self._episode, self._seed, self.return_, self.length = env.under_way(0)
        self._taken = 0  # steps that the environment does not know of
        self._new_actions: list[int] = []  # of the present episode, likewise

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
        seed = self._env.episode_seed(0, self._episode + 1)
        try:
            self.obs = self._read(self._env.stepped.reset(0, seed))
        except (ContractBreach, ValueError) as error:
            raise self._fault(error) from error.__cause__
        self._episode, self._seed = self._episode + 1, seed
        self._taken += len(self._new_actions)
        self.return_, self.length = 0.0, 0
        self._new_actions.clear()
        return self.obs

    def _see(self, obs: Any) -> Any:
        return self._observe(self._env.see(0, obs))

    def _write_back(self) -> None:
        now = UnderWay(self._episode, self._seed, self.return_, self.length)
        self._env.go_on_from(0, now, self._new_actions, self._taken + len(self._new_actions))
        self._taken = 0
        self._new_actions.clear()
        if self._observe is None:
            self._env.present[0][0] = self.obs

    def _fault(self, error: ContractBreach | ValueError) -> EnvironmentFault:
        self._write_back()
        return self._env.fault(error if isinstance(error, ContractBreach) else ContractBreach(0, str(error)))
