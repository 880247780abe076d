"""A partially observable MDP, as a finite MDP and what is seen of its states."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bellgrad.core.errors import UsageError
from bellgrad.mdp.checks import PROBABILITY_TOLERANCE, array, check_gamma
from bellgrad.mdp.model import FiniteMDP, check_mdp


@dataclass(frozen=True, eq=False)
class POMDP:
    """A finite MDP whose states are seen through observations. The solvers of `bellgrad.mdp` see the states:
    their values are upper bounds for a policy that only sees the observations.

    Attributes:
        mdp: the process behind the observations.
        observation: `[A, S', O]` float64, `p(o | a, s')`: what is seen after action a has led to s'.
        discount: per step, in [0, 1].
        observation_names: `[O]` names, or None.

    Raises:
        UsageError: a row of `observation` is not a distribution, or sizes do not fit.
    """

    mdp: FiniteMDP
    observation: NDArray[np.float64]
    discount: float = 0.99
    observation_names: tuple[str, ...] | None = field(default=None)

    def __post_init__(self) -> None:
        check_mdp(self.mdp)
        check_gamma(self.discount)
        seen = array("observation", self.observation)
        shape = (self.mdp.num_actions, self.mdp.num_states)
        if seen.ndim != 3 or seen.shape[:2] != shape or not seen.shape[2]:
            raise UsageError(
                f"observation has shape {seen.shape}; expected [A, S', O] = {(*shape, 'O')}".replace(
                    "'O'", "O"
                )
            )
        wrong = (seen < 0).any(axis=2) | ~(np.abs(seen.sum(axis=2) - 1) <= PROBABILITY_TOLERANCE)
        if wrong.any():
            action, state = divmod(int(wrong.argmax()), shape[1])
            raise UsageError(
                f"{self.mdp.action_name(action)}, next {self.mdp.state_name(state)}: the probabilities of the"
                f" observations are {seen[action, state]}, not a distribution"
            )
        names = self.observation_names
        if names is not None and not isinstance(names, Sequence):
            raise UsageError(f"observation_names must be a list of names, got a {type(names).__name__}")
        if names is not None and len(names) != seen.shape[2]:
            raise UsageError(f"observation_names has {len(names)} entries; expected {seen.shape[2]}")

    @property
    def num_observations(self) -> int:
        """`O`."""
        return self.observation.shape[2]

    @property
    def fully_observable(self) -> bool:
        """Whether every observation belongs to one state only, so that the state is always known."""
        return bool(((self.observation > 0).any(axis=0).sum(axis=0) <= 1).all())
