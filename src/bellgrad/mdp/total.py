"""The total reward of episodes that end, without a discount: stochastic shortest path.

    v(s) = max_a r(s, a) + E[v(s')],   v = 0 after the end

Without a discount that equation has one solution only if not ending is never worth while. So the graph of the
MDP and its rewards are looked at first:

1. Loops that cost nothing. Every set of states within which a policy can stay for ever on pairs of expected
   reward 0 (an end component of those pairs) counts as one state. All its states have the same value: the
   best of the ways out, or 0 where there is none. This gives the smallest solution, the value of the best
   policy among those that surely end, as sweeps from below would.
2. Every state must reach an end: an outcome that terminates, or a loop without a way out that costs nothing.
3. Every other loop must cost: in each end component that is left, the best average reward must be below zero.
   That is plain where no reward in it is above zero; otherwise it is bounded from both sides by relative
   value iteration within the component.

Where 2 or 3 fails there is no finite answer, or no unique one, and a `UsageError` names a state.

Source: Bertsekas and Tsitsiklis 1991, "An analysis of stochastic shortest path problems" (3, and value
iteration); Bertsekas and Yu 2016, "Stochastic shortest path problems under weak conditions" (the smallest
solution); Haddad and Monmege 2014, "Reachability in MDPs: refining convergence of value iteration" (1).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np

from bellgrad.core.errors import UsageError
from bellgrad.mdp.average import STEP
from bellgrad.mdp.components import Mask, edges, end_components, way_to
from bellgrad.mdp.convergence import warn_unless_converged
from bellgrad.mdp.model import FiniteMDP, Floats, Ints
from bellgrad.mdp.policies import TIE, greedy_policy, q_from_value
from bellgrad.mdp.solution import Solution


def stochastic_shortest_path(
    mdp: FiniteMDP,
    *,
    tolerance: float = 1e-6,
    max_iterations: int = 1_000_000,
    on_sweep: Callable[[int, Floats], None] | None = None,
) -> Solution:
    """The greatest total reward until the end, by value iteration from zero.

    Stops, and guarantees, as follows. Let `e = max |T v - v|` and let `w(s)` be the greatest expected
    number of steps to the end among all policies that only take actions within `d` of the best. Then `T(v
    + e w) <= v + e w` and `T(v - e w) >= v - e w` if `e * max w <= d`, so that V* lies between the two:
    `|V* - v| <= e * max w`. `w` is bounded by value iteration as well: where one more sweep adds at most a
    tenth of a step, `w / 0.9` is an upper bound. `d` is `tolerance`, or less where loops cost less than
    that.

    Args:
        mdp: the problem.
        tolerance: greatest error of any state's value, above 0.
        max_iterations: sweeps.
        on_sweep: called with the number of the sweep and the value `[S]`.

    Returns:
        The solution; `error_bound` is infinite where `max_iterations` came first. `policy` shares its
        probabilities among actions whose values differ by no more than the last sweep's change, and ends with
        probability one.

    Raises:
        UsageError: there is no finite and unique answer; see above.
    """
    loopless = _collapse(mdp)
    _refuse_states_without_an_end(loopless)
    _refuse_loops_that_pay(loopless)
    value, error_bound, iteration = np.zeros(mdp.num_states), math.inf, 0
    near, target = tolerance, tolerance
    while True:
        best = loopless.backup(value, mdp.expected_reward, loopless.pairs)
        residual = float(np.abs(best - value).max())
        if residual <= target:
            steps = _longest_way(loopless, value, best, near, max_iterations)
            if math.isinf(steps):
                near /= 10
                target = min(target, near)
            elif residual * steps <= near:
                error_bound = residual * steps
                break
            else:
                target = near / steps
        if iteration == max_iterations:
            break
        value, iteration = best, iteration + 1
        if on_sweep is not None:
            on_sweep(iteration, value)
    q = q_from_value(mdp, value, 1.0)
    solution = Solution(
        value, q, greedy_policy(q, residual), "stochastic_shortest_path", "total", 1.0, iteration,
        residual, error_bound, error_bound <= tolerance, note=_note(loopless),
    )  # fmt: skip
    return warn_unless_converged(solution, tolerance)


@dataclass(frozen=True)
class _Loopless:
    """An MDP in which the states of a loop that costs nothing count as one.

    Attributes:
        mdp: as it was.
        group: `[S]` a state that stands for each; itself where it is in no such loop.
        pairs: `[S, A]` the legal pairs that are not part of such a loop.
    """

    mdp: FiniteMDP
    group: Ints
    pairs: Mask

    def backup(self, value: Floats, reward: Floats, pairs: Mask) -> Floats:
        """`max r + E[value]` over the pairs of `pairs [S, A]` that a state's group has, 0 where it has none:
        `[S]`."""
        mdp = self.mdp
        return _best_of_group(mdp.offset, mdp.continuing, mdp.next_state, reward, pairs, self.group, value)

    @property
    def closed(self) -> Mask:
        """`[S]` whether the state is in a loop that has no way out."""
        open_ = np.zeros(len(self.group), dtype=bool)
        open_[self.group[self.pairs.any(axis=1)]] = True
        return ~open_[self.group]


@numba.njit(cache=True)
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


def _collapse(mdp: FiniteMDP) -> _Loopless:
    component, free = end_components(mdp, mdp.legal & (mdp.expected_reward == 0))
    looping = np.flatnonzero(component >= 0)
    first = np.full(mdp.num_states, mdp.num_states)
    np.minimum.at(first, component[looping], looping)
    group = np.arange(mdp.num_states)
    group[looping] = first[component[looping]]
    return _Loopless(mdp, group, mdp.legal & ~free)


def _refuse_states_without_an_end(loopless: _Loopless) -> None:
    mdp = loopless.mdp
    pair, target = edges(mdp)
    lost = way_to((mdp.ending > 0).any(axis=1) | loopless.closed, pair // mdp.num_actions, target) < 0
    if lost.any():
        raise UsageError(
            f"no way leads from {mdp.state_name(lost.argmax())} to the end of an episode, so its total reward"
            " has no bound; take a discount below 1 or a horizon"
        )


def _refuse_loops_that_pay(loopless: _Loopless) -> None:
    """Bound the best average reward of each component that has a reward above zero, until all are negative or
    one is not."""
    mdp, reward = loopless.mdp, loopless.mdp.expected_reward
    paid = loopless.pairs & (mdp.ending == 0) & (reward > 0)
    if not paid.any():
        return
    component, stays = end_components(mdp, loopless.pairs, loopless.group)
    doubtful = np.isin(component, component[(stays & paid).any(axis=1)])
    member, of = np.flatnonzero(doubtful), component[doubtful]
    stays &= doubtful[:, None]
    value, rounding = np.zeros(mdp.num_states), TIE * np.abs(reward).max()
    while member.size:
        change = loopless.backup(value, reward, stays) - value
        low, high = np.full(mdp.num_states, np.inf), np.full(mdp.num_states, -np.inf)
        np.minimum.at(low, of, change[member])
        np.maximum.at(high, of, change[member])
        if (high < 0).all():
            return
        pays = low[of] >= -rounding
        if pays.any():
            raise UsageError(
                f"a policy can go on for ever from {mdp.state_name(member[pays.argmax()])} in a loop that"
                " pays, or that costs nothing on average, so the total reward has no bound or no limit; take"
                " a discount below 1 or a horizon"
            )
        value += STEP * change


def _longest_way(loopless: _Loopless, value: Floats, best: Floats, near: float, max_sweeps: int) -> float:
    """At least the greatest expected number of steps to the end with actions within `near` of the best;
    infinite if unknown."""
    mdp = loopless.mdp
    pairs = loopless.pairs & (q_from_value(mdp, value, 1.0) >= best[:, None] - near)
    if (end_components(mdp, pairs, loopless.group)[0] >= 0).any():
        return math.inf
    steps, one_each = np.zeros(mdp.num_states), np.ones(pairs.shape)
    for _ in range(max_sweeps):
        more = loopless.backup(steps, one_each, pairs)
        added = float((more - steps).max())
        if added <= 0.1:
            return float(steps.max()) / (1 - added)
        steps = more
    return math.inf


def _note(loopless: _Loopless) -> str:
    free = (loopless.pairs != loopless.mdp.legal).any(axis=1)
    if not free.any():
        return ""
    closed = "; a loop without a way out is worth 0" if loopless.closed.any() else ""
    state = loopless.mdp.state_name(free.argmax())
    return (
        f"loops that cost nothing, as from {state}: the smallest solution, the best of the policies that"
        f" surely end{closed}"
    )
