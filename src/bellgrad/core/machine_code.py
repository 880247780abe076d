"""Functions compiled by numba, whose machine code is kept on disk where that is possible."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numba
from numba.core.caching import FunctionCache, NullCache

from bellgrad.core.forks import refuse_lost_numba


class KeptCode(FunctionCache):
    """Numba's cache of machine code, but that a disk which cannot be written or read changes nothing except
    the time: the function is then compiled in each process."""

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the machine code for a signature, if there is room."""
        try:
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]  # numba has no types here
        except OSError:  # a full disk, or a folder that has gone
            self.disable()  # type: ignore[no-untyped-call]
        except Exception:  # a damaged index, of which numba promises no kind of error
            with suppress(OSError):
                self.flush()  # type: ignore[no-untyped-call]

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The machine code for a signature, or None."""
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except Exception:  # a damaged or unreadable file
            return None


def keep(dispatcher: Any, make: Callable[..., FunctionCache] = KeptCode, *arguments: Any) -> Any:
    """Let the machine code of a compiled function be kept on disk by `make(function, *arguments)`.

    Numba looks for a folder that it can write: that of `NUMBA_CACHE_DIR`, the source's own, the user's. If
    there is none, as for a user without a home beside a read-only installation, nothing is kept.
    """
    try:
        dispatcher._cache = make(dispatcher.py_func, *arguments)
    except (RuntimeError, OSError):
        dispatcher._cache = NullCache()
    return dispatcher


def cached_njit(function: Any = None, **options: Any) -> Any:
    """`numba.njit(cache=True)` that works without a folder for the cache."""
    if function is None:
        return lambda decorated: cached_njit(decorated, **options)
    return keep(numba.njit(**options)(function))


def is_kept() -> bool:
    """Whether machine code can be kept on disk here."""
    return not isinstance(cached_njit(is_kept)._cache, NullCache)


@contextmanager
def numba_threads(count: int | None) -> Iterator[None]:
    """So many threads in numba's parallel loops, None for all; afterwards as before, torch's too, which
    are those of the same OpenMP.

    Raises:
        UsageError: numba's threads were lost in a fork.
    """
    refuse_lost_numba()
    torch = sys.modules.get("torch")
    torch_before = torch.get_num_threads() if torch else 0  # first: numba changes it when it is first asked
    before = numba.get_num_threads()
    numba.set_num_threads(count or before)
    try:
        yield
    finally:
        numba.set_num_threads(before)
        if torch and torch.get_num_threads() != torch_before:
            torch.set_num_threads(torch_before)
