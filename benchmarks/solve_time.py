"""Seconds of training until a task is solved, compared with another library, each side and seed in its
own process, in turn.

    python benchmarks/solve_time.py [--rows PATTERN ...] [--seeds 10] [--quick]

The clock runs while a side gathers experience and learns. It stands still while the policy is evaluated, over
100 fresh episodes with its greedy actions, after every so many environment steps; and while code is compiled.
A side has solved CartPole-v1 at the first evaluation whose mean return is at least 475. A row's figure is the
median over the seeds; a seed that has not solved it within the steps allowed counts as infinite.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from common import (
    HERE,
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
from tables import solve_table

ENV, TARGET, EPISODES, EVALUATION_SEED = "CartPole-v1", 475.0, 100, 1_000_000
SECONDS_BAR, RATIO_BAR = 3.0, 2.0
PEER_EVERY, PEER_STEPS = 2_048, 100_000  # environment steps between evaluations, and after which it gives up


@dataclass(frozen=True)
class Row:
    """Who solves it, with a preset if there is one.

    Attributes:
        algorithm: Bellgrad's name.
        every: environment steps between evaluations; a search is evaluated after every generation.
        steps: environment steps after which it gives up.
    """

    algorithm: str
    every: int
    steps: int


ROWS = {"ppo": Row("ppo", PEER_EVERY, PEER_STEPS), "cem": Row("cem", 1, 2_000_000)}
PEER = "Stable-Baselines3 PPO, the settings of RL Baselines3 Zoo"


# ------------------------------------------------------------------------------------ in a process of its own
def solve(row: Row, seed: int) -> dict:
    """Train until it is solved."""
    import time

    from bellgrad.core.registry import ALGORITHMS
    from bellgrad.presets import find_preset
    from bellgrad.runs.settings import Settings
    from bellgrad.training.evaluate import evaluate_agent
    from bellgrad.training.run import Run
    from bellgrad.training.session import Session, Tracker

    preset = find_preset(row.algorithm, ENV) if row.algorithm == "ppo" else None
    algorithm, num_envs = (
        (preset.algorithm, preset.num_envs) if preset else (ALGORITHMS.find(row.algorithm)(), None)
    )
    settings = Settings(
        algorithm, ENV, row.steps, seed, num_envs=num_envs, engine="compiled", device="cpu", eval_episodes=0
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(settings, Path(folder) / "run")
        session = Session(run, run.make_env(settings.num_envs), progress="off")
        driver = session.driver
        driver.total = sys.maxsize
        session._save()
        driver.advance()  # compiles
        driver.restore(run.checkpoint())
        judge, tracker = run.make_env(16), Tracker()
        seconds, result, passed = 0.0, None, 0
        while driver.steps < row.steps:
            start = time.perf_counter()
            while driver.steps < passed + row.every:
                tracker.add(driver.advance())
            tracker.flush()
            seconds += time.perf_counter() - start
            passed = driver.steps
            result = evaluate_agent(driver.learner, driver.state, judge, EPISODES, EVALUATION_SEED + seed)
            if result.return_mean >= TARGET:
                break
        session.metrics.close()
        session.env.close()
    solved = result is not None and result.return_mean >= TARGET
    return {"seconds": seconds if solved else None, "steps": driver.steps, "return_mean": result.return_mean,
            "engine": session.plan.engine.to_json()}  # fmt: skip


# -------------------------------------------------------------------------------------------- the measurement
def commands(name: str, peers_python: str, seed: int) -> dict[str, list[str]]:
    """The processes of a seed, by side."""
    ours = [sys.executable, str(HERE / "solve_time.py"), "--child", name, str(seed)]
    settings = {
        "env": ENV,
        "target": TARGET,
        "episodes": EPISODES,
        "every": PEER_EVERY,
        "steps": PEER_STEPS,
        "seed": seed,
    }
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return {
        "ours": ours,
        "peer": [peers_python, str(HERE / "peers" / "sb3_solve.py"), *words, "--threads", "1"],
    }


def median(found: list[dict]) -> float | None:
    """Of the seconds; None if most seeds have not solved it."""
    middle = statistics.median(float("inf") if one["seconds"] is None else one["seconds"] for one in found)
    return None if middle == float("inf") else middle


def measure(name: str, peers_python: str, seeds: int, cache: str) -> dict:
    """A row of the results."""
    found: dict[str, list[dict]] = {"ours": [], "peer": []}
    for seed in range(seeds):
        for side, command in commands(name, peers_python, seed).items():
            found[side].append(ask(command, own_cache(cache)))
            print(f"  {name} {side:5s} seed {seed}: {found[side][-1]['seconds']} s", file=sys.stderr)
    ours, peer = median(found["ours"]), median(found["peer"])
    ratio = peer / ours if ours and peer else None
    return {
        "title": f"{ENV} to a mean return of {TARGET:g}",
        "algorithm": ROWS[name].algorithm,
        "peer": PEER,
        "seeds": seeds,
        "ours_seconds": ours,
        "peer_seconds": peer,
        "ratio": ratio,
        "bar": SECONDS_BAR,
        "ratio_bar": RATIO_BAR,
        "ours_steps": statistics.median(one["steps"] for one in found["ours"]),
        "peer_steps": statistics.median(one["steps"] for one in found["peer"]),
        "met": ours is not None and ours < SECONDS_BAR and ratio is not None and ratio >= RATIO_BAR,
        "measured": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", nargs="+", default=["*"], metavar="PATTERN", help=f"which of {', '.join(ROWS)}"
    )
    parser.add_argument("--seeds", type=int, default=10, help="how many, from 0 (default 10)")
    parser.add_argument(
        "--quick", action="store_true", help="one seed, into solve_time-quick.json: to see that it works"
    )
    parser.add_argument(
        "--peers-python",
        default=".venv-bench/bin/python",
        help="the interpreter with the peers (make bench makes it)",
    )
    args = parser.parse_args()
    chosen = [name for name in ROWS if any(fnmatch(name, pattern) for pattern in args.rows)]
    if not chosen:
        parser.error(f"no row is called {' or '.join(args.rows)}; there are {', '.join(ROWS)}")
    if not (ROOT / args.peers_python).exists():
        parser.error(f"{args.peers_python} does not exist; run make bench, or give --peers-python")
    out = RESULTS / ("solve_time-quick.json" if args.quick else "solve_time.json")
    warn_if_busy()
    made, results = provenance(), read_results(out)
    with tempfile.TemporaryDirectory(prefix="bellgrad-bench-") as cache:
        for name in chosen:
            try:
                results[name] = measure(name, args.peers_python, 1 if args.quick else args.seeds, cache) | {
                    "provenance": made
                }
            except ChildError as error:
                print(f"  {name} failed: {error}", file=sys.stderr)
            write_results(out, {row: results[row] for row in ROWS if row in results})
    print(solve_table(read_results(out)))
    print(f"{os.path.relpath(out)} holds every seed of both sides", file=sys.stderr)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(solve(ROWS[sys.argv[2]], int(sys.argv[3]))))
    else:
        main()
