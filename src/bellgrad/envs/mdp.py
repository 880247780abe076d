"""An environment that samples a finite MDP, so that what is learned from it can be compared with the exact
answer."""

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.utils import colorize
from gymnasium.wrappers import TimeLimit

from bellgrad.core.errors import UsageError, unknown
from bellgrad.mdp.checks import count
from bellgrad.mdp.model import FiniteMDP, Floats


def to_gymnasium(
    mdp: FiniteMDP, max_episode_steps: int | None = None, render_mode: str | None = None
) -> gymnasium.Env:
    """An environment that samples an MDP, with a time limit.

    Args:
        mdp: what is sampled.
        max_episode_steps: steps after which an episode is truncated; None keeps the MDP's own limit, or
            none.
        render_mode: None or `"ansi"`.

    Returns:
        A `FiniteMDPEnv`, in Gymnasium's `TimeLimit` if there is a limit.

    Raises:
        UsageError: an unknown render mode, or a limit below 1.
    """
    limit = mdp.max_episode_steps if max_episode_steps is None else max_episode_steps
    env = FiniteMDPEnv(mdp, render_mode)
    if limit is None:
        return env
    return TimeLimit(env, count("max_episode_steps", limit))


class FiniteMDPEnv(gymnasium.Env):
    """Samples a finite MDP, without a time limit: one uniform number chooses the first state, and one the
    outcome of each step.

    It runs through the cumulated probabilities as Gymnasium's own tabular environments do: made from
    FrozenLake's MDP, it repeats FrozenLake's episodes, seed by seed. `info["action_mask"]`, `[A]` int8, tells
    which actions are legal in the state that `reset` or `step` gives.

    Args:
        mdp: what is sampled.
        render_mode: None or `"ansi"`: the map if there is one, else the state's name.

    Raises:
        UsageError: an unknown render mode; in `step`, an action that is illegal in its state.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"], "render_fps": 4}

    def __init__(self, mdp: FiniteMDP, render_mode: str | None = None):
        if not isinstance(mdp, FiniteMDP):
            raise UsageError(f"mdp must be a FiniteMDP, got a {type(mdp).__name__}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise unknown("render mode", str(render_mode), self.metadata["render_modes"])
        self.mdp = mdp
        self.observation_space = Discrete(mdp.num_states)
        self.action_space = Discrete(mdp.num_actions)
        self.render_mode = render_mode
        self._start = np.cumsum(mdp.initial)
        self._state: int | None = None
        self._action: int | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Start an episode; `options` are accepted and ignored."""
        super().reset(seed=seed)
        self._state, self._action = _choose(self._start, self.np_random), None
        return self._state, self._info()

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Act; never truncates."""
        mdp = self.mdp
        if self._state is None:
            raise UsageError("reset the environment before the first step")
        if not self.action_space.contains(action):
            raise UsageError(f"action {action} is none of {mdp.num_actions}, from 0")
        pair = self._state * mdp.num_actions + int(action)
        first, last = mdp.offset[pair], mdp.offset[pair + 1]
        if first == last:
            raise UsageError(f"{mdp.place(pair)} is illegal; the legal actions are in info['action_mask']")
        outcome = first + _choose(np.cumsum(mdp.probability[first:last]), self.np_random)
        self._state, self._action = int(mdp.next_state[outcome]), int(action)
        return self._state, float(mdp.reward[outcome]), bool(mdp.terminated[outcome]), False, self._info()

    def render(self) -> str | None:
        """The last action and the map with the agent's cell in red, if the mode is `"ansi"`."""
        if self.render_mode is None or self._state is None:
            return None
        mdp = self.mdp
        action = "" if self._action is None else f"  ({mdp.action_name(self._action)})"
        if mdp.grid is None:
            return f"{mdp.state_name(self._state)}{action}\n"
        cells = [name[:1] or " " for name in mdp.state_names] if mdp.state_names else ["."] * mdp.num_states
        cells[self._state] = colorize(cells[self._state], "red", highlight=True)
        columns = mdp.grid[1]
        return (
            "\n".join([action, *("".join(cells[i : i + columns]) for i in range(0, len(cells), columns))])
            + "\n"
        )

    def _info(self) -> dict[str, Any]:
        return {"action_mask": self.mdp.legal[self._state].astype(np.int8)}


def _choose(cumulated: Floats, rng: np.random.Generator) -> int:
    """The first entry above a uniform number; the last if rounding leaves their sum below it."""
    return min(int(np.searchsorted(cumulated, rng.random(), side="right")), len(cumulated) - 1)
