"""The replay against a plain list of everything that was ever added."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from bellgrad.core.errors import CheckpointError, UsageError
from bellgrad.core.records import Transition
from bellgrad.core.tree import concat, map_tree, named_leaves, tree_bytes
from bellgrad.data import replay as replay_module
from bellgrad.data.replay import add, allocate, filled, gather, replay_bytes, restore_into, sample

VECTOR, ACTIONS = spaces.Box(-1, 1, (2,)), spaces.Discrete(3)
PIXELS = 20  # 3 * 20 * 20 = 1,200 bytes: large enough to be kept as frames
IMAGE = spaces.Box(0, 255, (3, PIXELS, PIXELS), np.uint8)
ATARI = spaces.Box(0, 255, (4, 84, 84), np.uint8)


def assert_trees_equal(a, b):
    a, b = named_leaves(a), named_leaves(b)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert torch.equal(a[name], b[name]), name


def live(replay):
    """Every transition that may be sampled, oldest first."""
    index = (replay.position - replay.size + torch.arange(int(replay.size))) % replay.reward.shape[0]
    return Transition(*gather(replay, index, 0.9)[:6])


class World:
    """`num_envs` made-up environments whose observations are all different; a step may end an episode."""

    def __init__(self, seed, num_envs, end=0.3, stacked=False, observe=None):
        self.rng, self.num_envs, self.end, self.stacked = np.random.default_rng(seed), num_envs, end, stacked
        self.observe = observe or (lambda frames: frames)
        self.obs = [self.fresh() for _ in range(num_envs)]

    def fresh(self):
        frames = self.rng.integers(0, 256, IMAGE.shape)
        if self.stacked and self.rng.random() < 0.5:
            frames[:] = frames[0]  # as Gymnasium's frame stack begins an episode
        return frames

    def step(self):
        after = []
        for obs in self.obs:
            frames = self.fresh()
            if self.stacked:
                frames[:-1] = obs[1:]
            after.append(frames)
        terminated, truncated = self.rng.random((2, self.num_envs)) < self.end
        before, self.obs = (
            self.obs,
            [self.fresh() if terminated[i] or truncated[i] else after[i] for i in range(self.num_envs)],
        )

        def tensor(frames):
            return torch.as_tensor(np.stack(frames), dtype=torch.uint8)

        return Transition(
            self.observe(tensor(before)),
            torch.as_tensor(self.rng.integers(0, 3, self.num_envs)),
            torch.as_tensor(self.rng.normal(size=self.num_envs), dtype=torch.float32),
            torch.as_tensor(terminated),
            torch.as_tensor(truncated),
            self.observe(tensor(after)),
        )


def as_vector(frames):
    return frames[:, :, 0, 0].float()[:, :2] + frames[:, 0, :1, 1].float() * 256


def as_tree(frames):
    return {"camera": frames, "where": (as_vector(frames), frames[:, 0, 0, 0].long() % 5)}


TREE = spaces.Dict({"camera": IMAGE, "where": spaces.Tuple([VECTOR, spaces.Discrete(5)])})


@given(
    seed=st.integers(0, 2**31), num_envs=st.integers(1, 4), groups=st.integers(1, 7), adds=st.integers(1, 25)
)
@settings(max_examples=40, deadline=None)
def test_the_replay_holds_exactly_the_last_transitions_in_order(seed, num_envs, groups, adds):
    world = World(seed, num_envs, observe=as_vector)
    replay = allocate(VECTOR, ACTIONS, groups * num_envs + num_envs - 1, num_envs=num_envs)  # rounded down
    history = [world.step() for _ in range(adds)]
    for transition in history:
        add(replay, transition)
    assert int(replay.size) == min(adds, groups) * num_envs
    assert_trees_equal(live(replay), concat(history[-groups:]))


@pytest.mark.parametrize(("space", "observe"), [(IMAGE, None), (TREE, as_tree)])
@pytest.mark.parametrize("stacked", [False, True])
@given(
    seed=st.integers(0, 2**31),
    num_envs=st.integers(1, 3),
    groups=st.integers(1, 40),
    end=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
)
@settings(max_examples=12, deadline=None)
def test_frames_kept_once_give_back_every_transition_as_it_was(
    space, observe, stacked, seed, num_envs, groups, end
):
    # Past several wrap-arounds of the rows and of the planes, at every time-out and at the write pointer.
    world = World(seed, num_envs, end, stacked, observe)
    replay = allocate(space, ACTIONS, groups * num_envs, num_envs=num_envs, stacked_frames=stacked)
    history = []
    for i in range(3 * groups + 5):
        history.append(world.step())
        add(replay, history[-1])
        if i % 4 == 0 or i > 3 * groups:
            size = int(replay.size)
            assert size % num_envs == 0
            assert size >= num_envs  # the newest is always there
            assert_trees_equal(live(replay), concat(history[-(size // num_envs) :]))


def test_frames_of_strangers_are_kept_too():
    # Nothing is assumed about what follows what: here each observation has nothing to do with the successor
    # before it.
    replay, history = allocate(IMAGE, ACTIONS, 20, num_envs=2, stacked_frames=True), []
    for seed in range(30):
        history.append(World(seed, 2, 0.5, seed % 2 == 0).step())
        add(replay, history[-1])
        assert_trees_equal(live(replay), concat(history[-(int(replay.size) // 2) :]))


def test_episodes_of_ordinary_length_fill_the_whole_capacity():
    # An eighth of spare planes: at 4 planes a reset that is enough for episodes of 32 steps or more, without
    # resets for any.
    world = World(0, 2, 0.01, stacked=True)  # 0.01 twice a step: 50 steps on average
    replay = allocate(IMAGE, ACTIONS, 200, num_envs=2, stacked_frames=True)
    for _ in range(400):
        add(replay, world.step())
    assert int(replay.size) == 200


def test_the_successor_is_not_shared_in_memory_with_the_next_row():
    # TRAPS "successor shared in memory with the next row": a time-out must bootstrap from where it really
    # led.
    replay = allocate(VECTOR, ACTIONS, 4)
    no, yes = torch.tensor([False]), torch.tensor([True])
    first, left, reset = torch.zeros(1, 2), torch.full((1, 2), 7.0), torch.full((1, 2), -1.0)
    add(replay, Transition(first, torch.tensor([0]), torch.tensor([1.0]), no, yes, left))
    add(replay, Transition(reset, torch.tensor([1]), torch.tensor([1.0]), no, no, first))
    batch = gather(replay, torch.tensor([0]), 0.9)
    assert torch.equal(batch.next_obs, left)
    assert batch.discount.item() == pytest.approx(0.9)  # a time-out does not end the bootstrap


def test_the_discount_is_zero_where_terminated_even_if_truncated_too():
    replay = allocate(VECTOR, ACTIONS, 4, num_envs=4)
    terminated, truncated = torch.tensor([False, False, True, True]), torch.tensor([False, True, False, True])
    obs = torch.zeros(4, 2)
    add(
        replay, Transition(obs, torch.zeros(4, dtype=torch.int64), torch.zeros(4), terminated, truncated, obs)
    )
    batch = gather(replay, torch.arange(4), 0.5)
    assert batch.discount.tolist() == [0.5, 0.5, 0, 0]
    assert batch.weight.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("space", [VECTOR, IMAGE])
def test_uniform_numbers_choose_every_whole_row_and_nothing_else(space):
    world = World(0, 2, 1.0, observe=as_vector if space is VECTOR else None)
    replay = allocate(space, ACTIONS, 24, num_envs=2)
    for adds in range(1, 40):
        add(replay, world.step())
        size = int(replay.size)
        batch = sample(replay, (torch.arange(size) + 0.5) / size, 0.9)
        assert sorted(batch.reward.tolist()) == sorted(live(replay).reward.tolist())
        largest = sample(replay, torch.tensor([1 - 2**-24]), 0.9)  # the largest float32 that torch.rand gives
        assert largest.reward.item() in batch.reward.tolist()
        if space is VECTOR:
            assert size == min(2 * adds, 24)


def test_observations_keep_their_types_and_floats_become_float32():
    space = spaces.Dict(
        {
            "frame": IMAGE,
            "ram": spaces.Box(0, 255, (8,), np.uint8),
            "joints": spaces.Box(-1, 1, (2,), np.float64),
            "buttons": spaces.MultiBinary(2),
            "room": spaces.Discrete(4),
        }
    )
    replay = allocate(space, spaces.Box(-1, 1, (2,)), 8)
    obs = {key: torch.as_tensor(value)[None] for key, value in space.sample().items()}
    no = torch.tensor([False])
    add(replay, Transition(obs, torch.rand(1, 2), torch.ones(1), no, no, obs))
    got = sample(replay, torch.rand(3), 0.9)
    kinds = {key: value.dtype for key, value in got.obs.items()}
    assert kinds == {
        "frame": torch.uint8,
        "ram": torch.uint8,
        "joints": torch.float32,
        "buttons": torch.int8,
        "room": torch.int64,
    }
    assert got.obs["frame"].shape == (3, *IMAGE.shape)
    assert got.action.shape == (3, 2)


def test_replay_memory_frames_are_kept_once():
    # TRAPS "replay memory". A million Atari transitions: obs and next_obs as float32 would take 226 GB, as
    # uint8 56 GB.
    frame = 84 * 84
    needed = replay_bytes(ATARI, ACTIONS, 1_000_000, num_envs=8, stacked_frames=True)
    assert 1_000_000 * frame < needed < 1.2 * 1_000_000 * frame
    unstacked = replay_bytes(ATARI, ACTIONS, 1_000_000, num_envs=8)
    assert 4_000_000 * frame < unstacked < 1.2 * 4_000_000 * frame


def test_replay_memory_is_computed_exactly():
    for space, stacked in ((VECTOR, False), (TREE, False), (TREE, True)):
        replay = allocate(space, ACTIONS, 60, num_envs=3, stacked_frames=stacked)
        assert tree_bytes(replay) == replay_bytes(space, ACTIONS, 60, 3, stacked)
    # obs and next_obs 2 * 2 * 4, action 8, reward 4, terminated and truncated 2; position and size 8 each.
    assert replay_bytes(VECTOR, ACTIONS, 1000) == 30 * 1000 + 16


@pytest.mark.parametrize("stacked", [False, True])
def test_replay_memory_that_is_missing_is_refused_before_it_is_taken(monkeypatch, stacked):
    available = 1_000_000_000
    monkeypatch.setattr(replay_module, "available_bytes", lambda device: available)
    with pytest.raises(
        UsageError, match=r"needs [\d,]+ bytes of memory, but 1,000,000,000 are available"
    ) as refusal:
        allocate(ATARI, ACTIONS, 1_000_000, num_envs=8, stacked_frames=stacked)
    fits = int(str(refusal.value).rsplit(" ", 1)[1].replace(",", ""))
    assert (
        replay_bytes(ATARI, ACTIONS, fits, 8, stacked)
        <= available
        < replay_bytes(ATARI, ACTIONS, fits + 8, 8, stacked)
    )


@pytest.mark.parametrize("capacity", [3, 2**24 + 1])
def test_an_impossible_capacity_is_refused(capacity):
    with pytest.raises(UsageError, match="out of range"):
        allocate(VECTOR, ACTIONS, capacity, num_envs=4)


def test_a_space_without_a_fixed_size_is_refused():
    with pytest.raises(UsageError, match="cannot keep"):
        allocate(spaces.Sequence(spaces.Discrete(2)), ACTIONS, 4)


@pytest.mark.parametrize("end", [0.01, 1.0])
@pytest.mark.parametrize(
    ("space", "observe", "stacked"),
    [(VECTOR, as_vector, False), (TREE, as_tree, False), (TREE, as_tree, True)],
)
def test_a_replay_goes_on_from_what_was_saved_of_it(space, observe, stacked, end):
    def new():
        return allocate(space, ACTIONS, 40, num_envs=2, stacked_frames=stacked)

    for adds in (0, 3, 20, 33):
        world, replay, restored = World(adds, 2, end, stacked, observe), new(), new()
        for _ in range(adds):
            add(replay, world.step())
        saved = {name: tensor.clone() for name, tensor in filled(replay).items()}
        if adds == 3:
            assert len(saved["reward"]) == 6  # only what was written
        for name, view in restore_into(
            restored, {name: tensor.shape for name, tensor in saved.items()}
        ).items():
            view.copy_(saved[name])
        for _ in range(25):
            assert_trees_equal(live(restored), live(replay))
            transition = world.step()
            add(replay, transition)
            add(restored, transition)
        assert_trees_equal(live(restored), live(replay))


@pytest.mark.parametrize(
    "change",
    [
        lambda shapes: shapes.pop("reward"),
        lambda shapes: shapes.update(extra=(1,)),
        lambda shapes: shapes.update(obs=(3, 5)),
        lambda shapes: shapes.update(reward=(9,)),
        lambda shapes: shapes.update(reward=()),
        lambda shapes: shapes.update(size=(1,)),
    ],
)
def test_a_saved_replay_that_does_not_fit_is_refused(change):
    replay = allocate(VECTOR, ACTIONS, 8)
    shapes = {name: tuple(tensor.shape) for name, tensor in filled(replay).items()}
    change(shapes)
    with pytest.raises(CheckpointError, match="saved replay"):
        restore_into(replay, shapes)


@pytest.mark.compiled
@pytest.mark.parametrize(("space", "observe"), [(VECTOR, as_vector), (TREE, as_tree)])
def test_compiled_add_and_sample_equal_eager_ones(space, observe):
    def step(replay, transition, uniform):
        add(replay, transition)
        return sample(replay, uniform, 0.9)

    compiled = torch.compile(step, fullgraph=True, dynamic=False)
    world = World(0, 2, 0.3, True, observe)
    a, b = (allocate(space, ACTIONS, 12, num_envs=2, stacked_frames=True) for _ in range(2))
    for _ in range(20):
        transition, uniform = world.step(), torch.rand(5)
        assert_trees_equal(compiled(a, transition, uniform), step(b, transition, uniform))
    assert_trees_equal(live(a), live(b))


def test_sampled_trees_keep_the_structure_of_the_space():
    world, replay = World(0, 2, observe=as_tree), allocate(TREE, ACTIONS, 8, num_envs=2)
    add(replay, world.step())
    batch = sample(replay, torch.rand(5), 0.9)
    assert map_tree(lambda leaf: leaf.shape[0], batch.obs) == {"camera": 5, "where": (5, 5)}
