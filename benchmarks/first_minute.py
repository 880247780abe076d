"""The first minute: a training command from its start to its end, with nothing compiled yet, again, and with
another learning rate; beside an earlier commit of Bellgrad.

    python benchmarks/first_minute.py GIT_REF [--rows PATTERN ...] [--repeats 1]

Wall-clock seconds, and seconds of all processors from the command to its exit: those that the whole machine
was busy, so that every process counts, and nothing else may run. Each tree begins with an empty cache in each
repeat. "compile" is `--engine compiled` for a few updates, so that nearly all of it is imports and compiling;
the other rows run with what `auto` chooses.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from fnmatch import fnmatch
from pathlib import Path

from common import RESULTS, ROOT, own_cache, provenance, read_results, warn_if_busy, write_results
from same_bits import checked_out

NETWORK = ["--algo.network.hidden", "64", "64"]
COMPILE = ["--engine", "compiled", "--eval-episodes", "0", *NETWORK]
ROWS = {
    "dqn-compile": ["dqn", "--env", "CartPole-v1", "--steps", "1040", *COMPILE],
    "sac-compile": ["sac", "--env", "Pendulum-v1", "--steps", "1040", *COMPILE],
    "ppo-compile": ["ppo", "--env", "CartPole-v1", "--steps", "2048", *COMPILE],
    "dqn-50k": ["dqn", "--env", "CartPole-v1", "--steps", "50k"],
    "sac-20k": ["sac", "--env", "Pendulum-v1", "--steps", "20k"],
}
TIMES = {"cold": [], "warm": [], "other learning rate": ["--algo.learning_rate", "4.1e-4"]}


def run(words: list[str], tree: Path, folder: str) -> dict[str, float]:
    """Seconds of a command, and those of all processors."""
    own = {"PYTHONPATH": str(tree / "src")} | own_cache(folder)
    before, began = busy_seconds(), time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "bellgrad", "train", *words, "--out", f"{out}/run", "--quiet"]
        done = subprocess.run(command, env=os.environ | own, cwd=out, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stderr.strip().splitlines()[-1]}")
    return {"seconds": time.perf_counter() - began, "cpu_seconds": busy_seconds() - before}


def busy_seconds() -> float:
    """That all processors of the machine were busy, since it was started."""
    user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ref", metavar="GIT_REF", help="the commit to compare with")
    parser.add_argument("--rows", nargs="+", default=["*"], metavar="PATTERN", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--repeats", type=int, default=1, help="of every command (default 1)")
    args = parser.parse_args()
    out = RESULTS / "first_minute.json"
    warn_if_busy()
    results = read_results(out)
    with checked_out(args.ref) as there:
        for name in [name for name in ROWS if any(fnmatch(name, pattern) for pattern in args.rows)]:
            found: dict[str, dict[str, list]] = {when: {"here": [], "there": []} for when in TIMES}
            for _ in range(args.repeats):
                for side, tree in (("here", ROOT), ("there", there)):
                    with tempfile.TemporaryDirectory() as cache:
                        for when, more in TIMES.items():
                            found[when][side].append(run(ROWS[name] + more, tree, cache))
            row = {"repeats": found, "ratio": {}}
            for when, sides in found.items():
                row["ratio"][when] = {
                    what: statistics.median(r[what] for r in sides["here"])
                    / statistics.median(r[what] for r in sides["there"])
                    for what in ("seconds", "cpu_seconds")
                }
                shown = {side: {k: round(v, 1) for k, v in runs[0].items()} for side, runs in sides.items()}
                print(name, when, shown, row["ratio"][when], file=sys.stderr, flush=True)
            results[name] = row | provenance() | {"against": args.ref}
            write_results(out, results)


if __name__ == "__main__":
    main()
