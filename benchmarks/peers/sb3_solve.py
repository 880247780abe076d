"""Seconds in which Stable-Baselines3's PPO solves a task: training on the clock, evaluations off it. One line
of JSON.

The settings for CartPole-v1 are those of RL Baselines3 Zoo (hyperparams/ppo.yml), with which it solves it
fastest of its algorithms: 8 environments x 32 steps, 20 epochs of one batch, a learning rate and a clip range
that fall linearly.
"""

import argparse
import json
import time
from importlib.metadata import version

import stable_baselines3 as sb3
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy


class StopWhenSolved(BaseCallback):
    """Evaluates before a rollout begins, once enough steps have passed; the clock stands still meanwhile."""

    def __init__(self, env, every: int, episodes: int, target: float):
        super().__init__()
        self.judge, self.every, self.episodes, self.target = env, every, episodes, target
        self.paused, self.next, self.solved, self.return_mean = 0.0, every, False, None

    def _on_rollout_start(self) -> None:
        if self.num_timesteps < self.next:
            return
        start = time.perf_counter()
        self.next += self.every
        self.return_mean, _ = evaluate_policy(self.model, self.judge, self.episodes)
        self.solved = self.return_mean >= self.target
        self.paused += time.perf_counter() - start

    def _on_step(self) -> bool:
        return not self.solved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", required=True)
    parser.add_argument("--target", type=float, required=True, help="mean return of an evaluation")
    parser.add_argument("--episodes", type=int, required=True, help="of an evaluation")
    parser.add_argument("--every", type=int, required=True, help="environment steps between evaluations")
    parser.add_argument(
        "--steps", type=int, required=True, help="environment steps over which the schedules fall"
    )
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--threads", type=int, help="of torch; torch's default if not given")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)

    def falling(first: float):
        return lambda remaining: first * remaining

    model = sb3.PPO(
        "MlpPolicy",
        make_vec_env(args.env, 8, seed=args.seed),
        n_steps=32,
        batch_size=256,
        n_epochs=20,
        gamma=0.98,
        gae_lambda=0.8,
        ent_coef=0.0,
        learning_rate=falling(1e-3),
        clip_range=falling(0.2),
        device="cpu",
        seed=args.seed,
    )
    callback = StopWhenSolved(
        make_vec_env(args.env, 16, seed=1_000_000 + args.seed), args.every, args.episodes, args.target
    )
    start = time.perf_counter()
    model.learn(args.steps, callback=callback)
    seconds = time.perf_counter() - start - callback.paused
    print(json.dumps({
        "seconds": seconds if callback.solved else None,
        "steps": model.num_timesteps,
        "return_mean": float(callback.return_mean),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("stable-baselines3", "torch", "numpy", "gymnasium")},
    }))  # fmt: skip


if __name__ == "__main__":
    main()
