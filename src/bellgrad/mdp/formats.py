"""MDPs in files of any format that Bellgrad knows, by the end of the file's name.

| end of the name    | format                                            | module                    |
| ------------------ | ------------------------------------------------- | ------------------------- |
| `.drn`             | Storm's explicit format                           | `bellgrad.mdp.drn`        |
| `.tra`             | PRISM's explicit files, with those beside it      | `bellgrad.mdp.prism`      |
| `.pomdp`, `.mdp`   | Cassandra's text format                           | `bellgrad.mdp.cassandra`  |
| `.safetensors`     | Bellgrad's own, as `FiniteMDP.save` writes it     | `bellgrad.mdp.saving`     |
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bellgrad.core.errors import UsageError
from bellgrad.core.files import file_path
from bellgrad.mdp.cassandra import read_cassandra_mdp, write_pomdp
from bellgrad.mdp.drn import read_drn, write_drn
from bellgrad.mdp.model import FiniteMDP
from bellgrad.mdp.prism import read_prism, write_prism

READERS: dict[str, Callable[..., Any]] = {
    ".drn": read_drn,
    ".tra": read_prism,
    ".pomdp": read_cassandra_mdp,
    ".mdp": read_cassandra_mdp,
    ".safetensors": FiniteMDP.load,
}
WRITERS: dict[str, Callable[..., None]] = {
    ".drn": write_drn,
    ".tra": write_prism,
    ".pomdp": write_pomdp,
    ".mdp": write_pomdp,
    ".safetensors": FiniteMDP.save,
}


def read_mdp(path: str | Path, **options: Any) -> FiniteMDP:
    """The finite MDP in a file, whose format follows from the end of its name.

    Args:
        path: a file whose name ends in `.drn`, `.tra`, `.pomdp`, `.mdp` or `.safetensors`.
        options: of the format's reader: `reward_model` and `costs` of DRN, `costs` of PRISM.

    Raises:
        UsageError: the end of the name or an option is unknown, or the file is not in this format; names the
            line. A POMDP whose states cannot be seen is refused: see `read_pomdp`.
        CheckpointError: a `.safetensors` file cannot be read.
    """
    return read_with_discount(path, **options)[0]


def read_with_discount(path: str | Path, **options: Any) -> tuple[FiniteMDP, float | None]:
    """The finite MDP in a file, and its discount if the format has one; see `read_mdp`."""
    found = _of(READERS, path, options)(path, **options)
    return (found, None) if isinstance(found, FiniteMDP) else found


def write_mdp(mdp: FiniteMDP, path: str | Path, **options: Any) -> None:
    """Write a finite MDP to a file, in the format that follows from the end of its name; an older file is
    replaced. `read_mdp` gives the same MDP.

    Args:
        mdp: the MDP.
        path: a file whose name ends in `.drn`, `.tra`, `.pomdp`, `.mdp` or `.safetensors`.
        options: of the format's writer: `expected_rewards` of text formats, `discount` of Cassandra's.

    Raises:
        UsageError: the end of the name or an option is unknown, or the format cannot express the MDP.
        CheckpointError: the file cannot be written; an older one is then intact.
    """
    if not isinstance(mdp, FiniteMDP):
        raise UsageError(f"expected a FiniteMDP, got {type(mdp).__name__}; a POMDP is written by write_pomdp")
    _of(WRITERS, path, options)(mdp, path, **options)


def _of(functions: dict[str, Callable[..., Any]], path: str | Path, options: dict[str, Any]) -> Any:
    suffix = file_path(path).suffix.lower()
    if suffix not in functions:
        raise UsageError(f"{path}: the name of an MDP's file ends in {', '.join(functions)}")
    known = [
        name
        for name, parameter in inspect.signature(functions[suffix]).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    for name in options:
        if name not in known:
            has = f"its options are {', '.join(known)}" if known else "it has no options"
            raise UsageError(f"{path}: a {suffix} file has no option {name!r}; {has}")
    return functions[suffix]
