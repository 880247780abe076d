"""Temporal-difference control: updates by hand, special cases that equal each other, known examples, and
the planner."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from drive import Lesson, trained
from gymnasium.spaces import Discrete

import bellgrad as bg
from bellgrad.core.errors import UsageError
from bellgrad.core.records import EnvSpec
from bellgrad.mdp.examples import cliff_walking, corridor, garnet, windy_gridworld

GREEDY = {"epsilon_initial": 0.0, "epsilon_final": 0.0}
TENTH = {"epsilon_initial": 0.1, "epsilon_final": 0.1}


def spec(states=5, actions=2):
    return EnvSpec("steps", Discrete(states), Discrete(actions))


# ---------------------------------------------------------------------------------------------------- by hand
ALWAYS_RIGHT = [(0, 1, -1.0, 1, False, False), (1, 1, -1.0, 2, False, False), (2, 1, -10.0, 3, False, False)]


@pytest.mark.parametrize("algorithm", [bg.QLearning, bg.GradientQLearning])
def test_q_learning_in_the_corridor_gives_the_lectures_table(algorithm):
    # The lecture's trajectory of "always R", step size 0.5, from a table of zeros.
    learner = algorithm(alpha=0.5, gamma=1.0)
    table = Lesson(learner, spec()).show(*ALWAYS_RIGHT)
    q = table.q if algorithm is bg.QLearning else table.weights
    assert q[:, 1].tolist() == [-0.5, -0.5, -5.0, 0.0, 0.0] and not q[:, 0].any()
    table = Lesson(learner, spec()).show(ALWAYS_RIGHT[0], ALWAYS_RIGHT[0])
    assert table[0][0, 1] == -0.75


def taught(algorithm, following, **fields):
    """The table after one step from pair (0, 0) with reward 1 to state 1, whose actions have the values 4 and
    8, with alpha 0.5 and gamma 0.5."""
    learner = algorithm(alpha=0.5, gamma=0.5, **GREEDY, **fields)
    teach = [(1, 0, 4.0, 2, True, False)] * 60 + [(1, 1, 8.0, 2, True, False)] * 60
    return Lesson(learner, spec()).show(*teach, (0, 0, 1.0, 1, *following))


@pytest.mark.parametrize(
    "name", ["SARSA", "ExpectedSARSA", "QLearning", "SARSALambda", "SARSA1", "WatkinsQLambda", "NStepSARSA"]
)
@pytest.mark.parametrize(("following", "wanted"), [((True, False), 0.5), ((False, True), 2.5)])
def test_targets_bootstrap_after_a_truncation_but_not_after_a_termination(name, following, wanted):
    # 0.5 (1 + 0.5 * 0) and 0.5 (1 + 0.5 * 8); the policy is greedy, so that all targets are the same.
    assert taught(getattr(bg, name), following).q[0, 0] == pytest.approx(wanted, abs=1e-12)


def test_expected_sarsa_takes_the_mean_under_its_policy():
    learner = bg.ExpectedSARSA(alpha=1.0, gamma=0.5, epsilon_initial=0.4, epsilon_final=0.4)
    teach = [(1, 0, 4.0, 2, True, False), (1, 1, 8.0, 2, True, False)]
    table = Lesson(learner, spec()).show(*teach, (0, 0, 1.0, 1, False, False))
    assert table.q[0, 0] == pytest.approx(1 + 0.5 * (0.8 * 8 + 0.2 * 4))


@pytest.mark.parametrize(("number", "moved"), [(0.2, [-3.0, 0.0]), (0.7, [0.0, 0.0])])
def test_double_q_learning_evaluates_the_best_action_of_one_table_by_the_other(number, moved):
    # The first number chooses the table that learns: below one half the first one.
    lesson = Lesson(bg.DoubleQLearning(alpha=1.0, gamma=1.0, **GREEDY), spec(), [0.0, number])
    lesson.table.halves[:, 1] = [[1.0, 0.0], [-3.0, 7.0]]
    table = lesson.show((0, 0, 0.0, 1, False, False))
    assert table.halves[:, 0, 0].tolist() == moved and table.q[0, 0] == sum(moved) / 2


@pytest.mark.parametrize(("name", "wanted"), [("WatkinsQLambda", 3.0), ("SARSALambda", 5.0)])
def test_an_exploring_action_clears_watkins_traces_but_not_sarsas(name, wanted):
    # In state 1, action 1 has the value 6; action 0 is taken, with reward 10. Watkins: 0.5 * 6, and no more.
    # SARSA: 0.5 * 0 + 0.5 * 10.
    always = {"epsilon_initial": 1.0, "epsilon_final": 1.0}  # all numbers are zero, which is action 0
    lesson = Lesson(getattr(bg, name)(alpha=0.5, gamma=1.0, lambda_=1.0, **always), spec())
    lesson.table.q[1] = [0.0, 6.0]
    assert lesson.show((0, 0, 0.0, 1, False, False), (1, 0, 10.0, 2, True, False)).q[0, 0] == wanted


# ------------------------------------------------------------------------------------------ what becomes what
SHORT = replace(garnet(6, 3, 2, seed=1), max_episode_steps=7)


@cache
def learned(algorithm, mdp_steps=400):
    return trained(algorithm, SHORT, mdp_steps, engine="eager")[1]


@pytest.mark.parametrize(
    ("general", "special"),
    [
        (bg.NStepSARSA(n=1), bg.SARSA()),
        (bg.SARSALambda(lambda_=0.0), bg.SARSA()),
        (bg.SARSALambda(lambda_=0.0, traces="accumulating"), bg.SARSA()),
        (bg.WatkinsQLambda(lambda_=0.0), bg.QLearning()),
        (bg.SARSA1(), bg.SARSALambda(lambda_=1.0)),
        (
            bg.ExpectedSARSA(epsilon_initial=0.0, epsilon_final=0.0),
            bg.QLearning(epsilon_initial=0.0, epsilon_final=0.0),
        ),
    ],
    ids=lambda algorithm: type(algorithm).__name__,
)
def test_the_general_learner_includes_the_special_one(general, special):
    assert torch.allclose(learned(general).q, learned(special).q, rtol=0, atol=1e-12)
    assert learned(general).q.abs().max() > 0.1


@pytest.mark.parametrize(
    ("gradient", "table"),
    [(bg.GradientQLearning, bg.QLearning), (bg.GradientSARSA, bg.SARSA)],
    ids=lambda algorithm: algorithm.__name__,
)
@pytest.mark.parametrize(
    "fields", [{}, {"alpha": 1.0, "alpha_power": 0.7, "initial_value": 2.0}], ids=["constant", "falling"]
)
def test_the_gradient_form_with_one_feature_per_state_equals_the_table_form_bit_for_bit(
    gradient, table, fields
):
    weights, q = learned(gradient(**fields)), learned(table(**fields))
    assert torch.equal(weights.weights, q.q) and torch.equal(weights.visits, q.visits)


def test_sarsa_1_has_no_other_lambda():
    with pytest.raises(UsageError, match=r"SARSA1\.lambda_ = 0\.5 is out of range \[1, 1\]"):
        bg.SARSA1(lambda_=0.5)


# -------------------------------------------------------------------------------- Sutton and Barto's examples
def steps_of_greedy_path(learner, state, mdp):
    """Steps of the greedy policy from the start to the end of a deterministic MDP; None if it never
    ends."""
    best, obs = learner.action_value(state).argmax(-1).tolist(), int(mdp.initial.argmax())
    for steps in range(1, 100):
        outcome = mdp.offset[obs * mdp.num_actions + best[obs]]
        if mdp.terminated[outcome]:
            return steps
        obs = int(mdp.next_state[outcome])
    return None


@pytest.mark.parametrize(("name", "reward", "steps"), [("SARSA", -25, 17), ("QLearning", -50, 13)])
def test_on_the_cliff_sarsa_learns_the_safe_path_and_q_learning_the_edge(name, reward, steps):
    # Example 6.6 and its figure (2018, page 132): epsilon 0.1, gamma 1. The curves, over the first 500
    # episodes, settle near -25 and -50. The safe path of the figure, along the top, has 17 steps, the one at
    # the edge 13. The book does not give alpha.
    mdp = cliff_walking()
    learner, state, returns = trained(getattr(bg, name)(alpha=0.5, gamma=1.0, **TENTH), mdp, 200_000)
    assert abs(returns[100:500].mean() - reward) < 5
    assert steps_of_greedy_path(learner, state, mdp) == steps


def test_in_the_windy_gridworld_sarsa_finds_the_shortest_path():
    # Example 6.5 (2018, page 130): 15 steps, and with epsilon 0.1 about 17 on average. Here alpha is 0.1 for
    # 200,000 steps: at the book's 0.5 the table never converges.
    mdp = windy_gridworld()
    learner, state, returns = trained(bg.SARSA(alpha=0.1, gamma=1.0, **TENTH), mdp, 200_000)
    assert steps_of_greedy_path(learner, state, mdp) == 15
    assert abs(returns[-500:].mean() + 17) < 1


# ------------------------------------------------------------------------------------------------ the planner
MDP = replace(garnet(6, 3, 2, seed=3), max_episode_steps=20)  # truncation must not change the values
GAMMA = 0.9


@cache
def optimal(epsilon):
    """Q of the best policy that acts at random with probability epsilon; epsilon 0 is Q*."""
    if epsilon == 0:
        return torch.tensor(bg.solve(MDP, gamma=GAMMA).q)
    q = np.zeros((6, 3))
    for _ in range(500):
        v = (1 - epsilon) * q.max(-1) + epsilon * q.mean(-1)
        q = MDP.expected_reward + GAMMA * (MDP.transition @ v).reshape(6, 3)
    return torch.tensor(q)


EXPLORE = {"alpha": 1.0, "alpha_power": 0.75, "gamma": GAMMA, "epsilon_initial": 0.3, "epsilon_final": 0.3}


@pytest.mark.parametrize(
    ("algorithm", "epsilon"),
    [
        (bg.QLearning(**EXPLORE), 0),
        (bg.DoubleQLearning(**EXPLORE), 0),
        (bg.GradientQLearning(**EXPLORE), 0),
        (bg.WatkinsQLambda(**EXPLORE), 0),
        (bg.SARSA(**EXPLORE), 0.3),
        (bg.ExpectedSARSA(**EXPLORE), 0.3),
        (bg.SARSALambda(**EXPLORE), 0.3),
        (bg.SARSALambda(traces="dutch", **EXPLORE), 0.3),
        (bg.NStepSARSA(n=3, **EXPLORE), 0.3),
        (bg.GradientSARSA(**EXPLORE), 0.3),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int | float) else f"epsilon={value}",
)
def test_the_values_converge_to_the_planners(algorithm, epsilon):
    # The values are around 10. On-policy learners converge to the best policy that explores as much.
    _, state, _ = trained(algorithm, MDP, 1_000_000)
    q = state.weights if hasattr(state, "weights") else state.q
    assert (q - optimal(epsilon)).abs().max() < 0.15


def test_the_values_of_the_deterministic_corridor_are_learned_exactly():
    learner = bg.QLearning(alpha=1.0, gamma=1.0, epsilon_initial=0.5, epsilon_final=0.5)
    q = trained(learner, corridor(), 20_000)[1].q
    wanted = [[-14, -13], [-14, -12], [-13, -11], [-12, -1], [0, 0]]
    assert torch.equal(q, torch.tensor(wanted, dtype=torch.float64))
