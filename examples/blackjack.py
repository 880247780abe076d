"""Blackjack by Monte Carlo: how to play, learned from exploring starts, and a hand evaluated while another
policy plays.

Source: Sutton and Barto (2018), figure 5.2 and example 5.4.
"""

from dataclasses import replace

import numpy as np

import bellgrad as bg
from bellgrad.mdp.finite_horizon import finite_horizon_evaluation

HORIZON = 22  # no hand takes more cards
mdp = bg.FiniteMDP.from_gymnasium("Blackjack-v1")
hands = np.array(["against" in name for name in mdp.state_names])
total = np.arange(mdp.num_states) // 22
quiet = {"progress": "off", "eval_episodes": 0}

run = bg.train(bg.MonteCarloControl(gamma=1.0, exploring_starts=True), "Blackjack-v1", 3_000_000, **quiet)
best = bg.solve(mdp, horizon=HORIZON).q[0]
learned = bg.load(run).state.q.numpy()
other = hands & (learned.argmax(1) != best.argmax(1))
print(
    f"{(hands & ~other).sum()} of {hands.sum()} hands are played as the planner plays them. The others are"
    " nearly even:"
)
for state in np.flatnonzero(other):
    print(f"  {mdp.state_names[state]}: stick is worth {best[state, 0]:.3f}, hit {best[state, 1]:.3f}")

start = (13 * 11 + 2) * 2 + 1
stick_on_20 = np.eye(2)[(total < 20).astype(int)]
exact = finite_horizon_evaluation(mdp, stick_on_20, HORIZON)[0, start]
from_there = replace(mdp, initial=np.eye(mdp.num_states)[start])
print(
    f"\n13 with a usable ace against a deuce, if one sticks on 20 and 21 only, is worth {exact:.5f}; seen"
    " while a coin is tossed:"
)
for weighting in ("ordinary", "weighted"):
    for steps in (1_000, 10_000, 100_000):
        algorithm = bg.OffPolicyMonteCarlo(gamma=1.0, policy=stick_on_20, weighting=weighting)
        estimate = bg.load(bg.train(algorithm, from_there, steps, **quiet)).state.v[start]
        print(f"  {weighting} importance sampling, {steps:7,} steps: {estimate:.5f}")
print(f"\nLook at {bg.picture(run)[0]}: when to hit and when to stick.")
