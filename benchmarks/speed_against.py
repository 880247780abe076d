"""Speed beside an earlier commit of Bellgrad: environment steps per second of learning, both in one run.

    python benchmarks/speed_against.py GIT_REF [--rows PATTERN ...] [--repeats 3] [--share 0.3]

Every side of `speed.py` that is Bellgrad's own runs with the sources of GIT_REF, from a temporary git
worktree, and with those here, in turn; the figures are medians over the repeats, their ratio, and the best.
Compiling is outside the clock, and each tree has a cache of its own.
"""

import argparse
import json
import statistics
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path

from common import RESULTS, ROOT, ChildError, ask, provenance, read_results, warn_if_busy, write_results
from same_bits import checked_out
from speed import WORKS, Work


def measure(name: str, engine: str, work: Work, trees: dict[str, Path], repeats: int, share: float) -> dict:
    """Steps per second by tree, one for each repeat."""
    steps = str(max(1, int(work.steps[engine] * share)))
    rest = [
        "--settings",
        json.dumps(work.settings),
        "--warm",
        str(work.warm),
        "--steps",
        steps,
        "--engine",
        engine,
    ]
    found: dict[str, list[float]] = {tree: [] for tree in trees}
    with tempfile.TemporaryDirectory() as cache:
        for repeat in range(repeats):
            # The order changes, so that a machine that slows down does not favor a side.
            for tree in sorted(trees, reverse=repeat % 2 == 1):
                command = [sys.executable, str(trees[tree] / "benchmarks" / "bellgrad_side.py"), *rest]
                own = {"PYTHONPATH": str(trees[tree] / "src"), "TORCHINDUCTOR_CACHE_DIR": f"{cache}/{tree}"}
                found[tree].append(ask(command, own)["steps_per_second"])
    medians = {tree: statistics.median(values) for tree, values in found.items()}
    best = {tree: max(values) for tree, values in found.items()}
    row = {"median": medians, "best": best, "repeats": found, "engine": engine}
    row["ratio"] = medians["here"] / medians["there"]
    row["ratio_of_best"] = best["here"] / best["there"]
    print(
        f"{name:16s} {engine:9s} {row['ratio']:.3f} (best {row['ratio_of_best']:.3f})",
        file=sys.stderr,
        flush=True,
    )
    return row


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("ref", metavar="GIT_REF", help="the commit to compare with")
    parser.add_argument(
        "--rows", nargs="+", default=["*"], metavar="PATTERN", help="as dqn-64-compiled, ppo-*"
    )
    parser.add_argument("--repeats", type=int, default=3, help="of every side (default 3)")
    parser.add_argument("--share", type=float, default=0.3, help="of speed.py's steps (default 0.3)")
    args = parser.parse_args()
    out = RESULTS / "speed_against.json"
    warn_if_busy()
    results = read_results(out)
    sides = [
        (f"{work}-{who}", work, who)
        for work, w in WORKS.items()
        for who in ("compiled", "eager")
        if who in w.steps
    ]
    with checked_out(args.ref) as tree:
        for name, work, who in sides:
            if any(fnmatch(name, pattern) for pattern in args.rows):
                try:
                    row = measure(
                        name, who, WORKS[work], {"there": tree, "here": ROOT}, args.repeats, args.share
                    )
                except ChildError as error:
                    sys.exit(f"{name}: {error}")
                results[name] = row | provenance() | {"against": args.ref}
                write_results(out, results)


if __name__ == "__main__":
    main()
