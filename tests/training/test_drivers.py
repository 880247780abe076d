"""The drivers' contracts, on environments whose whole sequence is known and with learners that only watch."""

import itertools
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar, NamedTuple

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from bellgrad.algos.dqn import DQN
from bellgrad.algos.ppo import PPO
from bellgrad.algos.sac import SAC
from bellgrad.core.errors import UsageError
from bellgrad.core.records import Acted, Minibatch, Rollout, Updated
from bellgrad.core.rng import Noise
from bellgrad.core.tree import named_leaves
from bellgrad.data.storage import gather
from bellgrad.data.uniform import UniformReplay
from bellgrad.envs.classic import CartPole, Pendulum
from bellgrad.envs.make import make_env
from bellgrad.envs.native import NativeEnv
from bellgrad.envs.transformed import TransformedEnv
from bellgrad.envs.transforms import RescaleAction
from bellgrad.nets.specs import MLP
from bellgrad.ops.optim import SGD
from bellgrad.runs.checkpoint import Checkpoint, save_checkpoint
from bellgrad.training.engine import Engine
from bellgrad.training.off_policy import OffPolicy
from bellgrad.training.on_policy import OnPolicy

CPU = torch.device("cpu")
SMALL = MLP((16, 16))


def engine(updates_per_call=4, mode="eager"):
    return Engine(mode, 1, updates_per_call, "")


# ----------------------------------------------------------------------------------------------- environments
TERMINATES_AFTER, TIME_LIMIT = 3, 5  # steps


@dataclass(frozen=True)
class Walk:
    """Observes `(origin, t)`: where the episode began, drawn from [0, 1), and its steps so far. Rewards `10 t
    + action`.

    Episodes with an origin below 1/2 terminate after three steps, the others are cut after five.
    """

    id: str = "Walk"
    max_episode_steps: int | None = TIME_LIMIT
    dtype: torch.dtype = torch.float32

    reset_noise: ClassVar[int] = 1
    step_noise: ClassVar[int] = 0
    observation_space: ClassVar = Box(0, 100, (2,), np.float32)
    action_space: ClassVar = Discrete(10)

    def initial(self, noise):
        return torch.cat([noise, torch.zeros_like(noise)], -1)

    def advance(self, physics, action, noise):
        origin, t = physics.unbind(-1)
        return torch.stack([origin, t + 1], -1), 10 * t + action, (origin < 0.5) & (t + 1 == TERMINATES_AFTER)

    def observe(self, physics):
        return physics


class GymWalk(gymnasium.Env):
    """The same, one at a time; Gymnasium's `TimeLimit` cuts it."""

    observation_space, action_space = Walk.observation_space, Walk.action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.origin, self.t = np.float32(self.np_random.random()), 0
        return np.array([self.origin, self.t], np.float32), {}

    def step(self, action):
        reward = 10.0 * self.t + action
        self.t += 1
        terminated = bool(self.origin < 0.5 and self.t == TERMINATES_AFTER)
        return np.array([self.origin, self.t], np.float32), reward, terminated, False, {}


WALKS = {
    "native": lambda num_envs: NativeEnv(Walk(), num_envs),
    "gymnasium": lambda num_envs: make_env(GymWalk, num_envs, max_episode_steps=TIME_LIMIT),
}


@dataclass(frozen=True)
class Torque:
    """Two actions within [0, 4] and [-1, 3]; the observation is what the environment was given. One step an
    episode."""

    id: str = "Torque"
    max_episode_steps: int | None = 1
    dtype: torch.dtype = torch.float32

    reset_noise: ClassVar[int] = 2
    step_noise: ClassVar[int] = 0
    observation_space: ClassVar = Box(-10, 10, (2,), np.float32)
    action_space: ClassVar = Box(np.array([0, -1], np.float32), np.array([4, 3], np.float32))

    def initial(self, noise):
        return torch.zeros_like(noise)

    def advance(self, physics, action, noise):
        return action, action.sum(-1), torch.zeros_like(action[:, 0], dtype=torch.bool)

    def observe(self, physics):
        return physics


# --------------------------------------------------------------------------------------------------- learners
class WatchState(NamedTuple):
    params: dict[str, Tensor]
    updates: Tensor
    steps: Tensor


class Watch:
    """Learns nothing. Its carry counts its own decisions in an episode, and that count is the action."""

    def __init__(self, **config):
        self.config = SimpleNamespace(**({"gamma": 0.9} | config))

    def init(self, rng):
        zero = torch.zeros((), dtype=torch.int64)
        return WatchState({"weight": torch.zeros(1)}, zero, zero.clone())

    def init_carry(self, num_envs):
        return {"count": torch.zeros(num_envs, dtype=torch.int64)}

    def act_noise(self, num_envs):
        return Noise("uniform", (num_envs,))

    def act(self, state, carry, obs, noise, explore=True):
        return Acted(action=carry["count"].clone(), logprob=noise, carry={"count": carry["count"] + 1})

    def update_noise(self):
        return None


class WatchReplay(Watch):
    """Keeps the batches that it is given."""

    def __init__(self, **config):
        super().__init__(
            **(
                {
                    "update_period": 1,
                    "updates_per_period": 1,
                    "buffer_size": 1000,
                    "learning_starts": 0,
                    "batch_size": 4,
                    "replay": UniformReplay(),
                }
                | config
            )
        )
        self.batches = []

    def update(self, state, batch, noise):
        self.batches.append((int(state.steps), batch))
        metrics = {"loss": batch.reward.mean()}
        return Updated(state._replace(updates=state.updates + 1), metrics, priority=batch.reward)


class WatchRollouts(Watch):
    """Keeps the rollouts and minibatches that it is given; row `i` of a rollout has the advantage `i`. `kl`
    is its script."""

    def __init__(self, kl=(), **config):
        self.max_kl = config.pop("max_kl", None)
        super().__init__(**({"rollout_steps": 16, "epochs": 1, "minibatches": 1} | config))
        self.rollouts, self.minibatches, self.kl = [], [], itertools.chain(kl, itertools.repeat(0.0))

    sequence = 1
    needs_next_obs = False

    def value(self, state, obs, carry):
        return 100 * obs[:, 0] + obs[:, 1]

    def prepare_noise(self, num_envs):
        return None

    def prepare(self, state, rollout, noise):
        self.rollouts.append(rollout)
        rows = torch.arange(rollout.reward.numel(), dtype=torch.float32).view(rollout.reward.shape)
        same = (rollout.obs, rollout.action, rollout.logprob, rollout.value)
        return state, Minibatch(*same, rows, rows, rollout.terminated, rollout.carry), {}

    def update(self, state, batch, noise):
        self.minibatches.append(batch.advantage.long())
        return state._replace(updates=state.updates + 1), {"approx_kl": torch.tensor(next(self.kl))}


def off_policy(env, updates_per_call=4, **config):
    return OffPolicy(WatchReplay(**config), env, engine(updates_per_call), 0, CPU)


def on_policy(env, updates_per_call=4, **config):
    return OnPolicy(WatchRollouts(**config), env, engine(updates_per_call), 0, CPU)


def advance(driver, steps):
    reports = []
    while driver.steps < steps:
        reports.append(driver.advance())
    return reports


def kept(driver):
    """The transitions in a driver's replay, `[steps, ...]`."""
    return gather(driver.kept, torch.arange(driver.steps))


def assert_trees_equal(a, b):
    a, b = named_leaves(a), named_leaves(b)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


# ----------------------------------------------------------------------------------------- what is remembered
def check_walks(obs, action, reward, terminated, truncated, next_obs=None):
    """Every row of `[T, B]` walks is one step of the known sequence, and follows the row before it."""
    origin, t = obs.unbind(-1)
    assert torch.equal(reward, 10 * t + action)
    assert torch.equal(terminated, (origin < 0.5) & (t + 1 == TERMINATES_AFTER))
    assert torch.equal(truncated, t + 1 == TIME_LIMIT)
    if next_obs is not None:
        assert torch.equal(
            next_obs, torch.stack([origin, t + 1], -1)
        )  # never the next episode's first observation
    ended = (terminated | truncated)[:-1]
    goes_on = torch.stack([origin, t + 1], -1)[:-1]
    assert torch.equal(obs[1:][~ended], goes_on[~ended])
    assert (t[1:][ended] == 0).all() and (origin[1:][ended] != origin[:-1][ended]).all()
    assert terminated.any() and truncated.any()


@pytest.mark.parametrize("updates_per_call", [1, 4])
@pytest.mark.parametrize(("num_envs", "period"), [(1, 1), (1, 4), (3, 1), (2, 6)])
@pytest.mark.parametrize("walk", WALKS)
def test_trap_autoreset_the_replay_holds_every_real_transition_with_its_true_successor(
    walk, num_envs, period, updates_per_call
):
    driver = off_policy(WALKS[walk](num_envs), updates_per_call, update_period=period, learning_starts=25)
    advance(driver, 120)
    assert driver.kept.size == driver.steps
    rows = [column.unflatten(0, (-1, num_envs)) for column in kept(driver)]
    check_walks(*rows)


@pytest.mark.parametrize("walk", WALKS)
def test_trap_gae_across_an_episode_end_rollouts_hold_the_value_of_the_true_successor(walk):
    driver = on_policy(WALKS[walk](3), rollout_steps=24)
    advance(driver, 2 * 24 * 3)
    first, second = driver.learner.rollouts
    joined = Rollout(
        *(
            torch.cat(pair) if isinstance(pair[0], Tensor) else None
            for pair in zip(first, second, strict=True)
        )
    )
    check_walks(joined.obs, joined.action, joined.reward, joined.terminated, joined.truncated)
    origin, t = joined.obs.unbind(-1)
    torch.testing.assert_close(joined.value, 100 * origin + t)
    torch.testing.assert_close(joined.next_value, 100 * origin + t + 1)


class WatchTwoValues(WatchRollouts):
    """Asks for successors, and predicts two values."""

    needs_next_obs = True

    def value(self, state, obs, carry):
        return {"extrinsic": 100 * obs[:, 0] + obs[:, 1], "intrinsic": -obs[:, 1]}

    def prepare(self, state, rollout, noise):
        self.rollouts.append(rollout)
        rows = torch.arange(rollout.reward.numel(), dtype=torch.float32).view(rollout.reward.shape)
        same = (rollout.obs, rollout.action, rollout.logprob, rollout.value["extrinsic"])
        extra = {"intrinsic_return": rollout.value["intrinsic"]}
        return state, Minibatch(*same, rows, rows, rollout.terminated, rollout.carry, extra), {}

    def update(self, state, batch, noise):
        assert torch.equal(batch.extra["intrinsic_return"], -batch.obs[:, 1])  # shuffled as its step is
        return super().update(state, batch, noise)


@pytest.mark.parametrize("walk", WALKS)
def test_rollouts_carry_the_successor_and_several_values_by_name(walk):
    learner = WatchTwoValues(rollout_steps=24, minibatches=4)
    driver = OnPolicy(learner, WALKS[walk](3), engine(), 0, CPU)
    advance(driver, 24 * 3)
    (rollout,) = learner.rollouts
    check_walks(*rollout[:5], rollout.next_obs)
    origin, t = rollout.obs.unbind(-1)
    torch.testing.assert_close(rollout.value, {"extrinsic": 100 * origin + t, "intrinsic": -t})
    expected = {"extrinsic": 100 * origin + t + 1, "intrinsic": -t - 1}
    torch.testing.assert_close(rollout.next_value, expected)
    assert driver.updates == 4


@pytest.mark.parametrize("walk", WALKS)
def test_episode_totals_are_reported_once_an_episode(walk):
    driver = off_policy(WALKS[walk](2), update_period=2, learning_starts=20)
    reports = advance(driver, 100)
    ended = torch.cat([report.ended.ended for report in reports])
    length = torch.cat([report.ended.length for report in reports])
    return_ = torch.cat([report.ended.return_ for report in reports])
    rows = [column.unflatten(0, (-1, 2)) for column in kept(driver)]
    assert torch.equal(ended, rows[3] | rows[4])
    assert set(length[ended].tolist()) == {TERMINATES_AFTER, TIME_LIMIT}
    for env in range(2):
        at, begin = 0, 0
        for at in torch.nonzero(ended[:, env]).flatten().tolist():
            assert length[at, env] == at + 1 - begin
            assert return_[at, env] == rows[2][begin : at + 1, env].sum()
            begin = at + 1


@pytest.mark.parametrize("walk", WALKS)
def test_the_carry_begins_anew_where_an_episode_ended_off_policy(walk):
    driver = off_policy(WALKS[walk](3), update_period=3)
    advance(driver, 150)
    obs, action, *_ = kept(driver)
    assert torch.equal(action, obs[:, 1].long())  # decisions so far in this episode = steps so far


@pytest.mark.parametrize("walk", WALKS)
def test_the_carry_begins_anew_where_an_episode_ended_on_policy(walk):
    driver = on_policy(WALKS[walk](3), rollout_steps=16)
    advance(driver, 3 * 16 * 3)
    for rollout in driver.learner.rollouts:
        assert torch.equal(rollout.action, rollout.obs[..., 1].long())
        assert torch.equal(rollout.carry["count"], rollout.action)  # the carry before each step
        assert torch.equal(rollout.age, rollout.action)
    assert any((rollout.carry["count"][0] > 0).any() for rollout in driver.learner.rollouts)


@pytest.mark.compiled
def test_the_carry_begins_anew_in_a_compiled_loop_too():
    class Silent(WatchReplay):  # a compiled function cannot fill a list
        def update(self, state, batch, noise):
            return Updated(state._replace(updates=state.updates + 1), {"loss": batch.reward.mean()})

    driver = OffPolicy(Silent(update_period=3), WALKS["native"](3), engine(1, "compiled"), 0, CPU)
    advance(driver, 60)
    rows = [column.unflatten(0, (-1, 3)) for column in kept(driver)]
    check_walks(*rows)
    assert torch.equal(rows[1], rows[0][..., 1].long())


# --------------------------------------------------------------------------------------------------- counting
@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("updates_per_call", [1, 4])
@pytest.mark.parametrize(
    ("num_envs", "period", "per_period"),
    [(1, 1, 1), (1, 4, 1), (1, 3, 2), (4, 1, 1), (4, 4, 3), (8, 4, 1), (2, 8, 6), (4, 2, 5)],
)
def test_updates_are_counted_exactly(walk, updates_per_call, num_envs, period, per_period):
    driver = off_policy(
        WALKS[walk](num_envs),
        updates_per_call,
        update_period=period,
        updates_per_period=per_period,
        learning_starts=20,
    )
    warm_up = 0
    while driver.steps < 120:
        if driver.steps < 20:
            assert driver.updates == 0 and driver.learner.batches == []
            warm_up = driver.steps + driver.steps_per_call
        driver.advance()
        assert driver.updates * period == (driver.steps - warm_up) * per_period
    assert 20 <= warm_up < 20 + driver.steps_per_call
    assert driver.updates == len(driver.learner.batches) == int(driver.state.updates)
    assert driver.steps == int(driver.state.steps)
    # Moments of update: after every `period` steps, or after each step of all environments where those are
    # more.
    moments = [steps for steps, _ in driver.learner.batches]
    stride = max(period, num_envs)
    assert sorted(set(moments)) == list(range(warm_up + stride, driver.steps + 1, stride))
    assert {moments.count(moment) for moment in set(moments)} == {per_period * stride // period}


def test_with_nothing_to_wait_for_the_first_update_follows_the_first_step():
    driver = off_policy(WALKS["native"](1), updates_per_call=1, learning_starts=0)
    driver.advance()
    ((steps, batch),) = driver.learner.batches
    assert steps == 1
    assert (batch.obs == kept(driver).obs[0]).all()  # the only transition there is


def test_trap_minibatches_are_sampled_afresh_for_each_update():
    driver = off_policy(WALKS["native"](1), updates_per_period=3, learning_starts=100, batch_size=32)
    advance(driver, 120)
    drawn = [tuple(batch.index.tolist()) for _, batch in driver.learner.batches]
    assert len(set(drawn)) == len(drawn) >= 20
    # Of 120 rows: 60 batches of 32 reach nearly all.
    assert len({index for rows in drawn for index in rows}) > 100


@pytest.mark.parametrize(("num_envs", "period"), [(2, 3), (3, 2), (4, 6)])
def test_periods_that_do_not_fit_the_environments_are_refused(num_envs, period):
    with pytest.raises(
        UsageError, match=rf"update_period \({period}\).*{num_envs}.*one must divide the other"
    ):
        off_policy(WALKS["native"](num_envs), update_period=period)


def test_minibatches_that_do_not_divide_the_rollout_are_refused_with_a_number_that_would_do():
    with pytest.raises(
        UsageError, match="16 steps x 3 environments cannot be split into 5 equal minibatches; 4 would do"
    ):
        on_policy(WALKS["native"](3), minibatches=5)


# ---------------------------------------------------------------------------------------------------- warm-up
def test_trap_action_scaling_warm_up_actions_are_stored_in_the_learners_units():
    env = TransformedEnv(NativeEnv(Torque(), 4), [RescaleAction()])
    driver = off_policy(env, update_period=4, learning_starts=800)
    advance(driver, 800)
    assert driver.updates == 0
    _, action, _, _, _, given = kept(driver)
    assert action.shape == (800, 2) and action.min() >= -1 and action.max() <= 1
    # Uniform on [-1, 1): of 800 draws the extremes lie within 0.02 of the ends (a miss has probability e^-8),
    # the mean within four standard errors.
    assert (action.amin(0) < -0.98).all() and (action.amax(0) > 0.98).all()
    assert (action.mean(0).abs() < 4 / (3 * 800) ** 0.5).all()
    torch.testing.assert_close(
        given, 2 * (action + 1) + torch.tensor([0.0, -1.0])
    )  # scaled once, to [0, 4] and [-1, 3]


def test_warm_up_draws_every_discrete_action_alike():
    driver = off_policy(WALKS["native"](4), update_period=4, learning_starts=4000, buffer_size=4000)
    advance(driver, 4000)
    counts = torch.bincount(kept(driver).action, minlength=10)
    assert len(counts) == 10
    assert (
        (counts - 400).abs() < 4 * (4000 * 0.1 * 0.9) ** 0.5
    ).all()  # four standard deviations of a binomial count


# ----------------------------------------------------------------------------------------------------- epochs
@pytest.mark.parametrize("updates_per_call", [1, 4, 100])
def test_every_epoch_uses_every_step_of_the_rollout_once_in_an_order_of_its_own(updates_per_call):
    driver = on_policy(WALKS["native"](3), updates_per_call, epochs=3, minibatches=4)
    driver.advance()
    assert driver.updates == len(driver.learner.minibatches) == 12
    assert {len(rows) for rows in driver.learner.minibatches} == {12}  # 16 x 3 / 4
    epochs = [torch.cat(driver.learner.minibatches[i : i + 4]) for i in (0, 4, 8)]
    for order in epochs:
        assert sorted(order.tolist()) == list(range(48))
    assert len({tuple(order.tolist()) for order in epochs}) == 3


@pytest.mark.parametrize(
    ("kl", "updates_per_call", "updates"),
    [
        ((0.1, 0.3, 0.6), 1, 3),
        ((0.6,), 1, 1),
        ((), 1, 12),
        ((0.5,) * 12, 1, 12),
        ((0.1, 0.9, 0.1, 0.1), 2, 12),
        ((0.0, 1.2), 2, 2),
    ],
    ids=["third", "first", "never", "at the target", "mean of a call is low", "mean of a call is high"],
)
def test_epochs_stop_after_the_call_whose_mean_kl_exceeds_the_target(kl, updates_per_call, updates):
    driver = on_policy(WALKS["native"](3), updates_per_call, kl=kl, max_kl=0.5, epochs=3, minibatches=4)
    driver.advance()
    assert driver.updates == len(driver.learner.minibatches) == int(driver.state.updates) == updates
    driver.advance()  # the next rollout has its epochs again
    assert driver.updates == updates + 12


def test_without_a_target_no_kl_stops_the_epochs():
    driver = on_policy(WALKS["native"](3), 1, kl=(9.0,) * 12, epochs=3, minibatches=4)
    driver.advance()
    assert driver.updates == 12


# ---------------------------------------------------------------------------------------------- real learners
ALGORITHMS = {
    "dqn": (DQN(learning_starts=32, batch_size=16, target_period=5, network=SMALL), CartPole(), 96),
    "ppo": (PPO(rollout_steps=16, epochs=2, minibatches=2, network=SMALL), CartPole(), 128),
    "ppo-continuous": (PPO(rollout_steps=16, epochs=2, minibatches=2, network=SMALL), Pendulum(), 128),
    "sac": (SAC(learning_starts=32, batch_size=16, network=SMALL), Pendulum(), 96),
}


def real(name, seed=0, updates_per_call=4, mode="eager", **changes):
    algorithm, dynamics, _ = ALGORITHMS[name]
    algorithm = type(algorithm)(**{**vars(algorithm), **changes})
    env = NativeEnv(dynamics, 4, max_episode_steps=12)  # so that time-outs fall into a short run
    env = TransformedEnv(env, [RescaleAction()] if isinstance(env.action_space, Box) else [])
    kind = OnPolicy if isinstance(algorithm, PPO) else OffPolicy
    return kind(algorithm.build(env.spec, steps=10_000), env, engine(updates_per_call, mode), seed, CPU)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(name):
    drivers = [real(name, seed) for seed in (0, 0, 1)]
    reports = [advance(driver, ALGORITHMS[name][2])[-1] for driver in drivers]
    first, again, other = (driver.snapshot()[1] for driver in drivers)
    assert_trees_equal(first, again)
    assert_trees_equal(reports[0].metrics, reports[1].metrics)
    learned = [key for key in first if "/params/" in key or "/critic/" in key]
    assert learned and not any(torch.equal(first[key], other[key]) for key in learned if "bias" not in key)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_trap_resume_goes_on_with_the_same_bits_in_a_new_driver(name, tmp_path):
    steps = ALGORITHMS[name][2]
    whole, stopped, resumed = (
        real(name),
        real(name),
        real(name, seed=9),
    )  # the other seed's numbers must all be replaced
    reports = advance(whole, 3 * steps)
    advance(stopped, steps)
    counters, tensors = stopped.snapshot()
    resumed.restore(Checkpoint.open(save_checkpoint(tmp_path, steps, {"driver": counters}, tensors)))
    assert (resumed.steps, resumed.updates) == (stopped.steps, stopped.updates) and resumed.updates > 0
    last = advance(resumed, 3 * steps)[-1]
    assert (resumed.steps, resumed.updates) == (whole.steps, whole.updates)
    assert_trees_equal(whole.snapshot()[1], resumed.snapshot()[1])
    assert_trees_equal(reports[-1], last)


@pytest.mark.parametrize("walk", WALKS)
def test_trap_resume_the_carry_of_an_episode_under_way_goes_on(walk, tmp_path):
    stopped, resumed = (off_policy(WALKS[walk](3), update_period=3) for _ in range(2))
    advance(stopped, 60)
    assert stopped.actor.state.carry["count"].any()
    counters, tensors = stopped.snapshot()
    resumed.restore(Checkpoint.open(save_checkpoint(tmp_path, 60, {"driver": counters}, tensors)))
    advance(resumed, 120)
    rows = [column.unflatten(0, (-1, 3)) for column in kept(resumed)]
    check_walks(*rows)
    assert torch.equal(rows[1], rows[0][..., 1].long())


@pytest.mark.parametrize("name", ["dqn", "ppo"])
def test_updates_in_a_call_change_nothing_that_is_learned(name):
    # Their noise is uniform and torch draws uniform numbers one after another, so the draws are the same
    # however they are grouped. DQN's call is the whole loop (4 cycles of 4 steps), PPO's is a part of its
    # epochs.
    changes = {"update_period": 4} if name == "dqn" else {}
    one, four = (real(name, updates_per_call=k, **changes) for k in (1, 4))
    for driver in (one, four):
        advance(driver, 256)
    assert four.steps == one.steps == 256 and four.updates == one.updates > 0
    assert_trees_equal(one.snapshot()[1], four.snapshot()[1])


@pytest.mark.parametrize("name", ALGORITHMS)
def test_metrics_are_finite_scalars(name):
    for report in advance(real(name), ALGORITHMS[name][2]):
        for key, value in report.metrics.items():
            assert value.shape == () and torch.isfinite(value), key
    assert report.metrics


@pytest.mark.parametrize("name", ALGORITHMS)
def test_trap_stale_graph_nothing_that_a_driver_keeps_carries_a_graph(name):
    driver = real(name)
    reports = advance(driver, ALGORITHMS[name][2])
    for tensor in [*driver.snapshot()[1].values(), *reports[-1].metrics.values()]:
        assert not tensor.requires_grad and tensor.grad_fn is None


@pytest.mark.compiled
@pytest.mark.parametrize("name", ["dqn", "ppo", "sac"])
def test_a_compiled_run_equals_an_eager_one_within_rounding(name):
    # SGD, since Adam's first steps turn a gradient that is all rounding into a full step. Short rollouts
    # compile sooner.
    changes = {"optimizer": SGD(), "learning_rate": 1e-2} | ({"rollout_steps": 2} if name == "ppo" else {})
    eager, compiled = (real(name, updates_per_call=1, mode=mode, **changes) for mode in ("eager", "compiled"))
    before = eager.snapshot()[1]
    for driver in (eager, compiled):
        advance(driver, 128)
    assert compiled.updates == eager.updates > 0
    expected, actual = eager.snapshot()[1], compiled.snapshot()[1]
    learned = [key for key in expected if "/params/" in key or "/critic/" in key]
    # Far beyond the tolerance below.
    assert max((expected[key] - before[key]).abs().max() for key in learned) > 0.01
    assert expected.keys() == actual.keys()
    for key in expected:
        if expected[key].is_floating_point():
            torch.testing.assert_close(actual[key], expected[key], rtol=1e-3, atol=1e-4)
        else:
            assert torch.equal(actual[key], expected[key]), key


def test_short_rollouts_in_one_call_learn_what_they_learn_one_by_one():
    drivers = []
    for fused in (True, False):
        learner = PPO(rollout_steps=2, epochs=1, minibatches=1, network=SMALL).build(
            NativeEnv(CartPole(), 3).spec, 1000
        )
        driver = OnPolicy(learner, NativeEnv(CartPole(), 3), engine(), 0, CPU)
        assert driver._whole and driver.steps_per_call == 24
        driver._whole = fused
        if not fused:
            driver.steps_per_call = 6
        advance(driver, 480)
        drivers.append(driver)
    assert_trees_equal(drivers[0].state, drivers[1].state)
    assert drivers[0].updates == drivers[1].updates == 80
