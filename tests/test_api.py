"""The Python calls: what a user types after `import bellgrad as bg`."""

import contextlib
import inspect
import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

import bellgrad as bg
from bellgrad import api, cli
from bellgrad.algos.dqn import DQNLearner
from bellgrad.cli.train import _flag_names
from bellgrad.core.errors import CheckpointError, UsageError
from bellgrad.core.registry import ALGORITHMS
from bellgrad.core.tree import leaves
from bellgrad.envs.transforms import Transform
from bellgrad.mdp.examples import corridor
from bellgrad.presets import find_preset
from bellgrad.report.files import replacing
from bellgrad.runs.settings import Settings
from bellgrad.training.off_policy import OffPolicy

TINY = bg.MLP((8,))
PPO = bg.PPO(rollout_steps=32, minibatches=2, epochs=2, network=TINY)
DQN = bg.DQN(learning_starts=32, batch_size=8, buffer_size=1_000, network=TINY)
FAST = {"engine": "eager", "progress": "off", "checkpoints": 2}


class Guess(gymnasium.Env):
    """One step: the observation is the right action."""

    observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.answer = int(self.np_random.integers(2))
        return np.array([self.answer], np.float32), {}

    def step(self, action):
        return np.array([self.answer], np.float32), float(action == self.answer), True, False, {}


@dataclass(frozen=True)
class Own(bg.DQN):
    """A user's own algorithm, with a driver and an optimizer of its own."""

    shift: float = 0.25

    def build(self, spec, steps=None):
        return OwnLearner(self, spec)


class OwnDriver(OffPolicy):
    pass


class OwnLearner(DQNLearner):
    driver = OwnDriver


@dataclass(frozen=True)
class Ascent:
    """A user's own optimizer."""

    scale: float = 0.5

    def init(self, params):
        return {"count": torch.zeros((), dtype=torch.int64)}

    def step(self, params, grads, state, learning_rate=None):
        moved = {name: param - learning_rate * self.scale * grads[name] for name, param in params.items()}
        return moved, {"count": state["count"] + 1}


@dataclass(frozen=True)
class Halve(Transform):
    """A user's own transform."""

    factor: float = 0.5

    def observe(self, state, obs):
        return obs * self.factor

    def step(self, state, step, frozen, active=None):
        return state, step._replace(obs=step.obs * self.factor, next_obs=step.next_obs * self.factor)


@dataclass(frozen=True)
class Wide:
    """A user's own network."""

    width: int = 8

    def build(self, observation_space, outputs, action_size=0):
        return nn.Sequential(
            nn.Linear(observation_space.shape[0], self.width), nn.Linear(self.width, outputs)
        )


@dataclass
class Melting:
    def build(self, spec, steps=None): ...


def local():
    @dataclass(frozen=True)
    class Inside(bg.DQN):
        pass

    return Inside()


def measurements(run):
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in ("time", "steps_per_second")}
        for line in lines
    ]


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return bg.train(
        PPO,
        "CartPole-v1",
        256,
        num_envs=2,
        eval_episodes=2,
        out=tmp_path_factory.mktemp("api") / "run",
        **FAST,
    )


def test_importing_bellgrad_imports_no_torch():
    check = "import sys, bellgrad; assert not {'torch', 'numpy', 'gymnasium'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)


def test_every_public_name_is_there_and_documented():
    for name in bg.__all__:
        assert inspect.getdoc(getattr(bg, name)), name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        bg.nonsense


def test_every_public_call_documents_its_arguments_that_are_not_plain():
    for name in ("train", "resume", "evaluate"):
        call = getattr(bg, name)
        for argument in inspect.signature(call).parameters:
            assert f"{argument}:" in inspect.getdoc(call), f"bg.{name} says nothing about {argument}"


def test_train_gives_a_run_and_the_others_take_it_or_its_folder(run, tmp_path):
    assert run.status == "finished"
    by_run, by_folder = bg.evaluate(run, episodes=4), bg.evaluate(str(run.folder), episodes=4)
    assert by_run == by_folder
    assert by_run.episodes == len(by_run.returns) == 4
    assert by_run.return_mean == pytest.approx(np.mean(by_run.returns))
    assert bg.plot(run, tmp_path / "a.png") == bg.plot([run.folder, run], tmp_path / "a.png")
    assert bg.compare(run) == bg.compare(run.folder) == bg.compare([run])
    assert bg.write_report(run) == bg.write_report(run.folder) == run.folder / "report.html"


def test_a_loaded_agent_acts_in_the_environments_own_units(run):
    agent = bg.load(run.folder)
    env = gymnasium.make("CartPole-v1")
    obs, _ = env.reset(seed=0)
    assert agent.act(obs) in (0, 1)
    with pytest.raises(bg.UsageError, match="shape"):
        agent.act(np.zeros(3, np.float32))


def test_the_recorded_python_trains_the_same_run_again(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = run.record["command"]
    assert command.startswith("bg.train(bg.PPO(")
    again = eval(command, {"bg": bg})
    assert again.settings == run.settings
    assert measurements(again) == measurements(run)


def test_the_recorded_python_names_a_users_own_classes():
    made = api._call(bg.DQN(network=nn.Linear), Guess, 10, 0, {})
    assert "network=Linear" in made and "env=Guess" in made and "optimizer=bg.Adam(" in made
    made = api._call(OWN, "CartPole-v1", 10, 0, {})
    assert made.startswith("bg.train(Own(") and "network=Wide(" in made


OWN = Own(
    learning_starts=32, batch_size=8, buffer_size=1_000, network=Wide(8), optimizer=Ascent(0.9), shift=0.5
)


def test_everything_of_a_users_own_trains_stops_resumes_and_is_opened_again(tmp_path):
    options = {"transforms": [Halve(0.25), "clip_reward:-1:1"], "eval_episodes": 2, **FAST}
    whole = bg.train(OWN, "CartPole-v1", 80, out=tmp_path / "whole", **options)
    part = bg.train(OWN, "CartPole-v1", 40, out=tmp_path / "part", **options)
    opened = bg.Run.open(part.folder)  # the classes' module is imported, so that nothing needs trust
    assert opened.settings == part.settings and type(opened.settings.algorithm) is Own
    bg.resume(part.folder, 80, progress="off")
    states = [bg.load(run.folder).state for run in (whole, part)]
    assert all(torch.equal(a, b) for a, b in zip(*map(leaves, states), strict=True))
    assert states[0].optimizer["count"] == states[0].updates > 0
    record = whole.record["algorithm"]
    assert record["name"] == f"{__name__}:Own" and record["fields"]["shift"] == 0.5
    assert record["fields"]["optimizer"] == {"kind": f"{__name__}:Ascent", "scale": 0.9}
    assert record["fields"]["network"] == {"kind": f"{__name__}:Wide", "width": 8}
    assert whole.record["transforms"][0] == {"kind": f"{__name__}:Halve", "factor": 0.25}
    assert whole.resume_command().endswith("--trust-imports")
    assert bg.evaluate(whole.folder, 2).episodes == 2


def test_an_algorithm_may_be_named(tmp_path):
    run = bg.train("q_learning", "FrozenLake-v1", 200, out=tmp_path / "run", eval_episodes=0, **FAST)
    assert run.settings.algorithm == bg.QLearning()


def test_the_shorthand_for_transforms_is_written_out(tmp_path):
    ask = {"eval_episodes": 0, **FAST}
    short = bg.train(DQN, "CartPole-v1", 40, out=tmp_path / "a", normalize_obs=True, frame_stack=2, **ask)
    stack = [bg.NormalizeObs(), bg.FrameStack(2)]
    listed = bg.train(DQN, "CartPole-v1", 40, out=tmp_path / "b", transforms=stack, **ask)
    assert short.settings == listed.settings and measurements(short) == measurements(listed)
    assert "transforms=[bg.NormalizeObs(clip=10.0), bg.FrameStack(n=2)]" in listed.record["command"]


def test_resume_goes_on_and_refuses_what_is_finished(tmp_path):
    run = bg.train(DQN, "CartPole-v1", 40, out=tmp_path / "run", eval_episodes=0, **FAST)
    with pytest.raises(bg.UsageError, match="finished at step 40"):
        bg.resume(run)
    with pytest.raises(bg.UsageError, match="has reached step 40"):
        bg.resume(run, 40)
    longer = bg.resume(run.folder, 80, progress="off")
    assert longer.status == "finished" and measurements(longer)[-1]["step"] == 80


def test_a_run_without_a_checkpoint_is_begun_again(tmp_path):
    settings = Settings(DQN, "CartPole-v1", 40, engine="eager", eval_episodes=0, checkpoints=2)
    begun = bg.Run.create(settings, tmp_path / "run")  # stopped before anything was saved
    assert measurements(bg.resume(begun.folder, 48, progress="off"))[-1]["step"] == 48


def test_an_environment_may_be_a_class_or_a_function(tmp_path):
    by_class = bg.train(DQN, Guess, 64, out=tmp_path / "class", eval_episodes=0, **FAST)
    by_call = bg.train(DQN, lambda: Guess(), 64, out=tmp_path / "call", eval_episodes=0, **FAST)
    assert measurements(by_class) == measurements(by_call)
    assert bg.evaluate(by_call.folder, 2, env=lambda: Guess()).episodes == 2


def test_default_folders_say_what_is_in_them_and_never_collide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = api.default_folder(DQN, "ALE/Pong-v5", 3)
    assert str(first) == "runs/pong-v5-dqn-3"
    first.mkdir(parents=True)
    assert str(api.default_folder(DQN, "ALE/Pong-v5", 3)) == "runs/pong-v5-dqn-3-2"
    assert api.default_folder(PPO, Guess, 0).name == "guess-ppo-0"


def test_train_or_resume_leaves_finished_runs_alone_and_refuses_other_settings(tmp_path):
    ask = {"out": tmp_path / "run", "eval_episodes": 0, **FAST}
    first = api.train_or_resume(DQN, "CartPole-v1", 40, **ask)
    written = (first.folder / "metrics.jsonl").stat().st_mtime_ns
    assert api.train_or_resume(DQN, "CartPole-v1", 40, **ask).status == "finished"
    assert (first.folder / "metrics.jsonl").stat().st_mtime_ns == written
    with pytest.raises(bg.UsageError, match="other settings"):
        api.train_or_resume(DQN, "CartPole-v1", 40, seed=1, **ask)
    with pytest.raises(bg.UsageError, match=r"other settings \(steps\)"):
        api.train_or_resume(DQN, "CartPole-v1", 50, **ask)


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        (lambda out: bg.train(DQN, "CartPol-v1", 40, out=out), "did you mean CartPole-v1"),
        (lambda out: bg.train(DQN, "Pendulum-v1", 40, out=out), "Discrete"),
        (lambda out: bg.train(DQN, "CartPole-v1", 40, out=out, number_of_envs=2), "number_of_envs"),
        (lambda out: bg.train(DQN, "CartPole-v1", 0, out=out), "steps = 0"),
        (lambda out: bg.train("dqm", "CartPole-v1", 40, out=out), "did you mean dqn"),
        (lambda out: bg.train(bg.DQN, "CartPole-v1", 40, out=out), "DQN is a class; give an instance"),
        (lambda out: bg.train(Melting(), "CartPole-v1", 40, out=out), "Melting must be a frozen dataclass"),
        (lambda out: bg.train(object(), "CartPole-v1", 40, out=out), "is not an algorithm"),
        (lambda out: bg.train(local(), "CartPole-v1", 40, out=out), "defined inside a function"),
        (lambda out: bg.train(DQN, Guess(), 40, out=out), "class"),
        (lambda out: bg.train(bg.DQN(buffer_size=1_000_000_000), "CartPole-v1", 40, out=out), "out of range"),
    ],
)
def test_a_request_that_cannot_be_met_says_why_and_leaves_nothing_behind(call, hint, tmp_path):
    with pytest.raises(bg.UsageError, match=hint):
        call(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_the_users_own_is_never_deleted(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(bg.UsageError):
        bg.train(DQN, "Pendulum-v1", 40, out=tmp_path / "run", progress="off")
    assert (tmp_path / "run").is_dir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    with pytest.raises(bg.UsageError, match="is not a run"):
        bg.train(DQN, "CartPole-v1", 40, out=tmp_path / "run", progress="off")
    assert (tmp_path / "run" / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize(
    "call", [bg.evaluate, lambda run, episodes: bg.record(run, "video.mp4", episodes=episodes)]
)
def test_an_evaluation_needs_an_episode(call, run):
    with pytest.raises(bg.UsageError, match="episodes = 0 is out of range"):
        call(run, episodes=0)


def test_resuming_beyond_the_end_of_a_learning_rate_that_falls_to_0_says_so(tmp_path, capsys):
    run = bg.train(PPO, "CartPole-v1", 64, num_envs=2, eval_episodes=0, out=tmp_path / "run", **FAST)
    bg.resume(run, 128, progress="off")
    assert "learning rate falls to 0 at step 64" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- documentation
ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def code_blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def test_the_example_in_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example = (
        code_blocks(ROOT / "README.md", "python")[0]
        .replace("100_000", "2_048")
        .replace("episodes=100", "episodes=2")
    )
    exec(compile(example, "README.md", "exec"), {})
    assert (tmp_path / "curve.png").exists()


def test_every_command_in_the_documentation_is_understood(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    lines = [line for page in PAGES for block in code_blocks(page, "bash") for line in block.splitlines()]
    commands = [
        shlex.split(line, comments=True)[1:] for line in lines if re.match(r"(\.venv/bin/)?bellgrad ", line)
    ]
    assert len(commands) > 20
    for words in commands:
        flags, rest = cli._split_algo_flags(words)
        args, left = cli.build_parser().parse_known_args(rest)
        assert not left, words
        known = _flag_names(ALGORITHMS.make(args.algo), "--algo") if flags else []
        assert {flag for flag in flags if flag.startswith("--")} <= {*known, "--algo.help"}, words
        if getattr(args, "preset", None):
            find_preset(args.algo, args.preset)


def test_the_python_in_the_documentation_runs_or_is_python(tmp_path, monkeypatch):
    for page in PAGES:
        for block in code_blocks(page, "python"):
            if not block.startswith("bg."):  # signatures
                compile(block, str(page), "exec")
    monkeypatch.chdir(tmp_path)
    for block in code_blocks(ROOT / "docs" / "api.md", "python"):
        if not block.startswith("bg."):
            exec(compile(block, "api.md", "exec"), {})
    for block in code_blocks(ROOT / "docs" / "environments.md", "python"):
        exec(compile(block, "environments.md", "exec"), {"__name__": "example"})


def test_an_mdp_is_an_environment(tmp_path):
    run = bg.train(
        bg.QLearning(alpha=1.0, gamma=1.0),
        corridor(),
        2_000,
        out=tmp_path / "run",
        max_episode_steps=50,
        **FAST,
    )
    assert run.record["env"] == "bellgrad.mdp.model:FiniteMDP"
    # The corridor is deterministic, so that a step size of 1 is exact: Q*(R) of its five states.
    assert bg.load(run).state.q[:, 1].tolist() == [-13, -12, -11, -1, 0]


def test_discarding_a_run_spares_what_was_saved_and_what_another_process_trains(run, tmp_path):
    settings = Settings(DQN, "CartPole-v1", 100)
    for blocked in (False, True):
        made = bg.Run.create(settings, tmp_path / f"blocked-{blocked}")
        with bg.Run.open(made.folder).lock() if blocked else contextlib.nullcontext():
            made.discard()
        assert made.folder.exists() == blocked
    run.discard()
    assert run.folder.exists()


def test_an_evaluation_that_cannot_be_kept_is_still_given(run, monkeypatch, capsys):
    def full(path, value):
        raise bg.CheckpointError("no space")

    monkeypatch.setattr(api, "write_json_atomic", full)
    assert bg.evaluate(run, episodes=2).episodes == 2
    assert capsys.readouterr().err == "warning: no space\n"


WRONG = {
    "load": [(None,), (5,), (b"run",), ("run\0",), ("run", "newest"), ("run", 1.0)],
    "resume": [(None,), ("run", "100"), ("run", 1.5), ("run", True)],
    "evaluate": [(5.0,), ("run", "3"), ("run", 1.5), ("run", True), ("run", None)],
    "plot": [(None, "a.png"), (5, "a.png"), (b"run", "a.png"), ("run", None), ("run", 5)],
    "compare": [(None,), (5,), ([5],)],
    "record": [("run", None), ("run", ["a.mp4"])],
    "export": [("run", None), (None, "a.onnx")],
    "picture": [(None,)],
    "write_report": [(None,), (5,)],
}


@pytest.mark.parametrize(
    ("name", "arguments"), [(name, each) for name in WRONG for each in WRONG[name]], ids=str
)
def test_an_argument_of_a_wrong_type_is_named_in_one_line(name, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^[a-z]+ = |^unknown checkpoint ") as caught:
        getattr(api, name)(*arguments)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong",
    [{"out": 5}, {"out": b"run"}, {"out": "a\0b"}, {"out": ["a"]}, {"progress": "x"}, {"seed": 2**70}],
    ids=str,
)
def test_a_run_with_a_wrong_argument_is_refused_and_makes_nothing(wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=next(iter(wrong))):
        api.train(PPO, "CartPole-v1", 64, **wrong)
    assert not list(tmp_path.iterdir())


def test_a_name_that_the_disk_refuses_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="File name too long"):
        api.train(PPO, "CartPole-v1", 64, out="x" * 300)
    figure = Path("/proc/there/is/no/such.png")
    with pytest.raises(CheckpointError, match="could not be written"), replacing(figure):
        raise AssertionError("not reached")
