"""Whether the sources here compute the same bits as those of another commit.

    python benchmarks/same_bits.py --against GIT_REF

A few small runs are trained eagerly on one thread: in one process with the sources of GIT_REF, from a
temporary git worktree, and in another with those here, uncommitted changes included. Compared are the
learner's last state, the returns of an evaluation, and the lines of `metrics.jsonl`, clock readings apart.
Takes half a minute, prints a table, and exits with 1 on any difference.
"""

import argparse
import dataclasses
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import HERE, ROOT, ChildError, ask

# Names of today, and by what an older tree calls the same argument, tensor or metric.
OLD_NAMES = {
    "normalize_obs": "normalise_obs",
    "normalize_reward": "normalise_reward",
    "normalize_advantages": "normalise_advantages",
    "initialization": "initialisation",
}
NEW_NAMES = {old: new for new, old in OLD_NAMES.items()}
CLOCK = ("time", "steps_per_second")  # what may differ in a line of metrics
COMPARED = ("state", "returns", "metrics")


# ---------------------------------------------------------------------------------- in a process of its own
def runs() -> dict[str, tuple[Any, str, int, dict[str, Any]]]:
    """Algorithm, environment, environment steps and further settings of every run, by its title."""
    import bellgrad as bg

    def made(cls: type, **fields: Any) -> Any:
        return cls(**as_spelled(cls, fields))

    network = made(bg.MLP, hidden=(32, 32), activation="relu", initialization="torch")
    replay = {"network": network, "buffer_size": 500, "learning_starts": 200, "batch_size": 32}
    rollout = {"rollout_steps": 64, "epochs": 4, "minibatches": 4}
    frames = {"backend": "gymnasium", "frame_stack": 2}
    normalized = {"normalize_obs": True, "normalize_reward": True}
    lstm = made(bg.LSTM, size=16, hidden=(16,), backprop_steps=8)
    return {
        "DQN, CartPole": (made(bg.DQN, **replay), "CartPole-v1", 1_500, {}),
        "DQN, Gymnasium's CartPole, 2 frames": (made(bg.DQN, **replay), "CartPole-v1", 1_500, frames),
        "SAC, Pendulum": (made(bg.SAC, **replay), "Pendulum-v1", 1_000, {}),
        "PPO, CartPole, normalized": (made(bg.PPO, **rollout), "CartPole-v1", 6_144, normalized),
        "PPO, Pendulum": (made(bg.PPO, normalize_advantages=False, **rollout), "Pendulum-v1", 6_144, {}),
        "PPO, CartPole, LSTM": (made(bg.PPO, network=lstm, **rollout), "CartPole-v1", 4_096, {}),
        "A2C, CartPole": (made(bg.A2C), "CartPole-v1", 6_000, {}),
        "REINFORCE, CartPole": (made(bg.REINFORCE), "CartPole-v1", 5_000, {}),
        "CEM, CartPole": (made(bg.CEM, population=16), "CartPole-v1", 5_000, {}),
        "Q-learning, FrozenLake": (made(bg.QLearning), "FrozenLake-v1", 20_000, {}),
    }


def as_spelled(cls: type, named: dict[str, Any]) -> dict[str, Any]:
    """Arguments by the names that the dataclass `cls` of this tree has for them."""
    fields = {field.name for field in dataclasses.fields(cls)}
    old = {name: OLD_NAMES[name] for name in named if OLD_NAMES.get(name) in fields}
    return {old.get(name, name): value for name, value in named.items()}


def digests(tree: Path) -> dict[str, dict[str, str]]:
    """Train every run with the sources of `tree`; SHA-256 of what is compared, by run.

    Raises:
        SystemExit: another Bellgrad than that of `tree` was imported.
    """
    import bellgrad as bg
    from bellgrad.api import Settings  # whose own module has moved

    if not Path(bg.__file__).resolve().is_relative_to(tree):
        sys.exit(f"imported {bg.__file__}, which is not in {tree}")
    found = {}
    for title, (algorithm, env, steps, options) in runs().items():
        options = {"engine": "eager", "device": "cpu", "checkpoints": 2, "eval_episodes": 2} | options
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            bg.train(algorithm, env, steps, seed=1, out=run, progress="off", **as_spelled(Settings, options))
            returns = bg.evaluate(run, episodes=10, seed=5).returns
            found[title] = {"state": of_state(run), "returns": of_json(returns), "metrics": of_metrics(run)}
    return found


def of_state(run: Path) -> str:
    """SHA-256 of the learner's state in the last checkpoint: names, dtypes, shapes and bytes, by name."""
    from safetensors.torch import load_file

    newest = max((run / "checkpoints").glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
    tensors = load_file(newest / "tensors-00000.safetensors")
    digest = hashlib.sha256()
    for name, tensor in sorted((new_name(name), tensor) for name, tensor in tensors.items()):
        if name.startswith("loop/state/"):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def of_metrics(run: Path) -> str:
    """SHA-256 of the lines of `metrics.jsonl` without clock readings."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return of_json([{new_name(k): value for k, value in line.items() if k not in CLOCK} for line in lines])


def of_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def new_name(name: str) -> str:
    """A tensor's or a metric's name with every word as it is spelled today."""
    return re.sub(r"\w+", lambda word: NEW_NAMES.get(word[0], word[0]), name)


# --------------------------------------------------------------------------------------------- the comparison
@contextmanager
def checked_out(ref: str) -> Iterator[Path]:
    """A temporary worktree of a commit."""
    with tempfile.TemporaryDirectory(prefix="bellgrad-same-bits-") as folder:
        tree = Path(folder).resolve() / "tree"
        git("worktree", "add", "--detach", str(tree), ref)
        try:
            yield tree
        finally:
            git("worktree", "remove", "--force", str(tree))


def git(*words: str) -> None:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"git {words[0]} {words[1]}: {done.stderr.strip().splitlines()[-1]}")


def ask_tree(tree: Path) -> dict[str, dict[str, str]]:
    """The digests of a tree, from a process that imports its sources."""
    command = [sys.executable, str(HERE / "same_bits.py"), "--child", str(tree)]
    try:
        return ask(command, {"PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"})
    except ChildError as error:
        sys.exit(f"{tree}: {error}")


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--against", required=True, metavar="GIT_REF", help="the commit to compare with")
    ref = parser.parse_args().against
    with checked_out(ref) as tree:
        there = ask_tree(tree)
    here = ask_tree(ROOT)
    print(f"| run | {' | '.join(COMPARED)} |\n| --- |{' --- |' * len(COMPARED)}")
    for title, found in here.items():
        verdicts = ["same" if found[what] == there[title][what] else "DIFFERS" for what in COMPARED]
        print(f"| {title} | {' | '.join(verdicts)} |")
    if here != there:
        sys.exit(f"the sources here do not compute what those of {ref} do")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(digests(Path(sys.argv[2]))))
    else:
        main()
