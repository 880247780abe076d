"""The C++ compiler of this machine, and the folders in which it can work."""

import atexit
import functools
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from bellgrad.core.errors import CompilationError

# Seconds for a file of two lines: a compiler that takes longer hangs.
PATIENCE = 60.0
CACHE_VARIABLE = "BELLGRAD_CACHE_DIR"


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


@functools.lru_cache
def compiler_version(compiler: str, path: str | None) -> str:
    """What the compiler says of itself; empty if it says nothing."""
    try:
        done = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.partition("\n")[0]


# ------------------------------------------------------------------------------------------------ the folders
def cache_folder() -> Path:
    """Where compiled code is kept from one run to the next: the folder of the variable BELLGRAD_CACHE_DIR,
    else `bellgrad` in the user's own cache folder; if that cannot be used, one that lasts as long as this
    process. Code is only loaded from a folder that nobody else can write."""
    chosen = os.environ.get(CACHE_VARIABLE) or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "bellgrad"
    )
    folder = Path(chosen).absolute() / "graphs"
    return folder if _is_own(folder) else Path(temporary_folder())


def _is_own(folder: Path) -> bool:
    """Whether it can be written, and only by this user."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        others = stat.S_IWGRP | stat.S_IWOTH
        if status.st_uid != os.getuid() or status.st_mode & others:
            return False
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


@functools.cache
def temporary_folder() -> str:
    """A folder of this process that torch's commands, which quote nothing, can name.

    Raises:
        OSError: there is none.
    """
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"):
        if os.path.isdir(parent) and _is_usable(parent):
            folder = tempfile.mkdtemp(prefix="bellgrad-", dir=parent)
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            return folder
    raise OSError("no folder for temporary files")


def _is_usable(folder: str) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return shlex.quote(os.path.abspath(folder)) == os.path.abspath(folder)
    except OSError:
        return False
