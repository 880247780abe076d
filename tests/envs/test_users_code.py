"""Whatever a user's code does, wherever it is called: one line that names the environment and the call."""

import builtins
import contextlib
import os
import re
import signal
import sys
import threading
import time

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from misbehaving import Counter

from bellgrad import api, cli
from bellgrad.algos.ppo import PPO
from bellgrad.core.errors import BellgradError, EnvironmentFault, UsageError
from bellgrad.core.guard import describe, guarded
from bellgrad.envs.check import check_env
from bellgrad.envs.gym import GymEnv
from bellgrad.envs.make import make_env
from bellgrad.envs.single import SingleEnvStepper

TINY = PPO(rollout_steps=16, minibatches=4)


def leave(how):
    match how:
        case "exits":
            sys.exit()
        case "exits with a word":
            sys.exit("no licence")
        case "interrupts":
            raise KeyboardInterrupt
        case "closes":
            raise GeneratorExit
        case "recurses":
            leave(how)
        case "fills memory":
            raise MemoryError
        case "fails":
            raise RuntimeError("the door is stuck")


WORDS = {
    "exits": r"ended the process in {}.*: sys.exit\(\) \(.*test_users_code.py:\d+\)",
    "exits with a word": r"ended the process in {}.*: sys.exit\('no licence'\)",
    "interrupts": "raised KeyboardInterrupt .* in {}",
    "closes": "raised GeneratorExit .* in {}",
    "recurses": "raised RecursionError: .* in {}",
    "fills memory": "raised MemoryError .* in {}",
    "fails": "raised RuntimeError: the door is stuck .* in {}",
}


def rude(at, how, after=0):
    """An environment class that leaves in one of its calls."""

    class Rude(Counter):
        metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
        taken = 0

        def __init__(self, render_mode="rgb_array"):
            super().__init__(render_mode=render_mode)
            if at == "its constructor":
                leave(how)

        def __getattribute__(self, name):
            if name == at:
                leave(how)
            return super().__getattribute__(name)

        def reset(self, *, seed=None, options=None):
            if at == "reset(":
                leave(how)
            return super().reset(seed=seed)

        def step(self, action):
            self.taken += 1
            if at == "step(" and self.taken > after:
                leave(how)
            return super().step(action)

        def render(self):
            if at == "render()":
                leave(how)
            return super().render()

        def close(self):
            if at == "close()":
                leave(how)

    return Rude


def use(env):
    """Everything that a command does with a batch."""
    batch = make_env(env, render_mode="rgb_array")
    batch.reset(0)
    batch.step(torch.zeros(1, dtype=torch.int64))
    batch.render()
    batch.close()


@pytest.mark.parametrize("how", WORDS)
@pytest.mark.parametrize("at", ["reset(", "step(", "render()", "close()", "observation_space"])
def test_whatever_a_call_raises_is_a_fault_that_names_environment_and_call(at, how):
    who = "the environment test_users_code:rude.*" if at == "observation_space" else "environment 0"
    words = WORDS[how].format(at.replace("(", r"\(").replace(")", r"\)"))
    with pytest.raises(EnvironmentFault, match=f"^{who} {words}") as fault:
        use(rude(at, how))
    assert "\n" not in str(fault.value) and fault.value.exit_code == 3
    assert not check_env(rude(at, how), renders=True).ok


@pytest.mark.parametrize("how", WORDS)
def test_a_constructor_that_raises_is_a_mistake_and_one_that_ends_the_process_a_fault(how):
    ends = not issubclass(getattr(builtins, raised(how)), Exception)
    words = WORDS[how].format("its constructor") if ends else f"could not be made: {raised(how)}"
    with pytest.raises(EnvironmentFault if ends else UsageError, match=words):
        use(rude("its constructor", how))


def raised(how):
    try:
        leave(how)
    except BaseException as error:
        return type(error).__name__


@pytest.mark.parametrize("how", ["exits", "fails"])
def test_the_fast_way_of_tables_is_guarded_too(how):
    env = GymEnv(rude("step(", how))
    env.reset(0)
    with (
        SingleEnvStepper(env, lambda obs: 0) as stepper,
        pytest.raises(EnvironmentFault, match=WORDS[how].format("step")),
    ):
        stepper.step(0)


def test_a_fault_in_training_keeps_the_checkpoint_and_has_exit_code_3(tmp_path):
    with pytest.raises(EnvironmentFault, match=r"environment 0 ended the process in step\(.*resume") as fault:
        api.train(
            TINY,
            rude("step(", "exits", after=40),
            640,
            out=tmp_path / "run",
            progress="off",
            num_envs=1,
            eval_episodes=0,
            checkpoints=40,
        )
    assert fault.value.exit_code == 3


MODULE = """
import os, sys
import gymnasium
if os.environ.get("LEAVE") == "import": sys.exit()
from misbehaving import Counter as Base
class Counter(Base):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    def __init__(self, render_mode=None):
        if os.environ.get("LEAVE") == "make": sys.exit()
        super().__init__(render_mode=render_mode)
    def reset(self, **kwargs):
        if os.environ.get("LEAVE") == "reset": sys.exit()
        return super().reset(**kwargs)
    def step(self, action):
        if os.environ.get("LEAVE") == "step": sys.exit()
        return super().step(action)
    def render(self):
        if os.environ.get("LEAVE") == "render": sys.exit()
        return super().render()
    def close(self):
        if os.environ.get("LEAVE") == "close": sys.exit()
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("users")
    (folder / "leaver.py").write_text(MODULE)
    with contextlib.chdir(folder):
        api.train(TINY, "leaver:Counter", 32, out="run", progress="off", num_envs=1, eval_episodes=0)
    sys.modules.pop("leaver")
    return folder


@pytest.mark.parametrize("at", ["import", "make", "reset", "step", "close", "render"])
@pytest.mark.parametrize(
    ("command", "calls"),
    [
        ("train ppo --env leaver:Counter --steps 32 --out NEW --quiet", "import make reset step close"),
        ("evaluate run --episodes 2 --trust-imports", "import make reset step close"),
        ("record run --out video.mp4 --trust-imports", "import make reset step close render"),
        ("resume run --steps 9999 --quiet --trust-imports", "import make reset step close"),
        ("export run --out policy.onnx --trust-imports", "import make close"),
        ("check-env leaver:Counter --render", "import make reset step close render"),
    ],
    ids=lambda value: value.split()[0],
)
def test_every_command_says_what_ended_it(command, calls, at, trained, monkeypatch, capsys):
    if at not in calls.split():
        return
    monkeypatch.chdir(trained)
    monkeypatch.setenv("LEAVE", at)
    sys.modules.pop("leaver", None)
    code = cli.main(command.replace("NEW", f"new-{at}").split())
    said = capsys.readouterr()
    assert code == (1 if command.startswith("check-env") else 3)
    call = {"import": "its import", "make": "its constructor"}.get(at, f"{at}(")
    assert f"ended the process in {call}" in said.err + said.out


# ----------------------------------------------------------------------------------------------------- Ctrl-C
def test_the_users_own_ctrl_c_is_no_fault():
    def interrupt():
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt), guarded("environment 0", "step()"):
        time.sleep(10)


def test_ctrl_c_by_a_handler_of_the_script_is_no_fault():
    def handler(signum, frame):
        raise KeyboardInterrupt("by the script")

    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(KeyboardInterrupt, match="by the script"), guarded("environment 0", "step()"):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_error_whose_text_fails_is_described_by_its_type():
    class Mute(Exception):
        def __str__(self):
            raise ValueError

    assert describe(Mute()) == "Mute"


# ------------------------------------------------------------------------------------------ what calls return
class Gives(Counter):
    """Returns something else in a place of `reset` or `step`."""

    def __init__(self, where, what):
        super().__init__()
        self.where, self.what = where, what

    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed)
        if self.where == "reset":
            return self.what
        return (self.what, {}) if self.where == "first obs" else result

    def step(self, action):
        result = list(super().step(action))
        if self.where == "step":
            return self.what
        if self.where in (places := ("obs", "reward", "terminated", "truncated", "info")):
            result[places.index(self.where)] = self.what
        return tuple(result)


class Unprintable:
    def __repr__(self):
        raise RuntimeError("no")


class Quits:
    def __array__(self, *args, **kwargs):
        sys.exit(0)


GRADIENT = torch.zeros(2, requires_grad=True)
REFUSED = [
    ("reset", None, r"reset\(\)"),
    ("reset", np.zeros(2, np.float32), r"reset\(\)"),
    ("reset", (np.zeros(2, np.float32), None), r"reset\(\)"),
    ("reset", (np.zeros(2, np.float32), {}, 1), r"reset\(\)"),
    ("first obs", GRADIENT, "not an array.*requires a gradient"),
    ("first obs", None, "shape"),
    ("first obs", np.zeros(3, np.float32), "shape"),
    ("first obs", np.array(["a", "b"]), "dtype"),
    ("first obs", np.array([0, np.nan], np.float32), "nan"),
    ("first obs", np.array([0, 1e300]), "inf|1.e\\+300"),
    ("first obs", [[1], [2, 3]], "not an array"),
    ("first obs", Unprintable(), "shape"),
    ("first obs", Quits(), r"not an array: it ended the process in __array__\(\): sys.exit\(0\)"),
    ("obs", Quits(), "not an array: it ended the process"),
    ("reward", Quits(), "reward"),
    ("terminated", Quits(), "terminated"),
    ("step", None, "NoneType"),
    ("step", (1, 2, 3, 4), "4 values"),
    ("obs", GRADIENT, "not an array.*requires a gradient"),
    ("obs", {"x": 1}, "shape"),
    ("reward", None, "reward"),
    ("reward", "1.5", "reward"),
    ("reward", np.zeros(1), "reward"),
    ("reward", 1j, "reward"),
    ("reward", float("nan"), "reward"),
    ("reward", 1e300, "reward"),
    ("terminated", None, "terminated"),
    ("terminated", "False", "terminated"),
    ("terminated", np.zeros(1, bool), "terminated"),
    ("truncated", 0.5, "truncated"),
]


@pytest.mark.parametrize(
    ("where", "what", "words"), REFUSED, ids=[f"{w}-{i}" for i, (w, _, _) in enumerate(REFUSED)]
)
def test_what_training_refuses_the_check_finds_before(where, what, words, tmp_path):
    def make():
        return Gives(where, what)

    with pytest.raises(EnvironmentFault, match=f"^environment 0 returned .*{words}"):
        api.train(TINY, make, 64, out=tmp_path / "run", progress="off", num_envs=2, eval_episodes=0)
    errors = check_env(make).of("error")
    assert re.search(words, "\n".join(finding.what for finding in errors))


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("reward", 1),
        ("reward", np.float32(2)),
        ("reward", np.array(2.0)),
        ("reward", torch.tensor(1.0)),
        ("reward", True),
        ("terminated", 0),
        ("terminated", np.bool_(False)),
        ("truncated", np.array(False)),
        ("obs", [0.0, 1.0]),
        ("obs", torch.zeros(2)),
        ("info", None),
    ],
    ids=str,
)
def test_what_has_one_meaning_is_taken_by_training_and_by_the_check(where, what):
    use_gives = make_env(lambda: Gives(where, what))
    use_gives.reset(0)
    use_gives.step(torch.zeros(1, dtype=torch.int64))
    assert check_env(lambda: Gives(where, what)).ok


class Bare(gymnasium.Env):
    def reset(self, *, seed=None, options=None):
        return 0, {}


class NoSeed(Counter):
    def reset(self):
        return super().reset()


class NoOptions(Counter):
    def reset(self, seed=None):
        return super().reset(seed=seed)


class Unbounded(Counter):
    def __init__(self):
        super().__init__()
        self.action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)


class Unequal(Counter):
    made = 0

    def __init__(self):
        super().__init__()
        Unequal.made += 1
        self.observation_space = spaces.Box(-Unequal.made, Unequal.made, (2,), np.float32)


class Second(Counter):
    """Fails in its second episode."""

    def reset(self, **kwargs):
        if hasattr(self, "steps"):
            raise RuntimeError("the world is gone")
        return super().reset(**kwargs)


@pytest.mark.parametrize(
    ("env", "options", "words"),
    [
        (Bare, {}, "observation_space is not a gymnasium.Space"),
        (NoSeed, {}, "seed"),
        (lambda: gymnasium.wrappers.TimeLimit(NoOptions(), 9), {}, "options"),
        (Unbounded, {}, "bounds"),
        (Unequal, {}, "must have the same spaces"),
        (Second, {}, "the world is gone"),
        (lambda: 3, {}, "made a int, not a gymnasium.Env"),
        (lambda: gymnasium.wrappers.NormalizeReward(Counter()), {}, "--normalize-reward"),
        (Counter, {"env_kwargs": {"lenght": 3}}, "lenght"),
        (Counter, {"env_kwargs": {"max_episode_steps": 3}}, "--max-episode-steps"),
        ("CartPol-v1", {}, "did you mean CartPole-v1"),
        ("misbehaving:Countr", {}, "did you mean Counter"),
    ],
    ids=[
        "no spaces",
        "no seed",
        "no options",
        "infinite",
        "unequal",
        "second",
        "no env",
        "statistics",
        "argument",
        "setting",
        "id",
        "class",
    ],
)
def test_what_training_trips_over_the_check_finds_before(env, options, words, tmp_path):
    with pytest.raises(BellgradError, match=words):
        api.train(TINY, env, 64, out=tmp_path / "run", progress="off", num_envs=2, **options)
    assert words in "\n".join(finding.what for finding in check_env(env, **options).of("error"))


def test_a_reset_without_options_can_be_trained_with_a_time_limit_as_the_check_says(tmp_path):
    report = check_env(NoOptions, max_episode_steps=3)
    assert report.ok and "reset() takes no options" in str(report)
    settings = {"max_episode_steps": 3, "num_envs": 2, "eval_episodes": 1}
    run = api.train(TINY, NoOptions, 64, out=tmp_path / "run", progress="off", **settings)
    assert run.status == "finished"


@pytest.mark.parametrize("attribute", ["observation_space", "action_space", "unwrapped"])
def test_an_attribute_that_ends_the_process_is_a_fault_of_the_environment(attribute):
    class Quitting(Counter):
        pass

    def make():
        env = Quitting()
        setattr(Quitting, attribute, property(lambda self: sys.exit(0), lambda self, value: None))
        return env

    with pytest.raises(EnvironmentFault, match=r"ended the process in .*: sys.exit\(0\)"):
        make_env(make)
    assert "ended the process" in str(check_env(make).of("error"))


@pytest.mark.parametrize("values", [[1, 300, 2], [0, 0, 256]])
def test_numbers_that_uint8_cannot_hold_are_refused_not_wrapped(values):
    class Camera(Counter):
        def __init__(self):
            super().__init__()
            self.observation_space = spaces.Box(0, 255, (3,), np.uint8)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.array(values, np.uint16), {}

    with pytest.raises(EnvironmentFault, match=r"returned the observation .*, which uint8 cannot hold"):
        make_env(Camera).reset(0)
    assert "which uint8 cannot hold" in str(check_env(Camera).of("error"))
