"""Captured functions as native code: looked up by what determines it, ordered if it is not there, loaded and
called."""

import contextlib
import functools
import hashlib
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bellgrad.core.errors import CompilationError
from bellgrad.core.tree import Tree
from bellgrad.graphs import workshop
from bellgrad.graphs.build import library_name
from bellgrad.graphs.capture import Graph, layout
from bellgrad.graphs.compiler import cache_folder, compiler_version, find_compiler
from bellgrad.graphs.workshop import Order

FORMAT = 1  # of what is kept; another one is compiled anew
KEPT = 300  # libraries in the cache; those used longest ago go first
# Calls whose tensors are looked at: a pure function of one structure gives the same layouts ever after.
CHECKED_CALLS = 3


class Native:
    """A graph and its native code, which may still be in the making.

    Args:
        graph: as captured.
        threads: of its arithmetic.

    Attributes:
        order: its compilation; None if the code was there.
    """

    def __init__(self, graph: Graph, threads: int):
        self.graph = graph
        compiler = find_compiler()
        self._record = {"threads": threads, "compiler": compiler}
        version = compiler_version(compiler, os.environ.get("PATH")) if compiler else ""
        self._key = graph.key(
            **self._record, version=version, torch=torch.__version__, format=FORMAT, processor=processor()
        )
        self._folder = cache_folder()
        self.order = self._ordered() if self._library() is None else None

    def _library(self) -> Path | None:
        """The library, if it is there and whole."""
        for path in self._folder.glob(f"{self._key}-*.so"):
            with contextlib.suppress(OSError):
                if path.name == library_name(self._key, path.read_bytes()):
                    return path
                path.unlink()  # it is damaged
        return None

    def _ordered(self) -> Order:
        _make_room(self._folder)
        return workshop.WORKSHOP.order(self._key, self.graph.to_json() | self._record, self._folder)

    @property
    def ready(self) -> bool:
        """Whether `load` need not wait."""
        return self.order is None or self.order.done.is_set()

    def wait(self) -> None:
        """Until the code is there, or it is known why it cannot be."""
        if self.order is not None:
            self.order.wait()

    def load(self) -> Callable[..., Tree]:
        """The native function, which takes and gives trees as the captured one did; waits until it is there.

        Raises:
            CompilationError: it could not be made, or cannot be used.
        """
        self.wait()
        if self.order is not None and self.order.fault is not None:
            raise self.order.fault
        library = self._library()
        if library is None:
            raise CompilationError(f"compiled code is missing from {self._folder}")
        try:
            runner = torch._C._aoti.AOTIModelContainerRunnerCpu(str(library), 1)
        except RuntimeError as error:
            raise CompilationError(f"compiled code cannot be loaded: {error}", str(error)) from error
        with contextlib.suppress(OSError):
            os.utime(library)  # it was used
        return self._called(runner)

    def _called(self, runner: Any) -> Callable[..., Tree]:
        flatten, build, further, run = self.graph.flatten, self.graph.build, self.graph.further, runner.run
        to_check = CHECKED_CALLS

        def call(*args: Tree) -> Tree:
            nonlocal to_check
            tensors = [*flatten(args), *further]
            if to_check:
                to_check -= 1
                self._check(tensors)
            return build(run(tensors))

        return call

    def _check(self, tensors: list[Tensor]) -> None:
        for tensor, compiled_for in zip(tensors, self.graph.inputs, strict=True):
            if _memory(*(given := layout(tensor))) != _memory(*compiled_for):
                raise CompilationError(f"compiled for a tensor {compiled_for}, called with {given}")


def _memory(shape: list[int], strides: list[int], dtype: str) -> tuple[Any, ...]:
    """What of a tensor's layout matters: an axis of one entry may have any stride."""
    return shape, [0 if size == 1 else stride for size, stride in zip(shape, strides, strict=True)], dtype


@functools.cache
def processor() -> str:
    """What of the processor the code depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    name = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {flags}"
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _make_room(folder: Path) -> None:
    """Delete the libraries that were used longest ago, if there are many."""
    with contextlib.suppress(OSError):
        found = sorted(folder.glob("*.so"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in found[KEPT - 1 :]:
            path.unlink(missing_ok=True)
