"""A kind of replay is a file of its own on top of the storage: three of them, as somebody else would write
them."""

import numpy as np
import pytest
import torch
from fixed import FixedData
from gymnasium import spaces
from n_step import NStepReplay
from prioritized import PrioritizedReplay

from bellgrad.core.errors import CheckpointError
from bellgrad.core.records import EnvSpec, Transition
from bellgrad.core.rng import draw
from bellgrad.core.tree import named_leaves
from bellgrad.data.storage import protect
from bellgrad.data.uniform import UniformReplay

SPEC = EnvSpec("Test-v0", spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(2))
PICTURES = EnvSpec("Test-v0", spaces.Box(0, 255, (2, 32, 32), np.uint8), spaces.Discrete(2), frame_stack=2)
CPU = torch.device("cpu")
START = torch.zeros((), dtype=torch.int64)


@pytest.fixture
def fixed(tmp_path):
    data = moments(0, 30, 1)
    columns = {name: torch.cat([getattr(moment, name) for moment in data]) for name in Transition._fields}
    np.savez(tmp_path / "data.npz", **columns)
    return FixedData(str(tmp_path / "data.npz"))


def moments(seed, count, num_envs, spec=SPEC, end=0.2):
    """Transitions of made-up environments; a vector `obs` is the step's number, the reward ten times it."""
    rng, shape = torch.Generator().manual_seed(seed), (num_envs, *spec.observation_space.shape)
    made = []
    for t in range(count):
        if spec is PICTURES:
            obs, next_obs = torch.randint(0, 256, (2, *shape), generator=rng, dtype=torch.uint8)
        else:
            obs, next_obs = torch.full(shape, float(t)), torch.full(shape, t + 1.0)
        reward = torch.full((num_envs,), 10.0 * t) + torch.arange(num_envs)
        terminated, truncated = torch.rand(2, num_envs, generator=rng) < end / 2
        made.append(Transition(obs, torch.zeros(num_envs).long(), reward, terminated, truncated, next_obs))
    return made


def kinds(fixed):
    return [UniformReplay(), PrioritizedReplay(), NStepReplay(3), fixed]


def numbers(kind, seed, batch_size=6):
    return draw(kind.noise(batch_size), torch.Generator().manual_seed(seed))


def assert_equal(a, b):
    a, b = named_leaves(a), named_leaves(b)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=0)


# ------------------------------------------------------------------------------------------ what all must do
@pytest.mark.parametrize("spec", [SPEC, PICTURES], ids=["vectors", "pictures"])
@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("adds", [1, 8, 40])
def test_a_kind_of_replay_goes_on_from_what_was_saved(spec, which, adds, fixed):
    kind = kinds(fixed)[which]
    kept, restored = (kind.allocate(spec, 60, 2, CPU) for _ in range(2))
    made = moments(0, adds + 20, 2, spec)
    for i, moment in enumerate(made[:adds]):
        kind.add(kept, moment)
        kind.feedback(kept, kind.sample(kept, numbers(kind, i), 0.9, START).index, torch.rand(6))
    saved = {name: tensor.clone() for name, tensor in kind.filled(kept).items()}
    places = kind.restore_into(restored, {name: tensor.shape for name, tensor in saved.items()})
    for name, place in places.items():
        place.copy_(saved[name])
    for i, moment in enumerate(made[adds:]):
        batches = [kind.sample(each, numbers(kind, i), 0.9, START) for each in (kept, restored)]
        assert_equal(*batches)
        for each in (kept, restored):
            kind.feedback(each, batches[0].index, torch.arange(1.0, 7.0))
            kind.add(each, moment)


@pytest.mark.compiled
@pytest.mark.parametrize("which", range(4), ids=["uniform", "prioritized", "n steps", "fixed"])
def test_a_kind_of_replay_compiles_whole(which, fixed):
    kind = kinds(fixed)[which]

    def cycle(kept, moment, noise, steps):
        kind.add(kept, moment)
        batch = kind.sample(kept, noise, 0.9, steps)
        kind.feedback(kept, batch.index, batch.reward.abs())
        return batch

    compiled = torch.compile(cycle, fullgraph=True, dynamic=False)
    a, b = (kind.allocate(SPEC, 20, 1, CPU) for _ in range(2))
    for t, moment in enumerate(moments(0, 50, 1)):
        noise, steps = numbers(kind, t), torch.tensor(t)
        ours, theirs = (
            named_leaves(run(kept, moment, noise, steps)) for run, kept in ((compiled, a), (cycle, b))
        )
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-6)


# ----------------------------------------------------------------------------------------------- prioritized
@pytest.mark.parametrize("spec", [SPEC, PICTURES], ids=["vectors", "pictures"])
def test_transitions_are_sampled_in_proportion_to_their_priorities(spec):
    kind = PrioritizedReplay(alpha=1.0)
    kept = kind.allocate(spec, 40, 2, CPU)
    for moment in moments(0, 50, 2, spec, end=1.0):
        kind.add(kept, moment)
    every = torch.unique(kind.sample(kept, (torch.arange(400) + 0.5) / 400, 0.9, START).index)
    assert len(every) == int(kept.size)  # and so none that is not whole
    kind.feedback(kept, every, torch.zeros(len(every)))
    kind.feedback(kept, every[[3, 5]], torch.tensor([1.0, 3.0]))
    batch = kind.sample(kept, (torch.arange(100) + 0.5) / 100, 0.9, START)
    rows, counts = batch.index.unique(return_counts=True)
    assert dict(zip(rows.tolist(), counts.tolist(), strict=True)) == {int(every[3]): 25, int(every[5]): 75}


def test_new_transitions_have_the_highest_priority():
    kind = PrioritizedReplay()
    kept, made = kind.allocate(SPEC, 8, 1, CPU), moments(0, 3, 1)
    kind.add(kept, made[0])
    assert kind.priority(kept)[0] == 1
    kind.feedback(kept, torch.tensor([0]), torch.tensor([5.0]))
    kind.add(kept, made[1])
    assert kind.priority(kept)[:3].tolist() == [5, 5, 0]


def test_weights_make_up_for_the_priorities_as_beta_grows():
    kind = PrioritizedReplay(alpha=1.0, beta_initial=0.0, beta_steps=100)
    kept = kind.allocate(SPEC, 8, 1, CPU)
    for moment in moments(0, 2, 1):
        kind.add(kept, moment)
    kind.feedback(kept, torch.tensor([0, 1]), torch.tensor([1.0, 4.0]))
    noise = torch.tensor([0.1, 0.9])  # below and above 1 / 5
    for steps, rare_to_frequent in ((0, 1.0), (50, 4**0.5), (100, 4.0), (1000, 4.0)):
        batch = kind.sample(kept, noise, 0.9, torch.tensor(steps))
        assert batch.index.tolist() == [0, 1]
        torch.testing.assert_close(batch.weight, torch.tensor([1.0, 1 / rare_to_frequent]))


# --------------------------------------------------------------------------------------------------- n steps
@pytest.mark.parametrize("num_envs", [1, 2])
@pytest.mark.parametrize("protected", [0, 6])
def test_n_steps_are_those_of_one_environment_up_to_its_end_and_its_latest_step(num_envs, protected):
    kind, gamma, rows = NStepReplay(3), 0.5, 20 * num_envs
    kept, made = kind.allocate(SPEC, rows, num_envs, CPU), moments(1, 57, num_envs)
    for t, moment in enumerate(made):
        if t == protected:
            protect(kept)
        kind.add(kept, moment)
    batch = kind.sample(kept, (torch.arange(rows) + 0.5) / rows, gamma, START)
    assert sorted(batch.obs[:, 0].tolist()) == sorted(
        t for t in (*range(protected), *range(57 - 20 + protected, 57)) for _ in range(num_envs)
    )
    for i in range(rows):
        t, b = int(batch.obs[i, 0]), int(batch.index[i]) % num_envs
        latest = protected if t < protected else 57
        reward, discount = 0.0, 1.0
        for moment in made[t : min(t + 3, latest)]:
            reward += discount * float(moment.reward[b])
            discount *= gamma
            if moment.terminated[b] or moment.truncated[b]:
                break
        assert batch.reward[i] == reward
        assert batch.discount[i] == (0 if moment.terminated[b] else discount)
        assert torch.equal(batch.next_obs[i], moment.next_obs[b])


# ------------------------------------------------------------------------------------------------ fixed data
def test_fixed_data_stay_as_they_are_and_are_not_part_of_a_checkpoint(fixed):
    kept, made = fixed.allocate(SPEC, 7, 2, CPU), moments(0, 30, 1)
    fixed.add(kept, moments(1, 1, 2)[0])
    batch = fixed.sample(kept, (torch.arange(30) + 0.5) / 30, 0.9, START)
    assert batch.reward.tolist() == [float(moment.reward) for moment in made]
    assert fixed.filled(kept) == fixed.restore_into(kept, {}) == {}
    with pytest.raises(CheckpointError, match="not one of fixed data"):
        fixed.restore_into(kept, {"reward": (3,)})
