"""Any finite MDP as native dynamics, seen in full or through an observation map."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Discrete
from numpy.typing import NDArray
from torch import Tensor

from bellgrad.core.errors import UsageError
from bellgrad.mdp.checks import count
from bellgrad.mdp.model import FiniteMDP


class _Tables(NamedTuple):
    """What a step looks up; `K` is the largest number of outcomes that a pair has."""

    start: Tensor  # [S] cumulated probabilities of the first state
    cumulated: Tensor  # [S*A, K] likewise of each pair's outcomes
    offset: Tensor  # [S*A] index of a pair's first outcome
    next_state: Tensor  # [N] int64
    reward: Tensor  # [N]
    terminated: Tensor  # [N] bool
    observed: Tensor  # [S] int64, what is observed in each state


@dataclass(frozen=True, eq=False)
class SampledMDP:
    """Samples a finite MDP in which every action is legal; the physics `[B, 1]` int64 is the state.

    Attributes:
        mdp: what is sampled; its own time limit is not used: `max_episode_steps` is.
        observation: `[S]` integers from 0, what is observed in each state; None for the state itself.
        id: name of the environment.
        max_episode_steps: environment steps; None for no limit.
        dtype: of the rewards.

    Raises:
        UsageError: some action is illegal in some state.
    """

    mdp: FiniteMDP
    observation: NDArray[np.integer] | None = None
    id: str = "SampledMDP"
    max_episode_steps: int | None = None
    dtype: torch.dtype = torch.float32

    reset_noise: ClassVar[int] = 1
    step_noise: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not isinstance(self.mdp, FiniteMDP):
            raise UsageError(f"mdp must be a FiniteMDP, got a {type(self.mdp).__name__}")
        if self.max_episode_steps is not None:
            object.__setattr__(self, "max_episode_steps", count("max_episode_steps", self.max_episode_steps))
        if not self.mdp.legal.all():
            raise UsageError(
                f"{self.mdp.place(self.mdp.legal.argmin())} is illegal; here every action must be legal"
                " in every state"
            )

    @property
    def observation_space(self) -> Discrete:
        """What can be seen."""
        return Discrete(int(self._tables.observed.max()) + 1)

    @property
    def action_space(self) -> Discrete:
        """The MDP's."""
        return Discrete(self.mdp.num_actions)

    def initial(self, noise: Tensor) -> Tensor:
        """A state from the start distribution."""
        return _choose(self._tables.start.to(noise.device), noise).unsqueeze(-1)

    def advance(self, physics: Tensor, action: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One of the pair's outcomes."""
        tables = _Tables(*(table.to(noise.device) for table in self._tables))
        pair = physics.squeeze(-1) * self.mdp.num_actions + action
        outcome = tables.offset[pair] + _choose(tables.cumulated[pair], noise)
        return tables.next_state[outcome].unsqueeze(-1), tables.reward[outcome], tables.terminated[outcome]

    def observe(self, physics: Tensor) -> Tensor:
        """`[B]` int64."""
        return self._tables.observed.to(physics.device)[physics.squeeze(-1)]

    @cached_property
    def _tables(self) -> _Tables:
        mdp = self.mdp
        first, end = mdp.offset[:-1, None], mdp.offset[1:, None]
        outcome = first + np.arange((end - first).max())
        probability = np.where(
            outcome < end, mdp.probability[np.minimum(outcome, len(mdp.probability) - 1)], 0.0
        )
        return _Tables(
            _cumulated(mdp.initial),
            _cumulated(probability),
            torch.tensor(mdp.offset[:-1], dtype=torch.int64),
            torch.tensor(mdp.next_state, dtype=torch.int64),
            torch.tensor(mdp.reward, dtype=self.dtype),
            torch.tensor(mdp.terminated),
            torch.tensor(
                np.arange(mdp.num_states) if self.observation is None else self.observation, dtype=torch.int64
            ),
        )


def _cumulated(probability: NDArray[np.floating]) -> Tensor:
    """Along the last axis; infinite from the last that is possible, so that rounding never leads beyond
    it."""
    total = probability.cumsum(-1)
    return torch.tensor(np.where(total >= total[..., -1:], np.inf, total))


def _choose(cumulated: Tensor, noise: Tensor) -> Tensor:
    """`[B]` the first entry of `[K]` or `[B, K]` above the uniform number `[B, 1]`."""
    return (noise >= cumulated).sum(-1)
