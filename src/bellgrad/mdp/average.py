"""The average reward per step of tasks that go on forever.

    g + h(s) = max_a r(s, a) + E[h(s')]

`g` is the gain, the average reward per step in the long run. `h` is the bias, the additional reward of a
start in `s`, up to a constant that is chosen so that `h(0) = 0`.

Both solvers require that there is exactly one set of states in which a policy can stay forever (one maximal
end component). Then every policy sooner or later leaves all other states, and within the set every state can
be reached from every other, so that the best gain is the same from every start (the MDP is weakly
communicating). With two such sets the gain may depend on the start, and the solvers refuse. They also refuse
outcomes that end an episode.

Both give the same guarantee, which holds for any `h`: the best gain is between `min (T h - h)` and `max (T h
- h)`, and the gain of a greedy policy is at least the former. `gain` is the middle of this interval and
`error_bound` half its length. There is no error bound for `h`.

Source: Puterman 1994, chapters 8 and 9: value iteration 8.5.1, bounds theorem 8.5.5, transformation 8.5.4,
policy iteration 8.6.1.
"""

from collections.abc import Callable

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph
from scipy.sparse.linalg import spsolve

from bellgrad.core.errors import UsageError
from bellgrad.mdp import kernels
from bellgrad.mdp.checks import check_stop
from bellgrad.mdp.components import edges, end_components, next_towards
from bellgrad.mdp.convergence import warn_unless_converged
from bellgrad.mdp.discounted import limited_threads
from bellgrad.mdp.model import FiniteMDP, Floats, Ints
from bellgrad.mdp.policies import TIE_TOLERANCE, as_policy, greedy_policy, induced_chain, q_from_value
from bellgrad.mdp.solution import Solution

# Factor of a change of value, as if every step were a wait with probability 1/4: so periodic chains converge
# too.
DAMPING = 0.75


def relative_value_iteration(
    mdp: FiniteMDP,
    *,
    tolerance: float = 1e-6,
    max_iterations: int = 1_000_000,
    on_sweep: Callable[[int, Floats], None] | None = None,
) -> Solution:
    """The best gain by value iteration: `h <- h + 3/4 (T h - h)`, minus its first entry. Stops when
    `error_bound` is within the tolerance.

    Args:
        mdp: the problem.
        tolerance: greatest error of the gain, above 0.
        max_iterations: most sweeps.
        on_sweep: called with the number of the sweep and the bias `[S]`.

    Returns:
        `value` and `bias` are the same `[S]`; `q` is `r(s, a) - gain + E[h(s')]`.

    Raises:
        UsageError: an episode can end, or there are two sets of states to stay in; it names the states.
    """
    tolerance, max_iterations = check_stop(tolerance, max_iterations)
    _check(mdp)
    arrays = (mdp.offset, mdp.continuing, mdp.next_state, mdp.expected_reward, 1.0)
    bias, after = np.zeros(mdp.num_states), np.empty(mdp.num_states)
    action, iteration = np.zeros(mdp.num_states, np.int32), 0
    with limited_threads(mdp):
        while True:
            low, high, _ = kernels.sweep(*arrays, bias, action, True, after)
            if high - low <= 2 * tolerance or iteration == max_iterations:
                break
            bias = bias + DAMPING * (after - bias)
            bias -= bias[0]
            iteration += 1
            if on_sweep is not None:
                on_sweep(iteration, bias)
    return warn_unless_converged(
        _solution(mdp, bias, "relative_value_iteration", iteration, tolerance), tolerance
    )


def average_policy_iteration(
    mdp: FiniteMDP, *, tolerance: float = 1e-6, max_iterations: int = 10_000
) -> Solution:
    """The best gain by Howard's policy iteration: gain and bias of a policy by one sparse solve, then the
    greedy actions.

    If the chain of a policy has several closed classes, the policy is changed to lead to the one with the
    greatest gain. An action is kept if no other is better. So the gain, then the bias rises with every
    policy, and no policy occurs twice: the result is exact, except for rounding, after finitely many
    policies.

    Args:
        mdp: the problem.
        tolerance: greatest error of the gain; only for `converged`.
        max_iterations: most policies.

    Returns:
        As `relative_value_iteration`.

    Raises:
        UsageError: an episode can end, or there are two sets of states to stay in; it names the states.
    """
    tolerance, max_iterations = check_stop(tolerance, max_iterations)
    _check(mdp)
    states = np.arange(mdp.num_states)
    action = q_from_value(mdp, np.zeros(mdp.num_states), 1.0).argmax(axis=1)
    iteration = 0
    while True:
        bias, action = _evaluate(mdp, action)
        iteration += 1
        q = q_from_value(mdp, bias, 1.0)
        own = q[states, action]
        better = q.max(axis=1) > own + TIE_TOLERANCE * np.maximum(1, np.abs(own))
        if not better.any() or iteration == max_iterations:
            break
        action = np.where(better, q.argmax(axis=1), action)
    return warn_unless_converged(
        _solution(mdp, bias, "average_policy_iteration", iteration, tolerance), tolerance
    )


def _check(mdp: FiniteMDP) -> None:
    ending = mdp.ending > 0
    if ending.any():
        raise UsageError(
            f"{mdp.place(ending.argmax())}: an episode may end here, but the average reward is for tasks"
            " that go on forever; use the total or the discounted reward"
        )
    component, _ = end_components(mdp, mdp.legal)
    first = component.max()  # there is at least one, since no episode ends
    other = (component >= 0) & (component != first)
    if other.any():
        one, two = sorted((int((component == first).argmax()), int(other.argmax())))
        raise UsageError(
            f"one policy can stay forever around {mdp.state_name(one)} and another around"
            f" {mdp.state_name(two)}, so the best average reward may depend on the start (multichain); use a"
            " discount below 1"
        )


def _solution(mdp: FiniteMDP, bias: Floats, method: str, iterations: int, tolerance: float) -> Solution:
    q = q_from_value(mdp, bias, 1.0)
    change = q.max(axis=1) - bias
    gain, error_bound = float(change.max() + change.min()) / 2, float(np.ptp(change)) / 2
    return Solution(
        bias,
        q - gain,
        greedy_policy(q),
        method,
        "average",
        1.0,
        iterations,
        residual=error_bound,
        error_bound=error_bound,
        converged=error_bound <= tolerance,
        gain=gain,
        bias=bias,
    )


def _evaluate(mdp: FiniteMDP, action: Ints) -> tuple[Floats, Ints]:
    """The bias `[S]` of a policy, and the policy; if it has several closed classes, it is first changed to
    lead to the best of them."""
    chain, reward = induced_chain(mdp, as_policy(mdp, action))
    classes = _closed_classes(chain)
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
    gain, *bias = spsolve(sparse.hstack([np.ones((states, 1)), equations], format="csc"), reward)
    return float(gain), np.array([0.0, *bias])


def _closed_classes(chain: sparse.csr_array) -> list[Ints]:
    """The states of each set that the chain cannot leave and within which it reaches every state."""
    count, component = csgraph.connected_components(chain, connection="strong")
    source, target = chain.nonzero()
    closed = np.ones(count, dtype=bool)
    closed[component[source[component[source] != component[target]]]] = False
    return [np.flatnonzero(component == c) for c in np.flatnonzero(closed)]


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
