"""Runs that an earlier version left are evaluated, reported on, resumed and loaded, with the same results.

`data/runs/README.md` says which version made them, and how. `expected.json`, beside it, is what it computed
from them.
"""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import bellgrad as bg

RUNS = Path(__file__).parent / "data" / "runs"
EXPECTED = RUNS / "expected.json"


# ------------------------------------------------------ what the earlier version computed, and this one again
def evaluate(folder):
    """The returns of three episodes of the greedy policy."""
    return bg.evaluate(folder, episodes=3, seed=5).returns


def resume(folder, steps):
    """Train on to `steps`; the environment steps reached, and the SHA-256 of the learner's state."""
    bg.resume(folder, steps, progress="off")
    newest = max((folder / "checkpoints").glob("step-*"), key=step_of)
    digest, tensors = hashlib.sha256(), load_file(newest / "tensors-00000.safetensors")
    for name in sorted(tensors):
        if name.startswith("loop/state/"):
            digest.update(name.encode() + tensors[name].numpy().tobytes())
    return step_of(newest), digest.hexdigest()


def step_of(checkpoint):
    return int(checkpoint.name.removeprefix("step-"))


def arithmetic():
    """What the bits depend on besides the code: torch's version, and how it rounds on this processor."""
    x = torch.linspace(-3, 3, 960)
    results = [f(x) for f in (torch.sin, torch.cos, torch.tanh, torch.exp, torch.sigmoid)]
    for rows, inner, columns in ((1, 4, 8), (1, 8, 2), (8, 4, 8), (8, 8, 2), (32, 24, 40)):
        left, right = x[: rows * inner].view(rows, inner), x[-inner * columns :].view(inner, columns)
        results += [left @ right, (left @ right).log_softmax(-1), left.mean(), left.std()]
    bits = b"".join(result.numpy().tobytes() for result in results)
    return {"torch": torch.__version__, "rounding": hashlib.sha256(bits).hexdigest()}


# -------------------------------------------------------------------------------------------------- the tests
@pytest.fixture(params=sorted(path.parent.name for path in RUNS.glob("*/run.json")))
def old(request, tmp_path):
    """A copy of a run, and what is expected of it."""
    folder = shutil.copytree(RUNS / request.param, tmp_path / request.param)
    return folder, json.loads(EXPECTED.read_text())["runs"][request.param]


def compare(found, expected):
    if arithmetic() != json.loads(EXPECTED.read_text())["arithmetic"]:
        pytest.skip("it runs; its results are not compared, since this torch or processor rounds differently")
    assert found == expected


def test_an_old_run_is_evaluated_with_the_same_returns(old):
    folder, expected = old
    returns = evaluate(folder)
    assert len(returns) == 3
    compare(returns, expected["returns"])


def test_an_old_run_is_reported_on(old):
    folder, _ = old
    page = bg.write_report(folder).read_text()
    assert json.loads((folder / "run.json").read_text())["env"] in page


def test_an_old_run_is_resumed_and_learns_the_same_bits(old):
    folder, expected = old
    reached, state = resume(folder, expected["steps"])
    assert reached >= expected["steps"]
    compare(state, expected["state"])


def test_an_old_run_is_loaded_and_acts(old):
    agent = bg.load(old[0])
    agent.observation_space.seed(0)
    for _ in range(2):
        assert agent.act(agent.observation_space.sample()) in agent.action_space
