"""Policies that surely end the episode (proper ones), and the best of them by policy iteration.

States in which a policy can stay forever at no cost count as one: the best proper policy leaves them by the
best exit, wherever that is. What changes a value is computed in differences,

    d(s, a) = r(s, a) - end(s, a) v(s) + sum_s' p(s' | s, a) (v(s') - v(s))

so that its rounding is that of the steps and not that of the values, which may be far larger.

Source: Bertsekas and Tsitsiklis 1991, "An analysis of stochastic shortest path problems" (policy iteration
from a proper policy); Bertsekas and Yu 2016, "Stochastic shortest path problems under weak conditions" (it
finds the best proper policy even if loops cost nothing).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from bellgrad.core.machine_code import cached_njit
from bellgrad.mdp.chains import LeavingEquations, class_distribution
from bellgrad.mdp.components import Mask, closed_classes, edges, end_components, next_towards
from bellgrad.mdp.convergence import reward_rounding, sum_rounding
from bellgrad.mdp.model import FiniteMDP, Floats, Ints
from bellgrad.mdp.policies import equal_chances

MAX_POLICIES = 10_000


class Differences(NamedTuple):
    """How a step with each pair would change the value.

    Attributes:
        gain: `[S, A]` `d(s, a)`; -inf if the action is illegal.
        noise: `[S, A]` its greatest rounding.
    """

    gain: Floats
    noise: Floats


class Stopped(NamedTuple):
    """A proper policy and its value.

    Attributes:
        exits: `[n]` the pair that each state of `CollapsedMDP.heads` takes.
        value: `[S]`.
        differences: at that value.
        policies: how many were evaluated.
        is_best: whether no pair is better by more than rounding.
        pays: `[n]` the states of `heads` that are in a loop which pays, so that no policy is best.
    """

    exits: Ints
    value: Floats
    differences: Differences
    policies: int
    is_best: bool
    pays: Mask


@dataclass(frozen=True)
class CollapsedMDP:
    """An MDP in which the states of a loop that costs nothing count as one state.

    Attributes:
        mdp: the original MDP.
        group: `[S]` the state that represents each state; the state itself if it is in no such loop.
        pairs: `[S, A]` the legal pairs that are not part of such a loop.
    """

    mdp: FiniteMDP
    group: Ints
    pairs: Mask

    @classmethod
    def of(cls, mdp: FiniteMDP) -> "CollapsedMDP":
        """Expected rewards that are 0 but for rounding count as 0."""
        costs_nothing = np.abs(mdp.expected_reward) <= reward_rounding(mdp)
        component, free = end_components(mdp, mdp.legal & costs_nothing)
        looping = np.flatnonzero(component >= 0)
        first = np.full(mdp.num_states, mdp.num_states)
        np.minimum.at(first, component[looping], looping)
        group = np.arange(mdp.num_states)
        group[looping] = first[component[looping]]
        return cls(mdp, group, mdp.legal & ~free)

    def backup(self, value: Floats, reward: Floats, pairs: Mask) -> Floats:
        """`max r + E[value]` over those of `pairs [S, A]` that belong to a state's group, 0 if there are
        none: `[S]`."""
        mdp = self.mdp
        return _best_of_group(mdp.offset, mdp.continuing, mdp.next_state, reward, pairs, self.group, value)

    @cached_property
    def closed(self) -> Mask:
        """`[S]` whether the state is in a loop without an exit."""
        open_ = np.zeros(len(self.group), dtype=bool)
        open_[self.group[self.pairs.any(axis=1)]] = True
        return ~open_[self.group]

    @cached_property
    def heads(self) -> Ints:
        """`[n]` the states that represent a group with an exit."""
        return np.flatnonzero((self.group == np.arange(len(self.group))) & ~self.closed)

    @cached_property
    def edges(self) -> tuple[Ints, Ints]:
        """Pair and group of the next state, `[E]` each, of every outcome that does not end the episode."""
        pair, target = edges(self.mdp)
        return pair, self.group[target]

    @cached_property
    def bandwidth(self) -> int:
        """The greatest distance between a state and a next state, when states are ordered to make it small:
        how far the factors of the equations fill up.

        Source: Cuthill and McKee 1969, "Reducing the bandwidth of sparse symmetric matrices".
        """
        pair, target = self.edges
        source = self.group[pair // self.mdp.num_actions]
        shape = (self.mdp.num_states,) * 2
        graph = sparse.csr_array((np.ones(len(source), dtype=bool), (source, target)), shape=shape)
        order = csgraph.reverse_cuthill_mckee(sparse.csr_array(graph + graph.T), symmetric_mode=True)
        place = np.empty(self.mdp.num_states, np.int64)
        place[order] = np.arange(self.mdp.num_states)
        return int(np.abs(place[source] - place[target]).max(initial=1))

    def best_of_group(self, per_pair: Floats, pairs: Mask) -> tuple[Floats, Ints]:
        """The greatest entry of `[S, A]` among those of `pairs` that belong to each group of `heads`, and its
        pair: `[n]` each; -inf where there is none."""
        best, where = _argmax_of_group(per_pair, pairs, self.group)
        return best[self.heads], where[self.heads]

    def proper_exits(self, wanted: Ints) -> Ints:
        """`[n]` pairs of a proper policy: the wanted ones, except in states from which these do not surely
        end; there each goes one step nearer to the end."""
        mdp, actions = self.mdp, self.mdp.num_actions
        ends = self._ends(wanted)
        if ends.all():
            return wanted
        pair, target = self.edges
        allowed = self.pairs.ravel()[pair]
        pair, target = pair[allowed], target[allowed]
        source = self.group[pair // actions]
        stops = self.pairs & (mdp.ending > 0)
        goal = self.closed.copy()
        goal[self.group[stops.any(axis=1)]] = True
        nearer = np.full(mdp.num_states, -1)
        one_step = target == next_towards(goal, source, target)[source]
        nearer[source[one_step]] = pair[one_step]
        stopping = np.flatnonzero(stops)
        nearer[self.group[stopping // actions]] = stopping
        return np.where(ends, wanted, nearer[self.heads])

    def policy(self, q: Floats, tie: Floats, exits: Ints) -> Floats:
        """`[S, A]` equal probabilities for the actions within `tie [S]` of the best of a state in `q [S, A]`,
        and for the pairs of a proper policy, so that this one is proper too."""
        good = q >= (q.max(axis=1) - tie)[:, None]
        good.ravel()[exits] = True
        return equal_chances(good)

    def differences(self, value: Floats, reward: Floats, size: Floats) -> Differences:
        """How a step would change a value `[S]` that is the same in all states of a group.

        Args:
            value: `[S]`.
            reward: `[S, A]`.
            size: `[S, A]` the size of the terms of each reward.
        """
        mdp = self.mdp
        arrays = (mdp.offset, mdp.continuing, mdp.next_state, mdp.ending, reward, size, value)
        gain, noise = _differences(*arrays)
        return Differences(gain, noise * sum_rounding(mdp))

    def evaluate(self, exits: Ints, reward: Floats) -> Floats:
        """`[S]` the value of a proper policy, from its exits and rewards `[S, A]`: one sparse solve."""
        value = np.zeros(self.mdp.num_states)
        if len(exits):
            equations = LeavingEquations(*self._chain(exits))
            value[self.heads] = equations.solve(reward.ravel()[exits])
        return value[self.group]

    def best_proper(
        self,
        reward: Floats,
        size: Floats,
        pairs: Mask,
        exits: Ints,
        *,
        max_policies: int = MAX_POLICIES,
        on_policy: Callable[[int, Floats], None] | None = None,
    ) -> Stopped:
        """Howard's policy iteration from a proper policy.

        A pair is replaced only by one that is better by more than rounding, so that every policy is better
        than the one before. A policy that does not surely end would then be in a loop that pays.

        Args:
            reward: `[S, A]`.
            size: `[S, A]` the size of the terms of each reward.
            pairs: `[S, A]` those that may be chosen.
            exits: `[n]` the pairs of a proper policy.
            max_policies: most policies, 1 or more.
            on_policy: called with the number of the policy and its value `[S]`.
        """
        seen, none = set(), np.zeros(len(self.heads), dtype=bool)
        for number in range(1, max_policies + 1):
            value = self.evaluate(exits, reward)
            if on_policy is not None:
                on_policy(number, value)
            differences = self.differences(value, reward, size)
            best, better_pair = self.best_of_group(differences.gain, pairs)
            gain, noise = (part.ravel() for part in differences)
            own = gain[exits]
            better = best > own + noise[better_pair] + noise[exits] + np.abs(own)
            now = Stopped(exits, value, differences, number, not better.any(), none)
            seen.add(exits.tobytes())
            if now.is_best:
                return now
            exits = np.where(better, better_pair, exits)
            pays = self.pays(exits, reward, size)
            if pays.any() or not self._ends(exits).all() or exits.tobytes() in seen:
                return now._replace(pays=pays, is_best=not pays.any())
        return now

    def pays(self, exits: Ints, reward: Floats, size: Floats) -> Mask:
        """`[n]` whether a state is in a loop of the policy that pays, or costs nothing on average, but for
        rounding."""
        found, ends = np.zeros(len(exits), dtype=bool), self._ends(exits)
        if ends.all():
            return found
        chain, _ = self._chain(exits)
        for inside in closed_classes(chain):
            if ends[inside[0]]:
                continue
            taken = exits[inside]
            visits = class_distribution(sparse.csr_array(chain[inside][:, inside]))
            rounding = (sum_rounding(self.mdp) * size).ravel()[taken]
            found[inside] = visits @ reward.ravel()[taken] >= -visits @ rounding
        return found

    def _chain(self, exits: Ints) -> tuple[sparse.csr_array, Floats]:
        """`[n, n]` the chain between `heads`, and `[n]` the probability of the end."""
        mdp, heads = self.mdp, self.heads
        index = np.full(mdp.num_states, -1)
        index[heads] = np.arange(len(heads))
        rows = mdp.transition[exits]
        row = np.repeat(np.arange(len(exits)), np.diff(rows.indptr))
        column = index[self.group[rows.indices]]
        happens, goes_on = rows.data > 0, column >= 0
        kept = happens & goes_on
        shape = (len(exits), len(exits))
        chain = sparse.csr_array((rows.data[kept], (row[kept], column[kept])), shape=shape)
        into_closed = np.bincount(row[~goes_on], rows.data[~goes_on], minlength=len(exits))
        return chain, mdp.ending.ravel()[exits] + into_closed

    def _ends(self, exits: Ints) -> Mask:
        """`[n]` whether a policy surely ends from each state of `heads`."""
        chain, leaving = self._chain(exits)
        source, target = chain.nonzero()
        endless = next_towards(leaving > 0, source, target) < 0
        return ~(next_towards(endless, source, target) >= 0)


@cached_njit
def _best_of_group(offset, continuing, next_state, reward, pairs, group, value):
    states, actions = pairs.shape
    best = np.full(states, -np.inf)
    for state in range(states):
        for action in range(actions):
            if pairs[state, action]:
                pair, q = state * actions + action, reward[state, action]
                for k in range(offset[pair], offset[pair + 1]):
                    q += continuing[k] * value[next_state[k]]
                best[group[state]] = max(best[group[state]], q)
    return np.where(best > -np.inf, best, 0.0)[group]


@cached_njit
def _argmax_of_group(per_pair, pairs, group):
    states, actions = pairs.shape
    best, where = np.full(states, -np.inf), np.zeros(states, np.int64)
    for state in range(states):
        for action in range(actions):
            if pairs[state, action] and per_pair[state, action] > best[group[state]]:
                best[group[state]] = per_pair[state, action]
                where[group[state]] = state * actions + action
    return best, where


@cached_njit
def _differences(offset, continuing, next_state, ending, reward, size, value):
    states, actions = reward.shape
    gain, terms = np.full((states, actions), -np.inf), np.zeros((states, actions))
    for state in range(states):
        here = value[state]
        for action in range(actions):
            pair = state * actions + action
            if offset[pair + 1] > offset[pair]:
                total = reward[state, action] - ending[state, action] * here
                absolute = size[state, action] + ending[state, action] * abs(here)
                for k in range(offset[pair], offset[pair + 1]):
                    change = continuing[k] * (value[next_state[k]] - here)
                    total += change
                    absolute += abs(change)
                gain[state, action], terms[state, action] = total, absolute
    return gain, terms
