"""A step that is measured in policies: TRPO's bound on the KL divergence compared with policy gradients
with a step in parameters.

Source: Schulman et al. 2015, "Trust region policy optimization", arXiv 1502.05477.
"""

from pathlib import Path

import bellgrad as bg
from bellgrad.report.figures import INK, figure_in_style, save
from bellgrad.runs.reading import read_metrics

STEPS = 40_000
folder = Path("runs/examples/trust_region")
folder.mkdir(parents=True, exist_ok=True)
learners = {"TRPO, KL at most 0.01": bg.TRPO()}
for rate in (5e-4, 5e-3, 0.5):
    learners[f"VPG, learning rate {rate:g}"] = bg.VPG(learning_rate=rate)

with figure_in_style((7, 3.6), "light") as figure:
    axes = figure.subplots()
    for (name, learner), color in zip(learners.items(), INK["light"].lines, strict=False):
        run = bg.train(learner, "CartPole-v1", STEPS, progress="off", eval_episodes=0, engine="eager")
        lines = [line for line in read_metrics(run.folder) if "episode_return_mean" in line]
        axes.plot(
            [line["step"] for line in lines],
            [line["episode_return_mean"] for line in lines],
            color=color,
            label=name,
        )
        print(f"{name:30} {bg.evaluate(run, episodes=50).return_mean:6.1f} of 500 after {STEPS:,} steps")
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return of the latest episodes")
    axes.legend()
    save(figure, folder / "returns.png")
print(f"\nLook at {folder / 'returns.png'}")
