"""The command line, every command of it, run in this process."""

import contextlib
import io
import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import pytest

import bellgrad.cli as command_line
from bellgrad.cli import build_parser, main
from bellgrad.cli.shared import count, number, seeds

COMMANDS = (
    "list",
    "train",
    "solve",
    "resume",
    "evaluate",
    "record",
    "plot",
    "compare",
    "report",
    "export",
    "check-env",
    "doctor",
)
SMALL_PPO = ["--num-envs", "2", "--algo.rollout_steps", "32", "--algo.minibatches", "2", "--algo.epochs", "2"]
SMALL_PPO += [
    "--algo.network.hidden",
    "8",
    "--quiet",
    "--engine",
    "eager",
    "--eval-episodes",
    "2",
    "--checkpoints",
    "2",
]
SMALL_DQN = [
    "--algo.learning_starts",
    "32",
    "--algo.batch_size",
    "8",
    "--algo.buffer_size",
    "1k",
    "--algo.network.hidden",
    "8",
]
SMALL_DQN += ["--quiet", "--engine", "eager", "--eval-episodes", "0", "--checkpoints", "1"]

CORRIDOR = '''
import os
import signal

import gymnasium
import numpy as np
from torch import nn


class Corridor(gymnasium.Env):
    """Walk right to the end: five cells, reward 1 there."""

    metadata = {"render_modes": []}
    observation_space = gymnasium.spaces.Box(0, 1, (5,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    interrupt_at = None

    def __init__(self, noisy=False):
        self.noisy, self.count = noisy, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell = 0
        return self._obs(), {}

    def step(self, action):
        self.count += 1
        if self.count == Corridor.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        if self.noisy:
            print("a line that an environment prints")
        self.cell = max(0, self.cell + (1 if action == 1 else -1))
        return self._obs(), float(self.cell == 4), self.cell == 4, False, {}

    def _obs(self):
        return np.eye(5, dtype=np.float32)[self.cell]


class Broken(Corridor):
    """Returns NaN after a while."""

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return (obs * np.nan if self.count > 5 else obs), reward, terminated, truncated, info


class TinyNet(nn.Module):
    """A user's own network."""

    def __init__(self, observation_space, outputs):
        super().__init__()
        self.layer = nn.Linear(observation_space.shape[0], outputs)

    def forward(self, obs):
        return self.layer(obs)
'''


@dataclass(frozen=True)
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def error(self):
        """The one line of a mistake."""
        assert self.code == 2, self
        assert self.out == ""
        assert self.err.startswith("error: ") and self.err.count("\n") == 1, self.err
        return self.err


def bellgrad(*words):
    """Run a command. An exception other than argparse's and tyro's exits would be a traceback on a screen: it
    fails the test."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(word) for word in words])
        except SystemExit as stopped:
            code = stopped.code
    return Said(code, out.getvalue(), err.getvalue())


def train(*words):
    """Train where nothing may go wrong."""
    said = bellgrad("train", *words)
    assert said.code == 0, said.err
    return said


def record_of(folder):
    return json.loads((Path(folder) / "run.json").read_text())


def measurements(folder):
    """The lines of a run's log without its clock readings."""
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in ("time", "steps_per_second")}
        for line in lines
    ]


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A small PPO run, and the same with two seeds, made in a folder of their own with relative names."""
    root = tmp_path_factory.mktemp("cli")
    with contextlib.chdir(root):
        train("ppo", "--env", "CartPole-v1", "--steps", "256", "--out", "one", *SMALL_PPO)
        train("ppo", "--env", "CartPole-v1", "--steps", "256", "--seeds", "0-1", "--out", "many", *SMALL_PPO)
    return SimpleNamespace(root=root, one=root / "one", many=root / "many")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder with a user's module `corridor`, forgotten afterwards."""
    (tmp_path / "corridor.py").write_text(CORRIDOR)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield tmp_path
    sys.modules.pop("corridor", None)


# ------------------------------------------------------------------------------------------------------- help
def test_help_of_every_command_answers_without_importing_anything_heavy():
    script = f"""
import contextlib, io, sys
from bellgrad.cli import main
for words in [["--help"]] + [[name, "--help"] for name in {COMMANDS!r}]:
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            main(words)
    except SystemExit as stopped:
        assert stopped.code == 0
    assert said.getvalue().startswith("usage: bellgrad"), words
names = {{"torch", "numpy", "scipy", "numba", "gymnasium", "matplotlib", "rich", "tyro", "safetensors"}}
heavy = names & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_every_command_has_help_and_nothing_is_undocumented():
    parser = build_parser()
    assert tuple(parser.commands) == COMMANDS
    for name, sub in parser.commands.items():
        for action in sub._actions:
            positional = not action.option_strings and action.metavar in ("RUN",)
            assert action.help or positional or action.dest == "trust_imports", (
                f"{name}: {action.dest} says nothing"
            )


def test_the_hyper_parameters_are_listed_with_their_defaults():
    said = bellgrad("train", "dqn", "--algo.help")
    assert said.code == 0 and said.err == ""
    for flag in ("--algo.learning_rate", "--algo.double", "--algo.network.hidden", "--algo.optimizer.beta1"):
        assert flag in said.out
    assert "0.001" in said.out


# ---------------------------------------------------------------------------------------------------- numbers
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("50_000", 50_000),
        ("50k", 50_000),
        ("5e4", 50_000),
        ("1e6", 1_000_000),
        ("2M", 2_000_000),
        ("1.5k", 1_500),
        ("-3", -3),
    ],
)
def test_numbers_may_be_written_as_people_write_them(text, value):
    assert number(text) == value
    assert count(text) == value


@pytest.mark.parametrize("text", ["abc", "", "_", "1.5", "1e400", "5 000", "0x10", "1e", "nan", "inf", "k"])
def test_what_is_no_whole_number_is_refused_in_words(text):
    assert "whole number" in bellgrad("train", "ppo", "--env", "CartPole-v1", "--steps", text).error


def test_seeds_are_ranges_and_lists():
    assert seeds("0-4") == [0, 1, 2, 3, 4]
    assert seeds("3") == [3]
    assert seeds("0,2,5-6,2") == [0, 2, 5, 6]
    for wrong in ("4-0", "a", "1-", "", "1..3"):
        assert "not a list of seeds" in bellgrad("train", "ppo", "--seeds", wrong).error


# ------------------------------------------------------------------------------------------ a user's mistakes
@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("trian", "did you mean train?"),
        ("", "COMMAND"),
        ("list algo", "did you mean algos?"),
        ("train", "algo"),
        ("train dqm --env CartPole-v1 --steps 10", "did you mean dqn?"),
        ("train ppo --env CartPol-v1 --steps 10", "CartPole-v1"),
        ("train ppo --steps 10", "--env"),
        ("train ppo --env CartPole-v1", "--steps"),
        ("train ppo CartPole-v1 --steps 10", "unexpected argument 'CartPole-v1'"),
        ("train ppo --env CartPole-v1 --steps 10 --sede 3", "--seed"),
        ("train ppo --env CartPole-v1 --steps 10 --seed 1 --seeds 0-1", "not allowed with"),
        ("train ppo --env CartPole-v1 --steps 0", "steps = 0 is out of range"),
        ("train ppo --env CartPole-v1 --steps 10 --seed -1", "seed = -1 is out of range"),
        ("train ppo --env CartPole-v1 --steps 10 --num-envs 0", "num_envs = 0 is out of range"),
        ("train ppo --env CartPole-v1 --steps 10 --frame-stack 0", "frame_stack = 0 is out of range"),
        ("train ppo --env CartPole-v1 --steps 10 --checkpoints 0", "checkpoints = 0 is out of range"),
        ("train ppo --env CartPole-v1 --steps 10 --max-episode-steps 0", "max_episode_steps = 0"),
        ("train ppo --env CartPole-v1 --steps 10 --engine compild", "did you mean compiled?"),
        ("train ppo --env CartPole-v1 --steps 10 --backend natve", "did you mean native?"),
        ("train ppo --env CartPole-v1 --steps 10 --device gpu", "device 'gpu'"),
        ("train ppo --env CartPole-v1 --steps 10 --target-return high", "high"),
        ("train ppo --env CartPole-v1 --steps 10 --target-return 5 --eval-episodes 0", "eval_episodes"),
        ("train ppo --env CartPole-v1 --steps 10 --env-kwargs {oops", "JSON"),
        ("train ppo --env CartPole-v1 --steps 10 --env-kwargs [1]", "JSON object"),
        ("train ppo --env CartPole-v1 --steps 10 --env-kwargs {\"no\":1}", "could not be made"),
        ("train dqn --env CartPole-v1 --preset Cartpole-v1", "did you mean CartPole-v1?"),
        ("train dqn --preset atari --steps 10", "--env"),
        ("train dqn --env Pendulum-v1 --steps 10", "Discrete"),
        ("train sac --env CartPole-v1 --steps 10", "Box"),
        ("train ppo --env CartPole-v1 --steps 10 --network reznet", "module:Class"),
        ("train ppo --env CartPole-v1 --steps 10 --network no_such_module:Net", "no_such_module"),
        ("train ppo --env CartPole-v1 --steps 10 --network json:JSONDecoder", "torch.nn.Module"),
        ("train q_learning --env FrozenLake-v1 --steps 10 --network mlp", "--algo.network"),
        ("train ppo --env CartPole-v1 --steps 10 --algo.optimizer adma", "did you mean adam"),
        ("train no_such_module:Algo --env CartPole-v1 --steps 10", "no_such_module"),
        ("train json:JSONDecoder --env CartPole-v1 --steps 10", "a frozen dataclass with build"),
        ("train ppo --env CartPole-v1 --steps 10 --transforms frame_stak:4", "did you mean frame_stack"),
        ("train ppo --env CartPole-v1 --steps 10 --transforms normalize_obs --frame-stack 4", "not both"),
        ("train ppo --preset Acrobot-v1 --frame-stack 4", "has transforms of its own"),
        ("train ppo --env no_such_module:Env --steps 10", "no_such_module"),
        ("train ppo --env os:getcwd --steps 10", "gymnasium.Env"),
        ("train ppo --env : --steps 10", "module:Class"),
        ("train ppo --env CartPole-v1 --steps 10 --algo.lerning_rate 1", "--algo.learning_rate"),
        ("train ppo --env CartPole-v1 --steps 10 --algo.network.hiden 8", "--algo.network.hidden"),
        ("train ppo --env CartPole-v1 --steps 10 --algo.gamma 1.5", "PPO.gamma = 1.5 is out of range [0, 1]"),
        ("train ppo --env CartPole-v1 --steps 10 --algo.learning_rate nan", "PPO.learning_rate"),
        ("train ppo --env CartPole-v1 --steps 10 --algo.network.hidden 0", "MLP.hidden"),
        ("train ppo --env CartPole-v1 --steps 10 --algo.network.activation relux", "did you mean relu"),
        ("train ppo --env CartPole-v1 --steps 10 --algo.optimizer.beta1 2", "beta1"),
        ("train ppo --env CartPole-v1 --steps 10k --algo.minibatches 7", "minibatches"),
        ("solve FrozenLak-v1", "did you mean FrozenLake-v1"),
        ("solve corridr", "did you mean corridor"),
        ("solve CartPole-v1", "does not show its dynamics"),
        ("solve no_such_module:mdp", "no_such_module"),
        ("solve os:getcwd", "os:getcwd made a str"),
        ("solve corridor --env-kwargs {\"length\":3}", "length"),
        ("solve garnet --env-kwargs {\"num_states\":3}", "num_actions"),
        ("solve FrozenLake-v1 --env-kwargs {\"map_name\":\"5x5\"}", "could not be made"),
        ("solve FrozenLake-v1 --method value_iterations", "did you mean value_iteration"),
        ("solve FrozenLake-v1 --criterion totl", "did you mean total?"),
        ("solve FrozenLake-v1 --gamma high", "high"),
        ("solve FrozenLake-v1 --gamma 1.5", "gamma"),
        ("solve FrozenLake-v1 --horizon 0", "horizon"),
        ("solve FrozenLake-v1 --plot a.jpg", ".png"),
        ("solve FrozenLake-v1 --animate a.avi", ".gif"),
        ("evaluate nowhere --algo.gamma 0.5", "only for bellgrad train"),
        ("evaluate nowhere", "not a run folder"),
        ("resume nowhere", "not a run folder"),
        ("record nowhere", "not a run folder"),
        ("report nowhere", "not a run folder"),
        ("export nowhere --out policy.onnx", "not a run folder"),
        ("plot nowhere --out curves.png", "does not exist"),
        ("compare nowhere", "does not exist"),
        ("evaluate", "RUN"),
        ("evaluate nowhere --checkpoint newest", "whole number"),
        ("plot nowhere", "--out"),
        ("plot nowhere --out a.png --statistic median", "mean"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_clear_line_and_leaves_nothing_behind(words, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    assert hint in bellgrad(*words.split()).error
    assert [path for path in tmp_path.rglob("*") if path.name != "runs"] == []


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        ("--algo.gamma x", "--algo.gamma"),
        ("--algo.epochs 1.5", "--algo.epochs"),
        ("--algo.normalize_advantages maybe", "--algo.normalize_advantages"),
        ("--algo.learning_rate_decay cubic", "cubic"),
        ("--algo.gamma", "--algo.gamma"),
        ("--algo.gamma 0.9 0.8", "0.8"),
    ],
)
def test_a_hyper_parameter_of_the_wrong_type_is_named(flags, hint):
    said = bellgrad("train", "ppo", "--env", "CartPole-v1", "--steps", "10", *flags.split())
    assert said.code == 2 and said.out == ""
    assert hint in said.err and "Traceback" not in said.err


@pytest.mark.parametrize(
    ("module", "extra", "words"),
    [
        ("imageio_ffmpeg", "video", "record {run} --out {tmp}/v.mp4"),
        ("pygame", "video", "record {run} --out {tmp}/v.mp4"),
        ("onnx", "onnx", "export {run} --out {tmp}/p.onnx"),
        ("onnxscript", "onnx", "export {run} --out {tmp}/p.onnx"),
        ("Box2D", "box2d", "train ppo --env LunarLander-v3 --steps 10 --out {tmp}/run"),
        ("mujoco", "mujoco", "train sac --env HalfCheetah-v5 --steps 10 --out {tmp}/run"),
    ],
)
def test_a_missing_extra_gets_the_exact_install_command(module, extra, words, runs, tmp_path, monkeypatch):
    implementations = (
        "gymnasium.envs.box2d",
        "gymnasium.envs.mujoco",
        "gymnasium.envs.classic_control",
        module,
    )
    for name in [name for name in sys.modules if name.startswith(implementations)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)  # what Python makes of a package that is not installed
    said = bellgrad(*words.format(run=runs.one, tmp=tmp_path).split())
    assert f"pip install 'bellgrad[{extra}]'" in said.error
    assert not list(tmp_path.iterdir())


def test_an_unreadable_disk_is_one_line_and_not_a_traceback(tmp_path):
    (tmp_path / "file").write_text("")
    said = bellgrad(
        "train",
        "ppo",
        "--env",
        "CartPole-v1",
        "--steps",
        "64",
        "--out",
        tmp_path / "file" / "run",
        *SMALL_PPO,
    )
    assert said.code != 0 and said.err.startswith("error: ") and said.err.count("\n") == 1


# ------------------------------------------------------------------------------------------------------- list
def test_list_tells_what_there_is():
    said = bellgrad("list")
    assert said.code == 0
    for name in (
        "algos:",
        "ppo",
        "solvers:",
        "value_iteration",
        "presets:",
        "pytorch-tutorial",
        "envs:",
        "native: ",
        "CartPole-v1",
    ):
        assert name in said.out
    assert "presets:" not in bellgrad("list", "algos").out


def test_list_as_json_is_one_object():
    there = json.loads(bellgrad("list", "--json").out)
    assert set(there) == {"algos", "solvers", "presets", "envs"}
    assert {"dqn", "ppo", "sac"} <= set(there["algos"])
    assert "policy_iteration" in there["solvers"]
    assert set(json.loads(bellgrad("list", "envs", "--json").out)) == {"envs"}


# ------------------------------------------------------------------------------------------------------ train
def test_train_leaves_a_finished_run_with_every_setting(runs):
    record = record_of(runs.one)
    assert record["status"] == "finished"
    assert (record["steps"], record["num_envs"], record["checkpoints"], record["eval_episodes"]) == (
        256,
        2,
        2,
        2,
    )
    assert record["algorithm"]["fields"]["rollout_steps"] == 32
    assert record["algorithm"]["fields"]["network"]["hidden"] == [8]
    assert record["command"].startswith("bellgrad train ppo --env CartPole-v1 --steps 256")


def test_numbers_in_hyper_parameters_may_be_written_as_people_write_them(tmp_path):
    flags = [
        "--algo.buffer_size=2_000",
        "--algo.epsilon_steps",
        "1k",
        "--algo.target_period",
        "2e2",
        "--algo.learning_rate",
        "1e-3",
    ]
    train("dqn", "--env", "CartPole-v1", "--steps", "40", "--out", tmp_path / "run", *SMALL_DQN, *flags)
    fields = record_of(tmp_path / "run")["algorithm"]["fields"]
    assert (fields["buffer_size"], fields["epsilon_steps"], fields["target_period"]) == (2_000, 1_000, 200)
    assert fields["learning_rate"] == 1e-3


def test_nested_boolean_and_absent_hyper_parameters_can_be_given(tmp_path):
    flags = [
        "--algo.double",
        "False",
        "--algo.max_grad_norm",
        "None",
        "--algo.max_grad_value",
        "5",
        "--algo.loss",
        "squared",
    ]
    flags += [
        "--algo.optimizer.beta1",
        "0.8",
        "--algo.network.hidden",
        "16",
        "12",
        "--algo.network.activation",
        "tanh",
    ]
    train("dqn", "--env", "CartPole-v1", "--steps", "40", "--out", tmp_path / "run", *SMALL_DQN, *flags)
    fields = record_of(tmp_path / "run")["algorithm"]["fields"]
    assert (fields["double"], fields["max_grad_norm"], fields["max_grad_value"], fields["loss"]) == (
        False,
        None,
        5.0,
        "squared",
    )
    assert fields["optimizer"]["beta1"] == 0.8
    assert (fields["network"]["hidden"], fields["network"]["activation"]) == ([16, 12], "tanh")


def test_a_preset_brings_its_settings_and_flags_change_them(tmp_path):
    short = ["--steps", "256", "--quiet", "--engine", "eager", "--eval-episodes", "0"]
    train(
        "ppo",
        "--preset",
        "CartPole-v1",
        "--out",
        tmp_path / "run",
        *short,
        "--algo.epochs",
        "2",
        "--num-envs",
        "4",
    )
    record = record_of(tmp_path / "run")
    assert (record["env"], record["num_envs"]) == ("CartPole-v1", 4)
    # RL Baselines3 Zoo's CartPole-v1: n_steps 32, gamma 0.98; its 20 epochs are replaced above.
    fields = record["algorithm"]["fields"]
    assert (fields["rollout_steps"], fields["gamma"], fields["epochs"]) == (32, 0.98, 2)


def test_a_preset_brings_its_wrappers(tmp_path):
    short = ["--steps", "256", "--quiet", "--engine", "eager", "--eval-episodes", "0"]
    train(
        "ppo",
        "--preset",
        "Acrobot-v1",
        "--out",
        tmp_path / "run",
        *short,
        "--algo.rollout_steps",
        "16",
        "--algo.minibatches",
        "4",
    )
    record = record_of(tmp_path / "run")
    assert [transform["kind"] for transform in record["transforms"]] == ["normalize_obs", "normalize_reward"]
    assert record["num_envs"] == 16


def test_transforms_are_given_as_a_list_that_the_user_orders_or_in_shorthand(tmp_path):
    listed = ["--transforms", "clip_reward:-2:2,frame_stack:3,normalize_obs"]
    train("dqn", "--env", "CartPole-v1", "--steps", "40", "--out", tmp_path / "list", *listed, *SMALL_DQN)
    assert record_of(tmp_path / "list")["transforms"] == [
        {"kind": "clip_reward", "low": -2, "high": 2},
        {"kind": "frame_stack", "n": 3},
        {"kind": "normalize_obs", "clip": 10.0},
    ]
    short = ["--normalize-reward", "--frame-stack", "3"]
    train("dqn", "--env", "CartPole-v1", "--steps", "40", "--out", tmp_path / "short", *short, *SMALL_DQN)
    kinds = [transform["kind"] for transform in record_of(tmp_path / "short")["transforms"]]
    assert kinds == ["frame_stack", "normalize_reward"]


def test_a_part_of_an_algorithm_is_chosen_by_name(tmp_path):
    flags = ["--algo.optimizer", "sgd", "--algo.optimizer.momentum", "0.5", "--algo.network=mlp"]
    train("dqn", "--env", "CartPole-v1", "--steps", "40", "--out", tmp_path / "run", *SMALL_DQN, *flags)
    fields = record_of(tmp_path / "run")["algorithm"]["fields"]
    assert fields["optimizer"] == {
        "kind": "sgd",
        "learning_rate": 0.001,
        "momentum": 0.5,
        "nesterov": False,
        "weight_decay": 0.0,
    }
    assert fields["network"]["kind"] == "mlp" and fields["network"]["hidden"] == [8]


OWN = """
from dataclasses import dataclass

from bellgrad.algos.dqn import DQN, DQNLearner


class MyLearner(DQNLearner):
    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.factor = config.factor


@dataclass(frozen=True)
class MyAlgorithm(DQN):
    \"\"\"My hyper-parameters.

    Attributes:
        factor: of mine.
    \"\"\"

    factor: float = 2.0

    def build(self, spec, steps=None):
        return MyLearner(self, spec)
"""


def test_a_users_own_algorithm_trains_by_name_and_its_run_is_opened_only_if_trusted(here):
    (here / "own.py").write_text(OWN)
    try:
        assert "--algo.factor" in bellgrad("train", "own:MyAlgorithm", "--algo.help").out
        words = ["--env", "CartPole-v1", "--steps", "40", "--algo.factor", "3"]
        loud = [word for word in SMALL_DQN if word != "--quiet"]
        said = train("own:MyAlgorithm", *words, *loud)
        record = record_of("runs/cartpole-v1-myalgorithm-0")
        assert (
            record["algorithm"]["name"] == "own:MyAlgorithm" and record["algorithm"]["fields"]["factor"] == 3
        )
        assert said.err.splitlines()[-1].count("--trust-imports") == 2  # the commands that are offered work
        sys.modules.pop("own")  # as in a new process
        run = "runs/cartpole-v1-myalgorithm-0"
        assert "own:MyAlgorithm, which is not part of Bellgrad" in bellgrad("evaluate", run).error
        assert "own" not in sys.modules
        assert bellgrad("evaluate", run, "--episodes", "2", "--trust-imports").code == 0
        assert bellgrad("resume", run, "--steps", "80", "--quiet", "--trust-imports").code == 0
        assert bellgrad("report", run).code == 0 and bellgrad("compare", run).code == 0
        assert "did you mean MyAlgorithm" in bellgrad("train", "own:MyAlgoritm", *words).error
    finally:
        sys.modules.pop("own", None)


def test_without_out_each_run_gets_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        train("dqn", "--env", "CartPole-v1", "--steps", "40", "--seed", "7", *SMALL_DQN)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "cartpole-v1-dqn-7",
        "cartpole-v1-dqn-7-2",
    ]


def test_a_folder_that_holds_a_run_is_refused_with_the_resume_command(runs):
    said = bellgrad("train", "ppo", "--env", "CartPole-v1", "--steps", "256", "--out", runs.one, *SMALL_PPO)
    assert f"bellgrad resume {runs.one}" in said.error


def test_progress_goes_to_standard_error_and_ends_with_what_to_try_next(tmp_path):
    loud = [word for word in SMALL_PPO if word != "--quiet"]
    said = train("ppo", "--env", "CartPole-v1", "--steps", "256", "--out", tmp_path / "run", *loud)
    assert said.out == ""
    assert "steps/s" in said.err and f"next: bellgrad evaluate {tmp_path / 'run'}" in said.err


def test_a_users_own_environment_and_network_train_by_name(here):
    words = [
        "--env",
        "corridor:Corridor",
        "--network",
        "corridor:TinyNet",
        "--max-episode-steps",
        "20",
        "--steps",
        "200",
    ]
    flags = [
        "--algo.learning_starts",
        "32",
        "--algo.batch_size",
        "8",
        "--engine",
        "eager",
        "--eval-episodes",
        "0",
    ]
    said = train("dqn", *words, "--out", "run", *flags)
    assert record_of("run")["algorithm"]["fields"]["network"] == {
        "kind": "module",
        "name": "corridor:TinyNet",
    }
    assert measurements("run")[-1]["episode_return_mean"] is not None
    assert "--trust-imports" in said.err.splitlines()[-1]  # the commands that are offered work


def test_a_runs_own_code_is_imported_only_when_trusted(here):
    train(
        "dqn",
        "--env",
        "corridor:Corridor",
        "--max-episode-steps",
        "20",
        "--steps",
        "50",
        "--out",
        "run",
        *SMALL_DQN,
    )
    sys.modules.pop("corridor")  # as in a new process
    assert "--trust-imports" in bellgrad("evaluate", "run", "--episodes", "2").error
    assert "corridor" not in sys.modules
    assert bellgrad("evaluate", "run", "--episodes", "2", "--trust-imports").code == 0


def test_an_environment_that_breaks_is_named_and_the_last_checkpoint_kept(here):
    flags = [*SMALL_DQN, "--max-episode-steps", "20"]
    said = bellgrad("train", "dqn", "--env", "corridor:Broken", "--steps", "200", "--out", "run", *flags)
    assert said.code == 3
    assert (
        said.err.count("\n") == 1
        and "environment 0" in said.err
        and "nan" in said.err
        and "step 6" in said.err
    )
    assert record_of("run")["status"] == "failed"
    assert (here / "run" / "checkpoints" / "step-0").is_dir()


def test_ctrl_c_saves_and_prints_the_resume_command(here, monkeypatch):
    monkeypatch.syspath_prepend(here)
    import corridor

    flags = [*SMALL_DQN, "--max-episode-steps", "20"]
    monkeypatch.setattr(corridor.Corridor, "interrupt_at", 70)
    said = bellgrad("train", "dqn", "--env", "corridor:Corridor", "--steps", "100", "--out", "run", *flags)
    assert said.code == 130
    assert "bellgrad resume run" in said.err and "Traceback" not in said.err
    assert record_of("run")["status"] == "interrupted"
    monkeypatch.setattr(corridor.Corridor, "interrupt_at", None)
    assert bellgrad("resume", "run", "--quiet").code == 0
    train("dqn", "--env", "corridor:Corridor", "--steps", "100", "--out", "whole", *flags)
    assert measurements("run") == measurements("whole")


# ------------------------------------------------------------------------------------------------------ solve
def test_solve_shows_the_values_and_the_policy():
    said = bellgrad("solve", "corridor", "--criterion", "total", "--quiet")
    assert said.code == 0, said.err
    assert "| 3     | -11 |  -13 |  -11 |   -2 |    0 | R      |" in said.out  # the corridor's table, state 3
    assert "converged" in said.out and "value -13 at the start" in said.out


def test_solve_as_json_is_the_solution():
    found = json.loads(
        bellgrad("solve", "FrozenLake-v1", "--gamma", "0.95", "--tolerance", "1e-8", "--json", "--quiet").out
    )
    # the exact value on the slippery 4x4 map
    assert found["value_at_start"] == pytest.approx(0.180472, abs=1e-6)
    assert found["value"][0] == found["value_at_start"] and found["policy"][0] == [1, 0, 0, 0]
    assert (found["env"], found["states"], found["actions"], found["gamma"]) == ("FrozenLake-v1", 16, 4, 0.95)
    assert found["converged"] and found["error_bound"] <= 1e-8 and found["seconds"] > 0


def test_solve_takes_a_horizon_and_the_arguments_of_the_environment():
    words = ["--env-kwargs", '{"is_slippery": false}', "--horizon", "6", "--gamma", "1", "--json", "--quiet"]
    found = json.loads(bellgrad("solve", "FrozenLake-v1", *words).out)
    assert found["value_at_start"] == 1  # the shortest way has six steps
    assert found["horizon"] == 6 and len(found["value"]) == 16
    words[3] = "5"
    assert json.loads(bellgrad("solve", "FrozenLake-v1", *words).out)["value_at_start"] == 0


def test_solve_leaves_out_the_values_of_a_large_mdp():
    large = ["garnet", "--env-kwargs", '{"num_states": 1001, "num_actions": 2, "successors": 2, "seed": 0}']
    found = json.loads(bellgrad("solve", *large, "--gamma", "0.5", "--json", "--quiet").out)
    assert found["states"] == 1001 and not {"value", "policy"} & set(found)


def test_solve_draws_a_picture_and_a_film(tmp_path):
    files = ["--plot", tmp_path / "corridor.png", "--animate", tmp_path / "corridor.gif"]
    said = bellgrad("solve", "corridor", "--criterion", "total", "--quiet", *files)
    assert said.code == 0, said.err
    assert (tmp_path / "corridor.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "corridor.gif").read_bytes().startswith(b"GIF89a")


def test_what_does_not_converge_is_a_warning_and_exit_code_1():
    said = bellgrad(
        "solve", "FrozenLake-v1", "--method", "value_iteration", "--max-iterations", "3", "--quiet", "--json"
    )
    assert said.code == 1
    assert json.loads(said.out)["converged"] is False
    assert (
        said.err.startswith("warning: value_iteration stopped after 3 iterations")
        and said.err.count("\n") == 1
    )


def test_a_users_own_mdp_or_environment_is_solved_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "own_mdp.py").write_text(
        "import gymnasium\nfrom bellgrad.mdp.model import FiniteMDP\ndef coin(reward=1.0):\n    return"
        " FiniteMDP.from_function(1, 1, lambda s, a: [(0.5, 0, reward, True), (0.5, 0, 0.0, False)])\ndef"
        " lake():\n    return gymnasium.make('FrozenLake-v1')\n"
    )
    options = ["--env-kwargs", '{"reward": 3.0}', "--gamma", "0.5", "--json", "--quiet"]
    found = json.loads(bellgrad("solve", "own_mdp:coin", *options).out)
    assert found["value_at_start"] == pytest.approx(2.0, abs=1e-5)  # v = 3/2 + v/4
    assert json.loads(bellgrad("solve", "own_mdp:lake", "--json", "--quiet").out)["states"] == 16
    assert "error_mdp" in bellgrad("solve", "own_mdp:error_mdp").error
    sys.modules.pop("own_mdp")


# ------------------------------------------------------------------------------------------------------ seeds
def test_seeds_are_runs_of_their_own_that_differ_in_the_seed(runs):
    first, second = record_of(runs.many / "seed-0"), record_of(runs.many / "seed-1")
    assert (first["seed"], second["seed"]) == (0, 1)
    assert measurements(runs.many / "seed-0") == measurements(runs.one)
    assert measurements(runs.many / "seed-0") != measurements(runs.many / "seed-1")


def test_the_recorded_command_of_a_seed_repeats_exactly_that_run(runs, tmp_path, monkeypatch):
    command = shlex.split(record_of(runs.many / "seed-1")["command"])
    assert "--seeds" not in command
    assert (
        command[command.index("--seed") + 1] == "1" and command[command.index("--out") + 1] == "many/seed-1"
    )
    monkeypatch.chdir(tmp_path)
    assert bellgrad(*command[1:]).code == 0
    assert measurements("many/seed-1") == measurements(runs.many / "seed-1")


def test_the_same_seeds_again_go_on_and_leave_the_finished_ones_alone(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["ppo", "--env", "CartPole-v1", "--steps", "256", "--out=many", *SMALL_PPO]
    train(*words, "--seeds=0")
    before = (tmp_path / "many" / "seed-0" / "metrics.jsonl").stat().st_mtime_ns
    train(*words, "--seeds=0-1")
    assert (tmp_path / "many" / "seed-0" / "metrics.jsonl").stat().st_mtime_ns == before
    assert measurements("many/seed-1") == measurements(runs.many / "seed-1")


def test_seeds_of_other_settings_are_not_mixed_into_one_folder(runs):
    words = ["ppo", "--env", "CartPole-v1", "--steps", "256", "--seeds", "0-1", *SMALL_PPO]
    assert (
        "other settings (algorithm)"
        in bellgrad("train", *words, "--out", runs.many, "--algo.gamma", "0.9").error
    )
    assert "is a run itself" in bellgrad("train", *words, "--out", runs.one).error


def test_plot_and_compare_take_the_seeds_as_one_experiment(runs, tmp_path):
    said = bellgrad("plot", runs.many, "--out", tmp_path / "curves.png")
    assert (said.code, said.out) == (0, f"{tmp_path / 'curves.png'}\n")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    groups = json.loads(bellgrad("compare", runs.many, "--json").out)["groups"]
    assert [(group["algorithm"], group["seeds"]) for group in groups] == [("ppo", 2)]


# ----------------------------------------------------------------------------------------------------- resume
def test_resuming_a_finished_run_is_refused_with_a_hint(runs):
    assert "--steps" in bellgrad("resume", runs.one).error
    assert "has reached step 256" in bellgrad("resume", runs.one, "--steps", "100").error


def test_resume_goes_on_to_a_new_total(tmp_path):
    train("dqn", "--env", "CartPole-v1", "--steps", "40", "--out", tmp_path / "run", *SMALL_DQN)
    assert bellgrad("resume", tmp_path / "run", "--steps", "80", "--quiet").code == 0
    assert record_of(tmp_path / "run")["steps"] == 80
    assert measurements(tmp_path / "run")[-1]["step"] == 80


# --------------------------------------------------------------------------------------------------- evaluate
def test_evaluate_reports_whole_episodes(runs):
    said = bellgrad("evaluate", runs.one, "--episodes", "3")
    assert said.code == 0 and said.out.startswith("return ") and "over 3 episodes" in said.out
    result = json.loads(bellgrad("evaluate", runs.one, "--episodes", "3", "--json").out)
    assert result["episodes"] == len(result["returns"]) == 3
    assert result["return_mean"] == pytest.approx(sum(result["returns"]) / 3)
    assert result["length_mean"] == result["return_mean"]  # CartPole pays 1 a step
    assert f"{result['return_mean']:.2f}" in said.out


def test_evaluation_follows_its_seed_its_checkpoint_and_its_mode(runs):
    def returns(*options):
        said = bellgrad("evaluate", runs.many / "seed-0", "--episodes", "8", "--json", *options)
        assert said.code == 0, said.err
        return json.loads(said.out)["returns"]

    assert (
        returns()
        == returns()
        == returns("--deterministic")
        == returns("--checkpoint", "last", "--seed", "1k")
    )
    assert returns() == returns("--checkpoint", "256")
    assert returns("--seed", "5") != returns()
    assert returns("--stochastic") != returns()
    assert returns("--checkpoint", "0") != returns("--checkpoint", "0", "--stochastic")
    assert returns("--checkpoint", "best") in (returns("--checkpoint", "128"), returns("--checkpoint", "256"))


def test_evaluation_options_out_of_range_are_refused(runs):
    assert "episodes = 0 is out of range" in bellgrad("evaluate", runs.one, "--episodes", "0").error
    said = bellgrad("evaluate", runs.one, "--checkpoint", "7")
    assert said.code != 0 and "no checkpoint at step 7" in said.err and said.err.count("\n") == 1


# ------------------------------------------------------------------------------- record, plot, report, export
def test_record_writes_a_video(runs, tmp_path):
    said = bellgrad("record", runs.one, "--out", tmp_path / "agent.mp4")
    assert (said.code, said.out) == (0, f"{tmp_path / 'agent.mp4'}\n")
    assert (tmp_path / "agent.mp4").read_bytes()[4:8] == b"ftyp"  # ISO/IEC 14496-12: the first box of an MP4
    assert "episodes = 0" in bellgrad("record", runs.one, "--episodes", "0").error
    assert ".mp4" in bellgrad("record", runs.one, "--out", tmp_path / "agent.gif").error


def test_plot_refuses_what_it_cannot_draw(runs, tmp_path):
    assert (
        "episode_return_mean"
        in bellgrad("plot", runs.one, "--out", tmp_path / "a.png", "--key", "episode_return_meen").error
    )
    assert ".png" in bellgrad("plot", runs.one, "--out", tmp_path / "a.txt").error


def test_report_writes_the_runs_page(runs):
    said = bellgrad("report", runs.one)
    assert (said.code, said.out) == (0, f"{runs.one / 'report.html'}\n")
    assert "CartPole-v1" in (runs.one / "report.html").read_text()


def test_compare_is_a_table_for_people(runs):
    said = bellgrad("compare", runs.one, runs.many)
    assert said.code == 0
    assert "ppo" in said.out and "CartPole-v1" in said.out and "interquartile mean" in said.out


def test_export_writes_a_policy(runs, tmp_path):
    said = bellgrad("export", runs.one, "--out", tmp_path / "policy.onnx")
    assert (said.code, said.out) == (0, f"{tmp_path / 'policy.onnx'}\n")
    assert (tmp_path / "policy.onnx").stat().st_size > 0
    assert ".onnx" in bellgrad("export", runs.one, "--out", tmp_path / "policy.pt").error


# --------------------------------------------------------------------------------------- check-env and doctor
def test_check_env_says_what_is_wrong_and_its_exit_code_too(here):
    assert bellgrad("check-env", "CartPole-v1").code == 0
    said = bellgrad("check-env", "corridor:Broken")
    assert said.code == 1
    assert "nan" in said.out and "error" in said.out
    assert "did you mean CartPole-v1" in bellgrad("check-env", "CartPole-v11").out


def test_check_env_builds_what_training_with_the_same_flags_builds(here):
    words = ["check-env", "corridor:Corridor", "--max-episode-steps", "20", "--num-envs", "3"]
    said = bellgrad(*words, "--algo", "ppo", "--normalize-obs", "--backend", "subprocess")
    assert said.code == 0 and "a batch of 3 as in training" in said.out
    assert "takes no render_mode" in bellgrad(*words, "--render").out
    for flags, reason in (
        (["--algo", "sac"], "SAC"),
        (["--algo", "q_learning", "--num-envs", "1"], "--bins"),
        (["--transforms", "gray"], "Gray"),
    ):
        said = bellgrad(*words, *flags)
        assert said.code == 1 and reason in said.out
        flags = flags if "--algo" in flags else ["--algo", "ppo", *flags]
        algo, *rest = flags[1:]
        trained = bellgrad("train", algo, "--env", *words[1:], *rest, "--steps", "50", "--out", "refused")
        assert trained.code == 2 and trained.error.removeprefix("error: ").strip() in said.out


def test_doctor_names_what_is_installed_and_what_is_missing(monkeypatch):
    assert "compiler" in bellgrad("doctor").out
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install 'bellgrad[onnx]'" in json.loads(bellgrad("doctor", "--json").out)["onnx"]


# ------------------------------------------------------------------------------------------------------- JSON
def test_json_is_one_object_on_standard_output_and_nothing_else(runs, here):
    noisy = ["--env", "corridor:Corridor", "--env-kwargs", '{"noisy": true}', "--max-episode-steps", "20"]
    assert train("dqn", *noisy, "--steps", "50", "--out", "run", *SMALL_DQN).out == ""
    for words in (
        ["list"],
        ["solve", "corridor", "--criterion", "total"],
        ["evaluate", "run", "--episodes", "2"],
        ["compare", runs.one, runs.many],
        ["check-env", "corridor:Corridor", "--env-kwargs", '{"noisy": true}'],
        ["check-env", "corridor:Broken"],
        ["doctor"],
    ):
        said = bellgrad(*words, "--json")
        assert isinstance(json.loads(said.out), dict), words
        assert said.out.count("\n") == 1, words
    assert bellgrad("evaluate", "nowhere", "--json").out == ""


def test_a_reader_that_leaves_early_is_no_error():
    command = f"{shlex.quote(sys.executable)} -m bellgrad.cli list | head -c 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "a"
    assert done.stderr == ""


def test_an_environment_that_is_registered_by_the_user_is_found(here):
    gymnasium.register("TestOnly/Corridor-v0", entry_point="corridor:Corridor", max_episode_steps=20)
    try:
        sys.path.append(os.getcwd())
        train("dqn", "--env", "TestOnly/Corridor-v0", "--steps", "40", "--out", "run", *SMALL_DQN)
    finally:
        gymnasium.registry.pop("TestOnly/Corridor-v0")
    assert record_of("run")["env"] == "TestOnly/Corridor-v0"


def test_the_module_imports_nothing_heavy_at_its_top():
    assert not {"torch", "numpy", "gymnasium"} & set(vars(command_line))
