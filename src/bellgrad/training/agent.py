"""A trained agent outside its run: one observation in, one action out."""

from typing import Any, Self

import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space, Tuple
from numpy.typing import NDArray
from torch import Tensor, nn

from bellgrad.core.actions import within_bounds
from bellgrad.core.errors import UsageError
from bellgrad.core.masks import KEY, choices, has_mask, nothing_allowed
from bellgrad.core.process import in_own_settings, in_own_settings_if_needed
from bellgrad.core.records import EpisodeTotals, Step
from bellgrad.core.rng import derive_seed, draw
from bellgrad.core.tree import Tree, to_device
from bellgrad.envs.gym import obs_to_tensor
from bellgrad.envs.images import FrameStack, MaxPool
from bellgrad.envs.transformed import TransformedEnv
from bellgrad.envs.transforms import ActionRepeat
from bellgrad.runs.folder import Which
from bellgrad.training.run import Run


class Agent:
    """Acts in the environment's own units: raw observations in, the environment's actions out. Made by
    `bellgrad.load`.

    It keeps the memory of its transforms and its policy during an episode; call `reset` when a new one
    begins. With `ActionRepeat(n)` it must still be called at every step of the environment: it gives each
    action n times, and sees the observations in between.
    """

    def __init__(self, learner: Any, state: Any, env: TransformedEnv, seed: int):
        self.learner, self.state = learner, state
        self._transforms, self._saved = env.transforms, env.transform_state
        self.observation_space, self.action_space = env.env.observation_space, env.env.action_space
        self._generator = torch.Generator(state.steps.device).manual_seed(derive_seed(seed, "agent"))
        self.reset()

    @classmethod
    @in_own_settings
    def load(cls, run: Run, checkpoint: Which = "last") -> Self:
        """The agent of a run."""
        learner, state, env = run.load(checkpoint)
        env.close()
        return cls(learner, state, env, run.settings.seed)

    @in_own_settings
    def reset(self) -> None:
        """Forget the current episode."""
        self._first, self._memory = True, self._saved
        self._calls = [0] * len(self._transforms)
        self._action: NDArray[Any] | None = None
        self._carry = to_device(self.learner.init_carry(1), self.state.steps.device)

    @in_own_settings_if_needed
    def act(self, obs: Any, deterministic: bool = True) -> Any:
        """The action for one observation.

        Args:
            obs: one observation of the environment, as Gymnasium gives it.
            deterministic: the greedy action, or a sample of the policy.

        Returns:
            An int for Discrete actions, else an array of the action space's shape and dtype, within its
            bounds.

        Raises:
            UsageError: the observation does not fit the environment's observation space, or its mask allows
                no action.
        """
        space = self.observation_space
        if isinstance(obs, tuple) and len(obs) == 2 and isinstance(obs[1], dict) and not space.contains(obs):
            raise UsageError("this is what reset gives, (obs, info); give the first of the two, obs")
        if isinstance(obs, tuple) and len(obs) == 5 and isinstance(obs[4], dict) and not space.contains(obs):
            raise UsageError("this is what step gives, five values; give the first of them, obs")
        if isinstance(space, Box) and np.shape(obs) != space.shape:
            raise UsageError(f"the observation has shape {np.shape(obs)}, expected {space.shape}")
        raw = obs_to_tensor(space, [obs], self.state.steps.device)
        sizes = choices(self.action_space) if has_mask(space, self.action_space) else None
        if sizes is not None and nothing_allowed(raw[KEY].cpu().numpy(), sizes)[0]:
            raise UsageError(f"the observation's {KEY!r} allows no action")
        with torch.no_grad():
            seen, decides = self._observe(raw)
            if decides:
                # Without noise the first of equally good actions is taken, as by the exported policy.
                noise = None if deterministic else draw(self.learner.act_noise(1), self._generator)
                acted = self.learner.act(self.state, self._carry, seen, noise, explore=not deterministic)
                self._carry = acted.carry
                self._action = self._outward(acted.action)[0].cpu().numpy()
            assert self._action is not None  # the first call after a reset decides
            action = self._action.copy()
        if isinstance(self.action_space, Discrete):
            return int(action) + int(self.action_space.start)
        action = action.reshape(self.action_space.shape)
        if isinstance(self.action_space, MultiDiscrete):
            return (action + self.action_space.start).astype(self.action_space.dtype)
        assert isinstance(self.action_space, Box)  # no learner acts in another space
        return within_bounds(self.action_space, action)

    def _observe(self, obs: Tree) -> tuple[Tree, bool]:
        """The observation through the frozen transforms, and whether the policy decides on it."""
        still = torch.zeros(1, dtype=torch.bool, device=self.state.steps.device)
        zero = torch.zeros(1, device=still.device)
        states = list(self._memory)
        for k, (transform, state) in enumerate(zip(self._transforms, self._memory, strict=True)):
            if isinstance(transform, ActionRepeat):
                taken = self._calls[k]  # of its steps, since the episode began
                self._calls[k] += 1
                if taken % transform.n:
                    self._memory = tuple(states)
                    return obs, False
            if self._first:
                state = transform.reset(state, obs, True)
                obs = transform.observe(state, obs)
            else:
                step = Step(obs, zero, still, still, obs, EpisodeTotals(zero, zero.long()))
                state, step = transform.step(state, step, True)
                obs = step.obs
            states[k] = state
        self._first, self._memory = False, tuple(states)
        return obs, True

    def _outward(self, action: Tensor) -> Tensor:
        for transform, state in zip(reversed(self._transforms), reversed(self._saved), strict=True):
            action = transform.action(state, action)
        return action

    @in_own_settings
    def as_module(self) -> tuple[nn.Module, Tree]:
        """The greedy policy as a module from raw observations to the environment's actions, and an example
        input.

        With frame stacking the input is the stack of the last n raw observations, the oldest first: `[B, n,
        *O]`. With repeated actions they are those at which the policy decides, and the caller repeats the
        action.

        Raises:
            UsageError: the policy has a memory, or sees the maximum of several observations.
        """
        space = self.observation_space
        if self.learner.init_carry(1) is not None:
            raise UsageError("a policy with a memory cannot be exported")
        if any(isinstance(t, MaxPool) for t in self._transforms):
            raise UsageError("a policy that sees the maximum of several images (max_pool) cannot be exported")
        example = obs_to_tensor(space, [space.sample(), space.sample()], "cpu")
        stacks = [t.n for t in self._transforms if isinstance(t, FrameStack)]
        return GreedyPolicy(self), torch.stack([example] * stacks[0], 1) if stacks else example


class GreedyPolicy(nn.Module):
    """From raw observations `[B, *O]` to the environment's actions: `[B]` or `[B, D]` int64, or `[B, D]` of
    the dtype of the Box."""

    def __init__(self, agent: Agent):
        super().__init__()
        self._agent = agent

    def forward(self, obs: Tree) -> Tensor:
        """Normalize, stack, act greedily, scale."""
        agent = self._agent
        obs = _from_zero(agent.observation_space, obs)
        stacked = any(isinstance(t, FrameStack) for t in agent._transforms)
        for transform, state in zip(agent._transforms, agent._saved, strict=True):
            if isinstance(transform, FrameStack):
                obs, stacked = transform.observe(obs, obs), False
            elif stacked:  # a transform below the stack sees one observation at a time
                obs = transform.observe(state, obs.flatten(0, 1)).unflatten(0, obs.shape[:2])
            else:
                obs = transform.observe(state, obs)
        action = agent._outward(agent.learner.act(agent.state, None, obs, None, explore=False).action)
        space = agent.action_space
        if isinstance(space, Discrete | MultiDiscrete):
            return action + torch.as_tensor(space.start).flatten()
        assert isinstance(space, Box)
        if space.dtype == np.float32:
            return action
        low, high = (torch.from_numpy(side.ravel()) for side in (space.low, space.high))
        return action.to(low.dtype).clamp(low, high)  # as `within_bounds`


def _from_zero(space: Space[Any], obs: Tree) -> Tree:
    """A raw observation with its categories counted from 0, as a learner sees them."""
    if isinstance(space, Dict):
        return {key: _from_zero(child, obs[key]) for key, child in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(_from_zero(child, part) for child, part in zip(space.spaces, obs, strict=True))
    return obs - torch.as_tensor(space.start) if isinstance(space, Discrete | MultiDiscrete) else obs
