"""Importing a user's modules: from the working folder first, as for a script that lies there."""

import importlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from bellgrad.core.errors import UsageError, unknown


def import_users(name: str) -> ModuleType:
    """Import a module: the working folder's if it has one of that name, else another one on the path.

    A module that was imported before under that name stays what it is, as everywhere in Python.

    Args:
        name: `package.module`, or the path of a file: `folder/file.py` is imported from its folder as `file`.

    Raises:
        ImportError: there is no such module, or another one has the name of the file.
        BaseException: whatever the module raises.
    """
    folder, file = Path(os.getcwd()), Path(name)
    is_file = name.endswith(".py")
    if is_file:
        if not file.is_file():
            raise ImportError(f"there is no file {name}")
        folder, name = file.resolve().parent, file.stem
    top = name.partition(".")[0]
    own = next((f for f in (folder / f"{top}.py", folder / top / "__init__.py") if f.is_file()), None)
    first = own is not None and top not in sys.modules
    importlib.invalidate_caches()  # the file may be new
    if first:
        sys.path.insert(0, str(folder))
    try:
        found = importlib.import_module(name)
    finally:
        if first:
            sys.path.remove(str(folder))
        see(folder)  # for what the module imports later
    if is_file and Path(file_of(found)).resolve() != file.resolve():
        raise ImportError(f"{file} must have another name: {name} is already {file_of(found)}")
    return found


def see(folder: Path) -> None:
    """Let modules in a folder be imported, after all others; a console script does not see the working
    folder."""
    here = str(folder) == os.getcwd() and "" in sys.path
    if str(folder) not in sys.path and not here:
        sys.path.append(str(folder))


def not_in(module: ModuleType, kind: str, name: str, path: str, known: Iterable[str]) -> UsageError:
    """A `UsageError` for what a module does not have; it offers the nearest that it has, and says which file
    was read.

    Args:
        module: where it was looked for.
        kind: what was looked for, for example `"environment"`.
        name: by which the module was asked for.
        path: the name in the module.
        known: the names of such things in the module.
    """
    there = list(known)
    if not there:
        nothing = f"the module {name!r} has no {path!r}, and nothing else in it is a possible {kind}"
        return UsageError(f"{nothing} ({file_of(module)} was read)")
    return UsageError(f"{unknown(f'{kind} in module {name!r}', path, there)} ({file_of(module)} was read)")


def file_of(module: ModuleType) -> str:
    """The file from which a module was read."""
    return str(getattr(module, "__file__", None) or "a part of Python")
