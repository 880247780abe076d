"""Memory of a training run, and the time from the command to its first environment step.

    python benchmarks/memory.py [--rows PATTERN ...] [--quick]

Memory: the peak resident size of a whole run in its own process, evaluations and checkpoints included,
against the sum of what it must hold: the modules it imports (measured in a process that imports the same
modules and does nothing), the bytes of its replay or rollout, and those of its networks and optimizers. The
replays are full at the end. Compiler processes are children and not counted.

First step: seconds from starting `bellgrad train ...` (eager) until the environment has taken its first step,
by the wall clock.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
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

PEAK_BAR = 1.3  # peak over imports + replay + networks
FIRST_STEP_BAR = 5.0  # seconds


@dataclass(frozen=True)
class Case:
    """A run to weigh. `fields` are the algorithm's; everything else is its default. `long`: with the graph of
    a long run."""

    title: str
    algorithm: str
    env: str
    fields: dict
    num_envs: int
    steps: int
    engine: str = "eager"
    long: bool = False


# Off-policy runs fill their replay with uniform actions in many environments, which is quick, and then learn
# for a while.
_SAC = {"buffer_size": 1_000_000, "learning_starts": 999_936}
CASES = {
    "dqn": Case("DQN CartPole, replay 100k", "dqn", "CartPole-v1", {"learning_starts": 99_200}, 16, 102_400),
    "sac": Case("SAC Pendulum 256-256, replay 1M", "sac", "Pendulum-v1", _SAC, 64, 1_001_280),
    "sac-10m": Case(
        "SAC Pendulum 256-256, replay 10M",
        "sac",
        "Pendulum-v1",
        {"buffer_size": 10_000_000, "learning_starts": 9_999_360},
        64,
        10_000_640,
    ),
    "ppo": Case("PPO CartPole, 8 environments", "ppo", "CartPole-v1", {}, 8, 40_960),
    "dqn-compiled": Case(
        "DQN CartPole, replay 100k",
        "dqn",
        "CartPole-v1",
        {"learning_starts": 99_200},
        16,
        102_400,
        "compiled",
    ),
    "sac-compiled": Case(
        "SAC Pendulum 256-256, replay 1M", "sac", "Pendulum-v1", _SAC, 64, 1_001_280, "compiled"
    ),
    "sac-long": Case(
        "SAC Pendulum 256-256, replay 1M, long",
        "sac",
        "Pendulum-v1",
        _SAC,
        64,
        1_001_280,
        "compiled",
        long=True,
    ),
    "ppo-compiled": Case("PPO CartPole, 8 environments", "ppo", "CartPole-v1", {}, 8, 40_960, "compiled"),
}
FIRST_STEPS = {
    "first-dqn": ["dqn", "--env", "CartPole-v1", "--steps", "50k"],
    "first-ppo": ["ppo", "--env", "CartPole-v1", "--steps", "100k"],
    "first-sac": ["sac", "--env", "Pendulum-v1", "--steps", "20k"],
}


# ------------------------------------------------------------------------------------ in a process of its own
def peak_bytes() -> int:
    """The largest resident size of this process so far."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024


def run_case(name: str, quick: bool) -> dict:
    """Train, and weigh."""
    from bellgrad.core.registry import ALGORITHMS
    from bellgrad.core.tree import map_tree, named_leaves, tree_bytes
    from bellgrad.runs.settings import Settings
    from bellgrad.training import engine
    from bellgrad.training.run import Run
    from bellgrad.training.session import Session

    case = CASES[name]
    if case.long:
        engine.LONG_RUN_UPDATES = 0
    fields, steps = dict(case.fields), case.steps
    if quick and "learning_starts" in fields:
        fields |= {"learning_starts": 1_024, "buffer_size": 2_048}
        steps = 2_048
    algorithm = ALGORITHMS.find(case.algorithm)(**fields)
    settings = Settings(
        algorithm, case.env, steps, num_envs=case.num_envs, engine=case.engine, device="cpu", eval_episodes=2
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(settings, Path(folder) / "run")
        env = run.make_env(case.num_envs)
        session = Session(run, env, progress="off")
        session.train()
        env.close()
        checkpoints = sum(
            file.stat().st_size for file in (run.folder / "checkpoints").rglob("*") if file.is_file()
        )
    peak, driver = peak_bytes(), session.driver
    replay = getattr(driver, "replay", None)
    if replay is not None:
        held = tree_bytes(replay)
    else:  # a rollout: observation, action, five numbers and two flags per environment step, and `prepare`'s
        observation = tree_bytes(map_tree(lambda leaf: leaf[:1], driver.actor.state.obs))
        held = driver.steps_per_call * (observation + 8 + 4 * 6 + 2)
    return {
        "settings": settings.to_json(case.env),
        "peak_bytes": peak,
        "replay_bytes": held,
        "replay_full": replay is None or bool(replay.size == len(replay.reward)),
        "network_bytes": sum(
            leaf.numel() * leaf.element_size() for leaf in named_leaves(driver.state).values()
        ),
        "kept_checkpoint_bytes": checkpoints,
        "modules": [module for module in sys.modules if module != "__main__"],
    }


def run_imports() -> dict:
    """Import the modules named on standard input, in that order, and weigh."""
    import contextlib
    import importlib

    for module in json.load(sys.stdin):
        # some modules are made by others while those run, and cannot be imported by name
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    return {"imports_bytes": peak_bytes()}


def run_to_first_step(started: float, words: list[str]) -> None:
    """Be the `bellgrad` command until the environment has taken one step, then tell when and leave."""
    from bellgrad.training.driver import Driver  # `train` would import it a moment later

    follow = Driver.follow

    def timed(self, *args):
        follow(self, *args)
        seconds = time.time() - started
        # the command may have redirected its output
        print(json.dumps({"seconds": seconds}), file=sys.__stdout__, flush=True)
        os._exit(0)

    Driver.follow = timed
    from bellgrad.cli import main as bellgrad

    raise SystemExit(bellgrad(words))


# -------------------------------------------------------------------------------------------- the measurement
def weigh(name: str, quick: bool) -> dict:
    """A row of the memory results."""
    script, case = str(HERE / "memory.py"), CASES[name]
    # an empty one: compiling from the beginning takes the most memory
    with tempfile.TemporaryDirectory() as cache:
        words = ["--child", "case", name, *(["--quick"] if quick else [])]
        answer = ask([sys.executable, script, *words], own_cache(cache))
    imports = subprocess.run(
        [sys.executable, script, "--child", "imports"],
        input=json.dumps(answer.pop("modules")),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    answer |= json.loads(imports.stdout.splitlines()[-1])
    must = answer["imports_bytes"] + answer["replay_bytes"] + answer["network_bytes"]
    ratio = answer["peak_bytes"] / must
    return {"title": case.title, "engine": case.engine, **answer, "ratio": ratio, "bar": PEAK_BAR,
            "met": ratio <= PEAK_BAR}  # fmt: skip


def time_first_step(name: str, repeats: int) -> dict:
    """A row of the first-step results."""
    words = ["train", *FIRST_STEPS[name], "--engine", "eager"]
    seconds = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            child = [
                sys.executable,
                str(HERE / "memory.py"),
                "--child",
                "first-step",
                repr(time.time()),
                *words,
            ]
            seconds.append(ask([*child, "--out", f"{folder}/run"])["seconds"])
    median = statistics.median(seconds)
    return {
        "title": " ".join(["bellgrad", *words]),
        "repeats": seconds,
        "seconds": median,
        "seconds_most": max(seconds),
        "bar": FIRST_STEP_BAR,
        "met": median <= FIRST_STEP_BAR,
    }


def child(words: list[str]) -> None:
    """What a process started by this script does."""
    what, *rest = words
    if what == "case":
        print(json.dumps(run_case(rest[0], "--quick" in rest)))
    elif what == "imports":
        print(json.dumps(run_imports()))
    else:
        run_to_first_step(float(rest[0]), rest[1:])


def main() -> None:
    from tables import first_step_table, memory_table

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = ", ".join([*CASES, *FIRST_STEPS])
    parser.add_argument(
        "--rows",
        nargs="+",
        default=["*"],
        metavar="PATTERN",
        help=f"which of {known}; * and ? stand for letters",
    )
    parser.add_argument("--repeats", type=int, default=3, help="of each first step (default 3)")
    parser.add_argument(
        "--quick", action="store_true", help="tiny replays, into memory-quick.json: to see that it works"
    )
    args = parser.parse_args()
    out = RESULTS / ("memory-quick.json" if args.quick else "memory.json")
    warn_if_busy()
    made, results = provenance(), {"memory": {}, "first_step": {}} | read_results(out)
    chosen = [name for name in [*CASES, *FIRST_STEPS] if any(fnmatch(name, pattern) for pattern in args.rows)]
    if not chosen:
        parser.error(f"no row is called {' or '.join(args.rows)}; there are {known}")
    for name in chosen:
        kind = "memory" if name in CASES else "first_step"
        try:
            row = weigh(name, args.quick) if kind == "memory" else time_first_step(name, args.repeats)
        except (ChildError, subprocess.CalledProcessError) as error:
            print(f"  {name:14s} failed: {error}", file=sys.stderr)
            continue
        results[kind][name] = row | {"provenance": made}
        write_results(out, results)
        print(
            f"  {name:14s} {'peak / sum' if kind == 'memory' else 'seconds'}"
            f" {row.get('ratio', row.get('seconds')):.2f}",
            file=sys.stderr,
        )
    print(memory_table(results) + "\n" + first_step_table(results))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    else:
        main()
