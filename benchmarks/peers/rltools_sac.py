"""One measurement of RLtools' SAC on the pendulum: environment steps a second of learning, as one line of
JSON.

RLtools is C++ templates; its Python package compiles a training loop for the sizes and settings given, with
`-O3 -march=native -ffast-math` and Intel's MKL. The loop runs on RLtools' own C++ pendulum
(`rltools_pendulum/environment.h`), which is Pendulum-v1 with actions in [-1, 1], and no evaluation. Compiling
(cached under the system's temporary folder) is outside the clock. (This file is not called rltools.py, since
it would then import itself.)
"""

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path

from rltools import SAC

# Compiled in; far beyond any measurement, so that the number of steps needs no other build.
STEP_LIMIT = 100_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=json.loads, required=True, help="a row's settings (JSON)")
    parser.add_argument("--warm", type=int, required=True, help="environment steps before the clock starts")
    parser.add_argument("--steps", type=int, required=True, help="environment steps on the clock")
    args = parser.parse_args()
    s = args.settings
    if (
        s["algorithm"] != "sac"
        or s["env"] != "Pendulum-v1"
        or s["num_envs"] != 1
        or len(s["hidden"]) != 2
        or len(set(s["hidden"])) != 1
    ):
        raise SystemExit("this peer measures SAC on one Pendulum-v1 with two equally wide hidden layers")
    width = s["hidden"][0]
    start = time.perf_counter()
    sac = SAC(
        {"path": str(Path(__file__).with_name("rltools_pendulum")), "action_dim": 1, "observation_dim": 3},
        interface_name=f"pendulum_{width}_{s['batch_size']}",
        enable_evaluation=False,
        GAMMA=s["gamma"],
        ACTOR_BATCH_SIZE=s["batch_size"],
        CRITIC_BATCH_SIZE=s["batch_size"],
        ACTOR_POLYAK=1 - s["tau"],
        CRITIC_POLYAK=1 - s["tau"],
        N_WARMUP_STEPS=s["learning_starts"],
        STEP_LIMIT=STEP_LIMIT,
        REPLAY_BUFFER_CAP=s["buffer_size"],
        ACTOR_HIDDEN_DIM=width,
        CRITIC_HIDDEN_DIM=width,
        ALPHA=1.0,
        OPTIMIZER_ALPHA=s["learning_rate"],
    )
    compile_seconds = time.perf_counter() - start
    step = sac.State(s["seed"]).step
    for _ in range(args.warm):
        step()
    start = time.perf_counter()
    for _ in range(args.steps):
        step()
    seconds = time.perf_counter() - start
    print(json.dumps({
        "library": "rltools",
        "environment": "RLtools' own C++ pendulum",
        "steps_per_second": args.steps / seconds,
        "steps": args.steps,
        "seconds": seconds,
        "compile_seconds": compile_seconds,
        "versions": {name: version(name) for name in ("rltools", "mkl")},
    }))  # fmt: skip


if __name__ == "__main__":
    main()
