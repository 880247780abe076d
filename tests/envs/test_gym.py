import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from misbehaving import Counter, Frames

from bellgrad.core.errors import BellgradError, EnvironmentFault, UsageError
from bellgrad.core.protocols import BatchedEnv
from bellgrad.core.rng import derive_seed
from bellgrad.core.tree import leaves, named_leaves, nest
from bellgrad.envs.gym import GymEnv, gym_spec, obs_to_tensor
from bellgrad.envs.single import SingleEnvStepper


def play(env, steps, seed=0):
    """Random actions; returns every step."""
    generator = torch.Generator().manual_seed(seed)
    env.reset(seed)
    return [env.step(torch.randint(2, (env.num_envs,), generator=generator)) for _ in range(steps)]


def test_gym_env_is_a_batched_env():
    assert isinstance(GymEnv(Counter, 2), BatchedEnv)


def test_trap_autoreset_every_transition_is_real_and_next_obs_is_the_true_successor():
    env = GymEnv(lambda: Counter(length=3), 2)
    obs = env.reset(7)
    for k in range(9):
        step = env.step(torch.tensor([0, 1]))
        count = k % 3 + 1
        assert step.next_obs[:, 0].tolist() == [count, count]
        # action 0 means the env's 1
        torch.testing.assert_close(step.next_obs[:, 1] - obs[:, 1], torch.tensor([1.0, 2.0]))
        assert step.terminated.tolist() == [count == 3] * 2
        assert step.obs[:, 0].tolist() == [count % 3] * 2
        assert torch.equal(step.obs, step.next_obs) == (count != 3)
        assert step.episode.length.tolist() == [count, count]
        torch.testing.assert_close(step.episode.return_, torch.tensor([0.1, 0.2]) * count)
        obs = step.obs


def test_environments_that_end_at_different_times_restart_alone():
    lengths = iter([2, 3])
    env = GymEnv(lambda: Counter(length=next(lengths)), 2)
    env.reset(0)
    ages = [env.step(torch.zeros(2, dtype=torch.int64)).obs[:, 0].tolist() for _ in range(6)]
    assert ages == [[1, 1], [0, 2], [1, 0], [0, 1], [1, 2], [0, 0]]


def test_every_episode_starts_from_its_own_derived_seed():
    env = GymEnv(lambda: Counter(length=1), 2)
    firsts = [env.reset(11)] + [env.step(torch.zeros(2, dtype=torch.int64)).obs for _ in range(3)]
    for episode, obs in enumerate(firsts):
        for index in range(2):
            alone, _ = Counter().reset(seed=derive_seed(11, index, episode) & (2**31 - 1))
            assert obs[index].tolist() == alone.tolist()
    assert len({obs[i, 1].item() for obs in firsts for i in range(2)}) == 8


def test_trap_truncation_treated_as_termination_a_time_limit_truncates_and_termination_wins():
    env = GymEnv(lambda: gymnasium.wrappers.TimeLimit(Counter(length=9), 4), 1)
    steps = play(env, 4)
    assert steps[3].truncated.all() and not steps[3].terminated.any()
    step = play(GymEnv(lambda: Counter(fault="both", at=1), 1), 1)[0]
    assert step.terminated.all() and not step.truncated.any()
    assert gym_spec(env.envs[0]).max_episode_steps == 4


def test_trap_successor_shared_in_memory_with_the_next_row():
    env = GymEnv(Frames, 2)
    first = env.reset(0)
    one = env.step(torch.zeros(2, 4))
    two = env.step(torch.zeros(2, 4))
    assert [x.unique().tolist() for x in (first, one.next_obs, two.next_obs)] == [[0], [1], [2]]
    assert one.obs.data_ptr() != one.next_obs.data_ptr() != two.next_obs.data_ptr()
    assert first.dtype == torch.uint8


def test_box_actions_keep_their_shape_and_never_exceed_bounds_by_a_rounding():
    env = GymEnv(Frames, 1)
    env.reset(0)
    env.step(torch.tensor([[0.5, 1.0, -1.0, 2.0000002]]))  # the environment asserts its float64 bounds
    assert env.envs[0].last_action.tolist() == [[0.5, 1.0], [-1.0, 2.0]]
    kept = env.envs[0].last_action
    env.step(torch.zeros(1, 4))
    assert kept[0, 0] == 0.5  # an action that the environment kept is not overwritten


@pytest.mark.parametrize(
    "action", [torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2), torch.zeros(1, dtype=torch.int64)]
)
def test_trap_target_as_b1_against_b_actions_of_a_wrong_shape_or_dtype_are_refused(action):
    env = GymEnv(Counter, 2)
    env.reset(0)
    with pytest.raises(UsageError, match=r"the action is .*, expected int64 \[2\]"):
        env.step(action)


def test_several_choices_are_counted_from_0_and_reach_the_environment_in_its_own_shape_and_count():
    taken = []

    class Keeps(Counter):
        def __init__(self):
            super().__init__()
            self.action_space = spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [-1, 10]])

        def step(self, action):
            taken.append(action)
            return super().step(1)

    env = GymEnv(Keeps, 2)
    env.reset(0)
    env.step(torch.tensor([[0, 0, 0, 0], [1, 2, 3, 4]]))
    assert [a.tolist() for a in taken] == [[[0, 1], [-1, 10]], [[1, 3], [2, 14]]]
    assert all(a.dtype == np.int64 and a in env.action_space for a in taken)
    with pytest.raises(UsageError, match=r"the action is float32 \[2, 4\], expected int64 \[2, 4\]"):
        env.step(torch.zeros(2, 4))
    saved = env.snapshot()
    assert saved["action"].shape == (2, 2, 2)
    again, zeros = GymEnv(Keeps, 2), torch.zeros(2, 4, dtype=torch.int64)
    again.restore(saved)
    assert same_step(again.step(zeros), env.step(zeros))


def test_an_action_that_is_not_finite_is_the_learners_fault():
    env = GymEnv(Frames, 1)
    env.reset(0)
    with pytest.raises(BellgradError, match="diverged") as caught:
        env.step(torch.full((1, 4), float("nan")))
    assert not isinstance(caught.value, EnvironmentFault)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raises", "raised RuntimeError: the door is stuck"),
        ("nan", r"returned an observation with the value nan at \[1\]"),
        ("infinity", r"returned an observation with the value inf at \[0\]"),
        ("shape", r"returned an observation of shape \(3,\), its space says \(2,\)"),
        ("dtype", "returned an observation of dtype <U1, its space says float32"),
        ("reward", "returned the reward nan"),
        ("reward array", r"returned reward array\(\[0., 0.\]\)"),
        ("four", r"returned 4 values from step\(\)"),
    ],
)
def test_a_fault_names_the_environment_the_step_and_the_value(fault, words):
    made = iter([None, fault, None])
    env = GymEnv(lambda: Counter(length=4, fault=next(made), at=2), 3)
    env.reset(0)
    env.step(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(
        EnvironmentFault, match=rf"^environment 1 {words}.* at step 2 \(step 2 of episode 0\)$"
    ):
        env.step(torch.zeros(3, dtype=torch.int64))


def test_steps_of_a_fault_are_counted_over_episodes():
    env = GymEnv(lambda: Counter(length=3), 1)
    play(env, 4)
    env.envs[0].fault, env.envs[0].at = "nan", 2
    with pytest.raises(EnvironmentFault, match=r"at step 5 \(step 2 of episode 1\)"):
        env.step(torch.zeros(1, dtype=torch.int64))


def test_a_category_outside_its_space_is_a_fault():
    class Wrong(Counter):
        def __init__(self):
            super().__init__()
            self.observation_space = spaces.Discrete(3)

        def obs(self):
            return self.steps + 2

    env = GymEnv(Wrong)
    env.reset(0)
    with pytest.raises(
        EnvironmentFault, match=r"returned the observation 3, outside its space Discrete\(3\)"
    ):
        env.step(torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize(
    "space", [spaces.MultiBinary(2), spaces.Dict({"a": spaces.Discrete(2)}), spaces.Box(0, 9, (1,), int)]
)
def test_action_spaces_that_no_learner_can_use_are_refused_by_name(space):
    class Other(Counter):
        def __init__(self):
            super().__init__()
            self.action_space = space

    with pytest.raises(UsageError, match=r"action space (MultiBinary|Dict|Box)"):
        GymEnv(Other)


def test_nested_observations_become_trees_in_the_spaces_order():
    space = spaces.Tuple(
        (
            spaces.Dict(
                {
                    "z": spaces.Box(-1, 1, (2,), np.float64),
                    "a": spaces.Discrete(4, start=-1),
                    "m": spaces.MultiDiscrete([3, 2], start=[1, 0]),
                }
            ),
            spaces.MultiBinary(3),
            spaces.Box(0, 255, (2, 2), np.uint8),
        )
    )
    samples = [space.sample() for _ in range(5)]
    first, bits, frame = obs_to_tensor(space, samples)
    assert list(first) == list(space[0].spaces)
    assert [leaf.dtype for leaf in (first["z"], first["a"], first["m"], bits, frame)] == [
        torch.float32,
        torch.int64,
        torch.int64,
        torch.float32,
        torch.uint8,
    ]
    for i, (inner, sampled_bits, sampled_frame) in enumerate(samples):
        assert first["z"][i].tolist() == inner["z"].astype(np.float32).tolist()
        assert first["a"][i] == inner["a"] + 1
        assert first["m"][i].tolist() == (inner["m"] - [1, 0]).tolist()
        assert bits[i].tolist() == sampled_bits.tolist()
        assert frame[i].tolist() == sampled_frame.tolist()


def test_obs_to_tensor_refuses_what_is_not_in_the_space():
    space = spaces.Dict({"a": spaces.Box(0, 1, (2,)), "b": spaces.Discrete(2)})
    with pytest.raises(UsageError, match=r"observation 0: returned an observation with \['a'\]"):
        obs_to_tensor(space, [{"a": np.zeros(2)}])
    with pytest.raises(UsageError, match=r"observation 1: .*observation\['b'\] 2"):
        obs_to_tensor(space, [{"a": np.zeros(2), "b": 1}, {"a": np.zeros(2), "b": 2}])
    with pytest.raises(UsageError, match="the observation space Text"):
        obs_to_tensor(spaces.Text(3), ["abc"])


def test_tuple_observations_of_blackjack_step_through_the_adapter():
    steps = play(GymEnv(lambda: gymnasium.make("Blackjack-v1"), 3), 20)
    assert all(isinstance(step.obs, tuple) and [x.shape for x in step.obs] == [(3,)] * 3 for step in steps)
    assert any(step.terminated.any() for step in steps)


def same_step(a, b):
    return all(torch.equal(x, y) for x, y in zip(leaves(a), leaves(b), strict=True))


@pytest.mark.parametrize("name", ["LunarLander-v3", "CartPole-v1", "Blackjack-v1", "Taxi-v4"])
def test_trap_resume_a_snapshot_continues_bit_for_bit_in_a_new_environment(name):
    def make():
        return GymEnv(lambda: gymnasium.make(name, disable_env_checker=True), 3)

    env = make()
    play(env, 150, seed=5)
    # through names and bytes, as a checkpoint file has it
    saved = nest({key: leaf.clone() for key, leaf in named_leaves(env.snapshot()).items()})
    actions = torch.randint(2, (200, 3), generator=torch.Generator().manual_seed(1))
    expected = [env.step(action) for action in actions]
    again = make()
    again.reset(99)
    restored = again.restore(saved)
    assert same_step(restored, obs_to_tensor_of(saved, restored))
    assert all(same_step(again.step(action), step) for action, step in zip(actions, expected, strict=True))
    assert any((step.terminated | step.truncated).any() for step in expected)


def obs_to_tensor_of(saved, like):
    values = iter(saved["obs"].values())
    return tuple(values) if isinstance(like, tuple) else next(values)


def test_snapshots_hold_only_tensors_and_are_not_changed_by_later_steps():
    env = GymEnv(Counter, 2)
    play(env, 7)
    saved = env.snapshot()
    before = {key: leaf.clone() for key, leaf in named_leaves(saved).items()}
    env.step(torch.zeros(2, dtype=torch.int64))
    assert all(torch.equal(leaf, before[key]) for key, leaf in named_leaves(saved).items())
    # actions of the episode under way only
    assert saved["action"].tolist() and saved["length"].tolist() == [2, 2]


def test_an_environment_that_ignores_its_seed_cannot_be_resumed_exactly_but_can_go_on():
    env = GymEnv(lambda: Counter(fault="unseeded"), 2)
    play(env, 3)
    saved = env.snapshot()
    with pytest.raises(
        EnvironmentFault, match="exact resume is impossible for this environment: environment 0 gave another"
    ):
        env.restore(saved)
    assert env.reset(1).shape == (2, 2)


@pytest.mark.parametrize("name", ["FrozenLake-v1", "CartPole-v1"])
def test_steps_in_plain_numbers_are_those_in_tensors_and_leave_the_same_books(name):
    plain, other = (GymEnv(lambda: gymnasium.make(name)) for _ in range(2))
    actions = torch.randint(2, (100,), generator=torch.Generator().manual_seed(0)).tolist()
    see = None if name == "FrozenLake-v1" else lambda arrays: arrays[0][0].tolist()
    assert torch.equal(plain.reset(5), other.reset(5))
    for part in (actions[:1], actions[1:60], actions[60:]):  # blocks that end within an episode
        with SingleEnvStepper(plain, see) as env:
            for action in part:
                obs, reward, terminated, truncated = env.step(action)
                step = other.step(torch.tensor([action]))
                assert (obs, reward, terminated, truncated) == tuple(
                    x[0].tolist() for x in (step.next_obs, *step[1:4])
                )
                assert (env.return_, env.length) == tuple(x.item() for x in step.episode)
                if terminated or truncated:
                    assert env.restart() == env.obs == step.obs[0].tolist()
        ours, theirs = named_leaves(plain.snapshot()), named_leaves(other.snapshot())
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert plain.snapshot()["episode"] > 2
    assert same_step(plain.step(torch.tensor([1])), other.step(torch.tensor([1])))


@pytest.mark.parametrize("fault", ["raises", "nan", "reward"])
def test_a_fault_in_plain_numbers_is_the_one_in_tensors(fault):
    words = []
    for alone in (True, False):
        env = GymEnv(lambda: Counter(length=3))
        play(env, 3)
        env.envs[0].fault = fault
        with pytest.raises(EnvironmentFault, match=r"at step 6 \(step 3 of episode 1\)") as caught:
            if alone:
                with SingleEnvStepper(env, lambda arrays: arrays[0]) as one:
                    for _ in range(3):
                        one.step(0)
            else:
                for _ in range(3):
                    env.step(torch.zeros(1, dtype=torch.int64))
        words.append(str(caught.value).replace("np.int64(1)", "1"))
    assert words[0] == words[1]


def test_a_snapshot_of_another_batch_is_refused():
    env = GymEnv(Counter, 2)
    env.reset(0)
    with pytest.raises(UsageError, match="another number of environments"):
        GymEnv(Counter, 3).restore(env.snapshot())


def test_stepping_before_reset_is_refused():
    with pytest.raises(UsageError, match="reset first"):
        GymEnv(Counter).step(torch.zeros(1, dtype=torch.int64))


def test_frames_are_pictures_of_every_environment():
    env = GymEnv(lambda: Counter(render_mode="rgb_array"), 2)
    play(env, 2)
    assert [frame.shape for frame in env.render()] == [(4, 6, 3)] * 2 and env.render()[0].max() == 2
    with pytest.raises(UsageError, match="render_mode"):
        GymEnv(Counter).render()


def test_close_closes_every_environment_once_however_often_it_is_called():
    closed = []

    class Closing(Counter):
        def close(self):
            closed.append(self)

    env = GymEnv(Closing, 2)
    envs = list(env.envs)
    env.close()
    env.close()
    assert closed == envs
