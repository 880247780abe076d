"""The random walk: how fast TD(0) and Monte Carlo find the values of five states, 1/6 to 5/6.

Source: Sutton and Barto (2018), example 6.2.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import bellgrad as bg
from bellgrad.mdp.examples import random_walk
from bellgrad.report.figures import INK, figure_in_style, save

folder = Path("runs/examples/random_walk")
folder.mkdir(parents=True, exist_ok=True)
TRUTH = np.arange(1, 6) / 6
STEPS, SEEDS = (50, 100, 200, 400, 800), range(3)
quiet = {"progress": "off", "eval_episodes": 0, "checkpoints": 1}
usual = {"gamma": 1.0, "initial_value": 0.5, "alpha_power": 0.0}
learners = {
    "TD(0), alpha 0.1": bg.TD0(alpha=0.1, **usual),
    "Monte Carlo, alpha 0.03": bg.MonteCarlo(alpha=0.03, visit="every", **usual),
}

errors = {}
with TemporaryDirectory() as runs:
    for name, learner in learners.items():
        for steps in STEPS:
            outs = [Path(runs) / f"{type(learner).__name__}-{steps}-{seed}" for seed in SEEDS]
            tables = [
                bg.load(bg.train(learner, random_walk(), steps, seed=seed, out=out, **quiet)).state.v
                for seed, out in zip(SEEDS, outs, strict=True)
            ]
            errors[name, steps] = np.mean([np.sqrt(((v.numpy() - TRUTH) ** 2).mean()) for v in tables])

print(
    f"Root mean square error of the five values, at first {np.sqrt(((TRUTH - 0.5) ** 2).mean()):.3f}; mean of"
    f" {len(SEEDS)} seeds"
)
with figure_in_style((5.6, 3.4), "light") as figure:
    ax = figure.subplots()
    for color, name in zip(INK["light"].lines, learners, strict=False):
        ax.plot(STEPS, [errors[name, steps] for steps in STEPS], color=color, label=name)
        print(f"  {name:24}" + "".join(f"  {steps} steps: {errors[name, steps]:.3f}" for steps in STEPS))
    ax.set(
        title="Random walk: error of the values",
        xlabel="Environment steps",
        ylabel="Root mean square error",
        ylim=(0, None),
    )
    ax.legend()
    save(figure, folder / "errors.png")
print(f"\nLook at {folder / 'errors.png'}: TD(0) learns from every step, Monte Carlo from whole returns.")
