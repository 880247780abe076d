"""Actions that are forbidden: where masks come from, what the adapter says of them, and that learning never
steps on one."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from misbehaving import Counter, Several, Strict

import bellgrad as bg
from bellgrad.core.errors import EnvironmentFault, UsageError
from bellgrad.envs.gym import GymEnv, gym_spec
from bellgrad.envs.masks import WithActionMask
from bellgrad.envs.mdp import to_gymnasium
from bellgrad.envs.names import requires_import
from bellgrad.mdp.model import FiniteMDP
from bellgrad.nets.specs import MLP

FAST = {"rollout_steps": 32, "epochs": 4, "minibatches": 4, "learning_rate": 3e-2, "network": MLP((8,))}
SHORT = bg.PPO(gamma=0.0, **FAST)  # for rewards that come at once
OPTIONS = {"engine": "eager", "progress": "off", "num_envs": 4, "eval_episodes": 0}


def choose(mask, sizes):
    """The first action of each dimension that is allowed, `[B, D]`."""
    return torch.stack([part.argmax(-1) for part in mask.split(sizes, -1)], -1)


# ------------------------------------------------------------------------------------------------ the adapter
def test_masks_come_with_the_observations_of_what_is_acted_on_and_of_what_an_action_led_to():
    env = GymEnv(Several, 3)
    obs = env.reset(0)
    for _ in range(7):
        mask = obs["action_mask"]
        assert mask.shape == (3, 5) and mask.dtype == torch.float32
        step = env.step(choose(mask, [3, 2]))  # raises on what is forbidden
        obs = step.obs
        assert [e.masks[0].tolist() + e.masks[1].tolist() for e in env.envs] == obs["action_mask"].tolist()


def test_a_terminal_observation_may_allow_nothing():
    env = GymEnv(Strict, 2)  # nothing is allowed after the fifth step, which is the last
    obs = env.reset(0)
    for _ in range(5):
        step = env.step(choose(obs["action_mask"], [4])[:, 0])
        obs = step.obs
    assert (
        step.terminated.all() and step.next_obs["action_mask"].sum() == 0 and obs["action_mask"].any(-1).all()
    )


@pytest.mark.parametrize(
    ("stuck", "where"), [(0, "step 1 of episode 0"), (3, r"at step 3 \(step 3 of episode 0\)")]
)
@pytest.mark.parametrize("several", [False, True])
def test_where_nothing_is_allowed_the_environment_and_its_step_are_named(stuck, where, several):
    made = iter([5, 5, stuck])
    env = GymEnv(lambda: Strict(several, next(made)), 3)
    with pytest.raises(
        EnvironmentFault,
        match=f"environment 2 allows no action in its observation's 'action_mask', .*{where}",
    ):
        obs = env.reset(0)
        for _ in range(4):
            action = choose(obs["action_mask"], [3, 2] if several else [4])
            obs = env.step(action if several else action[:, 0]).obs


def test_a_mask_that_does_not_fit_the_actions_is_refused_before_the_first_step():
    class Short(Strict):
        def __init__(self):
            super().__init__()
            self.action_space = spaces.Discrete(7)

    with pytest.raises(
        UsageError, match=r"'action_mask' has shape \(4,\); the actions Discrete\(7\) need \(7,\)"
    ):
        GymEnv(Short)


# ------------------------------------------------------------------------------------------------ the wrapper
class Asked(Counter):
    """Says by a method which of its actions 1 and 2 are allowed."""

    def action_masks(self):
        return [True, self.steps % 2 == 0]


def test_the_wrapper_puts_the_mask_of_info_into_the_observation():
    env = WithActionMask(gymnasium.make("Taxi-v4"))
    assert env.observation_space["observation"] == spaces.Discrete(500)
    seen = [env.reset(seed=0)] + [env.step(action)[::4] for action in (0, 1, 0)]
    for obs, info in seen:
        assert obs in env.observation_space and obs["action_mask"].tolist() == info["action_mask"].tolist()
    assert len({tuple(obs["action_mask"]) for obs, _ in seen}) > 1
    assert gym_spec(env).max_episode_steps == 200


def test_the_wrapper_asks_an_environment_that_has_a_method_for_its_masks():
    env = WithActionMask(gymnasium.wrappers.TimeLimit(Asked(), 3))
    seen = [env.reset(seed=0)[0]] + [env.step(1)[0] for _ in range(2)]
    assert [obs["action_mask"].tolist() for obs in seen] == [[1, 1], [1, 0], [1, 1]]


def test_what_the_wrapper_cannot_use_is_refused_in_words():
    with pytest.raises(UsageError, match="does not say which actions are allowed"):
        WithActionMask("CartPole-v1").reset()
    with pytest.raises(UsageError, match="Discrete or MultiDiscrete, not in Box"):
        WithActionMask("Pendulum-v1")
    wrong = Asked()
    wrong.action_masks = lambda: [True]
    with pytest.raises(UsageError, match=r"an action mask of shape \(1,\)"):
        WithActionMask(wrong).reset()


def test_a_saved_run_may_name_the_wrapper_but_imports_nothing_through_it():
    assert not requires_import("bellgrad.envs.masks:WithActionMask")
    assert requires_import("bellgrad.envs.masks:make_single")
    with pytest.raises(UsageError, match="the id of a registered environment"):
        WithActionMask("os:system", command="true")


# --------------------------------------------------------------------------------------------------- learning
@pytest.mark.parametrize("env", [Strict, Several])
def test_ppo_learns_where_a_forbidden_action_raises(env, tmp_path):
    run = bg.train(SHORT, env, 1_536, out=tmp_path / "run", **OPTIONS)
    for deterministic in (True, False):
        result = bg.evaluate(run, episodes=20, env=env, deterministic=deterministic)
        # 0 is the best; allowed actions at random miss 4.8 and 4.2 in an episode
        assert result.return_mean > -0.5


@pytest.mark.parametrize("env", [Strict, Several])
@pytest.mark.parametrize(
    "algorithm", [bg.A2C, bg.VPG, bg.TRPO, bg.REINFORCE, bg.PPO], ids=lambda cls: cls.__name__
)
def test_no_algorithm_with_a_policy_steps_on_a_forbidden_action(algorithm, env, tmp_path):
    network = bg.GRU(8, (8,)) if algorithm is bg.PPO else MLP((8,))
    bg.train(algorithm(network=network), env, 512, out=tmp_path / "run", **OPTIONS)  # it would raise


def test_ppo_trains_on_taxi_with_its_masks(tmp_path):
    env = "bellgrad.envs.masks:WithActionMask"
    run = bg.train(SHORT, env, 1_024, out=tmp_path / "run", env_kwargs={"env": "Taxi-v4"}, **OPTIONS)
    # No step against a wall and no illegal pick-up or drop-off (-10): 200 steps that cost 1 each is the worst
    # there is.
    assert min(bg.evaluate(run, episodes=8, deterministic=False).returns) >= -200


def test_ppo_learns_a_finite_problem_with_illegal_actions(tmp_path):
    # 0 - 1 - 2 - 3: action 0 goes left, 1 goes right, 2 stays; each is illegal in two states, and the way
    # right ends with 1.
    illegal = {(0, 0), (0, 2), (1, 2), (2, 0), (3, 0), (3, 2)}
    moves = (-1, 1, 0)

    def outcomes(s, a):
        return [] if (s, a) in illegal else [(1.0, min(3, s + moves[a]), float(s == 3), s == 3)]

    mdp = FiniteMDP.from_function(4, 3, outcomes, initial=0)
    run = bg.train(
        bg.PPO(gamma=0.9, **FAST), mdp, 2_048, out=tmp_path / "run", max_episode_steps=50, **OPTIONS
    )
    assert gym_spec(to_gymnasium(mdp)).legal.tolist() == mdp.legal.tolist()
    assert bg.evaluate(run, episodes=4, env=mdp).length_mean == 4
    agent = bg.load(run, env=mdp)
    sampled = {(s, agent.act(s, deterministic=False)) for s in range(4) for _ in range(50)}
    assert not sampled & illegal


def test_an_agent_whose_mask_allows_nothing_is_told(tmp_path):
    run = bg.train(SHORT, Strict, 128, out=tmp_path / "run", **OPTIONS)
    agent = bg.load(run, env=Strict)
    obs = {"observation": np.zeros(1, np.float32), "action_mask": np.array([0, 0, 1, 0], np.int8)}
    assert agent.act(obs) == agent.act(obs, deterministic=False) == 3  # counted from 1
    with pytest.raises(UsageError, match="allows no action"):
        agent.act(obs | {"action_mask": np.zeros(4, np.int8)})


class Tells(Counter):
    """Tells its mask in `info`, but not at step `silent`."""

    def __init__(self, silent, how="missing"):
        super().__init__(length=4)
        self.silent, self.how = silent, how

    def reset(self, *, seed=None, options=None):
        obs, _ = super().reset(seed=seed)
        return obs, {"action_mask": np.array([1, 0])}

    def step(self, action):
        obs, reward, terminated, truncated, _ = super().step(action)
        if self.steps != self.silent:
            return obs, reward, terminated, truncated, {"action_mask": np.array([1, 0])}
        return obs, reward, terminated, truncated, {} if self.how == "missing" else {"action_mask": None}


@pytest.mark.parametrize("how", ["missing", "none"])
def test_the_mask_of_an_ended_episode_may_be_missing(how):
    env = GymEnv(lambda: WithActionMask(Tells(4, how)), 2)
    env.reset(0)
    steps = [env.step(torch.zeros(2, dtype=torch.int64)) for _ in range(9)]
    assert sum(int(step.terminated.sum()) for step in steps) == 4
    assert steps[3].next_obs["action_mask"].tolist() == [[1, 1], [1, 1]]
    assert steps[3].obs["action_mask"].tolist() == [[1, 0], [1, 0]]


def test_a_mask_that_is_missing_elsewhere_is_told_with_the_environment_and_the_step():
    env = GymEnv(lambda: WithActionMask(Tells(3)), 2)
    env.reset(0)
    with pytest.raises(
        EnvironmentFault,
        match=r"environment 0 failed in step\(1\): .*not say which actions.*step 3 of episode 0",
    ):
        for _ in range(4):
            env.step(torch.zeros(2, dtype=torch.int64))
