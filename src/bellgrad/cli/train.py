"""The command `train`: from flags to an algorithm with its hyper-parameters, and one run or several."""

import argparse
import contextlib
import inspect
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, make_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

from bellgrad.cli.shared import (
    Parser,
    count,
    json_object,
    number,
    numbers,
    say_next,
    seeds,
    words,
)
from bellgrad.core.errors import UsageError, unknown
from bellgrad.core.output import say
from bellgrad.core.registry import ALGORITHMS, PARTS
from bellgrad.runs.files import absolute, new_folder, quoted
from bellgrad.runs.settings import SHORTHAND, Settings

# What reads a flag's text and what that text is called, by the type of the setting, or None.
READ: dict[Any, tuple[Callable[[str], Any], str | None]] = {
    int | None: (count, "N"),
    float | None: (number, "N"),
    tuple[int, ...] | None: (numbers(int), "LIST"),
    tuple[float, ...] | None: (numbers(float), "LIST"),
    tuple[Any, ...] | None: (words, "LIST"),
    dict[str, Any] | None: (json_object, "JSON"),
}
FLAGS = {f.name: f for f in fields(Settings) if f.name != "algorithm"}


def add_arguments(p: Parser) -> None:
    """The arguments of the command: a flag for every setting, and those of the command alone."""
    p.add_argument(
        "algo", help="the algorithm's name, for example ppo (bellgrad list algos), or module:Class"
    )
    one_or_many = p.add_mutually_exclusive_group()
    for name in FLAGS:
        add_setting(one_or_many if name == "seed" else p, name)
    one_or_many.add_argument(
        "--seeds",
        type=seeds,
        metavar="LIST",
        help="several runs one after another, for example 0-4, into one folder",
    )
    add_shorthand(p)
    p.add_argument("--out", type=Path, help="the run's folder (default: a new one under runs/)")
    p.add_argument("--preset", help="tuned settings by name (bellgrad list presets)")
    p.add_argument(
        "--network",
        metavar="KIND",
        help="mlp, cnn, lstm, gru, or module:Class for your own; the same as --algo.network",
    )
    p.add_argument("--quiet", action="store_true", help="no progress")
    p.epilog = (
        "Every hyper-parameter is a flag --algo.FIELD VALUE, for example --algo.learning_rate 1e-3; bellgrad"
        " train ALGO --algo.help lists them. A part is chosen by its name, as in --algo.optimizer sgd."
    )


def add_setting(place: Any, name: str) -> None:
    """The flag of a setting, in a parser or a group of one."""
    f = FLAGS[name]
    about = f.metadata["about"].replace("`", "")
    about += f" (default {f.default})" if isinstance(f.default, int | str) else ""
    # words are checked when settings are made
    read, shown = READ.get(get_type_hints(Settings)[name] | None, (str, None))
    place.add_argument(_flag(name), type=read, metavar=shown, help=about)


def add_shorthand(p: Parser) -> None:
    """The flags in place of `--transforms`."""
    for name, about in SHORTHAND.items():
        options = {"type": count} if name == "frame_stack" else {"action": "store_true", "default": None}
        p.add_argument(_flag(name), help=f"in place of --transforms: {about}", **options)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    ALGORITHMS.find(args.algo)  # report a wrong name before anything slow is imported
    from bellgrad import api
    from bellgrad.presets import find_preset

    preset = find_preset(args.algo, args.preset) if args.preset else None
    algorithm = _algorithm(preset.algorithm if preset else ALGORITHMS.make(args.algo), args)
    options = {name: getattr(preset, name) for name in FLAGS if hasattr(preset, name)}
    given = {name: getattr(args, name) for name in (*FLAGS, *SHORTHAND)}
    given = {name: value for name, value in given.items() if value is not None}
    if options.get("transforms") and SHORTHAND.keys() & given.keys():
        raise UsageError(
            f"the preset {args.preset} has transforms of its own; give --transforms, all of them"
        )
    options |= given
    if preset and "-v" in args.preset:
        options.setdefault("env", args.preset)
    if "env" not in options:
        raise UsageError("train needs --env: a Gymnasium id, or module:Class (bellgrad list envs)")
    if "steps" not in options:
        raise UsageError("train needs --steps: environment steps in all, for example --steps 100k")
    progress: Literal["auto", "off"] = "off" if args.quiet else "auto"
    if args.seeds is None:
        command = shlex.join(["bellgrad", *args.words])
        made = api.train(algorithm, out=args.out, progress=progress, command=command, **options)
        _draw_table(args, made)
        say_next(args, made)
        return
    root = args.out or new_folder(api.usual_folder(algorithm, options["env"], "seeds"))
    if (root / "run.json").exists():
        raise UsageError(f"{root} is a run itself; choose another --out for several seeds")
    absolute_root = absolute(root)  # an environment may change the current folder
    for seed in args.seeds:
        folder = root / f"seed-{seed}"
        words = [*_without(args.words, "--seeds", "--out"), "--seed", str(seed), "--out", str(folder)]
        command = shlex.join(["bellgrad", *words])
        options["seed"] = seed
        place = absolute_root / folder.name
        api.train_or_resume(algorithm, out=place, progress=progress, command=command, **options)
    if not args.quiet:
        say(f"next: bellgrad plot {quoted(root)} --out {quoted(root / 'curves.png')}")


def _draw_table(args: argparse.Namespace, run: Any) -> None:
    """The values and the policy of a tabular run, if its environment can be drawn."""
    from bellgrad import api
    from bellgrad.tabular.common import Tabular

    if isinstance(run.settings.algorithm, Tabular):
        with contextlib.suppress(UsageError):
            for path in api.picture(run):
                if not args.quiet:
                    say(f"drawn: {path}")


def _without(words: Sequence[str], *options: str) -> list[str]:
    """The words of a command without some options and their values."""
    kept, is_value = [], False
    for word in words:
        if not is_value and word.partition("=")[0] not in options:
            kept.append(word)
        is_value = word in options
    return kept


def _algorithm(default: Any, args: argparse.Namespace) -> Any:
    """The algorithm with the parts and the fields that the user gave."""
    words = ["--algo.network", args.network] if args.network else []
    for word in args.algo_flags:
        words += word.split("=", 1) if word.startswith("--") else [word]
    default, words = _with_parts(default, words)
    if not words:
        return default
    import tyro

    wants_help = "--algo.help" in words
    if not wants_help:
        names = _flag_names(default, "--algo")
        for word in words:
            if word.startswith("--") and word.replace("-", "_") not in {
                name.replace("-", "_") for name in names
            }:
                raise unknown(f"hyper-parameter of {args.algo}", word, names)
    # A copy of the class in which optimizer and network have the types of their values, so that their own
    # fields are flags too.
    hints = get_type_hints(type(default))
    kept = {f.name: getattr(default, f.name) for f in _given_by_flags(default)}
    typed = [(name, type(value) if is_dataclass(value) else hints[name]) for name, value in kept.items()]
    copy = make_dataclass(type(default).__name__, typed, namespace={"__doc__": _with_notes(type(default))})
    holder = make_dataclass("Holder", [("algo", copy)])
    chosen = tyro.cli(
        holder,
        prog=f"bellgrad train {args.algo}",
        description=f"Hyper-parameters of {args.algo}.",
        args=["--help"] if wants_help else [_plain_number(word) for word in words],
        default=holder(copy(**kept)),
        use_underscores=True,
        config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
    ).algo
    return replace(default, **{name: getattr(chosen, name) for name in kept})


def _with_parts(default: Any, words: list[str]) -> tuple[Any, list[str]]:
    """The algorithm with the parts that are given by name (network, optimizer, ...), and the other words.

    `--algo.optimizer sgd` takes another optimizer; `--algo.optimizer.momentum 0.9` then changes its field.
    """
    for f in fields(default):
        flag, value = f"--algo.{f.name}", getattr(default, f.name)
        kinds = [kind for kind in PARTS if kind.fits(type(value)) or kind.fits(value)]
        if kinds and flag in words[:-1]:
            place = words.index(flag)
            default = replace(default, **{f.name: kinds[0].make(words[place + 1])})
            words = words[:place] + words[place + 2 :]
    return default, words


def _given_by_flags(node: Any) -> list[Any]:
    """The fields of a dataclass that can be given on the command line; a network's class, for one, cannot."""
    return [f for f in fields(node) if f.init and not isinstance(getattr(node, f.name), type)]


def _with_notes(cls: type) -> str:
    """A docstring in which every field is explained, inherited ones too."""
    from bellgrad.core.docs import field_notes

    summary = " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split())
    return "\n    ".join(
        [summary, "", "Attributes:", *(f"    {name}: {text}" for name, text in field_notes(cls).items())]
    )


def _flag_names(node: Any, prefix: str) -> list[str]:
    """`--algo.gamma`, `--algo.network.hidden` and so on, for every field that can be given on the command
    line."""
    names = []
    for f in _given_by_flags(node):
        value, name = getattr(node, f.name), f"{prefix}.{f.name}"
        names += _flag_names(value, name) if is_dataclass(value) else [name]
    return names


def _plain_number(text: str) -> str:
    """Whole numbers as plain digits (`50k` and `5e4` become `50000`); everything else as it is."""
    with contextlib.suppress(ValueError):
        value = number(text)
        if value == int(value) and not re.fullmatch(r"[+-]?\d+(\.\d+)?", text):
            return str(int(value))
    return text
