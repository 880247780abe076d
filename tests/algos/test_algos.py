"""The learners' pure functions: against plain torch with `torch.optim`, and by hand."""

import itertools
import math
from dataclasses import fields, replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from torch import nn
from torch.distributions import Categorical, Independent, Normal, TanhTransform, TransformedDistribution

from bellgrad.algos.a2c import A2C
from bellgrad.algos.dqn import DQN
from bellgrad.algos.ppo import PPO
from bellgrad.algos.sac import SAC
from bellgrad.algos.trpo import TRPO
from bellgrad.algos.vpg import VPG
from bellgrad.core.docs import field_notes
from bellgrad.core.errors import UsageError
from bellgrad.core.records import Batch, EnvSpec, Minibatch, Rollout
from bellgrad.core.rng import draw
from bellgrad.core.tree import leaves, map_tree, named_leaves, stack
from bellgrad.nets.specs import MLP
from bellgrad.ops.optim import SGD, Adam
from bellgrad.training.engine import Engine

OBS = Box(-np.inf, np.inf, (5,), np.float32)
DISCRETE = EnvSpec("discrete", OBS, Discrete(4))
CONTINUOUS = EnvSpec("continuous", OBS, Box(-1, 1, (3,), np.float32))
SMALL = MLP((16, 16))
GAMMA = 0.9


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def transitions(spec, size=12, seed=0):
    """Made-up transitions, a third of them terminal, with importance weights."""
    g = generator(seed)
    if isinstance(spec.action_space, Discrete):
        action = torch.randint(4, (size,), generator=g)
    else:
        action = torch.rand(size, 3, generator=g) * 2 - 1
    terminated = torch.arange(size) % 3 == 0
    obs, next_obs = torch.randn(2, size, 5, generator=g)
    reward, weight = 3 * torch.randn(size, generator=g), torch.rand(size, generator=g) + 0.5
    return Batch(
        obs,
        action,
        reward,
        terminated,
        ~terminated,
        next_obs,
        GAMMA * ~terminated,
        weight,
        torch.arange(size),
    )


def rollout_rows(spec, size=12, seed=0):
    g = generator(seed)
    b = transitions(spec, size, seed)
    logprob, value, advantage, return_ = torch.randn(4, size, generator=g)
    return Minibatch(
        b.obs,
        b.action,
        0.3 * logprob - (1.4 if spec is DISCRETE else 3.0),
        value,
        advantage,
        return_,
        value > 1e9,
        carry=(),  # not None, which vmap refuses
        extra=(),
    )


class Case(NamedTuple):
    """An algorithm, its environment and made-up data for its update."""

    algorithm: object
    spec: EnvSpec
    rows: object


CASES = {
    "dqn": Case(DQN(gamma=GAMMA, batch_size=12, network=SMALL), DISCRETE, transitions),
    "ppo": Case(PPO(gamma=GAMMA, network=SMALL), DISCRETE, rollout_rows),
    "ppo-continuous": Case(PPO(gamma=GAMMA, network=SMALL), CONTINUOUS, rollout_rows),
    "ppo-kl": Case(PPO(gamma=GAMMA, network=SMALL, objective="kl"), DISCRETE, rollout_rows),
    "a2c": Case(A2C(gamma=GAMMA, network=SMALL), DISCRETE, rollout_rows),
    "vpg": Case(VPG(gamma=GAMMA, network=SMALL), CONTINUOUS, rollout_rows),
    "trpo": Case(TRPO(gamma=GAMMA, network=SMALL), DISCRETE, rollout_rows),
    "sac": Case(SAC(gamma=GAMMA, batch_size=12, network=SMALL), CONTINUOUS, transitions),
}


def built(name, seed=0, **changes):
    """Learner, first state, a batch and the noise of an update."""
    case = CASES[name]
    learner = replace(case.algorithm, **changes).build(case.spec, steps=1000)
    return (
        learner,
        learner.init(generator(seed)),
        case.rows(case.spec, seed=seed),
        draw(learner.update_noise(), generator(seed)),
    )


# ---------------------------------------------------------------------------------------- against plain torch
def module(params, prefix, sizes, member=None):
    """The network of a state as an ordinary module with its own copy of the parameters."""
    layers = []
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        layer = nn.Linear(a, b)
        weight, bias = (
            params[f"{prefix}perceptron.layers.{i}.{kind}"].detach().clone() for kind in ("weight", "bias")
        )
        if member is not None:  # an ensemble keeps [E, in, out] and [E, 1, out]
            weight, bias = weight[member].T.contiguous(), bias[member, 0]
        layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def assert_same_network(network, params, prefix="", member=None):
    for i, layer in enumerate(network[::2]):
        weight, bias = (params[f"{prefix}perceptron.layers.{i}.{kind}"] for kind in ("weight", "bias"))
        if member is not None:
            weight, bias = weight[member].T, bias[member, 0]
        torch.testing.assert_close(weight, layer.weight.detach(), rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(bias, layer.bias.detach(), rtol=1e-4, atol=2e-5)


def step(optimizer, loss, *clipped, norm=None):
    optimizer.zero_grad()
    loss.backward()
    if norm is not None:
        nn.utils.clip_grad_norm_(clipped, norm)
    optimizer.step()


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("loss", ["huber", "squared"])
def test_dqns_updates_equal_plain_torch(loss, double):
    learner, state, _, _ = built(
        "dqn", loss=loss, double=double, target_period=2, max_grad_norm=1.0, learning_rate=1e-3
    )
    online, target = (module(state.params, "", (5, 16, 16, 4)) for _ in range(2))
    optimizer = torch.optim.Adam(online.parameters(), lr=1e-3)
    criterion = nn.SmoothL1Loss(reduction="none") if loss == "huber" else nn.MSELoss(reduction="none")
    for update in range(1, 6):
        b = transitions(DISCRETE, seed=update)
        state, metrics, priority = learner.update(state, b)
        with torch.no_grad():
            best = (online if double else target)(b.next_obs).argmax(1)
            y = b.reward + GAMMA * (1 - b.terminated.float()) * target(b.next_obs)[range(12), best]
        q = online(b.obs)[range(12), b.action]
        expected = (b.weight * criterion(q, y)).mean()
        assert metrics["loss"].item() == pytest.approx(expected.item(), rel=1e-4)
        torch.testing.assert_close(priority, (q - y).detach().abs(), rtol=1e-4, atol=1e-4)
        step(optimizer, expected, *online.parameters(), norm=1.0)
        if update % 2 == 0:
            target.load_state_dict(online.state_dict())
        assert_same_network(online, state.params)
        assert_same_network(target, state.target)


@pytest.mark.parametrize("value_clip", [None, 0.2])
@pytest.mark.parametrize("spec", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_ppos_updates_equal_plain_torch(spec, value_clip):
    name, outputs = ("ppo", 4) if spec is DISCRETE else ("ppo-continuous", 3)
    learner, state, _, _ = built(
        name, value_clip=value_clip, entropy_coef=0.01, learning_rate_decay="constant", learning_rate=1e-3
    )
    actor, critic = (
        module(state.params, "actor.", (5, 16, 16, outputs)),
        module(state.params, "critic.", (5, 16, 16, 1)),
    )
    log_std = nn.Parameter(torch.zeros(3))
    parameters = [*actor.parameters(), *critic.parameters()] + ([] if spec is DISCRETE else [log_std])
    optimizer = torch.optim.Adam(parameters, lr=1e-3, eps=1e-5)
    for update in range(1, 6):
        b = rollout_rows(spec, seed=update)
        state, metrics = learner.update(state, b)
        policy = (
            Categorical(logits=actor(b.obs))
            if spec is DISCRETE
            else Independent(Normal(actor(b.obs), log_std.exp()), 1)
        )
        advantage = (b.advantage - b.advantage.mean()) / (b.advantage.std() + 1e-8)
        ratio = torch.exp(policy.log_prob(b.action) - b.logprob)
        policy_loss = -torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
        value = critic(b.obs)[:, 0]
        value_loss = 0.5 * ((value - b.return_) ** 2).mean()
        if value_clip is not None:
            held = b.value + (value - b.value).clamp(-value_clip, value_clip)
            value_loss = 0.5 * torch.max((value - b.return_) ** 2, (held - b.return_) ** 2).mean()
        entropy = policy.entropy().mean()
        assert metrics["policy_loss"].item() == pytest.approx(policy_loss.item(), rel=1e-4, abs=1e-5)
        assert metrics["value_loss"].item() == pytest.approx(value_loss.item(), rel=1e-4)
        assert metrics["entropy"].item() == pytest.approx(entropy.item(), rel=1e-4)
        assert metrics["clip_fraction"].item() == pytest.approx(
            ((ratio - 1).abs() > 0.2).float().mean().item()
        )
        step(optimizer, policy_loss + 0.5 * value_loss - 0.01 * entropy, *parameters, norm=0.5)
        assert_same_network(actor, state.params, "actor.")
        assert_same_network(critic, state.params, "critic.")
        if spec is CONTINUOUS:
            torch.testing.assert_close(state.params["log_std"], log_std.detach(), rtol=1e-4, atol=1e-6)


def test_sacs_updates_equal_plain_torch():
    learner, state, _, _ = built("sac", tau=0.1, learning_rate=1e-3, temperature=0.7)
    actor = module(state.actor, "", (5, 16, 16, 6))
    critics, targets = (
        [module(state.critic, "", (8, 16, 16, 1), member) for member in (0, 1)] for _ in range(2)
    )
    log_alpha = nn.Parameter(torch.tensor(math.log(0.7)))
    critic_parameters = [p for critic in critics for p in critic.parameters()]
    optimizers = [
        torch.optim.Adam(ps, lr=1e-3) for ps in (critic_parameters, actor.parameters(), [log_alpha])
    ]

    def sample(obs, noise):
        mean, log_std = actor(obs).chunk(2, -1)
        raw = mean + log_std.exp() * noise
        policy = TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform(cache_size=1)])
        action = raw.tanh()
        log_slope = TanhTransform().log_abs_det_jacobian(raw, action)
        return action, (policy.base_dist.log_prob(raw) - log_slope).sum(-1)

    def q(pair, obs, action):
        return torch.stack([critic(torch.cat([obs, action], -1))[:, 0] for critic in pair])

    for update in range(1, 6):
        b = transitions(CONTINUOUS, seed=update)
        noise = draw(learner.update_noise(), generator(update))
        state, metrics, priority = learner.update(state, b, noise)
        alpha = log_alpha.exp().detach()
        with torch.no_grad():
            next_action, next_logprob = sample(b.next_obs, noise["next_action"])
            soft_value = q(targets, b.next_obs, next_action).min(0).values - alpha * next_logprob
            y = b.reward + GAMMA * (1 - b.terminated.float()) * soft_value
        errors = q(critics, b.obs, b.action) - y
        torch.testing.assert_close(priority, errors.detach().abs().mean(0), rtol=1e-4, atol=1e-4)
        critic_loss = sum((b.weight * error**2).mean() for error in errors)
        step(optimizers[0], critic_loss)
        action, logprob = sample(b.obs, noise["action"])
        actor_loss = (alpha * logprob - q(critics, b.obs, action).min(0).values).mean()
        step(optimizers[1], actor_loss)
        # the target entropy is minus three dimensions
        step(optimizers[2], -(log_alpha * (logprob.detach() - 3)).mean())
        with torch.no_grad():
            for target, critic in zip(targets, critics, strict=True):
                for old, new in zip(target.parameters(), critic.parameters(), strict=True):
                    old.lerp_(new, 0.1)
        assert metrics["critic_loss"].item() == pytest.approx(critic_loss.item(), rel=1e-4)
        assert metrics["actor_loss"].item() == pytest.approx(actor_loss.item(), rel=1e-4)
        assert metrics["entropy"].item() == pytest.approx(-logprob.mean().item(), rel=1e-4)
        assert_same_network(actor, state.actor)
        for member in (0, 1):
            assert_same_network(critics[member], state.critic, member=member)
            assert_same_network(targets[member], state.target, member=member)
        assert state.log_alpha["value"].item() == pytest.approx(log_alpha.item(), abs=1e-5)


# ---------------------------------------------------------------------------------------------------- by hand
@pytest.mark.parametrize(("name", "online"), [("dqn", "params"), ("sac", "critic")])
def test_a_hard_target_copies_exactly_when_due_and_stays_as_it_is_between(name, online):
    learner, state, batch, noise = built(name, target_period=3, tau=1.0, learning_rate=0.05)
    for update in range(1, 8):
        before = state.target
        state, *_ = learner.update(state, batch, noise)
        expected = getattr(state, online) if update % 3 == 0 else before
        assert all(torch.equal(state.target[key], expected[key]) for key in expected)
        assert int(state.updates) == update
    # 7 is not due
    assert not any(torch.equal(state.target[key], getattr(state, online)[key]) for key in before)


@pytest.mark.parametrize(("name", "online"), [("dqn", "params"), ("sac", "critic")])
@pytest.mark.parametrize("period", [1, 2])
def test_a_soft_target_closes_a_share_of_the_gap_when_due(name, online, period):
    learner, state, batch, noise = built(name, target_period=period, tau=0.1, learning_rate=0.05)
    for update in range(1, 5):
        before = state.target
        state, *_ = learner.update(state, batch, noise)
        share = 0.1 if update % period == 0 else 0.0
        for key, old in before.items():
            torch.testing.assert_close(state.target[key], old + share * (getattr(state, online)[key] - old))


@pytest.mark.parametrize(
    ("decay", "steps", "epsilon"),
    [
        ("linear", 0, 1.0),
        ("linear", 250, 0.8),  # a quarter of the way from 1 to 0.2
        ("linear", 1000, 0.2),
        ("linear", 5000, 0.2),
        ("exponential", 0, 1.0),
        ("exponential", 1000, 0.2 + 0.8 / math.e),
        ("exponential", 100_000, 0.2),
    ],
)
def test_dqn_explores_with_the_probability_of_its_schedule(decay, steps, epsilon):
    learner, state, _, _ = built(
        "dqn", epsilon_initial=1.0, epsilon_final=0.2, epsilon_steps=1000, epsilon_decay=decay
    )
    state = state._replace(steps=torch.tensor(steps))
    obs = torch.randn(1, 5, generator=generator()).expand(1000, 5)
    greedy = learner.act(state, None, obs, None, explore=False).action
    other = (greedy[0].item() + 1) % 4
    noise = torch.stack([(torch.arange(1000) + 0.5) / 1000, torch.full((1000,), (other + 0.5) / 4)], -1)
    action = learner.act(state, None, obs, noise).action
    assert set(action.tolist()) <= {greedy[0].item(), other}
    # one of 1000 grid points
    assert (action == other).float().mean().item() == pytest.approx(epsilon, abs=1e-3)


@pytest.mark.parametrize(("name", "dimensions"), [("sac", 3)])
def test_trap_target_entropy_is_minus_the_number_of_action_dimensions(name, dimensions):
    assert built(name)[0].target_entropy == -dimensions
    assert SAC(target_entropy=-0.5).build(CONTINUOUS).target_entropy == -0.5
    matrix = EnvSpec("matrix", OBS, Box(-1, 1, (2, 3), np.float32))
    assert SAC(network=SMALL).build(matrix).target_entropy == -6


@pytest.mark.parametrize("learn", [True, False])
def test_the_temperature_rises_while_the_entropy_is_below_its_target_and_only_if_it_is_learned(learn):
    for target, sign in ((1e3, 1), (-1e3, -1)):
        learner, state, batch, noise = built("sac", target_entropy=target, learn_temperature=learn)
        after, *_ = learner.update(state, batch, noise)
        change = (after.log_alpha["value"] - state.log_alpha["value"]).item()
        first = sign * learner.config.learning_rate  # Adam's first step
        assert change == (pytest.approx(first, rel=1e-3) if learn else 0)


def test_ppos_learning_rate_is_that_of_the_rollouts_start_and_falls_to_zero_at_the_horizon():
    # With plain gradient descent the step is the learning rate times the gradient.
    moves, rows = {}, torch.zeros(10, 1)
    for begun in (0, 250, 1000, 2000):
        learner, state, batch, noise = built(
            "ppo", optimizer=SGD(), learning_rate=0.1, learning_rate_decay="linear"
        )
        flags = torch.zeros(10, 1, dtype=torch.bool)
        rollout = Rollout(
            torch.zeros(10, 1, 5),
            torch.zeros(10, 1, dtype=torch.int64),
            rows,
            flags,
            flags,
            rows,
            rows,
            rows,
            rows,
            None,
        )
        state, _, _ = learner.prepare(state._replace(steps=torch.tensor(begun + 10)), rollout)
        after, *_ = learner.update(state, batch, noise)
        moves[begun] = torch.cat([(after.params[k] - state.params[k]).flatten() for k in state.params])
    assert moves[0].abs().max() > 1e-3
    torch.testing.assert_close(moves[250], 0.75 * moves[0], rtol=1e-3, atol=1e-6)  # `built` plans 1000 steps
    assert moves[1000].abs().max() == 0 and moves[2000].abs().max() == 0


def test_a_linear_learning_rate_without_a_horizon_is_refused():
    with pytest.raises(UsageError, match="planned number of environment steps"):
        PPO().build(DISCRETE)
    PPO(learning_rate_decay="constant").build(DISCRETE)


def test_ppo_prepares_advantages_and_returns_that_follow_the_rollout():
    learner, state, _, _ = built("ppo", lambda_=1.0)
    reward = torch.tensor([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])
    terminated = torch.tensor([[False, False], [True, False], [False, False]])
    truncated = torch.tensor([[False, False], [False, True], [False, False]])
    value, next_value = torch.tensor([[1.0, 1.0], [100.0, 100.0], [7.0, 7.0]]), torch.full((3, 2), 100.0)
    rollout = Rollout(
        torch.zeros(3, 2, 5),
        torch.zeros(3, 2).long(),
        reward,
        terminated,
        truncated,
        torch.zeros(3, 2),
        value,
        next_value,
        torch.zeros(3, 2),
        None,
    )
    _, whole, _ = learner.prepare(state, rollout)
    # gamma 0.9, lambda 1: Monte Carlo returns, with the true successor's value at the time-out and at the
    # rollout's end. The first environment terminates after its second step (1 + 0.9 * 2 and 2), the second is
    # cut there.
    expected = torch.tensor([[2.8, 10 + 0.9 * 110], [2.0, 20 + 90.0], [4 + 90.0, 40 + 90.0]])
    torch.testing.assert_close(whole.return_, expected)
    torch.testing.assert_close(whole.advantage, expected - value)


def test_trap_advantage_normalization_of_a_minibatch_of_one_leaves_finite_parameters():
    learner, state, _, _ = built("ppo")
    after, metrics = learner.update(state, rollout_rows(DISCRETE, size=1))
    assert all(torch.isfinite(leaf).all() for leaf in [*leaves(after), *metrics.values()])


@pytest.mark.parametrize("name", CASES)
def test_the_greedy_action_needs_no_noise_and_the_exploring_one_follows_it(name):
    learner, state, batch, _ = built(name)
    first, second = (
        learner.act(state, None, batch.obs, draw(learner.act_noise(12), generator(seed))).action
        for seed in (1, 2)
    )
    greedy = learner.act(state, None, batch.obs, None, explore=False).action
    assert (
        first.shape == greedy.shape == batch.action.shape
        and first.dtype == greedy.dtype == batch.action.dtype
    )
    assert not torch.equal(first, second)
    if name == "sac":
        assert first.abs().max() <= 1


def test_ppos_log_probability_is_of_the_action_that_it_gives():
    for name in ("ppo", "ppo-continuous"):
        learner, state, batch, _ = built(name)
        acted = learner.act(state, None, batch.obs, draw(learner.act_noise(12), generator()))
        torch.testing.assert_close(
            acted.logprob, learner.policy.distribution(state.params, batch.obs).logprob(acted.action)
        )
        assert acted.logprob.shape == (12,)


def test_sacs_twin_critics_begin_apart():
    _, state, _, _ = built("sac")
    for key, value in state.critic.items():
        if "weight" in key:
            assert not torch.equal(value[0], value[1]), key
        assert torch.equal(value, state.target[key])


# ----------------------------------------------------------------------------------------- what holds for all
@pytest.mark.parametrize("name", CASES)
def test_an_update_is_pure(name):
    learner, state, batch, noise = built(name)
    before = map_tree(torch.clone, (state, batch, noise))
    first, *_ = learner.update(state, batch, noise)
    second, *_ = learner.update(state, batch, noise)
    for a, b in zip(leaves(before), leaves((state, batch, noise)), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(leaves(first), leaves(second), strict=True):
        assert torch.equal(a, b)
    assert any(not torch.equal(a, b) for a, b in zip(leaves(first), leaves(state), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_trap_stale_graph_an_update_returns_no_graph(name):
    learner, state, batch, noise = built(name)
    after, metrics, *_ = learner.update(state, batch, noise)
    assert all(
        leaf.grad_fn is None and not leaf.requires_grad for leaf in [*leaves(after), *metrics.values()]
    )


@pytest.mark.parametrize("name", CASES)
def test_trap_target_as_b1_against_b_metrics_are_scalars_and_a_priority_is_one_per_transition(name):
    learner, state, batch, noise = built(name)
    _, metrics, *priority = learner.update(state, batch, noise)
    for key, value in metrics.items():
        assert value.shape == () and torch.isfinite(value), key
    assert len(priority) == (name in ("dqn", "sac"))
    for value in priority:
        assert value.shape == (12,) and torch.isfinite(value).all() and (value >= 0).all()


@pytest.mark.parametrize("name", CASES)
def test_an_update_keeps_the_structure_of_the_state(name):
    learner, state, batch, noise = built(name)
    after, *_ = learner.update(state, batch, noise)
    kinds = [{k: (v.shape, v.dtype, v.stride()) for k, v in named_leaves(s).items()} for s in (state, after)]
    assert kinds[0] == kinds[1]
    assert int(after.updates) == 1 and int(after.steps) == 0  # steps are the driver's


@pytest.mark.parametrize("name", CASES)
def test_many_seeds_update_at_once_under_vmap(name):
    learner = built(name)[0]
    parts = [built(name, seed)[1:] for seed in range(3)]
    alone = [learner.update(*part)[0] for part in parts]
    if parts[0][2] is None:
        together, metrics, *_ = torch.vmap(lambda state, batch: learner.update(state, batch))(
            *(stack([p[i] for p in parts]) for i in (0, 1))
        )
    else:
        together, metrics, *_ = torch.vmap(learner.update)(*(stack([p[i] for p in parts]) for i in range(3)))
    assert all(value.shape[0] == 3 for value in metrics.values())
    for a, b in zip(leaves(together), leaves(stack(alone)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_initial_parameters_follow_from_the_seed(name):
    learner = built(name)[0]
    first, again, other = (named_leaves(learner.init(generator(seed))) for seed in (5, 5, 6))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)
    storages = [leaf.data_ptr() for leaf in first.values() if leaf.numel()]
    # nothing shares memory, so a compiled call takes each for itself
    assert len(set(storages)) == len(storages)


@pytest.mark.parametrize(
    ("algorithm", "space", "words"),
    [
        (DQN(), CONTINUOUS.action_space, "DQN needs a Discrete action space.*Try sac or ppo"),
        (SAC(), DISCRETE.action_space, "SAC needs a Box action space.*Try dqn or ppo"),
        (DQN(), MultiDiscrete([2, 3]), "DQN needs a Discrete action space"),
        (SAC(), MultiDiscrete([2, 3]), "SAC needs a Box action space"),
        (SAC(), Box(-np.inf, 1, (2,)), "SAC needs actions with finite bounds"),
        (PPO(), Dict({"a": Discrete(2)}), "a policy needs a Box, Discrete or MultiDiscrete action space"),
    ],
)
def test_an_action_space_that_does_not_fit_is_refused_in_words(algorithm, space, words):
    with pytest.raises(UsageError, match=words):
        algorithm.build(EnvSpec("mine", OBS, space), steps=1000)


def test_dqn_refuses_forbidden_actions():
    masked = Dict({"observation": OBS, "action_mask": MultiBinary(4)})
    for spec in (
        replace(DISCRETE, observation_space=masked),
        EnvSpec("mine", Discrete(2), Discrete(2), legal=np.eye(2) > 0),
    ):
        with pytest.raises(UsageError, match=r"DQN does not know of forbidden actions.* Try ppo"):
            DQN().build(spec)


OUT_OF_RANGE = [
    *((cls, {"gamma": value}) for cls in (DQN, PPO, SAC) for value in (-0.1, 1.1, math.nan)),
    *(
        (cls, {"learning_rate": value})
        for cls in (DQN, PPO, SAC)
        for value in (0.0, -1e-3, math.nan, math.inf)
    ),
    *(
        (cls, {name: 0})
        for cls in (DQN, SAC)
        for name in ("batch_size", "buffer_size", "update_period", "updates_per_period")
    ),
    *((cls, {"learning_starts": -1}) for cls in (DQN, SAC)),
    *((cls, {"target_period": 0}) for cls in (DQN, SAC)),
    *((cls, {"tau": value}) for cls in (DQN, SAC) for value in (-0.1, 1.5)),
    *((DQN, {name: value}) for name in ("epsilon_initial", "epsilon_final") for value in (-0.1, 1.1)),
    (DQN, {"epsilon_steps": 0}),
    *((PPO, {name: 0}) for name in ("rollout_steps", "epochs", "minibatches", "clip_epsilon")),
    *((PPO, {name: -0.1}) for name in ("lambda_", "entropy_coef", "value_coef")),
    (PPO, {"lambda_": 1.1}),
    *((PPO, {name: 0.0}) for name in ("penalty_target", "initial_penalty")),
    *((cls, {name: 0}) for cls in (VPG, TRPO) for name in ("epochs", "minibatches")),
    *((A2C, {name: -0.1}) for name in ("value_coef", "entropy_coef")),
    (VPG, {"value_learning_rate": 0.0}),
    *((TRPO, {name: 0}) for name in ("target_kl", "conjugate_steps", "line_search_steps")),
    *((TRPO, {"line_search_decay": value}) for value in (0.0, 1.0)),
    (TRPO, {"damping": -0.1}),
    (SAC, {"temperature": 0.0}),
]


@pytest.mark.parametrize(
    ("cls", "change"), OUT_OF_RANGE, ids=lambda x: x.__name__ if isinstance(x, type) else str(x)
)
def test_a_field_out_of_range_is_named_when_the_algorithm_is_made(cls, change):
    ((name, _),) = change.items()
    with pytest.raises(UsageError, match=rf"{cls.__name__}\.{name} = .* is out of range"):
        cls(**change)


@pytest.mark.parametrize("cls", [DQN, PPO, A2C, VPG, TRPO, SAC])
def test_every_field_is_documented(cls):
    notes = field_notes(cls)
    assert all(notes[f.name] for f in fields(cls))


# --------------------------------------------------------------------------------------------------- compiled
@pytest.mark.compiled
@pytest.mark.parametrize("name", ["dqn", "ppo-continuous", "sac"])
def test_a_compiled_update_equals_an_eager_one_within_rounding(name):
    # With an epsilon of 1e-3 Adam is smooth: a gradient that is all rounding does not become a full step.
    learner, state, batch, noise = built(name, optimizer=Adam(epsilon=1e-3), learning_rate=0.01)
    compiled = Engine("compiled", 1, 1, "").compile(learner.update)
    expected, actual = state, state
    for _ in range(3):
        expected, metrics, *_ = learner.update(expected, batch, noise)
        actual, actual_metrics, *_ = compiled(actual, batch, noise)
    for key, value in (named_leaves(expected) | metrics).items():
        torch.testing.assert_close((named_leaves(actual) | actual_metrics)[key], value, rtol=1e-3, atol=1e-4)
    moved = max((a - b).abs().max().item() for a, b in zip(leaves(expected), leaves(state), strict=True))
    assert moved > 0.01


@pytest.mark.compiled
def test_learners_with_other_hyper_parameters_share_no_compiled_graph():
    # Guards are skipped, so that a graph compiled for one learning rate would serve the other without a word.
    moves = {}
    for rate in (0.1, 0.2):
        learner, state, batch, _ = built(
            "dqn", optimizer=SGD(), learning_rate=rate, max_grad_norm=None, network=MLP((4,))
        )
        compiled = Engine("compiled", 1, 1, "").compile(learner.update)
        after, *_ = compiled(state, batch, None)
        moves[rate] = torch.cat([(after.params[k] - state.params[k]).flatten() for k in state.params])
    assert moves[0.1].abs().max() > 1e-3
    torch.testing.assert_close(moves[0.2], 2 * moves[0.1], rtol=1e-3, atol=1e-6)
