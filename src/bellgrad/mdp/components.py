"""Which states an MDP can reach and in which sets it can stay: graphs of states with an edge for every
possible outcome."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from bellgrad.core.machine_code import cached_njit
from bellgrad.mdp.model import FiniteMDP, Floats, Ints
from bellgrad.mdp.policies import uniform_policy
from bellgrad.mdp.solution import Solution

Mask = NDArray[np.bool_]


def edges(mdp: FiniteMDP) -> tuple[Ints, Ints]:
    """Pair and next state, `[E]` each, of every possible outcome after which the episode continues."""
    happens = mdp.continuing > 0
    pair = np.repeat(np.arange(len(mdp.offset) - 1), np.diff(mdp.offset))
    return pair[happens], mdp.next_state[happens]


def next_towards(goal: Mask, source: Ints, target: Ints) -> Ints:
    """The next states on shortest paths to a set of states.

    Args:
        goal: `[S]` the set.
        source: `[E]` the state at which each edge begins.
        target: `[E]` the state at which it ends.

    Returns:
        `[S]` the next state on a shortest path; `S` within the set, and -1 if there is no path.
    """
    states = len(goal)
    goals = np.flatnonzero(goal)
    # the extra node S leads to every goal
    start, end = np.append(target, np.full(len(goals), states)), np.append(source, goals)
    graph = sparse.csr_array((np.ones(len(start), dtype=bool), (start, end)), shape=(states + 1, states + 1))
    following = csgraph.breadth_first_order(graph, states)[1][:states]
    return np.where(following < 0, -1, following)


def reached_from(starts: Mask, source: Ints, target: Ints) -> Mask:
    """`[S]` the states to which a path of edges leads from the states `starts [S]`, and these themselves."""
    return next_towards(starts, target, source) >= 0


def reachable_states(mdp: FiniteMDP) -> Mask:
    """`[S]` the states in which an episode can ever be, from its first state on, whatever is done."""
    pair, target = edges(mdp)
    return reached_from(mdp.initial > 0, pair // mdp.num_actions, target)


def without_states(mdp: FiniteMDP, left_out: Mask, *, ending: bool) -> FiniteMDP:
    """The MDP in which nothing more happens after some states are reached: every action there has reward 0,
    and ends the episode or stays.

    Args:
        mdp: the problem.
        left_out: `[S]` these states.
        ending: whether the episode ends there.
    """
    state = np.repeat(np.arange(mdp.num_states), np.diff(mdp.offset[:: mdp.num_actions]))
    changed = left_out[state]
    return replace(
        mdp,
        next_state=np.where(changed, state, mdp.next_state).astype(mdp.next_state.dtype),
        reward=np.where(changed, 0.0, mdp.reward),
        terminated=np.where(changed, ending, mdp.terminated),
    )


def leave_out(mdp: FiniteMDP, solution: Solution, left_out: Mask) -> Solution:
    """A solution that says nothing of some states `[S]`: their values are NaN and their policy is uniform."""

    def blank(values: Floats | None) -> Floats | None:
        return None if values is None else np.where(left_out, np.nan, values)

    row = left_out[:, None]
    note = (
        f"states that the start cannot reach, as {mdp.state_name(left_out.argmax())}, are left out, since the"
        " whole problem has no solution: their values are NaN"
    )
    return replace(
        solution,
        value=np.where(left_out, np.nan, solution.value),
        q=np.where(row & mdp.legal, np.nan, solution.q),
        policy=np.where(row, uniform_policy(mdp), solution.policy),
        bias=blank(solution.bias),
        gains=blank(solution.gains),
        note="; ".join(filter(None, (note, solution.note))),
    )


def closed_classes(chain: sparse.csr_array) -> list[Ints]:
    """The states of each set that the chain `[S, S]` cannot leave and within which it reaches every state."""
    count, component = csgraph.connected_components(chain, connection="strong")
    source, target = chain.nonzero()
    closed = np.ones(count, dtype=bool)
    closed[component[source[component[source] != component[target]]]] = False
    order = np.argsort(component, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(component, minlength=count))[:-1])
    return [members[c] for c in np.flatnonzero(closed)]


def end_components(mdp: FiniteMDP, allowed: Mask, group: Ints | None = None) -> tuple[Ints, Mask]:
    """The maximal sets of states in which some policy can stay forever.

    Pairs that may lead to a dead end or out of their strongly connected component are removed until there are
    none. With probability one, an endless run of any policy finally stays in one of the remaining sets.

    Args:
        mdp: the problem.
        allowed: `[S, A]` the actions that may be chosen.
        group: `[S]` the state that represents each state, if several count as one.

    Returns:
        `[S]` the number of a state's component, and -1 if it is in none; and `[S, A]` the pairs that stay
        within their component.

    Source: de Alfaro 1997, "Formal verification of probabilistic systems", algorithm 3.1 (maximal end
    components).
    """
    states, actions = mdp.num_states, mdp.num_actions
    group = np.arange(states) if group is None else group
    pair, target = edges(mdp)
    owner, target = np.repeat(group, actions), group[target]
    order = np.argsort(target, kind="stable")
    into, first = pair[order], np.searchsorted(target[order], np.arange(states + 1))
    stays = (allowed & (mdp.ending == 0)).ravel()
    while True:
        _remove_pairs_to_dead_ends(stays, owner, into, first)
        kept = stays[pair]
        source, towards = owner[pair[kept]], target[kept]
        graph = sparse.csr_array(
            (np.ones(len(source), dtype=bool), (source, towards)), shape=(states, states)
        )
        component = csgraph.connected_components(graph, connection="strong")[1]
        leaves = component[source] != component[towards]
        if not leaves.any():
            break
        stays[pair[kept][leaves]] = False
    stays = stays.reshape(states, actions)
    inside = np.zeros(states, dtype=bool)
    inside[group[stays.any(axis=1)]] = True
    return np.where(inside[group], component[group], -1), stays


@cached_njit
def _remove_pairs_to_dead_ends(stays, owner, into, first):
    """Remove from `stays` the pairs that may lead to a state without remaining pairs, until there are none.

    Each edge is visited once. `into[first[s] : first[s + 1]]` are the pairs that may lead to state s,
    `owner[p]` is the state of pair p.
    """
    states = len(first) - 1
    remaining = np.zeros(states, dtype=np.int64)
    for pair in range(len(stays)):
        remaining[owner[pair]] += stays[pair]
    dead = [state for state in range(states) if remaining[state] == 0]
    while len(dead) > 0:
        state = dead.pop()
        for pair in into[first[state] : first[state + 1]]:
            if stays[pair]:
                stays[pair] = False
                remaining[owner[pair]] -= 1
                if remaining[owner[pair]] == 0:
                    dead.append(owner[pair])
