"""What stands between an environment and its learner, as pure transforms: normalizers, frame stacks, scaled
actions and rewards.

A transform is a frozen dataclass; whatever it remembers is a tree of tensors that goes in and comes out. So
the same transforms run inside a compiled loop over a native environment and around any other `BatchedEnv`.
Episode totals always stay in the environment's own reward.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from bellgrad.core.errors import UsageError, check_range
from bellgrad.core.protocols import BatchedEnv
from bellgrad.core.records import EnvSpec, Step
from bellgrad.core.rng import Noise
from bellgrad.core.tree import Tree, leaves, map_tree, named_leaves, nest, restore_tree, where
from bellgrad.ops.statistics import RunningMoments

if TYPE_CHECKING:
    from bellgrad.mdp.model import FiniteMDP


@dataclass(frozen=True)
class Transform:
    """The contract, each function leaving things as they are. `bind` comes first; all others are pure.

    Attributes:
        inner: the environment that is transformed, known once bound.
    """

    inner: EnvSpec | None = field(default=None, kw_only=True, repr=False, compare=False)

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
        """The state after every environment began anew with `obs [B, *O]`. What belongs to one episode is
        forgotten, and sized anew by `obs`; statistics are kept."""
        return state

    def step(self, state: Tree, step: Step, frozen: bool, active: Tensor | None = None) -> tuple[Tree, Step]:
        """The next state, and the step as the learner sees it; statistics stand still where `frozen`.

        Environments where `active [B]` bool is given and False took no step: whatever is remembered of them
        stays.
        """
        return state, step

    def observe(self, state: Tree, obs: Tree) -> Tree:
        """The environment's present observation `[B, *O]` as the learner sees it; changes nothing."""
        return obs


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
        shape = self.inner.observation_space.shape
        return replace(self.inner, observation_space=Box(-self.clip, self.clip, shape, np.float32))

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
    1; here the return begins anew with every episode.

    Attributes:
        gamma: the learner's discount, in [0, 1]; in a run, None is the algorithm's.
        clip: bound of the result, in standard deviations, above 0.
    """

    gamma: float | None = None
    clip: float = 10.0

    def __post_init__(self) -> None:
        check_range(self, gamma=(0, 1), clip=(1e-6, math.inf))

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
    """Rewards held within bounds. Source: Mnih et al. 2015, methods: rewards clipped at 1 and -1.

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
class FrameStack(Transform):
    """The last `n` observations as one, the oldest first. Its state is the stack `[B, n, *O]`.

    Vectors `(O,)` become `(n, O)`, pictures `(H, W)` become `(n, H, W)` and `(C, H, W)` become `(n * C, H,
    W)`. An episode begins with `n` times its first observation.

    Attributes:
        n: observations, 1 or more.
    """

    n: int = 4

    def __post_init__(self) -> None:
        check_range(self, n=(1, math.inf))

    def bind(self, spec: EnvSpec) -> Self:
        """Refuses observations that are not a Box of one to three axes."""
        space = spec.observation_space
        if not isinstance(space, Box) or not 1 <= len(space.shape) <= 3:
            raise UsageError(f"FrameStack needs observations in a Box of one to three axes, not {space}")
        return replace(self, inner=spec)

    @property
    def spec(self) -> EnvSpec:
        """The stacked Box."""
        space = self.inner.observation_space
        join = np.concatenate if len(space.shape) == 3 else np.stack
        stacked = Box(join([space.low] * self.n), join([space.high] * self.n), dtype=space.dtype)
        return replace(self.inner, observation_space=stacked)

    def init(self, num_envs: int, device: torch.device | str) -> Tensor:
        """Zeros."""
        space = self.inner.observation_space
        dtype = torch.uint8 if space.dtype == np.uint8 else torch.float32
        return torch.zeros(num_envs, self.n, *space.shape, dtype=dtype, device=device)

    def reset(self, state: Tensor, obs: Tensor, frozen: bool) -> Tensor:
        """`n` times the first observation."""
        return torch.stack([obs] * self.n, 1)

    def step(
        self, state: Tensor, step: Step, frozen: bool, active: Tensor | None = None
    ) -> tuple[Tensor, Step]:
        """Append the successor; where an episode ended the next one's stack begins."""
        successor = torch.cat([state[:, 1:], step.next_obs.unsqueeze(1)], 1)
        if active is not None:
            successor = where(active, successor, state)
        first = step.obs.unsqueeze(1).expand_as(successor)
        state = where(step.terminated | step.truncated, first, successor)
        return state, step._replace(
            obs=self.observe(state, step.obs), next_obs=self.observe(successor, step.next_obs)
        )

    def observe(self, state: Tensor, obs: Tensor) -> Tensor:
        """The stack, channels of pictures joined."""
        return state.flatten(1, 2) if state.dim() == 5 else state


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
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise UsageError(
                f"RescaleAction needs finite action bounds, not {space}: what should 1 stand for?"
            )
        return replace(self, inner=spec)

    @property
    def spec(self) -> EnvSpec:
        """Actions in [-1, 1]."""
        return replace(self.inner, action_space=Box(-1.0, 1.0, self.inner.action_space.shape, np.float32))

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

    env: Tree  # the inner environment's own state
    transforms: tuple[Tree, ...]  # in the order of the transforms


class TransformedEnv:
    """A `BatchedEnv` seen through transforms, the first nearest to the environment.

    Where the inner environment is pure (it has `pure_step`, `noise`, `state` and `observe`), so is this one;
    elsewhere these four are missing, as `hasattr` tells.

    Args:
        env: any `BatchedEnv`.
        transforms: in the order in which an observation passes them.

    Attributes:
        frozen: statistics stand still, as evaluation needs; False at first. Not a part of a snapshot.
        mdp: the exact dynamics, for who may sample them instead of stepping; None, unless somebody who knows
            sets it.
        transform_state: one tree a transform, readable and assignable. Evaluation assigns that of training
            and then resets: the two may differ in `num_envs`.

    Raises:
        UsageError: a transform does not fit the spaces that it meets.
    """

    def __init__(self, env: BatchedEnv, transforms: Sequence[Transform]):
        own = getattr(env, "spec", None)
        if not isinstance(own, EnvSpec):
            own = EnvSpec(type(env).__name__, env.observation_space, env.action_space)
        bound: list[Transform] = []
        for transform in transforms:
            bound.append(transform.bind(bound[-1].spec if bound else own))
        self.env = env
        self.transforms = tuple(bound)
        self.spec = bound[-1].spec if bound else own
        self.num_envs = env.num_envs
        self.device = torch.device(getattr(env, "device", "cpu"))
        self.observation_space: gymnasium.Space = self.spec.observation_space
        self.action_space: gymnasium.Space = self.spec.action_space
        self.frozen = False
        self.mdp: FiniteMDP | None = None
        self.transform_state = tuple(transform.init(self.num_envs, self.device) for transform in bound)

    def reset(self, seed: int) -> Tree:
        """Start every environment anew; statistics go on. Returns `obs [B, *O]`."""
        obs, states = self.env.reset(seed), []
        for transform, state in zip(self.transforms, self.transform_state, strict=True):
            states.append(transform.reset(state, obs, self.frozen))
            obs = transform.observe(states[-1], obs)
        self.transform_state = tuple(states)
        return obs

    def step(self, action: Tensor, active: Tensor | None = None) -> Step:
        """Act in every environment, or where `active [B]` bool is True."""
        step = self.env.step(self._inward(self.transform_state, action), active)
        self.transform_state, step = self._outward(self.transform_state, step, active)
        return step

    def snapshot(self) -> dict[str, Any]:
        """The inner snapshot and the transforms' states, copied."""
        transforms = {name: leaf.clone() for name, leaf in named_leaves(self.transform_state).items()}
        return {"env": self.env.snapshot(), "transforms": nest(transforms)}

    def restore(self, tree: dict[str, Any]) -> Tree:
        """Continue from a snapshot; returns the observation to act on next.

        Where the inner environment cannot, the transforms do: a `reset` then keeps their statistics.
        """
        saved = named_leaves(tree.get("transforms", {}))  # a store of tensors drops what holds none
        template = tuple(transform.init(self.num_envs, self.device) for transform in self.transforms)
        self.transform_state = map_tree(torch.clone, restore_tree(template, saved))
        return self._observe(self.transform_state, self.env.restore(tree["env"]))

    def close(self) -> None:
        """Close the inner environment."""
        self.env.close()

    @property
    def noise(self) -> Noise:
        """The `Noise` that one `pure_step` needs."""
        return self.env.noise

    @property
    def state(self) -> TransformedState:
        """Where the environments and the transforms stand."""
        return TransformedState(self.env.state, self.transform_state)

    @state.setter
    def state(self, state: TransformedState) -> None:
        self.env.state, self.transform_state = state

    @property
    def pure_step(self) -> Callable[..., tuple[TransformedState, Step]]:
        """`(state, action, noise, active=None) -> (state, step)`; touches nothing that the object holds."""
        inner_step = (
            self.env.pure_step
        )  # an AttributeError here says that this environment is not pure either

        def pure_step(
            state: TransformedState, action: Tensor, noise: Tensor, active: Tensor | None = None
        ) -> tuple[TransformedState, Step]:
            env, step = inner_step(state.env, self._inward(state.transforms, action), noise, active)
            transforms, step = self._outward(state.transforms, step, active)
            return TransformedState(env, transforms), step

        return pure_step

    @property
    def observe(self) -> Callable[[TransformedState], Tree]:
        """`state -> obs [B, *O]` to act on; pure."""
        inner_observe = self.env.observe
        return lambda state: self._observe(state.transforms, inner_observe(state.env))

    def _inward(self, states: tuple[Tree, ...], action: Tensor) -> Tensor:
        for transform, state in zip(reversed(self.transforms), reversed(states), strict=True):
            action = transform.action(state, action)
        return action

    def _outward(
        self, states: tuple[Tree, ...], step: Step, active: Tensor | None
    ) -> tuple[tuple[Tree, ...], Step]:
        after = []
        for transform, state in zip(self.transforms, states, strict=True):
            state, step = transform.step(state, step, self.frozen, active)
            after.append(state)
        return tuple(after), step

    def _observe(self, states: tuple[Tree, ...], obs: Tree) -> Tree:
        for transform, state in zip(self.transforms, states, strict=True):
            obs = transform.observe(state, obs)
        return obs
