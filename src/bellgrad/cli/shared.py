"""What the commands share: from words to values, messages if they are wrong, and the last line of a
command."""

import argparse
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from bellgrad.core.errors import UsageError, unknown
from bellgrad.core.output import say

_SUFFIX = {"": 1, "k": 1_000, "m": 1_000_000}


def number(text: str) -> float:
    """`50_000`, `50k`, `2M` or `1e6`, also negative or with a fraction.

    Raises:
        ValueError: it is none of these, or too large for a number.
    """
    match = re.fullmatch(r"([+-]?[\d_.]+(?:[eE][+-]?\d+)?)([kKmM]?)", text)
    if not match or not math.isfinite(value := float(match[1]) * _SUFFIX[match[2].lower()]):
        raise ValueError(f"{text!r} is not a number")
    return value


def count(text: str) -> int:
    """A whole number written as in `number`."""
    try:
        value = number(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a whole number (write 50000, 50_000, 50k or 5e4)"
        ) from None
    if value != int(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(value)


def seeds(text: str) -> list[int]:
    """`3`, `0-4` or `0,2,5`."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of seeds (write 0-4 or 0,2,5)")
        found.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
    return list(dict.fromkeys(found))


def numbers(kind: type[int] | type[float]) -> Callable[[str], tuple[Any, ...]]:
    """A reader of several numbers with commas between them."""

    def read(text: str) -> tuple[Any, ...]:
        try:
            found = tuple(number(part) for part in text.split(","))
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a list of numbers (write them with commas: 1,2.5,-3)"
            ) from None
        if kind is int and any(value != int(value) for value in found):
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers")
        return tuple(kind(value) for value in found)

    return read


def words(text: str) -> tuple[str, ...]:
    """Several words with commas between them."""
    return tuple(text.split(","))


def which_checkpoint(text: str) -> str | int:
    """`last`, `best` or the step of a checkpoint."""
    return text if text in ("last", "best") else count(text)


def json_object(text: str) -> dict[str, Any]:
    """`{"key": value, ...}`."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")
    return value


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line, with the nearest right names.

    Attributes:
        commands: the parser of each command by its name; empty if there are none.
    """

    commands: dict[str, "Parser"]

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """An argument; what takes a number or a path is shown as N or PATH."""
        shown = (
            "PATH" if options.get("type") is Path else "N" if options.get("type") in (count, number) else None
        )
        if shown and names[0].startswith("-"):
            options = {"metavar": shown} | options
        return super().add_argument(*names, **options)

    def error(self, message: str) -> NoReturn:
        """Raise a `UsageError` instead of printing the usage."""
        choice = re.fullmatch(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message)
        if choice:
            raise unknown(choice[1].strip("-").lower(), choice[2], re.findall(r"[\w-]+", choice[3]))
        raise UsageError(f"{message} (see {self.prog} --help)")

    def refuse(self, word: str) -> NoReturn:
        """Raise a `UsageError` for a word that is not an argument."""
        if word.startswith("--"):
            raise unknown("option", word.partition("=")[0], self._option_string_actions)
        self.error(f"unexpected argument {word!r}")


def say_next(args: argparse.Namespace, run: Any) -> None:
    """Offer the commands that follow a training run, unless `--quiet`."""
    if args.quiet:
        return
    say(f"next: {'  |  '.join(run.command(verb) for verb in ('evaluate', 'record', 'report'))}")
