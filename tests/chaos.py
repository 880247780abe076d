"""Kill training processes at random moments, resume them, and compare what they end with with a run that was
never disturbed.

    .venv/bin/python tests/chaos.py --kills 20

Every case is a command of `bellgrad train`. It is run once undisturbed; then again in another folder, where
`kill -9` strikes its process (at a random moment, inside the writing of a checkpoint, or while it starts) and
`bellgrad resume` goes on, until it ends. The tensors of the two final checkpoints must be the same to the
bit, and the lines of `metrics.jsonl` too, clock readings apart. Prints a line for each kill and each run.
Exits with 1 on any difference or error, and if a process is left behind. For Linux.
"""

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bellgrad.runs.checkpoint import open_latest
from bellgrad.runs.files import read_json
from bellgrad.runs.reading import read_metrics

CLOCK = ("time", "steps_per_second")  # what may differ in a line of metrics
PROCESS_SECONDS = 400  # no process of any case takes longer, its first compilation included
MARK = (  # in the environment of all that is started here
    f"BELLGRAD_CHAOS={os.getpid()}-{random.SystemRandom().getrandbits(32)}"
)

COMMON = "--quiet --checkpoints 25 --eval-episodes 2 --max-episode-steps 100 --algo.network.hidden 32 32"
REPLAY = (  # the buffer wraps
    "--algo.learning_starts 200 --algo.batch_size 16 --algo.update_period 4 --algo.buffer_size 2000"
)
ROLLOUT = (  # graphs unroll them: quick to compile
    "--num-envs 4 --algo.rollout_steps 9 --algo.minibatches 2 --algo.epochs 1"
)
WRAPPED = "--normalize-obs --normalize-reward --frame-stack 2"


@dataclass(frozen=True)
class Case:
    """A command of `bellgrad train`, without `--out`, that trains for a few seconds."""

    name: str
    words: str


def cases() -> list[Case]:
    """Algorithms, kinds of environments and engines; the last entry has environments in processes of their
    own."""
    kinds = [
        # command, steps eager and compiled
        (f"dqn --env CartPole-v1 {REPLAY}", 6_000, 30_000),
        (f"dqn --env CartPole-v1 --backend gymnasium {REPLAY}", 6_000, 6_000),
        (f"dqn --env LunarLander-v3 {REPLAY}", 6_000, 6_000),
        (f"ppo --env Pendulum-v1 {WRAPPED} {ROLLOUT}", 12_000, 60_000),
        (f"ppo --env CartPole-v1 --backend gymnasium {WRAPPED} {ROLLOUT}", 12_000, 12_000),
        (f"ppo --env LunarLander-v3 {ROLLOUT}", 12_000, 12_000),
        (f"sac --env Pendulum-v1 {REPLAY}", 3_000, 24_000),
        (f"sac --env Pendulum-v1 --backend gymnasium {REPLAY}", 3_000, 5_000),
        (f"sac --env LunarLanderContinuous-v3 {REPLAY}", 3_000, 4_000),
    ]
    made = []
    for words, eager, compiled in kinds:
        algorithm, _, env, *rest = words.split()
        kind = "Box2D" if env.startswith("Lunar") else "Gymnasium" if "gymnasium" in rest else "native"
        for engine, steps in (("eager", eager), ("compiled", compiled)):
            name = f"{algorithm}, {env} ({kind}), {engine}"
            made.append(Case(name, f"train {words} {COMMON} --engine {engine} --steps {steps}"))
    few = COMMON.replace("--checkpoints 25", "--checkpoints 6")  # each evaluation starts processes of its own
    worker = f"train ppo --env CartPole-v1 --backend subprocess {ROLLOUT} {few} --engine eager --steps 12_000"
    return [*made, Case("ppo, CartPole-v1 (subprocess), eager", worker)]


class Failed(Exception):
    """A case went wrong; the message says how."""


# -------------------------------------------------------------------------------------------------- processes
def start(case: Case, folder: Path) -> subprocess.Popen:
    """Train in a new folder, or resume what is there. What the process prints is in `folder.log`."""
    begun = (folder / "run.json").exists()
    words = ["resume", str(folder), "--quiet"] if begun else [*case.words.split(), "--out", str(folder)]
    name, _, value = MARK.partition("=")
    with open(folder.with_suffix(".log"), "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "bellgrad.cli", *words], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            env=os.environ | {name: value, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def finish(process: subprocess.Popen, folder: Path) -> None:
    """Wait for a process that nobody kills."""
    try:
        code = process.wait(PROCESS_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise Failed(f"did not end within {PROCESS_SECONDS} seconds") from None
    if code:
        log = folder.with_suffix(".log").read_text(errors="replace").strip().splitlines()
        raise Failed(f"ended with exit code {code}: {' | '.join(log[-3:])}")


def kill_once(process: subprocess.Popen, folder: Path, rng: random.Random, seconds: float) -> bool:
    """Kill a process within `seconds` of its training; False if it ended before that."""
    moment = rng.choice(["training", "training", "training", "saving", "saving", "saving", "starting"])
    started = time.monotonic()
    delay = rng.uniform(0, 4 if moment == "starting" else seconds)
    now, trains_since = updates(folder), started if moment == "starting" else None
    while process.poll() is None:
        if time.monotonic() - started > PROCESS_SECONDS:
            process.kill()
        if trains_since is None:
            before, now = now, updates(folder)
            # Whatever must be compiled is compiled by then.
            trains_since = time.monotonic() if now > before else None
        if (
            trains_since is not None
            and time.monotonic() - trains_since > delay
            and (moment != "saving" or is_saving(folder))
        ):
            if moment == "saving":
                time.sleep(
                    rng.uniform(0, 0.006)
                )  # about as long as the writing of these small checkpoints takes
            process.kill()
            return process.wait() == -9
        time.sleep(0.001 if trains_since else 0.01)
    return False


def updates(folder: Path) -> int:
    """Gradient updates by the log's last line; a resumed run cuts the log first, and then it grows."""
    return max((record.get("updates", 0) for record in read_metrics(folder)), default=0)


def is_saving(folder: Path) -> bool:
    """Whether a checkpoint is being written or deleted now."""
    try:
        return any(name.startswith(".tmp-step-") for name in os.listdir(folder / "checkpoints"))
    except FileNotFoundError:
        return False


def is_finished(folder: Path) -> bool:
    """Whether a run's training is over."""
    return (folder / "run.json").exists() and read_json(folder / "run.json")["status"] == "finished"


def survivors() -> dict[int, str]:
    """Processes that were started here and still run: their commands by their ids."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if MARK.encode() in (entry / "environ").read_bytes():
                found[int(entry.name)] = (
                    (entry / "cmdline").read_bytes().replace(bytes(1), b" ").decode()[:120]
                )
        except OSError:  # ended meanwhile, or another user's
            continue
    return found


# ------------------------------------------------------------------------------------------------- comparison
def compare(undisturbed: Path, killed: Path) -> None:
    """Hold the ends of two runs against each other.

    Raises:
        Failed: naming the first difference.
    """
    (a, _), (b, warnings) = (open_latest(folder / "checkpoints") for folder in (undisturbed, killed))
    if warnings:
        raise Failed(f"a checkpoint is damaged: {warnings[0]}")
    if is_saving(killed):
        raise Failed("a half-written checkpoint was left behind")
    if (a.step, a.names()) != (b.step, b.names()):
        raise Failed(
            f"the checkpoints differ: step {a.step} and {b.step}, tensors"
            f" {sorted({*a.names()} ^ {*b.names()})}"
        )
    for name in a.names():
        x, y = a.read(name), b.read(name)
        if x.shape != y.shape or x.dtype != y.dtype or x.numpy().tobytes() != y.numpy().tobytes():
            raise Failed(f"the tensor {name} differs")
    kept = [
        {key: value for key, value in c.values.items() if key not in ("seconds", "metrics_bytes")}
        for c in (a, b)
    ]
    if json.dumps(kept[0]) != json.dumps(kept[1]):
        raise Failed("the values in the checkpoints' manifests differ")
    lines = [without_clock(read_metrics(folder)) for folder in (undisturbed, killed)]
    for one, other in zip(*lines, strict=False):
        if one != other:
            raise Failed(f"the metrics differ at step {one['step']}: {one} and {other}")
    if len(lines[0]) != len(lines[1]):
        raise Failed(f"the metrics have {len(lines[0])} and {len(lines[1])} lines")


def without_clock(records: list[dict]) -> list[dict]:
    """The records without their clock readings."""
    return [{key: value for key, value in record.items() if key not in CLOCK} for record in records]


# ------------------------------------------------------------------------------------------------------ chaos
class Chaos:
    """Runs cases and counts what happens; used by several threads at once."""

    def __init__(self, root: Path, seed: int):
        self.root, self.seed = root, seed
        self.kills: Counter[str] = Counter()
        self.failures = 0
        self._lock = threading.Lock()

    def say(self, line: str) -> None:
        """Print a line whole."""
        with self._lock:
            print(line, flush=True)

    def try_case(self, number: int, case: Case, kills: int) -> None:
        """Run a case undisturbed, then disturb it until it was killed `kills` times."""
        began, folder = time.monotonic(), self.root / f"{number}"
        folder.mkdir()
        try:
            undisturbed = folder / "undisturbed"
            finish(start(case, undisturbed), undisturbed)
            logged = [record for record in read_metrics(undisturbed) if "steps_per_second" in record]
            seconds = logged[-1]["step"] / statistics.median(
                record["steps_per_second"] for record in logged
            )  # not of compiling
            rng, left, attempt = random.Random(f"{self.seed}/{case.name}"), kills, 0
            while left:
                attempt += 1
                if attempt > 5 * kills:
                    raise Failed("ended again and again before it could be killed")
                run = folder / f"killed-{attempt}"
                done = self._disturb(case, run, rng, left, seconds)
                compare(undisturbed, run)
                left -= done
                self.say(f"  same  {case.name}: {done} kills, then the same bits")
            shutil.rmtree(folder)
        except Exception as error:
            with self._lock:
                self.failures += 1
            self.say(
                f"  FAIL  {case.name}: {error if isinstance(error, Failed) else repr(error)} (kept in"
                f" {folder})"
            )
        self.say(f"        {case.name}: {time.monotonic() - began:.0f} s")

    def _disturb(self, case: Case, run: Path, rng: random.Random, most: int, seconds: float) -> int:
        """One run, killed at most `most` times and resumed until it has finished; returns how often it was
        killed."""
        done = 0
        while not is_finished(run):
            process = start(case, run)
            if done < most and kill_once(process, run, rng, 0.7 * seconds / min(most, 3)):
                done += 1
                records = read_metrics(run)
                where = "inside the writing of a checkpoint" if is_saving(run) else "between checkpoints"
                where = where if (run / "checkpoints").exists() else "before the first checkpoint"
                with self._lock:
                    self.kills[where] += 1
                self.say(
                    f"  kill  {case.name}: {where}, after step {records[-1]['step'] if records else 0:,}"
                )
            else:
                finish(process, run)
        return done


def main() -> int:
    """Share the kills out over the cases; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="how many (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills (default 0)")
    parser.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), help="cases at a time (default: one a core)"
    )
    parser.add_argument("--only", default="", help="only the cases whose name contains this")
    options = parser.parse_args()
    began = time.monotonic()
    chosen = [case for case in cases() if options.only in case.name]
    random.Random(options.seed).shuffle(chosen)  # so that a few kills meet a little of everything
    share = [options.kills // len(chosen) + (i < options.kills % len(chosen)) for i in range(len(chosen))]
    root = Path(tempfile.mkdtemp(prefix="bellgrad-chaos-"))
    chaos = Chaos(root, options.seed)
    with ThreadPoolExecutor(options.jobs) as pool:
        for number, (case, kills) in enumerate(zip(chosen, share, strict=True)):
            if kills:
                pool.submit(chaos.try_case, number, case, kills)
    deadline = time.monotonic() + 20  # compilers' helpers look for their parent every few seconds
    while (left := survivors()) and time.monotonic() < deadline:
        time.sleep(0.5)
    for process, command in left.items():
        chaos.say(f"  FAIL  left behind: {process} {command}")
        os.kill(process, signal.SIGKILL)
    if not chaos.failures:
        shutil.rmtree(root)
    kinds = ", ".join(f"{count} {where}" for where, count in chaos.kills.items())
    bad = chaos.failures + len(left)
    seconds = time.monotonic() - began
    print(
        f"{chaos.kills.total()} kills ({kinds}) in {sum(map(bool, share))} cases, {bad} failures,"
        f" {seconds:.0f} s"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
