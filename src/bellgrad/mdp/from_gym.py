"""Finite MDPs from Gymnasium: environments that have their dynamics in `P`, and Blackjack from its rules.

Outcomes keep the order of `P`, so that a uniform number chooses the same outcome here and in Gymnasium.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
from gymnasium.envs.toy_text import BlackjackEnv, CliffWalkingEnv, FrozenLakeEnv, TaxiEnv

from bellgrad.core.errors import UsageError
from bellgrad.core.guard import guarded
from bellgrad.mdp.blackjack import blackjack_rules

ACTION_NAMES = {
    CliffWalkingEnv: ("up", "right", "down", "left"),
    FrozenLakeEnv: ("left", "down", "right", "up"),
    TaxiEnv: ("south", "north", "east", "west", "pick up", "drop off"),
}
CLIFF_WALKING = "." * 36 + "S" + "X" * 10 + "G"


def gymnasium_rules(
    env: str | gymnasium.Env | Callable[..., gymnasium.Env], **env_kwargs: Any
) -> dict[str, Any]:
    """The dynamics of an environment that has them in `P`, or of Blackjack: the arguments of
    `FiniteMDP.from_function`.

    Wrappers must not change observations, actions or rewards. How Blackjack's states are numbered is
    documented in `bellgrad.mdp.blackjack`.

    Args:
        env: a registered id, an environment, or a class or function that makes one.
        env_kwargs: arguments of the environment, if it is made here.

    Returns:
        Among the arguments is the time limit of the environment's specification; for Gymnasium's own
        environments also names and grid.

    Raises:
        UsageError: the environment cannot be made, it has no `P`, or its steps do not follow `P`.
    """
    if isinstance(env, gymnasium.Env):
        if env_kwargs:
            raise UsageError(f"an environment object takes no arguments, got {', '.join(env_kwargs)}")
        return _rules_of(env)
    who = f"the environment {env}"
    with guarded(who, "its constructor", f"{who} could not be made"):
        made = gymnasium.make(env, **env_kwargs) if isinstance(env, str) else env(**env_kwargs)
    with guarded(who, "its dynamics"):
        try:
            return _rules_of(made)
        finally:
            made.close()


def _rules_of(env: gymnasium.Env) -> dict[str, Any]:
    inner = env.unwrapped
    name = env.spec.id if env.spec else type(inner).__name__
    layer = env
    while isinstance(layer, gymnasium.Wrapper):
        if isinstance(
            layer, (gymnasium.ObservationWrapper, gymnasium.ActionWrapper, gymnasium.RewardWrapper)
        ):
            raise UsageError(
                f"{type(layer).__name__} changes {name}, but `P` describes the environment without"
                " that wrapper"
            )
        layer = layer.env
    limit = env.spec.max_episode_steps if env.spec else None
    if type(inner) is BlackjackEnv:
        return blackjack_rules(natural=bool(inner.natural), sab=bool(inner.sab), max_episode_steps=limit)
    if not hasattr(inner, "P") or not hasattr(inner, "initial_state_distrib"):
        raise UsageError(
            f"{name} does not show its dynamics: it has no `P` and `initial_state_distrib`; learn from its"
            " samples"
        )
    if getattr(inner, "fickle_passenger", False):
        raise UsageError(
            f"{name}: a fickle passenger depends on the last step, which `P` does not include; use"
            " fickle_passenger=False"
        )
    other_fields: dict[str, Any] = {"max_episode_steps": limit, "action_names": ACTION_NAMES.get(type(inner))}
    if isinstance(inner, FrozenLakeEnv):
        other_fields |= {
            "grid": inner.desc.shape,
            "state_names": tuple(letter.decode() for letter in inner.desc.ravel()),
        }
    if isinstance(inner, CliffWalkingEnv):
        other_fields |= {"grid": inner.shape, "state_names": tuple(CLIFF_WALKING)}
    num_states, num_actions = (_size(name, space) for space in (inner.observation_space, inner.action_space))

    def outcomes(state: int, action: int) -> list[tuple[float, int, float, bool]]:
        try:
            return inner.P[state][action]
        except (KeyError, IndexError) as error:
            raise UsageError(f"{name}: `P` has no entry for state {state}, action {action}") from error

    sizes = {"num_states": num_states, "num_actions": num_actions}
    return sizes | {"outcomes": outcomes, "initial": inner.initial_state_distrib} | other_fields


def _size(name: str, space: gymnasium.Space) -> int:
    if not isinstance(space, gymnasium.spaces.Discrete) or space.start != 0:
        raise UsageError(f"{name}: the states and actions of `P` must be Discrete spaces from 0, got {space}")
    return int(space.n)
