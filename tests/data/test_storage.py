"""The storage of a replay, and uniform sampling, against a plain list of everything that was ever added."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from bellgrad.core.errors import CheckpointError, UsageError
from bellgrad.core.records import EnvSpec, Transition
from bellgrad.core.tree import concat, map_tree, named_leaves, tree_bytes
from bellgrad.data import storage as storage_module
from bellgrad.data.storage import (
    add,
    allocate,
    filled,
    gather,
    is_whole,
    protect,
    restore_into,
    storage_bytes,
    whole_row,
)
from bellgrad.data.uniform import UniformReplay

VECTOR, ACTIONS = spaces.Box(-1, 1, (2,)), spaces.Discrete(3)
PIXELS = 20  # 3 * 20 * 20 = 1,200 bytes: large enough to be kept as frames
IMAGE = spaces.Box(0, 255, (3, PIXELS, PIXELS), np.uint8)
COLOR = spaces.Box(0, 255, (12, PIXELS, PIXELS), np.uint8)  # four frames of three channels
ATARI = spaces.Box(0, 255, (4, 84, 84), np.uint8)
NO_STEPS = torch.zeros((), dtype=torch.int64)


def spec(space=VECTOR, frame_stack=1, actions=ACTIONS):
    return EnvSpec("Test-v0", space, actions, frame_stack=frame_stack)


def sample(replay, uniform, gamma):
    return UniformReplay().sample(replay, uniform, gamma, NO_STEPS)


def assert_trees_equal(a, b):
    a, b = named_leaves(a), named_leaves(b)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert torch.equal(a[name], b[name]), name


def live(replay):
    """Every transition that may be sampled, oldest first."""
    kept = int(replay.protected)
    ring = replay.reward.shape[0] - kept
    age = torch.arange(int(replay.size) - kept, 0, -1)
    row = torch.cat([torch.arange(kept), kept + (replay.position - kept - age) % ring])
    return gather(replay, row)


class World:
    """`num_envs` made-up environments whose observations are all different; a step may end an episode."""

    def __init__(self, seed, num_envs, end=0.3, stack=1, observe=None, shape=IMAGE.shape):
        self.rng, self.num_envs, self.end = np.random.default_rng(seed), num_envs, end
        self.stack, self.shape = stack, shape
        self.observe = observe or (lambda frames: frames)
        self.obs = [self.fresh() for _ in range(num_envs)]

    def fresh(self):
        frames = self.rng.integers(0, 256, self.shape)
        if self.rng.random() < 0.5:  # as a stack of frames begins an episode
            frames[:] = np.tile(frames[: self.channels], (self.stack, *[1] * (frames.ndim - 1)))
        return frames

    @property
    def channels(self):
        return self.shape[0] // self.stack

    def step(self):
        after = []
        for obs in self.obs:
            frames = self.fresh()
            if self.stack > 1:
                frames[: -self.channels] = obs[self.channels :]
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
    replay = allocate(spec(), groups * num_envs + num_envs - 1, num_envs)  # rounded down
    history = [world.step() for _ in range(adds)]
    for transition in history:
        add(replay, transition)
    assert int(replay.size) == min(adds, groups) * num_envs
    assert_trees_equal(live(replay), concat(history[-groups:]))


LAYOUTS = [(IMAGE, None, 1), (IMAGE, None, 3), (COLOR, None, 4), (TREE, as_tree, 1), (TREE, as_tree, 3)]


@pytest.mark.parametrize(("space", "observe", "stack"), LAYOUTS)
@given(
    seed=st.integers(0, 2**31),
    num_envs=st.integers(1, 3),
    groups=st.integers(1, 40),
    end=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
)
@settings(max_examples=12, deadline=None)
def test_frames_kept_once_give_back_every_transition_as_it_was(
    space, observe, stack, seed, num_envs, groups, end
):
    # Past several wrap-arounds of the rows and of the planes, at every time-out and at the write pointer.
    world = World(seed, num_envs, end, stack, observe, IMAGE.shape if observe else space.shape)
    replay = allocate(spec(space, stack), groups * num_envs, num_envs)
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
    replay, history = allocate(spec(IMAGE, 3), 20, num_envs=2), []
    for seed in range(30):
        history.append(World(seed, 2, 0.5, 3 if seed % 2 else 1).step())
        add(replay, history[-1])
        assert_trees_equal(live(replay), concat(history[-(int(replay.size) // 2) :]))


@pytest.mark.parametrize(("space", "stack"), [(IMAGE, 1), (IMAGE, 3), (COLOR, 4), (COLOR, 1)])
def test_episodes_of_ordinary_length_fill_the_whole_capacity(space, stack):
    # An eighth of spare planes: at 4 planes per reset that is enough for episodes of 32 steps or more.
    # Color frames were once kept channel by channel, so that a replay of 100,000 held 513.
    world = World(0, 2, 0.005, stack, shape=space.shape)  # twice per step: 100 steps on average
    replay = allocate(spec(space, stack), 200, num_envs=2)
    for _ in range(400):
        add(replay, world.step())
    assert int(replay.size) == 200


def test_an_observation_that_is_not_made_of_whole_frames_is_refused():
    with pytest.raises(UsageError, match=r"first axis of an observation \[12, 20, 20\] is not 5 frames"):
        allocate(spec(COLOR, 5), 8)


def test_the_successor_is_not_shared_in_memory_with_the_next_row():
    # A time-out must bootstrap from where it really led.
    replay = allocate(spec(), 4)
    no, yes = torch.tensor([False]), torch.tensor([True])
    first, left, reset = torch.zeros(1, 2), torch.full((1, 2), 7.0), torch.full((1, 2), -1.0)
    add(replay, Transition(first, torch.tensor([0]), torch.tensor([1.0]), no, yes, left))
    add(replay, Transition(reset, torch.tensor([1]), torch.tensor([1.0]), no, no, first))
    batch = sample(replay, torch.tensor([0.0]), 0.9)
    assert torch.equal(batch.next_obs, left)
    assert batch.discount.item() == pytest.approx(0.9)  # a time-out does not end the bootstrap


def test_the_discount_is_zero_where_terminated_even_if_truncated_too():
    replay = allocate(spec(), 4, num_envs=4)
    terminated, truncated = torch.tensor([False, False, True, True]), torch.tensor([False, True, False, True])
    obs = torch.zeros(4, 2)
    add(
        replay, Transition(obs, torch.zeros(4, dtype=torch.int64), torch.zeros(4), terminated, truncated, obs)
    )
    batch = sample(replay, torch.tensor([0.1, 0.3, 0.6, 0.9]), 0.5)
    assert batch.index.tolist() == [0, 1, 2, 3]
    assert batch.discount.tolist() == [0.5, 0.5, 0, 0]
    assert batch.weight.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("space", [VECTOR, IMAGE])
def test_uniform_numbers_choose_every_whole_row_and_nothing_else(space):
    world = World(0, 2, 1.0, observe=as_vector if space is VECTOR else None)
    replay = allocate(spec(space), 24, num_envs=2)
    for adds in range(1, 40):
        add(replay, world.step())
        size = int(replay.size)
        batch = sample(replay, (torch.arange(size) + 0.5) / size, 0.9)
        assert sorted(batch.index.tolist()) == is_whole(replay).nonzero().flatten().tolist()
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
    replay = allocate(spec(space, actions=spaces.Box(-1, 1, (2,))), 8)
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
    # A million Atari transitions: obs and next_obs as float32 would take 226 GB, as uint8 56 GB.
    frame = 84 * 84
    needed = storage_bytes(spec(ATARI, 4), 1_000_000, num_envs=8)
    assert 1_000_000 * frame < needed < 1.2 * 1_000_000 * frame
    unstacked = storage_bytes(spec(ATARI), 1_000_000, num_envs=8)
    assert 4_000_000 * frame < unstacked < 1.2 * 4_000_000 * frame


def test_replay_memory_is_computed_exactly():
    extra = {"priority": torch.float32}
    for space, stack in ((VECTOR, 1), (TREE, 1), (TREE, 3), (COLOR, 4)):
        replay = allocate(spec(space, stack), 60, num_envs=3, extra=extra)
        assert tree_bytes(replay) == storage_bytes(spec(space, stack), 60, 3, extra)
    # obs and next_obs 2 * 2 * 4, action 8, reward 4, terminated and truncated 2; offset, position, size and
    # protected 8 each.
    assert storage_bytes(spec(), 1000) == 30 * 1000 + 32


@pytest.mark.parametrize("stack", [1, 4])
def test_replay_memory_that_is_missing_is_refused_before_it_is_taken(monkeypatch, stack):
    available = 1_000_000_000
    monkeypatch.setattr(storage_module, "available_bytes", lambda device: available)
    with pytest.raises(
        UsageError, match=r"needs [\d,]+ bytes of memory, but 1,000,000,000 are available"
    ) as refusal:
        allocate(spec(ATARI, stack), 1_000_000, num_envs=8)
    fits = int(str(refusal.value).rsplit(" ", 1)[1].replace(",", ""))
    assert (
        storage_bytes(spec(ATARI, stack), fits, 8)
        <= available
        < storage_bytes(spec(ATARI, stack), fits + 8, 8)
    )


@pytest.mark.parametrize("capacity", [3, 2**24 + 1])
def test_an_impossible_capacity_is_refused(capacity):
    with pytest.raises(UsageError, match="out of range"):
        allocate(spec(), capacity, num_envs=4)


def test_a_space_without_a_fixed_size_is_refused():
    with pytest.raises(UsageError, match="cannot keep"):
        allocate(spec(spaces.Sequence(spaces.Discrete(2))), 4)


@pytest.mark.parametrize("end", [0.01, 1.0])
@pytest.mark.parametrize("protected", [0, 3])
@pytest.mark.parametrize(("space", "observe", "stack"), [(VECTOR, as_vector, 1), *LAYOUTS])
def test_a_storage_goes_on_from_what_was_saved_of_it(space, observe, stack, end, protected):
    def new():
        return allocate(spec(space, stack), 120, 2, extra={"note": torch.float32})

    for adds in (0, 3, 20, 83):
        shape = IMAGE.shape if observe else space.shape
        world, replay, restored = World(adds, 2, end, stack, observe, shape), new(), new()
        for i in range(adds):
            if i == protected:
                protect(replay)
            add(replay, world.step(), {"note": torch.full((2,), float(i))})
        saved = {name: tensor.clone() for name, tensor in filled(replay).items()}
        if adds == 3:
            assert len(saved["reward"]) == len(saved["extra/note"]) == 6  # only what was written
        for name, view in restore_into(
            restored, {name: tensor.shape for name, tensor in saved.items()}
        ).items():
            view.copy_(saved[name])
        row = whole_row(replay, torch.arange(int(replay.size)))
        assert torch.equal(restored.extra["note"][row], replay.extra["note"][row])
        for _ in range(65):
            assert_trees_equal(live(restored), live(replay))
            transition = world.step()
            add(replay, transition, {"note": torch.zeros(2)})
            add(restored, transition, {"note": torch.zeros(2)})
        assert_trees_equal(live(restored), live(replay))


def test_checkpoints_keep_their_names_and_shapes():
    # Version 0.1 wrote exactly these; the numbers of what is protected are added only if anything is.
    replay, world = allocate(spec(IMAGE, 3), 100, num_envs=2), World(0, 2, 0.0, 3)
    rows = {"obs": (4, 3), "action": (4,), "reward": (4,), "terminated": (4,), "truncated": (4,)}
    rows |= {"next_obs": (4, 3), "position": (), "size": ()}
    frames = {"frames/obs/newest": (2, 3), "frames/obs/oldest": (2,), "frames/obs/count": ()}
    for _ in range(2):
        add(replay, world.step())
    planes = {"frames/obs/planes": (int(replay.frames["obs"].count), PIXELS, PIXELS)}
    saved = {name: tuple(tensor.shape) for name, tensor in filled(replay).items()}
    assert saved == rows | frames | planes
    protect(replay)
    assert filled(replay).keys() - saved.keys() == {"protected", "frames/obs/protected"}


# ------------------------------------------------------------------------------------------ protected rows
@pytest.mark.parametrize(("space", "observe", "stack"), [(VECTOR, as_vector, 1), *LAYOUTS])
@given(seed=st.integers(0, 2**31), num_envs=st.integers(1, 3), end=st.sampled_from([0.0, 0.02, 0.3, 1.0]))
@settings(max_examples=8, deadline=None)
def test_protected_rows_stay_and_the_others_are_the_latest(space, observe, stack, seed, num_envs, end):
    world = World(seed, num_envs, end, stack, observe, IMAGE.shape if observe else space.shape)
    # Room enough for the planes that must be left to be overwritten: 2 n (n + 1) per environment.
    demonstrations, groups = [world.step() for _ in range(5)], 100
    replay = allocate(spec(space, stack), groups * num_envs, num_envs)
    for i, transition in enumerate(demonstrations):
        if i == 2:
            protect(replay)  # what was protected before stays protected
        add(replay, transition)
    protect(replay)
    history = []
    for i in range(3 * groups):
        history.append(world.step())
        add(replay, history[-1])
        if i % 5 == 0 or i > 3 * groups - 10:
            latest = int(replay.size) // num_envs - len(demonstrations)
            assert 1 <= latest <= groups - len(demonstrations)
            assert_trees_equal(live(replay), concat([*demonstrations, *history[-latest:]]))
    if space is VECTOR:
        assert int(replay.size) == groups * num_envs


@pytest.mark.parametrize("space", [VECTOR, IMAGE])
def test_protected_rows_are_sampled_as_often_as_others(space):
    world = World(0, 2, 0.3, observe=as_vector if space is VECTOR else None)
    replay = allocate(spec(space), 24, num_envs=2)
    for i in range(30):
        if i == 4:
            protect(replay)
        add(replay, world.step())
    size = int(replay.size)
    batch = sample(replay, (torch.arange(size) + 0.5) / size, 0.9)
    assert sorted(batch.reward.tolist()) == sorted(live(replay).reward.tolist())
    assert set(range(8)) < set(batch.index.tolist())
    assert sorted(batch.index.tolist()) == is_whole(replay).nonzero().flatten().tolist()


@pytest.mark.parametrize("adds", [12, 13, 20])
def test_what_fills_the_replay_or_was_overwritten_cannot_be_protected(adds):
    replay, world = allocate(spec(), 24, num_envs=2), World(0, 2, observe=as_vector)
    for _ in range(adds):
        add(replay, world.step())
    with pytest.raises(UsageError, match="too small to protect"):
        protect(replay)


def test_frames_that_leave_too_few_planes_cannot_be_protected():
    # 2 * B * n * (n + 1) = 24 planes at least; a replay of 40 has 45.
    world, replay = World(0, 1, 0.0, 3), allocate(spec(IMAGE, 3), 40)
    while int(replay.frames["obs"].count) < 21:
        add(replay, world.step())
    protect(replay)
    add(replay, world.step())
    before = live(replay)
    with pytest.raises(UsageError, match="too small to protect"):
        protect(replay)
    assert_trees_equal(live(replay), before)


@pytest.mark.parametrize(
    "change",
    [
        lambda shapes: shapes.pop("reward"),
        lambda shapes: shapes.update(extra=(1,)),
        lambda shapes: shapes.update(obs=(3, 5)),
        lambda shapes: shapes.update(reward=(9,)),
        lambda shapes: shapes.update(reward=()),
        lambda shapes: shapes.update(size=(1,)),
        lambda shapes: shapes.update(protected=(1,)),
    ],
)
def test_a_saved_replay_that_does_not_fit_is_refused(change):
    replay = allocate(spec(), 8)
    shapes = {name: tuple(tensor.shape) for name, tensor in filled(replay).items()}
    change(shapes)
    with pytest.raises(CheckpointError, match="saved replay"):
        restore_into(replay, shapes)


@pytest.mark.compiled
@pytest.mark.parametrize(("space", "observe", "stack"), [(VECTOR, as_vector, 1), (TREE, as_tree, 3)])
def test_compiled_add_and_sample_equal_eager_ones(space, observe, stack):
    def step(replay, transition, uniform):
        add(replay, transition)
        return sample(replay, uniform, 0.9)

    compiled = torch.compile(step, fullgraph=True, dynamic=False)
    world = World(0, 2, 0.3, stack, observe)
    a, b = (allocate(spec(space, stack), 80, num_envs=2) for _ in range(2))
    for i in range(60):
        if i == 2:
            protect(a)
            protect(b)
        transition, uniform = world.step(), torch.rand(5)
        assert_trees_equal(compiled(a, transition, uniform), step(b, transition, uniform))
    assert_trees_equal(live(a), live(b))


def test_sampled_trees_keep_the_structure_of_the_space():
    world, replay = World(0, 2, observe=as_tree), allocate(spec(TREE), 8, num_envs=2)
    add(replay, world.step())
    batch = sample(replay, torch.rand(5), 0.9)
    assert map_tree(lambda leaf: leaf.shape[0], batch.obs) == {"camera": 5, "where": (5, 5)}
