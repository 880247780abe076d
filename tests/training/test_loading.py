"""Which files of a checkpoint are read, and how often; and what happens if one of them is damaged."""

import json
import shutil
from collections import Counter

import pytest
from test_resume import TINY_DQN, assert_same_end, train

from bellgrad import api
from bellgrad.core.errors import CheckpointError
from bellgrad.runs import checkpoint as checkpoint_module
from bellgrad.runs import tensor_files


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loading") / "run"
    train(TINY_DQN, "CartPole-v1", 400, folder, checkpoints=4, normalize_obs=True, target_return=1e9)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a finished run, with checkpoints at 200, 300 and 400 steps."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def opened(monkeypatch):
    """How often each file of tensors was opened."""
    counted, open_regular = Counter(), tensor_files.open_regular

    def counting(path):
        counted[path] += 1
        return open_regular(path)

    monkeypatch.setattr(tensor_files, "open_regular", counting)
    return counted


@pytest.fixture
def hashed(monkeypatch):
    """How often each file of tensors was hashed from end to end."""
    counted, verify_file = Counter(), checkpoint_module.verify_file

    def counting(path, *described):
        counted[path] += 1
        verify_file(path, *described)

    monkeypatch.setattr(checkpoint_module, "verify_file", counting)
    return counted


def files_of(run, step, group):
    """The files of a checkpoint in which the tensors of a group lie, from its manifest."""
    folder = run / "checkpoints" / f"step-{step}"
    tensors = json.loads((folder / "manifest.json").read_text())["tensors"]
    files = {file for name, entry in tensors.items() if name.startswith(group) for file in entry["files"]}
    return {folder / file for file in files}


def damage(run, step, group):
    (path,) = files_of(run, step, group)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


USES = {
    "load": api.load,
    "evaluate": lambda run: api.evaluate(run, 2),
    "best": lambda run: api.load(run, "best"),
    "a step": lambda run: api.load(run, 300),
}


@pytest.mark.parametrize("use", USES)
def test_a_policy_is_loaded_without_a_look_at_the_replay(use, run, opened, hashed):
    USES[use](run)
    policy, replay = (
        {file for step in (200, 300, 400) for group in groups for file in files_of(run, step, group)}
        for groups in (("loop/state", "env/transforms"), ("replay",))
    )
    assert not policy & replay
    assert opened.keys() == hashed.keys() <= policy
    assert set(hashed.values()) == {1} and len(hashed) == 2


def test_a_resume_hashes_every_file_of_its_checkpoint_once(run, hashed):
    api.resume(run, 500, progress="off")
    assert hashed.keys() == set((run / "checkpoints" / "step-400").glob("tensors-*"))
    assert set(hashed.values()) == {1}


@pytest.mark.parametrize("group", ["loop/state", "env/transforms"])
def test_a_policy_that_is_damaged_in_the_newest_checkpoint_is_loaded_from_the_one_before(
    group, run, capsys, tmp_path
):
    before = api.load(run, 300)
    damage(run, 400, group)
    agent = api.load(run)
    assert agent.state.steps == before.state.steps == 300
    said = capsys.readouterr().err.strip()
    assert "\n" not in said and "damaged checkpoint ignored" in said and "step-400" in said
    with pytest.raises(CheckpointError, match=r"step-400/tensors-\d+.safetensors is damaged"):
        api.load(run, 400)


def test_a_damaged_replay_does_not_keep_the_policy_from_use_but_a_resume_falls_back(run, trained, capsys):
    damage(run, 400, "replay")
    assert api.load(run).state.steps == 400
    assert capsys.readouterr().err == ""
    api.resume(run, 500, progress="off")
    assert "step-400" in capsys.readouterr().err
    whole = shutil.copytree(trained, run.with_name("whole"))
    api.resume(whole, 500, progress="off")
    assert_same_end(run, whole)
