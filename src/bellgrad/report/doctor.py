"""What this installation can do, and what it lacks."""

import os
import platform
import shutil
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

    from bellgrad.training.engine import compiler_available

    compiler = next(
        (path for name in (os.environ.get("CXX") or "g++", "g++", "clang++") if (path := shutil.which(name))),
        None,
    )
    found = {
        "bellgrad": version("bellgrad"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gymnasium": version("gymnasium"),
        "processor": f"{processors()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "cuda": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else "none; everything runs on the processor",
        "compiler": f"{compiler}: --engine compiled works"
        if compiler_available()
        else "none; every run is eager. Install g++ (Debian: apt-get install g++) to compile",
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
