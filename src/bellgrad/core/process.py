"""The process that the library shares with its user's code, and what is global in it."""

import functools
import inspect
import os
import threading
import typing
import warnings
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

import torch
from torch._C import (
    _is_any_autocast_enabled,
    _len_torch_function_stack,
    _pop_torch_function_stack,
    _push_on_torch_function_stack,
)

from bellgrad.core.errors import checked_type
from bellgrad.core.forks import lost_threads

P = ParamSpec("P")
T = TypeVar("T")

# Of other packages' modules: what they say about their own future is no error of a run.
_OTHERS = r"(torch|numba|numpy|scipy|gymnasium|matplotlib|onnx|onnxscript|safetensors)(\.|$)"


class OwnSettings:
    """A context in which torch's global settings are those of a new process, and after which they are the
    user's again, also if it fails.

    The numbers that the library computes then do not depend on `torch.set_default_dtype`,
    `torch.set_default_device`, `torch.device`, `torch.inference_mode` or `torch.autocast` around the call;
    the count of threads is put back; and `warnings.simplefilter("error")` makes errors only of warnings
    about the user's own code. Every public function is in it. Code of the user's that runs inside (an
    environment, a network) sees the settings of a new process too.

    Most settings belong to a thread. The default dtype and the filters of warnings belong to the process: the
    first of several threads changes them, the last puts them back.
    """

    __slots__ = ("_inner", "_modes", "_threads")

    def __enter__(self) -> None:
        _here.depth += 1
        self._threads = torch.get_num_threads()
        self._modes = [_pop_torch_function_stack() for _ in range(_len_torch_function_stack())]
        self._inner: list[Any] = []
        if torch.is_inference_mode_enabled():
            self._inner.append(torch.inference_mode(False))
        if _is_any_autocast_enabled():
            kinds = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
            self._inner += [torch.autocast(kind, enabled=False) for kind in kinds]
        for context in self._inner:
            context.__enter__()
        _shared.enter()
        if lost_threads():  # one thread needs none of those that are gone
            torch.set_num_threads(1)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _here.depth -= 1
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        _shared.leave()
        for context in reversed(self._inner):
            context.__exit__(None, None, None)
        while _len_torch_function_stack():  # what the user's code inside left behind
            _pop_torch_function_stack()
        for mode in reversed(self._modes):
            _push_on_torch_function_stack(mode)


def in_own_settings(function: Callable[P, T]) -> Callable[P, T]:
    """The function inside `OwnSettings`, for every public one that computes."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with OwnSettings():
            return function(*args, **kwargs)

    return call


def public(function: Callable[P, T]) -> Callable[P, T]:
    """A function for users: in `OwnSettings`, after its arguments were checked against its annotations."""
    inside, signature = in_own_settings(function), inspect.signature(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        bound, hints = signature.bind(*args, **kwargs), typing.get_type_hints(function)
        for name, value in bound.arguments.items():
            bound.arguments[name] = checked_type(name, value, hints[name])
        return inside(*bound.args, **bound.kwargs)

    return call


def in_own_settings_if_needed(function: Callable[P, T]) -> Callable[P, T]:
    """As `in_own_settings`, for a short function that is called often and changes no setting: it is called
    as it is if the user changed none either."""
    guarded = in_own_settings(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if (
            torch.get_default_dtype() is not torch.float32
            or _len_torch_function_stack()
            or torch.is_inference_mode_enabled()
            or _is_any_autocast_enabled()
            or lost_threads()
            or _has_errors(warnings.filters)
        ):
            return guarded(*args, **kwargs)
        return function(*args, **kwargs)

    return call


def _has_errors(filters: Iterable[Any]) -> bool:
    return any(entry[0] == "error" for entry in filters)


def settle() -> None:
    """Inside `OwnSettings`: the settings as they should be, after code of the user's that may have changed
    them. Elsewhere it does nothing."""
    if _here.depth:
        if torch.get_default_dtype() is not torch.float32:
            torch.set_default_dtype(torch.float32)
        while _len_torch_function_stack():
            _pop_torch_function_stack()


class _Shared:
    """What belongs to the whole process: changed by the first that enters, put back by the last."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._dtype, self._threads = torch.float32, 1
        self._filter: Any = None

    def enter(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._dtype, self._threads = torch.get_default_dtype(), torch.get_num_threads()
                self._filter = None
                if _has_errors(warnings.filters):
                    warnings.filterwarnings("ignore", module=_OTHERS)
                    self._filter = warnings.filters[0]
            if torch.get_default_dtype() is not torch.float32:
                torch.set_default_dtype(torch.float32)

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside:
                return
            if torch.get_default_dtype() is not self._dtype:
                torch.set_default_dtype(self._dtype)
            if torch.get_num_threads() != self._threads:  # which a new thread begins with
                torch.set_num_threads(self._threads)
            if self._filter in warnings.filters:
                warnings.filters.remove(self._filter)  # type: ignore[attr-defined]  # it is a list

    def forked(self) -> None:
        """In a child process: only the thread that forked is left, and no lock is held."""
        self._lock = threading.Lock()


class _Here(threading.local):
    depth = 0  # how many are entered in this thread


_here = _Here()
_shared = _Shared()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_shared.forked)
