"""Whatever goes wrong while a run trains: one clear line, an exit code, and a last checkpoint that is whole
and can be used."""

import contextlib
import errno
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from test_resume import SMALL, TINY_DQN, TINY_PPO, assert_same_end, damage, train

from bellgrad import api, cli
from bellgrad.algos.dqn import DQN
from bellgrad.algos.sac import SAC
from bellgrad.core.errors import BellgradError, CheckpointError, EnvironmentFault
from bellgrad.envs import worker as worker_module
from bellgrad.ops.optim import SGD
from bellgrad.runs import checkpoint as checkpoint_module
from bellgrad.runs.checkpoint import checkpoints, open_latest
from bellgrad.runs.files import read_json
from bellgrad.training import assembly, plan
from bellgrad.training import session as session_module
from bellgrad.training.off_policy import OffPolicy
from bellgrad.training.run import Run
from bellgrad.training.session import DivergedError, Session

FAULTY = '''
import itertools, os, time
from pathlib import Path
import gymnasium
import numpy as np
from gymnasium import spaces

count = itertools.count()


class Faulty(gymnasium.Env):
    """Random walks of 9 steps. While the file `armed` exists, the second environment made fails at its
    step `at`."""

    observation_space = spaces.Box(-100, 100, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, fault="", armed="", at=45, which=1):
        self.fault, self.armed, self.at = fault, Path(armed), at if next(count) == which else -1
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.left = self.np_random.random(2).astype(np.float32), 9
        return self.place, {}

    def step(self, action):
        self.steps += 1
        self.left -= 1
        self.place = self.place + np.float32(action - 0.5) + self.np_random.random(2).astype(np.float32)
        result = [self.place, float(self.place[0]), self.left == 0, False, {}]
        if self.steps == self.at and self.armed.is_file():
            match self.fault:
                case "raises":
                    raise RuntimeError("the door\\nis stuck")
                case "nan":
                    result[0] = np.array([0, np.nan], np.float32)
                case "shape":
                    result[0] = np.zeros(3, np.float32)
                case "infinite reward":
                    result[1] = float("inf")
                case "dies":
                    os._exit(7)
                case "is killed":
                    os.kill(os.getpid(), 9)
                case "hangs":
                    time.sleep(3600)
        return tuple(result)
'''


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """A function from a fault to the settings of a run that meets it at step 45 of environment 1, and the
    file that arms it."""
    (tmp_path / "faulty.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("faulty", None)
    armed = tmp_path / "armed"
    armed.touch()

    def settings(fault, **more):
        return {
            "num_envs": 2,
            "env_kwargs": {"fault": fault, "armed": str(armed), **more},
            "eval_episodes": 0,
        }

    yield settings, armed
    sys.modules.pop("faulty", None)


STEADY = [
    "dqn",
    "--env",
    "CartPole-v1",
    "--engine",
    "eager",
    "--eval-episodes",
    "1",
    "--max-episode-steps",
    "40",
    "--checkpoints",
    "7",
    "--algo.network.hidden",
    "16",
    "16",
    "--algo.learning_starts",
    "50",
    "--algo.batch_size",
    "8",
    "--algo.update_period",
    "4",
    "--algo.buffer_size",
    "300",
]
# The same from Python; `train` has the other options.
AS_STEADY = replace(TINY_DQN, network=replace(DQN().network, hidden=(16, 16)))


def command(capsys, *words):
    """Run a command in this process: its exit code, and what it wrote on standard error."""
    capsys.readouterr()
    code = cli.main([str(word) for word in words])
    return code, capsys.readouterr().err.strip()


def children():
    """The ids of this process's living children."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name, state, parent = re.fullmatch(
                r"\d+ \((.*)\) (\S) (\d+) .*", (entry / "stat").read_text().strip(), re.S
            ).groups()
            if int(parent) == os.getpid() and state != "Z":
                found.append(f"{entry.name} {name}")
    return set(found)


def assert_fit_for_use(folder):
    """The newest checkpoint is whole, its agent acts, and the folder says how the run ended."""
    _, warnings = open_latest(folder / "checkpoints")
    assert warnings == [] and not list((folder / "checkpoints").glob(".tmp-*"))
    assert api.evaluate(folder, 2).episodes == 2
    assert read_json(folder / "run.json")["status"] == "failed"


# ----------------------------------------------------------------------------------------------- environments
FAILURES = {
    "raises": r"raised RuntimeError: the door is stuck \(.*faulty\.py:\d+\) in step\(\S+\)",
    "nan": r"returned an observation with the value nan at \[1\]",
    "shape": r"returned an observation of shape \(3,\), its space says \(2,\)",
    "infinite reward": r"returned the reward inf",
}


@pytest.mark.parametrize("fault", FAILURES)
def test_an_environment_that_breaks_is_named_with_its_step_and_value(fault, faulty, tmp_path, capsys):
    settings, armed = faulty
    folder = tmp_path / "run"
    words = [
        "train",
        "ppo",
        "--env",
        "faulty:Faulty",
        "--steps",
        256,
        "--out",
        folder,
        "--num-envs",
        2,
        "--quiet",
        "--env-kwargs",
        json.dumps(settings(fault)["env_kwargs"]),
        "--eval-episodes",
        0,
        "--checkpoints",
        4,
        "--engine",
        "eager",
        "--algo.rollout_steps",
        16,
        "--algo.minibatches",
        2,
        "--algo.epochs",
        2,
        "--algo.network.hidden",
        16,
        16,
    ]
    code, said = command(capsys, *words)
    assert code == EnvironmentFault.exit_code != 0
    where = r"at step 45 \(step 9 of episode 4\); the checkpoint of step 64 is whole"
    line = (
        rf"error: environment 1 {FAILURES[fault]}, {where}; go on with: bellgrad resume"
        rf" {re.escape(str(folder))} --trust-imports"
    )
    assert re.fullmatch(line, said)  # no dot matches a line's end
    assert_fit_for_use(folder)

    armed.unlink()  # the environment is repaired
    assert cli.main(["resume", str(folder), "--quiet"]) == 0
    train(
        TINY_PPO,
        "faulty:Faulty",
        256,
        tmp_path / "whole",
        max_episode_steps=None,
        checkpoints=4,
        **settings(fault),
    )
    assert_same_end(folder, tmp_path / "whole")


def test_an_environment_that_breaks_in_an_evaluation_is_told_from_one_that_trains(faulty, tmp_path):
    settings, _ = faulty
    options = settings("nan", at=5, which=3) | {
        "eval_episodes": 2
    }  # the second environment of the first evaluation
    with pytest.raises(EnvironmentFault) as fault:
        train(TINY_PPO, "faulty:Faulty", 256, tmp_path / "run", checkpoints=4, **options)
    assert re.match(
        r"in the evaluation at step 64: environment 1 returned an observation with the value nan",
        str(fault.value),
    )
    assert read_json(tmp_path / "run" / "run.json")["status"] == "failed"


def test_a_fault_before_the_first_checkpoint_says_that_nothing_was_saved(faulty, tmp_path, monkeypatch):
    settings, _ = faulty
    monkeypatch.setattr(Session, "_save", lambda self: None)
    with pytest.raises(EnvironmentFault, match=r"; nothing was saved yet; go on with: bellgrad resume "):
        train(TINY_PPO, "faulty:Faulty", 256, tmp_path / "run", **settings("nan"))


DEATHS = {
    "dies": "the worker process of environment 0 ended with exit code 7",
    "is killed": (
        "the worker process of environment 0 was killed by SIGKILL (the system does that when memory runs"
        " out)"
    ),
    "hangs": "environment 1 hung: no step was finished in 1.5 seconds",
}


@pytest.mark.parametrize("fault", DEATHS)
def test_trap_a_dead_worker_is_named_and_leaves_no_orphans(fault, faulty, tmp_path, monkeypatch):
    settings, armed = faulty
    make_env = assembly.make_env
    monkeypatch.setattr(
        assembly, "make_env", lambda *args, **options: make_env(*args, **options | {"worker_timeout": 1.5})
    )
    # In a process of its own each environment is the first one.
    workers, which = (1, 1) if fault == "hangs" else (2, 0)
    monkeypatch.setattr(worker_module, "processors", lambda: workers)
    before, began = children(), time.monotonic()
    options = settings(fault, which=which)
    with pytest.raises(EnvironmentFault) as raised:
        train(
            TINY_PPO, "faulty:Faulty", 256, tmp_path / "run", backend="subprocess", checkpoints=4, **options
        )
    assert str(raised.value).startswith(DEATHS[fault])
    assert str(raised.value).endswith(
        f"bellgrad resume {tmp_path / 'run'} --trust-imports"
    ) and "\n" not in str(raised.value)
    assert time.monotonic() - began < 60
    assert children() <= before
    armed.unlink()
    assert_fit_for_use(tmp_path / "run")


# ------------------------------------------------------------------------------------------------- divergence
DIVERGING = DQN(
    network=SMALL,
    learning_rate=10.0,
    optimizer=SGD(),
    loss="squared",
    max_grad_norm=None,
    learning_starts=8,
    batch_size=8,
)


def test_a_diverging_loss_stops_the_run_with_its_name_and_step(tmp_path):
    with pytest.raises(DivergedError) as diverged:
        train(DIVERGING, "CartPole-v1", 2_000, tmp_path / "run", checkpoints=2)
    said = re.fullmatch(
        r"(\w+) became (nan|inf|-inf) by step (\d+); a lower learning rate often helps; the checkpoint of"
        r" step 0 is whole; "
        rf"go on with: bellgrad resume {re.escape(str(tmp_path / 'run'))}",
        str(diverged.value),
    )
    assert said[1] in ("loss", "q") and int(said[3]) < 1_000
    assert_fit_for_use(tmp_path / "run")


def test_a_state_that_is_not_finite_is_never_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "LOG_LINES", 1)  # so that no line of the log comes before the checkpoint
    with pytest.raises(
        DivergedError, match=r"(params|target|optimizer)/\S+ became (nan|inf|-inf) by step \d+"
    ):
        train(DIVERGING, "CartPole-v1", 2_000, tmp_path / "run", checkpoints=4, eval_episodes=0)
    state = open_latest(tmp_path / "run" / "checkpoints")[0].tensors("loop/state")
    assert all(tensor.isfinite().all() for tensor in state.values() if tensor.is_floating_point())
    assert_fit_for_use(tmp_path / "run")


def test_an_action_that_is_not_finite_never_reaches_an_environment(tmp_path):
    wild = SAC(network=SMALL, learning_rate=10.0, optimizer=SGD(), learning_starts=8, batch_size=8)
    with pytest.raises(BellgradError, match=r"action that is not finite|became (nan|inf|-inf)") as diverged:
        train(
            wild, "Pendulum-v1", 2_000, tmp_path / "run", backend="gymnasium", checkpoints=2, eval_episodes=0
        )
    assert not isinstance(diverged.value, EnvironmentFault) and "\n" not in str(diverged.value)
    assert "bellgrad resume" in str(diverged.value)
    assert_fit_for_use(tmp_path / "run")


# ------------------------------------------------------------------------------------------------------ disks
@pytest.fixture
def disk(tmp_path):
    """A file system of its own, of 512 KiB, and a function that mounts it again with other options."""
    place = tmp_path / "disk"
    place.mkdir()
    if (
        os.name != "posix"
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=512k", "tiny", place], capture_output=True
        ).returncode
    ):
        pytest.skip("mounting a small disk needs privileges")

    def remount(options):
        subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)

    yield place, remount
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_full_disk_is_one_line_and_the_last_checkpoint_is_whole(disk, tmp_path, capsys):
    place, remount = disk
    folder = place / "run"
    words = [
        "train",
        *STEADY,
        "--algo.buffer_size",
        100_000,
        "--steps",
        4_000,
        "--checkpoints",
        10,
        "--quiet",
        "--out",
        folder,
    ]
    code, said = command(capsys, *words)
    assert code == CheckpointError.exit_code != 0
    assert re.fullmatch(
        rf"error: checkpoint {folder}/checkpoints/step-\d+ was not written: No space left on device; .* is"
        r" intact",
        said,
    )
    assert open_latest(folder / "checkpoints")[1] == []
    assert read_json(folder / "run.json")["status"] in (
        "failed",
        "running",
    )  # on a full disk not even that can be said
    remount("size=64m")
    assert api.evaluate(folder, 2).episodes == 2
    api.resume(folder, progress="off")
    train(
        replace(AS_STEADY, buffer_size=100_000),
        "CartPole-v1",
        4_000,
        tmp_path / "whole",
        checkpoints=10,
        eval_episodes=1,
    )
    assert_same_end(folder, tmp_path / "whole")


@pytest.mark.parametrize("full_at", [6, 9, 10, 11], ids=["state", "replay", "manifest", "checksum"])
def test_a_disk_that_fills_up_inside_a_checkpoint_is_one_line(full_at, tmp_path, monkeypatch):
    """Wherever the disk fills up: each checkpoint of this small run writes six files."""
    written, write_synced = 0, checkpoint_module.write_synced

    def fills_up(path, chunks):
        nonlocal written
        written += 1
        if written > full_at:
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_synced(path, chunks)

    monkeypatch.setattr(checkpoint_module, "write_synced", fills_up)
    with pytest.raises(CheckpointError) as full:
        train(TINY_DQN, "CartPole-v1", 200, tmp_path / "run", checkpoints=2)
    assert re.fullmatch(
        r"checkpoint \S+step-100 was not written: No space left on device; the last checkpoint is intact",
        str(full.value),
    )
    monkeypatch.undo()
    assert_fit_for_use(tmp_path / "run")
    api.resume(tmp_path / "run", progress="off")
    train(TINY_DQN, "CartPole-v1", 200, tmp_path / "whole", checkpoints=2)
    assert_same_end(tmp_path / "run", tmp_path / "whole")


def test_a_read_only_folder_is_one_line(disk, capsys):
    place, remount = disk
    train(TINY_DQN, "CartPole-v1", 200, place / "run", checkpoints=2)
    remount("ro")
    for words in (
        ["resume", place / "run", "--steps", 400],
        ["train", "ppo", "--env", "CartPole-v1", "--steps", 99, "--out", place / "a"],
    ):
        code, said = command(capsys, *words)
        assert code not in (0, None) and "\n" not in said
        assert re.fullmatch(
            rf"error: {place}\S* (cannot be written|could not be made): Read-only file system", said
        )
    remount("rw")
    assert api.resume(place / "run", 400, progress="off").status == "finished"


def test_a_file_in_the_way_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("precious")
    code, said = command(
        capsys, "train", "ppo", "--env", "CartPole-v1", "--steps", 99, "--out", tmp_path / "file" / "run"
    )
    assert code == 2 and said == f"error: {tmp_path / 'file' / 'run'} is not a folder; choose another --out"


def test_a_damaged_run_is_one_line(tmp_path, capsys):
    train(TINY_DQN, "CartPole-v1", 200, tmp_path / "run", checkpoints=2)
    for _, path in checkpoints(tmp_path / "run" / "checkpoints"):
        damage(path)
    for words in (["resume", tmp_path / "run", "--steps", 400], ["evaluate", tmp_path / "run"]):
        code, said = command(capsys, *words)
        assert code == CheckpointError.exit_code and "\n" not in said and said.startswith("error: ")


# ----------------------------------------------------------------------------------------------------- Ctrl-C
class Trainer:
    """`bellgrad train` in a process (and a group) of its own."""

    def __init__(self, folder, *words, **environ):
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bellgrad.cli", "train", *map(str, words), "--out", folder],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environ,
        )

    def wait_for(self, happened):
        deadline = time.monotonic() + 60
        while not happened():
            assert self.process.poll() is None, self.process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def lines(self):
        log = self.folder / "metrics.jsonl"
        return log.read_bytes().count(b"\n") if log.exists() else 0

    def end(self):
        """Exit code and standard error."""
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said.strip()


@pytest.fixture
def start(tmp_path):
    """Starts a `Trainer`, and ends its whole group when the test ends."""
    started = []

    def start(*words, folder=tmp_path / "my run", **environ):
        started.append(Trainer(folder, *words, **environ))
        return started[-1]

    yield start
    for trainer in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(trainer.process.pid, signal.SIGKILL)
        trainer.process.communicate()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_prints_the_command_that_goes_on_exactly(stop, start, tmp_path):
    trainer = start(*STEADY, "--steps", 2_000)
    trainer.wait_for(lambda: trainer.lines() > 20)
    trainer.process.send_signal(stop)
    code, said = trainer.end()
    newest = open_latest(trainer.folder / "checkpoints")[0]
    assert code == 130 and "Traceback" not in said
    assert said.splitlines()[-2] == "stopping and saving; press Ctrl-C again to stop at once"
    resume = f"bellgrad resume {shlex.quote(str(trainer.folder))}"
    assert (
        said.splitlines()[-1]
        == f"stopped; the checkpoint of step {newest.step:,} is whole; go on with: {resume}"
    )
    assert (
        newest.step == newest.values["driver"]["steps"] < 2_000
        and Run.open(trainer.folder).status == "interrupted"
    )

    assert cli.main([*shlex.split(resume)[1:], "--quiet"]) == 0
    train(AS_STEADY, "CartPole-v1", 2_000, tmp_path / "whole", checkpoints=7, eval_episodes=1)
    assert_same_end(trainer.folder, tmp_path / "whole")


def test_a_second_ctrl_c_stops_at_once(start):
    endless = ["--algo.learning_starts", 4, "--algo.batch_size", 8, "--algo.updates_per_period", 200_000]
    trainer = start("dqn", "--env", "CartPole-v1", "--steps", "100m", "--engine", "eager", *endless)
    trainer.wait_for(lambda: trainer.lines() or checkpoints(trainer.folder / "checkpoints"))
    time.sleep(1.5)  # into the first call that learns: it takes minutes, and changes the replay
    trainer.process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        trainer.process.wait(1.5)
    trainer.process.send_signal(signal.SIGINT)
    began = time.monotonic()
    code, said = trainer.end()
    assert time.monotonic() - began < 20
    assert code == 130 and "Traceback" not in said
    resume = f"bellgrad resume {shlex.quote(str(trainer.folder))}"
    assert said.splitlines()[-1] == f"stopped; the checkpoint of step 0 is whole; go on with: {resume}"
    assert not list((trainer.folder / "checkpoints").glob(".tmp-*"))


def test_ctrl_c_that_ends_a_compiler_at_work_is_no_error(tmp_path, monkeypatch):
    """A terminal sends it to the compiler too, whose failure then ends the call under way."""

    def killed(self):
        signal.raise_signal(signal.SIGINT)
        raise RuntimeError("C++ compile error: g++ was interrupted")

    monkeypatch.setattr(OffPolicy, "advance", killed)
    with pytest.raises(
        KeyboardInterrupt,
        match=f"stopped; the checkpoint of step 0 is whole; .* bellgrad resume {tmp_path}/run",
    ):
        train(TINY_DQN, "CartPole-v1", 200, tmp_path / "run")
    assert Run.open(tmp_path / "run").status == "interrupted"


def test_an_error_after_ctrl_c_is_still_told(tmp_path, monkeypatch):
    advance = OffPolicy.advance

    def breaks(self):
        if self.steps < 8:
            return advance(self)
        signal.raise_signal(signal.SIGINT)  # while the replay is changed, so that the call goes on
        raise EnvironmentFault("environment 0 returned the reward inf")

    monkeypatch.setattr(OffPolicy, "advance", breaks)
    with pytest.raises(EnvironmentFault, match="reward inf"):
        train(TINY_DQN, "CartPole-v1", 200, tmp_path / "run")
    assert Run.open(tmp_path / "run").status == "failed"


def test_ctrl_c_ends_worker_processes(start):
    trainer = start(*STEADY, "--backend", "subprocess", "--num-envs", 2, "--steps", "1m", "--quiet")
    trainer.wait_for(lambda: trainer.lines() > 1)
    os.killpg(trainer.process.pid, signal.SIGINT)
    code, said = trainer.end()
    assert code == 130 and said.startswith("stopped; ") and "\n" not in said
    with pytest.raises(ProcessLookupError):  # nothing of the group is left
        os.killpg(trainer.process.pid, 0)


def test_the_terminal_is_left_as_it_was_however_a_run_ends(tmp_path, monkeypatch):
    closed = []

    def breaks(self):
        raise RuntimeError("a bug")

    monkeypatch.setattr(session_module.TrainingProgress, "close", lambda self: closed.append(self))
    monkeypatch.setattr(OffPolicy, "advance", breaks)
    with pytest.raises(RuntimeError, match="a bug"):
        train(TINY_DQN, "CartPole-v1", 200, tmp_path / "run")
    assert len(closed) == 1
