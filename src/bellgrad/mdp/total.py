"""The total reward of episodes that end, without a discount: stochastic shortest paths.

    v(s) = max_a r(s, a) + E[v(s')],   v = 0 after the end

Without a discount this equation has a unique solution only if staying forever is never an advantage. So the
graph of the MDP and its rewards are checked first:

1. Loops that cost nothing. Every set of states in which a policy can stay forever with pairs of expected
reward
   0 (an end component of those pairs) counts as one state. All its states have the same value: that of the
   best exit, or 0 if there is none. This gives the smallest solution, the value of the best policy among
   those that surely end. Sweeps from below give the same.
2. Every state must reach an end: an outcome that terminates, or a loop without an exit that costs nothing.
3. Every other loop must cost something: in each remaining end component, the best average reward must be
below
   zero. This is clear if no reward in it is above zero; otherwise relative value iteration within the
   component gives bounds from both sides.

If 2 or 3 fails, there is no finite or no unique answer, and a `UsageError` names a state.

Source: Bertsekas and Tsitsiklis 1991, "An analysis of stochastic shortest path problems" (3, and value
iteration); Bertsekas and Yu 2016, "Stochastic shortest path problems under weak conditions" (the smallest
solution); Haddad and Monmege 2014, "Reachability in MDPs: refining convergence of value iteration" (1).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bellgrad.core.errors import UsageError
from bellgrad.core.machine_code import cached_njit
from bellgrad.mdp.average import DAMPING
from bellgrad.mdp.components import Mask, edges, end_components, next_towards
from bellgrad.mdp.convergence import warn_unless_converged
from bellgrad.mdp.model import FiniteMDP, Floats, Ints
from bellgrad.mdp.policies import TIE_TOLERANCE, greedy_policy, q_from_value
from bellgrad.mdp.solution import Solution


def stochastic_shortest_path(
    mdp: FiniteMDP,
    *,
    tolerance: float = 1e-6,
    max_iterations: int = 1_000_000,
    on_sweep: Callable[[int, Floats], None] | None = None,
) -> Solution:
    """The greatest total reward until the end of the episode, by value iteration from zero.

    Stopping rule and guarantee: let `e = max |T v - v|`, and let `w(s)` be the greatest expected number of
    steps to the end among all policies that only take actions within `d` of the best. If `e * max w <= d`,
    then `T(v + e w) <= v + e w` and `T(v - e w) >= v - e w`, so that V* is between the two: `|V* - v| <= e *
    max w`. `w` is bounded by value iteration too: if one more sweep adds at most 0.1 steps, `w / 0.9` is an
    upper bound. `d` is `tolerance`, or less if loops cost less than that.

    Args:
        mdp: the problem.
        tolerance: greatest error of any state's value, above 0.
        max_iterations: most sweeps.
        on_sweep: called with the number of the sweep and the value `[S]`.

    Returns:
        The solution; `error_bound` is infinite if `max_iterations` was reached. In `policy`, actions whose
        values differ by at most the change of the last sweep have equal probabilities; it ends the episode
        with probability one.

    Raises:
        UsageError: there is no finite and unique answer; see the top of this file.
    """
    collapsed = _collapse(mdp)
    _check_every_state_can_end(collapsed)
    _check_loops_cost(collapsed)
    value, error_bound, iteration = np.zeros(mdp.num_states), math.inf, 0
    slack, target = tolerance, tolerance
    while True:
        best = collapsed.backup(value, mdp.expected_reward, collapsed.pairs)
        residual = float(np.abs(best - value).max())
        if residual <= target:
            steps = _longest_expected_steps(collapsed, value, best, slack, max_iterations)
            if math.isinf(steps):
                slack /= 10
                target = min(target, slack)
            elif residual * steps <= slack:
                error_bound = residual * steps
                break
            else:
                target = slack / steps
        if iteration == max_iterations:
            break
        value, iteration = best, iteration + 1
        if on_sweep is not None:
            on_sweep(iteration, value)
    q = q_from_value(mdp, value, 1.0)
    solution = Solution(
        value, q, greedy_policy(q, residual), "stochastic_shortest_path", "total", 1.0, iteration,
        residual, error_bound, error_bound <= tolerance, note=_note(collapsed),
    )  # fmt: skip
    return warn_unless_converged(solution, tolerance)


@dataclass(frozen=True)
class _CollapsedMDP:
    """An MDP in which the states of a loop that costs nothing count as one state.

    Attributes:
        mdp: the original MDP.
        group: `[S]` the state that represents each state; the state itself if it is in no such loop.
        pairs: `[S, A]` the legal pairs that are not part of such a loop.
    """

    mdp: FiniteMDP
    group: Ints
    pairs: Mask

    def backup(self, value: Floats, reward: Floats, pairs: Mask) -> Floats:
        """`max r + E[value]` over those of `pairs [S, A]` that belong to a state's group, 0 if there are
        none: `[S]`."""
        mdp = self.mdp
        return _best_of_group(mdp.offset, mdp.continuing, mdp.next_state, reward, pairs, self.group, value)

    @property
    def closed(self) -> Mask:
        """`[S]` whether the state is in a loop without an exit."""
        open_ = np.zeros(len(self.group), dtype=bool)
        open_[self.group[self.pairs.any(axis=1)]] = True
        return ~open_[self.group]


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


def _collapse(mdp: FiniteMDP) -> _CollapsedMDP:
    component, free = end_components(mdp, mdp.legal & (mdp.expected_reward == 0))
    looping = np.flatnonzero(component >= 0)
    first = np.full(mdp.num_states, mdp.num_states)
    np.minimum.at(first, component[looping], looping)
    group = np.arange(mdp.num_states)
    group[looping] = first[component[looping]]
    return _CollapsedMDP(mdp, group, mdp.legal & ~free)


def _check_every_state_can_end(collapsed: _CollapsedMDP) -> None:
    mdp = collapsed.mdp
    pair, target = edges(mdp)
    endless = (
        next_towards((mdp.ending > 0).any(axis=1) | collapsed.closed, pair // mdp.num_actions, target) < 0
    )
    if endless.any():
        raise UsageError(
            f"no path leads from {mdp.state_name(endless.argmax())} to the end of an episode, so its total"
            " reward is unbounded; use a discount below 1 or a horizon"
        )


def _check_loops_cost(collapsed: _CollapsedMDP) -> None:
    """Bound the best average reward of each component that has a positive reward, until all are known to be
    negative, or one is known not to be."""
    mdp, reward = collapsed.mdp, collapsed.mdp.expected_reward
    paid = collapsed.pairs & (mdp.ending == 0) & (reward > 0)
    if not paid.any():
        return
    component, stays = end_components(mdp, collapsed.pairs, collapsed.group)
    doubtful = np.isin(component, component[(stays & paid).any(axis=1)])
    member, member_component = np.flatnonzero(doubtful), component[doubtful]
    stays &= doubtful[:, None]
    value, rounding = np.zeros(mdp.num_states), TIE_TOLERANCE * np.abs(reward).max()
    while member.size:
        change = collapsed.backup(value, reward, stays) - value
        low, high = np.full(mdp.num_states, np.inf), np.full(mdp.num_states, -np.inf)
        np.minimum.at(low, member_component, change[member])
        np.maximum.at(high, member_component, change[member])
        if (high < 0).all():
            return
        pays = low[member_component] >= -rounding
        if pays.any():
            raise UsageError(
                f"a policy can stay forever, from {mdp.state_name(member[pays.argmax()])}, in a loop that"
                " pays or that costs nothing on average, so the total reward is unbounded or has no limit;"
                " use a discount below 1 or a horizon"
            )
        value += DAMPING * change


def _longest_expected_steps(
    collapsed: _CollapsedMDP, value: Floats, best: Floats, slack: float, max_sweeps: int
) -> float:
    """An upper bound on the expected number of steps to the end with actions within `slack` of the best;
    infinite if none is known."""
    mdp = collapsed.mdp
    pairs = collapsed.pairs & (q_from_value(mdp, value, 1.0) >= best[:, None] - slack)
    if (end_components(mdp, pairs, collapsed.group)[0] >= 0).any():
        return math.inf
    steps, one_each = np.zeros(mdp.num_states), np.ones(pairs.shape)
    for _ in range(max_sweeps):
        more = collapsed.backup(steps, one_each, pairs)
        added = float((more - steps).max())
        if added <= 0.1:
            return float(steps.max()) / (1 - added)
        steps = more
    return math.inf


def _note(collapsed: _CollapsedMDP) -> str:
    free = (collapsed.pairs != collapsed.mdp.legal).any(axis=1)
    if not free.any():
        return ""
    closed = "; a loop without an exit has value 0" if collapsed.closed.any() else ""
    state = collapsed.mdp.state_name(free.argmax())
    return (
        f"loops that cost nothing, as from {state}: the smallest solution, the best of the policies that"
        f" surely end{closed}"
    )
