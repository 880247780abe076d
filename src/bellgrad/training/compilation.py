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
        native: whether functions are native code from now on; until then they are eager.
        seconds: that the run has spent on this: capturing, waiting and loading.
        waiting: gives the block in which the run waits for a compiler.
    """

    def __init__(self, threads: int, on_fault: Callable[[CompilationError], None] | None = None):
        self._threads, self._on_fault, self._failed = threads, on_fault, False
        self._settled = True  # whether there is nothing to compile, it was done once, or was given up
        self.native, self.seconds = True, 0.0
        self.waiting: Callable[[], AbstractContextManager[None]] = nullcontext

    def function(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """`fn` without autograd recording: eager as long as `native` is not set, or if this or another
        function of the engine could not be compiled."""
        self._settled = False
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
                    self._settled = self._settled or run is not None
                except CompilationError as fault:
                    self._fail(fault)
                except BellgradError:
                    raise
                except Exception as error:  # whatever a function, a disk or a path can do
                    self._fail(_fault_of(error))
                finally:
                    self.seconds += time.perf_counter() - began
            if run is None:
                return eager(*args)
            try:
                return run(*args)
            except CompilationError as fault:  # found at the call, before anything ran
                run = None
                self._fail(fault)
                return eager(*args)

        return call

    def _loaded(self, code: Native) -> Callable[..., Any]:
        if not code.ready:
            with self.waiting():
                code.wait()
        return code.load()

    @property
    def may_wait(self) -> bool:
        """Whether the next call of a function may have to wait for a compiler, for the first time."""
        return self.native and not self._settled

    def _fail(self, fault: CompilationError) -> None:
        """Go eager from here on, if that is wanted.

        Raises:
            CompilationError: it is not.
        """
        if self._on_fault is None:
            raise fault
        self._on_fault(fault)
        self._failed = self._settled = True


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
    built: list[bool] = []
    compiled = torch.compile(
        own,
        fullgraph=True,
        dynamic=False,
        backend=functools.partial(_build_for_device, built),
        options={"guard_filter_fn": torch.compiler.skip_all_guards_unsafe},
    )

    @torch.no_grad()
    def call(*args: Any) -> Any:
        try:
            return compiled(*args)
        except BellgradError:
            raise
        except Exception as error:
            if built:  # it was compiled, and failed when it ran
                raise
            raise _fault_of(error) from error

    return call


def _build_for_device(built: list[bool], graph: Any, example: Any, **more: Any) -> Any:
    """torch's own compiler, which notes that it has ended."""
    from torch._inductor.compile_fx import compile_fx

    made = compile_fx(graph, example, config_patches={"cpp_wrapper": True})
    built.append(True)
    return made


def _fault_of(error: Exception) -> CompilationError:
    whole = "".join(traceback.format_exception(error))
    return CompilationError(f"compiling failed: {first_line(error)}", whole)
