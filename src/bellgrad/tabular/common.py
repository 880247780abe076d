"""What tabular learners share: their fields, the functions that every update is made of, and how they act.

A tabular learner is two compiled functions over NumPy tables, changed in place:

    begin(config, table, obs, noise) -> action
        chooses the first action of an episode, and forgets what belongs to the one before;
    learn(config, table, obs, action, reward, next_obs, terminated, truncated, noise) -> action
        learns from one step and chooses the next action; where the episode ended, the action is ignored.
        `OUTGREW` instead of an action says that a table is too small for the problem; the learner's
        `outgrown` then says what to do.

`config` holds the numbers of the algorithm's dataclass by their names, `table` is the algorithm's NamedTuple
of arrays (among them `steps []`, which the sampler advances before `learn`), `noise` is a `Noise`. The same
two functions learn from a compiled sampler, from a plain one, and from any environment.
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
from bellgrad.core.records import Acted, EnvSpec
from bellgrad.core.tree import Tree

# The "action" of a learner that has no room for what it saw; -1 is the sampler's, when no episode is under
# way.
OUTGREW = -2


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
    """Fields of the learners that move an estimate a part of the way to its target.

    Attributes:
        alpha: step size of the first visit to what is updated, a state or a state-action pair, in (0, 1].
        alpha_power: the step size of its n-th visit is `alpha / n ** alpha_power`: 0 is constant, above 0.5
            and up to 1 meets the conditions of Robbins and Monro (1951), and `alpha=1, alpha_power=1` is the
            plain mean.
    """

    alpha: float = 0.1
    alpha_power: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, alpha=(1e-12, 1), alpha_power=(0, 1))


@dataclass(frozen=True)
class EpsilonGreedy(Tabular):
    """Fields of the learners that act by their values, and now and then at random.

    Attributes:
        epsilon_initial: chance of a uniform action at the start, in [0, 1].
        epsilon_final: the same at the end.
        epsilon_fraction: of the planned steps, over which it falls linearly, in [0, 1].
        initial_value: what an unvisited pair is worth; above the truth it makes the learner try everything.
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
    """Fields of the learners that improve their own behavior step by step."""


@dataclass(frozen=True)
class Prediction(Tabular):
    """Fields of the learners that evaluate a given policy.

    Attributes:
        policy: what is evaluated: `uniform` over the legal actions, or a row of probabilities for each state,
            `[S][A]`.
        initial_value: what an unvisited state is worth.
    """

    policy: Literal["uniform"] | tuple[tuple[float, ...], ...] = "uniform"
    initial_value: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, initial_value=(-1e12, 1e12))
        object.__setattr__(self, "policy", as_rows("policy", self.policy))


def as_rows(name: str, policy: Any) -> Any:
    """A policy as a field keeps it: `uniform`, or any `[S, A]` table as nested tuples.

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
# Functions that go into the caller as source. A call that hands over a row of a table counts references to
# it, which takes longer than the arithmetic: Q-learning on FrozenLake takes 105 ns a step with calls and 42
# ns without.
inlined = njit(inline="always")


class Noise(NamedTuple):
    """Uniform random numbers on [0, 1), drawn before a stretch of sampling and taken one by one."""

    uniform: np.ndarray  # [n] float64
    taken: np.ndarray  # [1] int64


@inlined
def draw(noise):
    """The next uniform number."""
    noise.taken[0] += 1
    return noise.uniform[noise.taken[0] - 1]


@inlined
def best(q, legal):
    """The largest of `q [A]` over the legal actions."""
    value = -np.inf
    for action in range(len(q)):
        if legal[action] and q[action] > value:
            value = q[action]
    return value


@inlined
def choose(q, legal, least, uniform):
    """One of the legal actions whose entry of `q [A]` is at least `least`, each equally likely."""
    count = 0
    for action in range(len(q)):
        if legal[action] and q[action] >= least:
            count += 1
    left, chosen = int(uniform * count), 0
    for action in range(len(q)):
        if legal[action] and q[action] >= least:
            chosen = action
            if left == 0:
                break
            left -= 1
    return chosen


@inlined
def epsilon_greedy(q, legal, epsilon, uniform):
    """A uniform legal action with chance `epsilon`, else one of the best, each equally likely. One number
    serves both choices."""
    if uniform < epsilon:
        return choose(q, legal, -np.inf, uniform / epsilon)
    return choose(q, legal, best(q, legal), (uniform - epsilon) / (1 - epsilon))


@inlined
def epsilon_at(config, steps):
    """The chance of a uniform action after `steps` environment steps."""
    if steps >= config.epsilon_steps:
        return config.epsilon_final
    return (
        config.epsilon_initial
        + (config.epsilon_final - config.epsilon_initial) * steps / config.epsilon_steps
    )


@inlined
def step_size(config, visits):
    """The step size of a pair's n-th visit, n = `visits` from 1."""
    return config.alpha if config.alpha_power == 0.0 else config.alpha / visits**config.alpha_power


@inlined
def behave(config, table, obs, noise):
    """An epsilon-greedy action by `table.q`: the `begin` of the learners that keep nothing of an episode."""
    return epsilon_greedy(table.q[obs], table.legal[obs], epsilon_at(config, table.steps[()]), draw(noise))


@inlined
def expected(q, legal, epsilon):
    """The mean of `q [A]` under an epsilon-greedy policy."""
    total, count = 0.0, 0
    for action in range(len(q)):
        if legal[action]:
            total, count = total + q[action], count + 1
    return epsilon * total / count + (1 - epsilon) * best(q, legal)


@inlined
def sample(chances, uniform):
    """The first action whose cumulated chance, of `chances [A]`, is above a uniform number; by rounding, the
    last with any."""
    total, chosen = 0.0, -1
    for action in range(len(chances)):
        if chances[action] > 0.0:
            total, chosen = total + chances[action], action
            if uniform < total:
                break
    return chosen


@inlined
def follow(config, table, obs, noise):
    """An action of the given `table.policy`: the `begin` of the learners of a prediction that keep nothing of
    an episode."""
    return sample(table.policy[obs], draw(noise))


# --------------------------------------------------------------------------------------------------- learners
class QTable(NamedTuple):
    """The tables of a learner of `q` that keeps nothing else."""

    q: Tensor  # [S, A] float64
    visits: Tensor  # [S, A] int64
    legal: Tensor  # [S, A] bool
    steps: Tensor  # [] int64, environment steps; the sampler advances it


class VTable(NamedTuple):
    """The tables of a learner of the value `v` of a given policy that keeps nothing else."""

    v: Tensor  # [S] float64
    visits: Tensor  # [S] int64
    policy: Tensor  # [S, A] float64, rows are probabilities
    legal: Tensor  # [S, A] bool
    steps: Tensor  # [] int64, environment steps; the sampler advances it


def numbers(config: Any, **derived: float) -> np.record:
    """The numeric fields of a dataclass, and what is derived from them, as a record that compiled code reads
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


def chances(q: Tensor, legal: Tensor, epsilon: float) -> Tensor:
    """`[..., A]` float64, the epsilon-greedy policy for values `q [..., A]`; the best actions share
    equally."""
    q = torch.where(legal, q, -torch.inf)
    greedy = (q == q.amax(-1, keepdim=True)).double()
    greedy /= greedy.sum(-1, keepdim=True)
    return epsilon * legal / legal.sum(-1, keepdim=True) + (1 - epsilon) * greedy


class TabularLearner:
    """A tabular algorithm joined to a problem's states and actions. A subclass names its functions and makes
    its tables.

    Args:
        config: the algorithm's dataclass.
        spec: of the environment; observations and actions are Discrete.
        steps: environment steps that are planned, the horizon of schedules.

    Attributes:
        begin: see the head of this file.
        learn: likewise.
        draws: uniform numbers that one call of `begin` or `learn` takes at most.
        exploring_starts: whether episodes begin in any state; that needs known dynamics.

    Raises:
        UsageError: the observations or actions are not Discrete.
    """

    begin: ClassVar[Callable[..., int]] = staticmethod(behave)
    learn: ClassVar[Callable[..., int]]
    driver = "tabular"
    draws = 1
    exploring_starts = False

    def __init__(self, config: Any, spec: EnvSpec, steps: int | None = None):
        if not isinstance(spec.action_space, Discrete):
            raise UsageError(
                f"{type(config).__name__} learns a table and needs Discrete actions, not {spec.action_space}"
            )
        self.config, self.spec = config, spec
        self.num_states, self.num_actions = self.rows_for(spec.observation_space), int(spec.action_space.n)
        self.horizon = steps or 1
        self.numbers = self.make_numbers()

    def rows_for(self, space: Space) -> int:
        """Rows of the tables.

        Raises:
            UsageError: the observations do not count them.
        """
        name = type(self.config).__name__
        if isinstance(space, MultiDiscrete):
            raise UsageError(f"{name} learns a table; tile coding is for GradientQLearning and GradientSARSA")
        if not isinstance(space, Discrete):
            raise UsageError(
                f"{name} learns a table and needs Discrete observations, not {space}; give --bins"
            )
        return int(space.n)

    def make_numbers(self, **derived: float) -> np.record:
        """What the compiled functions read as `config`; a subclass adds to it what is no number among the
        fields."""
        return numbers(
            self.config, epsilon_steps=float(self.config.epsilon_fraction * self.horizon), **derived
        )

    def legal(self) -> Tensor:
        """`[S, A]` which actions may be chosen."""
        if self.spec.legal is None:
            return torch.ones(self.num_states, self.num_actions, dtype=torch.bool)
        return torch.from_numpy(self.spec.legal.copy())

    def full(self, value: float, dtype: torch.dtype = torch.float64) -> Tensor:
        """A table `[S, A]` of one value."""
        return torch.full((self.num_states, self.num_actions), value, dtype=dtype)

    def init(self, rng: torch.Generator) -> Tree:
        """Tables before the first step; another set than `QTable` overrides this."""
        return QTable(
            self.full(self.config.initial_value), self.full(0, torch.int64), self.legal(), torch.tensor(0)
        )

    def init_carry(self, num_envs: int) -> None:
        """A tabular actor has no memory."""

    def act_noise(self, num_envs: int) -> Tree:
        """One uniform number chooses an action."""
        return rng.Noise("uniform", (num_envs,))

    def action_value(self, state: Any) -> Tensor:
        """`[S, A]` float64, by which actions are chosen."""
        return state.q

    def metrics(self, state: Any) -> dict[str, Tensor]:
        """For the log, beside the episodes' figures."""
        return {"epsilon": torch.tensor(self.epsilon(state))}

    def epsilon(self, state: Any) -> float:
        """The chance of a uniform action as it is after `state.steps`."""
        return float(epsilon_at.py_func(self.numbers, state.steps.item()))

    def policy(self, state: Any, explore: bool) -> Tensor:
        """`[S, A]` float64, rows are probabilities; the best actions of a state share equally.

        Args:
            state: the learner's.
            explore: with the chance of a uniform action as it is after `state.steps`.
        """
        return chances(self.action_value(state), state.legal, self.epsilon(state) if explore else 0.0)

    def chances(self, state: Any, obs: Tensor, explore: bool) -> Tensor:
        """`[B, A]` float64, the rows of `policy` for `obs [B]`."""
        return self.policy(state, explore)[obs]

    def act(self, state: Any, carry: Tree, obs: Tensor, noise: Tensor | None, explore: bool = True) -> Acted:
        """Sample `policy` for `obs [B]`; without noise, its first most likely action."""
        chance = self.chances(state, obs, explore)
        if noise is None:
            return Acted(chance.argmax(-1), None, None)
        # Of the cumulated chances the first above the number; the last action with any chance, where rounding
        # leaves them below.
        passed = (noise.double().unsqueeze(-1) >= chance.cumsum(-1)).sum(-1)
        last = chance.shape[-1] - 1 - (chance.flip(-1) > 0).double().argmax(-1)
        return Acted(torch.minimum(passed, last), None, None)


class PredictionLearner(TabularLearner):
    """A learner of the value of a given policy, by which it also acts when it is evaluated."""

    begin: ClassVar[Callable[..., int]] = staticmethod(follow)

    def make_numbers(self, **derived: float) -> np.record:
        """What the compiled functions read as `config`."""
        return numbers(self.config, **derived)

    def probabilities(self, name: str) -> Tensor:
        """`[S, A]` float64, the policy in a field of the algorithm.

        Raises:
            UsageError: its shape is wrong, a row is no distribution, or an illegal action may be chosen.
        """
        legal, policy = self.legal(), getattr(self.config, name)
        if policy == "uniform":
            return legal.double() / legal.sum(-1, keepdim=True)
        table = torch.tensor(policy, dtype=torch.float64)
        what = f"{type(self.config).__name__}.{name}"
        if table.shape != legal.shape:
            raise UsageError(
                f"{what} has shape {tuple(table.shape)}; {self.spec.id} needs {tuple(legal.shape)}"
            )
        wrong = ~(
            (table >= 0).all(-1) & ((table.sum(-1) - 1).abs() <= 1e-6) & ~((table > 0) & ~legal).any(-1)
        )
        if wrong.any():
            state = int(wrong.double().argmax())
            raise UsageError(
                f"{what}: the row of state {state}, {policy[state]}, is no distribution over its legal"
                " actions"
            )
        return table

    def init(self, rng: torch.Generator) -> Tree:
        """Tables before the first step; another set than `VTable` overrides this."""
        v = torch.full((self.num_states,), self.config.initial_value, dtype=torch.float64)
        return VTable(
            v,
            torch.zeros_like(v, dtype=torch.int64),
            self.probabilities("policy"),
            self.legal(),
            torch.tensor(0),
        )

    def metrics(self, state: Any) -> dict[str, Tensor]:
        """Nothing beside the episodes' figures."""
        return {}

    def policy(self, state: Any, explore: bool) -> Tensor:
        """`[S, A]` float64, the given policy."""
        return state.policy
