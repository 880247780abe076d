"""What this installation can do, and what it lacks."""

import contextlib
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from bellgrad.core.processors import processors

EXTRAS = {
    "box2d": "Box2D",
    "mujoco": "mujoco",
    "tensorboard": "tensorboard",
    "video": "imageio_ffmpeg",
    "onnx": "onnxruntime",
}


def examine() -> dict[str, str]:
    """Findings by name, each of one line, which says what to do if something is missing."""
    import torch

    from bellgrad.core.machine_code import is_kept
    from bellgrad.core.waiting import manner
    from bellgrad.graphs.compiler import cache_folder

    found = {
        "bellgrad": version("bellgrad"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gymnasium": version("gymnasium"),
        "processor": f"{processors()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "cuda": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else "none; everything runs on the processor",
        "threads": f"wait for each other with {manner()}",
        "compiler": _compiler(),
        "compiled code": f"is kept in {cache_folder()}",
        "cache": "machine code of solvers and tables is kept on disk"
        if is_kept()
        else "no folder can be written: solvers and tables are compiled in each process; set NUMBA_CACHE_DIR",
    }
    for extra, module in EXTRAS.items():
        if find_spec(module):
            try:
                found[extra] = version(module)
            except PackageNotFoundError:
                found[extra] = "installed"
        else:
            found[extra] = f"missing: pip install 'bellgrad[{extra}]'"
    return found


@contextlib.contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """An environment variable as it is for a moment."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _compiler() -> str:
    """Whether a function can be compiled, which is tried."""
    import torch

    from bellgrad.core.errors import CompilationError
    from bellgrad.core.process import OwnSettings
    from bellgrad.graphs.compiler import CACHE_VARIABLE, compiler_fault, find_compiler
    from bellgrad.training.engine import Engine

    fault = compiler_fault()
    if fault is None:
        began = time.perf_counter()
        try:
            # with a cache that is empty, else nothing would be tried
            with OwnSettings(), tempfile.TemporaryDirectory() as empty, _variable(CACHE_VARIABLE, empty):
                Engine("compiled", 1, 1, "").compile(lambda x: 2 * x + 1)(torch.ones(2))
        except CompilationError as error:
            fault = error
        else:
            seconds = time.perf_counter() - began
            return f"{find_compiler()}: --engine compiled works (tried, in {seconds:.0f} seconds)"
    if find_compiler() is None:
        return "none; every run is eager. Install g++ (Debian: apt-get install g++) to compile"
    return f"every run is eager: {fault}"
