"""REINFORCE: every Phi by hand, what a time limit means, and the gradient of the real thing against the exact
one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from bellgrad.algos.reinforce import REINFORCE, EpisodeValues
from bellgrad.core.errors import UsageError
from bellgrad.core.records import EnvSpec, Episodes
from bellgrad.core.rng import draw
from bellgrad.core.tree import leaves, map_tree, stack
from bellgrad.envs.gym import GymEnv
from bellgrad.envs.mdp import to_gymnasium
from bellgrad.mdp.gradient import softmax_gradient
from bellgrad.mdp.model import FiniteMDP
from bellgrad.nets.specs import MLP
from bellgrad.ops.optim import SGD
from bellgrad.training.engine import Engine
from bellgrad.training.episodes import WholeEpisodes

TABLE = EnvSpec("Table", Discrete(3), Discrete(2))
EVERY = [
    {"phi": "return", "truncation": "horizon"},
    {"phi": "reward_to_go", "truncation": "exclude", "state_weight": "discount"},
    {"phi": "baseline", "state_weight": "geometric"},
    {"phi": "q"},
    {"phi": "q", "form": "all_actions", "state_weight": "discount"},
    {"phi": "advantage", "truncation": "exclude"},
    {"phi": "advantage", "form": "all_actions", "truncation": "horizon"},
    {"phi": "td_residual"},
    {"phi": "gae", "entropy_coef": 0.1},
]
NAMES = ["-".join(map(str, fields.values())) for fields in EVERY]


def learner_of(spec=TABLE, **fields):
    """A policy and a critic that are tables, or nearly: linear in the one-hot state."""
    plain = {
        "network": MLP(()),
        "optimizer": SGD(),
        "learning_rate": 1.0,
        "normalize_advantages": False,
        "critic_steps": 1,
    }
    return REINFORCE(**(plain | fields)).build(spec)


def column(rewards, states, actions, end):
    """One episode of `states[:-1]` that led to `states[-1]`."""
    last = torch.arange(len(rewards)) == len(rewards) - 1
    nothing, there = torch.zeros(len(rewards), dtype=torch.bool), torch.ones(len(rewards), dtype=torch.bool)
    whole = Episodes(
        torch.tensor(states[:-1]),
        torch.tensor(actions),
        torch.tensor(rewards),
        last if end == "terminated" else nothing,
        last if end == "truncated" else nothing,
        there,
        None,
    )
    return map_tree(lambda x: x[:, None], whole)._replace(last_obs=torch.tensor(states[-1:]))


def episode(end):
    """Rewards 1, 2, 4 in the states 0, 1, 2, which led back to 0; gamma is 1/2 below."""
    return column([1.0, 2.0, 4.0], [0, 1, 2, 0], [0, 1, 1], end)


def several(seed=0, steps=6, n=5):
    """Episodes of different lengths, every other one cut."""
    rng = torch.Generator().manual_seed(seed)
    length = torch.tensor([6, 1, 3, 4, 2])
    t = torch.arange(steps)[:, None]
    mask, last = t < length, t == length - 1
    cut = torch.arange(n) % 2 == 0
    whole = Episodes(torch.randint(3, (steps, n), generator=rng), torch.randint(2, (steps, n), generator=rng),
                     torch.randn(steps, n, generator=rng), last & ~cut, last & cut, mask,
                     torch.randint(3, (n,), generator=rng))  # fmt: skip
    return whole._replace(obs=whole.obs * mask, action=whole.action * mask, reward=whole.reward * mask)


# ------------------------------------------------------------------------------------------------ Phi by hand
V = EpisodeValues(torch.tensor([[10.0], [20.0], [30.0]]), torch.tensor([[20.0], [30.0], [40.0]]),
           torch.tensor([[[9.0, 11.0]], [[18.0, 22.0]], [[27.0, 33.0]]]))  # fmt: skip
# Phi if the episode terminated, and if it was cut: V of what followed is 40, worth 20, 10 and 5 then.
BY_HAND = {
    "return": ([3, 3, 3], [3, 3, 3]),  # 1 + 2/2 + 4/4
    "reward_to_go": ([3, 4, 4], [3, 4, 4]),
    "baseline": ([3 - 10, 4 - 20, 4 - 30], [8 - 10, 14 - 20, 24 - 30]),
    "q": ([9, 22, 33], [9, 22, 33]),
    "advantage": ([-1, 2, 3], [-1, 2, 3]),
    "td_residual": ([1 + 10 - 10, 2 + 15 - 20, 4 - 30], [1, -3, 4 + 20 - 30]),
    "gae": ([1 - 0.75 - 1.625, -3 - 6.5, -26], [1 - 0.75 - 0.375, -3 - 1.5, -6]),  # lambda 1/2: delta + A / 4
}


@pytest.mark.parametrize("end", ["terminated", "truncated"])
@pytest.mark.parametrize("phi", BY_HAND)
def test_phi_of_an_episode_worked_out_by_hand(phi, end):
    truncation = "horizon" if phi in ("return", "reward_to_go") else "bootstrap"
    learner = learner_of(phi=phi, gamma=0.5, lambda_=0.5, truncation=truncation)
    found = learner.phi(learner.apply_truncation(episode(end)), V)
    torch.testing.assert_close(
        found[:, 0], torch.tensor(BY_HAND[phi][end == "truncated"], dtype=torch.float32)
    )


def test_for_all_actions_phi_is_that_of_each():
    for phi, expected in [("q", V.q), ("advantage", V.q - V.value[..., None])]:
        torch.testing.assert_close(
            learner_of(phi=phi, form="all_actions").phi(episode("terminated"), V), expected
        )


@pytest.mark.parametrize(("truncation", "missing"), [("bootstrap", 40.0), ("horizon", 0.0)])
def test_what_a_cut_episode_lacks_is_the_critics_word_or_nothing(truncation, missing):
    learner = learner_of(phi="baseline", gamma=0.5, truncation=truncation)
    e = learner.apply_truncation(episode("truncated"))
    return_ = learner.phi(e, V) + V.value
    torch.testing.assert_close(
        return_[:, 0], torch.tensor([3 + missing / 8, 4 + missing / 4, 4 + missing / 2])
    )
    whole = learner.apply_truncation(episode("terminated"))
    torch.testing.assert_close((learner.phi(whole, V) + V.value)[:, 0], torch.tensor([3.0, 4.0, 4.0]))


def test_the_critic_judges_every_step_and_what_it_led_to():
    learner = learner_of(phi="baseline")
    state = learner.init(torch.Generator().manual_seed(0))
    weight, bias = state.critic
    state = state._replace(critic={weight: torch.tensor([[10.0, 20.0, 30.0]]), bias: torch.ones(1)})
    two = several()
    value, next_value, q = learner.critic_values(state, two)
    assert q is None
    for i, length in enumerate(two.mask.sum(0).tolist()):
        states = [*two.obs[:length, i].tolist(), int(two.last_obs[i])]
        assert value[:length, i].tolist() == [10 * s + 11 for s in states[:-1]]
        assert next_value[:length, i].tolist() == [10 * s + 11 for s in states[1:]]


def test_the_value_of_a_state_is_the_mean_of_q_under_the_policy():
    learner = learner_of(phi="advantage")
    state = learner.init(torch.Generator().manual_seed(0))
    (weight, bias), (actor, actor_bias) = state.critic, state.params
    q = torch.tensor([[0.0, 4.0, 1.0], [8.0, 0.0, 1.0]])
    odds = torch.tensor([[1.0, 3.0, 1.0], [3.0, 1.0, 1.0]])
    no = torch.zeros(2)
    state = state._replace(critic={weight: q, bias: no}, params={actor: odds.log(), actor_bias: no})
    value, next_value, q = learner.critic_values(state, episode("truncated"))
    torch.testing.assert_close(value[:, 0], torch.tensor([6.0, 3.0, 1.0]))
    torch.testing.assert_close(next_value[:, 0], torch.tensor([3.0, 1.0, 6.0]))
    torch.testing.assert_close(q[:, 0], torch.tensor([[0.0, 8.0], [4.0, 0.0], [1.0, 1.0]]))


# ------------------------------------------------------------------------------------------------------ masks
def columns(e, which):
    return map_tree(lambda x: x[:, which], e._replace(last_obs=None))._replace(last_obs=e.last_obs[which])


@pytest.mark.parametrize("normalize_advantages", [True, False])
@pytest.mark.parametrize("fields", EVERY, ids=NAMES)
def test_padding_has_no_influence_on_what_is_learned(fields, normalize_advantages):
    learner = learner_of(normalize_advantages=normalize_advantages, **fields)
    state, e = learner.init(torch.Generator().manual_seed(1)), several()
    noise = draw(learner.update_noise(6, 5), torch.Generator().manual_seed(2))

    def longer(x):
        return torch.cat([x, torch.zeros((9, *x.shape[1:]), dtype=x.dtype)])

    padded = map_tree(longer, e._replace(last_obs=None))._replace(last_obs=e.last_obs)
    plain, metrics = learner.update(state, e, noise)
    other, other_metrics = learner.update(state, padded, None if noise is None else longer(noise))
    assert any(not torch.equal(plain.params[name], state.params[name]) for name in state.params)
    torch.testing.assert_close(other, plain)
    torch.testing.assert_close(other_metrics, metrics)


@pytest.mark.parametrize("fields", [f for f in EVERY if f.get("truncation") == "exclude"], ids=str)
def test_an_episode_that_is_excluded_changes_nothing(fields):
    learner = learner_of(**fields)
    state, e = learner.init(torch.Generator().manual_seed(1)), several()
    whole = ~e.truncated.any(0)
    after, _ = learner.update(state, e, None)
    torch.testing.assert_close(after, learner.update(state, columns(e, whole), None)[0])
    nothing, _ = learner.update(state, columns(e, ~whole), None)
    torch.testing.assert_close(nothing.params, state.params)


def test_the_critic_moves_towards_the_returns_and_only_after_the_policy():
    learner = learner_of(phi="baseline", critic_steps=300, critic_learning_rate=0.5, gamma=0.5)
    state = learner.init(torch.Generator().manual_seed(0))
    after, _ = learner.update(state, episode("terminated"), None)
    value = learner.critic_values(after, episode("terminated")).value
    torch.testing.assert_close(value[:, 0], torch.tensor([3.0, 4.0, 4.0]), atol=1e-3, rtol=0)
    once, _ = replace(learner.config, critic_steps=1).build(TABLE).update(state, episode("terminated"), None)
    torch.testing.assert_close(once.params, after.params)  # the policy's step saw the critic of before


# --------------------------------------------------------------------------------------------- pure functions
@pytest.mark.parametrize("fields", EVERY, ids=NAMES)
def test_an_update_changes_nothing_it_was_given_and_returns_no_graph(fields):
    learner, e = learner_of(**fields), several()
    state = learner.init(torch.Generator().manual_seed(0))
    given = map_tree(torch.clone, (state, e))
    updated = learner.update(state, e, draw(learner.update_noise(6, 5), torch.Generator().manual_seed(0)))
    torch.testing.assert_close((state, e), given, rtol=0, atol=0)
    assert not any(leaf.requires_grad for leaf in leaves(updated))
    assert [leaf.shape for leaf in leaves(updated[0])] == [leaf.shape for leaf in leaves(state)]


def test_many_seeds_update_at_once_under_vmap():
    learner, e = learner_of(phi="gae"), several()
    seeds = [learner.init(torch.Generator().manual_seed(seed)) for seed in range(3)]
    together, _ = torch.vmap(lambda state: learner.update(state, e, None))(stack(seeds))
    for i, state in enumerate(seeds):
        torch.testing.assert_close(map_tree(lambda x, i=i: x[i], together), learner.update(state, e, None)[0])


# --------------------------------------------------------------------------------- against the exact gradient
def branching():
    """Three states and two actions, episodes of about three steps; rewards depend on where one goes."""

    def outcomes(state, action):
        on = 0.8 if action else 0.3
        return [
            (on, (state + 1) % 3, 1.0 + state, state == 2),
            (0.6 - on / 2, state, -1.0, False),
            (0.4 - on / 2, 0, 0.5 * action, True),
        ]

    return FiniteMDP.from_function(3, 2, outcomes, initial=[0.5, 0.3, 0.2])


GAMMA, BATCHES = 0.7, 40
THETA = torch.tensor([[0.3, -0.5, 0.8], [-0.2, 0.4, 0.1]])  # [A, S] logits of the policy that acts


def following_theta(learner):
    state = learner.init(torch.Generator().manual_seed(0))
    return state._replace(params=state.params | {next(iter(state.params)): THETA})


@pytest.fixture(scope="module")
def gathered():
    """What the driver hands to the learner: 40 batches of 400 episodes of one policy."""
    env = GymEnv(lambda: to_gymnasium(branching(), 1000), 100)
    learner = learner_of(env.spec, phi="reward_to_go", truncation="horizon", episodes=400)
    driver = WholeEpisodes(learner, env, Engine("eager", 1, 1, ""), 0, torch.device("cpu"))
    driver.state = following_theta(learner)
    batches = []
    learner.update = lambda state, episodes, noise: (batches.append(episodes), (state, {}))[1]
    for _ in range(BATCHES):
        driver.advance()
    return batches


def steps_taken(batches, **fields):
    """How far an update moves the logits, `[BATCHES, S, A]`: SGD with a rate of 1 takes the estimated
    gradient itself."""
    learner, rng = learner_of(gamma=GAMMA, truncation="horizon", **fields), torch.Generator().manual_seed(1)
    state, moved = following_theta(learner), []
    for episodes in batches:
        after, _ = learner.update(state, episodes, draw(learner.update_noise(*episodes.mask.shape), rng))
        moved.append((next(iter(after.params.values())) - THETA).T)
    return torch.stack(moved).double().numpy()


WEIGHTED = [
    ("reward_to_go", "discount"),
    ("reward_to_go", "geometric"),
    ("baseline", "discount"),
    ("return", "none"),
]


@pytest.mark.parametrize(("phi", "state_weight"), WEIGHTED)
def test_the_mean_step_of_learner_and_driver_is_along_the_exact_gradient(gathered, phi, state_weight):
    moved = steps_taken(gathered, phi=phi, state_weight=state_weight)
    exact = softmax_gradient(branching(), THETA.T.double().numpy(), GAMMA)
    error = moved.std(0, ddof=1) / np.sqrt(BATCHES)
    # Six entries, each within five standard errors: false alarm 1e-4 with 39 degrees of freedom.
    assert (np.abs(moved.mean(0) - exact) < 5 * error).all()
    assert (np.abs(exact) > 10 * error).any()  # and it would be seen if it were not there


def test_without_the_weight_of_a_state_the_mean_step_goes_elsewhere(gathered):
    moved = steps_taken(gathered, phi="reward_to_go", state_weight="none")
    exact = softmax_gradient(branching(), THETA.T.double().numpy(), GAMMA)
    error = moved.std(0, ddof=1) / np.sqrt(BATCHES)
    assert (np.abs(moved.mean(0) - exact) > 10 * error).any()


# -------------------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"phi": "return"},
            r"phi='return' has no critic to bootstrap from: take truncation='exclude' or 'horizon'",
        ),
        ({"phi": "reward_to_go"}, r"phi='reward_to_go' has no critic"),
        (
            {"phi": "return", "truncation": "horizon", "state_weight": "discount"},
            r"already discounted from the episode's start",
        ),
        ({"form": "all_actions"}, r"needs a Phi of every action: phi='q' or 'advantage', not 'baseline'"),
        ({"phi": "rewards_to_go"}, r"did you mean reward_to_go"),
        ({"critic_steps": 0}, r"critic_steps = 0 is out of range"),
    ],
)
def test_what_makes_no_sense_is_refused(fields, words):
    with pytest.raises(UsageError, match=words):
        REINFORCE(**fields)


def test_q_needs_actions_to_choose_from():
    box = replace(TABLE, action_space=Box(-1, 1, (2,), np.float32))
    with pytest.raises(UsageError, match=r"phi='q' needs a Discrete action space; Table has Box"):
        REINFORCE(phi="q").build(box)
