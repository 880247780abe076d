"""Compiling on machines where it fails: the run goes on eagerly and says why, or ends with one line."""

import json
import signal

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed

import bellgrad as bg
from bellgrad.core.errors import CompilationError, UsageError
from bellgrad.training import compilation
from bellgrad.training import engine as engine_module
from bellgrad.training.compilation import compiler_fault, find_compiler, first_line
from bellgrad.training.engine import Engine

DQN = bg.DQN(network=bg.MLP(hidden=(8,)), buffer_size=200, learning_starts=20, batch_size=8)
PPO = bg.PPO(network=bg.MLP(hidden=(8,)), rollout_steps=16, minibatches=2)
SAID = """C++ compile error

Command:
g++ x.cpp

Output:
In file x.cpp
x.cpp:1: fatal error: Python.h: No such file"""


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """Makes the only compiler on the path a shell script."""

    def make(script, name="g++"):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/bin")
        monkeypatch.delenv("CXX", raising=False)

    return make


@pytest.fixture
def compiling(monkeypatch):
    """Takes torch's compiler away: the first `works` functions are run as they are, the next ones fail."""

    def make(works, error=None):
        made = []

        def compile_(fn, **options):
            made.append(fn)
            if len(made) <= works:
                return fn

            def fails(*args):
                raise error or RuntimeError(SAID)

            return fails

        monkeypatch.setattr(torch, "compile", compile_)
        monkeypatch.setattr(engine_module, "compiler_available", lambda: True)
        monkeypatch.setattr(engine_module, "COMPILE_FROM_UPDATES", 1)
        return made

    return make


def train(out, algorithm=DQN, engine="auto", steps=80, **options):
    return bg.train(
        algorithm,
        "CartPole-v1",
        steps,
        seed=2,
        out=out,
        engine=engine,
        progress="off",
        checkpoints=2,
        **options,
    )


def state(run):
    return run.checkpoint().tensors("")


def used(run):
    return json.loads((run.folder / "run.json").read_text())["engine_used"]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'g++: error: no licence' >&2; exit 1", "g++ fails: g++: error: no licence"),
        ("echo 'x:1:10: fatal error: Python.h: No such file'; exit 1", "fatal error: Python.h"),
        ("exit 4", "exit code 4"),
    ],
)
def test_a_broken_compiler_is_found_before_a_run_begins(script, said, compiler, monkeypatch, tmp_path):
    compiler(script)
    assert said in str(compiler_fault())
    monkeypatch.setattr(engine_module, "COMPILE_FROM_UPDATES", 1)
    run = train(tmp_path / "auto")
    assert used(run)["mode"] == "eager" and said in used(run)["reason"]
    with pytest.raises(UsageError, match=r"needs a C\+\+ compiler") as refused:
        train(tmp_path / "compiled", engine="compiled")
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_compiler_that_hangs_is_given_up(compiler, monkeypatch):
    compiler("exec sleep 60")
    monkeypatch.setattr(compilation, "PATIENCE", 0.3)
    assert "no answer within" in str(compiler_fault())


def test_the_compiler_is_the_one_that_can_be_named(compiler, monkeypatch, tmp_path):
    compiler("exit 0")
    assert find_compiler() == "g++"
    monkeypatch.setenv("CXX", "/nowhere/g++")
    assert find_compiler() == "g++"
    spaced = tmp_path / "my tools"
    spaced.mkdir()
    (spaced / "c++").write_text("#!/bin/sh\n")
    (spaced / "c++").chmod(0o755)
    monkeypatch.setenv("CXX", str(spaced / "c++"))  # torch cannot name it
    assert find_compiler() == "g++"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_compiler() is None and "no C++ compiler" in str(compiler_fault())


@pytest.mark.parametrize("works", [0, 1])
@pytest.mark.parametrize("algorithm", [DQN, PPO], ids=["dqn", "ppo"])
def test_auto_goes_on_from_the_same_state_whichever_function_fails(
    algorithm, works, compiling, capsys, tmp_path
):
    options = {
        "algorithm": algorithm,
        "backend": "gymnasium",
        "num_envs": 1,
    }  # by parts: several functions are compiled
    plain = train(tmp_path / "eager", engine="eager", **options)
    made = compiling(works)
    run = train(tmp_path / "auto", **options)
    assert len(made) == works + 1  # after the first failure none is tried
    expected, found = state(plain), state(run)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    kept = run.folder / "compiler-said.txt"
    assert used(run)["mode"] == "eager"
    assert used(run)["reason"] == (
        f"eager: compiling failed: x.cpp:1: fatal error: Python.h: No such file (all of it: {kept})"
    )
    assert used(run)["reason"] in capsys.readouterr().err
    assert SAID in kept.read_text()


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), MemoryError("none"), TypeError("x")]
)
def test_any_failure_counts(error, compiling, tmp_path):
    compiling(0, error)
    assert type(error).__name__ in used(train(tmp_path / "run"))["reason"]


def test_compiled_ends_with_one_line_and_can_be_resumed_once_it_works(compiling, tmp_path):
    compiling(0)
    with pytest.raises(CompilationError, match=r"Python\.h.*compiler-said.*--engine eager") as failed:
        train(tmp_path / "run", engine="compiled")
    assert failed.value.exit_code == 2 and "\n" not in str(failed.value)
    compiling(99)
    assert bg.resume(tmp_path / "run", progress="off").status == "finished"


def test_a_run_that_was_compiled_is_resumed_eagerly_if_auto_chose(compiling, monkeypatch, tmp_path):
    compiling(99)
    assert used(train(tmp_path / "run"))["mode"] == "compiled"
    compiling(0)
    run = bg.resume(tmp_path / "run", 160, progress="off")
    assert (run.status, used(run)["mode"]) == ("finished", "eager")


def test_ctrl_c_that_ends_the_compiler_does_not_make_the_run_eager(compiling, monkeypatch, tmp_path):
    compiling(0)

    def interrupted(self, error):
        signal.raise_signal(signal.SIGINT)
        original(self, error)

    original = compilation.Compilation._fail
    monkeypatch.setattr(compilation.Compilation, "_fail", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run")
    assert used(bg.Run.open(tmp_path / "run"))["mode"] == "compiled"


def test_an_error_of_the_function_itself_is_raised_as_it_is(compiling):
    compiling(0)

    def divide(x):
        raise ZeroDivisionError("mine")

    engine = Engine("compiled", 1, 1, "", on_fault=lambda fault: None)
    with pytest.raises(ZeroDivisionError, match="mine"):
        engine.compile(divide)(torch.ones(1))


def test_the_line_that_says_most():
    assert first_line(RuntimeError(SAID)) == "x.cpp:1: fatal error: Python.h: No such file"
    assert first_line(OSError("disk\nmore")) == "OSError: disk"
    wrapped = BackendCompilerFailed(lambda: None, RuntimeError("no compiler\nmore"), None)
    assert first_line(wrapped) == "RuntimeError: no compiler"


def test_a_compiler_that_speaks_another_encoding_is_quoted(compiler):
    compiler("printf '\\377 error: bad\\n' >&2; exit 1")
    assert str(compiler_fault()).endswith("fails: \N{REPLACEMENT CHARACTER} error: bad")


@pytest.mark.compiled
def test_a_folder_for_compiled_code_that_cannot_be_used_is_replaced(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "with space"))
    assert Engine("compiled", 1, 1, "").compile(lambda x: x * 3)(torch.ones(2)).tolist() == [3.0, 3.0]
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/dev/null/nothing")
    assert Engine("compiled", 1, 1, "").compile(lambda x: x * 5)(torch.ones(2)).tolist() == [5.0, 5.0]
