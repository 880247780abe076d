"""The cliff: SARSA learns what its own exploring costs and keeps away from the edge, Q-learning walks along
it.

Source: Sutton and Barto (2018), example 6.6.
"""

from pathlib import Path

import bellgrad as bg
from bellgrad.report.finite.learning import paths

folder = Path("runs/examples/cliff_walking")
folder.mkdir(parents=True, exist_ok=True)
mdp = bg.FiniteMDP.from_gymnasium("CliffWalking-v1")

usual = {"gamma": 1.0, "alpha": 0.1, "epsilon_initial": 0.1, "epsilon_final": 0.1}
runs = {}
for algorithm in (bg.SARSA(**usual), bg.QLearning(**usual)):
    name = type(algorithm).__name__
    runs[name] = bg.train(
        algorithm, "CliffWalking-v1", 300_000, max_episode_steps=1_000, progress="off", eval_episodes=0
    )

tables = {name: bg.load(run).state.q.numpy() for name, run in runs.items()}
picture = paths(mdp, tables, folder / "paths.png")
for name, run in runs.items():
    bold, careful = (
        bg.evaluate(run, episodes=200, deterministic=greedy).return_mean for greedy in (False, True)
    )
    print(
        f"{name:10} earns {bold:7.1f} an episode while it explores, and {careful:6.1f} when it stops"
        " exploring"
    )
print(f"\nLook at {picture}: the shorter way is the better one only for those who never slip.")
