"""A fixed number of steps: terminal values, and dynamics and rewards that depend on the step."""

from itertools import product
from math import exp, sqrt

import numpy as np
import pytest
from drawn import deterministic_policies, mdps, random_mdp, random_policy
from hypothesis import given, settings

from bellgrad.core.errors import UsageError
from bellgrad.mdp.finite_horizon import backward_induction, finite_horizon_evaluation
from bellgrad.mdp.model import FiniteMDP


@given(mdps(max_states=3))
@settings(max_examples=25, deadline=None)
def test_no_policy_is_better_when_every_step_has_its_own_mdp_and_the_end_has_a_value(mdp):
    other = random_mdp("dense", mdp.num_states, mdp.num_actions, seed=3)
    salvage = np.arange(mdp.num_states) - 1.5
    found = backward_induction([mdp, other], gamma=0.9, terminal_value=salvage)
    tried = [
        finite_horizon_evaluation([mdp, other], np.stack(steps), gamma=0.9, terminal_value=salvage)[0]
        for steps in product(deterministic_policies(mdp), deterministic_policies(other))
    ]
    np.testing.assert_allclose(found.value[0], np.max(tried, axis=0), atol=1e-12)
    np.testing.assert_array_equal(found.value[-1], salvage)


def test_the_value_of_a_policy_counts_the_terminal_value_only_while_the_episode_goes_on():
    # from the only state, half of the episodes end with reward 1; the others go on for nothing
    mdp = FiniteMDP.from_function(1, 1, lambda s, a: [(0.5, 0, 1.0, True), (0.5, 0, 0.0, False)])
    value = finite_horizon_evaluation(mdp, [0], 2, gamma=0.5, terminal_value=[8.0])
    assert value.tolist() == [[0.5 + 0.25 * (0.5 + 0.25 * 8)], [0.5 + 0.25 * 8], [8.0]]


def test_the_same_mdp_at_every_step_is_the_mdp_itself():
    mdp = random_mdp("absorbing", 5, 3, seed=1, illegal=True)
    expected = backward_induction(mdp, 4, gamma=0.9)
    for by_step in ([mdp] * 4, lambda t: mdp):
        found = backward_induction(by_step, 4, gamma=0.9)
        for name in ("value", "q", "policy"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    policy = random_policy(mdp, 2)
    np.testing.assert_array_equal(
        finite_horizon_evaluation([mdp] * 4, policy), finite_horizon_evaluation(mdp, policy, 4)
    )


def inventory(capacity=3, order=4.0, unit=2.0, hold=1.0, price=8.0):
    """Puterman 1994, section 3.2.1: orders arrive at once, demand is 0, 1 or 2, and lost if not met."""

    def outcomes(stock, ordered):
        if stock + ordered > capacity:
            return []
        full = stock + ordered
        cost = (order + unit * ordered if ordered else 0.0) + hold * full
        return [
            (p, max(full - demand, 0), price * min(full, demand) - cost, False)
            for demand, p in enumerate((0.25, 0.5, 0.25))
        ]

    return FiniteMDP.from_function(capacity + 1, capacity + 1, outcomes)


def test_the_inventory_of_the_textbook():
    # Puterman 1994, table 4.6.1: three periods, nothing is worth anything at the end
    found = backward_induction(inventory(), 3)
    np.testing.assert_allclose(found.value[0], np.array([67, 129, 194, 227]) / 16, atol=1e-12)
    assert found.policy[0].argmax(axis=1).tolist() == [3, 0, 0, 0]


def test_what_is_left_can_be_sold_at_the_end():
    # One period with nothing in stock and a salvage value of 3 each. Ordering u costs 4 + 2u + u, sells
    # min(u, demand) at 8, and the rest at 3: 0, -0.75, 0, and 0 again for 3: 8 - 13 + 2 * 3 = 1.
    found = backward_induction(inventory(), 1, terminal_value=3.0 * np.arange(4))
    by_hand = []
    for ordered in range(4):
        gains = [8 * min(ordered, d) + 3 * max(ordered - d, 0) for d in (0, 1, 2)]
        by_hand.append(np.dot([0.25, 0.5, 0.25], gains) - (4 + 3 * ordered if ordered else 0))
    np.testing.assert_allclose(found.q[0, 0], by_hand, atol=1e-12)


@pytest.mark.parametrize(
    ("number", "success"), [(3, 1 / 2), (4, 11 / 24), (5, 26 / 60), (10, 0.39869), (100, 0.37104)]
)
def test_the_secretary_problem(number, success):
    # Gilbert and Mosteller 1966, table 2: the probability of choosing the best of n
    def candidate(t):
        """State 1: the candidate is the best so far. Action 1 takes the candidate."""
        best = 1 / (t + 2)  # the next candidate is the best so far

        def outcomes(state, action):
            if action:
                return [(1.0, state, (t + 1) / number if state else 0.0, True)]
            return [(best, 1, 0.0, False), (1 - best, 0, 0.0, False)]

        return FiniteMDP.from_function(2, 2, outcomes)

    assert backward_induction(candidate, number).value[0, 1] == pytest.approx(success, abs=5e-6)


def test_the_american_put_on_a_binomial_tree():
    # Hull, "Options, futures and other derivatives", chapter on basic numerical procedures: 50, 50, 10%, 40%,
    # five months in five steps: 4.49.
    steps, spot, strike, rate, volatility, dt = 5, 50.0, 50.0, 0.1, 0.4, 1 / 12
    up = exp(volatility * sqrt(dt))
    q = (exp(rate * dt) - 1 / up) / (up - 1 / up)
    gamma = exp(-rate * dt)

    def gain(t):
        return np.maximum(strike - spot * up ** (2.0 * np.arange(steps + 1) - t), 0)

    def tree(t):
        """States: moves up so far. Action 1 exercises."""
        payoff = gain(t)

        def outcomes(ups, exercise):
            if exercise:
                return [(1.0, ups, payoff[ups], True)]
            return [(q, min(ups + 1, steps), 0.0, False), (1 - q, ups, 0.0, False)]

        return FiniteMDP.from_function(steps + 1, 2, outcomes)

    found = backward_induction([tree(t) for t in range(steps)], gamma=gamma, terminal_value=gain(steps))
    assert found.value[0, 0] == pytest.approx(4.49, abs=0.005)

    def price(t, ups):
        if t == steps:
            return gain(steps)[ups]
        return max(gain(t)[ups], gamma * (q * price(t + 1, ups + 1) + (1 - q) * price(t + 1, ups)))

    assert found.value[0, 0] == pytest.approx(price(0, 0), rel=1e-12)


def test_parking_when_places_come_nearer_to_the_theater():
    # 20 places, each free with probability 0.1; place k away costs k, the garage at the end costs 30.
    # The best threshold by comparing all of them: Ferguson, "Optimal stopping", section 2.3.
    number, free, garage = 20, 0.1, 30.0

    def place(t):
        def outcomes(state, action):  # state 1: the place is free; action 1 parks there
            if action:
                return [(1.0, state, -float(number - 1 - t), True)] if state else []
            return [(free, 1, 0.0, False), (1 - free, 0, 0.0, False)]

        return FiniteMDP.from_function(2, 2, outcomes)

    found = backward_induction(place, number, terminal_value=[-garage, -garage])

    def cost(first):
        total, still = 0.0, 1.0
        for t in range(first, number):
            total, still = total + still * free * (number - 1 - t), still * (1 - free)
        return total + still * garage

    best = min(cost(first) for first in range(number))
    assert [free * found.value[0, 1] + (1 - free) * found.value[0, 0]] == pytest.approx([-best])


ONE, TWO = random_mdp("dense", 3, 2, seed=0), random_mdp("dense", 2, 2, seed=0)


@pytest.mark.parametrize(
    ("mdp", "arguments", "words"),
    [
        (ONE, {}, "needs a horizon"),
        (lambda t: ONE, {}, "needs a horizon"),
        ([ONE, ONE], {"horizon": 3}, "MDPs for 2 steps; the horizon is 3"),
        ([ONE, TWO, ONE], {}, "step 1 has 2 states and 2 actions, step 2 has 3 and 2"),
        ([ONE, "x"], {}, "step 1: expected a FiniteMDP, got str"),
        (lambda t: None, {"horizon": 2}, "step 1: expected a FiniteMDP, got NoneType"),
        ([], {}, "one FiniteMDP per step"),
        ("FrozenLake-v1", {"horizon": 2}, "one FiniteMDP per step"),
        (ONE, {"horizon": 2, "terminal_value": [1, 2]}, r"terminal_value has shape \(2,\); expected \(3,\)"),
        (ONE, {"horizon": 2, "terminal_value": [1, np.nan, 2]}, r"terminal_value\[1\] is nan"),
        (ONE, {"horizon": 0}, "horizon = 0 must be 1 or more"),
        (ONE, {"horizon": 2, "gamma": 1.5}, "gamma = 1.5"),
    ],
    ids=range(12),
)
def test_what_does_not_fit_is_refused(mdp, arguments, words):
    with pytest.raises(UsageError, match=words):
        backward_induction(mdp, **arguments)
    with pytest.raises(UsageError, match=words):
        finite_horizon_evaluation(mdp, np.zeros(3, int), **arguments)


def test_a_policy_of_another_number_of_steps_is_refused():
    with pytest.raises(UsageError, match="policy is for 3 steps; the horizon is 2"):
        finite_horizon_evaluation([ONE, ONE], np.full((3, 3, 2), 0.5))
