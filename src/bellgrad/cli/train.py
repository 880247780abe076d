"""The command `train`: from flags to an algorithm with its hyper-parameters, and one run or several."""

import argparse
import contextlib
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from bellgrad.cli.shared import number, quoted, say_next, see_current_folder
from bellgrad.core.errors import UsageError, unknown


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from bellgrad import api
    from bellgrad.presets import find_preset
    from bellgrad.runs.settings import find_algorithm

    cls = find_algorithm(args.algo)
    preset = find_preset(args.algo, args.preset) if args.preset else None
    algorithm = _algorithm(preset.algorithm if preset else cls(), args)
    env = args.env or (args.preset if preset and "-v" in args.preset else None)
    if env is None:
        raise UsageError("train needs --env: a Gymnasium id, or module:Class (bellgrad list envs)")
    steps = args.steps if args.steps is not None else preset.steps if preset else None
    if steps is None:
        raise UsageError("train needs --steps: environment steps in all, for example --steps 100k")
    options = {
        name: getattr(args, name) for name in ("num_envs", "normalize_obs", "normalize_reward", "frame_stack")
    }
    options = {
        name: getattr(preset, name) if value is None and preset else value for name, value in options.items()
    }
    options = {name: value for name, value in options.items() if value is not None}
    for name in (
        "env_kwargs",
        "backend",
        "max_episode_steps",
        "bins",
        "bin_low",
        "bin_high",
        "tilings",
        "engine",
        "device",
        "checkpoints",
        "eval_episodes",
        "target_return",
    ):
        options[name] = getattr(args, name)
    progress = "off" if args.quiet else "auto"
    if args.seeds is None:
        command = shlex.join(["bellgrad", *args.words])
        made = api.train(
            algorithm, env, steps, seed=args.seed, out=args.out, progress=progress, command=command, **options
        )
        _draw_table(args, made)
        say_next(args, made)
        return
    root = args.out or api.default_folder(algorithm, env, "seeds")
    if (root / "run.json").exists():
        raise UsageError(f"{root} is a run itself; choose another --out for several seeds")
    for seed in args.seeds:
        folder = root / f"seed-{seed}"
        words = [*_without(args.words, "--seeds", "--out"), "--seed", str(seed), "--out", str(folder)]
        command = shlex.join(["bellgrad", *words])
        api.train_or_resume(
            algorithm, env, steps, seed=seed, out=folder, progress=progress, command=command, **options
        )
    if not args.quiet:
        print(f"next: bellgrad plot {quoted(root)} --out {quoted(root / 'curves.png')}", file=sys.stderr)


def _draw_table(args: argparse.Namespace, run: Any) -> None:
    """The values and the policy of a tabular run, where there is a world to draw them in."""
    from bellgrad import api
    from bellgrad.tabular.common import Tabular

    if isinstance(run.settings.algorithm, Tabular):
        with contextlib.suppress(UsageError):
            for path in api.picture(run):
                if not args.quiet:
                    print(f"drawn: {path}", file=sys.stderr)


def _without(words: Sequence[str], *options: str) -> list[str]:
    """The words of a command without some options and their values."""
    kept, is_value = [], False
    for word in words:
        if not is_value and word.partition("=")[0] not in options:
            kept.append(word)
        is_value = word in options
    return kept


def _algorithm(default: Any, args: argparse.Namespace) -> Any:
    """The algorithm with the network and the fields that the user gave."""
    from dataclasses import fields, is_dataclass, make_dataclass, replace
    from typing import get_type_hints

    if args.network:
        from bellgrad.nets.specs import KINDS

        if args.network not in KINDS and ":" not in args.network:
            raise unknown("network", args.network, [*KINDS, "module:Class"])
        see_current_folder()
        default = replace(default, network=KINDS[args.network]() if args.network in KINDS else args.network)
    if not args.algo_flags:
        return default
    import tyro

    words = [
        part for word in args.algo_flags for part in (word.split("=", 1) if word.startswith("--") else [word])
    ]
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
    kept = {f.name: getattr(default, f.name) for f in fields(default)}
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
    return type(default)(**{name: getattr(chosen, name) for name in kept})


def _with_notes(cls: type) -> str:
    """A docstring in which every field is explained, inherited ones too."""
    from bellgrad.core.docs import field_notes

    summary = (cls.__doc__ or "").strip().splitlines()[0]
    return "\n    ".join(
        [summary, "", "Attributes:", *(f"    {name}: {text}" for name, text in field_notes(cls).items())]
    )


def _flag_names(node: Any, prefix: str) -> list[str]:
    """`--algo.gamma`, `--algo.network.hidden` and so on, for every field that can be given on the command
    line."""
    from dataclasses import fields, is_dataclass

    names = []
    for f in fields(node):
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
