"""Gymnasium's tabular environments as MDPs: their `P`, outcome by outcome, and Blackjack card by card."""

import itertools

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.toy_text import FrozenLakeEnv, TaxiEnv
from gymnasium.envs.toy_text.blackjack import BlackjackEnv, deck, is_natural
from plain import optimal_q, outcomes, policy_value

from bellgrad.core.errors import UsageError
from bellgrad.envs.discrete import known_dynamics
from bellgrad.envs.mdp import FiniteMDPEnv, to_gymnasium
from bellgrad.mdp.blackjack import blackjack_rules
from bellgrad.mdp.examples import cliff_walking
from bellgrad.mdp.model import FiniteMDP

STICK, HIT = 0, 1


def _blackjack(**options):
    return FiniteMDP.from_function(**blackjack_rules(**options))


@pytest.mark.parametrize(
    "name, kwargs",
    [
        ("FrozenLake-v1", {}),
        ("FrozenLake-v1", {"map_name": "8x8", "success_rate": 0.7}),
        ("FrozenLake-v1", {"desc": ["SFS", "FHG"], "is_slippery": False}),
        ("CliffWalking-v1", {"is_slippery": True}),
        ("Taxi-v4", {"is_rainy": True}),
    ],
)
def test_outcomes_and_starts_are_the_environments_own_in_their_order(name, kwargs):
    mdp = FiniteMDP.from_gymnasium(name, **kwargs)
    env = gymnasium.make(name, **kwargs).unwrapped
    for state, action in itertools.product(range(mdp.num_states), range(mdp.num_actions)):
        assert outcomes(mdp, state, action) == [tuple(outcome) for outcome in env.P[state][action]]
    np.testing.assert_array_equal(mdp.initial, env.initial_state_distrib)


def test_a_frozen_lake_has_the_known_values():
    # V*(start) of the slippery 4x4 lake, to six digits.
    mdp = FiniteMDP.from_gymnasium("FrozenLake-v1")
    for gamma, value in ((0.99, 0.542026), (0.95, 0.180472), (0.9, 0.068891)):
        assert optimal_q(mdp, gamma, sweeps=2000)[0].max() == pytest.approx(value, abs=1e-6)
    # The best probability of success within the time limit of 100 steps.
    assert optimal_q(mdp, 1.0, sweeps=mdp.max_episode_steps)[0].max() == pytest.approx(0.7442, abs=5e-5)


def test_names_grid_and_time_limit_are_kept():
    lake = FiniteMDP.from_gymnasium("FrozenLake-v1", map_name="8x8", max_episode_steps=50)
    assert (lake.grid, lake.max_episode_steps, lake.state_names[0]) == ((8, 8), 50, "S")
    assert lake.action_names == ("left", "down", "right", "up")
    assert FiniteMDP.from_gymnasium("Taxi-v4").max_episode_steps == 200
    cliff = FiniteMDP.from_gymnasium("CliffWalking-v1")
    assert cliff.state_names == cliff_walking().state_names
    assert cliff.action_names == cliff_walking().action_names


def test_gymnasiums_cliff_is_the_books():
    # All except the goal: Gymnasium defines steps from it, after the end.
    ours, theirs = cliff_walking(), FiniteMDP.from_gymnasium("CliffWalking-v1")
    for state, action in itertools.product(range(47), range(4)):
        assert outcomes(ours, state, action) == outcomes(theirs, state, action)
    np.testing.assert_array_equal(ours.initial, theirs.initial)


def test_an_environment_a_class_or_an_id_is_accepted():
    env = gymnasium.make("FrozenLake-v1")
    assert FiniteMDP.from_gymnasium(env).max_episode_steps == 100
    assert FiniteMDP.from_gymnasium(type(env.unwrapped), map_name="8x8").num_states == 64


class Shown(gymnasium.Env):
    """An environment with any given `P`."""

    def __init__(self, P, states=2, actions=1):
        self.P = P
        self.observation_space = gymnasium.spaces.Discrete(states)
        self.action_space = gymnasium.spaces.Discrete(actions)
        self.initial_state_distrib = np.full(states, 1 / states)


STAY = [(1.0, 0, 0.0, False)]


@pytest.mark.parametrize(
    "env, kwargs, words",
    [
        ("CartPole-v1", {}, "CartPole-v1 does not show its dynamics: it has no `P`"),
        (
            "Taxi-v4",
            {"fickle_passenger": True},
            "Taxi-v4: a fickle passenger depends on the last step.*use fickle_passenger=False",
        ),
        (
            "FrozenLak-v1",
            {},
            "the environment FrozenLak-v1 could not be made: .*[Dd]id you mean: `?FrozenLake",
        ),
        ("FrozenLake-v1", {"slippery": True}, "the environment FrozenLake-v1 could not be made: .*slippery"),
        (Shown({0: {0: STAY}, 2: {0: STAY}}), {}, "Shown: `P` has no entry for state 1, action 0"),
        (Shown([{0: STAY}, {}]), {}, "Shown: `P` has no entry for state 1, action 0"),
        (Shown([[STAY], [[(0.5, 0, 0.0, False)]]]), {}, "state 1, action 0: the probabilities sum to 0.5"),
        (
            Shown([[STAY], [[(1.0, 7, 0.0, False)]]]),
            {},
            "state 1, action 0: with 2 states, an outcome leads to state 7",
        ),
        (Shown([[STAY], [STAY]]), {"size": 4}, "an environment object takes no arguments, got size"),
        (
            gymnasium.wrappers.TransformReward(Shown([[STAY], [STAY]]), abs),
            {},
            "TransformReward changes Shown",
        ),
    ],
)
def test_an_environment_without_known_dynamics_is_refused(env, kwargs, words):
    with pytest.raises(UsageError, match=words):
        FiniteMDP.from_gymnasium(env, **kwargs)


class HolePenalty(FrozenLakeEnv):
    """Falling into a hole costs 1, which `P` does not say."""

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, (-1.0 if terminated and reward == 0 else reward), terminated, truncated, info


class RandomStart(FrozenLakeEnv):
    def reset(self, **options):
        _, info = super().reset(**options)
        self.s = int(self.np_random.integers(4))
        return self.s, info


class Inherits(HolePenalty):
    pass


class Mixin:
    def step(self, action):
        obs, _, *others = super().step(action)
        return obs, 2.0, *others


class Mixed(Mixin, FrozenLakeEnv):
    pass


class TwiceTheReward(gymnasium.Wrapper):
    def step(self, action):
        obs, reward, *others = self.env.step(action)
        return obs, 2 * reward, *others


class StrictLimit(gymnasium.wrappers.TimeLimit):
    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward - truncated, terminated, truncated, info


def assigned(env, name="step"):
    own = getattr(env, name)
    setattr(env, name, lambda *args, **kwargs: own(*args, **kwargs))
    return env


def borrowed(env):
    env.step = type(env)().step
    return env


class Penalized(BlackjackEnv):
    def step(self, action):
        obs, reward, *others = super().step(action)
        return obs, reward - 1, *others


class Cheat(FiniteMDPEnv):
    def step(self, action):
        obs, reward, *others = super().step(action)
        return obs, reward + 1, *others


REPLACED = {
    "step": lambda: HolePenalty(),
    "reset": lambda: RandomStart(),
    "a class between": lambda: Inherits(),
    "a mixin": lambda: Mixed(),
    "an assigned step": lambda: assigned(FrozenLakeEnv()),
    "another object's step": lambda: borrowed(FrozenLakeEnv()),
    "an assigned reset": lambda: assigned(TaxiEnv(), "reset"),
    "a wrapper": lambda: TwiceTheReward(FrozenLakeEnv()),
    "a wrapper inside a limit": lambda: gymnasium.wrappers.TimeLimit(TwiceTheReward(FrozenLakeEnv()), 9),
    "a subclass of the limit": lambda: StrictLimit(FrozenLakeEnv(), 9),
    "an assigned step of a wrapper": lambda: assigned(gymnasium.wrappers.TimeLimit(FrozenLakeEnv(), 9)),
    "rewards": lambda: gymnasium.wrappers.TransformReward(FrozenLakeEnv(), lambda r: -r),
    "blackjack": lambda: Penalized(),
    "an assigned step of blackjack": lambda: assigned(BlackjackEnv()),
    "a FiniteMDPEnv": lambda: Cheat(cliff_walking()),
}


@pytest.mark.parametrize("make", REPLACED.values(), ids=REPLACED)
def test_p_is_not_taken_for_steps_that_something_else_has_replaced(make):
    with pytest.raises(UsageError, match=r"need not describe|describes the environment without"):
        FiniteMDP.from_gymnasium(make())
    assert known_dynamics(make()) is None


class Renders(FrozenLakeEnv):
    def __init__(self):
        super().__init__()
        self.P[0][0] = [(1.0, 5, -7.0, True)]

    def render(self):
        return "nothing"


class Named(gymnasium.Wrapper):
    def render(self):
        return "something"


def test_a_subclass_and_wrappers_that_leave_step_and_reset_alone_keep_p():
    limited = gymnasium.wrappers.TimeLimit(Named(Renders()), 9)
    recorded = gymnasium.wrappers.RecordEpisodeStatistics(limited)
    assert outcomes(FiniteMDP.from_gymnasium(recorded), 0, 0) == [(1.0, 5, -7.0, True)]
    assert outcomes(known_dynamics(gymnasium.wrappers.TimeLimit(Renders(), 9)), 0, 0) == [(1, 5, -7, True)]


def test_the_mdp_of_an_environment_that_samples_it_is_given_back():
    mdp = cliff_walking()
    assert FiniteMDP.from_gymnasium(to_gymnasium(mdp, 9)) is mdp
    assert known_dynamics(to_gymnasium(mdp, 9)) is mdp


class Walk(gymnasium.Env):
    """Three states in a row with a `P` of its own; `wrong` says what the steps do differently."""

    def __init__(self, wrong=None):
        self.P = [[[(1.0, max(s - 1, 0), 0.0, False)], [(1.0, s + 1, 1.5, s == 1)]] for s in range(2)]
        self.P.append([[(1.0, 2, 0.0, True)]] * 2)
        self.initial_state_distrib = np.array([1.0, 0, 0])
        self.observation_space = gymnasium.spaces.Discrete(3)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.wrong, self.s = wrong, None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.s = 1 if self.wrong == "start" else 0
        return self.s, {}

    def step(self, action):
        if self.wrong == "error":
            raise RuntimeError("out of order")
        _, after, reward, ends = self.P[self.s][action][0]
        self.s = 0 if self.wrong == "state" else after
        return self.s, reward + (self.wrong == "reward"), ends and self.wrong != "end", False, {}


def test_an_environment_of_ones_own_with_p_is_compared_with_it_on_a_copy():
    env = Walk()
    env.reset(seed=0)
    assert FiniteMDP.from_gymnasium(env).reward.tolist() == [0, 1.5, 0, 1.5, 0, 0]
    assert env.s == 0


@pytest.mark.parametrize(
    "wrong, words",
    [
        ("start", "it begins in state 1, which has probability 0"),
        ("reward", "next state [01], reward [12].[05], terminated False, which is none of its outcomes"),
        ("state", "state 0, action 1 gave next state 0, reward 1.5"),
        ("end", "state 1, action 1 gave next state 2, reward 1.5, terminated False"),
        ("error", "could not be compared with `P`: RuntimeError: out of order"),
    ],
)
def test_an_environment_whose_steps_contradict_its_p_is_refused(wrong, words):
    with pytest.raises(UsageError, match=words):
        FiniteMDP.from_gymnasium(Walk, wrong=wrong)
    assert known_dynamics(Walk(wrong)) is None


@pytest.mark.parametrize(
    "env", [123, None, [1], {}, object()], ids=["number", "none", "list", "dict", "object"]
)
def test_what_is_no_environment_is_refused(env):
    with pytest.raises(UsageError, match=r"an environment is an id, a gymnasium.Env, or a class or function"):
        FiniteMDP.from_gymnasium(env)


@pytest.mark.parametrize("p", [7, None, "P", 1.5, [[1]], [[None]], [[[3]]], [[["abc"]]], [[[(1.0, 0)]]]],
                         ids=str)  # fmt: skip
def test_a_p_that_is_no_table_is_refused(p):
    with pytest.raises(
        UsageError, match=r"has no entry for state 0, action 0|state 0, action 0: expected outc"
    ):
        FiniteMDP.from_gymnasium(Shown(p, states=1))


CARD_PROBABILITY = {card: deck.count(card) / len(deck) for card in deck}


class OutOfCards(Exception):
    pass


class Script:
    """Replaces an environment's random generator: deals the given cards, then runs out."""

    def __init__(self, cards):
        self.cards = list(cards)

    def choice(self, options):
        if options is not deck:  # for the picture of the dealer's card
            return options[0]
        if not self.cards:
            raise OutOfCards
        return self.cards.pop(0)


def every_deal(play, dealt=(), probability=1.0):
    """The probability and the result of `play(cards)` for every sequence of cards that it can ask for."""
    try:
        yield probability, play(dealt)
    except OutOfCards:
        for card in range(1, 11):
            yield from every_deal(play, (*dealt, card), probability * CARD_PROBABILITY[card])


def summed(weighted):
    total = {}
    for probability, result in weighted:
        total[result] = total.get(result, 0.0) + probability
    return {result: pytest.approx(probability, abs=1e-12) for result, probability in total.items()}


def number(obs, natural=False):
    total, dealer, usable = obs
    return ((0 if natural else total) * 11 + dealer) * 2 + usable


RULES = [{"natural": False, "sab": True}, {"natural": True, "sab": False}, {"natural": False, "sab": False}]


@pytest.mark.parametrize("rules", RULES, ids=["book", "natural", "plain"])
@pytest.mark.parametrize(
    "player", [[1, 10], [4, 10, 7], [1, 7], [7, 10]], ids=["natural", "21", "soft 18", "17"]
)
def test_blackjack_agrees_with_the_environment_for_every_sequence_of_cards(rules, player):
    env, mdp = BlackjackEnv(**rules), _blackjack(**rules)
    for dealer, action in itertools.product((1, 10), (STICK, HIT)):

        def play(cards, dealer=dealer, action=action):
            deal = Script(cards)
            env.player, env.dealer, env.np_random = list(player), [dealer, deal.choice(deck)], deal
            obs, reward, terminated, _, _ = env.step(action)
            return (None if terminated else number(obs)), reward, terminated

        expected = summed(every_deal(play))
        env.player, env.dealer = player, [dealer]
        state = number(env._get_obs(), natural=is_natural(player) and any(rules.values()))
        made = outcomes(mdp, state, action)
        assert (
            summed((p, (None if ends else after, reward, ends)) for p, after, reward, ends in made)
            == expected
        )


@pytest.mark.parametrize("rules", RULES[1:], ids=["natural", "plain"])
def test_blackjack_starts_like_the_environment(rules):
    env, mdp = BlackjackEnv(**rules), _blackjack(**rules)

    def play(cards):
        env.np_random = Script(cards)
        obs, _ = env.reset()
        return number(obs, natural=rules["natural"] and is_natural(env.player))

    expected = summed(every_deal(play))
    assert {state: mdp.initial[state] for state in np.flatnonzero(mdp.initial)} == expected


def test_blackjack_s_options_are_the_environments():
    for kwargs, rules in (({}, {"sab": True}), ({"sab": False, "natural": True}, {"natural": True})):
        made, expected = FiniteMDP.from_gymnasium("Blackjack-v1", **kwargs), _blackjack(**rules)
        np.testing.assert_array_equal(made.reward, expected.reward)
        np.testing.assert_array_equal(made.probability, expected.probability)


def test_states_that_no_hand_has_end_at_reward_0():
    mdp = _blackjack(sab=True)
    for obs in ((3, 5, 0), (11, 5, 1), (15, 0, 0), (22, 5, 0), (31, 10, 1)):
        for action in (STICK, HIT):
            assert outcomes(mdp, number(obs), action) == [(1.0, number(obs), 0.0, True)]


def test_the_value_of_sticking_on_20_is_that_of_the_book():
    # Sutton and Barto 2018, example 5.4: dealer's deuce, 13 with a usable ace, the policy that sticks on 20
    # and 21: -0.27726, the mean of 10^8 simulated returns, each -1, 0 or 1: its standard deviation is below
    # 0.0001.
    mdp = _blackjack(sab=True)
    action = np.full(704, HIT)
    action[
        [number((total, dealer, ace)) for total in (20, 21) for dealer in range(1, 11) for ace in (0, 1)]
    ] = STICK
    action[[number((0, dealer, 1)) for dealer in range(1, 11)]] = STICK
    assert policy_value(mdp, action, 1.0)[number((13, 2, 1))] == pytest.approx(-0.27726, abs=3e-4)


def test_the_best_policy_of_blackjack_is_the_books():
    # Sutton and Barto 2018, figure 5.2: the lowest sum to stick on, against an ace, 2, ..., 10, including the
    # exception at the ace.
    best = optimal_q(_blackjack(sab=True), 1.0, sweeps=20).argmax(axis=1)

    def least_to_stick(dealer, ace):
        return next(total for total in range(12, 22) if best[number((total, dealer, ace))] == STICK)

    assert [least_to_stick(dealer, 0) for dealer in range(1, 11)] == [17, 13, 13, 12, 12, 12, 17, 17, 17, 17]
    assert [least_to_stick(dealer, 1) for dealer in range(1, 11)] == [19, 18, 18, 18, 18, 18, 18, 18, 19, 19]
