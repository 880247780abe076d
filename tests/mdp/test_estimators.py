"""Every estimator of the policy gradient, compared with the exact gradient, or with its own exact mean if
that differs.

There are two kinds of tests. Sums over all possible episodes, weighted with their probabilities, agree up to
rounding. Means over many random episodes have random errors; the bounds are such that right code fails for
one seed in a million (normal means, Bonferroni over the components). The seeds are fixed.
"""

import re
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from drawn import value_of
from scipy.stats import norm

from bellgrad.core.errors import UsageError
from bellgrad.mdp.estimators import Estimator, Phi, episode_gradients, expected_gradient
from bellgrad.mdp.gradient import expected_return, softmax_gradient, softmax_policy, state_distribution
from bellgrad.mdp.model import FiniteMDP
from bellgrad.mdp.policies import advantage, q_from_value
from bellgrad.mdp.trajectories import Trajectories, enumerate_trajectories, sample_trajectories

PHIS = get_args(Phi)
GAMMA = 0.8
FALSE_ALARM = 1e-6
EPISODES = 50_000
SEED = 1  # of the episodes and of the kept steps, which have different streams
LONG = 300  # steps; an episode of `looping` is longer with probability 0.6^300 = 3e-67
ALIASED = np.array([0, 1, 1, 0])  # two observations for four states
SEEN = {"observed": None, "aliased": ALIASED}


def looping() -> FiniteMDP:
    """Four states and three actions; each step ends the episode with probability 0.4, otherwise it leads to
    any state."""
    rng = np.random.default_rng(5)

    def outcomes(state, action):
        probabilities, rewards = [*0.6 * rng.dirichlet(np.ones(4)), 0.4], rng.normal(size=5)
        return [(probabilities[k], k % 4, rewards[k], k == 4) for k in range(5)]

    return FiniteMDP.from_function(4, 3, outcomes, initial=[0.1, 0.2, 0.3, 0.4])


def forward() -> FiniteMDP:
    """Four states and two actions; each step leads to a later state or to the end, so that no episode is
    longer than four steps."""
    rng = np.random.default_rng(6)

    def outcomes(state, action):
        further = [*range(state + 1, 4), 0]
        probabilities, rewards = rng.dirichlet(np.ones(len(further))), rng.normal(size=len(further))
        return [
            (probabilities[k], successor, rewards[k], successor == 0) for k, successor in enumerate(further)
        ]

    return FiniteMDP.from_function(4, 2, outcomes, initial=[0.7, 0.1, 0.2, 0.0])


class Case:
    """A policy in an MDP, with its true values and with wrong ones."""

    def __init__(self, mdp, observation=None):
        rng = np.random.default_rng(0)
        self.mdp, self.observation = mdp, observation
        self.theta = rng.normal(size=(mdp.num_states if observation is None else 2, mdp.num_actions))
        self.policy = self.policy_of(self.theta)
        self.value = value_of(mdp, self.policy, GAMMA)
        self.q = q_from_value(mdp, self.value, GAMMA)
        self.wrong = self.value + rng.normal(size=self.value.shape)
        self.wrong_q = self.q + rng.normal(size=self.q.shape)

    def policy_of(self, theta):
        return softmax_policy(self.mdp, theta if self.observation is None else theta[self.observation])

    def true(self, phi, weight="discount", **options):
        return Estimator(phi, GAMMA, "none" if phi == "return" else weight, self.value, self.q, **options)

    def mistaken(self, phi, weight="discount", **options):
        return Estimator(
            phi, GAMMA, "none" if phi == "return" else weight, self.wrong, self.wrong_q, **options
        )

    def gradients(self, episodes, estimator):
        return episode_gradients(
            self.mdp, self.theta, episodes, estimator, observation=self.observation, seed=SEED
        )

    def expected(self, estimator, horizon=LONG):
        return expected_gradient(self.mdp, self.theta, estimator, horizon, observation=self.observation)

    def exact(self):
        """The gradient of J, by central differences of the linear solve, which share no formula with the
        estimators."""
        gradient, step = np.zeros_like(self.theta), 1e-5
        for place in np.ndindex(*self.theta.shape):
            change = np.zeros_like(self.theta)
            change[place] = step
            up, down = (
                expected_return(self.mdp, self.policy_of(self.theta + sign * change), GAMMA)
                for sign in (1, -1)
            )
            gradient[place] = (up - down) / (2 * step)
        return gradient


@cache
def case(name, seen="observed"):
    return Case({"looping": looping, "forward": forward}[name](), SEEN[seen])


# --------------------------------------------------------------------- exact sums over all episodes
@cache
def all_episodes(name, seen, horizon):
    """Every episode up to a horizon `[T, B]`, and their probabilities `[B]`."""
    it = case(name, seen)
    trajectories, probabilities = zip(*enumerate_trajectories(it.mdp, it.policy, horizon), strict=True)
    shape = (max(len(trajectory.action) for trajectory in trajectories), len(trajectories))
    columns = Trajectories(*(np.zeros(shape, kind) for kind in (int, int, float, int, bool, bool, bool)))
    for b, trajectory in enumerate(trajectories):
        steps = len(trajectory.action)
        columns.state[:steps, b], columns.next_state[:steps, b] = trajectory.state[:-1], trajectory.state[1:]
        columns.action[:steps, b], columns.reward[:steps, b], columns.mask[:steps, b] = (
            trajectory.action,
            trajectory.reward,
            True,
        )
        columns.terminated[steps - 1, b], columns.truncated[steps - 1, b] = (
            trajectory.terminated,
            not trajectory.terminated,
        )
    return columns, np.array(probabilities)


def mean_and_variance(name, seen, horizon, estimator):
    """Mean and variance of the estimate over all episodes; the variance is summed over the components."""
    episodes, probabilities = all_episodes(name, seen, horizon)
    gradients = case(name, seen).gradients(episodes, estimator)
    mean = np.tensordot(probabilities, gradients, axes=1)
    return mean, float(probabilities @ ((gradients - mean) ** 2).sum(axis=(1, 2)))


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("phi", PHIS)
def test_with_true_values_and_state_weights_every_mean_is_the_gradient(phi, seen):
    mean, _ = mean_and_variance("forward", seen, 4, case("forward", seen).true(phi, lambda_=0.7))
    np.testing.assert_allclose(mean, case("forward", seen).exact(), atol=1e-9)
    np.testing.assert_allclose(
        case("forward", seen).expected(case("forward", seen).true(phi)), mean, atol=1e-13
    )


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("weight", ["discount", "none"])
@pytest.mark.parametrize("phi", PHIS)
def test_with_wrong_values_truncation_or_no_weights_every_mean_is_the_expected_gradient(phi, weight, seen):
    it = case("looping", seen)
    estimator = it.mistaken(phi, weight=weight, lambda_=0.7)
    mean, _ = mean_and_variance("looping", seen, 3, estimator)
    np.testing.assert_allclose(mean, it.expected(estimator, 3), atol=1e-12)
    if phi in ("q", "advantage", "td_residual", "gae", "all_actions"):
        # the wrong values make a difference
        assert np.abs(mean - it.expected(it.true(phi, weight=weight, lambda_=0.7), 3)).max() > 0.01


def test_a_baseline_changes_the_variance_and_not_the_mean():
    """No baseline, a wrong one and the true value give the same mean; of the three, the true value gives the
    least variance."""
    it, variances = case("forward"), {}
    for name, value in {"none": 0 * it.value, "wrong": it.value + 5, "true": it.value}.items():
        mean, variances[name] = mean_and_variance(
            "forward", "observed", 4, Estimator("baseline", GAMMA, "discount", value)
        )
        np.testing.assert_allclose(mean, it.exact(), atol=1e-9)
    assert variances["true"] < 0.95 * variances["none"]
    assert variances["wrong"] > 10 * variances["true"]


def test_the_eglp_lemma():
    """A function of the state alone times the score has mean zero, but a variance."""
    of_state = np.repeat([[3.0], [-1.0], [2.0], [5.0]], 3, axis=1)
    for weight in ("discount", "none"):
        mean, variance = mean_and_variance(
            "looping", "observed", 3, Estimator("q", GAMMA, weight, q=of_state)
        )
        np.testing.assert_allclose(mean, 0, atol=1e-13)
        assert variance > 1


def test_rewards_before_an_action_change_only_the_variance():
    it = case("forward")
    (whole, noise), (later, less) = (
        mean_and_variance("forward", "observed", 4, it.true(p)) for p in PHIS[:2]
    )
    np.testing.assert_allclose(whole, later, atol=1e-13)
    assert less < noise


def test_summing_over_all_actions_leaves_no_variance_if_an_episode_is_one_known_state():
    mdp = FiniteMDP.from_function(1, 3, lambda state, action: [(1.0, 0, float(action), True)], initial=0)
    theta, q = np.array([[0.3, -0.2, 0.5]]), np.array([[0.0, 1.0, 2.0]])
    episodes = sample_trajectories(mdp, softmax_policy(mdp, theta), 1, episodes=100, seed=0)
    summed, drawn = (
        episode_gradients(mdp, theta, episodes, Estimator(phi, 1.0, q=q)) for phi in ("all_actions", "q")
    )
    np.testing.assert_allclose(
        summed, np.broadcast_to(softmax_gradient(mdp, theta, 1.0), summed.shape), atol=1e-15
    )
    assert drawn.std(axis=0).min() > 0.1


def test_as_lambda_falls_the_bias_of_gae_grows_and_its_variance_falls():
    it, bias, variance = case("looping"), [], []
    value = it.value + 0.3 * (it.wrong - it.value)
    for lambda_ in (1.0, 0.75, 0.5, 0.25, 0.0):
        estimator = Estimator("gae", GAMMA, "discount", value, lambda_=lambda_)
        bias.append(np.linalg.norm(it.expected(estimator) - it.exact()))
        variance.append(mean_and_variance("looping", "observed", 3, estimator)[1])
    assert bias[0] < 1e-9  # with lambda 1 a wrong value is only a baseline
    assert np.diff(bias).min() > 0.001
    assert np.diff(variance).max() < 0


def test_the_td_residual_is_gae_of_lambda_0_and_the_baseline_is_gae_of_lambda_1():
    episodes, _ = all_episodes("forward", "observed", 4)  # all of them terminate
    it = case("forward")
    for phi, lambda_ in (("td_residual", 0.0), ("baseline", 1.0)):
        one, other = (
            it.gradients(episodes, it.mistaken(phi)),
            it.gradients(episodes, it.mistaken("gae", lambda_=lambda_)),
        )
        np.testing.assert_allclose(one, other, atol=1e-12)


# ------------------------------------------------------------------------------ many random episodes
@cache
def random_episodes(seen, horizon=LONG):
    it = case("looping", seen)
    return sample_trajectories(it.mdp, it.policy, horizon, episodes=EPISODES, seed=SEED)


def misses(seen, estimator, *wanted, horizon=LONG):
    """The largest error of the mean for each expected gradient, relative to its bound: below 1 if the code is
    right."""
    gradients = case("looping", seen).gradients(random_episodes(seen, horizon), estimator)
    bound = norm.isf(FALSE_ALARM / 2 / wanted[0].size) * gradients.std(axis=0, ddof=1) / np.sqrt(EPISODES)
    return [float((np.abs(gradients.mean(axis=0) - one) / bound).max()) for one in wanted]


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("phi", PHIS)
def test_with_true_values_and_the_weight_every_estimator_agrees_with_the_gradient(phi, seen):
    (off,) = misses(seen, case("looping", seen).true(phi), case("looping", seen).exact())
    assert off < 1


@pytest.mark.parametrize("phi", ["reward_to_go", "advantage", "gae"])
def test_keeping_a_step_with_probability_gamma_to_its_age_replaces_the_weight(phi):
    (off,) = misses("observed", case("looping").true(phi, weight="geometric"), case("looping").exact())
    assert off < 1


@pytest.mark.parametrize("phi", PHIS[1:])
def test_without_the_weight_the_mean_counts_all_visits_and_is_not_the_gradient(phi):
    it = case("looping")
    visits = state_distribution(it.mdp, it.policy, 1.0, normalized=False)
    by_visits = visits[:, None] * it.policy * advantage(it.q, it.policy)
    off, off_gradient = misses("observed", it.true(phi, weight="none"), by_visits, it.exact())
    assert off < 1 < 2 < off_gradient  # so that the test can distinguish the two


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("phi", ["q", "td_residual", "gae", "all_actions"])
def test_with_a_wrong_critic_an_estimator_agrees_with_its_biased_mean_and_not_with_the_gradient(phi, seen):
    it = case("looping", seen)
    estimator = it.mistaken(phi, lambda_=0.1)
    off, off_gradient = misses(seen, estimator, it.expected(estimator), it.exact())
    assert off < 1 < 2 < off_gradient


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("phi", ["reward_to_go", "td_residual", "gae"])
def test_with_truncated_episodes_an_estimator_agrees_with_their_mean(phi, seen):
    it = case("looping", seen)
    estimator = it.mistaken(phi, weight="none", lambda_=0.9)
    off, off_whole = misses(seen, estimator, it.expected(estimator, 2), it.expected(estimator), horizon=2)
    assert off < 1 < 2 < off_whole


def test_action_values_per_observation_are_enough_if_states_are_weighted_by_visits():
    """Q(o, a) is the mean of Q(s, a) over the discounted visits to the states with observation o; another
    mean is biased."""
    it = case("looping", "aliased")

    def q_given_observation(share):
        share = share[:, None] * np.eye(2)[ALIASED]
        return Estimator("q", GAMMA, "discount", q=((share / share.sum(axis=0)).T @ it.q)[ALIASED])

    by_visits = q_given_observation(state_distribution(it.mdp, it.policy, GAMMA))
    np.testing.assert_allclose(it.expected(by_visits), it.exact(), atol=1e-9)
    assert misses("aliased", by_visits, it.exact())[0] < 1
    assert misses("aliased", q_given_observation(np.array([1, 9, 1, 9])), it.exact())[0] > 2


# --------------------------------------------------------------------------------------- other properties
def test_the_exact_mean_with_true_values_is_the_gradient_of_the_planner():
    it = case("looping")
    for phi in PHIS:
        np.testing.assert_allclose(
            it.expected(it.true(phi)), softmax_gradient(it.mdp, it.theta, GAMMA), atol=1e-13
        )


def test_illegal_actions_are_never_taken_and_get_no_gradient():
    mdp = FiniteMDP.from_arrays(
        np.full((2, 3, 2), 0.5), np.arange(6.0).reshape(2, 3), legal=[[1, 1, 0], [0, 1, 1]], initial=0
    )
    theta = np.zeros((2, 3))
    episodes = sample_trajectories(mdp, softmax_policy(mdp, theta), 2, episodes=1_000, seed=0)
    assert mdp.legal[episodes.state, episodes.action].all()
    q = q_from_value(mdp, np.zeros(2), GAMMA)
    for phi in ("reward_to_go", "q", "all_actions"):
        gradients = episode_gradients(mdp, theta, episodes, Estimator(phi, GAMMA, q=q))
        assert np.isfinite(gradients).all()
        assert (gradients[:, ~mdp.legal] == 0).all()
        assert (expected_gradient(mdp, theta, Estimator(phi, GAMMA, q=q), 2)[~mdp.legal] == 0).all()


def test_sampled_episodes_are_complete_and_padded_with_zeros():
    mdp = case("looping").mdp
    episodes = sample_trajectories(mdp, case("looping").policy, 5, episodes=1_000, seed=0)
    lengths = episodes.mask.sum(axis=0)
    assert episodes.mask.shape == (5, 1_000)
    assert (np.diff(episodes.mask.astype(int), axis=0) <= 0).all()
    ended = episodes.terminated | episodes.truncated
    assert (ended.sum(axis=0) == 1).all() and (ended.argmax(axis=0) == lengths - 1).all()
    assert (lengths[episodes.truncated.any(axis=0)] == 5).all() and episodes.truncated.any()
    going_on = episodes.mask[1:]
    assert (episodes.state[1:][going_on] == episodes.next_state[:-1][going_on]).all()
    for column in episodes:
        assert not column[~episodes.mask].any()
    assert (
        sample_trajectories(mdp, case("looping").policy, LONG, episodes=1_000, seed=0).mask.any(axis=1).all()
    )
    with pytest.raises(UsageError, match="episodes = 0"):
        sample_trajectories(mdp, case("looping").policy, 5, episodes=0, seed=0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"phi": "gea"}, "gae"),
        ({"state_weight": "gamma"}, "state_weight"),
        ({"gamma": 1.5}, "gamma"),
        ({"lambda_": -0.1}, "lambda_"),
        ({"phi": "q"}, "give q"),
        ({"value": None}, "give value"),
        ({"phi": "return", "state_weight": "discount"}, "discounted from the episode's start"),
    ],
)
def test_arguments_of_an_estimator_that_do_not_fit_are_refused(wrong, words):
    with pytest.raises(UsageError, match=words):
        Estimator(**{"phi": "gae", "gamma": 0.9, "value": np.zeros(2)} | wrong)


def test_the_examples_of_the_page_on_policy_gradients_run():
    page = Path(__file__).parents[2] / "docs" / "policy-gradients.md"
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) > 5
    names = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)
