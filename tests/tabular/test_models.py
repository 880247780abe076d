"""Learners of a model (Dyna-Q, certainty equivalence, R-max) compared with the planner and Q-learning."""

import numpy as np
import pytest

import bellgrad as bg
from bellgrad.core.errors import UsageError
from bellgrad.envs.mdp import FiniteMDPEnv
from bellgrad.mdp.evaluation import evaluate_policy
from bellgrad.mdp.examples import chain
from bellgrad.mdp.gridworld import gridworld
from bellgrad.mdp.policies import greedy_policy

MAZE = [  # Sutton and Barto, figure 8.2; the shortest path takes 14 steps
    ".......#G",
    "..#....#.",
    "S.#....#.",
    "..#......",
    ".....#...",
    ".........",
]
# figure 8.5: the path around the wall takes 16 steps
BLOCKED = [
    "........G",
    ".........",
    ".........",
    ".########",
    ".........",
    "...S.....",
]
# the new path takes 10
OPENED = [
    "........G",
    ".........",
    ".........",
    ".#######.",
    ".........",
    "...S.....",
]
GAMMA = 0.95


def learned(folder, algorithm, env, steps, **options):
    """The learner's tables at the end."""
    options = {"progress": "off", "eval_episodes": 0, "checkpoints": 1} | options
    run = bg.train(algorithm, env, steps, out=folder, **options)
    return bg.load(run, env=env).state


def walk(mdp, q):
    """Steps of the greedy policy from the start to the end of a deterministic MDP; S + 1 if it never
    ends."""
    state = int(mdp.initial.argmax())
    for steps in range(1, mdp.num_states + 1):
        outcome = mdp.offset[state * mdp.num_actions + int(q[state].argmax())]
        state = int(mdp.next_state[outcome])
        if mdp.terminated[outcome]:
            return steps
    return mdp.num_states + 1


@pytest.fixture(scope="module")
def maze():
    return gridworld(MAZE)


@pytest.mark.parametrize("seed", range(3))
def test_a_model_needs_far_fewer_steps(maze, seed, tmp_path):
    """Sutton and Barto, figure 8.2, with its alpha and epsilon: with 50 planning steps the third episode is
    nearly the shortest possible, without planning the 25th. So Dyna-Q reaches the goal several times as
    often. R-max tries each of the 184 pairs once."""
    usual = {"gamma": GAMMA, "alpha": 0.1, "epsilon_initial": 0.1, "epsilon_final": 0.1}
    dyna = learned(tmp_path / "dyna", bg.DynaQ(planning_steps=50, **usual), maze, 3_000, seed=seed)
    plain = learned(tmp_path / "plain", bg.QLearning(**usual), maze, 3_000, seed=seed)
    r_max = learned(tmp_path / "r_max", bg.RMax(gamma=GAMMA, known_visits=1), maze, 500, seed=seed)
    last = 1 * 9 + 8, 0  # up from the cell below the goal, whose other neighbor is a wall
    assert dyna.visits[last] > max(5 * plain.visits[last], 50)
    assert walk(maze, dyna.q) <= 16 and walk(maze, r_max.q) == 14


def test_dyna_learns_the_exact_values_of_a_deterministic_mdp(maze, tmp_path):
    best = bg.solve(maze, gamma=GAMMA, tolerance=1e-9).q
    table = learned(tmp_path / "run", bg.DynaQ(gamma=GAMMA, alpha=1.0, epsilon_final=1.0), maze, 30_000)
    assert (table.visits > 0).sum() == 46 * 4  # every pair except those of the goal and of the walls
    np.testing.assert_allclose(table.q[table.visits > 0], best[table.visits > 0], atol=1e-6)


def test_dyna_with_more_memory_learns_random_outcomes_better(tmp_path):
    # The frequencies of 200 remembered outcomes have a standard error of at most 0.033, and values are below
    # 0.7.
    best = bg.solve(bg.FiniteMDP.from_gymnasium("FrozenLake-v1"), gamma=GAMMA).q
    slow = {"gamma": GAMMA, "alpha": 1.0, "alpha_power": 0.6, "epsilon_final": 1.0}
    errors = []
    for memory in (1, 200):
        table = learned(tmp_path / str(memory), bg.DynaQ(memory=memory, **slow), "FrozenLake-v1", 100_000)
        errors.append(np.abs(table.q.numpy() - best).max())
    assert errors[1] < 0.12 < errors[0]


class OpensUp(FiniteMDPEnv):
    """A maze in which a shorter path opens after 3,000 steps."""

    def __init__(self):
        super().__init__(gridworld(BLOCKED))
        self.steps_left = 3_000

    def step(self, action):
        if self.steps_left == 0:
            self.mdp = gridworld(OPENED)
        self.steps_left -= 1
        return super().step(action)


def test_only_dyna_q_plus_finds_a_path_that_opens_later(tmp_path):
    """Sutton and Barto, figure 8.5 (the shortcut maze): Dyna-Q+ uses the new gap again and again,
    Dyna-Q only by accident."""
    usual = {"gamma": GAMMA, "alpha": 0.5, "epsilon_initial": 0.1, "epsilon_final": 0.1, "planning_steps": 50}
    in_gap = []
    for kappa in (0.0, 1e-3):
        table = learned(
            tmp_path / str(kappa), bg.DynaQ(kappa=kappa, **usual), OpensUp, 6_000, backend="gymnasium"
        )
        in_gap.append(table.visits[3 * 9 + 8].sum())
    assert in_gap[0] < 20 and in_gap[1] > 100


def test_certainty_equivalence_plans_with_its_counts(tmp_path):
    table = learned(
        tmp_path / "run", bg.CertaintyEquivalence(gamma=GAMMA, plan_period=5_000), "FrozenLake-v1", 5_000
    )
    counts, value = table.counts, np.zeros(16)
    visits = np.maximum(counts.visits.numpy(), 1)
    for _ in range(500):
        following = (counts.times.numpy() * value[counts.successor.numpy()]).sum(2)
        q = counts.reward.numpy() + GAMMA * following / visits
        value = q.max(1)
    np.testing.assert_allclose(table.q, q, atol=1e-5)
    assert counts.visits.sum() == 5_000 and value[0] > 0


def test_certainty_equivalence_converges_to_the_optimal_values(tmp_path):
    best = bg.solve(bg.FiniteMDP.from_gymnasium("FrozenLake-v1"), gamma=GAMMA).q
    table = learned(
        tmp_path / "run", bg.CertaintyEquivalence(gamma=GAMMA, epsilon_final=0.5), "FrozenLake-v1", 200_000
    )
    assert table.counts.visits.sum() == 200_000
    # the rarest pairs have 900 visits: a standard error of 0.016
    np.testing.assert_allclose(table.q, best, atol=0.05)


def test_r_max_of_a_grid_stays_within_the_bound(maze, tmp_path):
    """The MDP is deterministic, so that a pair is known after one visit (m = 1). As long as an unknown pair
    may be better, the agent goes to one by a path without a loop: at most S steps for each of S A pairs, S^2
    A in total. Then it is optimal."""
    s, a = 47, 4  # cells that are not walls
    table = learned(tmp_path / "run", bg.RMax(gamma=GAMMA, known_visits=1), maze, s * s * a)
    best = bg.solve(maze, gamma=GAMMA, tolerance=1e-9)
    known = table.known_at.numpy() >= 0
    assert np.abs(table.q.numpy() - best.q)[known].max() < 1e-4 and walk(maze, table.q) == 14
    assert table.known_at.max() < s * s * a / 4 and sorted(table.known_at[known].tolist()) == sorted(
        set(table.known_at[known].tolist())
    )


def test_r_max_of_a_chain_stays_within_the_bound(tmp_path):
    """A pair is known after m = 100 visits. From the first state to the last it takes `(0.8^-4 - 1) / 0.2 =
    7.2` steps on average, so that a visit to an unknown pair costs at most T = 8.2 steps, and all pairs cost
    m S A T = 8,200; twice as many are given. Then the policy is within 5% of the optimum from every state.
    With m = 100 the standard error of the probability of a slip is 0.04."""
    s, a, m, t = 5, 2, 100, 8.2
    mdp = chain(s)
    table = learned(
        tmp_path / "run", bg.RMax(gamma=GAMMA, r_max=10.0, known_visits=m), mdp, int(2 * m * s * a * t)
    )
    reached = evaluate_policy(mdp, greedy_policy(table.q.numpy()), GAMMA).value
    best = bg.solve(mdp, gamma=GAMMA).value
    assert (reached >= 0.95 * best).all()
    assert (table.known_at >= 0).all() and (table.counts.visits == m).all()
    easy = learned(
        tmp_path / "easy", bg.QLearning(gamma=GAMMA, epsilon_initial=0.1), mdp, int(2 * m * s * a * t)
    )
    assert (
        evaluate_policy(mdp, greedy_policy(easy.q.numpy()), GAMMA).value < 0.95 * best
    ).all()  # it settles for the small reward


def test_r_max_gives_unknown_pairs_the_highest_possible_value(tmp_path):
    first = learned(tmp_path / "first", bg.RMax(gamma=0.5, r_max=3.0, known_visits=2), "FrozenLake-v1", 1)
    assert (first.q == 6.0).all() and (first.known_at == -1).all()
    costs = learned(tmp_path / "costs", bg.RMax(gamma=0.5, r_max=-1.0, known_visits=1), "CliffWalking-v1", 40)
    assert (costs.q[costs.known_at < 0] == -1.0).all()  # one step, then the end
    surprise = learned(tmp_path / "surprise", bg.RMax(gamma=0.5, r_max=1.0, known_visits=1), chain(2), 50)
    assert surprise.r_max == 10.0


@pytest.mark.parametrize(
    "algorithm",
    [bg.RMax(max_successors=1), bg.CertaintyEquivalence(max_successors=1)],
    ids=lambda a: type(a).__name__,
)
def test_a_pair_with_too_many_successors_gives_a_usage_error(algorithm, tmp_path):
    with pytest.raises(
        UsageError, match="an action of FrozenLake-v1 leads to more than 1 states: raise max_successors"
    ):
        learned(tmp_path / "run", algorithm, "FrozenLake-v1", 500)


def test_r_max_needs_a_discount():
    with pytest.raises(UsageError, match=r"RMax\.gamma = 1\.0 is out of range"):
        bg.RMax(gamma=1.0)
