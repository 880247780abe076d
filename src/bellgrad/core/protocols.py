"""The few contracts between rooms: an environment, an algorithm, a learner, a replay.

They are all that a driver asks for. Any object that satisfies them can be used, from this package or another.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bellgrad.core.records import (
    Acted,
    Batch,
    EnvSpec,
    Episodes,
    Metrics,
    Minibatch,
    Rollout,
    Step,
    Transition,
    Updated,
)
from bellgrad.core.tree import Tree


@runtime_checkable
class BatchedEnv(Protocol):
    """`num_envs` environments that step together. Ended episodes restart by themselves; `Step` keeps both
    observations.

    Attributes:
        spec: what an algorithm must know of it: the spaces as the learner sees them.
        num_envs: B.
        device: where the tensors that it gives live.
        workers: processes of its own that keep a core busy; 0 if it steps in this process.
        observation_space: that of `spec`.
        action_space: that of `spec`.
    """

    spec: EnvSpec
    num_envs: int
    device: torch.device
    workers: int
    observation_space: gymnasium.Space[Any]
    action_space: gymnasium.Space[Any]

    def reset(self, seed: int) -> Tree:
        """Start a new episode in every environment; all later randomness follows from `seed`.

        Returns:
            `obs [B, *O]`.
        """

    def step(self, action: Tensor, active: Tensor | None = None) -> Step:
        """Act in every environment; `action [B]` or `[B, D]` int64 counted from 0, or `[B, D]` float32.

        If `active [B]` bool is given, environments for which it is False do not move: reward 0, no end, the
        same observations as before.
        """

    def snapshot(self) -> dict[str, Any]:
        """Nested dictionaries of tensors from which `restore` continues exactly."""

    def restore(self, tree: dict[str, Any]) -> Tree:
        """Continue from a snapshot; returns the observation to act on next.

        Raises:
            EnvironmentFault: it does not repeat itself; only `reset` may be called then.
        """

    def snapshot_rows(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """The episodes in progress in some of the environments, each as nested dictionaries of tensors."""

    def restore_rows(self, rows: Sequence[int], snapshots: Sequence[dict[str, Any]]) -> Tree:
        """Bring each of `rows` to the state of its snapshot, which may be of another row; the others do not
        change.

        Returns:
            `obs [B, *O]` of all environments, to act on next.

        Raises:
            EnvironmentFault: an environment does not repeat itself.
        """

    def render(self) -> list[NDArray[np.uint8]]:
        """A picture `[H, W, 3]` of every environment.

        Raises:
            UsageError: it draws no pictures.
        """

    @property
    def render_fps(self) -> float:
        """Pictures per second of a film at the environment's own speed."""

    def known_dynamics(self) -> Any:
        """The `FiniteMDP` that `obs` and `action` are the states and actions of; None if it is not known."""

    def as_pure(self) -> "PureEnv":
        """The same environments with the state outside: this object, or an adapter around it."""

    def close(self) -> None:
        """Release processes and windows. May be called twice."""


class PureEnv(BatchedEnv, Protocol):
    """An environment whose state is an argument and a result.

    Attributes:
        compilable: whether `pure_step` is a pure function of tensors, which can be compiled into its caller's
            graph. It is not for an environment that keeps its state itself, for which the state is None.
        noise: a tree of `Noise`, what one `pure_step` needs; or None.
        state: of the environments, readable and assignable.
    """

    compilable: bool
    noise: Tree
    state: Tree

    def pure_step(
        self, state: Tree, action: Tensor, noise: Tree, active: Tensor | None = None
    ) -> tuple[Tree, Step]:
        """As `step`, from a state and the random numbers that `noise` declares to the next state; if
        `compilable`, nothing that the object holds is changed."""


class Algorithm(Protocol):
    """A frozen dataclass of hyper-parameters: numbers, words, None, tuples and frozen dataclasses of
    these.

    Attributes:
        default_num_envs: environments that step together if the user gives no number.
    """

    @property
    def default_num_envs(self) -> int: ...  # noqa: D102

    def build(self, spec: EnvSpec, steps: int | None = None) -> "Learner":
        """Join the hyper-parameters to an environment's spaces.

        Args:
            spec: of the environment.
            steps: environment steps that are planned, the horizon of schedules; None if not known.

        Raises:
            UsageError: the spaces do not fit, or a schedule needs the horizon.
        """


class Learner(Protocol):
    """Skeleton modules and hyper-parameters; never changes. Every number that learns is in the state.

    A state is a NamedTuple. Two of its fields are int64 scalars: `steps`, environment steps, which the actor
    advances, and `updates`, which `update` advances. Networks' parameters are in the fields `params`, `actor`
    and `critic`, if it has them; the engine is chosen by their size.

    Attributes:
        config: the algorithm's dataclass.
        driver: how the data that it learns from is gathered: the name of a driver (`on_policy`,
            `off_policy`, `episodes`, `population`, `tabular`), `module:Class`, or a class of its own.
    """

    config: Any
    driver: Any

    def init(self, rng: torch.Generator) -> Any:
        """The state before the first step, on the generator's device."""

    def init_carry(self, num_envs: int) -> Tree:
        """The actor's memory at the start of an episode, on the CPU; or None."""

    def act_noise(self, num_envs: int) -> Tree:
        """The `Noise` that `act` needs."""

    def act(self, state: Any, carry: Tree, obs: Tree, noise: Tree, explore: bool = True) -> Acted:
        """Choose actions for `obs [B, *O]`; pure."""


class Replay(Protocol):
    """How experience is kept and sampled: a frozen dataclass, the field `replay` of an algorithm.

    What it keeps is a tree of tensors, made by `allocate` and changed in place by `add` and `feedback`; every
    method but `allocate`, `filled` and `restore_into` can be compiled.
    """

    def allocate(self, spec: EnvSpec, capacity: int, num_envs: int, device: torch.device) -> Tree:
        """An empty replay of `capacity` transitions that come from `num_envs` environments at a time.

        Raises:
            UsageError: the memory does not suffice.
        """

    def add(self, kept: Tree, transition: Transition) -> None:
        """Write one transition of every environment over the oldest ones that are not protected."""

    def noise(self, batch_size: int) -> Tree:
        """The `Noise` that one `sample` needs."""

    def sample(self, kept: Tree, noise: Tree, gamma: float | Tensor, steps: Tensor) -> Batch:
        """A batch of as many transitions as the noise has rows.

        Args:
            kept: of `allocate`, with at least one transition.
            noise: as `noise` declared.
            gamma: discount per environment step.
            steps: `[]` int64, environment steps so far, for what is annealed.
        """

    def feedback(self, kept: Tree, index: Tensor, priority: Tensor | None) -> None:
        """Take in the priorities `[N]` that an update gave the transitions `index [N]` of its batch; None if
        it gave none."""

    def filled(self, kept: Tree) -> dict[str, Tensor]:
        """What a checkpoint must keep, by name: views, no copies."""

    def restore_into(self, kept: Tree, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
        """The memory into which the tensors of `filled`, of these shapes, must be read, by name.

        Raises:
            CheckpointError: they do not fit.
        """


class OffPolicyLearner(Learner, Protocol):
    """A learner that learns from a replay; its configuration has the fields of `FromReplay`."""

    def update_noise(self) -> Tree:
        """The `Noise` that one `update` needs."""

    def update(self, state: Any, batch: Batch, noise: Tree) -> Updated:
        """One gradient update; pure."""


class OnPolicyLearner(Learner, Protocol):
    """A learner that learns from rollouts of its own policy. Its configuration has `rollout_steps`, `epochs`
    and `minibatches`.

    Attributes:
        sequence: L, the consecutive steps that stay together in a minibatch, through which a policy with a
            memory is differentiated; 1 without a memory.
        max_kl: the passes over a rollout stop once the mean of a call's `approx_kl` metric exceeds this; None
            never stops.
        needs_next_obs: whether it needs `Rollout.next_obs`.
    """

    sequence: int
    max_kl: float | None
    needs_next_obs: bool

    def value(self, state: Any, obs: Tree, carry: Tree) -> Tree:
        """The value `[B]` of `obs [B, *O]`, given the memory `carry [B, ...]`; or several values by name."""

    def prepare_noise(self, num_envs: int) -> Tree:
        """The `Noise` that one `prepare` needs."""

    def prepare(self, state: Any, rollout: Rollout, noise: Tree) -> tuple[Any, Minibatch, Metrics]:
        """Advantages and value targets of a whole rollout, `[T, B]`; and whatever is learned once from all of
        it."""

    def update_noise(self) -> Tree:
        """The `Noise` that one `update` needs."""

    def update(self, state: Any, minibatch: Minibatch, noise: Tree) -> tuple[Any, Metrics]:
        """One gradient update; pure."""


class EpisodesLearner(Learner, Protocol):
    """A learner that learns from whole episodes of its own policy. Its configuration's `episodes` is how many
    one update takes."""

    def update_noise(self, steps: int, episodes: int) -> Tree:
        """The `Noise` that an update on `[T, B]` = `[steps, episodes]` needs."""

    def update(self, state: Any, episodes: Episodes, noise: Tree) -> tuple[Any, Metrics]:
        """Learn from the episodes; pure."""


class PopulationLearner(Learner, Protocol):
    """A learner that is given the returns of its candidates. Its configuration's `population` is their number
    (P), and its `episodes` how many each of them plays (E)."""

    def ask_noise(self) -> Tree:
        """The `Noise` that one `ask` needs."""

    def ask(self, state: Any, noise: Tree) -> Tensor:
        """The candidates of a generation `[P, n]`, each the parameters of a policy as one vector."""

    def play(self, candidates: Tensor, obs: Tree) -> Tensor:
        """The actions of `candidates [P, n]`, each at its own observations `[P, E, *O]`: `[P, E]` or `[P, E,
        D]`."""

    def tell_noise(self) -> Tree:
        """The `Noise` that one `tell` needs."""

    def tell(self, state: Any, candidates: Tensor, fitness: Tensor, noise: Tree) -> tuple[Any, Metrics]:
        """Learn from the `fitness [P]` of the candidates, the higher the better; pure."""
