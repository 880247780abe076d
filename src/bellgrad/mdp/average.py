"""The average reward per step of tasks that go on forever.

    g(s) = max_a E[g(s')],   g(s) + h(s) = max_a r(s, a) + E[h(s')]

`g` is the gain, the average reward per step in the long run. `h` is the bias, the additional reward of a
start in `s`, up to a constant. The second maximum is over the actions that attain the first.

If there is exactly one set of states in which a policy can stay forever (one maximal end component), every
policy sooner or later leaves all other states, and within the set every state can be reached from every
other. So the best gain is the same from every start (the MDP is weakly communicating), the first equation
says nothing, and `h(0) = 0`. Both solvers then give the same guarantee, which holds for any `h`: the best
gain is between `min (T h - h)` and `max (T h - h)`, and the gain of a greedy policy is at least the former.
The gain is the middle of this interval and `error_bound` half its length, and its rounding. There is no
error bound for `h`.

With several such sets the gain may depend on the start (multichain). Each set is then solved on its own,
which gives its gain and a bound. To stay in a set for its gain, or to go on to another, is a stochastic
shortest path problem, in which every set counts as one state: its values are the best gains, and their error
is at most the greatest of the sets plus that of this problem. `h` is 0 in the first state of each set.

An outcome that ends an episode is refused, unless the start cannot reach it: states that the start cannot
reach are then left out.

Source: Puterman 1994, chapters 8 and 9: value iteration 8.5.1, bounds theorem 8.5.5, transformation 8.5.4,
policy iteration 8.6.1, multichain equations 9.1.1; de Alfaro 1997, "Formal verification of probabilistic
systems", section 5.4, and Ashok et al. 2017, "Value iteration for long-run average reward in Markov decision
processes" (one end component after the other).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse import linalg

from bellgrad.core.errors import UsageError
from bellgrad.mdp import kernels
from bellgrad.mdp.checks import check_stop
from bellgrad.mdp.components import (
    Mask,
    closed_classes,
    edges,
    end_components,
    leave_out,
    next_towards,
    reachable_states,
    without_states,
)
from bellgrad.mdp.convergence import reward_rounding, reward_sizes, sum_rounding, warn_unless_converged
from bellgrad.mdp.kernels import limited_threads
from bellgrad.mdp.model import FiniteMDP, Floats, Ints, check_mdp
from bellgrad.mdp.policies import as_policy, best_actions, equal_chances, induced_chain, q_from_value
from bellgrad.mdp.proper import CollapsedMDP
from bellgrad.mdp.solution import Solution
from bellgrad.mdp.total import DAMPING, accuracy

OnSweep = Callable[[int, Floats], None]


def relative_value_iteration(
    mdp: FiniteMDP,
    *,
    tolerance: float = 1e-6,
    max_iterations: int = 1_000_000,
    on_sweep: OnSweep | None = None,
) -> Solution:
    """The best gain by value iteration: `h <- h + 3/4 (T h - h)`, minus its first entry. Stops when
    `error_bound` is within the tolerance, or half of it is rounding.

    The factor is as if every step were a wait with probability 1/4: so periodic chains converge too. With
    several sets of states to stay in, the sweeps are done in one after the other.

    Args:
        mdp: the problem.
        tolerance: greatest error of the gain, above 0.
        max_iterations: most sweeps, in each set of states to stay in.
        on_sweep: called with the number of the sweep and the bias `[S]`.

    Returns:
        `value` and `bias` are the same `[S]`; `q` is `r(s, a) - gains(s) + E[h(s')]`. If an episode can end,
        but not from where the start can reach, the other states have the value NaN, and `note` says so.

    Raises:
        UsageError: an argument is out of range, or an episode can end; it names the state.
    """
    tolerance, max_iterations = check_stop(tolerance, max_iterations)

    def by_sweeps(part: FiniteMDP, on_sweep: OnSweep | None) -> tuple[Floats, int]:
        arrays = (part.offset, part.continuing, part.next_state, part.expected_reward, 1.0)
        rounding, reward_size = _rounding(part)
        bias, after = np.zeros(part.num_states), np.empty(part.num_states)
        action, iteration = np.zeros(part.num_states, np.int32), 0
        with limited_threads(part):
            while True:
                low, high, size = kernels.sweep(*arrays, bias, action, True, after)
                noise = rounding * (reward_size + 2 * size + max(abs(low), abs(high)))
                if (high - low) / 2 + noise <= max(tolerance, 2 * noise) or iteration == max_iterations:
                    return bias, iteration
                bias = bias + DAMPING * (after - bias)
                bias -= bias[0]
                iteration += 1
                if on_sweep is not None:
                    on_sweep(iteration, bias)

    return _solve(mdp, "relative_value_iteration", by_sweeps, tolerance, on_sweep)


def average_policy_iteration(
    mdp: FiniteMDP, *, tolerance: float = 1e-6, max_iterations: int = 10_000
) -> Solution:
    """The best gain by Howard's policy iteration: gain and bias of a policy by one sparse solve, then the
    greedy actions.

    If the chain of a policy has several closed classes, the policy is changed to lead to the one with the
    greatest gain. An action is kept if no other is better by more than rounding. So the gain, then the bias
    rises with every policy, and no policy occurs twice: the result is exact, except for rounding, after
    finitely many policies. Several sets of states to stay in are solved one after the other.

    Args:
        mdp: the problem.
        tolerance: greatest error of the gain; only for `converged`.
        max_iterations: most policies, in each set of states to stay in.

    Returns:
        As `relative_value_iteration`.

    Raises:
        UsageError: an argument is out of range, or an episode can end; it names the state.
    """
    tolerance, max_iterations = check_stop(tolerance, max_iterations)

    def by_policies(part: FiniteMDP, _: OnSweep | None) -> tuple[Floats, int]:
        states, (rounding, reward_size) = np.arange(part.num_states), _rounding(part)
        action = q_from_value(part, np.zeros(part.num_states), 1.0).argmax(axis=1)
        iteration, seen = 0, set()
        while True:
            bias, action = _evaluate(part, action)
            iteration += 1
            seen.add(action.tobytes())
            q = q_from_value(part, bias, 1.0)
            noise = rounding * (reward_size + 2 * float(np.abs(bias).max()))
            better = ~best_actions(part, q, bias, 1.0, noise)[states, action]
            action = np.where(better, q.argmax(axis=1), action)
            if not better.any() or iteration == max_iterations or action.tobytes() in seen:
                return bias, iteration

    return _solve(mdp, "average_policy_iteration", by_policies, tolerance, None)


# The bias of an MDP in which every state of one set reaches every other, and the number of iterations.
SolvePart = Callable[[FiniteMDP, OnSweep | None], tuple[Floats, int]]


class _Gain(NamedTuple):
    """What a bias `[S]` says about the best gain of a weakly communicating MDP.

    Attributes:
        gain: the middle between the bounds on it.
        error: half their distance, and the rounding.
        is_rounding: whether half of the error is rounding.
        policy: `[S, A]` greedy.
    """

    gain: float
    error: float
    is_rounding: bool
    policy: Floats

    @classmethod
    def of(cls, mdp: FiniteMDP, bias: Floats) -> "_Gain":
        q = q_from_value(mdp, bias, 1.0)
        change = q.max(axis=1) - bias
        rounding, reward_size = _rounding(mdp)
        size = 2 * float(np.abs(q.max(axis=1)).max()) + float(np.abs(change).max())
        noise = rounding * (reward_size + size)
        error = float(np.ptp(change)) / 2 + noise
        policy = equal_chances(best_actions(mdp, q, bias, 1.0))
        return cls(float(change.max() + change.min()) / 2, error, error <= 3 * noise, policy)


def _rounding(mdp: FiniteMDP) -> tuple[float, float]:
    """The greatest relative rounding of a sum over outcomes, and the greatest `sum p |r|`."""
    return float(sum_rounding(mdp)[mdp.legal].max()), float(reward_sizes(mdp).max())


def _solve(
    mdp: FiniteMDP, method: str, solve_part: SolvePart, tolerance: float, on_sweep: OnSweep | None
) -> Solution:
    unreached = None
    ending = check_mdp(mdp).ending > 0
    if ending.any():
        unreached = ~reachable_states(mdp)
        reached = ending & ~unreached[:, None]
        if reached.any():
            raise UsageError(
                f"{mdp.place(reached.argmax())}: an episode may end here, but the average reward is for tasks"
                " that go on forever; use the total or the discounted reward"
            )
        whole, mdp = mdp, without_states(mdp, unreached, ending=False)
    component, stays = end_components(mdp, mdp.legal)
    if (component[component >= 0] == component.max()).all():
        bias, iterations = solve_part(mdp, on_sweep)
        found, note = _Gain.of(mdp, bias), ""
        gains, policy, error, is_rounding = np.full(len(bias), found.gain), *found[3:], *found[1:3]
    else:
        parts = _Parts.of(mdp, component, stays, solve_part, on_sweep)
        gains, bias, policy, error, is_rounding = parts.joined(tolerance)
        iterations = parts.iterations
        note = f"{parts.number} sets of states to stay in: {gains.min():.6g} to {gains.max():.6g} per step"
    solution = Solution(
        bias, q_from_value(mdp, bias, 1.0) - gains[:, None], policy, method, "average", 1.0, iterations,
        residual=error, error_bound=error, converged=error <= tolerance or is_rounding,
        gain=float(mdp.initial @ gains), gains=gains, bias=bias, note=note,
    )  # fmt: skip
    if unreached is not None:
        solution = leave_out(whole, solution, unreached)
    return warn_unless_converged(solution, tolerance)


@dataclass(frozen=True)
class _Parts:
    """The sets of states in which a policy can stay forever, each solved on its own.

    Attributes:
        mdp: the whole problem.
        number: of sets.
        inside: `[S]` whether a state is in one of them.
        gains: `[S]` the gain of a state's set; 0 outside.
        bias: `[S]` 0 outside.
        policy: `[S, A]` of staying; 0 outside.
        error: the greatest error of a gain.
        is_rounding: whether all errors are only rounding.
        iterations: of all.
    """

    mdp: FiniteMDP
    number: int
    inside: Mask
    gains: Floats
    bias: Floats
    policy: Floats
    error: float
    is_rounding: bool
    iterations: int

    @classmethod
    def of(
        cls, mdp: FiniteMDP, component: Ints, stays: Mask, solve_part: SolvePart, on_sweep: OnSweep | None
    ) -> "_Parts":
        inside = component >= 0
        number, count = np.unique(component[inside], return_counts=True)
        alone = inside & np.isin(component, number[count == 1])
        reward = np.where(stays, mdp.expected_reward, -np.inf)
        best = reward.max(axis=1)
        gains, bias = np.where(alone, best, 0.0), np.zeros(mdp.num_states)
        rounding = reward_rounding(mdp)
        policy = np.zeros(mdp.legal.shape)
        policy[alone] = equal_chances(reward[alone] >= best[alone, None] - rounding[alone])
        error, is_rounding, iterations = float(rounding[alone].max(initial=0.0)), True, 0
        members = np.split(np.argsort(component, kind="stable")[(~inside).sum() :], np.cumsum(count)[:-1])
        for states in members:
            if len(states) == 1:
                continue
            done = iterations

            def shown(iteration: int, part_bias: Floats, states: Ints = states, done: int = done) -> None:
                bias[states] = part_bias
                on_sweep(done + iteration, bias.copy())

            part = _part(mdp, states, stays)
            bias[states], more = solve_part(part, on_sweep and shown)
            found = _Gain.of(part, bias[states])
            gains[states], policy[states] = found.gain, found.policy
            error, is_rounding, iterations = (
                max(error, found.error),
                is_rounding and found.is_rounding,
                iterations + more,
            )
        return cls(mdp, len(number), inside, gains, bias, policy, error, is_rounding, max(iterations, 1))

    def joined(self, tolerance: float) -> tuple[Floats, Floats, Floats, float, bool]:
        """For each state the best gain, its bias and policy; the error of the gains, and whether this is only
        rounding."""
        mdp, stop = self.mdp, self.mdp.num_actions
        choose = CollapsedMDP.of(self._stay_or_go())
        reward, size = choose.mdp.expected_reward, np.abs(choose.mdp.expected_reward)
        start = choose.best_of_group(reward, choose.pairs)[1]
        chosen = choose.best_proper(reward, size, choose.pairs, start)
        _, error, is_rounding = accuracy(choose, chosen, tolerance)
        stopping = np.zeros(mdp.num_states, dtype=bool)
        stopping[choose.heads] = chosen.exits % (stop + 1) == stop
        stopping = stopping[choose.group]
        gain, noise = chosen.differences
        best = gain.max(axis=1)[choose.heads]
        slack = np.zeros(mdp.num_states)
        slack[choose.heads] = np.abs(best)
        keeps = mdp.legal & (gain + 2 * noise + slack[choose.group][:, None] >= 0)[:, :stop]
        keeps.ravel()[_pairs(chosen.exits, stop)] = True
        bias, policy = self._on_the_way(chosen.value, stopping, keeps)
        return chosen.value, bias, policy, self.error + error, self.is_rounding and is_rounding

    def _stay_or_go(self) -> FiniteMDP:
        """The choice between ending in a set, for its gain, and going on at no reward: one more action."""
        mdp = self.mdp
        states = np.flatnonzero(self.inside)
        at = mdp.offset[mdp.num_actions * (states + 1)]
        counts = np.diff(mdp.offset).reshape(mdp.legal.shape)
        counts = np.column_stack([counts, self.inside])
        offset = np.concatenate([[0], np.cumsum(counts)])
        return FiniteMDP(
            mdp.num_actions + 1,
            offset.astype(mdp.offset.dtype),
            np.insert(mdp.probability, at, 1.0),
            np.insert(mdp.next_state, at, states).astype(mdp.offset.dtype),
            np.insert(np.zeros(len(mdp.reward)), at, self.gains[states]),
            np.insert(np.zeros(len(mdp.reward), dtype=bool), at, True),
            mdp.initial.copy(),
        )

    def _on_the_way(self, gains: Floats, stopping: Mask, keeps: Mask) -> tuple[Floats, Floats]:
        """Bias and policy: of its own set where the policy stops, elsewhere of the best way there, among the
        pairs that keep the gain."""
        mdp = self.mdp
        if stopping.all():
            return self.bias, self.policy
        pair = np.repeat(np.arange(keeps.size), np.diff(mdp.offset))
        state = pair // mdp.num_actions
        arrives = stopping[mdp.next_state]
        ends = stopping[state] | arrives
        way = replace(
            mdp,
            reward=np.where(
                stopping[state],
                0.0,
                mdp.reward - gains[state] + np.where(arrives, self.bias[mdp.next_state], 0),
            ),
            terminated=ends,
        )
        way = _only(way, np.where(stopping[:, None], mdp.legal, keeps))
        collapsed = CollapsedMDP.of(way)
        reward, size = way.expected_reward, reward_sizes(way)
        start = collapsed.proper_exits(collapsed.best_of_group(reward, collapsed.pairs)[1])
        best = collapsed.best_proper(reward, size, collapsed.pairs, start)
        gain, noise = best.differences
        if best.pays.any():  # only but for rounding: what the last policy does
            gain = np.where(collapsed.pairs, -np.inf, gain)
            gain.ravel()[best.exits] = 0.0
        policy = collapsed.policy(gain, 2 * noise.max(axis=1), best.exits)
        bias = np.where(stopping, self.bias, best.value)
        return bias, np.where(stopping[:, None], self.policy, policy)


def _pairs(exits: Ints, actions: int) -> Ints:
    """The pairs of an MDP with one action less, without those of the last action."""
    state, action = np.divmod(exits, actions + 1)
    return (state * actions + action)[action < actions]


def _only(mdp: FiniteMDP, pairs: Mask) -> FiniteMDP:
    """The MDP in which only some pairs `[S, A]` are legal."""
    counts = np.diff(mdp.offset)
    kept = np.repeat(pairs.ravel(), counts)
    offset = np.concatenate([[0], np.cumsum(np.where(pairs.ravel(), counts, 0))]).astype(mdp.offset.dtype)
    columns = ("probability", "next_state", "reward", "terminated")
    return replace(mdp, offset=offset, **{name: getattr(mdp, name)[kept] for name in columns})


def _part(mdp: FiniteMDP, states: Ints, stays: Mask) -> FiniteMDP:
    """The MDP of a set of states that the pairs `stays [S, A]` do not leave."""
    pairs = np.zeros(mdp.legal.shape, dtype=bool)
    pairs[states] = stays[states]
    inner = (states[:, None] * mdp.num_actions + np.arange(mdp.num_actions)).ravel()
    counts = np.where(pairs.ravel(), np.diff(mdp.offset), 0)[inner]
    offset = np.concatenate([[0], np.cumsum(counts)])
    outcome = np.repeat(mdp.offset[inner] - offset[:-1], counts) + np.arange(offset[-1])
    place = np.zeros(mdp.num_states, mdp.next_state.dtype)
    place[states] = np.arange(len(states))
    return FiniteMDP(
        mdp.num_actions,
        offset.astype(mdp.offset.dtype),
        mdp.probability[outcome],
        place[mdp.next_state[outcome]],
        mdp.reward[outcome],
        np.zeros(len(outcome), dtype=bool),
        np.full(len(states), 1 / len(states)),
    )


def _evaluate(mdp: FiniteMDP, action: Ints) -> tuple[Floats, Ints]:
    """The bias `[S]` of a policy, and the policy; if it has several closed classes, it is first changed to
    lead to the best of them."""
    chain, reward = induced_chain(mdp, as_policy(mdp, action))
    classes = closed_classes(chain)
    if len(classes) > 1:
        gains = [_gain_and_bias(chain[inside][:, inside], reward[inside])[0] for inside in classes]
        action = _redirect_to(mdp, classes[int(np.argmax(gains))], action)
        chain, reward = induced_chain(mdp, as_policy(mdp, action))
    return _gain_and_bias(chain, reward)[1], action


def _gain_and_bias(chain: sparse.csr_array, reward: Floats) -> tuple[float, Floats]:
    """Solve `g + h = r + P h`, `h(0) = 0`, for a chain with one closed class; the gain replaces the unknown
    `h(0)`."""
    states = len(reward)
    equations = (sparse.eye_array(states, format="csc") - chain)[:, 1:]
    matrix = sparse.hstack([np.ones((states, 1)), equations], format="csc")
    factors = linalg.splu(matrix)
    found = factors.solve(reward)
    found += factors.solve(reward - matrix @ found)  # one step of refinement
    return float(found[0]), np.array([0.0, *found[1:]])


def _redirect_to(mdp: FiniteMDP, inside: Ints, action: Ints) -> Ints:
    """The policy that in all other states takes an action that may lead one step nearer to the states
    `inside`."""
    pair, target = edges(mdp)
    source = pair // mdp.num_actions
    goal = np.zeros(mdp.num_states, dtype=bool)
    goal[inside] = True
    nearer = ~goal[source] & (target == next_towards(goal, source, target)[source])
    action = action.copy()
    action[source[nearer]] = pair[nearer] % mdp.num_actions
    return action
