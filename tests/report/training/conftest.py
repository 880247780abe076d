"""Synthetic run folders."""

import json
import math
import random

import pytest


@pytest.fixture
def make_run(tmp_path):
    """Write a run folder whose return rises from 0 towards `level`."""

    def make(
        name="run",
        algorithm="ppo",
        env="CartPole-v1",
        seed=0,
        level=100.0,
        lines=40,
        steps=20_000,
        fields=None,
        noise=0.05,
        **info,
    ):
        run = tmp_path / name
        run.mkdir(parents=True, exist_ok=True)
        rng = random.Random(seed)
        described = {
            "format": 1,
            "algorithm": {"name": algorithm, "fields": fields or {"learning_rate": 0.0003, "gamma": 0.99}},
            "env": env,
            "seed": seed,
            "steps": steps,
            "num_envs": 8,
            "engine": "auto",
            "device": "auto",
            "engine_used": {"mode": "compiled", "threads": 1},
            "device_used": "cpu",
            "versions": {"bellgrad": "0.1.0", "torch": "2.13.0", "python": "3.11.2"},
            "command": f"bellgrad train {algorithm} --env {env} --steps {steps} --seed {seed}",
            "status": "finished",
            "started": "2026-01-05T09:12:44+00:00",
            "finished": "2026-01-05T09:13:20+00:00",
        } | info
        (run / "run.json").write_text(json.dumps(described))
        with (run / "metrics.jsonl").open("w") as out:
            for i in range(1, lines + 1):
                step = steps * i // lines
                mean = level * (1 - math.exp(-4 * i / lines)) * (1 + rng.gauss(0, noise))
                row = {
                    "step": step,
                    "time": step / 900,
                    "updates": step // 16,
                    "episode_return_mean": mean if i > 1 else None,
                }
                row |= {"episode_length_mean": mean, "steps_per_second": 899.0 + i % 3}
                row |= {
                    "loss": math.exp(-i / 20) + rng.random() * 0.1,
                    "entropy": 0.69 - i * 0.01,
                    "kl": rng.random() * 0.02,
                }
                out.write(json.dumps(row) + "\n")
                if i % 8 == 0:  # evaluations have lines of their own
                    row = {
                        "step": step,
                        "eval_return_mean": mean * 1.1,
                        "eval_return_std": level * 0.08,
                        "eval_length_mean": mean,
                    }
                    out.write(json.dumps(row) + "\n")
        return run

    return make


@pytest.fixture
def evaluated():
    """Write the `evaluation.json` of a run."""

    def write(run, returns):
        mean = sum(returns) / len(returns)
        std = math.sqrt(sum((r - mean) ** 2 for r in returns) / len(returns))
        result = {
            "return_mean": mean,
            "return_std": std,
            "length_mean": mean,
            "episodes": len(returns),
            "returns": returns,
        }
        (run / "evaluation.json").write_text(json.dumps(result))
        return run

    return write


@pytest.fixture
def write_metrics():
    """Replace the `metrics.jsonl` of a run by these lines."""

    def write(run, *lines, end="\n"):
        (run / "metrics.jsonl").write_text("\n".join(lines) + end)

    return write
