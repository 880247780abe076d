"""The total reward of episodes that end, without a discount: stochastic shortest paths.

    v(s) = max_a r(s, a) + E[v(s')],   v = 0 after the end

Without a discount this equation has a unique solution only if staying forever is never an advantage. So the
graph of the MDP and its rewards are checked first:

1. Loops that cost nothing. Every set of states in which a policy can stay forever with pairs of expected
   reward 0 (an end component of those pairs) counts as one state. All its states have the same value: that of
   the best exit, or 0 if there is none. This gives the smallest solution, the value of the best policy among
   those that surely end. Sweeps from below give the same. An expected reward is 0 if it is so but for the
   rounding of `sum p |r|`.
2. Every state must reach an end: an outcome that terminates, or a loop without an exit that costs nothing.
3. Every other loop must cost something: in each remaining end component, the best average reward must be
   below zero. This is clear if no reward in it is above zero; otherwise relative value iteration within the
   component gives bounds from both sides. If these do not decide soon, policy iteration does.

If 2 or 3 fails, there is no finite or no unique answer, and a `UsageError` names a state. What happens only
in states that the start cannot reach is no reason to refuse: such states are then left out.

Source: Bertsekas and Tsitsiklis 1991, "An analysis of stochastic shortest path problems" (3, and value
iteration); Bertsekas and Yu 2016, "Stochastic shortest path problems under weak conditions" (the smallest
solution); Haddad and Monmege 2014, "Reachability in MDPs: refining convergence of value iteration" (1).
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from bellgrad.core.errors import UsageError
from bellgrad.mdp.chains import LeavingEquations
from bellgrad.mdp.checks import check_stop, check_tolerance
from bellgrad.mdp.components import (
    Mask,
    closed_classes,
    end_components,
    leave_out,
    next_towards,
    reachable_states,
    reached_from,
    without_states,
)
from bellgrad.mdp.convergence import reward_rounding, reward_sizes, sum_rounding, warn_unless_converged
from bellgrad.mdp.model import FiniteMDP, Floats, Ints, check_mdp
from bellgrad.mdp.policies import EPSILON, as_policy, induced_chain, q_from_value
from bellgrad.mdp.proper import CollapsedMDP, Stopped
from bellgrad.mdp.solution import Solution

DAMPING = 0.75  # as in relative value iteration, against periodic loops
DIRECT_WORK = 2e10  # multiplications of a factorization that take some seconds
SMALL_ERROR = 1e-6  # relative to the greatest error: smaller ones count as this
SETTLED = 8  # times the rounding of a step: a change of a value that is no more is rounding
MAX_SLACKS = 30
MAX_SWEEPS = 1_000_000
LOOP_SWEEPS = 1_000  # sweeps within loops, after which policy iteration decides whether they pay


def stochastic_shortest_path(
    mdp: FiniteMDP,
    *,
    tolerance: float = 1e-6,
    max_iterations: int = MAX_SWEEPS,
    on_sweep: Callable[[int, Floats], None] | None = None,
) -> Solution:
    """The greatest total reward until the end of the episode, by value iteration from zero; after 100 sweeps,
    and a tenth of the number of states, by policy iteration from then on.

    Stopping rule and guarantee: let `e = max |T v - v|`, and let `w(s)` be the greatest expected number of
    steps to the end among all policies that only take actions within `d` of the best. If `e * max w <= d`,
    then `T(v + e w) <= v + e w` and `T(v - e w) >= v - e w`, so that V* is between the two: `|V* - v| <= e *
    max w`. `w` is bounded in the same two ways: if one more sweep adds at most 0.1 steps, `w / 0.9` is an
    upper bound. `d` is `tolerance`, or less if loops cost less than that. Policy iteration evaluates each
    policy by one sparse solve and ends when no action is better by more than rounding, which `e` contains.

    Args:
        mdp: the problem.
        tolerance: greatest error of any state's value, above 0.
        max_iterations: most sweeps and policies.
        on_sweep: called with the number of the sweep or policy and the value `[S]`.

    Returns:
        The solution; `error_bound` is infinite if `max_iterations` was reached. In `policy`, actions whose
        values differ by at most the change of the last sweep have equal probabilities; it ends the episode
        with probability one. If the whole problem has no solution, but the part of it that the start can
        reach has one, the other states have the value NaN, and `note` says so.

    Raises:
        UsageError: an argument is out of range, or there is no finite and unique answer; see the top of this
            file.
    """
    mdp, (tolerance, max_iterations) = check_mdp(mdp), check_stop(tolerance, max_iterations)
    unreached = None
    try:
        solution = _solved(mdp, tolerance, max_iterations, on_sweep)
    except UsageError:
        unreached = ~reachable_states(mdp)
        if not unreached.any():
            raise
    if unreached is not None:
        part = without_states(mdp, unreached, ending=True)
        solution = leave_out(mdp, _solved(part, tolerance, max_iterations, on_sweep), unreached)
    return warn_unless_converged(solution, tolerance)


def evaluate_until_the_end(mdp: FiniteMDP, policy: ArrayLike, *, tolerance: float = 1e-6) -> Solution:
    """The total reward of a policy until the end of the episode, by a sparse linear solve.

    A loop that the policy never leaves, and in which every step has the expected reward 0, counts as an end.
    The error is at most `e * max w`, with the greatest residual `e`, rounding included, and the policy's
    expected number of steps `w`.

    Args:
        mdp: the problem.
        policy: `[S]` integers or `[S, A]` probabilities.
        tolerance: greatest error of any state's value; only for `converged`.

    Returns:
        The solution; the value is NaN in states that are never visited and from which the policy may go on
        forever, not for nothing.

    Raises:
        UsageError: the policy does not fit, or it may go on forever from a state that it visits; names it.
    """
    tolerance, chosen = check_tolerance(tolerance), as_policy(mdp, policy)
    chain, reward = induced_chain(mdp, chosen)
    ending = (chosen * mdp.ending).sum(axis=1)
    source, target = chain.nonzero()
    endless = next_towards(ending > 0, source, target) < 0
    paid = ((chosen > 0) & (np.abs(mdp.expected_reward) > reward_rounding(mdp))).any(axis=1)
    closed, unbounded = np.zeros_like(endless), np.zeros_like(endless)
    for inside in closed_classes(chain):
        if endless[inside[0]]:
            (unbounded if paid[inside].any() else closed)[inside] = True
    lost = next_towards(unbounded, source, target) >= 0
    refused = lost & reached_from(mdp.initial > 0, source, target)
    if refused.any():
        raise UsageError(
            f"from {mdp.state_name(refused.argmax())} the policy may never end the episode, at steps that are"
            " not free, so its total reward is unbounded or has no limit; use a discount below 1 or a horizon"
        )
    value, steps = np.zeros(mdp.num_states), np.zeros(mdp.num_states)
    inner = np.flatnonzero(~closed & ~lost)
    if len(inner):
        rows = chain[inner]
        equations = LeavingEquations(rows[:, inner], ending[inner] + rows @ closed.astype(float))
        value[inner] = equations.solve(reward[inner])
        steps[inner] = equations.solve(np.ones(len(inner)))
    collapsed = CollapsedMDP(mdp, np.arange(mdp.num_states), mdp.legal)
    gain, noise = collapsed.differences(value, mdp.expected_reward, reward_sizes(mdp))
    change = np.multiply(chosen, gain, where=chosen > 0, out=np.zeros(gain.shape)).sum(axis=1)
    rounding = (chosen * noise).sum(axis=1)
    residual = float(np.abs(change[inner]).max(initial=0.0))
    bound = float((np.abs(change) + rounding)[inner].max(initial=0.0) * steps.max())
    q = q_from_value(mdp, value, 1.0)
    q[(mdp.transition @ lost.astype(float) > 0).reshape(q.shape) & mdp.legal] = np.nan
    value[lost] = np.nan
    is_rounding = residual <= SETTLED * float((rounding + EPSILON * np.abs(value)).max())
    solution = Solution(
        value, q, chosen, "policy evaluation (direct)", "total", 1.0, 1, residual, bound,
        bound <= tolerance or is_rounding,
        note="a loop that is never left and costs nothing has value 0" if closed.any() else "",
    )  # fmt: skip
    return warn_unless_converged(solution, tolerance)


def _solved(
    mdp: FiniteMDP, tolerance: float, max_iterations: int, on_sweep: Callable[[int, Floats], None] | None
) -> Solution:
    collapsed = CollapsedMDP.of(mdp)
    _check_every_state_can_end(collapsed)
    decided = _check_loops_cost(collapsed)
    value, error_bound, iteration = np.zeros(mdp.num_states), math.inf, 0
    slack, target = tolerance, tolerance
    while True:
        best = collapsed.backup(value, mdp.expected_reward, collapsed.pairs)
        residual = float(np.abs(best - value).max())
        if residual <= target and decided:
            near = collapsed.pairs & (q_from_value(mdp, value, 1.0) >= best[:, None] - slack)
            steps = _greatest_sum(collapsed, near, np.ones(mdp.num_states))
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
        if not decided or _solves_from(collapsed, iteration):
            return _by_policies(collapsed, value, tolerance, iteration, max_iterations, on_sweep, decided)
        value, iteration = best, iteration + 1
        if on_sweep is not None:
            on_sweep(iteration, value)
    q = q_from_value(mdp, value, 1.0)
    size = reward_sizes(mdp) + (mdp.transition @ np.abs(value)).reshape(q.shape)
    tie = residual + 2 * (sum_rounding(mdp) * size).max(axis=1)
    policy = collapsed.policy(q, tie, collapsed.best_of_group(q, collapsed.pairs)[1])
    return Solution(
        value, q, policy, "stochastic_shortest_path", "total", 1.0, iteration,
        residual, error_bound, error_bound <= tolerance, note=_note(collapsed),
    )  # fmt: skip


def _solves_from(collapsed: CollapsedMDP, sweeps: int) -> bool:
    """Whether to solve linear equations after so many sweeps: these cost as much as many sweeps, and too much
    if the equations are large and states lead to states all over the MDP."""
    states = collapsed.mdp.num_states
    return sweeps >= 100 + states // 10 and states * collapsed.bandwidth**2 <= DIRECT_WORK


def _by_policies(
    collapsed: CollapsedMDP,
    value: Floats,
    tolerance: float,
    sweeps: int,
    max_iterations: int,
    on_sweep: Callable[[int, Floats], None] | None,
    loops_cost: bool,
) -> Solution:
    """Policy iteration from the greedy policy of `value [S]`, made proper."""
    mdp, reward, size = collapsed.mdp, collapsed.mdp.expected_reward, reward_sizes(collapsed.mdp)
    greedy = collapsed.best_of_group(q_from_value(mdp, value, 1.0), collapsed.pairs)[1]
    stopped = collapsed.best_proper(
        reward, size, collapsed.pairs, collapsed.proper_exits(greedy),
        max_policies=max_iterations - sweeps,
        on_policy=on_sweep and (lambda number, value: on_sweep(sweeps + number, value)),
    )  # fmt: skip
    if stopped.pays.any():
        _refuse_loop(collapsed, int(collapsed.heads[stopped.pays.argmax()]))
    if not loops_cost and stopped.is_best:
        _check_best_loops_cost(collapsed, stopped)
    gain, noise = stopped.differences
    residual, error_bound, is_rounding = accuracy(collapsed, stopped, tolerance)
    iteration = sweeps + stopped.policies
    note = f"policy iteration after {sweeps} sweeps, which did not soon give the value"
    policy = collapsed.policy(gain, 2 * noise.max(axis=1), stopped.exits)
    return Solution(
        stopped.value, q_from_value(mdp, stopped.value, 1.0), policy,
        "stochastic_shortest_path", "total", 1.0, iteration, residual, error_bound,
        error_bound <= tolerance or is_rounding, note="; ".join(filter(None, (note, _note(collapsed)))),
    )  # fmt: skip


def accuracy(collapsed: CollapsedMDP, stopped: Stopped, tolerance: float) -> tuple[float, float, bool]:
    """The residual of the result of policy iteration, a bound on the error of any state's value, and whether
    this is finite and only rounding."""
    gain, noise = stopped.differences
    best, where = collapsed.best_of_group(gain, collapsed.pairs)
    rounding = np.maximum(noise.ravel()[where], noise.ravel()[stopped.exits])
    residual = float(np.abs(best).max(initial=0.0))
    if not stopped.is_best:
        return residual, math.inf, False
    error = np.zeros(collapsed.mdp.num_states)
    error[collapsed.heads] = np.abs(best) + rounding
    error_bound = _error_bound(collapsed, gain, error[collapsed.group], tolerance)
    rounding += EPSILON * np.abs(stopped.value[collapsed.heads])  # of the value itself
    is_rounding = bool((np.abs(best) <= SETTLED * rounding).all())
    return residual, error_bound, is_rounding and error_bound < math.inf


def _error_bound(collapsed: CollapsedMDP, gain: Floats, error: Floats, tolerance: float) -> float:
    """The bound of `stochastic_shortest_path`, for the first `d` for which it holds; infinite if none is
    found. In place of `e w(s)` stands the greatest expected sum of `e(s)` over the steps to the end.

    Args:
        collapsed: the problem.
        gain: `[S, A]` `d(s, a)`.
        error: `[S]` the greatest change `e(s)` of each value, rounding included.
        tolerance: the first `d`.
    """
    greatest, slack = float(error.max()), tolerance
    if greatest == 0:
        greatest = np.finfo(float).tiny
    error = np.maximum(error, SMALL_ERROR * greatest)
    for _ in range(MAX_SLACKS):
        near = collapsed.pairs & (gain >= -error[:, None] - slack)
        bound = _greatest_sum(collapsed, near, error)
        if bound <= slack:
            return bound
        if math.isinf(bound) and slack <= greatest:
            break
        slack = max(slack / 10, greatest) if math.isinf(bound) else 2 * bound
    return math.inf


def _check_every_state_can_end(collapsed: CollapsedMDP) -> None:
    mdp = collapsed.mdp
    pair, target = collapsed.edges
    goal = (mdp.ending > 0).any(axis=1) | collapsed.closed
    ends = np.zeros(mdp.num_states, dtype=bool)
    ends[collapsed.group[goal]] = True
    endless = (next_towards(ends, collapsed.group[pair // mdp.num_actions], target) < 0)[collapsed.group]
    if endless.any():
        raise UsageError(
            f"no path leads from {mdp.state_name(endless.argmax())} to the end of an episode, so its total"
            " reward is unbounded, minus infinity if every loop there costs something; use a discount below"
            " 1 or a horizon"
        )


def _check_loops_cost(collapsed: CollapsedMDP) -> bool:
    """Bound the best average reward of each component that has a positive reward, until all are known to be
    negative, or one is known not to be. Returns whether that was decided within `LOOP_SWEEPS` sweeps."""
    mdp, reward = collapsed.mdp, collapsed.mdp.expected_reward
    relative, size = sum_rounding(mdp), reward_sizes(mdp)
    paid = collapsed.pairs & (mdp.ending == 0) & (reward > relative * size)
    if not paid.any():
        return True
    component, stays = end_components(mdp, collapsed.pairs, collapsed.group)
    doubtful = np.isin(component, component[(stays & paid).any(axis=1)]) & (component >= 0)
    stays &= doubtful[:, None]
    member = np.flatnonzero(doubtful)
    if not member.size:
        return True
    _, first, part = np.unique(component[member], return_index=True, return_inverse=True)
    parts = len(first)

    def greatest(values: Floats) -> Floats:
        return _per_part(np.maximum, values[member], part, parts)

    unit = greatest(np.where(stays, relative, 0.0).max(axis=1))
    greatest_reward = greatest(np.where(stays, size, 0.0).max(axis=1))
    value = np.zeros(mdp.num_states)
    for _ in range(LOOP_SWEEPS):
        change = collapsed.backup(value, reward, stays) - value
        high, low = greatest(change), -greatest(-change)
        noise = unit * (greatest_reward + 2 * greatest(np.abs(value)))
        pays = low >= -2 * noise
        if pays.any():
            _refuse_loop(collapsed, int(member[pays[part].argmax()]))
        if (high < -noise).all():
            return True
        value += DAMPING * change
        value[member] -= value[member[first]][part]
    return False


def _per_part(combine: np.ufunc, values: Floats, part: Ints, parts: int) -> Floats:
    combined = np.full(parts, -np.inf)
    combine.at(combined, part, values)
    return combined


def _refuse_loop(collapsed: CollapsedMDP, state: int) -> None:
    raise UsageError(
        f"a policy can stay forever, from {collapsed.mdp.state_name(state)}, in a loop that pays or that"
        " costs nothing on average, so the total reward is unbounded or has no limit; use a discount below 1"
        " or a horizon"
    )


def _check_best_loops_cost(collapsed: CollapsedMDP, stopped: Stopped) -> None:
    """Refuse a loop of pairs that all are best but for rounding: it costs nothing on average."""
    mdp, (gain, noise) = collapsed.mdp, stopped.differences
    rounding = 2 * noise + SETTLED * EPSILON * np.abs(stopped.value).max()
    component, stays = end_components(mdp, collapsed.pairs & (gain >= -rounding), collapsed.group)
    if (component < 0).all():
        return
    candidates = stays | (collapsed.pairs & (component < 0)[:, None])
    _, exits = collapsed.best_of_group(gain, candidates)
    pays = collapsed.pays(exits, mdp.expected_reward, reward_sizes(mdp))
    if pays.any():
        _refuse_loop(collapsed, int(collapsed.heads[pays.argmax()]))


def _greatest_sum(collapsed: CollapsedMDP, near: Mask, cost: Floats) -> float:
    """An upper bound on the expected sum of `cost [S]`, above 0, over all steps to the end, with any of the
    pairs `near [S, A]`; infinite if a policy of them may never end."""
    mdp = collapsed.mdp
    if (end_components(mdp, near, collapsed.group)[0] >= 0).any():
        return math.inf
    costs, total = np.broadcast_to(cost[:, None], near.shape).copy(), np.zeros(mdp.num_states)
    for sweep in range(MAX_SWEEPS):
        if _solves_from(collapsed, sweep):
            break
        more = collapsed.backup(total, costs, near)
        added = float(((more - total) / cost).max())
        if added <= 0.1:
            return float(total.max()) / (1 - added)
        total = more
    some = collapsed.best_of_group(np.zeros(near.shape), near)[1]
    stopped = collapsed.best_proper(costs, costs, near, some)
    gain, noise = stopped.differences
    added = float((np.where(near, gain + noise, -np.inf) / costs).max())
    return float(stopped.value.max()) / (1 - added) if added <= 0.1 else math.inf


def _note(collapsed: CollapsedMDP) -> str:
    free = (collapsed.pairs != collapsed.mdp.legal).any(axis=1)
    if not free.any():
        return ""
    closed = "; a loop without an exit has value 0" if collapsed.closed.any() else ""
    state = collapsed.mdp.state_name(free.argmax())
    return (
        f"loops that cost nothing, as from {state}: the smallest solution, the best of the policies that"
        f" surely end{closed}"
    )
