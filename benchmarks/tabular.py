"""Tabular learners compared with a plain Python loop over Gymnasium: environment steps per
second, each side in its own process.

    python benchmarks/tabular.py [--rows PATTERN ...] [--repeats 3] [--quick]

The sides of a row alternate (A B A B ...), and the figures are medians over the repeats. Known dynamics are
sampled by compiled code; with `-stepped` Bellgrad steps the Gymnasium environment as it does if they are
not known. Imports, construction and compiling are outside the clock; what compiling took is reported apart,
into an empty cache in the first repeat and from the cache in the others. Every action is uniform (epsilon 1),
so that both sides have the same episodes, and every episode is seeded.
"""

import argparse
import json
import os
import shlex
import statistics
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path

from common import RESULTS, ROOT, ChildError, ask, provenance, read_results, warn_if_busy, write_results
from tables import compile_table, speed_table

FIELDS = {"alpha": 0.1, "gamma": 0.99, "epsilon_initial": 1.0, "epsilon_final": 1.0}
NAMES = {"q_learning": "Q-learning", "sarsa": "SARSA", "expected_sarsa": "Expected SARSA"}
ENVS = {"frozen_lake": "FrozenLake-v1", "taxi": "Taxi-v4"}
BARS = {"compiled": 100.0, "stepped": 1.0}
STEPS = {"plain": 200_000, "compiled": 40_000_000, "stepped": 200_000}  # on the clock
WARM = 5_000
ROWS = {
    f"{algorithm.replace('_', '-')}-{env}" + ("-stepped" if how == "stepped" else ""): (algorithm, env, how)
    for how in BARS
    for algorithm in NAMES
    for env in ENVS
}


def command(row: str, ours: bool, quick: bool) -> list[str]:
    """The process that measures one side of a row."""
    algorithm, env, how = ROWS[row]
    settings = {"algorithm": algorithm, "env": ENVS[env], "num_envs": 1, "seed": 0, "fields": FIELDS}
    settings["backend"] = "gymnasium" if how == "stepped" else "native"
    steps = STEPS[how if ours else "plain"] // (10 if quick else 1)
    script = (
        ["benchmarks/bellgrad_side.py", "--engine", "compiled"]
        if ours
        else ["benchmarks/peers/plain_loop.py"]
    )
    return [
        sys.executable,
        *script,
        "--settings",
        json.dumps(settings),
        "--warm",
        str(WARM),
        "--steps",
        str(steps),
    ]


def measure(row: str, repeats: int, quick: bool) -> dict:
    """A row of the results: both medians, their ratio, and everything that was measured."""
    algorithm, env, how = ROWS[row]
    sides: dict[str, dict] = {}
    for side in ("peer", "ours"):
        sides[side] = {
            "command": shlex.join(command(row, side == "ours", quick)).replace(f"{ROOT}/", ""),
            "repeats": [],
        }
    with tempfile.TemporaryDirectory(prefix="bellgrad-bench-") as cache:
        for repeat in range(repeats):
            for side, found in sides.items():
                answer = ask(
                    command(row, side == "ours", quick), {"NUMBA_CACHE_DIR": cache, "OMP_NUM_THREADS": "1"}
                )
                found["repeats"].append(answer)
                print(
                    f"  {row:34s} {side} {repeat + 1}/{repeats}  {answer['steps_per_second']:12,.0f} steps/s",
                    file=sys.stderr,
                )
    ours, peer = (
        statistics.median(r["steps_per_second"] for r in sides[side]["repeats"]) for side in ("ours", "peer")
    )
    calls = [r["first_learning_call_seconds"] for r in sides["ours"]["repeats"]]
    made = {"compiled": "dynamics known", "stepped": "stepping Gymnasium"}[how]
    return {
        "title": f"{NAMES[algorithm]} {ENVS[env]}, {made}",
        "engine": how,
        "peer": "plain Python loop",
        "peer_setting": "gymnasium.make, NumPy table",
        "bar": BARS[how],
        "ours_steps_per_second": ours,
        "peer_steps_per_second": peer,
        "ratio": ours / peer,
        "met": ours / peer >= BARS[how],
        "compile_seconds_cold": calls[0]
        if how == "compiled"
        else None,  # a stepped run compiles before its first call
        "compile_seconds_cached": statistics.median(calls[1:]) if how == "compiled" and calls[1:] else None,
        "measured": sides,
    }


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
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps, into tabular-quick.json")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/tabular.json")
    args = parser.parse_args()
    rows = [row for row in ROWS if any(fnmatch(row, pattern) for pattern in args.rows)]
    if not rows:
        parser.error(f"no row is called {' or '.join(args.rows)}; there are {', '.join(ROWS)}")
    out = args.out or RESULTS / ("tabular-quick.json" if args.quick else "tabular.json")
    warn_if_busy()
    made, results = provenance(), read_results(out)
    for row in rows:
        try:
            results[row] = measure(row, args.repeats, args.quick)
        except ChildError as error:
            print(f"  {row:34s} failed: {error}", file=sys.stderr)
            continue
        results[row]["provenance"] = made | {"repeats": args.repeats, "quick": args.quick}
        write_results(out, {name: results[name] for name in ROWS if name in results})
    print(speed_table(results), compile_table(results), sep="\n\n")
    print(f"{os.path.relpath(out)} holds every repeat of both sides", file=sys.stderr)


if __name__ == "__main__":
    main()
