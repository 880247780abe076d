"""PixelCopter keeps the original's rules, rewards and observations."""

import numpy as np
import pytest
import torch

from bellgrad.core.tree import leaves
from bellgrad.envs.native import NativeEnv, NativeState
from bellgrad.envs.pixelcopter import COLUMNS, Game, PixelCopter, picture

CLIMB, NOTHING = torch.tensor([0]), torch.tensor([1])
MIDDLE = torch.full((1, 4), 0.5, dtype=torch.float64)  # the next block at x 60, y 24
EXACT = PixelCopter(dtype=torch.float64)


def scene(**changed: float) -> torch.Tensor:
    """A copter at rest at y 24 in a straight tunnel with its middle at 24 and columns at 2, 6, ...; block at
    (60, 24)."""
    game = Game.of(EXACT.initial(torch.full((1, 3 + COLUMNS), 0.5, dtype=torch.float64)))
    game = game._replace(column_y=torch.full_like(game.column_y, 24.0))
    return torch.cat(
        game._replace(
            **{name: torch.full_like(getattr(game, name), value) for name, value in changed.items()}
        ),
        -1,
    )


def after(physics, action=NOTHING, noise=MIDDLE):
    physics, reward, terminated = EXACT.advance(physics, action, noise)
    return Game.of(physics), reward.item(), terminated.item()


def test_one_step_is_as_computed_by_hand():
    # Everything scrolls by 0.0004 * 48 * 1000/30 = 0.64 pixels; velocity gains -0.875 or 0.09 of that, and
    # loses a hundredth.
    game, reward, terminated = after(scene(), CLIMB)
    assert game.velocity.item() == pytest.approx(-0.5544) and game.y.item() == pytest.approx(24 - 0.5544)
    assert (reward, terminated) == (0, False)
    game, _, _ = after(torch.cat(game, -1), NOTHING)
    assert game.velocity.item() == pytest.approx(0.99 * (-0.5544 + 0.0576))
    assert game.block_x.item() == pytest.approx(60 - 2 * 0.64)
    np.testing.assert_allclose(game.column_x[0], 2 + 4 * np.arange(14) - 2 * 0.64)


def test_the_first_scene_is_made_of_its_noise():
    noise = torch.rand(1000, 3 + COLUMNS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    game = Game.of(EXACT.initial(noise))
    assert set(game.block_x.flatten().tolist()) == set(range(48, 72)) and set(
        game.block_y.flatten().tolist()
    ) == set(range(12, 36))
    assert (game.y == 24).all() and (game.velocity == 0).all()
    frequency = 4.5 / 48 + 0.02 * (noise[:, 2:3] - 0.5)
    wave = 24 + 6 * torch.sin(frequency * (2 + 4 * torch.arange(14)) + 0.5 * noise[:, 3:])
    assert torch.equal(game.column_y, wave.floor())


def test_the_observation_is_the_originals():
    physics = scene(y=20.0, velocity=0.3, block_x=30.0, block_y=15.0)
    # top and bottom: 15 and 15 + 9
    assert EXACT.observe(physics)[0].tolist() == pytest.approx([20, 0.3, 8, 16, 14, 15, 24])


def test_a_block_that_falls_behind_earns_one_and_the_next_comes():
    game, reward, _ = after(scene(block_x=16.65, block_y=35))
    assert reward == 0 and game.block_x.item() == pytest.approx(16.01)
    game, reward, _ = after(
        torch.cat(game, -1), noise=torch.tensor([[0.999, 0.0, 0.5, 0.5]], dtype=torch.float64)
    )
    assert reward == 1
    assert (game.block_x.item(), game.block_y.item()) == (71, 12)
    assert (game.passed_x.item(), game.passed_y.item()) == (pytest.approx(15.37), 35)


def test_a_column_that_leaves_earns_one_every_6_and_a_quarter_steps():
    # The first stands at 2 and leaves at -4: 6 / 0.64 = 9.4 steps, and the next 4 pixels behind it.
    physics, left = scene(), []
    for step in range(1, 36):
        physics[:, :2] = torch.tensor([24.0, 0.0])
        game, reward, _ = after(physics)
        physics = torch.cat(game, -1)
        left += [step] if reward else []
    assert left == [10, 16, 22, 29, 35]
    np.testing.assert_allclose(np.diff(game.column_x[0]), 4)


def test_after_48_columns_a_new_stretch_begins_at_the_edge_of_the_screen():
    game = Game.of(scene(newest=190.0))
    game = game._replace(column_x=game.column_x - 5.5)
    game, reward, _ = after(
        torch.cat(game, -1), noise=torch.tensor([[0.5, 0.5, 1.0, 0.0]], dtype=torch.float64)
    )
    assert reward == 1 and game.column_x[0, -1] == 50 and game.newest == 50 and game.last == 238
    assert game.frequency.item() == pytest.approx(4.5 / 48 + 0.01)
    assert game.column_y[0, -1] == np.floor(24 + 6 * np.sin((4.5 / 48 + 0.01) * 50))


# With nothing done y grows by 0.057. The ceiling at 12 kills within 2.4 pixels, the floor at 36 at the
# middle. A block of 4 x 9 pixels around (15, 20) and the copter, 2 x 2, meet while 16 <= y < 26, in whole
# pixels.
CRASHES = {
    "ceiling": (True, {"y": 14.3}),
    "below the ceiling": (False, {"y": 14.4}),
    "floor": (True, {"y": 35.95}),
    "above the floor": (False, {"y": 35.9}),
    "block": (True, {"block_x": 15.7, "block_y": 20.0, "y": 25.9}),
    "below the block": (False, {"block_x": 15.7, "block_y": 20.0, "y": 26.0}),
    "above the block": (False, {"block_x": 15.7, "block_y": 20.0, "y": 15.9}),
    "block behind": (True, {"passed_x": 14.7, "passed_y": 24.0}),
    "block further behind": (False, {"passed_x": 14.5, "passed_y": 24.0}),
    "block ahead": (True, {"block_x": 19.6, "block_y": 24.0}),
    "block further ahead": (False, {"block_x": 19.7, "block_y": 24.0}),
}


@pytest.mark.parametrize("crash, changed", CRASHES.values(), ids=CRASHES)
def test_a_crash_ends_the_episode_and_costs_five(crash, changed):
    passed = float(changed.get("block_x", 60) < 16.64)  # even as it crashes a copter earns what it passes
    assert after(scene(**changed))[1:] == (passed - 5 * crash, crash)


@pytest.mark.parametrize("y, middle", [(5.9, 10.0), (42.0, 40.0)], ids=["too high", "too low"])
def test_the_sky_and_the_ground_are_deadly_wherever_the_terrain_is(y, middle):
    game = Game.of(scene(y=y))
    physics = torch.cat(game._replace(column_y=torch.full_like(game.column_y, middle)), -1)
    assert after(physics)[1:] == (-5, True)


def test_a_whole_flight_goes_as_in_the_original():
    """Figures from the original's own code under pygame, every random number in the middle of its range."""
    climbs = [
        12,
        17,
        19,
        26,
        45,
        58,
        69,
        93,
        96,
        100,
        118,
        119,
        123,
        124,
        172,
        176,
        183,
        192,
        201,
        203,
        207,
        224,
        232,
        247,
        260,
    ]
    climbs += [271, 290, 300, 311, 319]
    seen = {
        0: ([24.0, 0.0, 7.0, 17.0, 44.0, 24.0, 33.0], 0),
        100: ([29.7747, 0.1433, 12.7747, 11.2253, 24.16, 24.0, 33.0], 16),
        240: ([16.541, -0.3055, 7.541, 16.459, 22.88, 24.0, 33.0], 40),  # in the second stretch of terrain
        320: ([27.9334, -0.1357, 10.9334, 13.0666, 15.84, 24.0, 33.0], 55),
        342: ([38.7336, 1.0224, 24.7336, -0.7336, 1.76, 24.0, 33.0], 53),  # two more, and the crash
    }
    dynamics, total = PixelCopter(), 0.0
    physics, terminated = dynamics.initial(torch.full((1, 3 + COLUMNS), 0.5)), False
    for step in range(343):
        if step in seen:
            expected, score = seen[step]
            np.testing.assert_allclose(dynamics.observe(physics)[0], expected, atol=2e-4)
            assert (total, terminated) == (score, step == 342)
        physics, reward, ended = dynamics.advance(physics, torch.tensor([0 if step in climbs else 1]), MIDDLE)
        total, terminated = total + reward.item(), ended.item()


def fly(obs):
    """Through the middle of the tunnel, or of the wider way around a block."""
    y, velocity, above, _, distance, block, _ = obs.unbind(-1)
    middle = y - above + 12
    around = torch.where(block > middle, (middle - 9.6 + block - 4) / 2, (middle + 12 + block + 6) / 2)
    return torch.where(y + 8 * velocity > torch.where(distance < 25, around, middle), 0, 1)


def test_flying_with_care_beats_chance_and_all_that_is_seen_lies_in_the_space():
    env, returns = NativeEnv(PixelCopter(), 64), {}
    generator = torch.Generator().manual_seed(0)
    for name, act in {
        "care": fly,
        "random": lambda obs: torch.randint(2, (64,), generator=generator),
    }.items():
        obs, ended = env.reset(seed=0), []
        low, high = torch.from_numpy(env.observation_space.low), torch.from_numpy(env.observation_space.high)
        for _ in range(300):
            step = env.step(act(obs))
            assert ((step.next_obs >= low) & (step.next_obs <= high)).all()
            ended += step.episode.return_[step.terminated].tolist()
            obs = step.obs
        returns[name] = np.mean(ended)
    # Over 512 whole episodes: 21.7 and -4.8. Those that end within 300 steps are the shorter ones.
    assert returns["care"] > 5 and returns["random"] < -4.5


def test_an_ended_episode_begins_anew_and_a_snapshot_goes_on_bit_for_bit():
    env = NativeEnv(PixelCopter(), 2)
    env.reset(seed=0)
    crashing = env.state.physics.clone()
    crashing[1, 0] = 41.99
    env.state = NativeState(crashing, *env.state[1:])
    step = env.step(torch.tensor([1, 1]))
    assert step.terminated.tolist() == [False, True] and step.reward[1] == -5
    assert step.next_obs[1, 0] > 42 and step.obs[1, 0] == 24

    def run(env):
        return [
            leaf for t in range(60) for leaf in leaves(env.step(torch.tensor([t % 10, t % 7]).clamp(max=1)))
        ]

    snapshot, other = env.snapshot(), NativeEnv(PixelCopter(), 2)
    other.restore(snapshot)
    assert all(torch.equal(a, b) for a, b in zip(run(env), run(other), strict=True))


def test_the_picture_shows_copter_block_and_terrain_where_they_are():
    frame = picture(scene(block_x=30.0, block_y=20.0)[0].numpy())
    assert frame.shape == (384, 384, 3) and frame.dtype == np.uint8
    assert frame[24 * 8, 16 * 8].tolist() == [255, 255, 255]
    assert frame[24 * 8, 20 * 8].tolist() == [0, 0, 0]
    for x, y in [(30, 20), (20, 11.5), (20, 36.5)]:  # the block, the ceiling at 12, the floor at 36
        assert frame[int(y * 8), x * 8].tolist() == [120, 240, 80]


@pytest.mark.compiled
def test_compiled_steps_equal_eager_ones():
    env = NativeEnv(PixelCopter(), 64)
    env.reset(seed=0)
    generator = torch.Generator().manual_seed(0)
    compiled = torch.compile(env.pure_step, fullgraph=True)
    state, ends = env.state, 0
    for _ in range(40):
        action, noise = (
            torch.randint(2, (64,), generator=generator),
            torch.rand(env.noise.shape, generator=generator),
        )
        eager, (_, step) = env.pure_step(state, action, noise), compiled(state, action, noise)
        for a, b in zip(leaves(eager[1]), leaves(step), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-5)
        state, ends = eager[0], ends + int(step.terminated.sum())
    assert ends > 100
