import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from misbehaving import Counter, Crooked, Endless, Frames, OldStyle, Several, Strict

from bellgrad.core.errors import UsageError
from bellgrad.envs.check import check_env
from bellgrad.envs.mdp import to_gymnasium
from bellgrad.mdp.model import FiniteMDP
from bellgrad.nets.encoder import Encoder


def said(report, level):
    return "\n".join(finding.what for finding in report.of(level))


@pytest.mark.parametrize(
    "env", ["CartPole-v1", "Pendulum-v1", "LunarLander-v3", "Blackjack-v1", Counter, Strict, Several]
)
def test_a_good_environment_has_no_errors_and_no_warnings(env):
    report = check_env(env)
    assert report.ok and not report.of("warning"), str(report)
    assert "steps per second" in said(report, "ok") and "a new environment" in said(report, "ok")


def test_many_faults_are_reported_at_once_each_with_how_to_mend_it():
    report = check_env(Crooked)
    errors, warnings = said(report, "error"), said(report, "warning")
    assert not report.ok
    for words in (
        "observation['x'] array([nan",
        "observation['k'] 3",
        "the reward is an array of shape (1,)",
    ):
        assert words in errors
    for words in (
        "beyond the bounds",
        "terminated is 0, a int",
        "info is a NoneType",
        "is float64, its space says float32",
    ):
        assert words in warnings
    assert "reset() takes no options" in warnings
    assert all(finding.fix for finding in report.findings if finding.level != "ok")


def test_the_old_gym_interface_is_explained():
    report = check_env(OldStyle)
    assert "reset() takes no seed" in said(report, "error") and "infinite bounds" in said(report, "error")

    class FourValues(Counter):
        def step(self, action):
            obs, reward, terminated, _, info = super().step(action)
            return obs, reward, terminated, info

    assert "step() returned 4 values at step 1 of episode 0" in said(check_env(FourValues), "error")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raises", "raised RuntimeError: the door is stuck"),
        ("nan", "step 3 of episode 0 returned the observation array([ 3., nan]"),
        ("shape", "shape (3,), its space says (2,)"),
        ("reward", "the reward is nan at step 3 of episode 0"),
    ],
)
def test_a_fault_in_the_middle_of_an_episode_is_found(fault, words):
    assert words in said(check_env(Counter, env_kwargs={"fault": fault}), "error")


def test_ignored_seeds_and_shared_memory_and_endless_episodes_are_warnings():
    assert "gave two different observations" in said(
        check_env(Counter, env_kwargs={"fault": "unseeded"}), "warning"
    )
    report = check_env(Frames)
    assert report.ok and "in the same memory" in said(report, "warning")
    assert "no time limit, and no episode ended within 1000" in said(check_env(Endless), "warning")


def test_randomness_from_elsewhere_is_found_by_replaying():
    class Drifts(Counter):
        drift = 0.0

        def obs(self):
            Drifts.drift += 1.0  # survives reset
            return super().obs() + np.float32(Drifts.drift * (self.steps > 0))

    assert "the same seed and actions gave another step 1" in said(check_env(Drifts), "warning")


@pytest.mark.parametrize("env", ["CartPol-v1", "misbehaving:Nothing", "no_module_here:Env", Counter(), 5])
def test_what_cannot_be_made_is_one_error(env):
    report = check_env(env)
    assert len(report.findings) == 1 and not report.ok


def test_missing_spaces_and_unsupported_spaces_are_errors_not_tracebacks():
    class Bare(gymnasium.Env):
        def reset(self, *, seed=None, options=None):
            return 0, {}

    assert "observation_space is not a gymnasium.Space" in said(check_env(Bare), "error")

    class Odd(Counter):
        def __init__(self):
            super().__init__()
            self.observation_space, self.action_space = spaces.Text(4), spaces.MultiBinary(2)

    errors = said(check_env(Odd), "error")
    assert "observation space Text" in errors and "action space MultiBinary" in errors

    class Everything(Counter):
        def reset(self, *, seed=None, options=None):
            raise KeyError("level")

        def close(self):
            raise OSError("no window")

    errors = said(check_env(Everything), "error")
    assert "reset(seed=0) raised KeyError" in errors and "close() raised OSError: no window" in errors


def test_masks_that_do_not_fit_or_allow_nothing_are_errors():
    assert "no action is allowed after 2 steps of episode 0" in said(
        check_env(Strict, env_kwargs={"stuck": 2}), "error"
    )

    class Short(Strict):
        def __init__(self):
            super().__init__()
            self.action_space = spaces.Discrete(7)

    assert "'action_mask' has shape (4,)" in said(check_env(Short), "error")


def test_illegal_actions_of_a_finite_problem_are_not_tried():
    mdp = FiniteMDP.from_function(
        2, 2, lambda s, a: [] if (s, a) == (1, 0) else [(1.0, 1 - s, float(a), s == 1)], initial=0
    )
    assert check_env(lambda: to_gymnasium(mdp)).ok


def test_a_report_reads_as_lines():
    lines = str(check_env(Counter, env_kwargs={"fault": "nan"})).splitlines()
    assert lines[0] == "misbehaving:Counter: 1 errors, 0 warnings"
    assert lines[1].startswith("  error   step 3 of episode 0")


@pytest.mark.parametrize("bound", [np.inf, 3.4e38])
def test_bounds_that_training_would_refuse_are_an_error(bound):
    class Wide(gymnasium.Env):
        observation_space = spaces.Box(-1, 1, (2,))
        action_space = spaces.Box(-bound, bound, (1,))

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.zeros(2, np.float32), {}

        def step(self, action):
            return np.zeros(2, np.float32), 0.0, True, False, {}

    (finding,) = [finding for finding in check_env(Wide).findings if finding.level == "error"]
    assert "bounds" in finding.what and "finite low and high" in finding.fix


@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict({}),
        spaces.Tuple([]),
        spaces.Box(0, 1, (0,)),
        spaces.Dict({"action_mask": spaces.Box(0, 1, (2,), np.int8)}),
    ],
    ids=["no part", "no element", "no number", "a mask alone"],
)
def test_nothing_to_observe_is_an_error_as_in_training(space):
    class Blind(Counter):
        def __init__(self):
            super().__init__()
            self.observation_space, self.action_space = space, spaces.Discrete(2)

    assert "there is nothing to observe" in said(check_env(Blind), "error")
    with pytest.raises(UsageError, match="there is nothing to observe"):
        Encoder(space)


@pytest.mark.parametrize("name", ["observation_space", "action_space"])
@pytest.mark.parametrize("when", ["reset", "step"])
def test_a_space_that_changes_is_an_error(name, when):
    class Changes(Counter):
        def reset(self, *, seed=None, options=None):
            self.change("reset")
            return super().reset(seed=seed)

        def step(self, action):
            self.change("step")
            return super().step(action)

        def change(self, now):
            if now == when:
                setattr(self, name, spaces.Box(-9, 9, (7,)))

    assert f"its {name} was" in said(check_env(Changes), "error")
