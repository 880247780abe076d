"""A robot that cannot tell two cells apart: acting at random beats every plan, and memory beats both."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

import bellgrad as bg
from bellgrad.mdp.examples import VACUUM_OBSERVATIONS, vacuum_world
from bellgrad.mdp.observed import (
    best_deterministic_memoryless,
    best_memoryless_with_one_mixture,
    memoryless_return,
)
from bellgrad.presets import find_preset
from bellgrad.report.figures import INK, figure_in_style, save

HORIZON, ALIKE, EAST, WEST = 20, 1, 1, 3  # steps; what both cells next to the dust look like; actions
EPSILON = 0.1  # how often Q-learning acts at random
quiet = {"engine": "eager", "eval_episodes": 0}
folder = Path("runs/examples/vacuum_world")
folder.mkdir(parents=True, exist_ok=True)
mdp = vacuum_world(hamster=0.0)  # a return is 1 or 0, and its mean the probability of success

plan, planned = best_deterministic_memoryless(mdp, VACUUM_OBSERVATIONS, HORIZON)
mixed, random = best_memoryless_with_one_mixture(mdp, VACUUM_OBSERVATIONS, HORIZON, ALIKE)
print(f"the best of all policies with one action for each look succeeds with probability {planned:.3f}")
print(f"the best that goes east with probability {mixed[ALIKE, EAST]:.3f} if it cannot know: {random:.5f}")

world = "bellgrad/VacuumWorld-v0"
preset = find_preset("reinforce", world)
run = bg.train(preset.algorithm, world, 20_000, num_envs=preset.num_envs, **quiet)
agent = bg.load(run)
learned = agent.learner.policy.distribution(agent.state.params, torch.arange(4)).logprobs().exp().numpy()
success = float(memoryless_return(mdp, VACUUM_OBSERVATIONS, learned, HORIZON))
print(
    f"REINFORCE goes east with probability {learned[ALIKE, EAST]:.3f}, west with {learned[ALIKE, WEST]:.3f}:"
    f" {success:.5f}"
)

run = bg.train(
    bg.QLearning(alpha=0.1, epsilon_initial=EPSILON, epsilon_final=EPSILON, gamma=0.9),
    world,
    20_000,
    eval_episodes=0,
)
dithering = np.full((4, 4), EPSILON / 4)
dithering[range(4), bg.load(run).state.q.argmax(-1)] += 1 - EPSILON
worth = float(memoryless_return(mdp, VACUUM_OBSERVATIONS, dithering, HORIZON))
print(f"Q-learning on what it sees, acting at random every tenth time, dawdles: {worth:.3f}")

run = bg.train(
    bg.PPO(learning_rate=3e-3, gamma=0.9, rollout_steps=32, minibatches=2, epochs=6, network=bg.GRU()),
    world,
    8_000,
    num_envs=16,
    **quiet,
)
agent, env, lengths = bg.load(run), gym.make(world), []
for seed in range(200):
    obs, _ = env.reset(seed=seed)
    agent.reset()
    steps, reward, ended = 0, 0.0, False
    while not ended:
        obs, reward, terminated, truncated, _ = env.step(agent.act(obs))
        steps, ended = steps + 1, terminated or truncated
    lengths.append(steps if reward == 1 else np.inf)
lengths = np.array(lengths)
print(
    f"PPO with a memory succeeds in {np.isfinite(lengths).mean():.0%} of its episodes, after"
    f" {lengths.mean():.2f} steps"
)

east = np.linspace(0, 1, 101)
policies = np.repeat(mixed[None], len(east), axis=0)
policies[:, ALIKE, EAST], policies[:, ALIKE, WEST] = east, 1 - east
horizons = np.arange(1, HORIZON + 1)
within = {
    "with a memory: PPO, GRU": [(lengths <= h).mean() for h in horizons],
    "by a coin: REINFORCE": [memoryless_return(mdp, VACUUM_OBSERVATIONS, learned, h) for h in horizons],
    f"{EPSILON:.0%} at random: Q-learning": [
        memoryless_return(mdp, VACUUM_OBSERVATIONS, dithering, h) for h in horizons
    ],
    "best plan without memory": [memoryless_return(mdp, VACUUM_OBSERVATIONS, plan, h) for h in horizons],
}
with figure_in_style((10, 3.6), "light") as figure:
    left, right = figure.subplots(1, 2)
    lines = INK["light"].lines
    left.plot(
        east, memoryless_return(mdp, VACUUM_OBSERVATIONS, policies, HORIZON), color=lines[0], label="computed"
    )
    left.plot(learned[ALIKE, EAST], success, "o", color=lines[1], label="learned by REINFORCE")
    left.set_xlabel("probability of going east if both cells look alike")
    left.set_ylabel(f"success within {HORIZON} steps")
    left.legend()
    for (name, shares), color in zip(within.items(), lines, strict=False):
        right.step(horizons, shares, where="post", color=color, label=name)
    right.set_xticks(range(0, HORIZON + 1, 5))
    right.set_xlabel("steps")
    right.set_ylabel("success within so many steps")
    right.legend(loc="lower right")
    save(figure, folder / "success.png")
print(f"\nLook at {folder / 'success.png'}")
