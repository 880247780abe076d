"""Files of MDPs by the end of their names, in Python and on the command line."""

import json

import pytest
from drawn import random_mdp
from test_explicit import expressible
from test_saving import same

import bellgrad as bg
from bellgrad.cli import main
from bellgrad.cli.solve import FILES
from bellgrad.core.errors import UsageError
from bellgrad.mdp import formats
from bellgrad.mdp.prism import read_prism, write_prism

MACHINE = expressible(random_mdp("absorbing", 4, 2, seed=0), per_pair=True)


@pytest.mark.parametrize("suffix", formats.READERS)
def test_an_mdp_is_written_and_read_by_the_end_of_the_name(tmp_path, suffix):
    path = tmp_path / f"machine{suffix.upper()}"
    path = path if suffix != ".tra" else tmp_path / "machine.tra"
    bg.write_mdp(MACHINE, path)
    assert same(bg.read_mdp(path), MACHINE)


def test_the_command_line_knows_the_same_ends():
    assert set(FILES) == formats.READERS.keys() == formats.WRITERS.keys()


def test_an_unknown_end_or_option_is_refused(tmp_path):
    for call in (lambda: bg.read_mdp("x.csv"), lambda: bg.write_mdp(MACHINE, "x.csv")):
        with pytest.raises(UsageError, match=r"x.csv: the name of an MDP's file ends in .drn, .tra"):
            call()
    with pytest.raises(UsageError, match=r"a .drn file has no option 'rewards'; its options are rew"):
        bg.read_mdp("x.drn", rewards="money")
    with pytest.raises(UsageError, match=r"a .pomdp file has no option 'costs'; it has no options"):
        bg.read_mdp("x.pomdp", costs=True)
    with pytest.raises(UsageError, match=r"its options are discount, expected_rewards"):
        bg.write_mdp(MACHINE, "x.mdp", gamma=0.9)


@pytest.mark.parametrize("suffix", formats.WRITERS)
def test_what_is_no_mdp_or_no_path_is_refused(tmp_path, suffix):
    for call in (formats.WRITERS[suffix], bg.write_mdp):
        if suffix != ".safetensors" or call is bg.write_mdp:
            with pytest.raises(UsageError, match=r"a .*FiniteMDP[,;] got (a )?str"):
                call("x", tmp_path / f"x{suffix}")
    for call in (formats.READERS[suffix], lambda path: formats.WRITERS[suffix](MACHINE, path)):
        with pytest.raises(UsageError, match="path = 5 must be the name of a file"):
            call(5)
    assert list(tmp_path.iterdir()) == []


def test_the_end_of_the_name_of_files_of_prism_may_be_left_out(tmp_path):
    write_prism(MACHINE, tmp_path / "machine.v2")
    written = {file.name for file in tmp_path.iterdir()}
    assert written == {f"machine.v2.{suffix}" for suffix in ("tra", "trew", "lab", "sta")}
    assert same(read_prism(tmp_path / "machine.v2"), MACHINE)
    assert same(bg.read_mdp(tmp_path / "machine.v2.tra"), MACHINE)


def solved(capsys, *arguments):
    code = main(["solve", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("suffix", FILES)
def test_a_file_is_solved_on_the_command_line(tmp_path, capsys, suffix):
    path = tmp_path / f"machine{suffix}"
    bg.write_mdp(MACHINE, path)
    code, found = solved(capsys, path, "--gamma", 0.9)
    assert code == 0
    assert found["value"] == pytest.approx(bg.solve(MACHINE, gamma=0.9).value.tolist(), abs=1e-6)


def test_the_discount_of_a_file_is_used_unless_another_is_given(tmp_path, capsys):
    path = tmp_path / "machine.mdp"
    bg.write_mdp(MACHINE, path, discount=0.5)
    assert solved(capsys, path)[1]["gamma"] == 0.5
    assert solved(capsys, path, "--gamma", 0.75)[1]["gamma"] == 0.75
    assert solved(capsys, path, "--horizon", 3)[1]["gamma"] == 1


def test_options_of_a_format_are_given_on_the_command_line(tmp_path, capsys):
    path = tmp_path / "x.drn"
    path.write_text(
        "@type: MDP\n@parameters\n\n@reward_models\nfew many\n@nr_states\n1\n@model\nstate 0 init\n"
        "\taction a [1, 10]\n\t\t0 : 1\n"
    )
    found = solved(capsys, path, "--gamma", 0.5, "--env-kwargs", '{"reward_model": "many", "costs": true}')
    assert found[1]["value"] == pytest.approx([-20])


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("missing.drn", None, "missing.drn cannot be read: there is no such file"),
        ("x.drn", "@type: MDP\n", "there is no @model"),
        ("x.safetensors", "x", "damaged or was not saved by Bellgrad"),
        (
            "x.pomdp",
            "discount: 0.9\nvalues: reward\nstates: 2\nactions: 1\nobservations: 1\nT: * identity\n"
            "O: * uniform\n",
            "partially observable",
        ),
    ],
    ids=["missing", "drn", "saved", "pomdp"],
)
def test_a_file_that_cannot_be_solved_is_one_line(tmp_path, capsys, name, text, words):
    if text is not None:
        (tmp_path / name).write_text(text)
    assert main(["solve", str(tmp_path / name)]) in (2, 4)
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_terminal_values_and_one_mdp_per_step_go_through_solve():
    found = bg.solve([MACHINE] * 3, horizon=3, terminal_value=[1.0, 2.0, 3.0, 4.0])
    assert found.value[3].tolist() == [1, 2, 3, 4] and found.method == "backward_induction"
    with pytest.raises(UsageError, match="has no terminal_value"):
        bg.solve(MACHINE, gamma=0.9, terminal_value=[0.0] * 4)
    with pytest.raises(UsageError, match="one MDP per step needs a horizon"):
        bg.solve([MACHINE] * 3)
