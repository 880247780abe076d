"""What all tabular learners share: fields, the compiled functions that updates are made of, and how they act.

A tabular learner is two compiled functions on NumPy tables, which they change in place:

    begin(config, table, obs, noise) -> action
        chooses the first action of an episode, and clears what was kept of the previous episode;
    learn(config, table, obs, action, reward, next_obs, terminated, truncated, noise) -> action
        learns from one step and chooses the next action, which is ignored if the episode ended. If it
        returns `TABLE_FULL`, a table is too small for the problem, and the learner's `table_full_message`
        says what to do.

`config` is a record of the numeric fields of the algorithm's dataclass. `table` is the algorithm's NamedTuple
of arrays; one of them is `steps []`, which the sampler increments before `learn`. `noise` is a
`UniformNumbers`. The same two functions learn from a compiled sampler, from a plain one, and from any
environment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Discrete, MultiDiscrete, Space
from numba import njit
from torch import Tensor

from bellgrad.core import rng
from bellgrad.core.errors import UsageError, check_range, check_types, unknown
from bellgrad.core.memory import need_memory
from bellgrad.core.records import Acted, EnvSpec
from bellgrad.core.tree import Tree

# Returned by `learn` in place of an action if a table has no room for the step. -1 is the sampler's sign that
# no episode is in progress.
TABLE_FULL = -2


@dataclass(frozen=True)
class Tabular:
    """Fields of every tabular learner.

    Attributes:
        gamma: discount per environment step, in [0, 1].
    """

    gamma: float = 0.99

    default_num_envs: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_types(self)
        check_range(self, gamma=(0, 1))


@dataclass(frozen=True)
class StepSize(Tabular):
    """Fields of the learners that move an estimate part of the way to its target.

    Attributes:
        alpha: step size at the first visit to a state or state-action pair, in (0, 1].
        alpha_power: the step size at the n-th visit is `alpha / n ** alpha_power`. 0 is constant; above 0.5
            and up to 1 meets the conditions of Robbins and Monro (1951); `alpha=1, alpha_power=1` is the
            plain mean.
    """

    alpha: float = 0.1
    alpha_power: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, alpha=(1e-12, 1), alpha_power=(0, 1))


@dataclass(frozen=True)
class EpsilonGreedy(Tabular):
    """Fields of the learners that act greedily by their values, or at random with probability epsilon.

    Attributes:
        epsilon_initial: probability of a uniformly random action at the start, in [0, 1].
        epsilon_final: the same at the end.
        epsilon_fraction: fraction of the planned steps over which it falls linearly, in [0, 1].
        initial_value: value of an unvisited pair; if it is above the true values, the learner tries
            everything.
    """

    epsilon_initial: float = 1.0
    epsilon_final: float = 0.05
    epsilon_fraction: float = 0.5
    initial_value: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(
            self,
            epsilon_initial=(0, 1),
            epsilon_final=(0, 1),
            epsilon_fraction=(0, 1),
            initial_value=(-1e12, 1e12),
        )


@dataclass(frozen=True)
class Control(EpsilonGreedy, StepSize):
    """Fields of the learners that improve their own policy at every step."""


@dataclass(frozen=True)
class Prediction(Tabular):
    """Fields of the learners that evaluate a given policy.

    Attributes:
        policy: the policy that is evaluated: `uniform` over the legal actions, or a row of probabilities for
            each state, `[S][A]`.
        initial_value: value of an unvisited state.
    """

    policy: Literal["uniform"] | tuple[tuple[float, ...], ...] = "uniform"
    initial_value: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, initial_value=(-1e12, 1e12))
        object.__setattr__(self, "policy", as_policy_rows("policy", self.policy))


def as_policy_rows(name: str, policy: Any) -> Any:
    """A policy in the form that a field stores: `uniform`, or an `[S, A]` table as nested tuples.

    Raises:
        UsageError: it is neither.
    """
    if isinstance(policy, str):
        if policy != "uniform":
            raise unknown(name, policy, ["uniform"])
        return policy
    try:
        table = np.asarray(policy, dtype=np.float64)
    except (TypeError, ValueError):
        table = np.empty(0)
    if table.ndim != 2:
        raise UsageError(f"{name} must be 'uniform' or a row of probabilities for each state")
    return tuple(map(tuple, table.tolist()))


# --------------------------------------------------------------------------------------------- compiled parts
# These functions are inlined as source. A call that passes a row of a table counts references to it, which
# takes longer than the arithmetic: Q-learning on FrozenLake takes 105 ns per step with calls and 42 ns
# without.
inlined = njit(inline="always")


class UniformNumbers(NamedTuple):
    """Uniform random numbers in [0, 1), drawn in advance and taken one by one."""

    uniform: np.ndarray  # [n] float64
    taken: np.ndarray  # [1] int64


@inlined
def next_uniform(noise):
    """The next uniform number."""
    noise.taken[0] += 1
    return noise.uniform[noise.taken[0] - 1]


@inlined
def max_q(q, legal):
    """The largest of `q [A]` over the legal actions."""
    value = -np.inf
    for action in range(len(q)):
        if legal[action] and q[action] > value:
            value = q[action]
    return value


@inlined
def random_action_at_least(q, legal, threshold, uniform):
    """One of the legal actions whose entry of `q [A]` is at least `threshold`, all equally likely."""
    count = 0
    for action in range(len(q)):
        if legal[action] and q[action] >= threshold:
            count += 1
    remaining, chosen = int(uniform * count), 0
    for action in range(len(q)):
        if legal[action] and q[action] >= threshold:
            chosen = action
            if remaining == 0:
                break
            remaining -= 1
    return chosen


@inlined
def epsilon_greedy(q, legal, epsilon, uniform):
    """A random legal action with probability `epsilon`, otherwise a random one of the best. One number
    serves both choices."""
    if uniform < epsilon:
        return random_action_at_least(q, legal, -np.inf, uniform / epsilon)
    return random_action_at_least(q, legal, max_q(q, legal), (uniform - epsilon) / (1 - epsilon))


@inlined
def epsilon_at(config, steps):
    """The probability of a uniformly random action after `steps` environment steps."""
    if steps >= config.epsilon_steps:
        return config.epsilon_final
    return (
        config.epsilon_initial
        + (config.epsilon_final - config.epsilon_initial) * steps / config.epsilon_steps
    )


@inlined
def step_size(config, visits):
    """The step size at the n-th visit, n = `visits`, from 1."""
    return config.alpha if config.alpha_power == 0.0 else config.alpha / visits**config.alpha_power


@inlined
def act_epsilon_greedily(config, table, obs, noise):
    """An epsilon-greedy action by `table.q`: the `begin` of control learners that store no episode."""
    return epsilon_greedy(
        table.q[obs], table.legal[obs], epsilon_at(config, table.steps[()]), next_uniform(noise)
    )


@inlined
def expected_q(q, legal, epsilon):
    """The mean of `q [A]` under an epsilon-greedy policy."""
    total, count = 0.0, 0
    for action in range(len(q)):
        if legal[action]:
            total, count = total + q[action], count + 1
    return epsilon * total / count + (1 - epsilon) * max_q(q, legal)


@inlined
def sample_action(probabilities, uniform):
    """The first action whose cumulative probability, of `probabilities [A]`, is above a uniform number. If
    rounding leaves none, the last action that is possible."""
    total, chosen = 0.0, -1
    for action in range(len(probabilities)):
        if probabilities[action] > 0.0:
            total, chosen = total + probabilities[action], action
            if uniform < total:
                break
    return chosen


@inlined
def act_by_policy(config, table, obs, noise):
    """An action of the given `table.policy`: the `begin` of prediction learners that store no episode."""
    return sample_action(table.policy[obs], next_uniform(noise))


# --------------------------------------------------------------------------------------------------- learners
class QTable(NamedTuple):
    """The tables of a learner of action values that needs nothing else."""

    q: Tensor  # [S, A] float64
    visits: Tensor  # [S, A] int64
    legal: Tensor  # [S, A] bool
    steps: Tensor  # [] int64, environment steps; the sampler increments it


class VTable(NamedTuple):
    """The tables of a learner of the value of a given policy that needs nothing else."""

    v: Tensor  # [S] float64
    visits: Tensor  # [S] int64
    policy: Tensor  # [S, A] float64, rows are probabilities
    legal: Tensor  # [S, A] bool
    steps: Tensor  # [] int64, environment steps; the sampler increments it


def numeric_fields(config: Any, **derived: float) -> np.record:
    """The numeric fields of a dataclass and numbers derived from them, as a record that compiled code reads
    by name."""
    values = {f.name: getattr(config, f.name) for f in fields(config)} | derived
    kinds = {bool: np.bool_, int: np.int64, float: np.float64}
    kept = {name: value for name, value in values.items() if type(value) in kinds}
    hints = {f.name: f.type for f in fields(config)}
    dtype = [
        (name, np.float64 if hints.get(name) == "float" else kinds[type(value)])
        for name, value in kept.items()
    ]
    return np.rec.array([tuple(kept.values())], dtype=dtype)[0]


def epsilon_greedy_probabilities(q: Tensor, legal: Tensor, epsilon: float) -> Tensor:
    """`[..., A]` float64, the epsilon-greedy policy for values `q [..., A]`; the best actions have equal
    probabilities."""
    q = torch.where(legal, q, -torch.inf)
    greedy = (q == q.amax(-1, keepdim=True)).double()
    greedy /= greedy.sum(-1, keepdim=True)
    return epsilon * legal / legal.sum(-1, keepdim=True) + (1 - epsilon) * greedy


class TabularLearner:
    """A tabular algorithm for the states and actions of one problem. A subclass defines the functions and the
    tables.

    Args:
        config: the algorithm's dataclass.
        spec: of the environment; observations and actions are Discrete.
        steps: planned environment steps, the horizon of schedules.

    Attributes:
        begin: see the top of this file.
        learn: the same.
        max_draws: the most uniform numbers that one call of `begin` or `learn` takes.
        exploring_starts: whether episodes begin in a uniformly random state; this needs known dynamics.

    Raises:
        UsageError: the observations or actions are not Discrete, or the table does not fit into memory.
    """

    begin: ClassVar[Callable[..., int]] = staticmethod(act_epsilon_greedily)
    learn: ClassVar[Callable[..., int]]
    driver = "tabular"
    max_draws = 1
    exploring_starts = False

    def __init__(self, config: Any, spec: EnvSpec, steps: int | None = None):
        if not isinstance(spec.action_space, Discrete):
            raise UsageError(
                f"{type(config).__name__} learns a table and needs Discrete actions, not {spec.action_space}"
            )
        self.config, self.spec = config, spec
        self.num_states, self.num_actions = self.num_rows(spec.observation_space), int(spec.action_space.n)
        need_memory(
            17 * self.num_states * self.num_actions,  # a value, a count and whether it is legal
            f"a table of {self.num_states:,} states and {self.num_actions:,} actions",
        )
        self.horizon = steps or 1
        self.config_record = self.make_config_record()

    def num_rows(self, space: Space) -> int:
        """The number of rows of the tables.

        Raises:
            UsageError: the observations are not Discrete.
        """
        name = type(self.config).__name__
        if isinstance(space, MultiDiscrete):
            raise UsageError(f"{name} learns a table; tile coding is for GradientQLearning and GradientSARSA")
        if not isinstance(space, Discrete):
            raise UsageError(
                f"{name} learns a table and needs Discrete observations, not {space}; give --bins"
            )
        return int(space.n)

    def make_config_record(self, **derived: float) -> np.record:
        """What the compiled functions read as `config`; a subclass adds numbers for its fields that are not
        numeric."""
        return numeric_fields(
            self.config, epsilon_steps=float(self.config.epsilon_fraction * self.horizon), **derived
        )

    def table_full_message(self) -> str:
        """What to do if `learn` returned `TABLE_FULL`; a learner whose `learn` may do so defines this."""
        raise NotImplementedError

    def legal(self) -> Tensor:
        """`[S, A]` which actions may be chosen."""
        if self.spec.legal is None:
            return torch.ones(self.num_states, self.num_actions, dtype=torch.bool)
        return torch.from_numpy(self.spec.legal.copy())

    def full(self, value: float, dtype: torch.dtype = torch.float64) -> Tensor:
        """A table `[S, A]` of one value."""
        return torch.full((self.num_states, self.num_actions), value, dtype=dtype)

    def init(self, rng: torch.Generator) -> Tree:
        """The tables before the first step. A learner with other tables than `QTable` overrides this."""
        return QTable(
            self.full(self.config.initial_value), self.full(0, torch.int64), self.legal(), torch.tensor(0)
        )

    def init_carry(self, num_envs: int) -> None:
        """None: a tabular policy has no memory."""

    def act_noise(self, num_envs: int) -> Tree:
        """One uniform number per action."""
        return rng.Noise("uniform", (num_envs,))

    def action_value(self, state: Any) -> Tensor:
        """`[S, A]` float64, the values by which actions are chosen."""
        return state.q

    def metrics(self, state: Any) -> dict[str, Tensor]:
        """What is logged in addition to the episodes' statistics."""
        return {"epsilon": torch.tensor(self.epsilon(state))}

    def epsilon(self, state: Any) -> float:
        """The probability of a uniformly random action after `state.steps`."""
        return float(epsilon_at.py_func(self.config_record, state.steps.item()))

    def policy(self, state: Any, explore: bool) -> Tensor:
        """`[S, A]` float64, rows are probabilities; the best actions of a state have equal ones.

        Args:
            state: of the learner.
            explore: whether to act at random with probability epsilon, as after `state.steps`.
        """
        return epsilon_greedy_probabilities(
            self.action_value(state), state.legal, self.epsilon(state) if explore else 0.0
        )

    def action_probabilities(self, state: Any, obs: Tensor, explore: bool) -> Tensor:
        """`[B, A]` float64, the rows of `policy` for `obs [B]`."""
        return self.policy(state, explore)[obs]

    def act(self, state: Any, carry: Tree, obs: Tensor, noise: Tensor | None, explore: bool = True) -> Acted:
        """Sample `policy` for `obs [B]`; without noise, take the first of its most likely actions."""
        probability = self.action_probabilities(state, obs, explore)
        if noise is None:
            return Acted(probability.argmax(-1), None, None)
        # The first action whose cumulative probability is above the number. If rounding leaves none, the last
        # action that is possible.
        passed = (noise.double().unsqueeze(-1) >= probability.cumsum(-1)).sum(-1)
        last = probability.shape[-1] - 1 - (probability.flip(-1) > 0).double().argmax(-1)
        return Acted(torch.minimum(passed, last), None, None)


class PredictionLearner(TabularLearner):
    """A learner of the value of a given policy. When it is evaluated, it acts by that policy."""

    begin: ClassVar[Callable[..., int]] = staticmethod(act_by_policy)

    def make_config_record(self, **derived: float) -> np.record:
        """What the compiled functions read as `config`."""
        return numeric_fields(self.config, **derived)

    def policy_table(self, name: str) -> Tensor:
        """`[S, A]` float64, the policy in a field of the algorithm.

        Raises:
            UsageError: its shape is wrong, a row is not a distribution, or an illegal action may be chosen.
        """
        legal, policy = self.legal(), getattr(self.config, name)
        if policy == "uniform":
            return legal.double() / legal.sum(-1, keepdim=True)
        table = torch.tensor(policy, dtype=torch.float64)
        field = f"{type(self.config).__name__}.{name}"
        if table.shape != legal.shape:
            raise UsageError(
                f"{field} has shape {tuple(table.shape)}; {self.spec.id} needs {tuple(legal.shape)}"
            )
        wrong = ~(
            (table >= 0).all(-1) & ((table.sum(-1) - 1).abs() <= 1e-6) & ~((table > 0) & ~legal).any(-1)
        )
        if wrong.any():
            state = int(wrong.double().argmax())
            raise UsageError(
                f"{field}: the row of state {state}, {policy[state]}, is not a distribution over its legal"
                " actions"
            )
        return table

    def init(self, rng: torch.Generator) -> Tree:
        """The tables before the first step. A learner with other tables than `VTable` overrides this."""
        v = torch.full((self.num_states,), self.config.initial_value, dtype=torch.float64)
        return VTable(
            v,
            torch.zeros_like(v, dtype=torch.int64),
            self.policy_table("policy"),
            self.legal(),
            torch.tensor(0),
        )

    def metrics(self, state: Any) -> dict[str, Tensor]:
        """Nothing in addition to the episodes' statistics."""
        return {}

    def policy(self, state: Any, explore: bool) -> Tensor:
        """`[S, A]` float64, the given policy."""
        return state.policy
