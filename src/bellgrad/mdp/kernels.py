"""Compiled loops over the outcomes of an MDP."""

import heapq
from contextlib import AbstractContextManager
from typing import Any

import numba
import numpy as np

from bellgrad.core.machine_code import cached_njit, numba_threads

# Outcomes: about 0.2 ms of work. For less, a second thread costs as much time as it saves.
MIN_PARALLEL_OUTCOMES = 100_000


def limited_threads(mdp: Any) -> AbstractContextManager[None]:
    """One numba thread if a `FiniteMDP` has few outcomes, otherwise all; afterwards as before."""
    return numba_threads(None if len(mdp.probability) >= MIN_PARALLEL_OUTCOMES else 1)


@cached_njit
def row_dot(offset, left, right):
    """The sum of `left * right` over each row: `[len(offset) - 1]` float64."""
    rows = len(offset) - 1
    total = np.zeros(rows)
    for row in range(rows):
        for k in range(offset[row], offset[row + 1]):
            total[row] += left[k] * right[k]
    return total


@cached_njit
def row_sum(offset, values):
    """The sum of each row: `[len(offset) - 1]` float64."""
    rows = len(offset) - 1
    total = np.zeros(rows)
    for row in range(rows):
        for k in range(offset[row], offset[row + 1]):
            total[row] += values[k]
    return total


@cached_njit
def least_best(offset, reward):
    """The least, over all states, of the greatest entry of `reward [S, A]` among pairs with outcomes."""
    states, actions = reward.shape
    least = np.inf
    for state in range(states):
        best = -np.inf
        for action in range(actions):
            if offset[state * actions + action + 1] > offset[state * actions + action]:
                best = max(best, reward[state, action])
        least = min(least, best)
    return least


@cached_njit
def _expected(first, last, continuing, next_state, value):
    """`E[value(s')]` over the outcomes `first` to `last`. With unsigned integers no access tests for a
    negative index."""
    total = 0.0
    for k in range(np.uint64(first), np.uint64(last)):
        total += continuing[k] * value[np.uint64(next_state[k])]
    return total


@cached_njit(parallel=True)
def lookahead(offset, continuing, next_state, reward, gamma, value, q):
    """Fill `q [S, A]` with `r(s, a) + gamma * E[value(s')]`, -inf for a pair without outcomes."""
    states, actions = reward.shape
    for state in numba.prange(states):
        for action in range(actions):
            first, last = offset[state * actions + action], offset[state * actions + action + 1]
            expected = _expected(first, last, continuing, next_state, value)
            q[state, action] = reward[state, action] + gamma * expected if last > first else -np.inf


@cached_njit(parallel=True)
def compare_with_best(
    offset, probability, continuing, next_state, reward, gamma, size, error, q, rounding, most, good
):
    """Fill `good [S, A]` with 1 if an action is as good as the best of its state except for rounding, 2 if
    errors of the next states' values may be what separates them, otherwise 0.

    Args:
        reward: of every outcome.
        size: `[S]` absolute values, of which `q [S, A]` was computed.
        error: `[S]` of these values.
        rounding: relative to the sum of the absolute terms of a pair.
        most: a difference that neither rounding nor errors can make; larger ones are not looked into.
    """
    states, actions = q.shape
    for state in numba.prange(states):
        best = 0
        for action in range(1, actions):
            if q[state, action] > q[state, best]:
                best = action
        best_size, best_error = -1.0, 0.0
        for action in range(actions):
            gap = q[state, best] - q[state, action]
            good[state, action] = gap == 0
            if gap > 0 and gap <= most:
                if best_size < 0:
                    first, last = offset[state * actions + best], offset[state * actions + best + 1]
                    best_size = _size(first, last, probability, continuing, next_state, reward, gamma, size)
                    best_error = gamma * _expected(first, last, continuing, next_state, error)
                first, last = offset[state * actions + action], offset[state * actions + action + 1]
                own_size = _size(first, last, probability, continuing, next_state, reward, gamma, size)
                gap -= rounding * max(best_size, own_size)
                if gap <= 0:
                    good[state, action] = 1
                elif gap <= best_error + gamma * _expected(first, last, continuing, next_state, error):
                    good[state, action] = 2


@cached_njit
def distance(offset, continuing, next_state, weight, pair, other):
    """`sum_s |p(s) - p'(s)| weight(s)` for the transition probabilities of each `pair [N]` and its `other
    [N]`: `[N]`."""
    difference, apart = np.zeros(len(weight)), np.zeros(len(pair))
    for i in range(len(pair)):
        for k in range(offset[pair[i]], offset[pair[i] + 1]):
            difference[next_state[k]] += continuing[k]
        for k in range(offset[other[i]], offset[other[i] + 1]):
            difference[next_state[k]] -= continuing[k]
        for one in (pair[i], other[i]):
            for k in range(offset[one], offset[one + 1]):
                apart[i] += abs(difference[next_state[k]]) * weight[next_state[k]]
                difference[next_state[k]] = 0.0
    return apart


@cached_njit
def _size(first, last, probability, continuing, next_state, reward, gamma, size):
    """The sum of the absolute terms of `r + gamma * E[v(s')]`, with `size = |v|`."""
    total = 0.0
    for k in range(np.uint64(first), np.uint64(last)):
        total += probability[k] * abs(reward[k]) + gamma * continuing[k] * size[np.uint64(next_state[k])]
    return total


@cached_njit(parallel=True)
def sweep(offset, continuing, next_state, reward, gamma, value, action, improve, new):
    """A backup of every state from `value [S]` into `new [S]`: of the best action, which is stored in
    `action [S]`, or of the stored action only.

    Args:
        improve: whether to search for the best action.

    Returns:
        the least and the greatest change of a state's value, and the greatest absolute value.
    """
    states, actions = reward.shape
    low, high, size = np.inf, -np.inf, 0.0
    for state in numba.prange(states):
        chosen = action[state]
        begin, end = (0, actions) if improve else (chosen, chosen + 1)
        best = -np.inf
        for a in range(begin, end):
            first, last = offset[state * actions + a], offset[state * actions + a + 1]
            expected = _expected(first, last, continuing, next_state, value)
            q = reward[state, a] + gamma * expected if last > first else -np.inf
            if q > best:
                best, chosen = q, a
        new[state], action[state] = best, chosen
        change = best - value[state]
        low, high, size = min(low, change), max(high, change), max(size, abs(best))
    return low, high, size


@cached_njit
def sweep_in_place(offset, continuing, next_state, reward, gamma, value, action, improve, backwards):
    """`sweep` in the order of the states or in reverse; each backup uses the new values of earlier states and
    is solved for transitions of a state to itself.

    Returns:
        the greatest absolute change of a state's value, and the greatest absolute value.
    """
    states, actions = reward.shape
    change, size = 0.0, 0.0
    for i in range(states):
        state = states - 1 - i if backwards else i
        chosen = action[state]
        begin, end = (0, actions) if improve else (chosen, chosen + 1)
        best = -np.inf
        for a in range(begin, end):
            first, last = offset[state * actions + a], offset[state * actions + a + 1]
            expected, stay = 0.0, 0.0
            for k in range(np.uint64(first), np.uint64(last)):
                if next_state[k] == state:
                    stay += continuing[k]
                else:
                    expected += continuing[k] * value[np.uint64(next_state[k])]
            q = reward[state, a] + gamma * expected if last > first else -np.inf
            if stay > 0:
                q /= 1 - gamma * stay
            if q > best:
                best, chosen = q, a
        change, size = max(change, abs(best - value[state])), max(size, abs(best))
        value[state], action[state] = best, chosen
    return change, size


@cached_njit
def _backup(offset, continuing, next_state, reward, gamma, value, state):
    actions = reward.shape[1]
    best = -np.inf
    for action in range(actions):
        first, last = offset[state * actions + action], offset[state * actions + action + 1]
        if last > first:
            best = max(
                best, reward[state, action] + gamma * _expected(first, last, continuing, next_state, value)
            )
    return best


@cached_njit
def prioritized_backups(
    offset, continuing, next_state, reward, gamma, value, error, before_offset, before, threshold
):
    """Up to `S` backups, each of the state whose value differs most from its backup; `error [S]` is that
    difference, which is kept up to date.

    Args:
        before_offset: `[S+1]` index into `before`, which lists the predecessors of each state.
        threshold: `[S]`; states with a smaller error are skipped.

    Returns:
        the number of backups.
    """
    states = len(value)
    queue = [(-error[state], state) for state in range(states) if error[state] > threshold[state]]
    heapq.heapify(queue)
    backups = 0
    while queue and backups < states:
        priority, state = heapq.heappop(queue)
        # it changed after it was queued; if it is still large, it was queued again
        if -priority != error[state]:
            continue
        value[state] = _backup(offset, continuing, next_state, reward, gamma, value, state)
        error[state] = 0.0
        backups += 1
        for k in range(before_offset[state], before_offset[state + 1]):
            earlier = before[k]
            distance = abs(
                _backup(offset, continuing, next_state, reward, gamma, value, earlier) - value[earlier]
            )
            if distance != error[earlier]:
                error[earlier] = distance
                if distance > threshold[earlier]:
                    heapq.heappush(queue, (-distance, np.int64(earlier)))
    return backups
