"""An environment with its transforms around it: what a learner acts in."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Discrete
from numpy.typing import NDArray
from torch import Tensor

from bellgrad.core.errors import EnvironmentFault, UsageError
from bellgrad.core.protocols import BatchedEnv, PureEnv
from bellgrad.core.records import EnvSpec, Step
from bellgrad.core.tree import (
    Tree,
    map_tree,
    named_leaves,
    nest,
    restore_tree,
    stack,
    to_device,
)
from bellgrad.envs.host import HostEnv
from bellgrad.envs.transforms import StepFunction, Transform
from bellgrad.mdp.model import FiniteMDP


class TransformedState(NamedTuple):
    """All that a pure loop carries from step to step of a transformed environment."""

    env: Tree  # the inner environment's own state; None if it keeps it itself
    transforms: tuple[Tree, ...]  # in the order of the transforms


class TransformedEnv:
    """A `PureEnv`: an environment seen through transforms, the first nearest to it.

    Args:
        env: any `BatchedEnv`.
        transforms: in the order in which an observation passes them.
        mdp: see below.
        legal: `[S, A]` bool, which actions a state allows, if more is known of that than `env.spec` says.

    Attributes:
        env: the inner environment.
        frozen: statistics stand still, as evaluation needs; False at first. Not a part of a snapshot.
        mdp: the exact dynamics, for a driver that samples them instead of stepping; None if it should step.
        transform_state: one tree per transform, readable and assignable. Evaluation assigns that of training
            and then resets: the two may differ in `num_envs`.
        state: a `TransformedState`, readable and assignable.
        noise: the `Noise` that one `pure_step` needs, or None.
        compilable: whether `pure_step` can be compiled into its caller's graph.

    Raises:
        UsageError: a transform does not fit the spaces that it meets.
    """

    def __init__(
        self,
        env: BatchedEnv,
        transforms: Sequence[Transform],
        mdp: FiniteMDP | None = None,
        legal: NDArray[np.bool_] | None = None,
    ):
        spec = env.spec if legal is None else replace(env.spec, legal=legal)
        bound: list[Transform] = []
        for transform in transforms:
            bound.append(transform.bind(spec))
            spec = bound[-1].spec
        self.env = env
        self.transforms = tuple(bound)
        self.spec: EnvSpec = spec
        self.num_envs: int = env.num_envs
        self.device: torch.device = env.device
        self.workers: int = env.workers
        self.observation_space: gymnasium.Space[Any] = spec.observation_space
        self.action_space: gymnasium.Space[Any] = spec.action_space
        self.frozen = False
        self.mdp = mdp
        self.transform_state = tuple(transform.init(self.num_envs, self.device) for transform in bound)
        self._pure = env.as_pure()
        self._own_steps = HostEnv(env).pure_step  # with the environment's own state and random numbers
        self.compilable: bool = self._pure.compilable
        self.noise: Tree = self._pure.noise
        for transform in bound:
            self.noise = transform.noise(self.noise)

    def reset(self, seed: int) -> Tree:
        """Begin an episode in every environment; statistics go on. Returns `obs [B, *O]`."""
        return self._begin(self.env.reset(seed))

    def step(self, action: Tensor, active: Tensor | None = None) -> Step:
        """Act in every environment, or only in those for which `active [B]` bool is True."""
        state = TransformedState(None, self.transform_state)
        (_, self.transform_state), step = self._through(
            len(self.transforms), self._own_steps, state, action, None, active
        )
        return step

    @property
    def state(self) -> TransformedState:
        """The states of the environments and of the transforms."""
        return TransformedState(self._pure.state, self.transform_state)

    @state.setter
    def state(self, state: TransformedState) -> None:
        self._pure.state, self.transform_state = state

    def pure_step(
        self, state: TransformedState, action: Tensor, noise: Tree, active: Tensor | None = None
    ) -> tuple[TransformedState, Step]:
        """As `PureEnv.pure_step`, through the transforms."""
        return self._through(len(self.transforms), self._pure.pure_step, state, action, noise, active)

    def as_pure(self) -> PureEnv:
        """This object; without transforms the inner environment, since nothing stands between."""
        return self if self.transforms else self._pure

    def snapshot(self) -> dict[str, Any]:
        """The inner snapshot and the transforms' states, copied."""
        transforms = {name: leaf.clone() for name, leaf in named_leaves(self.transform_state).items()}
        return {"env": self.env.snapshot(), "transforms": nest(transforms)}

    def restore(self, tree: dict[str, Any]) -> Tree:
        """Continue from a snapshot; returns the observation to act on next.

        If the inner environment cannot, the transforms do: a `reset` then keeps their statistics.
        """
        saved = named_leaves(tree.get("transforms", {}))  # a store of tensors drops what holds none
        template = tuple(transform.init(self.num_envs, self.device) for transform in self.transforms)
        self.transform_state = map_tree(torch.clone, restore_tree(template, saved))
        return self._observe(self.env.restore(tree["env"]))

    def snapshot_rows(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """The inner snapshots, and what each transform remembers of those episodes."""
        inner = self.env.snapshot_rows(rows)
        index = self._index(rows)
        episodes = {
            str(k): transform.episode(state, index)
            for k, (transform, state) in enumerate(zip(self.transforms, self.transform_state, strict=True))
        }
        return [
            {"env": one, "transforms": map_tree(lambda leaf, i=i: leaf[i].clone(), episodes)}
            for i, one in enumerate(inner)
        ]

    def restore_rows(self, rows: Sequence[int], snapshots: Sequence[dict[str, Any]]) -> Tree:
        """Give environments, and what the transforms remember of their episodes, the states of `snapshots`;
        statistics stay.

        Raises:
            EnvironmentFault: the inner environment cannot; if it began new episodes, so did the transforms.
        """
        try:
            obs = self.env.restore_rows(rows, [tree["env"] for tree in snapshots])
        except EnvironmentFault:
            with contextlib.suppress(UsageError):  # the environment is fit for `reset` only
                self._begin_rows(rows)
            raise
        if rows:
            index = self._index(rows)
            states = []
            for k, (transform, state) in enumerate(zip(self.transforms, self.transform_state, strict=True)):
                parts = [tree.get("transforms", {}).get(str(k), {}) for tree in snapshots]
                states.append(transform.with_episode(state, index, to_device(stack(parts), self.device)))
            self.transform_state = tuple(states)
        return self._observe(obs)

    def render(self) -> list[NDArray[np.uint8]]:
        """The inner environment's pictures."""
        return self.env.render()

    @property
    def render_fps(self) -> float:
        """The inner environment's."""
        return self.env.render_fps

    def known_dynamics(self) -> FiniteMDP | None:
        """Those of the inner environment, if they are also those of what is seen through the transforms."""
        if not all(transform.keeps_dynamics for transform in self.transforms):
            return None
        mdp: FiniteMDP | None = self.env.known_dynamics()
        fits = mdp is not None and self.observation_space == Discrete(mdp.num_states)
        return mdp if fits else None

    def close(self) -> None:
        """Close the inner environment."""
        self.env.close()

    def _through(
        self,
        depth: int,
        env_step: StepFunction,
        state: TransformedState,
        action: Tensor,
        noise: Tree,
        active: Tensor | None,
    ) -> tuple[TransformedState, Step]:
        """One step through the first `depth` transforms; `env_step` steps the environment inside them."""
        if depth == 0:
            env, step = env_step(state.env, action, noise, active)
            return TransformedState(env, ()), step

        def below(inner: Tree, action: Tensor, noise: Tree, active: Tensor | None) -> tuple[Tree, Step]:
            return self._through(depth - 1, env_step, inner, action, noise, active)

        *others, own = state.transforms
        inner, own, step = self.transforms[depth - 1].around(
            below, TransformedState(state.env, tuple(others)), own, action, noise, self.frozen, active
        )
        return TransformedState(inner.env, (*inner.transforms, own)), step

    def _begin(self, obs: Tree) -> Tree:
        """Begin an episode in every environment with the inner `obs [B, *O]`; returns it as the learner sees
        it."""
        states = []
        for transform, state in zip(self.transforms, self.transform_state, strict=True):
            states.append(transform.reset(state, obs, self.frozen))
            obs = transform.observe(states[-1], obs)
        self.transform_state = tuple(states)
        return obs

    def _begin_rows(self, rows: Sequence[int]) -> None:
        """Forget the episodes of `rows`, in which the inner environment began new ones."""
        obs, index, states = self.env.restore_rows([], []), self._index(rows), []
        for transform, state in zip(self.transforms, self.transform_state, strict=True):
            begun = transform.reset(state, obs, True)
            states.append(transform.with_episode(state, index, transform.episode(begun, index)))
            obs = transform.observe(states[-1], obs)
        self.transform_state = tuple(states)

    def _observe(self, obs: Tree) -> Tree:
        """The inner environment's present observation as the learner sees it."""
        for transform, state in zip(self.transforms, self.transform_state, strict=True):
            obs = transform.observe(state, obs)
        return obs

    def _index(self, rows: Sequence[int]) -> Tensor:
        return torch.tensor(rows, dtype=torch.int64, device=self.device)
