"""The environment that samples an MDP: Gymnasium's contract, its random stream, and the right frequencies."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from scipy.stats import chi2

from bellgrad.core.errors import UsageError
from bellgrad.envs.mdp import FiniteMDPEnv, to_gymnasium
from bellgrad.mdp.examples import corridor, garnet
from bellgrad.mdp.gridworld import gridworld
from bellgrad.mdp.model import FiniteMDP


def some_illegal() -> FiniteMDP:
    """In state 0 both actions, in state 1 only action 1; both lead to the other state."""
    return FiniteMDP.from_function(
        2, 2, lambda s, a: [] if (s, a) == (1, 0) else [(1.0, 1 - s, float(a), False)], initial=0
    )


def test_gymnasiums_checker_finds_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*not having a spec.*")
        check_env(to_gymnasium(gridworld(["S..", "..G"], slip=0.1)), skip_render_check=True)


@pytest.mark.parametrize(
    "name, kwargs",
    [("FrozenLake-v1", {}), ("CliffWalking-v1", {"is_slippery": True}), ("Taxi-v4", {"is_rainy": True})],
)
def test_it_repeats_gymnasiums_own_episodes_seed_by_seed(name, kwargs):
    theirs, ours = gymnasium.make(name, **kwargs), to_gymnasium(FiniteMDP.from_gymnasium(name, **kwargs))
    actions = np.random.default_rng(0)
    for seed in range(20):
        assert ours.reset(seed=seed)[0] == theirs.reset(seed=seed)[0]
        for _ in range(300):
            action = actions.integers(ours.action_space.n)
            mine, gymnasiums = ours.step(action)[:4], theirs.step(action)[:4]
            assert mine == gymnasiums
            if mine[2] or mine[3]:
                break
        else:
            assert name == "CliffWalking-v1"  # the only one without a time limit


def test_outcomes_come_as_often_as_they_should():
    mdp = garnet(4, 2, 3, seed=0)
    env = to_gymnasium(mdp)
    state, _ = env.reset(seed=0)
    actions = np.random.default_rng(1).integers(2, size=40_000)
    count = np.zeros(len(mdp.probability))
    for action in actions:
        first = mdp.offset[state * 2 + action]
        state, reward, _, _, _ = env.step(action)
        count[first + int(np.flatnonzero(mdp.reward[first : first + 3] == reward)[0])] += 1
    expected = mdp.probability * np.repeat(count.reshape(-1, 3).sum(axis=1), 3)
    # 8 pairs with two degrees of freedom each; one seed in a million would fail.
    assert ((count - expected) ** 2 / expected).sum() < chi2.isf(1e-6, 16)


def test_starts_come_as_often_as_they_should():
    env = to_gymnasium(
        FiniteMDP.from_function(3, 1, lambda s, a: [(1.0, s, 0.0, True)], initial=[0.2, 0.0, 0.8])
    )
    env.reset(seed=0)
    starts = np.bincount([env.reset()[0] for _ in range(20_000)], minlength=3)
    assert starts[1] == 0
    assert abs(starts[0] - 4000) < 5 * np.sqrt(20_000 * 0.2 * 0.8)  # one seed in a million would fail


def test_the_time_limit_is_the_mdps_unless_another_is_given():
    def length(env):
        env.reset(seed=0)
        return next(step for step in range(1, 1000) if env.step(0)[3])

    mdp = FiniteMDP.from_function(1, 1, lambda s, a: [(1.0, 0, 0.0, False)], max_episode_steps=7)
    assert length(to_gymnasium(mdp)) == 7
    assert length(to_gymnasium(mdp, max_episode_steps=9)) == 9


def test_both_flags_are_given_where_the_last_step_ends_the_episode():
    env = to_gymnasium(corridor(), max_episode_steps=5)
    env.reset(seed=0)
    assert [env.step(1)[1:4] for _ in range(5)] == [
        (-1, False, False), (-1, False, False), (-10, False, False), (-1, False, False), (0, True, True)
    ]  # fmt: skip


def test_an_illegal_action_is_refused_and_the_mask_tells_which_are():
    env = to_gymnasium(some_illegal())
    _, info = env.reset(seed=0)
    assert info["action_mask"].tolist() == [1, 1]
    _, _, _, _, info = env.step(1)
    assert info["action_mask"].tolist() == [0, 1]
    assert {env.action_space.sample(info["action_mask"]) for _ in range(20)} == {1}
    with pytest.raises(UsageError, match="state 1, action 0 is illegal; the legal actions are in"):
        env.step(0)


@pytest.mark.parametrize("action", [-1, 2, 0.5])
def test_what_is_no_action_is_refused(action):
    env = to_gymnasium(some_illegal())
    env.reset(seed=0)
    with pytest.raises(UsageError, match="is none of 2, from 0"):
        env.step(action)


def test_a_step_before_the_first_reset_is_refused():
    with pytest.raises(UsageError, match="reset the environment before the first step"):
        to_gymnasium(corridor()).step(0)


def test_a_map_is_drawn_with_the_agent_in_red():
    env = FiniteMDPEnv(gridworld(["S.", "#G"]), render_mode="ansi")
    env.reset(seed=0)
    assert env.render() == "\n\x1b[41mS\x1b[0m.\n#G\n"
    env.step(1)
    assert env.render() == "  (action 1 (right))\nS\x1b[41m.\x1b[0m\n#G\n"


def test_a_state_without_a_map_is_named():
    env = FiniteMDPEnv(some_illegal(), render_mode="ansi")
    env.reset(seed=0)
    env.step(1)
    assert env.render() == "state 1  (action 1)\n"


def test_unknown_render_modes_and_empty_episodes_are_refused():
    with pytest.raises(UsageError, match="unknown render mode 'human'"):
        FiniteMDPEnv(corridor(), render_mode="human")
    with pytest.raises(UsageError, match="max_episode_steps = 0 must be 1 or more"):
        to_gymnasium(corridor(), max_episode_steps=0)
