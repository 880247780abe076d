"""The Bellman equations on five states in a row: values, action values and advantages, and the policy that
follows from them."""

from pathlib import Path

import numpy as np

import bellgrad as bg
from bellgrad.mdp.examples import corridor
from bellgrad.mdp.policies import (
    advantage,
    bellman,
    greedy,
    induced_chain,
    q_from_value,
    uniform_policy,
    value_from_q,
)
from bellgrad.report.finite.pictures import picture
from bellgrad.report.finite.text import solution_text

folder = Path("runs/examples/bellman_equations")
folder.mkdir(parents=True, exist_ok=True)
mdp = corridor()

best = bg.solve(mdp, criterion="total")
print(
    "Every step costs 1, from 3 to the right 10; in 5 the episode ends at no"
    f" cost.\n\n{solution_text(mdp, best)}\n"
)
print(
    f"A*(L) = {advantage(best.q, best.policy)[:, 0] + 0.0}: what a step to the left costs before going on at"
    " one's best\n"
)

assert np.allclose(bellman(mdp, best.value, gamma=1.0), best.value)
assert np.allclose(value_from_q(best.q, best.policy), best.value)
print("V* is a fixed point of the Bellman operator, and the mean of Q* under the policy.\n")

print("Value iteration from zero, sweep by sweep:")
value = np.zeros(mdp.num_states)
for sweep in range(14):
    print(f"  {sweep:2}: {value + 0.0}")
    value = bellman(mdp, value, gamma=1.0)

print("\nPolicy iteration from tossing a coin:")
policy, better = None, uniform_policy(mdp)
while policy is None or not np.allclose(better, policy):
    policy = better
    chain, reward = induced_chain(mdp, policy)
    value = np.linalg.solve(np.eye(mdp.num_states) - chain.toarray(), reward)
    better = greedy(mdp, value, gamma=1.0)
    print(f"  V = {np.round(value, 3) + 0.0}, and to the right with {policy[:, 1]}")
assert np.allclose(q_from_value(mdp, value, gamma=1.0), best.q)
print("The greedy policy is the policy itself: it is the best.\n")
print(f"Look at {picture(mdp, best, folder / 'corridor.png', 'Corridor')}")
