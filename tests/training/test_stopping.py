"""A run that is asked to stop, by whatever signal and at whatever moment, stops soon and loses nothing."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import weakref

import pytest
from test_resume import assert_same_end

from bellgrad.core.signals import SIGNALS
from bellgrad.runs.checkpoint import open_latest
from bellgrad.runs.folder import RunFolder
from bellgrad.runs.metrics import read_metrics
from bellgrad.training.stopping import Stopped, StopRequest

SLOW = '''
import os, time
import gymnasium
import numpy as np


class Slow(gymnasium.Env):
    """Episodes of 7 steps; while the file `armed` is there, steps and resets take time."""

    observation_space = gymnasium.spaces.Box(-10, 10, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, step=0.0, reset=0.0, armed="armed"):
        self.seconds, self.armed = (step, reset), os.path.abspath(armed)

    def wait(self, which):
        if self.seconds[which] and os.path.exists(self.armed):
            time.sleep(self.seconds[which])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.wait(1)
        self.place, self.left = self.np_random.random(2).astype(np.float32), 7
        return self.place, {}

    def step(self, action):
        self.wait(0)
        self.left -= 1
        self.place = np.clip(self.place + np.float32(action - 0.5), -10, 10)
        return self.place, float(self.place[0]), self.left == 0, False, {}


class Swallows(Slow):
    """Catches everything, as careless code does."""

    def step(self, action):
        try:
            self.wait(0)
        except BaseException:
            pass
        seconds, self.seconds = self.seconds, (0, 0)
        result = super().step(action)
        self.seconds = seconds
        return result


class Rows(Slow):
    observation_space = gymnasium.spaces.Discrete(5)

    def reset(self, **options):
        super().reset(**options)
        self.row = 0
        return 0, {}

    def step(self, action):
        _, *rest = super().step(action)
        self.row = (self.row + int(action) + 1) % 5
        return self.row, *rest
'''

RUNS = {
    "ppo": "ppo --env slow:Slow --num-envs 2 --algo.rollout_steps 64 --algo.minibatches 2 --algo.epochs 2",
    "ppo workers": "ppo --env slow:Slow --num-envs 2 --backend subprocess --algo.rollout_steps 64"
    " --algo.minibatches 2 --algo.epochs 2",
    "dqn warm-up": "dqn --env slow:Slow --algo.learning_starts 64 --algo.update_period 64"
    " --algo.batch_size 8 --algo.buffer_size 70",
    "reinforce": "reinforce --env slow:Slow --num-envs 2 --algo.episodes 8 --max-episode-steps 20",
    "cem": "cem --env slow:Slow --algo.population 6 --num-envs 6 --max-episode-steps 20",
    "q_learning": "q_learning --env slow:Rows",
}
CARELESS = "ppo --env slow:Swallows --num-envs 2 --algo.rollout_steps 64 --algo.minibatches 2"
ENVIRON = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "slow.py").write_text(SLOW)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def begin(*words, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "bellgrad", *words],
        env=ENVIRON,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        **{"stderr": subprocess.PIPE, "text": True, "start_new_session": True} | options,
    )


def train(name, out, step, reset=0.0):
    kwargs = json.dumps({"step": step, "reset": reset})
    rest = f"--steps 256 --engine eager --eval-episodes 2 --checkpoints 4 --out {out} --env-kwargs"
    return begin("train", *RUNS[name].split(), *rest.split(), kwargs)


def whole(name, here, step, reset=0.0):
    """The same run, never stopped and without waiting."""
    (here / "armed").unlink(missing_ok=True)
    process = train(name, "whole", step, reset)
    assert process.wait(100) == 0, process.stderr.read()
    return here / "whole"


def until(happened):
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def stop(process, number, group=False, twice=False):
    """Send a signal; the seconds until the process ended, its exit code and its last words."""
    began = time.monotonic()
    for _ in range(1 + twice):
        (os.killpg if group else os.kill)(process.pid, number)
        time.sleep(0.1 if twice else 0)
    said = process.communicate(timeout=60)[1]
    return time.monotonic() - began, process.returncode, said


@pytest.mark.parametrize("name", RUNS)
def test_a_run_in_the_middle_of_a_slow_call_stops_soon_and_goes_on_exactly(name, here):
    (here / "armed").touch()
    process = train(name, "part", 0.3)
    until(lambda: (here / "part/checkpoints/step-0").exists())
    time.sleep(1.5)
    seconds, code, said = stop(process, signal.SIGTERM, group=True, twice=True)
    assert seconds < 5 and code == 130 and "Traceback" not in said
    assert "bellgrad resume part --trust-imports" in said
    assert RunFolder.open("part", env="slow:Slow").status == "interrupted"
    (here / "armed").unlink()
    assert begin("resume", "part", "--trust-imports").wait(100) == 0
    assert_same_end(here / "part", whole(name, here, 0.3))


def test_a_call_in_which_careless_code_caught_the_stop_is_not_used(here, monkeypatch):
    monkeypatch.setitem(RUNS, "careless", CARELESS)
    (here / "armed").touch()
    process = train("careless", "part", 0.03)
    until(lambda: (here / "part/checkpoints/step-0").exists())
    time.sleep(1.5)
    _, code, _ = stop(process, signal.SIGTERM)
    assert code == 130 and open_latest(here / "part/checkpoints")[0].step == 0
    (here / "armed").unlink()
    assert begin("resume", "part", "--trust-imports").wait(100) == 0
    assert_same_end(here / "part", whole("careless", here, 0.03))


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_every_signal_that_asks_for_it_stops_and_saves(number, here):
    (here / "armed").touch()
    process = train("ppo", "part", 0.3)
    until(lambda: (here / "part/checkpoints/step-0").exists())
    seconds, code, said = stop(process, number)
    assert seconds < 5 and code == 130 and "Traceback" not in said
    assert RunFolder.open("part", env="slow:Slow").status == "interrupted"


def test_an_evaluation_that_is_stopped_was_saved_before_and_is_made_on_resuming(here):
    (here / "armed").symlink_to("part/checkpoints/step-128")  # armed as soon as that is saved
    process = train("ppo", "part", 1.0)
    until(lambda: (here / "part/checkpoints/step-128").exists() or (process.poll() is not None))
    time.sleep(0.5)
    seconds, code, _ = stop(process, signal.SIGTERM)
    assert seconds < 5 and code == 130
    (here / "armed").unlink()
    assert begin("resume", "part", "--trust-imports").wait(100) == 0
    evaluated = [row["step"] for row in read_metrics(here / "part") if "eval_return_mean" in row]
    assert evaluated == [128, 256]
    assert open_latest(here / "part/checkpoints")[0].values["unevaluated"] is False
    assert_same_end(here / "part", whole("ppo", here, 1.0))


def test_a_reset_that_takes_long_is_left_before_anything_is_saved(here):
    (here / "armed").touch()
    process = train("ppo", "part", 0.0, reset=30.0)
    until(lambda: (here / "part/run.json").exists())
    time.sleep(1.0)
    seconds, code, said = stop(process, signal.SIGTERM)
    assert seconds < 5 and code == 130 and "nothing was saved yet" in said


def test_a_terminal_that_closes_ends_the_run_but_not_what_it_saves(here):
    (here / "armed").touch()
    read, write = os.pipe()
    kwargs = json.dumps({"step": 0.2})
    words = f"train {RUNS['q_learning']} --steps 256 --out part --env-kwargs".split()
    process = begin(*words, kwargs, stderr=write)
    os.close(write)
    until(lambda: (here / "part/checkpoints/step-0").exists())
    time.sleep(1.0)
    os.close(read)
    process.send_signal(signal.SIGHUP)
    assert process.wait(10) == 130
    assert RunFolder.open("part", env="slow:Slow").status == "interrupted"
    assert open_latest(here / "part/checkpoints")[0].step > 0


def test_nohup_keeps_a_run_alive(here):
    ignored = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); os.execv(sys.executable,"
    ignored += " [sys.executable, '-m', 'bellgrad', *sys.argv[1:]])"
    words = f"train {RUNS['q_learning']} --steps 20 --out part --eval-episodes 0 --env-kwargs".split()
    (here / "armed").touch()
    process = subprocess.Popen(
        [sys.executable, "-c", ignored, *words, '{"step": 0.1}'], env=ENVIRON, stderr=subprocess.PIPE
    )
    until(lambda: (here / "part/checkpoints/step-0").exists())
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_a_request_is_raised_inside_the_block_only_and_a_late_one_at_its_entry():
    stop_request = StopRequest()
    with stop_request.listening():
        with stop_request.at_once():
            pass
        signal.raise_signal(signal.SIGTERM)  # noted
        assert stop_request.asked and not stop_request.cut_short
        with pytest.raises(Stopped), stop_request.at_once():
            raise AssertionError("not reached")
        signal.raise_signal(signal.SIGINT)  # at once after the first: the same request, sent twice
    assert stop_request.cut_short


def test_the_rest_of_a_block_can_still_be_left_after_a_block_inside_it():
    stop_request = StopRequest()
    with stop_request.listening():
        with pytest.raises(Stopped), stop_request.at_once():
            with stop_request.at_once():
                pass
            signal.raise_signal(signal.SIGTERM)
            raise AssertionError("not reached")
        signal.raise_signal(signal.SIGTERM)  # raised once only: what follows is saving


@pytest.mark.parametrize("where", ["a finalizer", "a weak reference"])
def test_a_request_that_comes_where_python_drops_exceptions_is_raised_again(where, capsys):
    class Gone:
        pass

    def drops(*_):
        signal.raise_signal(signal.SIGTERM)

    if where == "a finalizer":
        Gone.__del__ = drops
    gone = Gone()
    reference = weakref.ref(gone, drops) if where == "a weak reference" else None
    before, stop_request = sys.unraisablehook, StopRequest()
    with stop_request.listening(), pytest.raises(Stopped), stop_request.at_once():
        del gone
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            time.sleep(0.01)
    assert time.monotonic() < deadline and sys.unraisablehook is before
    assert capsys.readouterr().err == "" and (reference is None or reference() is None)


COMPILED = {
    "dqn": "dqn --steps 3000 --algo.learning_starts 500 --algo.batch_size 16",
    "ppo": "ppo --steps 8192 --num-envs 2 --algo.rollout_steps 64 --algo.minibatches 2",
}


@pytest.mark.compiled
@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_run_stopped_again_and_again_ends_with_the_same_bits(name, here):
    rest = "--env CartPole-v1 --engine compiled --eval-episodes 2 --checkpoints 4 --out"
    words = [*COMPILED[name].split(), *rest.split()]
    began = time.monotonic()
    assert begin("train", *words, "whole").wait(300) == 0
    longest = time.monotonic() - began
    drawn = random.Random(1)
    process = begin("train", *words, "part")
    until(lambda: (here / "part/checkpoints/step-0").exists())
    for _ in range(5):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(drawn.uniform(0, longest))
        if process.poll() is None:
            stop(process, drawn.choice(SIGNALS), group=drawn.random() < 0.5)
        process = begin("resume", "part")
    process.wait(300)
    assert RunFolder.open("part").status == "finished"
    assert_same_end(here / "part", here / "whole")
