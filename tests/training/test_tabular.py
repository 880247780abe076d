"""The driver of tabular learners, on known dynamics and on environments that are only stepped."""

import json
import os
import re
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.toy_text import FrozenLakeEnv

import bellgrad as bg
from bellgrad.core.errors import EnvironmentFault, UsageError
from bellgrad.mdp.examples import random_walk
from bellgrad.tabular import q_learning
from bellgrad.training import sampling, tabular

QUIET = {"progress": "off", "eval_episodes": 0}


def train(folder, steps=3_000, env="FrozenLake-v1", **options):
    return bg.train(bg.QLearning(), env, steps, out=folder, **({"engine": "eager"} | QUIET | options))


def table(run):
    return bg.load(run).state


def metrics(run):
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("time", "steps_per_second")} for line in lines]


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


class HolePenalty(FrozenLakeEnv):
    """Falling into a hole costs 1, which the `P` of its parent does not say."""

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, (-1.0 if terminated and reward == 0 else reward), terminated, truncated, info


def test_learning_sees_the_rewards_of_a_subclass_and_not_those_of_its_parent(tmp_path):
    learned = table(train(tmp_path / "own", env=HolePenalty))
    assert learned.q.min() < -0.1
    assert same(learned, table(train(tmp_path / "steps", env=HolePenalty, backend="gymnasium")))
    with pytest.raises(UsageError, match=r"the dynamics of .*HolePenalty are not known"):
        train(tmp_path / "native", env=HolePenalty, backend="native")


def test_compiled_and_plain_sampling_give_the_same_bits(tmp_path):
    runs = [train(tmp_path / engine, engine=engine) for engine in ("eager", "compiled")]
    assert same(*map(table, runs)) and metrics(runs[0]) == metrics(runs[1])
    assert table(runs[0]).visits.sum() == 3_000


def test_the_bits_do_not_depend_on_how_many_numbers_are_drawn_at_once_or_how_long_a_call_is(
    tmp_path, monkeypatch
):
    whole = table(train(tmp_path / "whole"))
    monkeypatch.setattr(tabular, "DRAWN", 10)
    monkeypatch.setattr(tabular, "MOST_STEPS", 7)
    assert same(whole, table(train(tmp_path / "pieces")))


@pytest.mark.parametrize("backend", ["auto", "gymnasium"])
def test_a_run_that_stops_and_goes_on_ends_with_the_same_bits(backend, tmp_path):
    whole = train(tmp_path / "whole", backend=backend)
    part = train(tmp_path / "part", backend=backend)
    for step in part.folder.glob("checkpoints/step-*"):
        if int(step.name.removeprefix("step-")) > 1_800:
            for file in step.iterdir():
                file.unlink()
            step.rmdir()
    part.save_record(status="interrupted")
    resumed = bg.resume(part, progress="off")
    assert same(table(whole), table(resumed)) and metrics(whole) == metrics(resumed)


def test_a_longer_run_is_the_shorter_one_gone_on_with(tmp_path):
    run = train(tmp_path / "run", 1_001)  # no multiple of anything
    assert table(run).steps == 1_001
    assert table(bg.resume(run, 1_500, progress="off")).steps == 1_500


def test_sampling_and_stepping_learn_the_same_values(tmp_path):
    # Two estimates of the same Q from 60,000 steps each: 15 states, alpha 1/n, uniform behavior. Their
    # standard errors are below 0.02, so that 0.1 is five of them.
    learner = bg.QLearning(alpha=1.0, alpha_power=1.0, epsilon_initial=1.0, epsilon_final=1.0)
    q = [bg.load(bg.train(learner, random_walk(), 60_000, out=tmp_path / b, backend=b, **QUIET)).state.q
         for b in ("auto", "gymnasium")]  # fmt: skip
    assert (q[0] - q[1]).abs().max() < 0.1 and q[0].max() > 0.7


def test_machine_code_is_kept_on_disk_for_the_next_process(tmp_path):
    script = """
import bellgrad as bg
from bellgrad.training import tabular

loops, make = [], tabular.build_compiled
tabular.build_compiled = lambda *functions: loops.append(make(*functions)) or loops[0]
bg.train(bg.QLearning(), "FrozenLake-v1", 100, out=OUT, progress="off", eval_episodes=0)
print("hits", sum(loops[0].stats.cache_hits.values()))
"""
    hits = []
    for name in ("first", "second"):
        done = subprocess.run(
            [sys.executable, "-c", script.replace("OUT", repr(str(tmp_path / name)))],
            text=True,
            capture_output=True,
            env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")},
        )
        assert done.returncode == 0, done.stderr
        hits.append(int(re.search(r"hits (\d+)", done.stdout)[1]))
    assert hits == [0, 1]


def test_the_key_of_the_kept_code_follows_every_file_that_it_is_made_of(tmp_path, monkeypatch):
    before = sampling.source_digest(q_learning.learn)
    changed = tmp_path / "common.py"
    changed.write_text("# another common.py")
    real = sampling.inspect.getsourcefile
    monkeypatch.setattr(
        sampling.inspect,
        "getsourcefile",
        lambda f: str(changed) if real(f).endswith("common.py") else real(f),
    )
    assert sampling.source_digest(q_learning.learn) != before


class Unseeded(gymnasium.Env):
    """Episodes of 7 steps whose states come from the operating system, whatever their seed."""

    observation_space, action_space = gymnasium.spaces.Discrete(256), gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.left = 7
        return os.urandom(1)[0], {}

    def step(self, action):
        self.left -= 1
        return os.urandom(1)[0], 1.0, self.left == 0, False, {}


def test_an_environment_that_does_not_repeat_itself_begins_a_new_episode_and_the_run_says_so(
    tmp_path, capsys
):
    run = train(tmp_path / "run", 1_000, Unseeded)  # 1,000 steps end within an episode
    assert table(bg.resume(run, 1_500, progress="off")).visits.sum() == 1_500
    assert "new episodes were begun" in capsys.readouterr().err


class Drunk(gymnasium.Env):
    """Two states; after three steps something goes wrong."""

    observation_space, action_space = gymnasium.spaces.Discrete(2), gymnasium.spaces.Discrete(2)

    def __init__(self, obs=0, reward=0.0):
        self.wrong = obs, reward

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return 0, {}

    def step(self, action):
        self.steps += 1
        obs, reward = self.wrong if self.steps == 3 else (1, 1.0)
        return obs, reward, False, False, {}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"obs": 2}, "outside its space"),
        ({"obs": None}, "wants one integer"),
        ({"reward": np.nan}, "the reward nan"),
    ],
)
def test_an_environment_that_breaks_its_contract_is_named_with_the_step(wrong, said, tmp_path):
    with pytest.raises(
        EnvironmentFault, match=f"environment 0 .*{said}.*, at step 3 .*the checkpoint of step 0 is whole"
    ):
        train(tmp_path / "run", env=Drunk, env_kwargs=wrong)


@pytest.mark.parametrize(
    ("env", "options", "said"),
    [
        ("FrozenLake-v1", {"num_envs": 2}, "leave num_envs at 1"),
        ("FrozenLake-v1", {"backend": "subprocess"}, "backend at auto or gymnasium"),
        ("FrozenLake-v1", {"normalize_obs": True}, "normalize_obs is for networks"),
        ("FrozenLake-v1", {"device": "cuda"}, "on the CPU"),
        ("CartPole-v1", {}, "say how many --bins each of the 4 numbers"),
        ("CartPole-v1", {"bins": (3,)}, "give --bin-low and --bin-high"),
        ("Pendulum-v1", {"bins": (3,)}, "Discrete actions"),
        ("CliffWalking-v1", {"bins": (3,)}, "bins are for observations in a Box"),
        ("MountainCar-v0", {"backend": "native", "bins": (9,)}, "dynamics of MountainCar-v0 are not known"),
    ],
)
def test_what_a_table_cannot_do_is_said_in_words(env, options, said, tmp_path):
    with pytest.raises(UsageError, match=said):
        train(tmp_path / "run", env=env, **options)
    assert not (tmp_path / "run").exists()


def test_bins_are_for_tables_only(tmp_path):
    with pytest.raises(UsageError, match="bins are for tabular algorithms, not for dqn"):
        bg.train(bg.DQN(), "CartPole-v1", 100, out=tmp_path / "run", bins=(3,), progress="off")


def test_a_box_is_learned_through_bins_and_a_tuple_as_it_is(tmp_path):
    bounds = {"bins": (3, 3, 6, 3), "bin_low": (-2.4, -2.0, -0.21, -2.0), "bin_high": (2.4, 2.0, 0.21, 2.0)}
    run = train(tmp_path / "cart", env="CartPole-v1", **bounds)
    assert table(run).q.shape == (162, 2) and 10 < (table(run).visits.sum(1) > 0).sum() < 162
    assert bg.evaluate(run, episodes=2).episodes == 2
    blackjack = train(tmp_path / "cards", env="Blackjack-v1")
    assert table(blackjack).q.shape == (704, 2)
    assert bg.load(blackjack).act((21, 10, 0)) in (0, 1)
