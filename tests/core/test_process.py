"""What the user's process has set globally neither changes a run nor is changed by it."""

import hashlib
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from contextlib import ExitStack, contextmanager

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv

import bellgrad as bg
from bellgrad.core.errors import UsageError
from bellgrad.core.process import OwnSettings, in_own_settings_if_needed
from bellgrad.mdp.examples import garnet

SMALL = bg.MLP(hidden=(8,))
ALGORITHMS = {
    "dqn": (bg.DQN(network=SMALL, buffer_size=200, learning_starts=20, batch_size=8), "CartPole-v1"),
    "ppo": (bg.PPO(network=SMALL, rollout_steps=16, minibatches=2), "CartPole-v1"),
    "sac": (bg.SAC(network=SMALL, buffer_size=200, learning_starts=20, batch_size=8), "Pendulum-v1"),
    "trpo": (bg.TRPO(rollout_steps=16), "CartPole-v1"),
    "cem": (bg.CEM(population=4), "CartPole-v1"),
    "q_learning": (bg.QLearning(), "FrozenLake-v1"),
}


def results(folder, name="ppo", env=None, **options):
    """What a run of this seed gives: a digest of every tensor of its state, returns, actions."""
    algorithm, known = ALGORITHMS[name]
    options = {"steps": 128, "seed": 3, "progress": "off", "engine": "eager", "checkpoints": 1} | options
    run = bg.train(algorithm, env or known, out=folder, **options)
    learned = bg.load(run, env=env)
    space = learned.observation_space
    obs = 3 if name == "q_learning" else np.full(space.shape, 0.1, np.float32)
    actions = [np.asarray(learned.act(obs, deterministic)).tolist() for deterministic in (True, False)]
    digest = hashlib.sha256()
    with OwnSettings():
        state = run.checkpoint().tensors("loop/state")
        for key in sorted(state):
            digest.update(f"{key} {state[key].dtype}".encode() + state[key].numpy().tobytes())
    return digest.hexdigest(), bg.evaluate(run, 2, env=env).returns, actions


@contextmanager
def put_back():
    """Whatever is set inside is as before afterwards."""
    dtype, threads, filters = torch.get_default_dtype(), torch.get_num_threads(), warnings.filters[:]
    grad, numpy_errors = torch.is_grad_enabled(), np.geterr()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_default_device(None)
        torch.set_num_threads(threads)
        torch.set_grad_enabled(grad)
        torch.autograd.set_detect_anomaly(False)
        torch.use_deterministic_algorithms(False)
        np.seterr(**numpy_errors)
        warnings.filters[:] = filters


SET = {
    "float64": lambda stack: torch.set_default_dtype(torch.float64),
    "bfloat16": lambda stack: torch.set_default_dtype(torch.bfloat16),
    "meta device": lambda stack: torch.set_default_device("meta"),
    "with meta device": lambda stack: stack.enter_context(torch.device("meta")),
    "a device that is not there": lambda stack: torch.set_default_device("xpu"),
    "no grad": lambda stack: torch.set_grad_enabled(False),
    "inference mode": lambda stack: stack.enter_context(torch.inference_mode()),
    "autocast": lambda stack: stack.enter_context(torch.autocast("cpu", dtype=torch.bfloat16)),
    "anomalies": lambda stack: torch.autograd.set_detect_anomaly(True),
    "deterministic": lambda stack: torch.use_deterministic_algorithms(True),
    "NumPy's errors raised": lambda stack: np.seterr(all="raise"),
    "warnings are errors": lambda stack: warnings.simplefilter("error"),
    "seeds": lambda stack: (torch.manual_seed(7), np.random.seed(7), random.seed(7)),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return {name: results(tmp_path_factory.mktemp("plain") / "run", name) for name in ALGORITHMS}


@pytest.mark.parametrize("what", SET)
@pytest.mark.parametrize("name", ["ppo", "trpo", "sac", "q_learning"])
def test_global_settings_do_not_change_the_bits(what, name, plain, tmp_path):
    with put_back(), ExitStack() as stack:
        SET[what](stack)
        assert results(tmp_path / "run", name) == plain[name]


@pytest.mark.parametrize("name", ["dqn", "cem"])
@pytest.mark.parametrize("what", ["float64", "meta device", "inference mode"])
def test_nor_those_of_the_other_drivers(what, name, plain, tmp_path):
    test_global_settings_do_not_change_the_bits(what, name, plain, tmp_path)


def snapshot():
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "modes": torch._C._len_torch_function_stack(),
        "threads": torch.get_num_threads(),
        "grad": (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
        ),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "random": (torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())),
        "errors": np.geterr(),
        "filters": warnings.filters[:],
        "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
        "logging": (logging.root.level, logging.root.manager.disable, logging.root.handlers[:]),
        "environment": dict(os.environ),
        "place": (os.getcwd(), sys.path[:]),
        "output": (sys.stdout, sys.stderr),
    }


def differences(before):
    after = snapshot()
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}


def test_every_public_function_leaves_the_process_as_it_was(tmp_path):
    results(tmp_path / "first")  # whatever is imported has been
    with put_back():
        torch.set_num_threads(3)
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("cpu")
        warnings.simplefilter("error")
        made = {}
        calls = {
            "train": lambda: made.update(
                run=bg.train(*ALGORITHMS["ppo"], 128, out=tmp_path / "run", progress="off", engine="eager")
            ),
            "resume": lambda: bg.resume(made["run"], 256, progress="off"),
            "evaluate": lambda: bg.evaluate(made["run"], 2),
            "load": lambda: made.update(agent=bg.load(made["run"])),
            "act": lambda: made["agent"].act(np.zeros(4, np.float32)),
            "plot": lambda: bg.plot(made["run"], tmp_path / "curve.png"),
            "compare": lambda: bg.compare([made["run"], tmp_path / "first"]),
            "write_report": lambda: bg.write_report(made["run"]),
            "solve": lambda: bg.solve(garnet(20, 2, 3, seed=0), gamma=0.9),
        }
        for name, call in calls.items():
            before = snapshot()
            call()
            assert not differences(before), name


class Breaks(CartPoleEnv):
    """Changes what it can, then breaks."""

    def step(self, action):
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.set_num_threads(4)
        raise RuntimeError("broken")


def test_a_call_that_fails_leaves_the_process_as_it_was_too(tmp_path):
    with put_back():
        torch.set_num_threads(2)
        before = snapshot()
        with pytest.raises(bg.EnvironmentFault, match="broken"):
            bg.train(*ALGORITHMS["ppo"][:1], Breaks, 128, out=tmp_path / "run", progress="off")
        changed = differences(before)
        assert not changed
        with pytest.raises(UsageError):
            bg.evaluate(tmp_path / "nothing")
        assert not differences(before)


class Meddles(gymnasium.Wrapper):
    """Sets torch's default dtype when it is made and in every reset, as a simulator on torch may."""

    def __init__(self):
        super().__init__(gymnasium.make("CartPole-v1"))
        torch.set_default_dtype(torch.float64)

    def reset(self, **given):
        torch.set_default_dtype(torch.float64)
        return super().reset(**given)


class Leaves(gymnasium.Wrapper):
    def __init__(self):
        super().__init__(gymnasium.make("CartPole-v1"))


@pytest.mark.parametrize("name", ["ppo", "dqn"])
def test_an_environment_that_sets_the_dtype_changes_nothing(name, tmp_path):
    with put_back():
        assert results(tmp_path / "a", name, Meddles) == results(tmp_path / "b", name, Leaves)
        assert torch.get_default_dtype() is torch.float32


# --------------------------------------------------------------------------------------------------- threads
def in_threads(count, work):
    found, failed = {}, []

    def one(k):
        try:
            found[k] = work(k)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(k,)) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    return [found[k] for k in range(count)]


def test_trainings_in_threads_give_what_a_lone_one_gives(plain, tmp_path):
    stop = threading.Event()

    def other_work():  # of the user's, with the global generator
        while not stop.is_set():
            torch.manual_seed(1)
            torch.rand(10)

    other = threading.Thread(target=other_work)
    other.start()
    try:
        names = ["dqn", "dqn", "ppo", "dqn", "sac", "dqn"]
        found = in_threads(len(names), lambda k: results(tmp_path / str(k), names[k]))
    finally:
        stop.set()
        other.join()
    assert found == [plain[name] for name in names]


def test_the_default_dtype_comes_back_after_the_last_of_several_threads():
    first, second = threading.Event(), threading.Event()

    def enter_first():
        with OwnSettings():
            first.set()
            assert second.wait(10)

    def enter_second():
        assert first.wait(10)
        with OwnSettings():
            second.set()
            thread.join()  # the first has left
            assert torch.get_default_dtype() is torch.float32

    with put_back():
        torch.set_default_dtype(torch.float64)
        thread = threading.Thread(target=enter_first)
        thread.start()
        enter_second()
        assert torch.get_default_dtype() is torch.float64


# ----------------------------------------------------------------------------------------------------- forks
FORKED = """
import os, signal, sys, tempfile
import numpy as np, torch
import bellgrad as bg
from bellgrad.mdp.examples import garnet
from bellgrad.training.engine import Engine

torch.set_num_threads(2)
small = bg.PPO(network=bg.MLP(hidden=(8,)), rollout_steps=16, minibatches=2)
folder = tempfile.mkdtemp()
options = dict(steps=128, progress="off", engine="eager")
agent = bg.load(bg.train(small, "CartPole-v1", out=folder + "/parent", **options))
solve = lambda: bg.solve(garnet(20, 2, 3, seed=0), gamma=0.9, method="value_iteration")
solve()
wide = torch.randn(1500, 1500)
for _ in range(2):
    wide @ wide  # starts torch's threads
obs = np.zeros(4, np.float32)
expected = agent.act(obs)
child = os.fork()
if child == 0:
    signal.alarm(60)
    try:
        assert agent.act(obs) == expected
        wide_agent = bg.train(small, "CartPole-v1", out=folder + "/child", **options)
        assert bg.evaluate(wide_agent, 2).returns == bg.evaluate(folder + "/parent", 2).returns
        for refused in (Engine("eager", 2, 1, "").start, solve):
            try:
                refused()
            except bg.UsageError as error:
                assert "spawn" in str(error)
            else:
                raise AssertionError(refused)
        os._exit(0)
    except BaseException as error:
        print(type(error), error, flush=True)
        os._exit(1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_works_on_one_thread_and_refuses_what_would_hang():
    done = subprocess.run(
        [sys.executable, "-c", FORKED],
        capture_output=True,
        text=True,
        timeout=180,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("setting", ["none", "dtype", "device", "error"])
def test_a_short_function_is_guarded_only_if_a_setting_was_changed(setting):
    @in_own_settings_if_needed
    def short():
        return torch.zeros(1).dtype, torch.zeros(1).device.type

    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.resetwarnings()
        if setting == "error":
            warnings.simplefilter("error")
        if setting == "dtype":
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float64)
        if setting == "device":
            stack.enter_context(torch.device("meta"))
        with pytest.MonkeyPatch.context() as patch:
            entered = []
            before = OwnSettings.__enter__
            patch.setattr(OwnSettings, "__enter__", lambda own: (entered.append(1), before(own))[1])
            assert short() == (torch.float32, "cpu")
    assert bool(entered) == (setting != "none")
