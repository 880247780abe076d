"""Random MDPs for hypothesis, and slow reference results for small ones that share no code with the
solvers."""

from fractions import Fraction
from itertools import product

import numpy as np
from hypothesis import strategies as st

from bellgrad.mdp.model import FiniteMDP

END = -1  # in the tables of `small`: an outcome that ends the episode
KINDS = ("dense", "sparse", "absorbing", "periodic")


def random_mdp(kind: str, states: int, actions: int, seed: int, *, illegal: bool = False) -> FiniteMDP:
    """Random probabilities and rewards per outcome.

    Dense and sparse ones go on forever; absorbing ones end with some outcomes of every pair, and stay in
    their last state for nothing; periodic ones go round, whatever is done.
    """
    rng = np.random.default_rng(seed)
    shape = (states, actions, states)
    terminated = np.zeros(shape, bool)
    if kind == "periodic":
        transition = np.broadcast_to(np.roll(np.eye(states), 1, axis=1)[:, None], shape)
    else:
        weight = rng.exponential(size=shape)
        if kind == "sparse":
            weight *= weight >= np.sort(weight, axis=2)[..., [-min(2, states)]]
        transition = weight / weight.sum(axis=2, keepdims=True)
    reward = rng.normal(size=shape).round(3)
    if kind == "absorbing":
        terminated = rng.random(shape) < 0.3
        terminated[..., rng.integers(states)] = True
        transition = transition.copy()
        transition[-1], reward[-1], terminated[-1] = np.eye(states)[-1], 0.0, False
    legal = np.ones((states, actions), bool)
    if illegal:
        legal = rng.random((states, actions)) < 0.5
        legal[np.arange(states), rng.integers(actions, size=states)] = True
    start = rng.exponential(size=states)
    return FiniteMDP.from_arrays(
        transition, reward, order="SAS", terminated=terminated, legal=legal, initial=start / start.sum()
    )


@st.composite
def mdps(draw, kinds=KINDS, max_states=6):
    states, actions, seed = (
        draw(st.integers(1, max_states)),
        draw(st.integers(1, 3)),
        draw(st.integers(0, 10**6)),
    )
    return random_mdp(draw(st.sampled_from(kinds)), states, actions, seed, illegal=draw(st.booleans()))


def random_policy(mdp: FiniteMDP, seed: int) -> np.ndarray:
    weight = np.random.default_rng(seed).exponential(size=mdp.legal.shape) * mdp.legal
    return weight / weight.sum(axis=1, keepdims=True)


def dense(mdp: FiniteMDP) -> tuple[np.ndarray, np.ndarray]:
    """Continuing probabilities `[S, A, S]` and expected rewards `[S, A]`, summed over the outcomes."""
    states, actions = mdp.num_states, mdp.num_actions
    transition, reward = np.zeros((states, actions, states)), np.zeros((states, actions))
    for pair in range(states * actions):
        for k in range(mdp.offset[pair], mdp.offset[pair + 1]):
            reward.flat[pair] += mdp.probability[k] * mdp.reward[k]
            if not mdp.terminated[k]:
                transition[pair // actions, pair % actions, mdp.next_state[k]] += mdp.probability[k]
    return transition, reward


def value_of(mdp: FiniteMDP, policy: np.ndarray, gamma: float) -> np.ndarray:
    """`[S]`, by a dense linear solve."""
    transition, reward = dense(mdp)
    chain = np.einsum("sa,sat->st", policy, transition)
    return np.linalg.solve(np.eye(mdp.num_states) - gamma * chain, (policy * reward).sum(axis=1))


def deterministic_policies(mdp: FiniteMDP) -> list[np.ndarray]:
    """All deterministic policies, `[S, A]` each."""
    choices = product(*(np.flatnonzero(row) for row in mdp.legal))
    return [np.eye(mdp.num_actions)[list(choice)] for choice in choices]


def small(table, **described):
    """An MDP from `{(state, action): [(probability, next state or END, reward), ...]}`."""
    states, actions = (max(pair[k] for pair in table) + 1 for k in (0, 1))

    def outcomes(state, action):
        return [(p, state if s == END else s, r, s == END) for p, s, r in table.get((state, action), [])]

    return FiniteMDP.from_function(states, actions, outcomes, **described)


@st.composite
def loops(draw):
    """Few states, rewards -1, 0 and 1, one or two successors, and few ends, which gives loops of every
    kind."""
    states, actions = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    paid = draw(
        st.sampled_from([[0.3, 0.7, 0.0], [0.6, 0.4, 0.0], [0.0, 0.7, 0.3], [0.6, 0.2, 0.2], [0.4, 0.3, 0.3]])
    )
    table = {}
    for s, a in product(range(states), range(actions)):
        reward = float(rng.choice([-1, 0, 1], p=paid))
        successors = rng.integers(END if rng.random() < 0.4 else 0, states, size=rng.integers(1, 3))
        table[s, a] = [(1 / len(successors), int(successor), reward) for successor in successors]
    return small(table)


def value_until_the_end(mdp, policy):
    """`[S]` by a dense solve, -inf if the policy may go on forever. A state from which only free steps can
    follow counts as an end.

    None if it may go on forever without a loss, with steps that are not all free.
    """
    transition, reward = dense(mdp)
    eye, lasting = np.eye(mdp.num_states), 2 * mdp.num_states
    ways = np.linalg.matrix_power(eye + transition.max(axis=1), lasting) > 0
    free = ((reward == 0) & (mdp.ending == 0)).all(axis=1)
    chain, income = np.einsum("sa,sat->st", policy, transition), (policy * reward).sum(axis=1)
    chain[[free[row].all() for row in ways]] = 0
    reach = np.linalg.matrix_power(eye + chain, lasting) > 0
    ends = np.array([(chain[row].sum(axis=1) < 1 - 1e-9).any() for row in reach])
    for state in np.flatnonzero(~ends):
        recurs = reach[state] & reach[:, state]
        if (reach[state] == recurs).all() and income[recurs].any():
            visits = np.linalg.matrix_power((eye + chain) / 2, 2**20)[state]
            if visits @ income > -1e-9:
                return None
    sure = np.array([ends[row].all() for row in reach])
    value = np.full(mdp.num_states, -np.inf)
    value[sure] = np.linalg.solve((eye - chain)[sure][:, sure], income[sure])
    return value


def averages(mdp, policy):
    """`[S]` the average reward from each start, from a lazy version of the chain, which has the same
    averages, squared sixty times."""
    transition, reward = dense(mdp)
    power = (np.eye(mdp.num_states) + np.einsum("sa,sat->st", policy, transition)) / 2
    for _ in range(60):
        power = power @ power
        power /= power.sum(axis=1, keepdims=True)
    return power @ (policy * reward).sum(axis=1)


def exact_best(mdp: FiniteMDP, gamma: float) -> tuple[list[Fraction], list[list[Fraction | None]]]:
    """`V* [S]` and `Q* [S, A]`, None if illegal, without rounding: the best of all deterministic policies,
    each evaluated by Gauss-Jordan elimination on fractions."""
    states, actions = mdp.num_states, mdp.num_actions
    columns = (mdp.probability, mdp.next_state, mdp.reward, mdp.terminated)
    rows = [
        [
            (Fraction(float(p)), int(after), Fraction(float(r)), Fraction(0 if ends else gamma))
            for p, after, r, ends in zip(*(column[first:last] for column in columns), strict=True)
        ]
        for first, last in zip(mdp.offset[:-1], mdp.offset[1:], strict=True)
    ]
    value = None
    for choice in product(*(np.flatnonzero(row) for row in mdp.legal)):
        equations = [[Fraction(int(i == j)) for j in range(states)] + [Fraction(0)] for i in range(states)]
        for state, action in enumerate(choice):
            for p, after, r, factor in rows[state * actions + action]:
                equations[state][after] -= p * factor
                equations[state][-1] += p * r
        found = _eliminate(equations)
        value = found if value is None else [max(pair) for pair in zip(value, found, strict=True)]
    q = [sum(p * (r + factor * value[after]) for p, after, r, factor in row) if row else None for row in rows]
    return value, [q[state * actions : (state + 1) * actions] for state in range(states)]


def _eliminate(equations: list[list[Fraction]]) -> list[Fraction]:
    for column in range(len(equations)):
        pivot = next(row for row in range(column, len(equations)) if equations[row][column])
        equations[column], equations[pivot] = equations[pivot], equations[column]
        equations[column] = [entry / equations[column][column] for entry in equations[column]]
        for row, entries in enumerate(equations):
            if row != column and entries[column]:
                factor = entries[column]
                equations[row] = [a - factor * b for a, b in zip(entries, equations[column], strict=True)]
    return [row[-1] for row in equations]


SIZES = ("even", "small steps", "penalties", "large", "two worlds", "tiny", "rare and huge")


def rough_mdp(seed: int) -> FiniteMDP:
    """Few states, exact probabilities, and rewards of very different sizes: `SIZES`, in turn by the seed.

    Every second one has terminations; some have illegal actions, or two sets of states without a way between
    them.
    """
    rng, size = np.random.default_rng(seed), SIZES[seed % len(SIZES)]
    states, actions = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    legal = rng.random((states, actions)) < rng.choice([1.0, 0.7])
    legal[np.arange(states), rng.integers(actions, size=states)] = True
    world, apart = rng.integers(2, size=states), rng.random() < 0.3

    def reward(state, action):
        r = float(rng.integers(-5, 6))
        match size:
            case "small steps":
                return r * 10.0 ** rng.integers(-12, 1)
            case "penalties" if action == actions - 1 and legal[state, :-1].any():
                return -1e12
            case "large":
                return r * 1e10
            case "two worlds":
                return r * (1e10 if world[state] else 1e-3)
            case "tiny":
                return r * 1e-20
            case "rare and huge":
                return r + 1e12 * rng.integers(-1, 2) * (rng.random() < 0.2)
        return r

    def outcomes(state, action):
        if not legal[state, action]:
            return []
        weight = rng.integers(1, 5, size=int(rng.integers(1, 4)))
        total = 1 << int(weight.sum() - 1).bit_length()
        weight[-1] += total - weight.sum()
        targets = np.flatnonzero(world == world[state]) if apart else np.arange(states)
        return [
            (w / total, int(rng.choice(targets)), reward(state, action), seed % 2 == 0 and rng.random() < 0.3)
            for w in weight.tolist()
        ]

    return FiniteMDP.from_function(states, actions, outcomes)
