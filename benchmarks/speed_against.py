"""Speed beside an earlier commit of Bellgrad, both in one run: environment steps per second of learning on
networks and of tabular learning, solutions per second of exact planning.

    python benchmarks/speed_against.py GIT_REF [--rows PATTERN ...] [--repeats 3] [--share 0.3]

Every side of `speed.py`, `tabular.py` (as tabular-*) and `planning.py` (as planning-*) that is Bellgrad's own
runs with the sources of GIT_REF, from a temporary git worktree, and with those here, in turn; the figures are
medians over the repeats, their ratio, and the best. Compiling is outside the clock, and each tree has a cache
of its own.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import planning
import tabular
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
from same_bits import checked_out
from speed import WORKS


def rows(folder: Path, share: float) -> dict[str, tuple[str, Callable[[Path], list[str]]]]:
    """What can be measured, by name: the engine, and the command of a tree of sources."""
    found: dict[str, tuple[str, Callable[[Path], list[str]]]] = {}
    for name, work in WORKS.items():
        for engine in [e for e in ("compiled", "eager") if e in work.steps]:
            steps = max(1, int(work.steps[engine] * share))
            settings, warm = json.dumps(work.settings), str(work.warm)
            words = ["--settings", settings, "--warm", warm, "--steps", str(steps), "--engine", engine]
            found[f"{name}-{engine}"] = (engine, partial(_script, "bellgrad_side.py", words))
    for name, (_, _, how) in tabular.ROWS.items():
        words = tabular.command(name, True, False)[2:]  # the interpreter and the script are the tree's
        words[-1] = str(max(1, int(int(words[-1]) * share)))
        found[f"tabular-{name}"] = (how, partial(_script, "bellgrad_side.py", words))
    for name in planning.WORKS:
        words = ["--child", "solve", str(folder / f"{name}.npz"), str(folder / "value.npy")]
        words.append(str(planning.TOLERANCE))
        found[f"planning-{name}"] = ("exact", partial(_script, "planning.py", words))
    return found


def _script(script: str, words: list[str], tree: Path) -> list[str]:
    return [sys.executable, str(tree / "benchmarks" / script), *words]


def measure(
    name: str, engine: str, command: Callable[[Path], list[str]], trees: dict[str, Path], repeats: int
) -> dict:
    """Steps (of exact planning: solutions) per second by tree, one for each repeat."""
    found: dict[str, list[float]] = {tree: [] for tree in trees}
    with tempfile.TemporaryDirectory() as cache:
        for repeat in range(repeats):
            # The order changes, so that a machine that slows down does not favor a side.
            for tree in sorted(trees, reverse=repeat % 2 == 1):
                own = {"PYTHONPATH": str(trees[tree] / "src")} | own_cache(f"{cache}/{tree}")
                own |= {"NUMBA_CACHE_DIR": f"{cache}/numba-{tree}"}
                answer = ask(command(trees[tree]), own)
                rate = 1 / answer["seconds"] if engine == "exact" else answer["steps_per_second"]
                found[tree].append(rate)
    medians = {tree: statistics.median(values) for tree, values in found.items()}
    best = {tree: max(values) for tree, values in found.items()}
    row = {"median": medians, "best": best, "repeats": found, "engine": engine}
    row["ratio"] = medians["here"] / medians["there"]
    row["ratio_of_best"] = best["here"] / best["there"]
    print(f"{name:34s} {row['ratio']:.3f} (best {row['ratio_of_best']:.3f})", file=sys.stderr, flush=True)
    return row


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("ref", metavar="GIT_REF", help="the commit to compare with")
    parser.add_argument(
        "--rows", nargs="+", default=["*"], metavar="PATTERN", help="as dqn-64-compiled, ppo-*, planning-*"
    )
    parser.add_argument("--repeats", type=int, default=3, help="of every side (default 3)")
    parser.add_argument(
        "--share", type=float, default=0.3, help="of the steps of speed.py and tabular.py (default 0.3)"
    )
    args = parser.parse_args()
    out = RESULTS / "speed_against.json"
    warn_if_busy()
    results = read_results(out)
    with checked_out(args.ref) as tree, tempfile.TemporaryDirectory(prefix="bellgrad-bench-") as made:
        folder = Path(made)
        known = rows(folder, args.share)
        chosen = [name for name in known if any(fnmatch(name, pattern) for pattern in args.rows)]
        if not chosen:
            parser.error(f"no row is called {' or '.join(args.rows)}; there are {', '.join(known)}")
        for name in chosen:
            engine, command = known[name]
            try:
                if engine == "exact":
                    work = name.removeprefix("planning-")
                    make = ["--child", "make", work, str(folder / f"{work}.npz"), "0"]
                    ask(_script("planning.py", make, ROOT))
                row = measure(name, engine, command, {"there": tree, "here": ROOT}, args.repeats)
            except ChildError as error:
                sys.exit(f"{name}: {error}")
            results[name] = row | provenance() | {"against": args.ref}
            write_results(out, results)


if __name__ == "__main__":
    main()
