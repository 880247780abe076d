"""How much memory there is, asked before much of it is taken."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from bellgrad.core.errors import UsageError

if TYPE_CHECKING:
    import torch

SMALL = 2**26  # bytes that are taken without asking


def need_memory(needed: int, what: str, device: "torch.device | str" = "cpu") -> None:
    """Refuse what does not fit into memory, before any of it is taken.

    Args:
        needed: bytes, at least.
        what: needs them; begins the message.
        device: where.

    Raises:
        UsageError: fewer are left.
    """
    if needed <= SMALL:
        return
    available = available_bytes(device)
    if available is not None and needed > available:
        raise UsageError(f"{what}: this needs {needed:,} bytes of memory, but {available:,} are available")


def available_bytes(device: "torch.device | str", root: Path = Path("/")) -> int | None:
    """Bytes that can still be allocated on a device, or None if the system does not tell.

    On Linux the smaller of what the machine has left and what the process's control groups allow; page cache
    counts as free.

    Args:
        device: a CPU or CUDA device.
        root: root of the file system; another one in tests.
    """
    kind = str(device).partition(":")[0]
    if kind == "cuda":
        import torch  # not by a worker process, which is to start quickly and stay small

        return torch.cuda.mem_get_info(torch.device(device))[0]
    if kind != "cpu":
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
