"""What lies between an environment and its learner, as pure transforms: normalizers, repeated and scaled
actions, rewards. Those of images and of several observations as one are in `images.py`.

A transform is a frozen dataclass; whatever it remembers is a tree of tensors that goes in and comes out. So
the same transforms run inside a compiled loop over a native environment and around any other `BatchedEnv`.
They are a list, the first nearest to the environment; that of Mnih et al. (2015) for Atari is

    MaxPool(2), ActionRepeat(4), Gray(), Resize(84), FrameStack(4), ClipReward()

Episode totals always count the environment's own rewards and steps.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from bellgrad.core.actions import unusable_bounds
from bellgrad.core.errors import UsageError, check_range
from bellgrad.core.images import with_bounds
from bellgrad.core.records import EnvSpec, Step
from bellgrad.core.tree import (
    Tree,
    leaves,
    where,
)
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
