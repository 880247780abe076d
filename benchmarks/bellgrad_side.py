"""One measurement of Bellgrad: environment steps per second of learning, as one line of JSON.

Everything that a run does between two checkpoints is on the clock: environment, acting, replay or rollout,
updates, and the tracker that reads episodes and metrics for the log. The engine is the one that its own rules
give a run of a million steps; the clock ends it sooner. It starts after `--warm` environment steps, by which
learning has begun; compiling happens in the first calls and is reported apart.
"""

import argparse
import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import bellgrad as bg
from bellgrad.core.registry import ALGORITHMS
from bellgrad.runs.settings import Settings
from bellgrad.training.run import Run
from bellgrad.training.session import Session

LONG_RUN = 1_000_000  # environment steps


def build(s: dict) -> Any:
    """The algorithm with the settings of a row: its own fields, or Stable-Baselines3's and what else that
    does by default."""
    if "fields" in s:
        return ALGORITHMS.find(s["algorithm"])(**s["fields"])
    shared = {"learning_rate": s["learning_rate"], "gamma": s["gamma"]}
    if s["algorithm"] in ("ppo", "a2c", "vpg"):
        shared |= {
            "rollout_steps": s["rollout_steps"],
            "lambda_": s["lambda"],
            "learning_rate_decay": "constant",
            "network": bg.MLP(tuple(s["hidden"]), "tanh"),
        }
        if s["algorithm"] == "a2c":
            return bg.A2C(**shared)
        parts = {"epochs": s["epochs"], "minibatches": s["rollout_steps"] * s["num_envs"] // s["batch_size"]}
        return bg.PPO(**parts, **shared) if s["algorithm"] == "ppo" else bg.VPG(**parts, **shared)
    shared |= {name: s[name] for name in ("batch_size", "buffer_size", "learning_starts")}
    shared["network"] = bg.MLP(tuple(s["hidden"]), "relu", "torch")
    if s["algorithm"] == "sac":
        return bg.SAC(tau=s["tau"], **shared)
    return bg.DQN(
        double=False,
        target_period=s["target_period"],
        epsilon_initial=s["epsilon"],
        epsilon_final=s["epsilon"],
        **shared,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=json.loads, required=True, help="a row's settings (JSON)")
    parser.add_argument("--engine", choices=["eager", "compiled"], required=True)
    parser.add_argument("--warm", type=int, required=True, help="environment steps before the clock starts")
    parser.add_argument("--steps", type=int, required=True, help="environment steps on the clock")
    args = parser.parse_args()
    s = args.settings
    steps = max(LONG_RUN, args.warm + args.steps)
    settings = Settings(
        build(s), s["env"], steps, s["seed"], num_envs=s["num_envs"], engine=args.engine, device="cpu",
        backend=s.get("backend", "auto"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(settings, Path(folder) / "run")
        session = Session(run, run.make_env(s["num_envs"]))
        driver, tracker, log_every = session.driver, session.tracker, run.record["log_every"]
        driver.total = sys.maxsize  # the clock ends the run

        def advance_to(end: int) -> None:
            while driver.steps < end:
                before = driver.steps
                tracker.add(driver.advance())
                if driver.steps // log_every > before // log_every:
                    tracker.line()

        first_call = 0.0
        while not driver.updates:
            start = time.perf_counter()
            tracker.add(driver.advance())
            first_call = time.perf_counter() - start
        advance_to(args.warm)
        before, start = driver.steps, time.perf_counter()
        advance_to(driver.steps + args.steps)
        tracker.line()
        seconds = time.perf_counter() - start
        session.metrics.close()
        session.env.close()
    steps = driver.steps - before
    print(json.dumps({
        "library": "bellgrad",
        "steps_per_second": steps / seconds,
        "steps": steps,
        "seconds": seconds,
        "first_learning_call_seconds": first_call,
        "engine": session.plan.engine.to_json(),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("bellgrad", "torch", "numpy", "gymnasium")},
    }))  # fmt: skip


if __name__ == "__main__":
    main()
