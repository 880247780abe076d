"""Speed compared with other libraries: environment steps per second of learning, each side in its own
process, both in one run.

    python benchmarks/speed.py [--rows PATTERN ...] [--repeats 3] [--quick]

The sides of a row alternate (A B A B ...), and the figures are medians over the repeats. End to end:
environment, acting, replay or rollout, updates, bookkeeping. Imports, construction, warm-up and compiling are
outside the clock. Every side gets the same settings and its own natural way of running: Stable-Baselines3 and
Tianshou their dummy vector environments over Gymnasium's, measured with torch's default threads and with one
thread, and the faster of the two counts; RLtools its own C++ pendulum with MKL; Bellgrad its own native
environment and the threads that its engine chooses. Bellgrad's first repeat compiles into an empty cache, the
others read it.
"""

import argparse
import json
import os
import shlex
import statistics
import sys
import tempfile
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from common import (
    RESULTS,
    ROOT,
    ChildError,
    ask,
    own_cache,
    provenance,
    read_results,
    warn_if_busy,
    write_results,
)
from tables import speed_table

SAC = {
    "algorithm": "sac",
    "env": "Pendulum-v1",
    "num_envs": 1,
    "learning_rate": 3e-4,
    "gamma": 0.99,
    "tau": 0.005,
    "buffer_size": 100_000,
    "learning_starts": 1_000,
    "seed": 0,
}
DQN = {
    "algorithm": "dqn",
    "env": "CartPole-v1",
    "num_envs": 1,
    "learning_rate": 1e-3,
    "gamma": 0.99,
    "epsilon": 0.05,
    "target_period": 500,
    "buffer_size": 100_000,
    "learning_starts": 1_000,
    "seed": 0,
}
PPO = {
    "algorithm": "ppo",
    "env": "CartPole-v1",
    "learning_rate": 1e-3,
    "gamma": 0.98,
    "lambda": 0.8,
    "hidden": [64, 64],
    "rollout_steps": 32,
    "seed": 0,
}
A2C = {
    "algorithm": "a2c",
    "env": "CartPole-v1",
    "num_envs": 8,
    "learning_rate": 7e-4,
    "gamma": 0.99,
    "lambda": 1.0,
    "hidden": [64, 64],
    "rollout_steps": 5,
    "epochs": 1,
    "batch_size": 40,
    "seed": 0,
}
# One step of the policy and one of the value to a rollout: Stable-Baselines3's and Tianshou's A2C do that
# work in one step.
VPG = A2C | {
    "algorithm": "vpg",
    "learning_rate": 1e-3,
    "lambda": 0.97,
    "rollout_steps": 256,
    "batch_size": 2_048,
}
ES = {
    "algorithm": "openai_es",
    "env": "CartPole-v1",
    "num_envs": 256,
    "fields": {"population": 256},
    "seed": 0,
}


@dataclass(frozen=True)
class Work:
    """What is measured, and for how long.

    Attributes:
        settings: of every side alike.
        warm: environment steps before the clock starts.
        steps: environment steps on the clock, by side: about ten seconds each.
    """

    settings: dict
    warm: int
    steps: dict[str, int]


WORKS = {
    "sac-64": Work(
        SAC | {"hidden": [64, 64], "batch_size": 100},
        1_500,
        {"sb3": 3_000, "rltools": 40_000, "compiled": 30_000, "eager": 3_000},
    ),
    "sac-256": Work(
        SAC | {"hidden": [256, 256], "batch_size": 256},
        1_300,
        {"sb3": 1_200, "compiled": 4_000, "eager": 1_200},
    ),
    "dqn-64": Work(
        DQN | {"hidden": [64, 64], "batch_size": 64},
        1_500,
        {"sb3": 8_000, "compiled": 40_000, "eager": 8_000},
    ),
    "ppo-8": Work(
        PPO | {"num_envs": 8, "epochs": 20, "batch_size": 256},
        10 * 256,
        {"sb3": 200 * 256, "compiled": 1_000 * 256, "eager": 300 * 256},
    ),
    "ppo-4": Work(
        PPO | {"num_envs": 4, "rollout_steps": 128, "epochs": 4, "batch_size": 128},
        10 * 512,
        {"sb3": 100 * 512, "tianshou": 40 * 512, "compiled": 1_000 * 512},
    ),
    "a2c-8": Work(A2C, 4_000, {"sb3": 60_000, "tianshou": 12_000, "compiled": 1_000_000}),
    "vpg-8": Work(VPG, 4_096, {"sb3": 40 * 2_048, "tianshou": 10 * 2_048, "compiled": 400 * 2_048}),
    "es-256": Work(ES, 256 * 500, {"compiled": 100 * 256 * 500}),
    "ppo-1024": Work(
        PPO | {"num_envs": 1_024, "epochs": 4, "batch_size": 8_192}, 3 * 32_768, {"compiled": 60 * 32_768}
    ),
}


@dataclass(frozen=True)
class Row:
    """A ratio and its bar. A side is a work and who does it; without a peer the bar is in environment steps a
    second."""

    title: str
    ours: tuple[str, str]
    peer: tuple[str, str] | None
    bar: float


_SB3_PPO = ("ppo-8", "sb3")
ROWS = {
    "sac-64": Row("SAC Pendulum 64-64, batch 100", ("sac-64", "compiled"), ("sac-64", "sb3"), 8.0),
    "sac-64-rltools": Row(
        "SAC Pendulum 64-64, batch 100", ("sac-64", "compiled"), ("sac-64", "rltools"), 0.6
    ),
    "sac-64-eager": Row("SAC Pendulum 64-64, batch 100, eager", ("sac-64", "eager"), ("sac-64", "sb3"), 0.9),
    "sac-256": Row("SAC Pendulum 256-256, batch 256", ("sac-256", "compiled"), ("sac-256", "sb3"), 2.2),
    "sac-256-eager": Row(
        "SAC Pendulum 256-256, batch 256, eager", ("sac-256", "eager"), ("sac-256", "sb3"), 0.9
    ),
    "dqn-64": Row("DQN CartPole 64-64, batch 64", ("dqn-64", "compiled"), ("dqn-64", "sb3"), 5.0),
    "dqn-64-eager": Row("DQN CartPole 64-64, batch 64, eager", ("dqn-64", "eager"), ("dqn-64", "sb3"), 0.9),
    "ppo-8": Row(
        "PPO CartPole, 8 environments x 32, 20 epochs, batch 256", ("ppo-8", "compiled"), _SB3_PPO, 4.0
    ),
    "ppo-8-eager": Row(
        "PPO CartPole, 8 environments x 32, 20 epochs, batch 256, eager", ("ppo-8", "eager"), _SB3_PPO, 1.5
    ),
    "ppo-4": Row("PPO CartPole, 4 environments x 128, 4 x 4", ("ppo-4", "compiled"), ("ppo-4", "sb3"), 4.0),
    "ppo-4-tianshou": Row(
        "PPO CartPole, 4 environments x 128, 4 x 4", ("ppo-4", "compiled"), ("ppo-4", "tianshou"), 4.0
    ),
    "a2c-8": Row("A2C CartPole, 8 environments x 5", ("a2c-8", "compiled"), ("a2c-8", "sb3"), 5.0),
    "a2c-8-tianshou": Row(
        "A2C CartPole, 8 environments x 5", ("a2c-8", "compiled"), ("a2c-8", "tianshou"), 5.0
    ),
    "vpg-8": Row(
        "VPG CartPole, 8 environments x 256, against A2C with as long rollouts",
        ("vpg-8", "compiled"),
        ("vpg-8", "sb3"),
        4.0,
    ),
    "vpg-8-tianshou": Row(
        "VPG CartPole, 8 environments x 256, against A2C with as long rollouts",
        ("vpg-8", "compiled"),
        ("vpg-8", "tianshou"),
        4.0,
    ),
    "es-256": Row("OpenAI-ES CartPole, population 256", ("es-256", "compiled"), None, 1e6),
    "ppo-1024": Row(
        "PPO CartPole, 1,024 environments x 32, 4 x 4, against 8 x 32",
        ("ppo-1024", "compiled"),
        _SB3_PPO,
        35.0,
    ),
}
PEERS = {"sb3": "Stable-Baselines3", "tianshou": "Tianshou", "rltools": "RLtools"}


def commands(side: tuple[str, str], peers_python: str, quick: bool) -> dict[str, list[str]]:
    """The processes that measure a side, by name. Libraries on torch have two: a user would keep the faster
    setting."""
    work, who = WORKS[side[0]], side[1]
    steps = max(work.steps[who] // 10, 1) if quick else work.steps[who]
    rest = ["--settings", json.dumps(work.settings), "--warm", str(work.warm), "--steps", str(steps)]
    if who in ("sb3", "tianshou"):
        command = [peers_python, f"benchmarks/peers/{who}_side.py", *rest]
        return {"default threads": command, "1 thread": [*command, "--threads", "1"]}
    if who == "rltools":
        return {"own pendulum, MKL": [peers_python, "benchmarks/peers/rltools_sac.py", *rest]}
    return {who: [sys.executable, "benchmarks/bellgrad_side.py", "--engine", who, *rest]}


def measure(
    sides: list[tuple[str, str]], repeats: int, peers_python: str, quick: bool, cache: str
) -> dict[tuple[str, str], dict]:
    """Run every side in turn, `repeats` times over.

    Returns:
        for each side and each of its commands: the command and what every repeat answered, or what went
        wrong.
    """
    found: dict[tuple[str, str], dict] = {
        side: {
            name: {"command": shlex.join(command).replace(f"{ROOT}/", ""), "repeats": []}
            for name, command in commands(side, peers_python, quick).items()
        }
        for side in sides
    }
    for repeat in range(repeats):
        for side in sides:
            for name, command in commands(side, peers_python, quick).items():
                entry = found[side][name]
                if "error" in entry:
                    continue
                try:
                    answer = ask(command, own_cache(cache))
                except ChildError as error:
                    entry["error"] = str(error)
                    print(f"  {side[0]:9s} {name:16s} failed: {error}", file=sys.stderr)
                    continue
                entry["repeats"].append(answer)
                print(
                    f"  {side[0]:9s} {name:16s} {repeat + 1}/{repeats}  {answer['steps_per_second']:11,.0f}"
                    " steps/s",
                    file=sys.stderr,
                )
    return found


def best(side: dict) -> tuple[str, float] | None:
    """The faster of a side's commands, by its median; None if all failed."""
    medians = {
        name: statistics.median(r["steps_per_second"] for r in entry["repeats"])
        for name, entry in side.items()
        if "error" not in entry
    }
    return max(medians.items(), key=lambda item: item[1]) if medians else None


def judge(row: Row, found: dict[tuple[str, str], dict]) -> dict:
    """A row of the results: both medians, their ratio, and everything that was measured."""
    ours, peer = best(found[row.ours]), best(found[row.peer]) if row.peer else None
    record = {
        "title": row.title,
        "peer": PEERS[row.peer[1]] if row.peer else None,
        "bar": row.bar,
        "engine": row.ours[1],
    }
    record |= {
        "ours_steps_per_second": ours and ours[1],
        "peer_steps_per_second": peer and peer[1],
        "peer_setting": peer and peer[0],
    }
    record["ratio"] = ours[1] / peer[1] if ours and peer else None
    figure = record["ratio"] if row.peer else record["ours_steps_per_second"]
    record["met"] = figure >= row.bar if figure is not None else None
    if ours and row.ours[1] == "compiled":
        calls = [r["first_learning_call_seconds"] for r in found[row.ours]["compiled"]["repeats"]]
        record |= {
            "compile_seconds_cold": calls[0],
            "compile_seconds_cached": statistics.median(calls[1:]) if calls[1:] else None,
        }
    sides = {"ours": row.ours} | ({"peer": row.peer} if row.peer else {})
    return record | {
        "settings": {name: WORKS[side[0]].settings for name, side in sides.items()},
        "measured": {name: found[side] for name, side in sides.items()},
    }


def _group(row: Row) -> str:
    """The work that its peer does, or its own without a peer."""
    return (row.peer or row.ours)[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        default=["*"],
        metavar="PATTERN",
        help=f"which of {', '.join(ROWS)}; * and ? stand for letters",
    )
    parser.add_argument("--repeats", type=int, default=3, help="of every side (default 3)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a tenth of the steps, into speed-quick.json: to see that it works",
    )
    parser.add_argument(
        "--peers-python",
        default=".venv-bench/bin/python",
        help="the interpreter with the peers (make bench makes it)",
    )
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/speed.json")
    args = parser.parse_args()
    rows = {name: row for name, row in ROWS.items() if any(fnmatch(name, pattern) for pattern in args.rows)}
    if not rows:
        parser.error(f"no row is called {' or '.join(args.rows)}; there are {', '.join(ROWS)}")
    if not (ROOT / args.peers_python).exists():
        parser.error(f"{args.peers_python} does not exist; run make bench, or give --peers-python")
    out = args.out or RESULTS / ("speed-quick.json" if args.quick else "speed.json")
    warn_if_busy()
    made, results = provenance(), read_results(out)
    with tempfile.TemporaryDirectory(prefix="bellgrad-bench-") as cache:
        # sides that are compared run close together
        for group in dict.fromkeys(_group(row) for row in rows.values()):
            chosen = {name: row for name, row in rows.items() if _group(row) == group}
            sides = list(
                dict.fromkeys(side for row in chosen.values() for side in (row.peer, row.ours) if side)
            )
            found = measure(sides, args.repeats, args.peers_python, args.quick, cache)
            for name, row in chosen.items():
                results[name] = judge(row, found) | {
                    "provenance": made | {"repeats": args.repeats, "quick": args.quick}
                }
            write_results(out, {name: results[name] for name in ROWS if name in results})
    print(speed_table(read_results(out)))
    print(f"{os.path.relpath(out)} holds every repeat of both sides", file=sys.stderr)


if __name__ == "__main__":
    main()
