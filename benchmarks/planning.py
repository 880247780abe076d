"""Exact planning compared with other libraries: seconds to the same value, each side in its own process,
all in one run.

    python benchmarks/planning.py [--rows PATTERN ...] [--repeats 3] [--limit 300] [--quick]

The sides of a row alternate, and the figures are medians over the repeats. Making and converting the MDP,
imports and compiling are outside the clock; what the solver derives from the MDP is inside. Every side is
asked for values within 1e-6, and its values are compared with those of a solution ten times nearer. Of a
library's methods whose values are right the fastest counts; one that takes longer than the limit is left out
after its first try. Bellgrad's side is `solve(mdp, gamma=...)`, which picks its method.

Beside the time, Bellgrad's side tells the memory of the transition matrix and what solving adds, over that of
the matrix; and what share of the machine's memory bandwidth a sweep over all actions reaches: a copy
between arrays too large for the caches reaches 1.
"""

import argparse
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from common import HERE, RESULTS, ROOT, ChildError, ask, provenance, read_results, warn_if_busy, write_results
from tables import planning_table

TOLERANCE = 1e-6
RIGHT = 10 * TOLERANCE  # a method whose values are further off than this solved something else
LIMIT = 300  # seconds for a process
QUICK_LIMIT = 20
METHODS = {
    "mdpsolver": [["vi", "standard"], ["vi", "gs"], ["mpi", "standard"], ["mpi", "gs"]],
    "quantecon": [["modified_policy_iteration"]],
    "mdptoolbox": [[]],
}
PEERS = {"mdpsolver": "mdpsolver", "quantecon": "QuantEcon", "mdptoolbox": "pymdptoolbox"}
MEMORY_BAR = 2.0


@dataclass(frozen=True)
class Work:
    """An MDP: `garnet` with 4 actions of 5 successors each, or a square `grid` that slips one step in five.

    Attributes:
        kind: which of them.
        size: states of a garnet; rows of a grid.
        quick: the size with `--quick`.
        gamma: the discount.
    """

    kind: str
    size: int
    quick: int
    gamma: float


WORKS = {
    "garnet-1m": Work("garnet", 1_000_000, 20_000, 0.99),
    "grid-300": Work("grid", 300, 40, 0.999),
    "grid-1000": Work("grid", 1_000, 100, 0.999),
    "garnet-10k": Work("garnet", 10_000, 1_500, 0.99),
}


@dataclass(frozen=True)
class Row:
    """A ratio and its bar: how many times faster than a peer; without a peer, the most seconds."""

    title: str
    work: str
    peer: str | None
    bar: float


ROWS = {
    "garnet-1m-mdpsolver": Row("random, 1,000,000 states x 4 x 5, gamma 0.99", "garnet-1m", "mdpsolver", 1.0),
    "grid-300-mdpsolver": Row("slippery grid, 300 x 300, gamma 0.999", "grid-300", "mdpsolver", 2.0),
    "grid-1000": Row("slippery grid, 1000 x 1000, gamma 0.999", "grid-1000", None, 300.0),
    "garnet-10k-quantecon": Row("random, 10,000 states x 4 x 5, gamma 0.99", "garnet-10k", "quantecon", 1.0),
    "garnet-10k-mdptoolbox": Row(
        "random, 10,000 states x 4 x 5, gamma 0.99", "garnet-10k", "mdptoolbox", 50.0
    ),
}


# ------------------------------------------------------------------------------------ in a process of its own
def make(work: Work, size: int, file: Path) -> None:
    """Write an MDP as the other libraries know it."""
    from bellgrad.mdp.examples import garnet
    from bellgrad.mdp.gridworld import gridworld

    if work.kind == "garnet":
        mdp = garnet(size, 4, 5, seed=0)
    else:
        rows = ["." * size] * (size - 1) + ["." * (size - 1) + "G"]
        mdp = gridworld(rows, slip=0.2, step_reward=-1.0, rewards={})
    np.savez(
        file,
        offset=mdp.offset,
        probability=mdp.probability,
        next_state=mdp.next_state,
        reward=mdp.expected_reward,
        outcome_reward=mdp.reward,
        terminated=mdp.terminated,
        gamma=work.gamma,
    )


def load(file: Path):
    """The MDP and its discount."""
    from bellgrad.mdp.model import FiniteMDP

    with np.load(file) as arrays:
        states, actions = arrays["reward"].shape
        mdp = FiniteMDP(
            actions,
            arrays["offset"],
            arrays["probability"],
            arrays["next_state"],
            arrays["outcome_reward"],
            arrays["terminated"],
            np.full(states, 1 / states),
        )
        return mdp, float(arrays["gamma"])


def status_bytes(name: str) -> int:
    """A line of this process's memory status."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")
    )
    return int(line.split()[1]) * 1024


def solve_one(file: Path, value: Path, tolerance: float) -> dict:
    """Solve, and time, and weigh."""
    from bellgrad.mdp.examples import garnet
    from bellgrad.mdp.policy_iteration import modified_policy_iteration
    from bellgrad.mdp.solve import solve

    mdp, gamma = load(file)
    began = time.perf_counter()
    for in_place in (False, True):
        modified_policy_iteration(garnet(10, 2, 2, seed=0), 0.5, in_place=in_place)
    compiling = time.perf_counter() - began
    began = time.perf_counter()
    matrix = sum(array.nbytes for array in (mdp.continuing, mdp.next_state, mdp.offset))
    held = status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    found = solve(mdp, gamma=gamma, tolerance=tolerance, progress="off")
    seconds = time.perf_counter() - began
    peak = status_bytes("VmHWM")
    np.save(value, found.value)
    return {
        "seconds": seconds,
        "compile_seconds": compiling,
        "method": found.method,
        "note": found.note,
        "iterations": found.iterations,
        "error_bound": found.error_bound,
        "converged": found.converged,
        "matrix_bytes": matrix,
        "added_bytes": peak - held,
        "memory_ratio": (matrix + peak - held) / matrix,
        **bandwidth(mdp, gamma),
    }


def bandwidth(mdp, gamma: float) -> dict:
    """Bytes per second of a sweep over all actions and of a parallel copy, the best of five each."""
    import numba

    from bellgrad.mdp import kernels
    from bellgrad.mdp.discounted import DiscountedProblem

    @numba.njit(parallel=True)
    def copy(source, target):
        for i in numba.prange(len(source)):
            target[i] = source[i]

    def best(work, *args) -> float:
        seconds = []
        for _ in range(6):  # the first compiles
            began = time.perf_counter()
            work(*args)
            seconds.append(time.perf_counter() - began)
        return min(seconds[1:])

    problem, value = DiscountedProblem.of(mdp, gamma, TOLERANCE), np.zeros(mdp.num_states)
    action, new = np.zeros(mdp.num_states, np.int32), np.empty(mdp.num_states)
    moved = sum(array.nbytes for array in (*problem.arrays[:4], value, action, new))
    sweep = moved / best(kernels.sweep, *problem.arrays, value, action, True, new)
    source = np.ones(20_000_000)
    copied = 2 * source.nbytes / best(copy, source, np.empty_like(source))
    return {
        "sweep_bytes_per_second": sweep,
        "copy_bytes_per_second": copied,
        "bandwidth_share": sweep / copied,
    }


# -------------------------------------------------------------------------------------------- the measurement
def commands(
    peers: list[str], problem: Path, value: Path, peers_python: str, limit: int
) -> dict[tuple[str, str], list[str]]:
    """The processes that solve a problem, by library and method."""
    script, peer_script = str(HERE / "planning.py"), str(HERE / "peers" / "planning.py")
    found = {}
    for peer in peers:
        for method in METHODS[peer]:
            command = ["timeout", str(limit), peers_python, peer_script, peer, str(problem), str(value)]
            command += ["--tolerance", str(TOLERANCE)]
            found[peer, " ".join(method)] = [*command, "--method", *method] if method else command
    found["bellgrad", ""] = [
        sys.executable,
        script,
        "--child",
        "solve",
        str(problem),
        str(value),
        str(TOLERANCE),
    ]
    return found


def measure(
    work: str, peers: list[str], repeats: int, peers_python: str, quick: bool, limit: float, folder: Path
) -> dict[str, dict]:
    """Run every side in turn, `repeats` times over: library, then method, to every repeat's answer or what
    went wrong."""
    script, problem, value, exact = (
        str(HERE / "planning.py"),
        folder / "mdp.npz",
        folder / "value.npy",
        folder / "exact.npy",
    )
    cache = {"NUMBA_CACHE_DIR": str(folder / "numba")}
    ask([sys.executable, script, "--child", "make", work, str(problem), str(int(quick))])
    first = ask(
        [sys.executable, script, "--child", "solve", str(problem), str(exact), str(TOLERANCE / 10)], cache
    )
    sides = commands(peers, problem, value, peers_python, limit)
    found: dict[str, dict] = {library: {} for library, _ in sides}
    for (library, method), command in sides.items():
        words = [word.replace(f"{folder}/", "").replace(f"{ROOT}/", "") for word in command]
        found[library][method] = {"command": shlex.join(words), "repeats": []}
    found["bellgrad"][""]["compile_seconds_cold"] = first["compile_seconds"]
    for repeat in range(repeats):
        for (library, method), command in sides.items():
            entry = found[library][method]
            if "error" in entry:
                continue
            try:
                answer = ask(command, cache)
            except ChildError as error:
                entry["error"] = str(error)
                print(f"  {work:11s} {library} {method} failed: {error}", file=sys.stderr)
                continue
            answer["value_error"] = float(np.abs(np.load(value) - np.load(exact)).max())
            entry["repeats"].append(answer)
            print(
                f"  {work:11s} {library:10s} {method:26s} {repeat + 1}/{repeats}  {answer['seconds']:9.4f} s "
                f" off by {answer['value_error']:.1e}",
                file=sys.stderr,
            )
    return found


def best(methods: dict[str, dict]) -> tuple[str, float] | None:
    """The fastest, by its median, of a library's methods whose values are right; of all if none is; None
    if all failed."""
    ran = {name: entry["repeats"] for name, entry in methods.items() if "error" not in entry}
    right = {name: runs for name, runs in ran.items() if max(run["value_error"] for run in runs) <= RIGHT}
    medians = {
        name: statistics.median(run["seconds"] for run in runs) for name, runs in (right or ran).items()
    }
    return min(medians.items(), key=lambda item: item[1]) if medians else None


def judge(row: Row, found: dict[str, dict]) -> dict:
    """A row of the results."""
    record = {"title": row.title, "peer": row.peer and PEERS[row.peer], "bar": row.bar}
    ours, peer = best(found["bellgrad"]), best(found[row.peer]) if row.peer else None
    record |= {
        "ours_seconds": ours and ours[1],
        "peer_seconds": peer and peer[1],
        "peer_method": peer and peer[0],
    }
    record["ratio"] = peer[1] / ours[1] if ours and peer else None
    record["met"] = None
    if ours:
        runs = found["bellgrad"][""]["repeats"]
        record |= {name: runs[0][name] for name in ("method", "note", "iterations", "error_bound")}
        for name in ("memory_ratio", "bandwidth_share", "sweep_bytes_per_second", "copy_bytes_per_second"):
            record[name] = statistics.median(run[name] for run in runs)
        record |= {
            "value_error": max(run["value_error"] for run in runs),
            "peer_value_error": peer and found[row.peer][peer[0]]["repeats"][0]["value_error"],
            "compile_seconds_cold": found["bellgrad"][""]["compile_seconds_cold"],
            "compile_seconds_cached": statistics.median(run["compile_seconds"] for run in runs),
        }
        fast = (
            ours[1] <= row.bar
            if row.peer is None
            else record["ratio"] is not None and record["ratio"] >= row.bar
        )
        record["met"] = fast and record["value_error"] <= TOLERANCE and record["memory_ratio"] <= MEMORY_BAR
    return record | {"measured": {name: found[name] for name in ("bellgrad", row.peer) if name}}


def child(words: list[str]) -> None:
    """What a process started by this script does."""
    what, *rest = words
    if what == "make":
        name, file, quick = rest
        work = WORKS[name]
        make(work, work.quick if int(quick) else work.size, Path(file))
        print("{}")
    else:
        problem, value, tolerance = rest
        print(json.dumps(solve_one(Path(problem), Path(value), float(tolerance))))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = ", ".join(ROWS)
    parser.add_argument(
        "--rows",
        nargs="+",
        default=["*"],
        metavar="PATTERN",
        help=f"which of {known}; * and ? stand for letters",
    )
    parser.add_argument("--repeats", type=int, default=3, help="of every side (default 3)")
    parser.add_argument(
        "--limit",
        type=float,
        default=LIMIT,
        help=f"seconds after which a method is left out (default {LIMIT})",
    )
    parser.add_argument(
        "--quick", action="store_true", help="small MDPs, into planning-quick.json: to see that it works"
    )
    parser.add_argument(
        "--peers-python",
        default=".venv-bench/bin/python",
        help="the interpreter with the peers (make bench makes it)",
    )
    args = parser.parse_args()
    rows = {name: row for name, row in ROWS.items() if any(fnmatch(name, pattern) for pattern in args.rows)}
    if not rows:
        parser.error(f"no row is called {' or '.join(args.rows)}; there are {known}")
    if not (ROOT / args.peers_python).exists():
        parser.error(f"{args.peers_python} does not exist; run make bench, or give --peers-python")
    out = RESULTS / ("planning-quick.json" if args.quick else "planning.json")
    warn_if_busy()
    made, results = (
        provenance() | {"repeats": args.repeats, "quick": args.quick, "limit": args.limit},
        read_results(out),
    )
    for work in dict.fromkeys(row.work for row in rows.values()):
        chosen = {name: row for name, row in rows.items() if row.work == work}
        peers = [row.peer for row in chosen.values() if row.peer]
        with tempfile.TemporaryDirectory(prefix="bellgrad-bench-") as folder:
            found = measure(
                work,
                peers,
                args.repeats,
                args.peers_python,
                args.quick,
                QUICK_LIMIT if args.quick else args.limit,
                Path(folder),
            )
        for name, row in chosen.items():
            results[name] = judge(row, found) | {"provenance": made}
        write_results(out, {name: results[name] for name in ROWS if name in results})
    print(planning_table(read_results(out)))
    print(f"{os.path.relpath(out)} holds every repeat of every side", file=sys.stderr)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    else:
        main()
