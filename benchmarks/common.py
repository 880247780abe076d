"""What the benchmark scripts share: where things are, what a result says about its making, children that
answer in JSON."""

import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results"
# Processes waiting to run, averaged over a minute, above which a measurement is not to be trusted.
BUSY_LOAD = 0.5


class ChildError(Exception):
    """A measuring process failed; its last words are the message."""


def provenance() -> dict[str, Any]:
    """What anyone needs to make the same measurement again: command, commit, versions, machine, load,
    time."""
    return {
        "command": shlex.join([_from_root(sys.executable), _from_root(sys.argv[0]), *sys.argv[1:]]),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--", "src", "benchmarks/*.py", "benchmarks/peers")),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": (
            {"python": platform.python_version()} | versions("bellgrad", "torch", "numpy", "gymnasium")
        ),
        "machine": machine(),
        "load_average": os.getloadavg()[0],
    }


def versions(*packages: str) -> dict[str, str]:
    """Of the packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": cores,
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.system(),
    }


def warn_if_busy() -> None:
    """Say so on standard error if other processes keep the machine busy."""
    load = os.getloadavg()[0]
    if load > BUSY_LOAD:
        print(
            f"warning: the load average is {load:.2f} before the first measurement: other processes are"
            " running, and what follows is not to be trusted",
            file=sys.stderr,
        )


def own_cache(folder: str) -> dict[str, str]:
    """Variables that keep compiled code of this and of earlier commits in a folder."""
    return {"BELLGRAD_CACHE_DIR": folder, "TORCHINDUCTOR_CACHE_DIR": folder}


def ask(command: list[str], env: dict[str, str] | None = None) -> dict[str, Any]:
    """Run a measuring process and read the last line of JSON that it prints.

    Thread settings of the caller's shell are kept from it: every library runs as it would by itself.

    Raises:
        ChildError: it failed, or printed no JSON.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    try:
        done = subprocess.run(command, cwd=ROOT, env=inherited | (env or {}), capture_output=True, text=True)
    except OSError as error:
        raise ChildError(f"{command[0]}: {error.strerror}") from error
    answers = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not answers:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise ChildError(f"exit code {done.returncode}: {words[-1] if words else 'it said nothing'}")
    return json.loads(answers[-1])


def read_results(path: Path) -> dict[str, Any]:
    """The results that are there, or an empty dictionary."""
    return json.loads(path.read_text()) if path.exists() else {}


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Replace the file in one move, so that a kill leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(results, indent=1) + "\n")
    beside.replace(path)


def _from_root(path: str) -> str:
    absolute = Path(os.path.abspath(path))
    return str(absolute.relative_to(ROOT)) if absolute.is_relative_to(ROOT) else absolute.name


def _git(*words: str) -> str:
    try:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
