"""Blackjack as a finite MDP, built from its rules: Gymnasium's environment has no table of its dynamics."""

from functools import cache
from typing import Any, NamedTuple

import numpy as np

CARDS = range(1, 11)  # the ace is 1; jack, queen and king are 10
ACE, TEN, TWENTY_ONE = 1, 10, 21
STICK = 0

Outcome = tuple[float, int, float, bool]


class Hand(NamedTuple):
    """The player's sum, the dealer's open card, whether an ace counts 11, and whether the hand is a natural:
    an ace and a ten."""

    total: int
    dealer: int
    usable: bool
    natural: bool

    @property
    def state(self) -> int:
        """The number of Gymnasium's observation; a natural has its own."""
        return _number(0 if self.natural else self.total, self.dealer, self.usable)

    def __str__(self) -> str:
        return f"{'natural' if self.natural else self.total}{' with ace' * self.usable} against {self.dealer}"


def blackjack_rules(
    *, natural: bool = False, sab: bool = False, max_episode_steps: int | None = None
) -> dict[str, Any]:
    """Blackjack as in Gymnasium, as the arguments of `FiniteMDP.from_function`: cards are drawn with
    replacement, and the dealer sticks on 17 or more.

    States are Gymnasium's observations, numbered as its `Tuple` of `Discrete` spaces is flattened:
    `(sum * 11 + dealer's card) * 2 + usable ace`. With `natural` or `sab` a natural does not pay the same
    as an equal sum reached by a hit, so that naturals need their own states: those of sum 0, which no hand
    has. A state that no hand has ends the episode at reward 0.

    Args:
        natural: a win with a natural pays 1.5; ignored with `sab`.
        sab: a natural wins against every hand of the dealer but another natural, as in the book.
        max_episode_steps: stored in the MDP.

    Source: Sutton and Barto 2018, example 5.1; options of Gymnasium's `Blackjack-v1`, where `sab` is True by
    default.
    """
    num_states = 32 * 11 * 2
    hands, initial = {}, np.zeros(num_states)
    for dealer in CARDS:
        for total in range(4, TWENTY_ONE + 1):
            for usable in (False, True) if total >= 12 else (False,):
                hand = Hand(total, dealer, usable, natural=False)
                hands[hand.state] = hand
        for first in CARDS:
            for second in CARDS:
                total, usable = _with_ace(first + second, ACE in (first, second))
                hand = Hand(total, dealer, usable, natural=total == TWENTY_ONE and (natural or sab))
                hands[hand.state] = hand
                initial[hand.state] += (
                    _card_probability(first) * _card_probability(second) * _card_probability(dealer)
                )

    def outcomes(state: int, action: int) -> list[Outcome]:
        if state not in hands:
            return [(1.0, state, 0.0, True)]
        return _stick(hands[state], sab) if action == STICK else _hit(hands[state])

    return {
        "num_states": num_states,
        "num_actions": 2,
        "outcomes": outcomes,
        "initial": initial,
        "state_names": tuple(str(hands.get(state, "unused")) for state in range(num_states)),
        "action_names": ("stick", "hit"),
        "max_episode_steps": max_episode_steps,
    }


def _hit(hand: Hand) -> list[Outcome]:
    """One outcome per card; a bust ends the episode."""
    outcomes = []
    for card in CARDS:
        total, usable = _with_ace(hand.total - 10 * hand.usable + card, hand.usable or card == ACE)
        bust = total > TWENTY_ONE
        outcomes.append(
            (_card_probability(card), _number(total, hand.dealer, usable), -1.0 if bust else 0.0, bust)
        )
    return outcomes


def _stick(hand: Hand, sab: bool) -> list[Outcome]:
    """One outcome per reward, the lowest first."""
    probabilities: dict[float, float] = {}
    for (score, dealer_natural), probability in _dealer_ends(hand.dealer, hand.dealer == ACE, 1).items():
        reward = float(np.sign(hand.total - score))
        if hand.natural and sab and not dealer_natural:
            reward = 1.0
        elif hand.natural and not sab and reward == 1.0:
            reward = 1.5
        probabilities[reward] = probabilities.get(reward, 0.0) + probability
    return [(probabilities[reward], hand.state, reward, True) for reward in sorted(probabilities)]


def _number(total: int, dealer: int, usable: bool) -> int:
    return (total * 11 + dealer) * 2 + usable


def _card_probability(card: int) -> float:
    return (4 if card == TEN else 1) / 13


def _with_ace(hard: int, ace: bool) -> tuple[int, bool]:
    """The sum of a hand from its sum with all aces as 1: one ace counts 11 if that does not bust; and whether
    it does count 11."""
    usable = ace and hard + 10 <= TWENTY_ONE
    return hard + 10 * usable, usable


@cache
def _dealer_ends(hard: int, ace: bool, cards: int) -> dict[tuple[int, bool], float]:
    """The probability of each end of the dealer's hand, `(score, whether it is a natural)`; a bust has score
    0."""
    total, _ = _with_ace(hard, ace)
    if total >= 17:
        return {(total if total <= TWENTY_ONE else 0, cards == 2 and total == TWENTY_ONE): 1.0}
    ends: dict[tuple[int, bool], float] = {}
    for card in CARDS:
        for end, probability in _dealer_ends(hard + card, ace or card == ACE, cards + 1).items():
            ends[end] = ends.get(end, 0.0) + _card_probability(card) * probability
    return ends
