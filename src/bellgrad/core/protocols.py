"""The few contracts between rooms: an environment, an algorithm, a learner."""

from typing import Any, Protocol, runtime_checkable

import gymnasium
import torch
from torch import Tensor

from bellgrad.core.records import Acted, Batch, EnvSpec, Episodes, Minibatch, Rollout, Step
from bellgrad.core.tree import Tree

Metrics = dict[str, Tensor]


@runtime_checkable
class BatchedEnv(Protocol):
    """`num_envs` environments that step together. Ended episodes restart by themselves; `Step` keeps both
    observations."""

    num_envs: int
    observation_space: gymnasium.Space[Any]
    action_space: gymnasium.Space[Any]

    def reset(self, seed: int) -> Tree:
        """Start every environment anew; all later randomness follows from `seed`. Returns `obs [B, *O]`."""

    def step(self, action: Tensor, active: Tensor | None = None) -> Step:
        """Act in every environment; `action [B]` or `[B, D]` int64 counted from 0, or `[B, D]` float32.

        Where `active [B]` bool is given and False, the environment stands still: reward 0, no end, the
        observations as they were.
        """

    def snapshot(self) -> dict[str, Any]:
        """Nested dictionaries of tensors from which `restore` continues exactly."""

    def restore(self, tree: dict[str, Any]) -> Tree:
        """Continue from a snapshot; returns the observation to act on next."""

    def close(self) -> None:
        """Release processes and windows. May be called twice."""


class Algorithm(Protocol):
    """A frozen dataclass of hyper-parameters."""

    def build(self, spec: EnvSpec) -> Any:
        """Join the hyper-parameters to an environment's spaces."""


class Learner(Protocol):
    """Skeleton modules and hyper-parameters; never changes. Every number that learns is in the state.

    Attributes:
        driver: the way of gathering data that it learns from, by the name of its driver: `on_policy`,
            `off_policy`, `episodes`, `tabular`.
    """

    driver: str

    def init(self, rng: torch.Generator) -> Any:
        """The state before the first step, on the generator's device."""

    def init_carry(self, num_envs: int) -> Tree:
        """The actor's memory at the start of an episode, on the CPU; or None."""

    def act_noise(self, num_envs: int) -> Tree:
        """The `Noise` that `act` needs."""

    def act(self, state: Any, carry: Tree, obs: Tree, noise: Tree, explore: bool = True) -> Acted:
        """Choose actions for `obs [B, *O]`; pure."""


class OffPolicyLearner(Learner, Protocol):
    """A learner that is fed from a replay."""

    def update_noise(self) -> Tree:
        """The `Noise` that one `update` needs."""

    def update(self, state: Any, batch: Batch, noise: Tree) -> tuple[Any, Metrics]:
        """One gradient update; pure."""


class OnPolicyLearner(Learner, Protocol):
    """A learner that is fed the rollouts of its own policy.

    Attributes:
        sequence: L, the consecutive steps that stay together in a minibatch: those through which a policy
            with a memory is differentiated; 1 without one.
        max_kl: the passes over a rollout stop once the mean of a call's `approx_kl` metric exceeds this; None
            never stops.
    """

    sequence: int
    max_kl: float | None

    def value(self, state: Any, obs: Tree, carry: Tree) -> Tensor:
        """The predicted value of `obs [B, *O]` with the memory `carry [B, ...]`: `[B]`."""

    def prepare_noise(self, num_envs: int) -> Tree:
        """The `Noise` that one `prepare` needs."""

    def prepare(self, state: Any, rollout: Rollout, noise: Tree) -> tuple[Any, Minibatch, Metrics]:
        """Advantages and value targets of a whole rollout, `[T, B]`; and whatever is learned once from all of
        it."""

    def update(self, state: Any, minibatch: Minibatch, noise: Tree) -> tuple[Any, Metrics]:
        """One gradient update; pure."""


class EpisodesLearner(Learner, Protocol):
    """A learner that is fed whole episodes of its own policy. Its configuration's `episodes` says how many to
    an update."""

    def update_noise(self, steps: int, episodes: int) -> Tree:
        """The `Noise` that an update on `[T, B]` = `[steps, episodes]` needs."""

    def update(self, state: Any, episodes: Episodes, noise: Tree) -> tuple[Any, Metrics]:
        """Learn from the episodes; pure."""


class PopulationLearner(Learner, Protocol):
    """A learner that is told how its candidates fared. Its configuration's `population` says how many there
    are (P), and its `episodes` how many each of them plays (E)."""

    def ask_noise(self) -> Tree:
        """The `Noise` that one `ask` needs."""

    def ask(self, state: Any, noise: Tree) -> Tensor:
        """The candidates of a generation `[P, n]`, each the parameters of a policy as one vector."""

    def play(self, candidates: Tensor, obs: Tree) -> Tensor:
        """What each of `candidates [P, n]` does at its own observations `[P, E, *O]`: `[P, E]` or `[P, E,
        D]`."""

    def tell_noise(self) -> Tree:
        """The `Noise` that one `tell` needs."""

    def tell(self, state: Any, candidates: Tensor, fitness: Tensor, noise: Tree) -> tuple[Any, Metrics]:
        """Learn from the `fitness [P]` of the candidates, the higher the better; pure."""
