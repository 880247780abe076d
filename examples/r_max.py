"""R-max explores a maze on purpose: what it does not know it takes for paradise, and goes there.

Source: Brafman and Tennenholtz (2002); the maze is that of Sutton and Barto (2018), figure 8.2.
"""

from pathlib import Path

import bellgrad as bg
from bellgrad.mdp.gridworld import gridworld
from bellgrad.report.finite.learning import known_over_time, paths

folder = Path("runs/examples/r_max")
folder.mkdir(parents=True, exist_ok=True)
mdp = gridworld([".......#G", "..#....#.", "S.#....#.", "..#......", ".....#...", "........."])
quiet = {"progress": "off", "eval_episodes": 0}
few = {"gamma": 0.95, "alpha": 0.1, "epsilon_initial": 0.1, "epsilon_final": 0.1}
learners = {
    "R-max": bg.RMax(gamma=0.95, known_visits=1),
    "Dyna-Q": bg.DynaQ(planning_steps=50, **few),
    "Q-learning": bg.QLearning(**few),
}

STEPS = 1_500
states = {name: bg.load(bg.train(learner, mdp, STEPS, **quiet)).state for name, learner in learners.items()}
known = states["R-max"].known_at
print(f"R-max tried {(known >= 0).sum()} pairs of state and action; the last new one at step {known.max()}.")
print(f"Look at {known_over_time(mdp, known.numpy(), folder / 'known.png')}: since when each pair is known.")
picture = paths(mdp, {name: state.q.numpy() for name, state in states.items()}, folder / "paths.png")
print(f"Look at {picture}: where each of them goes after {STEPS:,} steps.")
