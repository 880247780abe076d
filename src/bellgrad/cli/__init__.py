"""The command line over `bellgrad.api`. Nothing slow is imported until a command needs it, so that `--help`
answers at once."""

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bellgrad.cli import check, solve, train
from bellgrad.cli.shared import (
    Parser,
    count,
    json_object,
    number,
    say_next,
    which_checkpoint,
)
from bellgrad.core.errors import BellgradError, UsageError
from bellgrad.core.output import ESCAPED, Forgiving, leads_nowhere, say
from bellgrad.core.signals import SIGNALS
from bellgrad.runs.files import absolute

EPILOG = """examples:
  bellgrad train ppo --env CartPole-v1 --steps 100k
  bellgrad train dqn --env mypackage.envs:MyEnv --steps 50_000 --algo.learning_rate 5e-4
  bellgrad train sac --env Pendulum-v1 --steps 20k --seeds 0-4
  bellgrad evaluate runs/cartpole-v1-ppo-0 --episodes 100
  bellgrad solve FrozenLake-v1 --gamma 0.99 --plot lake.png
"""


def build_parser() -> Parser:
    """Every command but the algorithms' own fields."""
    parser = Parser(
        prog="bellgrad",
        description="Reinforcement learning: solve, train, evaluate, watch and compare.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    parser.commands = commands.choices

    def command(name: str, help_: str, run: Callable[[argparse.Namespace], Any]) -> Parser:
        sub = commands.add_parser(name, help=help_, description=help_, allow_abbrev=False)
        sub.set_defaults(run=run, json=False, exit_code=0)
        return sub

    p = command("list", "list algorithms, solvers, environments and presets", _list)
    kinds = ["algos", "solvers", "envs", "presets"]
    p.add_argument(
        "what",
        nargs="?",
        metavar="KIND",
        choices=kinds,
        help="list only these: algos, solvers, envs or presets",
    )
    p.add_argument("--json", action="store_true", help="one JSON object on standard output")

    train.add_arguments(command("train", "train an agent and leave a run folder", train.run))

    p = command("solve", "solve exactly an environment with known dynamics", solve.run)
    p.add_argument(
        "env",
        help="a Gymnasium id, module:function that gives a FiniteMDP, a file that ends in"
        f" {', '.join(solve.FILES)}, or {', '.join(solve.NAMED)}",
    )
    p.add_argument(
        "--method",
        default="auto",
        help="a solver's name (bellgrad list solvers); auto chooses, and says what",
    )
    p.add_argument(
        "--gamma", type=number, help="the discount, 0 to 1 (default 0.99; with a horizon 1, which is none)"
    )
    criteria = ["discounted", "total", "average"]
    p.add_argument(
        "--criterion",
        choices=criteria,
        help="the reward to maximize (default: the method's own, or discounted)",
    )
    p.add_argument("--horizon", type=count, help="plan for so many steps in place of forever")
    p.add_argument(
        "--tolerance",
        type=number,
        default=1e-6,
        help="greatest distance of a result from the exact value (default 1e-6)",
    )
    p.add_argument("--max-iterations", type=count, help="stop after so many (default: the method's own)")
    p.add_argument(
        "--dtype", choices=["float64", "float32"], default="float64", help="of the values (default float64)"
    )
    p.add_argument(
        "--env-kwargs",
        type=json_object,
        default={},
        metavar="JSON",
        help="arguments for its constructor or function",
    )
    p.add_argument("--plot", type=Path, help="a picture: .png, .svg or .pdf")
    p.add_argument("--animate", type=Path, help="a film of the sweeps: .gif or .mp4")
    p.add_argument("--json", action="store_true", help="one JSON object on standard output")
    p.add_argument("--quiet", action="store_true", help="no progress")
    p.epilog = "The exit code is 1 if the values are not within the tolerance."

    p = command("resume", "continue a run exactly from its last checkpoint", _resume)
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

    p = command("compare", "compare runs, with confidence intervals", _compare)
    p.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders, or folders of seeds")
    p.add_argument("--json", action="store_true", help="one JSON object on standard output")

    p = command("report", "write the run's own page, report.html", _report)
    p.add_argument("run_folder", type=Path, metavar="RUN")

    p = command("export", "the greedy policy as ONNX", _export)
    p.add_argument("run_folder", type=Path, metavar="RUN")
    p.add_argument("--out", type=Path, required=True, help="an .onnx file")
    p.add_argument(
        "--checkpoint", type=which_checkpoint, default="last", help="last, best or the step of one"
    )
    _trust(p)

    check.add_arguments(command("check-env", "check an environment and explain what is wrong", check.run))

    p = command("doctor", "check this installation", _doctor)
    p.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return parser


def _trust(p: Parser) -> None:
    p.add_argument(
        "--trust-imports",
        action="store_true",
        help="let the run's own classes (environment, algorithm, network) be imported",
    )


def _of_run(p: Parser) -> None:
    p.add_argument("run_folder", type=Path, metavar="RUN")
    p.add_argument("--seed", type=count, default=1_000, help="of the episodes (default 1000)")
    p.add_argument(
        "--deterministic", action="store_true", default=True, help="take the greedy action (the default)"
    )
    p.add_argument(
        "--stochastic", dest="deterministic", action="store_false", help="sample the policy's actions instead"
    )
    p.add_argument(
        "--checkpoint", type=which_checkpoint, default="last", help="last, best or the step of one"
    )
    _trust(p)


# ----------------------------------------------------------------- commands; each gives what main is to print
def _list(args: argparse.Namespace) -> Any:
    from bellgrad.core.registry import ALGORITHMS

    there: dict[str, Any] = {}
    if args.what in (None, "algos"):
        there["algos"] = {name: ALGORITHMS.about(name) for name in ALGORITHMS.names()}
    if args.what in (None, "solvers"):
        from bellgrad.mdp.solve import SOLVERS

        there["solvers"] = {name: solver.description for name, solver in SOLVERS.items()}
    if args.what in (None, "presets"):
        from bellgrad.presets import presets

        tuned = {}
        for name in ALGORITHMS.names():
            with contextlib.suppress(UsageError):  # of a package that cannot be imported; `algos` says so
                tuned[name] = presets(name)
        there["presets"] = {
            name: {key: preset.source for key, preset in found.items()}
            for name, found in tuned.items()
            if found
        }
    if args.what in (None, "envs"):
        from bellgrad.envs.names import list_envs

        there["envs"] = list_envs()
    if args.json:
        return there
    lines = []
    for heading, entries in there.items():
        lines.append(f"{heading}:")
        width = max(map(len, entries))
        for name, what in entries.items():
            if isinstance(what, dict):
                lines += [f"  {name}:", *(f"    {key:28s} {value}" for key, value in what.items())]
            else:
                lines.append(
                    f"  {name}: {', '.join(what)}" if isinstance(what, list) else f"  {name:{width}s}  {what}"
                )
    return "\n".join(lines)


def _resume(args: argparse.Namespace) -> None:
    from bellgrad import api

    run = api.resume(
        args.run_folder,
        args.steps,
        trust_imports=args.trust_imports,
        progress="off" if args.quiet else "auto",
    )
    say_next(args, run)


def _evaluate(args: argparse.Namespace) -> Any:
    from bellgrad import api

    result = api.evaluate(args.run_folder, args.episodes, seed=args.seed, deterministic=args.deterministic,
                          checkpoint=args.checkpoint, trust_imports=args.trust_imports)  # fmt: skip
    if args.json:
        return result.to_json()
    lines = [f"return {result.return_mean:.2f} +- {result.return_std:.2f} over {result.episodes} episodes "
             f"of {result.length_mean:.1f} steps"]  # fmt: skip
    if result.capped:
        lines.append(
            f"{result.capped} of them did not end by themselves and were cut: the environment has no time"
            " limit"
        )
    return "\n".join(lines)


def _record(args: argparse.Namespace) -> Any:
    from bellgrad import api

    out = args.out or args.run_folder / "videos" / "agent.mp4"
    return api.record(
        args.run_folder,
        out,
        episodes=args.episodes,
        seed=args.seed,
        deterministic=args.deterministic,
        checkpoint=args.checkpoint,
        trust_imports=args.trust_imports,
    )


def _plot(args: argparse.Namespace) -> Any:
    from bellgrad import api

    return api.plot(args.runs, args.out, key=args.key, statistic=args.statistic)


def _compare(args: argparse.Namespace) -> Any:
    from bellgrad import api

    result = api.compare(args.runs)
    if args.json:
        return result
    from bellgrad.report.training.compare import comparison_table

    return comparison_table(result)


def _report(args: argparse.Namespace) -> Any:
    from bellgrad import api

    return api.write_report(args.run_folder)


def _export(args: argparse.Namespace) -> Any:
    from bellgrad import api

    return api.export(args.run_folder, args.out, checkpoint=args.checkpoint, trust_imports=args.trust_imports)


def _doctor(args: argparse.Namespace) -> Any:
    from bellgrad.report.doctor import examine

    findings = examine()
    return findings if args.json else "\n".join(f"{name:14s} {what}" for name, what in findings.items())


def _show(answer: Any, as_json: bool, out: Any) -> None:
    if out is None:  # closed: nobody waits for the answer
        return
    if as_json:
        print(json.dumps(answer), file=out)
    elif hasattr(answer, "__rich_console__"):
        from rich.console import Console

        Console(file=out).print(answer)
    elif answer is not None:
        print(answer, file=out)
    out.flush()


@contextlib.contextmanager
def _streams(whole_process: bool) -> Iterator[Any]:
    """The stream of the command's answer. All else that is written to standard output, by a library or an
    environment, in Python or in C, in this process or in a worker, goes to standard error; and output that
    fails ends nothing.

    Args:
        whole_process: whether the process is this command's alone.
    """
    out: Any = sys.stdout
    err, own = sys.stderr, None
    if whole_process:
        # Or a file of ours would get the number of a standard stream that is closed.
        while (spare := os.open(os.devnull, os.O_RDWR)) < 3:
            pass
        os.close(spare)
        if sys.__stdout__ is not None and out is sys.__stdout__:
            out.flush()
            out = own = open(os.dup(1), "w", encoding=out.encoding, errors=ESCAPED)  # noqa: SIM115 (below)
            os.dup2(2, 1)
    sys.stderr = Forgiving(err)
    sys.stdout = out  # for the texts of --help
    try:
        yield out
    finally:
        sys.stdout, sys.stderr = sys.__stdout__ if own is not None else out, err
        if own is not None:
            try:
                own.close()
            except OSError:  # it was told already; what is left to write must not fail again
                leads_nowhere(own)


@contextlib.contextmanager
def _signals(whole_process: bool) -> Iterator[None]:
    """Let a signal that asks the process to end do what Ctrl-C does, unless it is ignored, as by nohup; and
    let another one not disturb the end."""
    if not whole_process or threading.current_thread() is not threading.main_thread():
        yield
        return
    for kind in SIGNALS:
        if signal.getsignal(kind) is signal.SIG_DFL:
            signal.signal(kind, signal.default_int_handler)
    try:
        yield
    finally:
        for kind in SIGNALS:
            signal.signal(kind, signal.SIG_IGN)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code.

    Args:
        argv: its words; None if the process is this command's alone, whose words are the process's.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    with _streams(argv is None) as out:
        try:
            with _signals(argv is None):
                return _run(words, out)
        except KeyboardInterrupt as stopped:
            exec("")  # else Python ends itself by SIGINT if an `exec`, as of a dataclass, was interrupted
            say(str(stopped) or "stopped")
            return 130


def _run(words: list[str], out: Any) -> int:
    try:
        flags, rest = _split_algo_flags(words)
        parser = build_parser()
        args, left = parser.parse_known_args(rest)
        if left:
            parser.commands[args.command].refuse(left[0])
        if flags and args.command != "train":
            raise UsageError(f"{flags[0]} is only for bellgrad train")
        args.words, args.algo_flags = words, flags
        absolute(".")  # before a library fails for want of a current folder
        # What a library or an environment prints goes to standard error: standard output holds only the
        # answer.
        with (
            contextlib.redirect_stdout(sys.stderr) if "--algo.help" not in flags else contextlib.nullcontext()
        ):
            answer = args.run(args)
        try:
            _show(answer, args.json, out)
        except BrokenPipeError:  # the reader of our output left, as `head` does
            leads_nowhere(out)
            return 141
        except OSError as error:
            leads_nowhere(out)
            say(f"error: standard output could not be written: {error.strerror or error}")
            return 1
        return int(args.exit_code)
    except BellgradError as error:
        say(f"error: {error}")
        return error.exit_code
    except OSError as error:
        say(f"error: {error.strerror or error}: {error.filename or ''}".rstrip(": "))
        return 1


def _split_algo_flags(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """`--algo.x 1 2` and its values, and all other words."""
    flags: list[str] = []
    rest: list[str] = []
    inside = False
    for word in words:
        if word.startswith("--"):
            inside = word.startswith("--algo.")
        (flags if inside else rest).append(word)
    return flags, rest
