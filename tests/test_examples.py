"""The example scripts run from beginning to end, and leave the pictures that they tell of."""

import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import bellgrad as bg
from bellgrad.envs.make import make_env

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(set(EXAMPLES.glob("*.py")) - {EXAMPLES / "demo.py"})  # `make demo` trains for minutes


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_runs_and_leaves_its_pictures(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)  # as Python does for a script
    runpy.run_path(str(script), run_name="__main__")
    pictures = re.findall(r"Look at (\S+?):?\s", capsys.readouterr().out)
    assert pictures and all(Path(picture).stat().st_size > 2_000 for picture in pictures)


def test_a_run_of_the_own_algorithm_can_be_opened_where_its_file_can_be_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    from own_algorithm import MellowDQN

    algorithm = MellowDQN(learning_starts=32, batch_size=8, network=bg.MLP((8,)))
    options = {"engine": "eager", "progress": "off", "eval_episodes": 0, "checkpoints": 1}
    run = bg.train(algorithm, "CartPole-v1", 64, out=tmp_path / "run", **options)
    monkeypatch.delitem(sys.modules, "own_algorithm")  # as in a new process
    with pytest.raises(bg.UsageError, match="own_algorithm:MellowDQN, which is not part of Bellgrad"):
        bg.evaluate(run.folder)
    assert "own_algorithm" not in sys.modules
    assert bg.evaluate(run.folder, 2, trust_imports=True).episodes == 2


def test_the_mellowmax_lies_between_the_mean_and_the_maximum(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    from own_algorithm import MellowDQN

    env = make_env("CartPole-v1")
    obs = env.reset(0).expand(3, -1)
    for omega, expected in ((1e-4, torch.mean), (1e4, torch.amax)):
        learner = MellowDQN(omega=omega, network=bg.MLP((8,))).build(env.spec)
        state = learner.init(torch.Generator().manual_seed(0))
        batch = SimpleNamespace(next_obs=obs, reward=torch.ones(3), discount=torch.full((3,), 0.5))
        reached = 1 + 0.5 * expected(learner.q(state.target, obs), -1)
        torch.testing.assert_close(learner.target(state, batch), reached, atol=1e-3, rtol=0)
