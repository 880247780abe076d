"""Frozen dataclasses of plain values as JSON, and back without running code that is not trusted.

    None, bool, int, float, str     as they are
    a tuple                         a list
    a dictionary of text keys       an object; `{"kind": "dict", "items": {...}}` if it has a key `kind`
    a frozen dataclass              {"kind": NAME, FIELD: ...}
    a `torch.nn.Module` class       {"kind": "module", "name": "module:Class"}

NAME is a registered name or `module:Class`. Fields that a dataclass does not compare (`compare=False`) are
left out.

A record can be older than this version. A field that it lacks takes `metadata={"absent": value}` if the
dataclass gives it, else its default; a field with `metadata={"formerly": name}` is also read under its old
name.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

from bellgrad.core.errors import BellgradError, CheckpointError, UsageError, python_number
from bellgrad.core.guard import guarded
from bellgrad.core.imports import import_users
from bellgrad.core.registry import NETWORKS, PARTS, Registry, is_frozen, is_module, path_of

_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")  # module:Class
MODULE, DICT = "module", "dict"  # kinds that are not dataclasses


# --------------------------------------------------------------------------------------------------- writing
def to_json(value: Any) -> Any:
    """A plain value, a frozen dataclass or a network's class as JSON.

    Raises:
        UsageError: something else, or a class that was made inside a function.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return int(value) if isinstance(value, int) else float(value)  # NumPy's numbers too
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        items = {key: to_json(item) for key, item in value.items()}
        return {"kind": DICT, "items": items} if "kind" in items else items
    if is_module(value):
        return {"kind": MODULE, "name": NETWORKS.name_of(value)}
    if is_frozen(type(value)):
        written = fields_to_json(value)
        if "kind" in written:
            raise UsageError(
                f"a field of {type(value).__name__} may not be called 'kind'; give it another name"
            )
        return {"kind": _kind_of(type(value)), **written}
    raise UsageError(
        f"{value!r} cannot be recorded: fields are numbers, words, None, tuples, dictionaries, frozen"
        " dataclasses and torch.nn.Module classes"
    )


def fields_to_json(value: Any) -> dict[str, Any]:
    """Every field of a dataclass by its name."""
    return {f.name: to_json(getattr(value, f.name)) for f in _recorded(type(value))}


def _kind_of(cls: type) -> str:
    """The name by which a class is found again; a registered name only if no other kind has it too."""
    for registry in PARTS:
        name = registry.name_of(cls)
        if ":" not in name and class_named(name, False, *PARTS) is cls:
            return name
    return path_of(cls)


def plain(value: Any, name: str) -> Any:
    """Arguments that a record can keep: the value itself, NumPy's numbers in it as Python's.

    Args:
        value: numbers, words, None, and lists, tuples and dictionaries of these.
        name: what it is called in an error.

    Raises:
        UsageError: anything else is in it, which would come back as another value or not at all.
    """
    value = python_number(value)
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind in (list, tuple):
        return kind(plain(item, f"{name}[{i}]") for i, item in enumerate(value))
    if kind is dict:
        return {
            plain(key, f"a key of {name}"): plain(item, f"{name}[{key!r}]") for key, item in value.items()
        }
    raise UsageError(
        f"{name} is {described(value)}, which run.json cannot keep: give numbers, words, None, and lists,"
        " tuples and dictionaries of these; or make the environment in a function of your own, env=make"
    )


def described(value: Any) -> str:
    """A value and its type, in one short line."""
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def plain_to_json(value: Any) -> Any:
    """What `plain` gives, as JSON. A tuple is `{"kind": "tuple", "items": [...]}`; a dictionary with other
    keys than words, or with a key `kind`, is `{"kind": "dict", "pairs": [[key, value], ...]}`."""
    if isinstance(value, tuple):
        return {"kind": "tuple", "items": [plain_to_json(item) for item in value]}
    if isinstance(value, list):
        return [plain_to_json(item) for item in value]
    if isinstance(value, dict):
        if "kind" not in value and all(isinstance(key, str) for key in value):
            return {key: plain_to_json(item) for key, item in value.items()}
        pairs = [[plain_to_json(key), plain_to_json(item)] for key, item in value.items()]
        return {"kind": DICT, "pairs": pairs}
    return value


def plain_from_json(data: Any) -> Any:
    """The value that `plain_to_json` wrote."""
    if isinstance(data, list):
        return [plain_from_json(item) for item in data]
    if isinstance(data, dict):
        kind = data.get("kind")
        if kind == "tuple" and data.keys() == {"kind", "items"} and isinstance(data["items"], list):
            return tuple(plain_from_json(item) for item in data["items"])
        if kind == DICT and data.keys() == {"kind", "pairs"} and isinstance(data["pairs"], list):
            return {plain_from_json(key): plain_from_json(item) for key, item in data["pairs"]}
        return {key: plain_from_json(item) for key, item in data.items()}
    return data


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal and of equal types, inside too; a number of NumPy is one of Python."""
    one, other = python_number(one), python_number(other)
    if type(one) is not type(other):
        return False
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            same(key, there) and same(item, other[there])
            for (key, item), there in zip(one.items(), other, strict=True)
        )
    if is_frozen(type(one)):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in _recorded(type(one)))
    return bool(one == other) or (one != one and other != other)


# --------------------------------------------------------------------------------------------------- reading
def from_json(data: Any, trust_imports: bool = False) -> Any:
    """The value that `to_json` wrote.

    Args:
        data: the JSON value.
        trust_imports: whether modules of a user's own classes may be imported, which runs them.

    Raises:
        CheckpointError: damaged, of an unknown kind, or with fields that this version does not know.
        UsageError: the module of a user's class is not imported yet, and `trust_imports` is False.
    """
    if isinstance(data, list):
        return tuple(from_json(item, trust_imports) for item in data)
    if isinstance(data, str) and _PATH.fullmatch(data) and not trust_imports:
        raise _untrusted(data)  # a field may take the name of a class in place of an object
    if not isinstance(data, dict):
        return data
    if "kind" not in data:
        return {key: from_json(item, trust_imports) for key, item in data.items()}
    rest = dict(data)
    kind = rest.pop("kind")
    if kind == MODULE and rest.keys() == {"name"}:
        cls = class_named(rest["name"], trust_imports, NETWORKS)
        if not is_module(cls):
            raise CheckpointError(f"{rest['name']!r} is not a torch.nn.Module class")
        return cls
    if kind == DICT and rest.keys() == {"items"} and isinstance(rest["items"], dict):
        return {key: from_json(item, trust_imports) for key, item in rest["items"].items()}
    if not isinstance(kind, str) or kind in (MODULE, DICT):
        raise CheckpointError(f"the record {data!r} is damaged")
    return fields_from_json(class_named(kind, trust_imports, *PARTS), rest, trust_imports)


def fields_from_json(cls: type, data: Any, trust_imports: bool = False) -> Any:
    """The dataclass whose fields `fields_to_json` wrote; otherwise as `from_json`."""
    if not is_frozen(cls):
        raise CheckpointError(f"{path_of(cls)!r} is not a frozen dataclass")
    left = dict(data)
    found = by_field(cls, left)
    if left:
        raise CheckpointError(
            f"{cls.__name__} has no field {', '.join(map(repr, left))}: the record was made by a newer"
            " version, or is damaged"
        )
    values = {name: from_json(value, trust_imports) for name, value in found.items()}
    with guarded(f"the class {cls.__name__}", "its constructor"):
        try:
            return cls(**values)
        except Exception as error:  # whatever a user's class raises
            raise CheckpointError(f"the record of {cls.__name__} is damaged: {error}") from error


def by_field(cls: type, data: dict[str, Any]) -> dict[str, Any]:
    """What a record says about the fields of a dataclass, under their present names; removed from `data`.

    Fields that the record lacks and that have a default are left out.

    Raises:
        CheckpointError: a field without a default is missing.
    """
    found, lacking = {}, []
    for f in _recorded(cls):
        notes = _notes(cls, f.name)
        for name in (f.name, notes.get("formerly")):
            if name in data:
                found[f.name] = data.pop(name)
                break
        else:
            if "absent" in notes:
                found[f.name] = to_json(notes["absent"])
            elif f.default is MISSING and f.default_factory is MISSING:
                lacking.append(f.name)
    if lacking:
        raise CheckpointError(f"the record of {cls.__name__} is damaged: it lacks {', '.join(lacking)}")
    return found


def class_named(name: Any, trust_imports: bool, *registries: Registry) -> Any:
    """The class of a registered name, or of `module:Class`; runs code only if it is trusted.

    Args:
        name: from a record.
        trust_imports: whether a module that is not imported yet may be imported.
        registries: that may have the name; the first that has it is used.

    Raises:
        CheckpointError: it names nothing.
        UsageError: its module is not imported yet, and imports are not trusted.
    """
    if isinstance(name, str) and ":" not in name:
        for registry in registries:
            if name in registry.names():
                return registry.find(name)
    module_name, _, path = name.partition(":") if isinstance(name, str) else ("", "", "")
    if not module_name or not path:
        raise CheckpointError(
            f"unknown kind {name!r}: the record is damaged, or needs a newer version or a missing package"
        )
    if trust_imports:
        with guarded(f"the module of {name!r}", "its import", f"{name!r} could not be imported"):
            import_users(module_name)
    elif module_name not in sys.modules:
        raise _untrusted(name)
    found: Any = sys.modules[module_name]
    for part in path.split("."):  # not by getattr, for which a module or a class may run code
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
    if isinstance(found, type):
        return found
    if module_name == "__main__":
        raise UsageError(
            f"{path} was defined in the script that made the run; open the run from there, or move the class"
            " to a module of its own"
        )
    raise CheckpointError(f"{name!r} is not a class")


def _untrusted(name: str) -> UsageError:
    return UsageError(
        f"the run uses {name}, which is not part of Bellgrad; if you trust it, import its module first, or"
        " run again with --trust-imports (or trust_imports=True)"
    )


def foreign(data: Any) -> Iterator[str]:
    """Every `module:Class` that a record names: code that is imported only if it is trusted."""
    if isinstance(data, list):
        for item in data:
            yield from foreign(item)
    elif isinstance(data, dict):
        for item in data.values():
            yield from foreign(item)
    elif isinstance(data, str) and _PATH.fullmatch(data):
        yield data


def rewritten(data: Any) -> Any:
    """A record as this version writes it, to compare it with others; unchanged if it cannot be read."""
    try:
        return to_json(from_json(data))
    except BellgradError:
        return data


# ---------------------------------------------------------------------------------------------------- both
def _recorded(cls: Any) -> list[Field[Any]]:
    return [f for f in fields(cls) if f.init and f.compare]


def _notes(cls: type, name: str) -> dict[str, Any]:
    """The metadata of a field, also if a subclass gives the field another default."""
    notes: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if name in (known := base.__dict__.get("__dataclass_fields__", {})):
            notes |= known[name].metadata
    return notes
