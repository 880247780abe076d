"""Synthetic run folders, and small MDPs with their solutions."""

import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest

from bellgrad.mdp.model import FiniteMDP
from bellgrad.mdp.solution import Solution


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


# ----------------------------------------------------------------------------------------- small MDPs, solved
def mdp_of(num_states, num_actions, outcomes, initial, **described):
    """A `FiniteMDP` from a function `(s, a) -> [(p, s', r, terminated)]`, given a start state or None for
    any."""
    start = np.full(num_states, 1 / num_states) if initial is None else np.eye(num_states)[initial]
    return FiniteMDP.from_function(num_states, num_actions, outcomes, initial=start, **described)


@pytest.fixture
def solved():
    """Value iteration in a few lines."""

    def solve(mdp, gamma=1.0, sweeps=None):
        value = np.zeros(mdp.num_states)
        for iteration in range(1, 1_000):
            ahead = (mdp.transition @ value).reshape(mdp.legal.shape)
            q = np.where(mdp.legal, mdp.expected_reward + gamma * ahead, -np.inf)
            before, value = value, q.max(axis=1)
            if sweeps is not None:
                sweeps(iteration, value)
            if np.abs(value - before).max() < 1e-12:
                break
        best = q >= value[:, None] - 1e-9
        criterion = "total" if gamma == 1 else "discounted"
        policy = best / best.sum(axis=1, keepdims=True)
        return Solution(value, q, policy, "value_iteration", criterion, gamma, iteration, 0.0, 0.0, True)

    return solve


@pytest.fixture
def changed():
    """A solution with other fields."""
    return replace


@pytest.fixture
def grid():
    """A deterministic grid from its rows: S start, G goal, # wall; a step costs 1. Actions are left, down,
    right, up."""

    def make(*rows):
        letters, columns = "".join(rows), len(rows[0])

        def outcomes(state, action):
            if letters[state] == "#":
                return [(1.0, state, 0.0, True)]
            row, column = divmod(state, columns)
            row = min(max(row + (0, 1, 0, -1)[action], 0), len(rows) - 1)
            column = min(max(column + (-1, 0, 1, 0)[action], 0), columns - 1)
            led = row * columns + column
            led = state if letters[led] == "#" else led
            return [(1.0, led, -1.0, letters[led] == "G")]

        names = {
            "state_names": tuple(letters),
            "action_names": ("left", "down", "right", "up"),
            "grid": (len(rows), columns),
        }
        return mdp_of(len(letters), 4, outcomes, letters.index("S"), **names)

    return make


@pytest.fixture
def maze(grid, solved):
    """Two by two cells with two best ways from the start."""
    mdp = grid("S.", ".G")
    return mdp, solved(mdp)


@pytest.fixture
def corridor(solved, changed):
    """The corridor of the lecture: five cells, R in the third costs 10, both actions in the last end the
    episode."""

    def outcomes(state, action):
        if state == 4:
            return [(1.0, state, 0.0, True)]
        return [
            (
                (1.0, state + 1, -10.0 if state == 2 else -1.0, False)
                if action
                else (1.0, max(state - 1, 0), -1.0, False)
            )
        ]

    mdp = mdp_of(5, 2, outcomes, 0, state_names=tuple("12345"), action_names=("L", "R"), grid=(1, 5))
    return mdp, changed(solved(mdp), method="policy_iteration", iterations=2)


@pytest.fixture
def random_mdp():
    """Without names or a grid."""

    def make(num_states, num_actions, illegal=()):
        rng = np.random.default_rng(0)

        def outcomes(state, action):
            if (state, action) in illegal:
                return []
            return [(0.5, int(rng.integers(num_states)), float(rng.normal()), False) for _ in range(2)]

        return mdp_of(num_states, num_actions, outcomes, None)

    return make
