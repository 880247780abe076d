"""Temporal-difference prediction: special cases that equal each other, Monte Carlo and the online
lambda-return by brute force, and random walks."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from drive import Lesson, driver, trained
from gymnasium.spaces import Discrete

import bellgrad as bg
from bellgrad.core.errors import UsageError
from bellgrad.core.records import EnvSpec
from bellgrad.mdp.evaluation import evaluate_policy
from bellgrad.mdp.examples import garnet, random_walk

SPEC = EnvSpec("steps", Discrete(4), Discrete(1))
GAMMA = 0.8


def episode(seed, length=12, ends="terminated"):
    """Random states and rewards: an episode that visits states more than once."""
    rng = np.random.default_rng(seed)
    states, rewards = rng.integers(4, size=length + 1).tolist(), rng.normal(size=length).tolist()
    over = [False] * (length - 1) + [True]
    flags = [(end, False) if ends == "terminated" else (False, end) for end in over]
    return [(s, 0, r, n, *f) for s, r, n, f in zip(states[:-1], rewards, states[1:], flags, strict=True)]


EPISODES = [episode(0), episode(1, ends="truncated"), episode(2, 1)]


def value_after(algorithm):
    return Lesson(algorithm, SPEC).show(*(step for steps in EPISODES for step in steps)).v


def returns(steps, v):
    """The discounted return from each step on; after a truncation with the value of the last state."""
    total, found = 0.0 if steps[-1][4] else v[steps[-1][3]], []
    for _, _, reward, *_ in reversed(steps):
        total = reward + GAMMA * total
        found.append(total)
    return found[::-1]


# ------------------------------------------------------------------------------------------ what becomes what
@pytest.mark.parametrize("falling", [False, True])
def test_td_1_offline_is_every_visit_monte_carlo(falling):
    # The values do not change during an episode; the n-th visit has the n-th step size.
    alpha = {"alpha": 0.9, "alpha_power": 0.6} if falling else {"alpha": 0.1}
    v, visits = np.zeros(4), np.zeros(4)
    for steps in EPISODES:
        change = np.zeros(4)
        for (s, *_), g in zip(steps, returns(steps, v), strict=True):
            visits[s] += 1
            change[s] += (0.9 / visits[s] ** 0.6 if falling else 0.1) * (g - v[s])
        v += change
    assert np.allclose(
        value_after(bg.TDLambda(gamma=GAMMA, lambda_=1.0, online=False, **alpha)), v, rtol=0, atol=1e-12
    )


def test_td_lambda_0_offline_is_the_sum_of_the_errors_of_td_0():
    v = np.zeros(4)
    for steps in EPISODES:
        change = np.zeros(4)
        for s, _, r, n, terminated, _ in steps:
            change[s] += 0.1 * (r + GAMMA * (0 if terminated else v[n]) - v[s])
        v += change
    assert np.allclose(
        value_after(bg.TDLambda(gamma=GAMMA, alpha=0.1, lambda_=0.0, online=False)), v, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("traces", ["accumulating", "replacing", "dutch"])
def test_td_lambda_0_online_is_td_0(traces):
    wanted = value_after(bg.TD0(gamma=GAMMA, alpha=0.3))
    assert np.allclose(
        value_after(bg.TDLambda(gamma=GAMMA, alpha=0.3, lambda_=0.0, traces=traces)),
        wanted,
        rtol=0,
        atol=1e-12,
    )


def test_one_step_is_td_0():
    assert np.allclose(
        value_after(bg.NStepTD(gamma=GAMMA, n=1)), value_after(bg.TD0(gamma=GAMMA)), rtol=0, atol=1e-15
    )


@pytest.mark.parametrize("n", [2, 3, 50])
def test_n_step_returns_equal_brute_force_also_at_the_ends_of_episodes(n):
    # The target of step t is known after step t + n or at the end, whichever comes first. Updates are made in
    # that order.
    v = np.zeros(4)
    for steps in EPISODES:
        last = len(steps)
        for t in range(last):
            end = min(t + n, last)
            g = 0.0 if steps[end - 1][4] else v[steps[end - 1][3]]
            for _, _, reward, *_ in reversed(steps[t:end]):
                g = reward + GAMMA * g
            v[steps[t][0]] += 0.2 * (g - v[steps[t][0]])
    assert np.allclose(value_after(bg.NStepTD(gamma=GAMMA, alpha=0.2, n=n)), v, rtol=0, atol=1e-12)


def test_dutch_traces_give_the_online_lambda_return():
    # Sutton and Barto (2018), section 12.4: at every horizon h, all updates are made again with returns
    # up to h.
    lambda_, alpha = 0.7, 0.3
    v = np.zeros(4)
    for steps in EPISODES:
        start, reached = v.copy(), [v.copy()]  # reached[k]: the values at horizon k
        for horizon in range(1, len(steps) + 1):
            weights = start.copy()
            for t in range(horizon):
                g, total = [], 0.0
                for k in range(t, horizon):
                    total += GAMMA ** (k - t) * steps[k][2]
                    after = 0.0 if steps[k][4] else reached[k][steps[k][3]]
                    g.append(total + GAMMA ** (k - t + 1) * after)
                target = (
                    sum((1 - lambda_) * lambda_**i * x for i, x in enumerate(g[:-1]))
                    + lambda_ ** (len(g) - 1) * g[-1]
                )
                weights[steps[t][0]] += alpha * (target - weights[steps[t][0]])
            reached.append(weights)
        v = reached[-1]
    assert np.allclose(
        value_after(bg.TDLambda(gamma=GAMMA, alpha=alpha, lambda_=lambda_, traces="dutch")),
        v,
        rtol=0,
        atol=1e-12,
    )


def test_the_three_traces_differ_if_a_state_is_visited_again():
    found = {
        traces: tuple(value_after(bg.TDLambda(alpha=0.3, traces=traces)))
        for traces in ("accumulating", "replacing", "dutch")
    }
    assert len(set(found.values())) == 3


def test_dutch_traces_need_online_updates():
    with pytest.raises(UsageError, match="online must be True"):
        bg.TDLambda(traces="dutch", online=False)


# ----------------------------------------------------------------------------------------------- random walks
PREDICTORS = [bg.TD0, bg.NStepTD, bg.TDLambda]


@pytest.mark.parametrize("algorithm", PREDICTORS, ids=lambda algorithm: algorithm.__name__)
def test_the_values_of_the_random_walk_of_five_states_are_sixths(algorithm):
    # Example 6.2 (2018, page 125): 1/6 to 5/6. Each state has at least 20,000 of the 200,000 steps: a
    # standard error below 0.005.
    _, state, returns_ = trained(algorithm(gamma=1.0, alpha=1.0, alpha_power=0.8), random_walk(5), 200_000)
    assert (state.v - torch.arange(1, 6) / 6).abs().max() < 0.03
    assert abs(returns_.mean() - 0.5) < 0.02


MDP = replace(garnet(6, 3, 2, seed=3), max_episode_steps=20)  # truncation must not change the values
POLICY = np.random.default_rng(0).dirichlet(np.ones(3), 6)


@pytest.mark.parametrize("algorithm", PREDICTORS, ids=lambda algorithm: algorithm.__name__)
def test_the_values_of_a_given_policy_converge_to_the_planners(algorithm):
    _, state, _ = trained(algorithm(gamma=0.9, alpha=1.0, alpha_power=0.75, policy=POLICY), MDP, 400_000)
    exact = evaluate_policy(MDP, POLICY, gamma=0.9).value
    assert (state.v - torch.tensor(exact)).abs().max() < 0.1


@cache
def error_on_the_walk_of_nineteen(algorithm, runs=100, episodes=10):
    """The root mean squared error over the states, averaged over the first ten episodes and the runs."""
    mdp, errors = random_walk(19, left=-1.0), []
    made = driver(algorithm, mdp, 10**9)
    zeros = {name: leaf.clone() for name, leaf in made.state._asdict().items() if name == "v"}["v"]
    true = torch.arange(-9, 10) / 10
    made.steps_per_call = 1
    for _ in range(runs):
        made.state.v.copy_(zeros)
        ended = 0
        while ended < episodes:
            if len(made.advance().ended.return_):
                ended += 1
                errors.append((made.state.v - true).square().mean().sqrt().item())
    return np.mean(errors)


@pytest.mark.parametrize(
    ("algorithm", "low", "high"),
    [
        (bg.NStepTD(gamma=1.0, n=4, alpha=0.4), 0.24, 0.28),
        (bg.NStepTD(gamma=1.0, n=1, alpha=0.8), 0.33, 0.37),
        (bg.TDLambda(gamma=1.0, lambda_=0.8, alpha=0.4, traces="dutch"), 0.22, 0.28),
    ],
    ids=["n=4", "n=1", "lambda=0.8"],
)
def test_on_the_walk_of_nineteen_states_the_error_is_that_of_the_book(algorithm, low, high):
    # Figures 7.2 (2018, page 145) and 12.8 (page 301): average RMS errors over the first ten episodes and 100
    # runs. The curves are lowest a little above 0.25, at n = 4 with alpha about 0.4. n = 1 is best at alpha
    # about 0.8; ten lines of NumPy gave 0.347 there.
    assert low < error_on_the_walk_of_nineteen(algorithm) < high


def test_on_the_walk_of_nineteen_states_four_steps_are_better_than_one():
    four, one = bg.NStepTD(gamma=1.0, n=4, alpha=0.4), bg.NStepTD(gamma=1.0, n=1, alpha=0.8)
    assert error_on_the_walk_of_nineteen(four) < error_on_the_walk_of_nineteen(one)
