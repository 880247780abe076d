"""Finite MDPs from Gymnasium: environments that have their dynamics in `P`, and Blackjack from its rules.

Outcomes keep the order of `P`, so that a uniform number chooses the same outcome here and in Gymnasium.

That an environment has `P` does not show that its `step` and `reset` follow it: a subclass, a wrapper or an
assignment may have replaced them. They are believed if exactly one class defines them. Those of Gymnasium's
own classes are known to follow `P`; those of another class are compared with it, step by step, on a copy.
"""

import copy
from collections.abc import Callable
from types import MethodType
from typing import Any

import gymnasium
import numpy as np
from gymnasium import wrappers
from gymnasium.envs.toy_text import BlackjackEnv, CliffWalkingEnv, FrozenLakeEnv, TaxiEnv

from bellgrad.core.errors import UsageError
from bellgrad.core.guard import guarded
from bellgrad.mdp.blackjack import blackjack_rules

ACTION_NAMES = {
    CliffWalkingEnv: ("up", "right", "down", "left"),
    FrozenLakeEnv: ("left", "down", "right", "up"),
    TaxiEnv: ("south", "north", "east", "west", "pick up", "drop off"),
}
# The steps and resets that are known to follow `P`, or the rules of Blackjack.
KNOWN = {cls: (cls.step, cls.reset) for cls in (*ACTION_NAMES, BlackjackEnv)}
# Wrappers that change nothing of what happens in an episode.
PLAIN = {
    cls: (cls.step, cls.reset)
    for cls in (
        gymnasium.Wrapper,
        wrappers.HumanRendering,
        wrappers.OrderEnforcing,
        wrappers.PassiveEnvChecker,
        wrappers.RecordEpisodeStatistics,
        wrappers.RecordVideo,
        wrappers.RenderCollection,
        wrappers.TimeLimit,
    )
}
COMPARED = 1_000  # steps of an environment of another class
WRITE_IT = (
    "write its dynamics as FiniteMDP.from_function(num_states, num_actions, outcomes), or learn from its"
    " samples"
)
CLIFF_WALKING = "." * 36 + "S" + "X" * 10 + "G"


def from_gymnasium(
    mdp_class: Any, env: str | gymnasium.Env | Callable[..., gymnasium.Env], env_kwargs: dict[str, Any]
) -> Any:
    """The dynamics of an environment that has them in `P`, of Blackjack, or of a `FiniteMDPEnv`.

    Wrappers must not change what happens. How Blackjack's states are numbered is documented in
    `bellgrad.mdp.blackjack`.

    Args:
        mdp_class: `FiniteMDP`, which uses this module and is not imported here.
        env: a registered id, an environment, or a class or function that makes one.
        env_kwargs: arguments of the environment, if it is made here.

    Returns:
        The MDP, with the time limit of the environment's specification; for Gymnasium's own environments
        also names and grid.

    Raises:
        UsageError: the environment cannot be made, it has no `P`, or its steps do not follow `P`.
    """
    if isinstance(env, gymnasium.Env):
        if env_kwargs:
            raise UsageError(f"an environment object takes no arguments, got {', '.join(env_kwargs)}")
        return _dynamics_of(env, mdp_class)
    if not isinstance(env, str) and not callable(env):
        raise UsageError(
            f"an environment is an id, a gymnasium.Env, or a class or function that makes one; got a"
            f" {type(env).__name__}"
        )
    who = f"the environment {env}"
    with guarded(who, "its constructor", f"{who} could not be made"):
        made = gymnasium.make(env, **env_kwargs) if isinstance(env, str) else env(**env_kwargs)
    if not isinstance(made, gymnasium.Env):
        raise UsageError(f"{env} made a {type(made).__name__}, not a gymnasium.Env")
    with guarded(who, "its dynamics"):
        try:
            return _dynamics_of(made, mdp_class)
        finally:
            made.close()


def _dynamics_of(env: gymnasium.Env, mdp_class: Any) -> Any:
    inner = env.unwrapped
    name = env.spec.id if env.spec else type(inner).__name__
    layer = env
    while layer is not inner and isinstance(layer, gymnasium.Wrapper):
        if _replaced(layer) or (type(layer).step, type(layer).reset) not in PLAIN.values():
            raise UsageError(
                f"{type(layer).__name__} changes {name}, but `P` describes the environment without that"
                f" wrapper; {WRITE_IT}"
            )
        layer = layer.env
    shown = getattr(inner, "mdp", None)
    if not isinstance(shown, mdp_class):
        shown = None
        if not isinstance(inner, BlackjackEnv) and not (
            hasattr(inner, "P") and hasattr(inner, "initial_state_distrib")
        ):
            raise UsageError(
                f"{name} does not show its dynamics: it has no `P` and `initial_state_distrib`; learn from"
                " its samples"
            )
    what = "the rules of Blackjack" if isinstance(inner, BlackjackEnv) else "`mdp`" if shown else "`P`"
    _check_owner(inner, name, what)
    made = shown or mdp_class.from_function(**_rules_of(env, name))
    own = (type(inner).step, type(inner).reset)
    ours = own[0].__module__ == own[1].__module__ == "bellgrad.envs.mdp"  # `FiniteMDPEnv`
    if own not in KNOWN.values() and not ours and own[0] is not gymnasium.Env.step:
        _compare(inner, made, name, what)
    return made


def _replaced(layer: gymnasium.Env) -> bool:
    """Whether another `step` or `reset` than its class's was assigned to this object."""
    kind = type(layer)
    return (layer.step, layer.reset) != (MethodType(kind.step, layer), MethodType(kind.reset, layer))


def _check_owner(inner: gymnasium.Env, name: str, what: str) -> None:
    """Refuse `step` and `reset` that replace those which `P` may describe."""
    if _replaced(inner):
        raise UsageError(
            f"{name}: its step or reset was replaced, and {what} need not describe the new one; {WRITE_IT}"
        )
    base = next((cls for cls in KNOWN if isinstance(inner, cls)), None)
    for k, method in enumerate(("step", "reset")):
        owners = [cls for cls in type(inner).__mro__ if method in vars(cls) and cls is not gymnasium.Env]
        altered = base is not None and vars(base)[method] is not KNOWN[base][k]
        if len(owners) > 1 or altered:
            raise UsageError(
                f"{name}: {owners[0].__name__} has a {method} of its own, which {what} of"
                f" {owners[-1].__name__} need not describe; {WRITE_IT}"
            )


def _compare(inner: gymnasium.Env, mdp: Any, name: str, what: str) -> None:
    """Take random steps in a copy of the environment: each must be an outcome of the MDP."""
    try:
        env = copy.deepcopy(inner)
    except Exception as error:  # whatever a user's environment holds
        raise UsageError(
            f"{name} cannot be copied to compare its steps with {what} ({type(error).__name__}: {error});"
            f" {WRITE_IT}"
        ) from error
    rng = np.random.default_rng(0)
    try:
        state = int(env.reset(seed=0)[0])
        starts = 0 <= state < mdp.num_states and mdp.initial[state] > 0
        contradiction = None if starts else f"it begins in state {state}, which has probability 0"
        for _ in range(COMPARED):
            if contradiction:
                break
            action = int(rng.choice(np.flatnonzero(mdp.legal[state])))
            obs, reward, terminated, truncated, _ = env.step(action)
            pair = state * mdp.num_actions + action
            one = slice(mdp.offset[pair], mdp.offset[pair + 1])
            fits = (
                (mdp.next_state[one] == int(obs))
                & np.isclose(mdp.reward[one], float(reward), rtol=1e-6, atol=1e-9)
                & (mdp.terminated[one] == bool(terminated))
                & (mdp.probability[one] > 0)
            )
            if not fits.any():
                contradiction = (
                    f"{mdp.place(pair)} gave next state {obs}, reward {reward}, terminated {terminated},"
                    f" which is none of its outcomes"
                )
            state = int(env.reset()[0]) if terminated or truncated else int(obs)
    except UsageError:
        raise
    except Exception as error:  # whatever a user's environment raises
        raise UsageError(
            f"{name}: its steps could not be compared with {what}: {type(error).__name__}: {error}"
        ) from error
    if contradiction:
        raise UsageError(
            f"{name} does not follow its {what.removeprefix('the ')}: {contradiction}; {WRITE_IT}"
        )


def _rules_of(env: gymnasium.Env, name: str) -> dict[str, Any]:
    """The arguments of `FiniteMDP.from_function`."""
    inner = env.unwrapped
    limit = env.spec.max_episode_steps if env.spec else None
    if isinstance(inner, BlackjackEnv):
        return blackjack_rules(natural=bool(inner.natural), sab=bool(inner.sab), max_episode_steps=limit)
    if getattr(inner, "fickle_passenger", False):
        raise UsageError(
            f"{name}: a fickle passenger depends on the last step, which `P` does not include; use"
            " fickle_passenger=False"
        )
    other_fields: dict[str, Any] = {
        "max_episode_steps": limit,
        "action_names": next((names for cls, names in ACTION_NAMES.items() if isinstance(inner, cls)), None),
    }
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
        except (KeyError, IndexError, TypeError) as error:
            raise UsageError(f"{name}: `P` has no entry for state {state}, action {action}") from error

    sizes = {"num_states": num_states, "num_actions": num_actions}
    return sizes | {"outcomes": outcomes, "initial": inner.initial_state_distrib} | other_fields


def _size(name: str, space: gymnasium.Space) -> int:
    if not isinstance(space, gymnasium.spaces.Discrete) or space.start != 0:
        raise UsageError(f"{name}: the states and actions of `P` must be Discrete spaces from 0, got {space}")
    return int(space.n)
