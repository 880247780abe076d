"""Compiling with torch on a machine that is not the developer's: where it can go wrong, and what then."""

import atexit
import contextlib
import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import torch

from bellgrad.core.errors import BellgradError, CompilationError

# Seconds for a file of two lines: a compiler that takes longer hangs.
PATIENCE = 60.0


class Compilation:
    """The functions of one engine, each compiled at its first call.

    Args:
        on_fault: see `Engine`.
    """

    def __init__(self, on_fault: Callable[[CompilationError], None] | None = None):
        self._on_fault, self._failed = on_fault, False

    def function(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """`fn` without autograd recording, compiled at its first call; eager if this or another function of
        the engine could not be compiled.

        Compiled functions skip Dynamo's guards, which take a tenth of a small update. That is sound because
        each is compiled from its own code object (Dynamo caches by code object) and its callers never
        change a shape.
        """
        run: Callable[..., Any] | None = None

        @functools.wraps(fn)
        def call(*args: Any) -> Any:
            nonlocal run
            with torch.no_grad():
                if run is not None:
                    return run(*args)
                if self._failed:
                    run = fn
                    return fn(*args)
                built: list[bool] = []
                try:
                    with _own_cache_folder() as options:
                        compiled = torch.compile(
                            _own_code(fn),
                            fullgraph=True,
                            dynamic=False,
                            backend=functools.partial(_build, options, built),
                            options={"guard_filter_fn": torch.compiler.skip_all_guards_unsafe},
                        )
                        result = compiled(*args)
                except BellgradError:
                    raise
                except Exception as error:  # whatever a compiler, a disk or a path can do
                    if built:  # it was compiled, and failed when it ran
                        raise
                    self._fail(error)
                    run = fn
                    return fn(*args)
                run = compiled
                return result

        return call

    def _fail(self, error: Exception) -> None:
        """Go eager from here on, if that is wanted.

        Raises:
            CompilationError: it is not.
        """
        whole = "".join(traceback.format_exception(error))
        fault = CompilationError(f"compiling failed: {first_line(error)}", whole)
        if self._on_fault is None:
            raise fault from error
        self._on_fault(fault)
        self._failed = True


def _build(options: dict[str, Any], built: list[bool], graph: Any, example: Any, **more: Any) -> Any:
    """torch's own compiler, which notes that it has ended."""
    from torch._inductor.compile_fx import compile_fx

    _quote_library_folders()
    made = compile_fx(graph, example, config_patches=options)
    built.append(True)
    return made


def _own_code(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function with a private copy of its code object, so that no other function shares its compiled
    graph."""
    target = getattr(fn, "__func__", fn)
    copy = FunctionType(
        target.__code__.replace(),
        target.__globals__,
        target.__name__,
        target.__defaults__,
        target.__closure__,
    )
    return MethodType(copy, fn.__self__) if hasattr(fn, "__self__") else copy


def first_line(error: BaseException) -> str:
    """The line of an error that says most: the first error of the compiler, if it came to that."""
    error = getattr(error, "inner_exception", error)  # torch's wrapping says nothing
    lines = [line.strip() for line in str(error).partition("Output:\n")[2].splitlines() if line.strip()]
    lines = lines or [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    said = next((line for line in lines if re.search(r"\berror\b|cannot|No space", line)), lines[0])
    return said if "Output:\n" in str(error) else f"{type(error).__name__}: {said}"


# ----------------------------------------------------------------------------------------------- the compiler
def find_compiler() -> str | None:
    """The C++ compiler: that of the variable CXX if it is one, else g++ or clang++; None if there is none."""
    own = os.environ.get("CXX")
    names = (own, *(("clang++", "g++") if sys.platform == "darwin" else ("g++", "clang++")))
    found = (name for name in names if name and shutil.which(name) and shlex.quote(name) == name)
    return next(found, None)


def compiler_fault() -> CompilationError | None:
    """Why no C++ file can be compiled here, which is tried with one of two lines; None if it can."""
    compiler = find_compiler()
    if compiler is None:
        return CompilationError("no C++ compiler was found (see bellgrad doctor)")
    return _fault_of(compiler, os.environ.get("PATH"))


@functools.lru_cache
def _fault_of(compiler: str, path: str | None) -> CompilationError | None:
    command = [compiler, "-fsyntax-only", "-x", "c++", f"-I{sysconfig.get_path('include')}", "-"]
    lines = "#include <Python.h>\n#include <vector>\n"
    try:
        done = subprocess.run(
            command, input=lines, capture_output=True, text=True, errors="replace", timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        return CompilationError(f"{compiler} gave no answer within {PATIENCE:.0f} seconds")
    except (OSError, ValueError) as error:
        return CompilationError(f"{compiler} cannot be run: {error}")
    if done.returncode == 0:
        return None
    said = (done.stderr + done.stdout).strip() or f"exit code {done.returncode}"
    line = next((line for line in said.splitlines() if re.search(r"\berror\b|cannot", line)), "")
    return CompilationError(
        f"{compiler} fails: {line or said.splitlines()[0]}", f"{shlex.join(command)}\n{said}"
    )


def compiler_available() -> bool:
    """Whether there is a C++ compiler that works; without one every run is eager."""
    return compiler_fault() is None


# -------------------------------------------------------------------------------------------------- the paths
@contextlib.contextmanager
def _own_cache_folder() -> Iterator[dict[str, Any]]:
    """Let torch keep compiled code in a folder that can be written and named in its commands; gives its
    options."""
    options: dict[str, Any] = {"cpp_wrapper": True}
    compiler = find_compiler()
    if compiler not in (None, os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")):
        options["cpp.cxx"] = (None, compiler)
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    try:
        if before is not None and not _is_usable(before):
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = _temporary_folder()
        from torch._inductor.runtime.cache_dir_utils import default_cache_dir  # it makes the folder

        if not _is_usable(default_cache_dir()):  # in which torch keeps headers, whatever the variable says
            options["cpp_cache_precompile_headers"] = False
            if before is None:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = _temporary_folder()
        yield options
    finally:
        if before is None:
            os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)
        else:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = before


def _is_usable(folder: str) -> bool:
    """Whether files can be written there, and torch's commands, which quote nothing, can name it."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return shlex.quote(os.path.abspath(folder)) == os.path.abspath(folder)
    except OSError:
        return False


@functools.cache
def _temporary_folder() -> str:
    """A folder for compiled code until this process ends."""
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"):
        if os.path.isdir(parent) and _is_usable(parent):
            folder = tempfile.mkdtemp(prefix="bellgrad-", dir=parent)
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            return folder
    raise OSError("no folder for temporary files")


def _quote_library_folders() -> None:
    """torch splits its commands at spaces and quotes the folders of headers, but not those of libraries."""
    from torch._inductor import cpp_builder

    where = str(Path(torch.__file__).parent)
    if shlex.quote(where) == where and shlex.quote(sys.base_prefix) == sys.base_prefix:
        return
    plain = cpp_builder.BuildOptionsBase.get_libraries_dirs
    if getattr(plain, "quotes", False):
        return

    def quoted(self: Any) -> list[str]:
        return [shlex.quote(folder) for folder in plain(self)]

    quoted.quotes = True  # type: ignore[attr-defined]
    cpp_builder.BuildOptionsBase.get_libraries_dirs = quoted  # type: ignore[method-assign]
