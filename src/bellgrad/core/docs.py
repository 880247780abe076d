"""What a dataclass says about its fields, for the command line and the documentation."""

import inspect
import re


def field_notes(cls: type) -> dict[str, str]:
    """The text of each field under `Attributes:` in the docstrings of a class and of those it extends, in one
    line each."""
    notes: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        listed = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
        for name, text in re.findall(r"^    (\w+): (.*(?:\n      .*)*)", listed, re.MULTILINE):
            notes[name] = " ".join(text.split())
    return notes
