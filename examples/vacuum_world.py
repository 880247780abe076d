"""Where chance beats every plan: a robot that cannot tell two cells apart, its best policies computed, and one learned."""

from pathlib import Path

import numpy as np
import torch

import bellgrad as bg
from bellgrad.mdp.examples import VACUUM_LOOKS, vacuum_world
from bellgrad.mdp.observed import best_deterministic_memoryless, best_memoryless_with_one_mixture, memoryless_return
from bellgrad.presets import find_preset
from bellgrad.report.figures import INK, figure_in_style, save

HORIZON, ALIKE, EAST, WEST = 20, 1, 1, 3  # steps; what both cells beside the dust look like; actions
folder = Path("runs/examples/vacuum_world")
folder.mkdir(parents=True, exist_ok=True)
mdp = vacuum_world(hamster=0.0)  # a return is 1 or 0, and its mean the chance of success

_, planned = best_deterministic_memoryless(mdp, VACUUM_LOOKS, HORIZON)
mixed, chance = best_memoryless_with_one_mixture(mdp, VACUUM_LOOKS, HORIZON, ALIKE)
print(f"the best of all policies with one action for each look succeeds with probability {planned:.3f}")
print(f"the best that goes east with probability {mixed[ALIKE, EAST]:.3f} where it cannot know: {chance:.5f}")

world = "bellgrad/VacuumWorld-v0"
preset = find_preset("reinforce", world)
run = bg.train(preset.algorithm, world, 20_000, num_envs=preset.num_envs, engine="eager", eval_episodes=0)
agent = bg.load(run.folder)
learned = agent.learner.policy.distribution(agent.state.params, torch.arange(4)).logprobs().exp().numpy()
worth = float(memoryless_return(mdp, VACUUM_LOOKS, learned, HORIZON))
print(f"REINFORCE goes east with probability {learned[ALIKE, EAST]:.3f}, west with {learned[ALIKE, WEST]:.3f}: {worth:.5f}")

east = np.linspace(0, 1, 101)
policies = np.repeat(mixed[None], len(east), axis=0)
policies[:, ALIKE, EAST], policies[:, ALIKE, WEST] = east, 1 - east
with figure_in_style((6.5, 3.4), "light") as figure:
    axes = figure.subplots()
    lines = INK["light"].lines
    axes.plot(east, memoryless_return(mdp, VACUUM_LOOKS, policies, HORIZON), color=lines[0], label="computed")
    axes.plot(learned[ALIKE, EAST], worth, "o", color=lines[1], label="learned by REINFORCE")
    axes.set_xlabel("probability of going east where both cells look alike")
    axes.set_ylabel(f"success within {HORIZON} steps")
    axes.legend()
    save(figure, folder / "chance.png")
print(f"\nLook at {folder / 'chance.png'}")
