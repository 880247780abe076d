"""How many processors this process may use: the one count for workers, threads and reports."""

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def processors() -> int:
    """Processors that this process may keep busy, 1 or more.

    It is the least of what Python says (with PYTHON_CPU_COUNT from Python 3.13 on), the processors to which
    the process is bound (`taskset`, a batch system), and the quota of its container, rounded down.
    """
    count = getattr(os, "process_cpu_count", os.cpu_count)() or 1
    if hasattr(os, "sched_getaffinity"):
        count = min(count, len(os.sched_getaffinity(0)))
    quota = _quota()
    return count if quota is None else max(1, min(count, int(quota)))


def _quota() -> float | None:
    """Processors' worth of time that the control groups (version 1 or 2) of this process allow; None if
    there is no limit."""
    found = []
    for line in _read(MEMBERSHIP).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        roots = (CGROUPS / "cpu", CGROUPS / "cpu,cpuacct") if controllers else (CGROUPS,)
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for root in roots:  # a group is limited by those around it too
            found += [_quota_of(root.joinpath(*parts[:depth])) for depth in range(len(parts) + 1)]
    return min((quota for quota in found if quota is not None), default=None)


def _quota_of(group: Path) -> float | None:
    quota, _, period = _read(group / "cpu.max").partition(" ")  # version 2
    if not quota:
        quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")  # version 1
    try:
        allowed, every = float(quota), float(period)
    except ValueError:  # "max", or there is no such file
        return None
    return allowed / every if allowed > 0 and every > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
