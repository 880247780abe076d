"""The command in a process of its own: its streams, its folders and what it offers."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import bellgrad as bg
from bellgrad.core.errors import CheckpointError
from bellgrad.runs.metrics import read_metrics

COMMAND = f"{shlex.quote(sys.executable)} -m bellgrad"
TRAIN = f"{COMMAND} train ppo --env CartPole-v1 --steps 256 --num-envs 2 --algo.rollout_steps 64"
TRAIN += " --algo.minibatches 2 --engine eager --eval-episodes 1 --checkpoints 2"
QUICK = {"progress": "off", "engine": "eager", "eval_episodes": 0}

NOISY = '''
import os
import gymnasium
import numpy as np


class Noisy(gymnasium.Env):
    """Writes to file descriptor 1 as a C library does, and moves to another folder."""

    observation_space = gymnasium.spaces.Box(0, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        os.makedirs("elsewhere", exist_ok=True)
        os.chdir("elsewhere")
        os.write(1, b"loading assets\\n")
        print("hello")
        self.left = 9
        return np.zeros(2, np.float32), {}

    def step(self, action):
        os.write(1, b"step\\n")
        self.left -= 1
        return np.zeros(2, np.float32), 1.0, self.left == 0, False, {}
'''


def shell(line, **environ):
    return subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environ,
    )


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "noisy.py").write_text(NOISY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "streams",
    ["2>&1 | head -1", ">&- 2>&-", ">/dev/full 2>&1", "2>&-", "<&- >&- 2>&-", "2>&1 | true"],
)
def test_a_training_goes_on_without_anybody_to_read_it(streams, here):
    done = shell(f"set -o pipefail; {TRAIN} --out run {streams}")
    assert done.returncode == 0 and "Traceback" not in done.stdout + done.stderr
    assert json.loads(Path("run/run.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("environ", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}])
def test_what_cannot_be_encoded_ends_nothing(environ, here):
    done = shell(f"{COMMAND} solve FrozenLake-v1", **environ)
    assert done.returncode == 0 and done.stderr == "" and " ^" in done.stdout


def test_an_answer_that_cannot_be_written_is_told():
    done = shell(f"{COMMAND} list > /dev/full")
    assert done.returncode == 1
    assert done.stderr == "error: standard output could not be written: No space left on device\n"
    left = shell(f"set -o pipefail; {COMMAND} list | head -1")
    assert (left.stdout, left.stderr) == ("algos:\n", "") and left.returncode in (0, 141)


@pytest.mark.parametrize("backend", ["gymnasium", "subprocess"])
def test_what_an_environment_writes_to_descriptor_1_stays_out_of_json_and_its_moves_lose_nothing(
    backend, here
):
    flags = f"--env noisy:Noisy --backend {backend} --out run"
    done = shell(f"{TRAIN.replace('--env CartPole-v1', '')} {flags}")
    assert (done.returncode, done.stdout) == (0, "") and "loading assets" in done.stderr
    assert sorted(path.name for path in Path("run/checkpoints").iterdir()) == [
        "step-0",
        "step-128",
        "step-256",
    ]
    done = shell(f"{COMMAND} evaluate run --episodes 2 --json --trust-imports")
    assert json.loads(done.stdout)["episodes"] == 2 and done.stdout.count("\n") == 1
    assert Path("run/evaluation.json").exists()


def test_runs_that_start_at_once_get_folders_of_their_own(here):
    line = f"{TRAIN} --quiet & " * 4 + "wait"
    assert shell(line).stderr == ""
    assert len(list(Path("runs").iterdir())) == 4
    assert all(
        json.loads((r / "run.json").read_text())["status"] == "finished" for r in Path("runs").iterdir()
    )


def test_of_runs_that_start_at_once_in_one_folder_one_trains(here):
    line = f"({TRAIN} --quiet --out run; echo $?) & " * 4 + "wait"
    done = shell(line)
    assert sorted(done.stdout.split()) == ["0", "2", "2", "2"]
    assert done.stderr.count("\n") == 3 and "Traceback" not in done.stderr
    assert json.loads(Path("run/run.json").read_text())["status"] == "finished"


def test_the_current_folder_may_be_gone(here):
    done = shell(f"mkdir gone; cd gone; rmdir ../gone; {TRAIN} --out run", PYTHONSAFEPATH="1")
    assert done.returncode == 2 and done.stderr.startswith("error: the current folder was deleted")


# --------------------------------------------------------------------------------------- from Python
class Endless(gymnasium.Env):
    """Never ends."""

    observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, reward=1.0, size=1.0):
        self.reward, self.size = reward, size

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.full(1, 0.5, np.float32), {}

    def step(self, action):
        return np.full(1, 0.5, np.float32), self.reward * (action - 0.5), False, False, {}


PPO = bg.PPO(rollout_steps=16, minibatches=4)


def test_evaluations_of_episodes_without_end_are_cut_and_that_is_said_and_recorded(tmp_path, capsys):
    options = {"eval_episodes": 3, "checkpoints": 2, "num_envs": 2, "engine": "eager"}
    run = bg.train(PPO, Endless, 64, out=tmp_path / "run", **options)
    said = [line for line in capsys.readouterr().err.splitlines() if "cut at" in line]
    assert said == [
        "evaluation at step 32: 3 of 3 episodes did not end and were cut at 1,000 steps; the environment has"
        " no time limit (max_episode_steps sets one)"
    ]
    rows = [row for row in read_metrics(run.folder) if "eval_return_mean" in row]
    assert [(row["eval_truncated"], row["eval_length_mean"]) for row in rows] == [(1.0, 1000.0)] * 2
    assert "100% of them did not end" in bg.write_report(run).read_text()


@pytest.mark.parametrize(
    ("algorithm", "steps", "note"),
    [
        (
            PPO,
            100,
            "takes 32 steps at a time: this run takes 128, not 100, and saves 4 of the 10 checkpoints",
        ),
        (
            bg.DQN(learning_starts=50, update_period=4),
            41,
            "takes 4 steps at a time: this run takes 44, not 41",
        ),
        (bg.DQN(learning_starts=50), 40, "learns nothing in this run: its first 50 steps are random"),
        (bg.CMAES(population=6), 30, "plays a generation of 6 episodes at a time (at most 60 steps)"),
        (bg.REINFORCE(episodes=4), 30, "plays 4 whole episodes at a time (at most 40 steps)"),
    ],
    ids=["ppo", "dqn", "warm-up", "cma_es", "reinforce"],
)
def test_a_run_that_takes_more_steps_than_asked_says_so(algorithm, steps, note, tmp_path, capsys):
    bg.train(
        algorithm, Endless, steps, out=tmp_path / "run", num_envs=2, max_episode_steps=10, engine="eager",
        eval_episodes=0,
    )  # fmt: skip
    assert note in capsys.readouterr().err


def test_a_run_of_whole_calls_has_nothing_to_say(tmp_path, capsys):
    bg.train(PPO, Endless, 320, out=tmp_path / "run", num_envs=2, max_episode_steps=10, engine="eager")
    assert "at a time" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kwargs", "options", "advice"),
    [
        ({"reward": 1e20}, {}, r"rewards of 5\.0e\+19 were seen; bring them near 1: divide them in the"),
        ({"reward": 1e20}, {"normalize_reward": False}, "rewards of 5"),
    ],
)
def test_a_run_that_diverges_by_its_rewards_names_them(kwargs, options, advice, tmp_path):
    with pytest.raises(bg.BellgradError, match=advice) as diverged:
        bg.train(PPO, Endless, 512, out=tmp_path / "run", env_kwargs=kwargs, **QUICK, **options)
    assert "learning rate" not in str(diverged.value) and "normalize_reward" not in str(diverged.value)


def test_a_folder_that_is_moved_while_it_trains_ends_the_run_clearly(tmp_path):
    class Moves(Endless):
        def step(self, action):
            if (tmp_path / "run" / "checkpoints" / "step-32").exists():
                (tmp_path / "run").rename(tmp_path / "moved")
            return super().step(action)

    with pytest.raises(
        CheckpointError, match="run was moved, deleted or replaced while the run was training"
    ):
        bg.train(PPO, Moves, 128, out=tmp_path / "run", num_envs=2, **QUICK)
    assert not (tmp_path / "run").exists()


def test_what_is_offered_for_a_run_can_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = bg.train(PPO, "CartPole-v1", 128, out="-my 'runs", **QUICK)
    words = shlex.split(named.resume_command())
    assert words == ["bellgrad", "resume", "./-my 'runs"]
    unnamed = bg.train(PPO, lambda: Endless(), 128, out="unnamed", max_episode_steps=9, **QUICK)
    assert unnamed.resume_command() == "bellgrad.resume('unnamed', env=...)"
    assert unnamed.command("report") == "bellgrad report unnamed"
    with pytest.raises(bg.UsageError, match=r"given as an object.*bellgrad\.resume\('unnamed', env=\.\.\.\)"):
        bg.evaluate("unnamed")
    assert bg.evaluate("unnamed", 1, env=lambda: Endless()).episodes == 1
    monkeypatch.setattr(Endless, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "Endless", Endless, raising=False)
    script = bg.train(PPO, Endless, 128, out="script", max_episode_steps=9, **QUICK)
    assert script.resume_command() == "bellgrad.resume('script')"
    assert bg.resume("script", 256, progress="off").status == "finished"


@pytest.mark.parametrize("given", ["reset", "step"])
def test_act_says_which_of_the_values_it_wants(given, tmp_path):
    agent = bg.load(bg.train(PPO, "CartPole-v1", 128, out=tmp_path / "run", **QUICK))
    env = gymnasium.make("CartPole-v1")
    values = env.reset(seed=0)
    if given == "step":
        values = env.step(0)
    with pytest.raises(bg.UsageError, match="give the first"):
        agent.act(values)
    assert agent.act(values[0]) in (0, 1)
