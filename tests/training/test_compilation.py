"""Compiling on machines where it fails: the run goes on eagerly and says why, or ends with one line."""

import json
import signal
import time

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed

import bellgrad as bg
from bellgrad.core.errors import CompilationError, UsageError
from bellgrad.graphs import compiler as compiler_module
from bellgrad.graphs.build import first_line
from bellgrad.graphs.compiler import compiler_fault, find_compiler
from bellgrad.runs.settings import Settings
from bellgrad.training import compilation
from bellgrad.training import engine as engine_module
from bellgrad.training.engine import Engine
from bellgrad.training.session import Session

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
    """Takes the compiler away: the first `works` functions are run as they are, the next ones fail."""

    def make(works, error=None):
        made = []

        class Made:
            ready = True

            def wait(self):
                """There is nothing to wait for."""

            def __init__(self, fn, threads):
                made.append(fn)
                self.fn, self.fails = fn, len(made) > works

            def load(self):
                if self.fails:
                    raise error or RuntimeError(SAID)
                return torch.no_grad()(self.fn)

        monkeypatch.setattr(compilation, "capture", lambda fn, args: fn)
        monkeypatch.setattr(compilation, "Native", Made)
        monkeypatch.setattr(engine_module, "compiler_available", lambda: True)
        monkeypatch.setattr(engine_module, "COMPILE_FROM_UPDATES", 1)
        monkeypatch.setattr(engine_module, "MOST_EAGER_UPDATES", 0)
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
    monkeypatch.setattr(compiler_module, "PATIENCE", 0.3)
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


def test_auto_begins_eagerly_and_switches_at_a_planned_step(compiling, monkeypatch, tmp_path):
    compiling(99)
    monkeypatch.setattr(engine_module, "MOST_EAGER_UPDATES", 9)
    monkeypatch.setattr(engine_module, "EAGER_PART", 2)
    native_from = []
    made = compilation.Native.load

    def load(self):
        native_from.append(session.driver.updates)
        return made(self)

    monkeypatch.setattr(compilation.Native, "load", load)
    run = bg.Run.create(Settings(DQN, "CartPole-v1", 80, 2, engine="auto", checkpoints=2), tmp_path / "run")
    session = Session(run, run.make_env(1))
    session.train()
    assert native_from == [10]  # calls of two updates
    assert used(run)["compiled_from"] == 20 + 9 and run.record["compile_seconds"] >= 0


def test_time_spent_on_compiling_is_a_figure_of_its_own(compiling, monkeypatch, tmp_path):
    compiling(99)
    monkeypatch.setattr(compilation.Native, "ready", False)
    monkeypatch.setattr(compilation.Native, "wait", lambda self: time.sleep(0.7), raising=False)
    run = train(tmp_path / "run")
    assert run.record["compile_seconds"] >= 0.7
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    last = [line for line in map(json.loads, lines) if "time" in line][-1]
    assert last["time"] < 0.7


def test_waiting_for_the_compiler_is_said(compiling, monkeypatch, tmp_path, capsys):
    compiling(99)
    monkeypatch.setattr(compilation.Native, "ready", False)
    monkeypatch.setattr(compilation.Native, "wait", lambda self: None, raising=False)
    bg.train(DQN, "CartPole-v1", 80, seed=2, out=tmp_path / "run")
    said = capsys.readouterr().err
    assert "compiling: once for these networks" in said and "compiled after" in said


@pytest.mark.parametrize("works", [0, 99])
def test_a_checkpoint_before_waiting_is_written_once(works, compiling, monkeypatch, tmp_path):
    compiling(works)
    saved, save = [], Session._save
    monkeypatch.setattr(Session, "_save", lambda self: (saved.append(self.driver.steps), save(self)))
    train(tmp_path / "run")
    assert saved == [0, 20, 40, 80]  # the start, before the first update, two checkpoints


@pytest.mark.compiled
def test_the_way_of_other_devices():
    assert compilation._for_device(lambda x: x * 2)(torch.ones(2)).tolist() == [2.0, 2.0]
    with pytest.raises(CompilationError, match="compiling failed"):
        compilation._for_device(lambda x: x * 2 if x.sum() > 0 else x)(torch.ones(2))


@pytest.mark.compiled
@pytest.mark.parametrize("algorithm", [DQN, PPO], ids=["dqn", "ppo"])
def test_a_cold_and_a_warm_cache_and_a_resumed_run_give_the_same_bits(algorithm, monkeypatch, tmp_path):
    monkeypatch.setattr(engine_module, "COMPILE_FROM_UPDATES", 1)
    monkeypatch.setattr(engine_module, "EAGER_PART", 3)
    monkeypatch.setenv("BELLGRAD_CACHE_DIR", str(tmp_path / "cache"))
    cold = train(tmp_path / "cold", algorithm, steps=160)
    warm = train(tmp_path / "warm", algorithm, steps=160)
    assert used(cold)["mode"] == "compiled" and used(cold)["compiled_from"] > 0
    runs = [warm]
    for stopped_at in (0.4, 1.3):  # of the steps before native code
        over = Session._over

        def interrupted(session, over=over, last=stopped_at):
            if session.driver.steps > last * session.plan.engine.compiled_from:
                signal.raise_signal(signal.SIGINT)
            return over(session)

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(Session, "_over", interrupted)
            train(tmp_path / f"part{stopped_at}", algorithm, steps=160)
        runs.append(bg.resume(tmp_path / f"part{stopped_at}", progress="off"))
    for run in runs:
        assert state(run).keys() == state(cold).keys()
        assert all(torch.equal(tensor, state(cold)[name]) for name, tensor in state(run).items())
