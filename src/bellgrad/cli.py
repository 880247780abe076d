"""The command line over `bellgrad.api`. Imports nothing heavy until a command needs it, so that `--help` answers at once."""

import argparse
import contextlib
import json
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from bellgrad.core.errors import BellgradError, UsageError

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
        ValueError: it is none of these.
    """
    match = re.fullmatch(r"([+-]?[\d_.]+(?:[eE][+-]?\d+)?)([kKmM]?)", text)
    if not match:
        raise ValueError(f"{text!r} is no number")
    return float(match[1]) * _SUFFIX[match[2].lower()]


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
    return found


def which_checkpoint(text: str) -> str | int:
    """`last`, `best` or a step."""
    return text if text in ("last", "best") else count(text)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line and exits with 2."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help tells more)")


def build_parser() -> argparse.ArgumentParser:
    """Every command but the algorithms' own fields."""
    parser = _Parser(prog="bellgrad", description="Reinforcement learning: train, evaluate, watch and compare agents.",
                     epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)  # fmt: skip
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, help_: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_, description=help_, allow_abbrev=False)
        sub.set_defaults(run=run)
        return sub

    p = command("list", "what there is: algorithms, environments, presets", _list)
    p.add_argument("what", nargs="?", choices=["algos", "envs", "presets"], help="only these")
    p.add_argument("--json", action="store_true", help="one JSON object on standard output")

    p = command("train", "train an agent and leave a run folder", _train)
    p.add_argument("algo", help="the algorithm's name, for example ppo (bellgrad list algos)")
    p.add_argument("--env", help="a Gymnasium id, or module:Class; a preset named after its environment implies it")
    p.add_argument("--steps", type=count, help="environment steps in all; 50_000, 50k and 5e4 are the same")
    p.add_argument("--seed", type=count, default=0, help="of every random stream (default 0)")
    p.add_argument("--seeds", type=seeds, help="several runs one after another, for example 0-4, into one folder")
    p.add_argument("--num-envs", type=count, help="environments that step together")
    p.add_argument("--out", type=Path, help="the run's folder (default: a new one under runs/)")
    p.add_argument("--preset", help="tuned settings by name (bellgrad list presets)")
    p.add_argument("--network", metavar="MODULE:CLASS", help="your own torch.nn.Module class")
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
    p.add_argument("--target-return", type=float, help="stop once an evaluation reaches this")
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


def _trust(p: argparse.ArgumentParser) -> None:
    p.add_argument("--trust-imports", action="store_true", help="let the run's own environment or network class be imported")


def _of_run(p: argparse.ArgumentParser) -> None:
    p.add_argument("run_folder", type=Path, metavar="RUN")
    p.add_argument("--seed", type=count, default=1_000, help="of the episodes (default 1000)")
    p.add_argument("--deterministic", action=argparse.BooleanOptionalAction, default=True, help="the greedy action, or a sample")
    p.add_argument("--stochastic", dest="deterministic", action="store_false", help="the same as --no-deterministic")
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


# ----------------------------------------------------------------------------------------------------- commands
def _list(args: argparse.Namespace) -> None:
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
        print(json.dumps(there))
        return
    for heading, entries in there.items():
        print(f"{heading}:")
        for name, what in entries.items():
            if isinstance(what, dict):
                print(f"  {name}:")
                print("\n".join(f"    {key:28s} {value}" for key, value in what.items()))
            elif isinstance(what, list):
                print(f"  {name}: {', '.join(what)}")
            else:
                print(f"  {name:8s} {what}")


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0].removeprefix("Hyper-parameters of ").rstrip(".")


def _train(args: argparse.Namespace) -> None:
    from bellgrad import api
    from bellgrad.presets import find_preset
    from bellgrad.training.settings import find_algorithm

    cls = find_algorithm(args.algo)
    preset = find_preset(args.algo, args.preset) if args.preset else None
    algorithm = _algorithm(cls, preset.algorithm if preset else cls(), args.algo_flags, args.algo)
    if args.network:
        from dataclasses import replace

        algorithm = replace(algorithm, network=args.network)
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
        run = api.train(algorithm, env, steps, seed=args.seed, out=args.out, progress=progress, command=args.line, **options)
        _say_next(args, run.folder)
        return
    root = args.out or api.default_folder(algorithm, env, "seeds")
    for seed in args.seeds:
        folder = root / f"seed-{seed}"
        command = re.sub(r"--seeds[ =]\S+", f"--seed {seed}", args.line)
        if (folder / "run.json").exists() and api.is_finished(folder):
            print(f"{folder} is finished already", file=sys.stderr)
            continue
        if (folder / "run.json").exists():
            api.resume(folder, progress=progress, env=env)
        else:
            api.train(algorithm, env, steps, seed=seed, out=folder, progress=progress, command=command, **options)
    print(f"next: bellgrad plot {_quoted(root)} --out {_quoted(root / 'curves.png')}", file=sys.stderr)


def _algorithm(cls: type, default: Any, flags: list[str], name: str) -> Any:
    """The algorithm with the fields that the user gave."""
    if not flags:
        return default
    from dataclasses import make_dataclass

    import tyro

    holder = make_dataclass("Fields", [("algo", cls)])
    plain = [_plain_number(flag) for flag in flags]
    if "--algo.help" in plain:
        plain = ["--help"]
    with contextlib.redirect_stdout(sys.stderr) if plain != ["--help"] else contextlib.nullcontext():
        return tyro.cli(
            holder,
            prog=f"bellgrad train {name}",
            description=f"Hyper-parameters of {name}.",
            args=plain,
            default=holder(default),
            use_underscores=True,
            config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
        ).algo


def _plain_number(text: str) -> str:
    """Whole numbers as plain digits (`50k` and `5e4` become `50000`); everything else as it is."""
    with contextlib.suppress(ValueError):
        value = number(text)
        if value == int(value) and not re.fullmatch(r"[+-]?\d+(\.\d+)?", text):
            return str(int(value))
    return text


def _resume(args: argparse.Namespace) -> None:
    from bellgrad import api

    run = api.resume(args.run_folder, args.steps, trust_imports=args.trust_imports, progress="off" if args.quiet else "auto")
    _say_next(args, run.folder)


def _say_next(args: argparse.Namespace, folder: Path) -> None:
    name = _quoted(folder)
    if not args.quiet:
        print(f"next: bellgrad evaluate {name}  |  bellgrad record {name}  |  bellgrad report {name}", file=sys.stderr)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _evaluate(args: argparse.Namespace) -> None:
    from bellgrad import api

    result = api.evaluate(args.run_folder, args.episodes, seed=args.seed, deterministic=args.deterministic,
                          checkpoint=args.checkpoint, trust_imports=args.trust_imports)  # fmt: skip
    if args.json:
        print(json.dumps(result.to_json()))
        return
    print(
        f"return {result.return_mean:.2f} +- {result.return_std:.2f} over {result.episodes} episodes of {result.length_mean:.1f} steps"
    )
    if result.capped:
        print(f"{result.capped} of them never ended by themselves and were cut: the environment has no time limit")


def _record(args: argparse.Namespace) -> None:
    from bellgrad import api

    out = args.out or args.run_folder / "videos" / "agent.mp4"
    api.record(args.run_folder, out, episodes=args.episodes, seed=args.seed, deterministic=args.deterministic,
               checkpoint=args.checkpoint, trust_imports=args.trust_imports)  # fmt: skip
    print(out)


def _plot(args: argparse.Namespace) -> None:
    from bellgrad import api

    print(api.plot(args.runs, args.out, key=args.key, statistic=args.statistic))


def _compare(args: argparse.Namespace) -> None:
    from bellgrad import api

    result = api.compare(args.runs)
    if args.json:
        print(json.dumps(result))
        return
    from rich.console import Console

    from bellgrad.report.compare import comparison_table

    Console().print(comparison_table(result))


def _report(args: argparse.Namespace) -> None:
    from bellgrad import api

    print(api.write_report(args.run_folder))


def _export(args: argparse.Namespace) -> None:
    from bellgrad import api

    print(api.export(args.run_folder, args.out, checkpoint=args.checkpoint, trust_imports=args.trust_imports))


def _check_env(args: argparse.Namespace) -> None:
    from bellgrad.envs.check import check_env

    report = check_env(args.env, env_kwargs=args.env_kwargs)
    print(json.dumps(report.to_json()) if args.json else report)
    if report.errors:
        raise SystemExit(1)


def _doctor(args: argparse.Namespace) -> None:
    from bellgrad.report.doctor import examine

    findings = examine()
    if args.json:
        print(json.dumps(findings))
        return
    for name, what in findings.items():
        print(f"{name:14s} {what}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        flags, rest = _split_algo_flags(words)
        args = build_parser().parse_args(rest)
        args.line, args.algo_flags = shlex.join(["bellgrad", *words]), flags
        if flags and args.command != "train":
            raise UsageError(f"{flags[0]} goes with bellgrad train only")
        args.run(args)
        return 0
    except BellgradError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as stopped:
        print(stopped or "stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141  # the reader of our output left, as `head` does
    except OSError as error:
        print(f"error: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        return 1


def _split_algo_flags(words: list[str]) -> tuple[list[str], list[str]]:
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
