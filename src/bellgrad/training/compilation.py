"""The functions of a run as native code, from a step on that was planned; eager before it."""

import functools
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import FunctionType, MethodType
from typing import Any

import torch

from bellgrad.core.errors import BellgradError, CompilationError
from bellgrad.core.tree import leaves
from bellgrad.graphs.build import first_line
from bellgrad.graphs.capture import capture
from bellgrad.graphs.native import Native


class Compilation:
    """The functions of one engine, each captured at its first call and compiled beside the work.

    Args:
        threads: of their arithmetic.
        on_fault: see `Engine`.

    Attributes:
        functions: how many there are.
        native: whether functions are native code from now on; until then they are eager.
        ran: whether a function has run as native code.
        seconds: that the run has spent on this: capturing, waiting and loading.
        waiting: gives the block in which the run waits for a compiler.
    """

    def __init__(self, threads: int, on_fault: Callable[[CompilationError], None] | None = None):
        self._threads, self._on_fault, self._failed = threads, on_fault, False
        self.functions, self.native, self.ran, self.seconds = 0, True, False, 0.0
        self.waiting: Callable[[], AbstractContextManager[None]] = nullcontext

    def function(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """`fn` without autograd recording: eager as long as `native` is not set, or if this or another
        function of the engine could not be compiled."""
        self.functions += 1
        eager = torch.no_grad()(fn)
        run: Callable[..., Any] | None = None
        code: Native | None = None

        @functools.wraps(fn)
        def call(*args: Any) -> Any:
            nonlocal run, code
            if run is None and not self._failed:
                began = time.perf_counter()
                try:
                    if not all(leaf.device.type == "cpu" for leaf in leaves(args)):
                        run = _for_device(fn)
                    elif code is None:
                        code = Native(capture(fn, args), self._threads)
                    if code is not None and self.native:
                        run = self._loaded(code)
                except CompilationError as fault:
                    self._fail(fault)
                except BellgradError:
                    raise
                except Exception as error:  # whatever a function, a disk or a path can do
                    whole = "".join(traceback.format_exception(error))
                    self._fail(CompilationError(f"compiling failed: {first_line(error)}", whole))
                finally:
                    self.seconds += time.perf_counter() - began
            if run is None:
                return eager(*args)
            try:
                return run(*args)
            except CompilationError as fault:  # its arguments are not what it was compiled for; nothing ran
                run = None
                self._fail(fault)
                return eager(*args)

        return call

    def _loaded(self, code: Native) -> Callable[..., Any]:
        if not code.ready:
            with self.waiting():
                code.wait()
        function = code.load()
        self.ran = True
        return function

    def _fail(self, fault: CompilationError) -> None:
        """Go eager from here on, if that is wanted.

        Raises:
            CompilationError: it is not.
        """
        if self._on_fault is None:
            raise fault
        self._on_fault(fault)
        self._failed = True


def _for_device(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function for another device than the CPU, compiled by torch in this process at its first call.

    It skips Dynamo's guards, which is sound because it is compiled from its own code object (Dynamo caches
    by code object) and its callers never change a shape.
    """
    target = getattr(fn, "__func__", fn)
    copy = FunctionType(
        target.__code__.replace(),
        target.__globals__,
        target.__name__,
        target.__defaults__,
        target.__closure__,
    )
    own = MethodType(copy, fn.__self__) if hasattr(fn, "__self__") else copy
    options: dict[str, Any] = {"cpp_wrapper": True, "guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
    compiled: Callable[..., Any] = torch.no_grad()(
        torch.compile(own, fullgraph=True, dynamic=False, options=options)
    )
    return compiled
