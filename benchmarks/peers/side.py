"""What the peers on torch share: the words on the command line, and the line of JSON that answers them."""

import argparse
import json
from importlib.metadata import version

import torch


def arguments(about: str | None) -> argparse.Namespace:
    """Read the command line, and set torch's threads if it says how many."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--settings", type=json.loads, required=True, help="a row's settings (JSON)")
    parser.add_argument("--warm", type=int, required=True, help="environment steps before the clock starts")
    parser.add_argument("--steps", type=int, required=True, help="environment steps on the clock")
    parser.add_argument("--threads", type=int, help="of torch; torch's default if not given")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    return args


def tell(library: str, steps: int, seconds: float) -> None:
    """Print what was measured."""
    print(json.dumps({
        "library": library,
        "steps_per_second": steps / seconds,
        "steps": steps,
        "seconds": seconds,
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in (library, "torch", "numpy", "gymnasium")},
    }))  # fmt: skip
