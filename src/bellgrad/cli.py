"""The command line over `bellgrad.api`. Imports nothing heavy until a command needs it, so that `--help` answers at once."""

import argparse
import contextlib
import json
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from bellgrad.core.errors import BellgradError, UsageError, unknown

EPILOG = """examples:
  bellgrad train ppo --env CartPole-v1 --steps 100k
  bellgrad train dqn --env mypackage.envs:MyEnv --steps 50_000 --algo.learning_rate 5e-4
  bellgrad train sac --env Pendulum-v1 --steps 20k --seeds 0-4
  bellgrad evaluate runs/cartpole-v1-ppo-0 --episodes 100
"""
_SUFFIX = {"": 1, "k": 1_000, "m": 1_000_000}


def number(text: str) -> float:
    """`50_000`, `50k`, `2M` or `1e6`, also negative or with a fraction.

    Raises:
        ValueError: it is none of these, or too large for a number.
    """
    match = re.fullmatch(r"([+-]?[\d_.]+(?:[eE][+-]?\d+)?)([kKmM]?)", text)
    if not match or not math.isfinite(value := float(match[1]) * _SUFFIX[match[2].lower()]):
        raise ValueError(f"{text!r} is no number")
    return value


def count(text: str) -> int:
    """A whole number written as in `number`."""
    try:
        value = number(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number (write 50000, 50_000, 50k or 5e4)") from None
    if value != int(value):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(value)


def seeds(text: str) -> list[int]:
    """`3`, `0-4` or `0,2,5`."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise argparse.ArgumentTypeError(f"{text!r} is no list of seeds (write 0-4 or 0,2,5)")
        found.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
    return list(dict.fromkeys(found))


def which_checkpoint(text: str) -> str | int:
    """`last`, `best` or a step."""
    return text if text in ("last", "best") else count(text)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with the nearest right names.

    Attributes:
        commands: the parser of each command by its name; empty where there are none.
    """

    commands: dict[str, "Parser"]

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """An argument; what takes a number or a path is shown as N or PATH."""
        shown = "PATH" if options.get("type") is Path else "N" if options.get("type") in (count, number) else None
        return super().add_argument(*names, **({"metavar": shown} if shown and names[0].startswith("-") else {}), **options)

    def error(self, message: str) -> NoReturn:
        """Raise a `UsageError` instead of printing the usage."""
        choice = re.fullmatch(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message)
        if choice:
            raise unknown(choice[1].strip("-").lower(), choice[2], re.findall(r"[\w-]+", choice[3]))
        raise UsageError(f"{message} ({self.prog} --help tells more)")

    def refuse(self, word: str) -> NoReturn:
        """Raise a `UsageError` for a word that means nothing here."""
        if word.startswith("--"):
            raise unknown("option", word.partition("=")[0], self._option_string_actions)
        self.error(f"unexpected argument {word!r}")


def build_parser() -> Parser:
    """Every command but the algorithms' own fields."""
    parser = Parser(prog="bellgrad", description="Reinforcement learning: train, evaluate, watch and compare agents.",
                    epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)  # fmt: skip
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    parser.commands = commands.choices

    def command(name: str, help_: str, run: Callable[[argparse.Namespace], Any]) -> Parser:
        sub = commands.add_parser(name, help=help_, description=help_, allow_abbrev=False)
        sub.set_defaults(run=run, json=False, exit_code=0)
        return sub

    p = command("list", "what there is: algorithms, environments, presets", _list)
    p.add_argument(
        "what", nargs="?", metavar="KIND", choices=["algos", "envs", "presets"], help="only these: algos, envs or presets"
    )
    p.add_argument("--json", action="store_true", help="one JSON object on standard output")

    p = command("train", "train an agent and leave a run folder", _train)
    p.add_argument("algo", help="the algorithm's name, for example ppo (bellgrad list algos)")
    p.add_argument("--env", help="a Gymnasium id, or module:Class; a preset named after its environment implies it")
    p.add_argument("--steps", type=count, help="environment steps in all; 50_000, 50k and 5e4 are the same")
    one_or_many = p.add_mutually_exclusive_group()
    one_or_many.add_argument("--seed", type=count, metavar="N", default=0, help="of every random stream (default 0)")
    one_or_many.add_argument(
        "--seeds", type=seeds, metavar="LIST", help="several runs one after another, for example 0-4, into one folder"
    )
    p.add_argument("--num-envs", type=count, help="environments that step together")
    p.add_argument("--out", type=Path, help="the run's folder (default: a new one under runs/)")
    p.add_argument("--preset", help="tuned settings by name (bellgrad list presets)")
    p.add_argument("--network", metavar="KIND", help="mlp, cnn, or module:Class for your own torch.nn.Module")
    p.add_argument(
        "--env-kwargs", type=_json_object, default={}, metavar="JSON", help="arguments for the environment's constructor"
    )
    p.add_argument("--backend", default="auto", help="auto, native, gymnasium or subprocess")
    p.add_argument("--max-episode-steps", type=count, help="replaces the environment's own time limit")
    p.add_argument("--normalise-obs", action="store_true", default=None, help="scale observations by their running statistics")
    p.add_argument(
        "--normalise-reward", action="store_true", default=None, help="scale rewards by those of the discounted return"
    )
    p.add_argument("--frame-stack", type=count, help="the last n observations as one")
    p.add_argument("--engine", default="auto", help="auto, eager or compiled")
    p.add_argument("--device", default="auto", help="auto, cpu or cuda")
    p.add_argument("--checkpoints", type=count, default=10, help="how many in a run (default 10)")
    p.add_argument(
        "--eval-episodes", type=count, default=10, help="episodes of evaluation at each checkpoint; 0 is off (default 10)"
    )
    p.add_argument("--target-return", type=number, help="stop once an evaluation reaches this")
    p.add_argument("--quiet", action="store_true", help="no progress")
    p.epilog = "Every hyper-parameter is a flag --algo.FIELD VALUE, for example --algo.learning_rate 1e-3; " \
               "bellgrad train ALGO --algo.help lists them."  # fmt: skip

    p = command("resume", "go on exactly where a run stopped", _resume)
    p.add_argument("run_folder", type=Path, metavar="RUN")
    p.add_argument("--steps", type=count, help="a new total of environment steps")
    p.add_argument("--quiet", action="store_true", help="no progress")
    _trust(p)

    p = command("evaluate", "whole episodes with the trained agent", _evaluate)
    _of_run(p)
    p.add_argument("--episodes", type=count, default=100, help="how many (default 100)")
    p.add_argument("--json", action="store_true", help="one JSON object on standard output")

    p = command("record", "a video of the trained agent", _record)
    _of_run(p)
    p.add_argument("--out", type=Path, help="an .mp4 file (default: in the run's videos/)")
    p.add_argument("--episodes", type=count, default=1, help="how many (default 1)")

    p = command("plot", "learning curves", _plot)
    p.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders, or folders of seeds")
    p.add_argument("--out", type=Path, required=True, help=".png, .svg or .pdf")
    p.add_argument("--key", default="episode_return_mean", help="which metric (default episode_return_mean)")
    p.add_argument("--statistic", choices=["iqm", "mean"], default="iqm", help="over seeds (default iqm)")

    p = command("compare", "runs against each other, with intervals", _compare)
    p.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders, or folders of seeds")
    p.add_argument("--json", action="store_true", help="one JSON object on standard output")

    p = command("report", "write the run's own page, report.html", _report)
    p.add_argument("run_folder", type=Path, metavar="RUN")

    p = command("export", "the greedy policy as ONNX", _export)
    p.add_argument("run_folder", type=Path, metavar="RUN")
    p.add_argument("--out", type=Path, required=True, help="an .onnx file")
    p.add_argument("--checkpoint", type=which_checkpoint, default="last", help="last, best or a step")
    _trust(p)

    p = command("check-env", "what is wrong with an environment, in plain words", _check_env)
    p.add_argument("env", help="a Gymnasium id, or module:Class")
    p.add_argument("--env-kwargs", type=_json_object, default={}, metavar="JSON", help="arguments for its constructor")
    p.add_argument("--json", action="store_true", help="one JSON object on standard output")

    p = command("doctor", "what is wrong with this installation", _doctor)
    p.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return parser


def _trust(p: Parser) -> None:
    p.add_argument("--trust-imports", action="store_true", help="let the run's own environment or network class be imported")


def _of_run(p: Parser) -> None:
    p.add_argument("run_folder", type=Path, metavar="RUN")
    p.add_argument("--seed", type=count, default=1_000, help="of the episodes (default 1000)")
    p.add_argument("--deterministic", action="store_true", default=True, help="take the greedy action (the default)")
    p.add_argument("--stochastic", dest="deterministic", action="store_false", help="sample the policy's actions instead")
    p.add_argument("--checkpoint", type=which_checkpoint, default="last", help="last, best or a step")
    _trust(p)


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object")
    return value


# ------------------------------------------------------------------------- commands; each gives what main is to print
def _list(args: argparse.Namespace) -> Any:
    from bellgrad.envs.make import list_envs
    from bellgrad.presets import presets
    from bellgrad.training.settings import ALGORITHMS

    there: dict[str, Any] = {}
    if args.what in (None, "algos"):
        there["algos"] = {name: _first_line(cls) for name, cls in ALGORITHMS.items()}
    if args.what in (None, "presets"):
        there["presets"] = {algo: {name: p.source for name, p in presets(algo).items()} for algo in ALGORITHMS}
    if args.what in (None, "envs"):
        there["envs"] = list_envs()
    if args.json:
        return there
    lines = []
    for heading, entries in there.items():
        lines.append(f"{heading}:")
        for name, what in entries.items():
            if isinstance(what, dict):
                lines += [f"  {name}:", *(f"    {key:28s} {value}" for key, value in what.items())]
            else:
                lines.append(f"  {name}: {', '.join(what)}" if isinstance(what, list) else f"  {name:8s} {what}")
    return "\n".join(lines)


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0].removeprefix("Hyper-parameters of ").rstrip(".")


def _train(args: argparse.Namespace) -> None:
    from bellgrad import api
    from bellgrad.presets import find_preset
    from bellgrad.training.settings import find_algorithm

    cls = find_algorithm(args.algo)
    preset = find_preset(args.algo, args.preset) if args.preset else None
    algorithm = _algorithm(preset.algorithm if preset else cls(), args)
    env = args.env or (args.preset if preset and "-v" in args.preset else None)
    if env is None:
        raise UsageError("train needs --env: a Gymnasium id, or module:Class (bellgrad list envs)")
    steps = args.steps if args.steps is not None else preset.steps if preset else None
    if steps is None:
        raise UsageError("train needs --steps: environment steps in all, for example --steps 100k")
    options = {name: getattr(args, name) for name in ("num_envs", "normalise_obs", "normalise_reward", "frame_stack")}
    options = {name: getattr(preset, name) if value is None and preset else value for name, value in options.items()}
    options = {name: value for name, value in options.items() if value is not None}
    for name in (
        "env_kwargs",
        "backend",
        "max_episode_steps",
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
        run = api.train(algorithm, env, steps, seed=args.seed, out=args.out, progress=progress, command=command, **options)
        _say_next(args, run)
        return
    root = args.out or api.default_folder(algorithm, env, "seeds")
    if (root / "run.json").exists():
        raise UsageError(f"{root} is a run itself; choose another --out for several seeds")
    for seed in args.seeds:
        folder = root / f"seed-{seed}"
        words = [*_without(args.words, "--seeds", "--out"), "--seed", str(seed), "--out", str(folder)]
        command = shlex.join(["bellgrad", *words])
        api.train_or_resume(algorithm, env, steps, seed=seed, out=folder, progress=progress, command=command, **options)
    if not args.quiet:
        print(f"next: bellgrad plot {_quoted(root)} --out {_quoted(root / 'curves.png')}", file=sys.stderr)


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
        _see_current_folder()
        default = replace(default, network=KINDS[args.network]() if args.network in KINDS else args.network)
    if not args.algo_flags:
        return default
    import tyro

    words = [part for word in args.algo_flags for part in (word.split("=", 1) if word.startswith("--") else [word])]
    wants_help = "--algo.help" in words
    if not wants_help:
        names = _flag_names(default, "--algo")
        for word in words:
            if word.startswith("--") and word.replace("-", "_") not in {name.replace("-", "_") for name in names}:
                raise unknown(f"hyper-parameter of {args.algo}", word, names)
    # A copy of the class in which optimizer and network have the types of their values, so that their own fields are flags too.
    hints = get_type_hints(type(default))
    kept = {f.name: getattr(default, f.name) for f in fields(default)}
    typed = [(name, type(value) if is_dataclass(value) else hints[name]) for name, value in kept.items()]
    copy = make_dataclass(type(default).__name__, typed, namespace={"__doc__": type(default).__doc__})
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


def _flag_names(node: Any, prefix: str) -> list[str]:
    """`--algo.gamma`, `--algo.network.hidden` and so on, for every field that can be given on the command line."""
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


def _see_current_folder() -> None:
    """Let a user's own module in the current folder be imported, as `python -m` does; a console script does not see it."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())


def _resume(args: argparse.Namespace) -> None:
    from bellgrad import api

    run = api.resume(args.run_folder, args.steps, trust_imports=args.trust_imports, progress="off" if args.quiet else "auto")
    _say_next(args, run)


def _say_next(args: argparse.Namespace, run: Any) -> None:
    if args.quiet:
        return
    name, trust = _quoted(run.folder), run.trust_flag()
    print(f"next: bellgrad evaluate {name}{trust}  |  bellgrad record {name}{trust}  |  bellgrad report {name}", file=sys.stderr)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _evaluate(args: argparse.Namespace) -> Any:
    from bellgrad import api

    result = api.evaluate(args.run_folder, args.episodes, seed=args.seed, deterministic=args.deterministic,
                          checkpoint=args.checkpoint, trust_imports=args.trust_imports)  # fmt: skip
    if args.json:
        return result.to_json()
    lines = [f"return {result.return_mean:.2f} +- {result.return_std:.2f} over {result.episodes} episodes "
             f"of {result.length_mean:.1f} steps"]  # fmt: skip
    if result.capped:
        lines.append(f"{result.capped} of them never ended by themselves and were cut: the environment has no time limit")
    return "\n".join(lines)


def _record(args: argparse.Namespace) -> Any:
    from bellgrad import api

    out = args.out or args.run_folder / "videos" / "agent.mp4"
    return api.record(args.run_folder, out, episodes=args.episodes, seed=args.seed, deterministic=args.deterministic,
                      checkpoint=args.checkpoint, trust_imports=args.trust_imports)  # fmt: skip


def _plot(args: argparse.Namespace) -> Any:
    from bellgrad import api

    return api.plot(args.runs, args.out, key=args.key, statistic=args.statistic)


def _compare(args: argparse.Namespace) -> Any:
    from bellgrad import api

    result = api.compare(args.runs)
    if args.json:
        return result
    from bellgrad.report.compare import comparison_table

    return comparison_table(result)


def _report(args: argparse.Namespace) -> Any:
    from bellgrad import api

    return api.write_report(args.run_folder)


def _export(args: argparse.Namespace) -> Any:
    from bellgrad import api

    return api.export(args.run_folder, args.out, checkpoint=args.checkpoint, trust_imports=args.trust_imports)


def _check_env(args: argparse.Namespace) -> Any:
    from dataclasses import asdict

    from bellgrad.envs.check import check_env

    report = check_env(args.env, env_kwargs=args.env_kwargs)
    args.exit_code = 0 if report.ok else 1
    return {"ok": report.ok, **asdict(report)} if args.json else report


def _doctor(args: argparse.Namespace) -> Any:
    from bellgrad.report.doctor import examine

    findings = examine()
    return findings if args.json else "\n".join(f"{name:14s} {what}" for name, what in findings.items())


def _show(answer: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer), flush=True)
    elif hasattr(answer, "__rich_console__"):
        from rich.console import Console

        Console().print(answer)
    elif answer is not None:
        print(answer, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        flags, rest = _split_algo_flags(words)
        parser = build_parser()
        args, left = parser.parse_known_args(rest)
        if left:
            parser.commands[args.command].refuse(left[0])
        if flags and args.command != "train":
            raise UsageError(f"{flags[0]} goes with bellgrad train only")
        args.words, args.algo_flags = words, flags
        if getattr(args, "trust_imports", False):
            _see_current_folder()
        # Whatever a library or an environment prints goes to standard error: standard output holds the answer and nothing else.
        with contextlib.redirect_stdout(sys.stderr) if "--algo.help" not in flags else contextlib.nullcontext():
            answer = args.run(args)
        _show(answer, args.json)
        return args.exit_code
    except BellgradError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as stopped:
        print(str(stopped) or "stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output left, as `head` does; nothing more can be flushed to it
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        print(f"error: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        return 1


def _split_algo_flags(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """`--algo.x 1 2` and its values apart from everything else."""
    flags: list[str] = []
    rest: list[str] = []
    inside = False
    for word in words:
        if word.startswith("--"):
            inside = word.startswith("--algo.")
        (flags if inside else rest).append(word)
    return flags, rest


if __name__ == "__main__":
    sys.exit(main())
