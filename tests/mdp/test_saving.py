"""MDPs and solutions in files, and as rows and data frames."""

import json
import os
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
from drawn import mdps, random_mdp
from hypothesis import given, settings

from bellgrad.core.errors import CheckpointError, UsageError
from bellgrad.mdp.examples import cliff_walking, corridor
from bellgrad.mdp.finite_horizon import backward_induction
from bellgrad.mdp.model import FiniteMDP
from bellgrad.mdp.solution import Solution
from bellgrad.mdp.solve import solve


def same(one, other) -> bool:
    """Whether all fields are equal, to the bit and the dtype."""

    def equal(a, b):
        if isinstance(a, np.ndarray):
            return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        return type(a) is type(b) and a == b

    return all(equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))


# ------------------------------------------------------------------------------------------------------ files
@given(mdps())
@settings(max_examples=20, deadline=None)
def test_an_mdp_comes_back_to_the_bit(tmp_path_factory, mdp):
    path = tmp_path_factory.mktemp("saved") / "problem.mdp"
    mdp.save(path)
    assert same(FiniteMDP.load(path), mdp)


def test_names_grid_and_limit_come_back(tmp_path):
    mdp = replace(
        random_mdp("sparse", 4, 2, seed=0),
        state_names=("größer", "$5", 'a"b', ""),
        action_names=("←", "→"),
        grid=(2, 2),
        max_episode_steps=7,
    )
    mdp.save(str(tmp_path / "a"))
    assert same(FiniteMDP.load(str(tmp_path / "a")), mdp)
    cliff_walking().save(tmp_path / "b")
    assert same(FiniteMDP.load(tmp_path / "b"), cliff_walking())


@pytest.mark.parametrize(
    "options",
    [
        {"gamma": 0.9},
        {"method": "value_iteration", "gamma": 0.9, "dtype": "float32", "tolerance": 1e-3},
        {"horizon": 3},
        {"criterion": "average"},
    ],
    ids=lambda options: next(iter(options.values())),
)
def test_a_solution_comes_back_to_the_bit(tmp_path, options):
    found = solve(random_mdp("dense", 4, 2, seed=0, illegal=True), **options)
    found.save(tmp_path / "s")
    assert same(Solution.load(tmp_path / "s"), found)
    endless = replace(found, error_bound=float("inf"), value=np.full_like(found.value, np.nan))
    endless.save(tmp_path / "s")
    assert same(Solution.load(tmp_path / "s"), endless)
    assert os.listdir(tmp_path) == ["s"]


def test_a_file_that_was_cut_off_is_refused_at_every_length(tmp_path):
    whole = tmp_path / "whole"
    corridor().save(whole)
    data = whole.read_bytes()
    for length in (0, 1, 7, 8, 9, 50, len(data) // 2, len(data) - 1):
        (tmp_path / "cut").write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="cut is damaged or was not saved by Bellgrad") as caught:
            FiniteMDP.load(tmp_path / "cut")
        assert "\n" not in str(caught.value)


def test_other_files_are_refused_in_one_sentence(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "x"
    arrays = {"value": np.zeros(2)}
    with pytest.raises(CheckpointError, match="x cannot be read: there is no such file"):
        FiniteMDP.load(path)
    with pytest.raises(CheckpointError, match="is not an ordinary file"):
        FiniteMDP.load(tmp_path)
    path.write_text("state,action\n0,1\n")
    with pytest.raises(CheckpointError, match="damaged or was not saved by Bellgrad"):
        FiniteMDP.load(path)
    save_file(arrays, path)
    with pytest.raises(CheckpointError, match="holds something that Bellgrad did not save, not a solution"):
        Solution.load(path)
    solve(corridor(), gamma=0.9).save(path)
    with pytest.raises(CheckpointError, match="holds a bellgrad solution, not a finite MDP"):
        FiniteMDP.load(path)

    def written(version="1", form="solution", **rest):
        header = {"format": f"bellgrad {form}", "version": version, "fields": json.dumps(rest)}
        save_file(arrays, path, header)
        return path

    with pytest.raises(CheckpointError, match=r"has version '2'; this Bellgrad reads up to 1"):
        Solution.load(written("2"))
    with pytest.raises(CheckpointError, match=r"is damaged: .*missing"):
        Solution.load(written())
    with pytest.raises(CheckpointError, match="unknown fields: colour"):
        Solution.load(written(colour=1))
    with pytest.raises(CheckpointError, match="unknown fields: value"):
        FiniteMDP.load(written(form="finite MDP"))


def test_a_damaged_mdp_is_refused_by_its_own_checks(tmp_path):
    from safetensors import safe_open
    from safetensors.numpy import save_file

    path = tmp_path / "x"
    corridor().save(path)
    with safe_open(path, "numpy") as file:
        arrays, header = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    arrays["probability"] = arrays["probability"] * 0.5
    save_file(arrays, path, header)
    with pytest.raises(CheckpointError, match=r"is damaged: state 0 .*: the probabilities sum to 0.5"):
        FiniteMDP.load(path)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    with pytest.raises(CheckpointError, match="could not be written: No such file or directory"):
        corridor().save(tmp_path / "missing" / "x")


# ------------------------------------------------------------------------------------------- rows and frames
NAMED = FiniteMDP.from_rows(
    [
        ("home", "walk", 1.0, "work", -1.0),
        ("home", "drive", 1.0, "work", -2.0),
        ("work", "walk", 1.0, "home", 5.0),
    ]
)


def test_a_solution_is_read_state_by_state():
    rows = solve(NAMED, gamma=0.5).to_rows(NAMED)
    assert list(rows[0]) == [
        "state",
        "value",
        "action",
        "q(walk)",
        "q(drive)",
        "policy(walk)",
        "policy(drive)",
    ]
    assert [row["state"] for row in rows] == ["home", "work"]
    assert rows[0]["value"] == pytest.approx(2.0) and rows[0]["action"] == "walk"
    assert rows[1]["q(drive)"] == -np.inf and rows[1]["policy(drive)"] == 0
    assert all(type(value) in (str, float) for row in rows for value in row.values())


def test_a_solution_is_read_pair_by_pair():
    rows = solve(NAMED, gamma=0.5).to_rows(NAMED, by="pair")
    assert [(row["state"], row["action"]) for row in rows] == [
        ("home", "walk"),
        ("home", "drive"),
        ("work", "walk"),
    ]
    assert [row["policy"] for row in rows] == [1, 0, 1]
    assert [row["q"] for row in rows] == pytest.approx([2, 1, 6])


def test_a_solution_with_a_horizon_is_read_step_by_step():
    found = backward_induction(NAMED, 2, terminal_value=[7.0, 9.0])
    rows = found.to_rows(NAMED)
    assert [(row["step"], row["state"], row["value"]) for row in rows] == [
        (t, state, found.value[t, s]) for t in range(3) for s, state in enumerate(("home", "work"))
    ]
    assert rows[-1]["action"] is None and np.isnan(rows[-1]["q(walk)"])
    assert [row["step"] for row in found.to_rows(NAMED, by="pair")] == [0, 0, 0, 1, 1, 1]


def test_states_without_unique_names_have_numbers_and_an_average_solution_its_bias():
    mdp = replace(random_mdp("dense", 3, 2, seed=0), state_names=("F", "F", "G"))
    found = solve(mdp, criterion="average")
    rows = found.to_rows(mdp)
    assert [row["state"] for row in rows] == [0, 1, 2]
    assert [row["bias"] for row in rows] == found.bias.tolist()
    assert rows == found.to_rows()


def test_a_solution_of_another_mdp_or_an_unknown_table_is_refused():
    found = solve(NAMED, gamma=0.5)
    with pytest.raises(UsageError, match="solution is of 2 states and 2 actions, the MDP has 5 and 2"):
        found.to_rows(corridor())
    with pytest.raises(UsageError, match="by = 'action' must be 'state' or 'pair'"):
        found.to_rows(by="action")


def test_frames_have_the_same_columns_as_rows():
    pandas = pytest.importorskip("pandas")
    found = backward_induction(NAMED, 2)
    frame = found.to_frame(NAMED)
    assert isinstance(frame, pandas.DataFrame)
    assert frame.set_index(["step", "state"]).loc[(0, "home"), "value"] == found.value[0, 0]
    assert list(frame.columns) == list(found.to_rows(NAMED)[0])
    back = FiniteMDP.from_rows(NAMED.to_frame(), initial=NAMED.initial)
    assert same(back, NAMED)


def test_a_missing_pandas_is_said_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    for frame in (NAMED.to_frame, solve(NAMED, gamma=0.5).to_frame):
        with pytest.raises(UsageError, match=r"pip install 'bellgrad\[frames\]'"):
            frame()


def test_pandas_is_not_imported_before_it_is_needed():
    code = (
        "import sys, bellgrad as bg; bg.FiniteMDP; bg.Solution; print('pandas' in sys.modules, 'torch' in"
        " sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "False"]
