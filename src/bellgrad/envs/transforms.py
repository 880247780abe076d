"""What lies between an environment and its learner, as pure transforms: normalizers, repeated and scaled
actions, rewards. Those of images and of several observations as one are in `images.py`.

A transform is a frozen dataclass; whatever it remembers is a tree of tensors that goes in and comes out. So
the same transforms run inside a compiled loop over a native environment and around any other `BatchedEnv`.
They are a list, the first nearest to the environment; that of Mnih et al. (2015) for Atari is

    MaxPool(2), ActionRepeat(4), Gray(), Resize(84), FrameStack(4), ClipReward()

Episode totals always count the environment's own rewards and steps.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from torch import Tensor

from bellgrad.core.actions import unusable_bounds
from bellgrad.core.errors import EnvironmentFault, UsageError, check_range
from bellgrad.core.images import with_bounds
from bellgrad.core.protocols import BatchedEnv, PureEnv
from bellgrad.core.records import EnvSpec, Step
from bellgrad.core.tree import (
    Tree,
    leaves,
    map_tree,
    named_leaves,
    nest,
    restore_tree,
    stack,
    to_device,
    where,
)
from bellgrad.envs.host import HostEnv
from bellgrad.mdp.model import FiniteMDP
from bellgrad.ops.statistics import RunningMoments

# `(state, action, noise, active) -> (state, step)`, as `PureEnv.pure_step`.
StepFunction = Callable[[Tree, Tensor, Tree, Tensor | None], tuple[Tree, Step]]


@dataclass(frozen=True)
class Transform:
    """The contract; each function here changes nothing. `bind` comes first; all others are pure.

    Attributes:
        inner: the environment that is transformed, known once bound.
    """

    inner: EnvSpec | None = field(default=None, kw_only=True, repr=False, compare=False)

    @property
    def keeps_dynamics(self) -> bool:
        """Whether a finite MDP behind the environment is also the MDP of what is seen through this."""
        return False

    def bind(self, spec: EnvSpec) -> Self:
        """The transform joined to the environment that it transforms.

        Raises:
            UsageError: the environment's spaces do not allow it.
        """
        return replace(self, inner=spec)

    @property
    def spec(self) -> EnvSpec:
        """The environment as it looks through the bound transform."""
        return self.inner

    def init(self, num_envs: int, device: torch.device | str) -> Tree:
        """The state before the first reset."""
        return {}

    def action(self, state: Tree, action: Tensor) -> Tensor:
        """The learner's action `[B]` or `[B, D]` as the environment takes it."""
        return action

    def reset(self, state: Tree, obs: Tree, frozen: bool) -> Tree:
        """The state after every environment began an episode with `obs [B, *O]`. What belongs to one episode
        is forgotten, and sized by `obs`; statistics are kept."""
        return state

    def step(self, state: Tree, step: Step, frozen: bool, active: Tensor | None = None) -> tuple[Tree, Step]:
        """The next state, and the step as the learner sees it; `frozen` statistics stand still.

        If `active [B]` bool is given, environments for which it is False took no step: whatever is remembered
        of them stays.
        """
        return state, step

    def observe(self, state: Tree, obs: Tree) -> Tree:
        """The environment's present observation `[B, *O]` as the learner sees it; changes nothing."""
        return obs

    def noise(self, below: Tree) -> Tree:
        """The `Noise` that one step through the transform needs, if one step below it needs `below`."""
        return below

    def around(
        self,
        below: StepFunction,
        inner: Tree,
        state: Tree,
        action: Tensor,
        noise: Tree,
        frozen: bool,
        active: Tensor | None = None,
    ) -> tuple[Tree, Tree, Step]:
        """A whole step: the action inwards, one step below, what it gave outwards. For a transform that takes
        another number of steps below.

        Args:
            below: steps the environment with the transforms nearer to it.
            inner: the state that `below` takes and gives.
            state: this transform's own.
            action: the learner's, `[B]` or `[B, D]`.
            noise: as `noise` declares.
            frozen: as in `step`.
            active: as in `step`.

        Returns:
            Both next states, and the step as the learner sees it.
        """
        inner, step = below(inner, self.action(state, action), noise, active)
        state, step = self.step(state, step, frozen, active)
        return inner, state, step

    def episode(self, state: Tree, rows: Tensor) -> dict[str, Tensor]:
        """What is remembered of the episodes under way in the environments `rows [R]` int64, as tensors
        `[R, ...]`; not the statistics that all share."""
        return {}

    def with_episode(self, state: Tree, rows: Tensor, episode: dict[str, Tensor]) -> Tree:
        """The state with what `episode` gave, perhaps of other rows, in `rows [R]`."""
        return state


@dataclass(frozen=True)
class NormalizeObs(Transform):
    """Observations less their running mean, over their running standard deviation. Its state is a
    `RunningMoments`.

    The statistics take in what is acted on next; the true successors, terminal ones too, are normalized by
    the same statistics.

    Attributes:
        clip: bound of the result, in standard deviations, above 0.
    """

    clip: float = 10.0

    def __post_init__(self) -> None:
        check_range(self, clip=(1e-6, math.inf))

    def bind(self, spec: EnvSpec) -> Self:
        """Refuses observations that are not floats in a Box."""
        space = spec.observation_space
        if not isinstance(space, Box) or not np.issubdtype(space.dtype, np.floating):
            raise UsageError(f"NormalizeObs needs observations in a Box of floats, not {space}")
        return replace(self, inner=spec)

    @property
    def spec(self) -> EnvSpec:
        """Observations in `[-clip, clip]`."""
        space = self.inner.observation_space
        return replace(self.inner, observation_space=with_bounds(space, -self.clip, self.clip))

    def init(self, num_envs: int, device: torch.device | str) -> RunningMoments:
        """Nothing seen yet."""
        return RunningMoments.init(self.inner.observation_space.shape, device)

    def reset(self, state: RunningMoments, obs: Tensor, frozen: bool) -> RunningMoments:
        """First observations count too."""
        return state if frozen else state.update(obs)

    def step(
        self, state: RunningMoments, step: Step, frozen: bool, active: Tensor | None = None
    ) -> tuple[RunningMoments, Step]:
        """Take in `step.obs`, then normalize both observations."""
        state = state if frozen else state.update(step.obs, active)
        return state, step._replace(
            obs=self.observe(state, step.obs), next_obs=self.observe(state, step.next_obs)
        )

    def observe(self, state: RunningMoments, obs: Tensor) -> Tensor:
        """`[B, *O]` float32."""
        return state.normalize(obs, self.clip)


class RewardScale(NamedTuple):
    """What `NormalizeReward` remembers."""

    moments: RunningMoments  # of the discounted returns, in every environment at every step
    return_: Tensor  # [B] float32, discounted return of the episode under way


@dataclass(frozen=True)
class NormalizeReward(Transform):
    """Rewards over the running standard deviation of the discounted return; their sign and zero stay.

    Source: Engstrom et al. 2020, "Implementation matters in deep policy gradients", appendix A.2, algorithm
    1; here the return begins at 0 with every episode.

    Attributes:
        gamma: the learner's discount, in [0, 1]; in a run, None is the algorithm's.
        clip: bound of the result, in standard deviations, above 0.
    """

    gamma: float | None = None
    clip: float = 10.0

    def __post_init__(self) -> None:
        check_range(self, gamma=(0, 1), clip=(1e-6, math.inf))

    def bind(self, spec: EnvSpec) -> Self:
        """Refuses to guess the discount."""
        if self.gamma is None:
            raise UsageError("NormalizeReward needs the learner's discount: NormalizeReward(gamma=...)")
        return replace(self, inner=spec)

    def init(self, num_envs: int, device: torch.device | str) -> RewardScale:
        """Nothing seen yet."""
        return RewardScale(RunningMoments.init((), device), torch.zeros(num_envs, device=device))

    def reset(self, state: RewardScale, obs: Tree, frozen: bool) -> RewardScale:
        """Returns begin at 0."""
        return state._replace(return_=torch.zeros(leaves(obs)[0].shape[0], device=state.return_.device))

    def step(
        self, state: RewardScale, step: Step, frozen: bool, active: Tensor | None = None
    ) -> tuple[RewardScale, Step]:
        """Take in the returns up to this step, then scale its rewards."""
        return_ = state.return_ * self.gamma + step.reward
        if active is not None:
            return_ = torch.where(active, return_, state.return_)
        moments = state.moments if frozen else state.moments.update(return_, active)
        reward = moments.rescale(step.reward, self.clip)
        return RewardScale(
            moments, torch.where(step.terminated | step.truncated, 0.0, return_)
        ), step._replace(reward=reward)

    def episode(self, state: RewardScale, rows: Tensor) -> dict[str, Tensor]:
        """The discounted returns."""
        return {"return_": state.return_[rows]}

    def with_episode(self, state: RewardScale, rows: Tensor, episode: dict[str, Tensor]) -> RewardScale:
        """The discounted returns replaced."""
        return state._replace(return_=state.return_.index_copy(0, rows, episode["return_"]))


@dataclass(frozen=True)
class RescaleReward(Transform):
    """Rewards times a constant.

    Attributes:
        scale: the factor.
    """

    scale: float

    def step(self, state: Tree, step: Step, frozen: bool, active: Tensor | None = None) -> tuple[Tree, Step]:
        """Scale the reward."""
        return state, step._replace(reward=step.reward * self.scale)


@dataclass(frozen=True)
class ClipReward(Transform):
    """Rewards clipped to bounds. Source: Mnih et al. 2015, methods: rewards clipped at 1 and -1.

    Attributes:
        low: the least reward.
        high: the greatest.
    """

    low: float = -1.0
    high: float = 1.0

    def step(self, state: Tree, step: Step, frozen: bool, active: Tensor | None = None) -> tuple[Tree, Step]:
        """Clip the reward."""
        return state, step._replace(reward=step.reward.clamp(self.low, self.high))


@dataclass(frozen=True)
class ActionRepeat(Transform):
    """Each action is taken `n` times, until the episode ends; the rewards are summed.

    Transforms nearer to the environment see every single step, those after this one every n-th. Both
    observations are those of the last step that was taken. Source: Mnih et al. 2015, methods.

    Attributes:
        n: environment steps for one action, 1 or more.
    """

    n: int = 4

    def __post_init__(self) -> None:
        check_range(self, n=(1, math.inf))

    def noise(self, below: Tree) -> Tree:
        """As often as there are steps."""
        return None if below is None else (below,) * self.n

    def around(
        self,
        below: StepFunction,
        inner: Tree,
        state: Tree,
        action: Tensor,
        noise: Tree,
        frozen: bool,
        active: Tensor | None = None,
    ) -> tuple[Tree, Tree, Step]:
        """Steps until each environment's episode has ended, or `n` of them."""
        noises = (None,) * self.n if noise is None else noise
        inner, whole = below(inner, action, noises[0], active)
        for one in noises[1:]:
            going = ~(whole.terminated | whole.truncated)
            if active is not None:
                going = going & active
            inner, step = below(inner, action, one, going)
            whole = Step(
                step.obs,
                whole.reward + step.reward,  # 0 for those that stand still
                whole.terminated | step.terminated,
                whole.truncated | step.truncated,
                *where(going, (step.next_obs, step.episode), (whole.next_obs, whole.episode)),
            )
        return inner, state, whole


class ObsTransform(Transform):
    """A transform of each observation by itself: only `observe` does something."""

    def step(self, state: Tree, step: Step, frozen: bool, active: Tensor | None = None) -> tuple[Tree, Step]:
        """Both observations transformed."""
        return state, step._replace(
            obs=self.observe(state, step.obs), next_obs=self.observe(state, step.next_obs)
        )


class Bounds(NamedTuple):
    """The environment's action bounds, kept as a state so that they live on the environment's device."""

    low: Tensor  # [D] float32
    high: Tensor  # [D] float32


@dataclass(frozen=True)
class RescaleAction(Transform):
    """The learner acts in [-1, 1]; the environment is given the same point of its own bounds, never one
    beyond them."""

    def bind(self, spec: EnvSpec) -> Self:
        """Refuses actions that are not in a Box with finite bounds."""
        space = spec.action_space
        if not isinstance(space, Box):
            raise UsageError(f"RescaleAction needs actions in a Box, not {space}")
        wrong = unusable_bounds(space)
        if wrong is not None:
            raise UsageError(
                f"the learner acts in [-1, 1] and needs finite action bounds to scale by: {space} has {wrong}"
            )
        return replace(self, inner=spec)

    @property
    def spec(self) -> EnvSpec:
        """Actions in [-1, 1], flat whatever their shape in the environment."""
        size = math.prod(self.inner.action_space.shape)
        return replace(self.inner, action_space=Box(-1.0, 1.0, (size,), np.float32))

    def init(self, num_envs: int, device: torch.device | str) -> Bounds:
        """The bounds, flat."""
        space = self.inner.action_space
        return Bounds(
            *(
                torch.tensor(side.ravel(), dtype=torch.float32, device=device)
                for side in (space.low, space.high)
            )
        )

    def action(self, state: Bounds, action: Tensor) -> Tensor:
        """`[B, D]` in [-1, 1] to `[B, D]` within the bounds."""
        low, high = state
        return torch.clamp(low + (action + 1.0) * (0.5 * (high - low)), low, high)


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
