"""How much memory there is, asked before much of it is taken."""

import os
from pathlib import Path

import torch


def available_bytes(device: torch.device | str, root: Path = Path("/")) -> int | None:
    """Bytes that can still be allocated on a device, or None if the system does not tell.

    On Linux the smaller of what the machine has left and what the process's control groups allow; page cache
    counts as free.

    Args:
        device: a CPU or CUDA device.
        root: root of the file system; another one in tests.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    try:
        meminfo = (root / "proc/meminfo").read_text()
    except OSError:
        names = os.sysconf_names if hasattr(os, "sysconf") else {}
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_PHYS_PAGES" in names else None
    left = [int(line.split()[1]) * 1024 for line in meminfo.splitlines() if line.startswith("MemAvailable:")]
    return min(left + _control_group_bytes(root), default=None)


def _control_group_bytes(root: Path) -> list[int]:
    """Bytes left under every memory limit that holds for this process (control groups of version 2 and 1,
    each with its parents)."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        if controllers:
            top = root / "sys/fs/cgroup/memory"
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            top = root / "sys/fs/cgroup"
            names = "memory.max", "memory.current", "inactive_file"
        own = top / path.strip("/")
        # Inside a container the path may be the host's, which is not visible; the top is then the group of
        # the container itself.
        for folder in {own, *own.parents, top}:
            if folder == top or top in folder.parents:
                left += _bytes_left(folder, *names)
    return left


def _bytes_left(folder: Path, limit: str, usage: str, cache: str) -> list[int]:
    try:
        allowed, used = (folder / limit).read_text().strip(), int((folder / usage).read_text())
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return []
    if allowed == "max":
        return []
    return [max(0, int(allowed) - used + int(statistics.get(cache, 0)))]
