"""A run that was stopped and resumed ends with the same bits as one that never stopped.

A kill leaves the run folder as it is at that moment. So `killed_at` copies the folder while a run trains, and
a copy that is resumed must end as the run itself did. (`tests/chaos.py` kills real processes, also inside the
writing of a checkpoint.)
"""

import json
import os
import shutil
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from bellgrad import api
from bellgrad.algos.a2c import A2C
from bellgrad.algos.cma_es import CMAES
from bellgrad.algos.dqn import DQN
from bellgrad.algos.openai_es import OpenAIES
from bellgrad.algos.ppo import PPO
from bellgrad.algos.reinforce import REINFORCE
from bellgrad.algos.sac import SAC
from bellgrad.algos.simulated_annealing import SimulatedAnnealing
from bellgrad.algos.trpo import TRPO
from bellgrad.algos.vpg import VPG
from bellgrad.core.errors import CheckpointError, UsageError
from bellgrad.nets.specs import CNN, MLP
from bellgrad.runs.checkpoint import checkpoints, open_latest
from bellgrad.runs.files import read_json
from bellgrad.runs.reading import read_metrics
from bellgrad.training import session as session_module
from bellgrad.training.evaluate import Evaluation
from bellgrad.training.off_policy import OffPolicy
from bellgrad.training.run import Run
from bellgrad.training.session import Session

SMALL = MLP((16, 16))
TINY_DQN = DQN(network=SMALL, learning_starts=50, batch_size=8, update_period=4, buffer_size=300)
TINY_SAC = SAC(network=SMALL, learning_starts=50, batch_size=8, update_period=4, buffer_size=300)
TINY_REINFORCE = REINFORCE(network=SMALL, episodes=4, state_weight="geometric")
TINY_PPO = PPO(network=SMALL, rollout_steps=16, minibatches=2, epochs=2)


class Pictures(gymnasium.Env):
    """Random uint8 pictures, large enough that the replay keeps each once; the action should be their
    parity."""

    observation_space = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 12
        return self._draw(), {}

    def _draw(self):
        self.picture = self.np_random.integers(0, 256, (1, 36, 36), np.uint8)
        return self.picture

    def step(self, action):
        reward = float(self.picture[0, 0, 0] % 2 == action)
        self.left -= 1
        return self._draw(), reward, self.left == 0, False, {}


class Mixed(gymnasium.Env):
    """Observes a dictionary, one part of it an integer; episodes end at random."""

    observation_space = spaces.Dict(
        {"where": spaces.Box(-1, 1, (2,), np.float32), "kind": spaces.Discrete(3)}
    )
    action_space = spaces.Box(-2.0, 5.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._draw(), {}

    def _draw(self):
        where = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return {"where": where, "kind": int(self.np_random.integers(3))}

    def step(self, action):
        return self._draw(), -float(np.square(action).sum()), self.np_random.random() < 0.1, False, {}


class Levers(gymnasium.Env):
    """Two choices at once; one action of each is forbidden, another one at each step."""

    def __init__(self):
        self.observation_space = spaces.Dict(
            {"load": spaces.Box(-1, 1, (2,), np.float32), "action_mask": spaces.MultiBinary(5)}
        )
        self.action_space = spaces.MultiDiscrete([2, 3], start=[0, 4])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._draw(), {}

    def _draw(self):
        self.mask = np.ones(5, np.int8)
        self.mask[[self.np_random.integers(2), 2 + self.np_random.integers(3)]] = 0
        return {"load": self.np_random.uniform(-1, 1, 2).astype(np.float32), "action_mask": self.mask}

    def step(self, action):
        assert self.mask[action[0]] and self.mask[2 + action[1] - 4]
        return self._draw(), float(action.sum()), self.np_random.random() < 0.1, False, {}


class LeavesTraces(gymnasium.Env):
    """Two steps an episode; the reward counts the episodes that this object has seen, as no seed can
    change."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)
    seen = 0

    def reset(self, *, seed=None, options=None):
        self.seen, self.left = self.seen + 1, 2
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.zeros(1, np.float32), float(self.seen), self.left == 0, False, {}


def train(algorithm, env, steps, out, **options):
    options = {"eval_episodes": 2, "max_episode_steps": 40, "engine": "eager", "progress": "off"} | options
    return api.train(algorithm, env, steps, out=out, **options)


def resume(folder, steps=None, **options):
    return api.resume(folder, steps, progress="off", **options)


@pytest.fixture
def killed_at(tmp_path, monkeypatch):
    """Copies of the folder `whole`, or another, from within its training: as `kill -9` would leave it at
    these steps."""
    init = Session.__init__

    def arrange(*steps, name="whole"):
        copies, left = [], sorted(steps)

        def watched_init(self, run, *args):
            init(self, run, *args)
            advance = self.driver.advance

            def watched():
                report = advance()
                if run.folder.name == name and left and self.driver.steps >= left[0]:
                    copies.append(tmp_path / f"{name}-killed-at-{left.pop(0)}")
                    shutil.copytree(run.folder, copies[-1])
                return report

            self.driver.advance = watched

        monkeypatch.setattr(Session, "__init__", watched_init)
        return copies

    return arrange


def metrics(folder):
    """The log without its clock readings."""
    records = read_metrics(folder)
    return [{k: v for k, v in record.items() if k not in ("time", "steps_per_second")} for record in records]


def final(folder):
    """The newest checkpoint's tensors as bytes, and its values without the clock readings."""
    checkpoint, warnings = open_latest(folder / "checkpoints")
    assert not warnings
    values = {k: v for k, v in checkpoint.values.items() if k not in ("seconds", "metrics_bytes")}
    return (
        checkpoint.step,
        {name: checkpoint.read(name).numpy().tobytes() for name in checkpoint.names()},
        values,
    )


def kept(folder):
    """The names in the folder of checkpoints."""
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def assert_same_end(folder, other):
    (step, tensors, values), (other_step, other_tensors, other_values) = final(folder), final(other)
    assert (step, tensors.keys()) == (other_step, other_tensors.keys())
    assert [name for name in tensors if tensors[name] != other_tensors[name]] == []
    assert values == other_values
    assert metrics(folder) == metrics(other)
    assert kept(folder) == kept(other)
    assert read_json(folder / "run.json")["status"] == read_json(other / "run.json")["status"] == "finished"


# -------------------------------------------------------------------------------------------------- exactness
@pytest.mark.parametrize(
    ("algorithm", "env", "steps", "killed", "options"),
    [
        (TINY_DQN, "CartPole-v1", 600, (12, 404), {}),
        (
            TINY_DQN,
            "CartPole-v1",
            600,
            (365,),
            {"normalize_obs": True, "normalize_reward": True, "num_envs": 2},
        ),
        (
            TINY_DQN,
            "CartPole-v1",
            600,
            (365,),
            {"backend": "gymnasium", "frame_stack": 3, "normalize_obs": True},
        ),
        (
            DQN(network=CNN((4, 4, 4)), learning_starts=50, batch_size=8, update_period=4, buffer_size=100),
            Pictures,
            300,
            (244,),
            {"frame_stack": 2},
        ),
        (
            TINY_PPO,
            "Pendulum-v1",
            1536,
            (100, 1000),
            {"normalize_obs": True, "normalize_reward": True, "frame_stack": 2},
        ),
        (
            TINY_PPO,
            "CartPole-v1",
            1536,
            (1000,),
            {"backend": "gymnasium", "normalize_obs": True, "normalize_reward": True},
        ),
        (
            PPO(network=SMALL, rollout_steps=16, minibatches=2, epochs=4, target_kl=1e-4),
            "CartPole-v1",
            1536,
            (900,),
            {},
        ),
        (TINY_PPO, Mixed, 768, (500,), {"normalize_reward": True}),
        (TINY_PPO, Levers, 384, (200,), {"num_envs": 2}),
        (
            PPO(network=SMALL, rollout_steps=16, minibatches=2, epochs=2, objective="kl"),
            "CartPole-v1",
            768,
            (500,),
            {},
        ),
        (A2C(network=SMALL, state_weight="geometric"), "CartPole-v1", 480, (300,), {}),
        (A2C(network=SMALL), "Pendulum-v1", 480, (300,), {"backend": "gymnasium", "normalize_obs": True}),
        (
            VPG(network=SMALL, rollout_steps=16, epochs=2, state_weight="geometric"),
            "Pendulum-v1",
            768,
            (500,),
            {},
        ),
        (TRPO(network=SMALL, rollout_steps=16, epochs=2, conjugate_steps=2), "CartPole-v1", 768, (500,), {}),
        (
            TINY_REINFORCE,
            "CartPole-v1",
            600,
            (4, 300),
            {"num_envs": 2, "normalize_obs": True, "normalize_reward": True},
        ),
        (TINY_REINFORCE, Mixed, 500, (300,), {"num_envs": 1}),
        (
            OpenAIES(population=6, episodes=2),
            "CartPole-v1",
            900,
            (1, 500),
            {"normalize_obs": True, "frame_stack": 2},
        ),
        (CMAES(population=6), "Pendulum-v1", 960, (500,), {"backend": "gymnasium"}),
        (SimulatedAnnealing(population=4, episodes=2), Mixed, 300, (200,), {"num_envs": 4}),
        (TINY_SAC, "Pendulum-v1", 500, (8, 352), {}),
        (
            TINY_SAC,
            "Pendulum-v1",
            500,
            (352,),
            {"backend": "gymnasium", "normalize_reward": True, "frame_stack": 2},
        ),
    ],
    ids=[
        "dqn-native",
        "dqn-native-normalized",
        "dqn-gymnasium-stacked",
        "dqn-frames",
        "ppo-native-wrapped",
        "ppo-gymnasium",
        "ppo-target-kl",
        "ppo-dictionary",
        "ppo-masked-choices",
        "ppo-kl",
        "a2c-native",
        "a2c-gymnasium",
        "vpg",
        "trpo",
        "reinforce-native-normalized",
        "reinforce-dictionary",
        "openai-es-native-wrapped",
        "cma-es-gymnasium",
        "annealing-dictionary-in-groups",
        "sac-native",
        "sac-gymnasium-wrapped",
    ],
)
def test_trap_resume_ends_with_the_bits_of_the_run_that_never_stopped(
    algorithm, env, steps, killed, options, killed_at, tmp_path
):
    copies = killed_at(*killed)
    train(algorithm, env, steps, tmp_path / "whole", checkpoints=7, **options)
    assert len(copies) == len(killed)
    for copy in copies:
        assert final(copy)[0] < final(tmp_path / "whole")[0]
        resume(copy, env=env)
        assert_same_end(copy, tmp_path / "whole")


def test_trap_resume_with_environments_in_worker_processes(killed_at, tmp_path):
    copies = killed_at(500)
    train(
        TINY_PPO,
        "CartPole-v1",
        1_000,
        tmp_path / "whole",
        checkpoints=4,
        backend="subprocess",
        num_envs=4,
        eval_episodes=0,
    )
    resume(copies[0])
    assert_same_end(copies[0], tmp_path / "whole")


@pytest.mark.compiled
def test_trap_resume_of_a_compiled_run(killed_at, tmp_path):
    copies = killed_at(500)
    train(TINY_DQN, "CartPole-v1", 800, tmp_path / "whole", checkpoints=5, engine="compiled")
    assert read_json(tmp_path / "whole" / "run.json")["engine_used"]["mode"] == "compiled"
    resume(copies[0])
    assert_same_end(copies[0], tmp_path / "whole")


def test_a_run_may_be_killed_and_resumed_again_and_again(killed_at, tmp_path):
    once = killed_at(160)
    train(TINY_DQN, "CartPole-v1", 600, tmp_path / "whole", checkpoints=6)
    twice = killed_at(400, name=once[0].name)
    resume(once[0])
    resume(twice[0])
    assert_same_end(once[0], tmp_path / "whole")
    assert_same_end(twice[0], tmp_path / "whole")


def test_a_run_that_is_killed_between_its_end_and_saying_so_only_says_so(tmp_path, monkeypatch):
    copies = []

    def save_record(self, **changes):
        if changes.get("status") == "finished":
            copies.append(tmp_path / "killed")
            shutil.copytree(self.folder, copies[0])
        original(self, **changes)

    original = Run.save_record
    monkeypatch.setattr(Run, "save_record", save_record)
    train(TINY_DQN, "CartPole-v1", 400, tmp_path / "whole")
    monkeypatch.setattr(Run, "save_record", original)
    assert Run.open(copies[0]).status == "running"
    resume(copies[0])
    assert_same_end(copies[0], tmp_path / "whole")


def test_a_line_that_a_kill_tore_and_what_was_logged_after_the_checkpoint_are_written_anew(
    killed_at, tmp_path
):
    copies = killed_at(440)
    train(TINY_DQN, "CartPole-v1", 600, tmp_path / "whole", checkpoints=6)
    with open(copies[0] / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 500, "lo')
    assert metrics(copies[0])[-1]["step"] > open_latest(copies[0] / "checkpoints")[0].step
    resume(copies[0])
    assert metrics(copies[0]) == metrics(tmp_path / "whole")


def test_what_a_killed_process_left_half_written_is_cleared_away(killed_at, tmp_path):
    copies = killed_at(404)
    train(TINY_DQN, "CartPole-v1", 600, tmp_path / "whole", checkpoints=6)
    (copies[0] / "checkpoints" / ".tmp-step-500-0badcafe").mkdir()
    (copies[0] / ".tmp-run.json-123").write_text("{")
    resume(copies[0])
    left = [path.name for folder in (copies[0], copies[0] / "checkpoints") for path in folder.glob(".tmp-*")]
    assert left == []
    assert_same_end(copies[0], tmp_path / "whole")


def test_when_the_log_reads_its_tensors_changes_nothing(tmp_path, monkeypatch):
    train(TINY_DQN, "CartPole-v1", 400, tmp_path / "late")
    monkeypatch.setattr(session_module, "PENDING_REPORTS", 3)
    train(TINY_DQN, "CartPole-v1", 400, tmp_path / "early")
    assert_same_end(tmp_path / "early", tmp_path / "late")


def test_evaluations_do_not_depend_on_one_another(tmp_path):
    train(TINY_PPO, LeavesTraces, 512, tmp_path / "run", checkpoints=4, eval_episodes=6)
    returns = [
        record["eval_return_mean"] for record in metrics(tmp_path / "run") if "eval_return_mean" in record
    ]
    assert returns == [2.0] * 4  # six new environments, one episode each, two steps with the reward 1


# ---------------------------------------------------------------------------------------------- larger totals
def test_a_larger_total_goes_on_as_if_it_had_been_asked_for_at_once(tmp_path):
    train(TINY_DQN, "CartPole-v1", 600, tmp_path / "at-once")
    train(TINY_DQN, "CartPole-v1", 300, tmp_path / "extended")
    run = resume(tmp_path / "extended", 600)
    assert (run.status, run.settings.steps, run.record["steps"]) == ("finished", 600, 600)
    one, other = final(tmp_path / "at-once"), final(tmp_path / "extended")
    assert one[0] == other[0] == 600 and one[1] == other[1]  # DQN has no schedule that depends on the total


def test_the_horizon_of_schedules_and_the_steps_of_the_log_stay_when_the_total_grows(tmp_path):
    run = train(TINY_PPO, "CartPole-v1", 512, tmp_path / "run", checkpoints=2)
    before = {name: run.record[name] for name in ("horizon", "log_every", "checkpoint_every")}
    assert before == {"horizon": 512, "log_every": 3, "checkpoint_every": 256}
    run = resume(tmp_path / "run", 1024)
    assert {name: run.record[name] for name in before} == before
    evaluated = [record["step"] for record in metrics(tmp_path / "run") if "eval_return_mean" in record]
    assert evaluated == [256, 512, 768, 1024]


def test_an_extended_run_resumes_exactly_too(killed_at, tmp_path):
    copies = killed_at(440)  # beyond the first total
    train(TINY_DQN, "CartPole-v1", 400, tmp_path / "whole")
    resume(tmp_path / "whole", 700)
    resume(copies[0])
    assert_same_end(copies[0], tmp_path / "whole")


def test_a_total_that_is_reached_already_is_refused(tmp_path):
    train(TINY_DQN, "CartPole-v1", 200, tmp_path / "run")
    with pytest.raises(UsageError, match=r"reached step 200; ask for more"):
        resume(tmp_path / "run", 200)
    with pytest.raises(UsageError, match=r"finished at step 200; give a larger --steps"):
        resume(tmp_path / "run")


# ----------------------------------------------------------------- environments that do not repeat themselves
class Unseeded(gymnasium.Env):
    """Episodes of 7 steps that take their numbers from the operating system, whatever their seed."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.left = 7
        return self._draw(), {}

    def _draw(self):
        return np.frombuffer(os.urandom(2), np.int8).astype(np.float32) / 128

    def step(self, action):
        self.left -= 1
        return self._draw(), 1.0, self.left == 0, False, {}


@pytest.mark.parametrize("algorithm", [TINY_DQN, TINY_PPO])
def test_an_environment_that_does_not_repeat_itself_begins_new_episodes_and_the_run_says_so(
    algorithm, tmp_path, capsys
):
    train(algorithm, Unseeded, 256, tmp_path / "run", num_envs=2, normalize_obs=True)
    before, _ = open_latest(tmp_path / "run" / "checkpoints")
    assert before.values["restarts"] == []
    run = Run.open(tmp_path / "run", env=Unseeded)
    run.extend(512, target_return=None)
    env = run.make_env(2)
    session = Session(run, env, run.checkpoint())
    warnings = capsys.readouterr().err.strip().splitlines()
    assert (
        len(warnings) == 1
        and "environment 0 gave another observation" in warnings[0]
        and "the results differ" in warnings[0]
    )

    values, tensors = session.driver.snapshot()
    began_anew = {
        "env/env/seed",
        "env/env/steps",
        "env/env/episode",
        "env/env/episode_seed",
        "env/env/length",
        "env/env/return_",
        "env/env/action",
        "env/env/obs/0",
        "loop/obs",
    }
    changed = {name for name in before.names() if not torch.equal(before.read(name), tensors[name])}
    normalizer = {name for name in changed if name.startswith("env/transforms/0/")}
    assert changed - normalizer <= began_anew and "loop/obs" in changed
    count = "env/transforms/0/count"
    assert tensors[count] == before.read(count) + 2  # it has taken in the two new first observations
    assert values == before.values["driver"]
    assert tensors["env/env/length"].tolist() == [0, 0]

    session.train()
    env.close()
    after, _ = open_latest(tmp_path / "run" / "checkpoints")
    assert (after.step, after.values["restarts"]) == (512, [256])
    lengths = after.values["tracker"]["lengths"]
    assert set(lengths) == {7}  # no episode is counted that was begun before the stop and ended after it


# ---------------------------------------------------------------------------------------- damaged checkpoints
def damage(checkpoint):
    file = sorted(checkpoint.glob("tensors-*"))[0]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_damaged_newest_checkpoint_is_named_once_and_the_one_before_it_is_used(killed_at, tmp_path, capsys):
    copies = killed_at(404)
    train(TINY_DQN, "CartPole-v1", 600, tmp_path / "whole", checkpoints=6)
    steps = [step for step, _ in checkpoints(copies[0] / "checkpoints")]
    damage(copies[0] / "checkpoints" / f"step-{steps[-1]}")
    resume(copies[0])
    warnings = capsys.readouterr().err.strip().splitlines()
    assert len(warnings) == 1 and f"step-{steps[-1]}" in warnings[0] and "damaged" in warnings[0]
    assert_same_end(copies[0], tmp_path / "whole")


def test_a_run_with_no_whole_checkpoint_is_never_begun_anew_silently(killed_at, tmp_path):
    copies = killed_at(404)
    train(TINY_DQN, "CartPole-v1", 600, tmp_path / "whole", checkpoints=6)
    there = [path for _, path in checkpoints(copies[0] / "checkpoints")]
    for path in there:
        damage(path)
    log = (copies[0] / "metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match="no usable checkpoint") as refused:
        resume(copies[0])
    assert all(path.name in str(refused.value) for path in there)
    assert (copies[0] / "metrics.jsonl").read_bytes() == log


@pytest.mark.parametrize(
    "change",
    [
        {"engine_used": {"mode": "eager"}},
        {"engine_used": None},
        {"engine_used": {"mode": "eager", "threads": "2", "updates_per_call": 1, "reason": ""}},
        {"engine_used": {"mode": "fast", "threads": 2, "updates_per_call": 1, "reason": ""}},
        {"log_every": 0},
        {"checkpoint_every": "10"},
        {"horizon": True},
        {"device_used": "tpu"},
    ],
)
def test_a_run_json_that_says_nonsense_is_refused_in_one_line(change, tmp_path):
    train(TINY_DQN, "CartPole-v1", 200, tmp_path / "run")
    record = read_json(tmp_path / "run" / "run.json") | change
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=r"run\.json is damaged") as refused:
        resume(tmp_path / "run", 300)
    assert "\n" not in str(refused.value)


# ---------------------------------------------------------------------------------------- status and the best
def test_the_status_tells_where_a_run_is(tmp_path, monkeypatch):
    seen = []
    advance = OffPolicy.advance

    def watched(self):
        seen.append(read_json(tmp_path / "run" / "run.json"))
        return advance(self)

    monkeypatch.setattr(OffPolicy, "advance", watched)
    run = Run.create(api._settings(TINY_DQN, "CartPole-v1", 200, 0, {"engine": "eager"}), tmp_path / "run")
    assert run.status == "started" and run.record["finished"] is None
    run.train(progress="off")
    assert {record["status"] for record in seen} == {"running"}
    assert seen[0]["device_used"] == "cpu" and seen[0]["engine_used"]["mode"] == "eager"
    record = read_json(tmp_path / "run" / "run.json")
    assert record["status"] == "finished" and record["finished"] >= record["started"]


def returns(monkeypatch, *means):
    """Let evaluations give these mean returns, one after another."""
    left = iter(means)

    def evaluate(*args, **options):
        return Evaluation(next(left), 0.0, 1.0, 1, 0, [0.0])

    monkeypatch.setattr(session_module, "evaluate_agent", evaluate)


def test_the_best_checkpoint_is_kept_beside_the_last_three(tmp_path, monkeypatch):
    returns(monkeypatch, 1.0, 5.0, 2.0, 5.0, 3.0, 4.0)
    run = train(TINY_DQN, "CartPole-v1", 600, tmp_path / "run", checkpoints=6)
    assert [step for step, _ in checkpoints(tmp_path / "run" / "checkpoints")] == [200, 400, 500, 600]
    assert run.checkpoint("best").step == 200
    assert open_latest(tmp_path / "run" / "checkpoints")[0].values["best"] == {
        "step": 200,
        "return_mean": 5.0,
    }


def test_every_run_has_the_number_of_checkpoints_that_was_asked_for(tmp_path):
    train(TINY_DQN, "CartPole-v1", 103, tmp_path / "run", checkpoints=10, eval_episodes=1)
    evaluated = [record["step"] for record in metrics(tmp_path / "run") if "eval_return_mean" in record]
    assert len(evaluated) == 10 and evaluated[-1] == final(tmp_path / "run")[0] == 104  # calls of four steps


def test_a_run_stops_early_once_an_evaluation_reaches_the_target_return(killed_at, tmp_path, monkeypatch):
    copies = killed_at(240)
    returns(monkeypatch, 1.0, 3.0, 8.0)
    run = train(TINY_DQN, "CartPole-v1", 600, tmp_path / "whole", checkpoints=6, target_return=8.0)
    assert run.status == "finished" and run.checkpoint().step == run.checkpoint("best").step == 300
    returns(monkeypatch, 8.0)
    resume(copies[0])
    assert_same_end(copies[0], tmp_path / "whole")


def test_a_run_that_was_killed_after_its_last_checkpoint_by_the_target_does_not_train_on(
    tmp_path, monkeypatch
):
    returns(monkeypatch, 1.0, 8.0)
    train(TINY_DQN, "CartPole-v1", 600, tmp_path / "run", checkpoints=6, target_return=8.0)
    record = read_json(tmp_path / "run" / "run.json") | {"status": "running", "finished": None}
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    run = resume(tmp_path / "run")
    assert run.status == "finished" and run.checkpoint().step == 200


def test_a_target_that_was_reached_does_not_stop_a_run_that_is_asked_to_go_on(tmp_path, monkeypatch):
    returns(monkeypatch, 8.0, *[9.0] * 9)
    train(TINY_DQN, "CartPole-v1", 600, tmp_path / "run", checkpoints=6, target_return=8.0)
    assert resume(tmp_path / "run", 600).checkpoint().step == 600
    returns(monkeypatch, 1.0, 1.0, 8.0)
    train(TINY_DQN, "CartPole-v1", 200, tmp_path / "missed", checkpoints=2, target_return=8.0)
    assert resume(tmp_path / "missed", 600).checkpoint().step == 300  # a target that was missed still stands


def test_the_time_of_a_run_leaves_evaluations_out_and_goes_on_after_a_resume(
    killed_at, tmp_path, monkeypatch
):
    now = 0.0

    def passes(seconds, original):
        def call(*args, **options):
            nonlocal now
            now += seconds
            return original(*args, **options)

        return call

    monkeypatch.setattr(session_module.time, "perf_counter", lambda: now)
    monkeypatch.setattr(OffPolicy, "advance", passes(1.0, OffPolicy.advance))
    monkeypatch.setattr(session_module, "evaluate_agent", passes(1_000.0, session_module.evaluate_agent))
    copies = killed_at(244)
    train(TINY_DQN, "CartPole-v1", 400, tmp_path / "whole", checkpoints=4)
    logged = [record for record in read_metrics(tmp_path / "whole") if "time" in record]
    assert [(r["time"], r["steps_per_second"]) for r in logged] == [
        (r["step"] / 4, 4.0) for r in logged
    ]  # 4 steps a call
    resume(copies[0])
    assert read_metrics(copies[0]) == read_metrics(tmp_path / "whole")


# -------------------------------------------------------------------------------------------- what is refused
def test_a_folder_that_holds_a_run_is_refused_with_the_resume_command(tmp_path):
    folder = tmp_path / "my run"
    train(TINY_DQN, "CartPole-v1", 200, folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(UsageError, match="already holds a run") as refused:
        train(TINY_DQN, "CartPole-v1", 200, folder)
    assert f"bellgrad resume '{folder}'" in str(refused.value)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    "left", [[], [".tmp-run.json-7", ".lock"], ["run.json"]], ids=["nothing", "half", "no checkpoint"]
)
def test_an_empty_or_unfinished_start_is_used(left, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in left:
        (folder / name).write_text("{}")
    assert train(TINY_DQN, "CartPole-v1", 100, folder).status == "finished"
    assert not list(folder.glob(".tmp-*"))


@pytest.mark.parametrize("kind", ["other files", "a file"])
def test_a_folder_with_something_else_in_it_is_left_alone(kind, tmp_path):
    folder = tmp_path / "mine"
    if kind == "a file":
        folder.write_text("precious")
    else:
        folder.mkdir()
        (folder / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="choose another --out"):
        train(TINY_DQN, "CartPole-v1", 100, folder)
    assert (folder if kind == "a file" else folder / "thesis.tex").read_text() == "precious"


def test_a_killed_start_is_begun_again_by_resume(tmp_path):
    train(TINY_DQN, "CartPole-v1", 200, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    shutil.rmtree(tmp_path / "killed" / "checkpoints")
    resume(tmp_path / "killed")
    assert_same_end(tmp_path / "killed", tmp_path / "whole")


def test_two_processes_cannot_train_one_run(killed_at, tmp_path):
    copies = killed_at(120)
    train(TINY_DQN, "CartPole-v1", 200, tmp_path / "whole")
    folder = copies[0]
    lock = f"open({str(folder / '.lock')!r})"
    holds = (
        f"import fcntl, sys; file = {lock}; fcntl.flock(file, fcntl.LOCK_EX); print(flush=True);"
        " sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", holds], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        other.stdout.readline()
        record = (folder / "run.json").read_bytes()
        for attempt in (lambda: resume(folder), lambda: resume(folder, 500)):
            with pytest.raises(UsageError, match=f"another process is training {folder}"):
                attempt()
        shutil.rmtree(folder / "checkpoints")  # the other process may not have come to its first checkpoint
        with pytest.raises(UsageError, match="another process is training"):
            train(TINY_DQN, "CartPole-v1", 100, folder)
        assert (folder / "run.json").read_bytes() == record
    finally:
        other.communicate()
    assert resume(folder).status == "finished"  # the lock went with its process


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    train(TINY_DQN, "CartPole-v1", 100, tmp_path / "run")
    (tmp_path / "precious").write_text("text")
    (tmp_path / "run" / ".lock").unlink()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(CheckpointError, match="cannot be written"):
        resume(tmp_path / "run", 200)
    assert (tmp_path / "precious").read_text() == "text"


def test_code_that_a_run_names_is_imported_only_when_trusted(tmp_path, monkeypatch):
    source = "from test_resume import Mixed\nclass Mine(Mixed):\n    pass\n"
    (tmp_path / "my_resume_envs.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    train(TINY_PPO, "my_resume_envs:Mine", 512, tmp_path / "run")
    del sys.modules["my_resume_envs"]
    for attempt in (lambda: resume(tmp_path / "run", 1024), lambda: api.evaluate(tmp_path / "run", 1)):
        with pytest.raises(UsageError, match=r"my_resume_envs:Mine.*--trust-imports"):
            attempt()
    assert "my_resume_envs" not in sys.modules
    assert resume(tmp_path / "run", 1024, trust_imports=True).status == "finished"


def test_an_environment_given_as_a_class_is_given_again(tmp_path):
    train(TINY_PPO, LeavesTraces, 512, tmp_path / "run")
    run = Run.open(tmp_path / "run", env=LeavesTraces)
    assert run.settings.env is LeavesTraces and run.record["env"].endswith(":LeavesTraces")


def test_a_run_goes_on_where_its_tensors_were(tmp_path):
    train(TINY_DQN, "CartPole-v1", 100, tmp_path / "run")
    record = read_json(tmp_path / "run" / "run.json") | {"device_used": "cuda"}
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    if torch.cuda.is_available():
        pytest.skip("needs a machine without CUDA")
    with pytest.raises(UsageError, match="no CUDA device"):
        resume(tmp_path / "run", 200)
    assert api.evaluate(tmp_path / "run", 1).episodes == 1  # an agent can be used anywhere


def test_a_compiled_run_needs_a_compiler_to_go_on(tmp_path, monkeypatch):
    train(TINY_DQN, "CartPole-v1", 100, tmp_path / "run")
    record = read_json(tmp_path / "run" / "run.json")
    record["engine_used"]["mode"] = "compiled"
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    monkeypatch.setattr(session_module, "compiler_available", lambda: False)
    with pytest.raises(UsageError, match=r"needs a C\+\+ compiler"):
        resume(tmp_path / "run", 200)
