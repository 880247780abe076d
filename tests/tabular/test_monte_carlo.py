"""On-policy and off-policy Monte Carlo: returns computed by hand, exact values, and the Blackjack examples of
Sutton and Barto's chapter 5."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Discrete

import bellgrad as bg
from bellgrad.core.errors import UsageError
from bellgrad.mdp.examples import random_walk
from bellgrad.mdp.finite_horizon import finite_horizon_evaluation
from bellgrad.mdp.gridworld import gridworld

CARDS = 22  # steps; no hand takes more, so that this horizon changes nothing
ON_POLICY = (bg.MonteCarlo, bg.MonteCarloControl)
OFF_POLICY = (bg.OffPolicyMonteCarlo, bg.OffPolicyMonteCarloControl)


def learned(folder, algorithm, env, steps, **options):
    """The learner's tables at the end."""
    options = {"progress": "off", "eval_episodes": 0, "checkpoints": 1} | options
    return bg.load(bg.train(algorithm, env, steps, out=folder, **options)).state


class ThreeSteps(gymnasium.Env):
    """The same three steps in every episode: state 0 for 1, state 0 again for 2, state 1 for 4."""

    observation_space, action_space = Discrete(3), Discrete(1)
    rewards, states = (1.0, 2.0, 4.0), (0, 0, 1, 2)

    def __init__(self, terminates=True):
        self.terminates = terminates

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return 0, {}

    def step(self, action):
        reward, self.t = self.rewards[self.t], self.t + 1
        over = self.t == 3
        return self.states[self.t], reward, over and self.terminates, over and not self.terminates, {}


@pytest.mark.parametrize("algorithm", ON_POLICY + OFF_POLICY, ids=lambda a: a.__name__)
@pytest.mark.parametrize(
    ("visit", "value", "visits"),
    [("first", [3.0, 4.0, 0.0], [2, 2, 0]), ("every", [3.5, 4.0, 0.0], [4, 2, 0])],
)
def test_returns_of_first_and_of_every_visit(algorithm, visit, value, visits, tmp_path):
    # Discount 0.5: the returns are 1 + 0.5 * 4 = 3, 2 + 0.5 * 4 = 4, and 4.
    table = learned(tmp_path / "run", algorithm(gamma=0.5, visit=visit), ThreeSteps, 6, engine="eager")
    estimate = table.v if hasattr(table, "v") else table.q[:, 0]
    assert estimate.tolist() == value and table.visits.flatten().tolist() == visits


@pytest.mark.parametrize("algorithm", ON_POLICY + OFF_POLICY, ids=lambda a: a.__name__)
def test_a_truncated_episode_is_bootstrapped_or_excluded(algorithm, tmp_path):
    # The estimate of the last state is 8: the returns are 4 + 4 = 8, 2 + 4 = 6 and 1 + 3 = 4.
    options = {"engine": "eager", "env_kwargs": {"terminates": False}}
    kept = learned(tmp_path / "kept", algorithm(gamma=0.5, initial_value=8.0), ThreeSteps, 3, **options)
    excluded = learned(
        tmp_path / "out", algorithm(gamma=0.5, truncated_episodes="exclude"), ThreeSteps, 3, **options
    )
    # it counts every visit: the mean of 6 and 4
    first = 5.0 if algorithm is bg.OffPolicyMonteCarloControl else 4.0
    assert (kept.v if hasattr(kept, "v") else kept.q[:, 0]).tolist() == [first, 8.0, 8.0]
    assert excluded.visits.sum() == 0


BUFFERED = [(algorithm, {}) for algorithm in ON_POLICY + OFF_POLICY] + [
    (bg.MonteCarlo, {"backend": "gymnasium", "engine": "eager"})
]


@pytest.mark.parametrize(("algorithm", "options"), BUFFERED)
def test_an_episode_longer_than_the_buffer_gives_a_usage_error(algorithm, options, tmp_path):
    with pytest.raises(
        UsageError, match="CliffWalking-v1 takes more than 20 steps: raise max_episode_length"
    ):
        learned(tmp_path / "run", algorithm(max_episode_length=20), "CliffWalking-v1", 500, **options)


def test_an_episode_may_fill_the_buffer_and_the_time_limit_bounds_its_size(tmp_path):
    learned(tmp_path / "fits", bg.MonteCarlo(max_episode_length=3), ThreeSteps, 9, engine="eager")
    table = learned(
        tmp_path / "cut", bg.MonteCarlo(), "FrozenLake-v1", 300, engine="eager", max_episode_steps=7
    )
    assert table.episode.obs.shape == (7,)


@pytest.mark.parametrize(
    ("algorithm", "said"),
    [
        (bg.MonteCarlo(policy=[[1.0]]), r"has shape \(1, 1\); FrozenLake-v1 needs \(16, 4\)"),
        (bg.MonteCarlo(policy=[[0.5, 0.5, 0.5, 0.5]] * 16), "the row of state 0, .* is not a distribution"),
        (
            bg.OffPolicyMonteCarlo(behavior=[[1.0, 0.0, 0.0, 0.0]] * 16),
            "may take action 1 in state 0, but the behavior never does",
        ),
    ],
)
def test_a_policy_that_does_not_fit_is_refused(algorithm, said, tmp_path):
    with pytest.raises(UsageError, match=said):
        learned(tmp_path / "run", algorithm, "FrozenLake-v1", 100)


@pytest.mark.parametrize("policy", ["greedy", 3, [1.0, 2.0], [[1.0], [0.5, 0.5]]])
def test_a_field_that_is_not_a_policy_is_refused_at_once(policy):
    with pytest.raises(UsageError, match="policy"):
        bg.MonteCarlo(policy=policy)


def test_exploring_starts_need_known_dynamics(tmp_path):
    with pytest.raises(
        UsageError, match="MonteCarloControl starts episodes in any state, which needs known dynamics"
    ):
        learned(
            tmp_path / "run",
            bg.MonteCarloControl(exploring_starts=True),
            "FrozenLake-v1",
            100,
            backend="gymnasium",
        )


@pytest.mark.parametrize("visit", ["first", "every"])
def test_prediction_finds_the_values_of_the_random_walk(visit, tmp_path):
    # 200,000 steps are 22,000 episodes. A return is 0 or 1, so that the standard error of a state's mean is
    # below 0.005.
    table = learned(tmp_path / "run", bg.MonteCarlo(gamma=1.0, visit=visit), random_walk(), 200_000)
    np.testing.assert_allclose(table.v, np.arange(1, 6) / 6, atol=0.02)


@pytest.fixture(scope="module")
def cards():
    return bg.FiniteMDP.from_gymnasium("Blackjack-v1")


@pytest.fixture(scope="module")
def cautious(cards):
    """The policy of example 5.1: stick on 20 or 21, else hit."""
    total = np.arange(cards.num_states) // 22
    return np.eye(2)[(total < 20).astype(int)]


def test_prediction_finds_the_values_of_blackjack(cards, cautious, tmp_path):
    """Sutton and Barto, example 5.1. Returns are between -1 and 1, so that 5,000 of them have a standard
    error below 0.0142."""
    exact = finite_horizon_evaluation(cards, cautious, CARDS)[0]
    table = learned(tmp_path / "run", bg.MonteCarlo(gamma=1.0, policy=cautious), "Blackjack-v1", 2_000_000)
    often = (table.visits >= 5_000).numpy()
    assert often.sum() > 100
    assert np.abs(table.v.numpy() - exact)[often].max() < 0.05


def test_off_policy_prediction_finds_a_value_of_blackjack_from_random_play(cards, cautious, tmp_path):
    """Sutton and Barto, example 5.4: dealer's deuce, sum 13 with a usable ace. The book's own estimate is
    -0.27726. After 400,000 steps the standard error is 0.008, by the spread of 12 seeds at half as many
    steps: 0.03 is nearly four of them."""
    start = (13 * 11 + 2) * 2 + 1
    exact = finite_horizon_evaluation(cards, cautious, CARDS)[0][start]
    assert exact == pytest.approx(-0.27726, abs=1e-3)
    from_there = replace(cards, initial=np.eye(cards.num_states)[start])
    for weighting in ("weighted", "ordinary"):
        algorithm = bg.OffPolicyMonteCarlo(gamma=1.0, policy=cautious, weighting=weighting)
        table = learned(tmp_path / weighting, algorithm, from_there, 400_000)
        assert table.v[start] == pytest.approx(exact, abs=0.03)


def test_exploring_starts_find_the_best_policy_of_blackjack(cards, tmp_path):
    """Sutton and Barto, figure 5.2. Every hand whose better action is better by 0.05 is played right, and
    nearly all of the others; Q is within 0.1. A pair that looks bad at first is rarely tried again: 3,400
    visits, with a standard error of 0.017."""
    q = bg.solve(cards, horizon=CARDS, progress="off").q[0]
    table = learned(
        tmp_path / "run", bg.MonteCarloControl(gamma=1.0, exploring_starts=True), "Blackjack-v1", 3_000_000
    )
    hands = np.array(["against" in name for name in cards.state_names])
    assert (table.visits.sum(1).numpy()[hands] > 3_000).all()
    right = table.q.numpy().argmax(1) == q.argmax(1)
    clear = hands & (np.abs(q[:, 0] - q[:, 1]) > 0.05)
    assert (hands.sum(), clear.sum()) == (290, 277)
    assert right[clear].all() and right[hands].sum() >= 285
    assert np.abs(table.q.numpy() - q)[hands].max() < 0.1


ROOM = ["S...", ".#..", "...G"]  # the goal is five steps away


def test_control_finds_the_shortest_path(tmp_path):
    mdp = gridworld(ROOM, step_reward=-1.0, rewards={})
    algorithm = bg.MonteCarloControl(
        gamma=1.0, alpha=0.1, alpha_power=0.0, epsilon_final=0.0, epsilon_fraction=1.0
    )
    run = bg.train(
        algorithm, mdp, 50_000, out=tmp_path / "run", max_episode_steps=200, progress="off", eval_episodes=0
    )
    assert bg.evaluate(run, episodes=1).return_mean == -5


def test_off_policy_control_finds_the_optimal_values(tmp_path):
    mdp = gridworld(ROOM, slip=0.2)
    best = bg.solve(mdp, gamma=0.9).q
    algorithm = bg.OffPolicyMonteCarloControl(gamma=0.9, epsilon_initial=0.5, epsilon_final=0.5)
    table = learned(tmp_path / "run", algorithm, mdp, 500_000, max_episode_steps=1_000)
    cells = np.array([name in "S." for name in mdp.state_names])
    np.testing.assert_allclose(table.q[cells].max(1).values, best[cells].max(1), atol=0.03)
