"""Learning against published figures: many seeds, evaluated after training on whole episodes that nobody has
seen.

    python benchmarks/learning.py [--rows PATTERN ...] [--seeds 0 1 ...] [--jobs 2] [--again]

Each seed is one run of Bellgrad with the row's settings. Its figure is the mean undiscounted return of the
greedy policy (the policy as it is, if the row says so) of the *last* checkpoint, over fresh episodes;
never the best over training. A row's figure is the interquartile mean over its seeds (the mean if there
are three), with a 95% bootstrap interval. A finished seed is written to benchmarks/results/learning.json at
once, and is not run again while its settings stay the same (`--again` does); a seed that was interrupted goes
on from its last checkpoint, if the commit is the same.
"""

import argparse
import hashlib
import json
import os
import queue
import shutil
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from common import HERE, RESULTS, ROOT, ChildError, ask, provenance, read_results, warn_if_busy, write_results

EVALUATION_SEED = 1_000_000  # plus the run's seed: far from the seeds that training evaluates with
CURVE_POINTS = 50


@dataclass(frozen=True)
class Row:
    """A task and what must be reached.

    Attributes:
        algorithm: its name.
        env: a Gymnasium id.
        steps: environment steps of a run.
        bar: the least return.
        source: where the bar, and the settings if they are a preset's, come from.
        preset: a preset's name, or None for the defaults.
        seeds: how many, from 0.
        episodes: of the evaluation.
        deterministic: evaluate the greedy policy, or the policy as it is if its randomness is the point.
        at_most: the bar is a ceiling: what must not be reached, since something is missing on purpose.
    """

    algorithm: str
    env: str
    steps: int
    bar: float
    source: str
    preset: str | None = None
    seeds: int = 5
    episodes: int = 100
    deterministic: bool = True
    at_most: bool = False


_ZOO = "RL Baselines3 Zoo, benchmark.md (one run)"
_SOLVED = "Gymnasium's reward threshold"
_DOPAMINE = "Dopamine (5 seeds): training return 5470 at 100k"
_CLASSIC = {
    "ppo": 100_000,
    "trpo": 100_000,
    "vpg": 200_000,
    "reinforce": 300_000,
    "a2c": 500_000,
    "hill_climbing": 300_000,
    "simulated_annealing": 300_000,
    "cem": 300_000,
    "cma_es": 300_000,
    "openai_es": 300_000,
}
_SPEEDLESS = "bellgrad/VelocityFreeCartPole-v1"
ROWS = (
    {
        "cartpole-dqn": Row(
            "dqn", "CartPole-v1", 50_000, 475, f"{_SOLVED}; {_ZOO}: 500 at 50k; CleanRL: 489 at 500k"
        ),
        "cartpole-dqn-preset": Row(
            "dqn", "CartPole-v1", 50_000, 475, f"{_SOLVED}; {_ZOO}: 500 at 50k", preset="CartPole-v1"
        ),
        "cartpole-ppo-preset": Row(
            "ppo", "CartPole-v1", 100_000, 475, f"{_SOLVED}; {_ZOO}: 500 at 100k", preset="CartPole-v1"
        ),
    }
    | {
        f"cartpole-{name}": Row(
            name, "CartPole-v1", steps, 475, f"{_SOLVED}; {_ZOO}: 500 at 100k (PPO, TRPO) and 500k (A2C)"
        )
        for name, steps in _CLASSIC.items()
    }
    | {
        "pendulum-sac": Row("sac", "Pendulum-v1", 20_000, -165, f"{_ZOO}: -157 at 20k"),
        "pendulum-ppo-preset": Row(
            "ppo", "Pendulum-v1", 100_000, -200, f"{_ZOO}: -172 at 100k", preset="Pendulum-v1"
        ),
        "lunarlander-ppo": Row("ppo", "LunarLander-v3", 1_000_000, 200, f"{_SOLVED}; {_ZOO}: 242 at 1M"),
        "lunarlander-ppo-preset": Row(
            "ppo", "LunarLander-v3", 1_000_000, 240, f"{_ZOO}: 242 at 1M", preset="LunarLander-v3"
        ),
        "halfcheetah-sac": Row("sac", "HalfCheetah-v5", 100_000, 4_500, _DOPAMINE, seeds=3, episodes=10),
        "halfcheetah-sac-preset": Row(
            "sac", "HalfCheetah-v5", 100_000, 4_500, _DOPAMINE, "HalfCheetah-v5", seeds=3, episodes=10
        ),
        "halfcheetah-ppo-preset": Row(
            "ppo",
            "HalfCheetah-v5",
            1_000_000,
            5_000,
            f"{_ZOO}: 5819 at 1M",
            "HalfCheetah-v5",
            seeds=3,
            episodes=10,
        ),
        "halfcheetah-trpo-preset": Row(
            "trpo",
            "HalfCheetah-v5",
            1_000_000,
            1_800,
            f"{_ZOO}: 1785 at 1M",
            "HalfCheetah-v5",
            seeds=3,
            episodes=10,
        ),
        "velocity-free-cartpole-ppo-preset": Row(
            "ppo", _SPEEDLESS, 200_000, 475, "what CartPole-v1 is solved at, with a memory", preset=_SPEEDLESS
        ),
        "velocity-free-cartpole-ppo": Row(
            "ppo",
            _SPEEDLESS,
            200_000,
            200,
            "must be missed: without a memory no policy balances long",
            at_most=True,
        ),
        "vacuum-world-reinforce-preset": Row(
            "reinforce",
            "bellgrad/VacuumWorld-v0",
            100_000,
            0.95,
            "success; the best deterministic policy without a memory has 0.5",
            preset="bellgrad/VacuumWorld-v0",
            episodes=1_000,
            deterministic=False,
        ),
        "pixelcopter-reinforce-preset": Row(
            "reinforce",
            "bellgrad/PixelCopter-v0",
            1_500_000,
            20,
            "the bar of a course's final exercise",
            preset="bellgrad/PixelCopter-v0",
        ),
    }
)


def quick(row: Row) -> Row:
    """The same, too short to learn anything."""
    return replace(row, steps=row.steps // 50, seeds=2, episodes=2)


def configuration(row: Row) -> tuple[Any, dict[str, Any]]:
    """The algorithm of a row, and the options of `train` that go with it."""
    from bellgrad.core.registry import ALGORITHMS
    from bellgrad.presets import find_preset

    if row.preset is None:
        return ALGORITHMS.find(row.algorithm)(), {}
    preset = find_preset(row.algorithm, row.preset)
    return preset.algorithm, {"num_envs": preset.num_envs, "transforms": preset.transforms}


def settings_of(row: Row) -> dict[str, Any]:
    """Everything that a row's figure depends on, apart from the code; JSON-able."""
    from bellgrad.runs.settings import Settings

    algorithm, options = configuration(row)
    record = Settings(algorithm, row.env, row.steps, **options).to_json(row.env)
    kept = ("algorithm", "env", "steps", "num_envs", "transforms")
    settings = {name: record[name] for name in kept} | {
        "evaluation_episodes": row.episodes,
        "evaluation_seed": EVALUATION_SEED,
    }
    settings |= {} if row.deterministic else {"evaluation": "stochastic"}
    return json.loads(json.dumps(settings))  # tuples become lists, as they do in the file


# ------------------------------------------------------------------------------------ in a process of its own
def train_one(row: Row, seed: int, folder: Path, core: int | None) -> dict[str, Any]:
    """Train and evaluate one seed; an unfinished run in `folder` goes on."""
    if core is not None:
        os.sched_setaffinity(0, {core})  # before torch counts the cores
    from bellgrad import api
    from bellgrad.runs.reading import read_metrics

    algorithm, options = configuration(row)
    if not (folder / "run.json").exists():
        api.train(
            algorithm,
            row.env,
            row.steps,
            seed=seed,
            out=folder,
            progress="off",
            eval_episodes=0,
            device="cpu",
            **options,
        )
    elif not api.is_finished(folder):
        api.resume(folder, progress="off")
    result = api.evaluate(
        folder, row.episodes, seed=EVALUATION_SEED + seed, deterministic=row.deterministic, checkpoint="last"
    )
    lines = [line for line in read_metrics(folder) if "steps_per_second" in line]
    every = max(1, len(lines) // CURVE_POINTS)
    return {
        "return_mean": result.return_mean,
        "return_std": result.return_std,
        "length_mean": result.length_mean,
        "episodes": result.episodes,
        "capped": result.capped,
        "steps": lines[-1]["step"],
        "seconds": lines[-1]["time"],
        "engine": json.loads((folder / "run.json").read_text())["engine_used"],
        "curve": [[line["step"], line["episode_return_mean"]] for line in lines[every - 1 :: every]],
    }


# -------------------------------------------------------------------------------------------- the measurement
def summarize(row: Row, settings: dict[str, Any], seeds: dict[str, Any]) -> dict[str, Any]:
    """A row of the results: its figure over the seeds that there are."""
    import numpy as np

    from bellgrad.report.statistics import bootstrap_interval, interquartile_mean

    seeds = dict(sorted(seeds.items(), key=lambda item: int(item[0])))
    statistic: Callable = np.mean if row.seeds < 4 else interquartile_mean
    record = {
        "settings_name": "preset" if row.preset else "defaults",
        "settings": settings,
        "source": row.source,
        "bar": row.bar,
        "at_most": row.at_most,
        "seeds_planned": row.seeds,
        "statistic": "mean" if row.seeds < 4 else "interquartile mean",
        "value": None,
        "low": None,
        "high": None,
        "met": None,
        "seeds": seeds,
    }
    if seeds:
        scores = [seed["return_mean"] for seed in seeds.values()]
        low, high = bootstrap_interval(scores, statistic)
        record |= {"value": float(statistic(scores)), "low": float(low), "high": float(high)}
        if len(seeds) >= row.seeds:
            record["met"] = record["value"] <= row.bar if row.at_most else record["value"] >= row.bar
    return record


class Results:
    """The file, written after every seed; used by several threads."""

    def __init__(self, path: Path, rows: dict[str, Row]):
        self._path, self._rows, self._lock = path, rows, threading.Lock()
        self._all = read_results(path)

    def seeds(self, name: str, settings: dict[str, Any]) -> dict[str, Any]:
        """The finished seeds of a row, if its settings are still the same; an older version may have written
        them."""
        from bellgrad.runs.settings import rewritten_record

        known = self._all.get(name)
        return known["seeds"] if known and rewritten_record(known["settings"]) == settings else {}

    def add(self, name: str, settings: dict[str, Any], seed: int, answer: dict[str, Any]) -> None:
        """Store a seed that has finished."""
        with self._lock:
            seeds = self.seeds(name, settings) | {str(seed): answer}
            self._all[name] = summarize(self._rows[name], settings, seeds)
            self._all = {name: self._all[name] for name in ROWS if name in self._all}
            write_results(self._path, self._all)

    def table(self) -> str:
        """Markdown."""
        from tables import learning_table

        return learning_table(self._all)


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
    parser.add_argument("--seeds", type=int, nargs="+", help="which seeds (default: every one of the row)")
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="runs at once, each on a core of its own (default 1, on all cores)",
    )
    parser.add_argument("--again", action="store_true", help="forget what is finished, and run it again")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a fiftieth of the steps, into learning-quick.json: to see that it works",
    )
    args = parser.parse_args()
    rows = {
        name: quick(row) if args.quick else row
        for name, row in ROWS.items()
        if any(fnmatch(name, pattern) for pattern in args.rows)
    }
    if not rows:
        parser.error(f"no row is called {' or '.join(args.rows)}; there are {', '.join(ROWS)}")
    warn_if_busy()
    place = "learning-quick" if args.quick else "learning"
    made, results = provenance(), Results(RESULTS / f"{place}.json", rows)
    settings = {name: settings_of(row) for name, row in rows.items()}
    cores: queue.Queue[int] = queue.Queue()
    for core in sorted(os.sched_getaffinity(0)):
        cores.put(core)
    if args.jobs > cores.qsize():
        parser.error(f"--jobs {args.jobs}: there are {cores.qsize()} cores")

    def one(name: str, seed: int) -> None:
        if not args.again and str(seed) in results.seeds(name, settings[name]):
            print(f"  {name} seed {seed}: finished already", file=sys.stderr)
            return
        digest = hashlib.sha256(json.dumps(settings[name], sort_keys=True).encode()).hexdigest()[:8]
        folder = ROOT / "runs" / place / f"{name}-{digest}-{made['commit'][:8]}" / f"seed-{seed}"
        if args.again:
            shutil.rmtree(folder, ignore_errors=True)
        core = cores.get() if args.jobs > 1 else None
        try:
            asked = {"row": asdict(rows[name]), "seed": seed, "folder": str(folder), "core": core}
            answer = ask([sys.executable, str(HERE / "learning.py"), "--child", json.dumps(asked)])
        except ChildError as error:
            print(f"  {name} seed {seed} failed: {error}", file=sys.stderr)
            return
        finally:
            if core is not None:
                cores.put(core)
        results.add(name, settings[name], seed, answer | {"provenance": made | {"jobs": args.jobs}})
        print(
            f"  {name} seed {seed}: {answer['return_mean']:.1f} in {answer['seconds']:.0f} s of training",
            file=sys.stderr,
        )

    with ThreadPoolExecutor(args.jobs) as pool:
        tasks = [
            (name, seed)
            for name in rows
            for seed in (args.seeds if args.seeds is not None else range(rows[name].seeds))
        ]
        try:
            list(pool.map(lambda task: one(*task), tasks))
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            print("stopped; the same command goes on from the last checkpoints", file=sys.stderr)
            raise SystemExit(130) from None
    print(results.table())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        asked = json.loads(sys.argv[2])
        print(json.dumps(train_one(Row(**asked["row"]), asked["seed"], Path(asked["folder"]), asked["core"])))
    else:
        main()
