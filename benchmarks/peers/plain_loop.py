"""One measurement of a plain Python loop over a Gymnasium environment, with a NumPy table: environment steps
a second, as JSON.

As anyone would write it: `gymnasium.make`, an epsilon-greedy choice, one line of update, and every episode
from its own seed.
"""

import argparse
import json
import time

import gymnasium
import numpy as np


def learn(s: dict, env: gymnasium.Env, q: np.ndarray, rng: np.random.Generator, steps: int) -> int:
    """Learn for some steps; returns how many episodes ended."""
    alpha, gamma, epsilon = s["fields"]["alpha"], s["fields"]["gamma"], s["fields"]["epsilon_initial"]
    actions, algorithm = q.shape[1], s["algorithm"]

    def choose(obs: int) -> int:
        return int(rng.integers(actions)) if rng.random() < epsilon else int(q[obs].argmax())

    episodes = 0
    obs, _ = env.reset(seed=s["seed"])
    action = choose(obs)
    for _ in range(steps):
        next_obs, reward, terminated, truncated, _ = env.step(action)
        next_action = choose(next_obs)
        if terminated:
            following = 0.0
        elif algorithm == "q_learning":
            following = q[next_obs].max()
        elif algorithm == "sarsa":
            following = q[next_obs, next_action]
        else:
            following = epsilon * q[next_obs].mean() + (1 - epsilon) * q[next_obs].max()
        q[obs, action] += alpha * (reward + gamma * following - q[obs, action])
        obs, action = next_obs, next_action
        if terminated or truncated:
            episodes += 1
            obs, _ = env.reset(seed=s["seed"] + episodes)
            action = choose(obs)
    return episodes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=json.loads, required=True, help="a row's settings (JSON)")
    parser.add_argument("--warm", type=int, required=True, help="environment steps before the clock starts")
    parser.add_argument("--steps", type=int, required=True, help="environment steps on the clock")
    args = parser.parse_args()
    env = gymnasium.make(args.settings["env"])
    q = np.zeros((env.observation_space.n, env.action_space.n))
    rng = np.random.default_rng(args.settings["seed"])
    learn(args.settings, env, q, rng, args.warm)
    start = time.perf_counter()
    episodes = learn(args.settings, env, q, rng, args.steps)
    seconds = time.perf_counter() - start
    print(json.dumps({
        "library": "plain Python",
        "steps_per_second": args.steps / seconds,
        "steps": args.steps,
        "seconds": seconds,
        "steps_per_episode": args.steps / max(episodes, 1),
        "versions": {"numpy": np.__version__, "gymnasium": gymnasium.__version__},
    }))  # fmt: skip


if __name__ == "__main__":
    main()
