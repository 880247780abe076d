"""The command `check-env`: an environment tried as training would use it."""

import argparse
from dataclasses import asdict
from typing import Any

from bellgrad.cli.shared import Parser
from bellgrad.cli.train import add_setting, add_shorthand
from bellgrad.core.registry import ALGORITHMS
from bellgrad.runs.settings import SHORTHAND

# The settings of a run that say what environment it has.
SETTINGS = (
    "env_kwargs",
    "max_episode_steps",
    "num_envs",
    "backend",
    "worker_timeout",
    "transforms",
    "bins",
    "bin_low",
    "bin_high",
    "tilings",
    "eval_episodes",
    "seed",
)


def add_arguments(p: Parser) -> None:
    """The arguments of the command."""
    p.add_argument("env", help="a Gymnasium id, or module:Class")
    p.add_argument(
        "--algo",
        metavar="NAME",
        help="check for this algorithm too, with its defaults: ppo, or module:Class (default: for any)",
    )
    for name in SETTINGS:
        add_setting(p, name)
    add_shorthand(p)
    p.add_argument("--render", action="store_true", help="check also that it can draw itself, for videos")
    p.add_argument("--json", action="store_true", help="one JSON object on standard output")
    p.epilog = "Give the settings that you will train with: the check builds what bellgrad train builds."


def run(args: argparse.Namespace) -> Any:
    """Run the command."""
    from bellgrad.runs.settings import Settings, expanded
    from bellgrad.training.rehearsal import AnyAlgorithm, check_settings

    algorithm = AnyAlgorithm() if args.algo is None else ALGORITHMS.make(args.algo)
    given = {name: getattr(args, name) for name in (*SETTINGS, *SHORTHAND)}
    given = {name: value for name, value in given.items() if value is not None}
    settings = Settings(algorithm, args.env, steps=100_000, **expanded(given))
    report = check_settings(settings, renders=args.render)
    args.exit_code = 0 if report.ok else 1
    return {"ok": report.ok, **asdict(report)} if args.json else report
