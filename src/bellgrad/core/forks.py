"""What a fork leaves of a process: one thread. torch and numba do not know that theirs are gone."""

import os
import sys
import threading

from bellgrad.core.errors import UsageError

SPAWN = "make the process with multiprocessing.get_context('spawn')"

_has_threads = _has_numba = False  # just before a fork
_lost_threads = _lost_numba = False


def lost_threads() -> bool:
    """Whether this process was forked from one whose pools of threads, torch's among them, had been started:
    they are not here, and an operation on several threads would wait for them for ever."""
    return _lost_threads


def refuse_lost_numba() -> None:
    """Where numba's threads are needed.

    Raises:
        UsageError: this process was forked from one that had started them; numba would end it.
    """
    if _lost_numba:
        raise UsageError(
            "this process was forked after a solver had run, and numba's threads cannot be started again"
            f" in it; {SPAWN}"
        )


def _before() -> None:
    global _has_threads, _has_numba
    try:
        native = len(os.listdir("/proc/self/task"))
    except OSError:  # not Linux: nothing is known
        native = threading.active_count() + 1
    _has_threads = native > threading.active_count()
    _has_numba = bool(getattr(sys.modules.get("numba.np.ufunc.parallel"), "_is_initialized", False))


def _in_child() -> None:
    global _lost_threads, _lost_numba
    _lost_threads = _lost_threads or _has_threads
    _lost_numba = _lost_numba or _has_numba


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_in_child)
