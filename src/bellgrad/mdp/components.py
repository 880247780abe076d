"""Where an MDP can go and where it can stay, whatever the probabilities are: graphs of states with an edge
for every outcome."""

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from bellgrad.mdp.model import FiniteMDP, Ints

Mask = NDArray[np.bool_]


def edges(mdp: FiniteMDP) -> tuple[Ints, Ints]:
    """Pair and next state, `[E]` each, of every outcome that can happen and after which the episode goes
    on."""
    happens = mdp.continuing > 0
    pair = np.repeat(np.arange(len(mdp.offset) - 1), np.diff(mdp.offset))
    return pair[happens], mdp.next_state[happens]


def way_to(goal: Mask, source: Ints, target: Ints) -> Ints:
    """The shortest ways along edges to a set of states.

    Args:
        goal: `[S]` the set.
        source: `[E]` where each edge begins.
        target: `[E]` where it ends.

    Returns:
        `[S]` the next state on the way; `S` within the set, and -1 where there is no way.
    """
    states = len(goal)
    goals = np.flatnonzero(goal)
    back, forth = (
        np.append(target, np.full(len(goals), states)),
        np.append(source, goals),
    )  # from one more node to every goal
    graph = sparse.csr_array((np.ones(len(back), dtype=bool), (back, forth)), shape=(states + 1, states + 1))
    following = csgraph.breadth_first_order(graph, states)[1][:states]
    return np.where(following < 0, -1, following)


def end_components(mdp: FiniteMDP, allowed: Mask, group: Ints | None = None) -> tuple[Ints, Mask]:
    """Every set of states within which some policy can stay for ever, as large as it can be.

    Pairs that may lead to a dead end or out of their strongly connected component are taken away until none
    does; an endless run under any policy ends up, with probability one, within what is left.

    Args:
        mdp: the problem.
        allowed: `[S, A]` the actions that may be chosen.
        group: `[S]` a state that stands for each state, where several count as one.

    Returns:
        `[S]` a state's component, the same number for those that are together, and -1 where it is in none;
        and `[S, A]` the pairs that keep within their component.

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
        _leave_no_dead_ends(stays, owner, into, first)
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


@numba.njit(cache=True)
def _leave_no_dead_ends(stays, owner, into, first):
    """Take the pairs out of `stays` that may lead to a state which has none left, until there is no such
    pair.

    Each edge is looked at once: `into[first[s] : first[s + 1]]` are the pairs that may lead to state s,
    `owner[p]` is a pair's state.
    """
    states = len(first) - 1
    left = np.zeros(states, dtype=np.int64)
    for pair in range(len(stays)):
        left[owner[pair]] += stays[pair]
    dead = [state for state in range(states) if left[state] == 0]
    while len(dead) > 0:
        state = dead.pop()
        for pair in into[first[state] : first[state + 1]]:
            if stays[pair]:
                stays[pair] = False
                left[owner[pair]] -= 1
                if left[owner[pair]] == 0:
                    dead.append(owner[pair])
