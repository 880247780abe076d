"""Markov chains of policies: where a policy is in the long run, and when it arrives somewhere.

Both are the solutions of linear equations `x = b + P x` on states that the chain surely leaves. The matrix `I
- P` is made without a difference that cancels: its diagonal is the probability of leaving, plus those of
going to other states. So even a probability of leaving of 1e-12 keeps all its digits.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.sparse import linalg

from bellgrad.core.errors import UsageError
from bellgrad.core.machine_code import cached_njit
from bellgrad.mdp.checks import as_numbers
from bellgrad.mdp.components import Mask, closed_classes, next_towards, reached_from
from bellgrad.mdp.model import FiniteMDP, Floats, Ints, check_mdp
from bellgrad.mdp.policies import as_policy, induced_chain

LOOKING_STEPS = 100  # of a chain, to see where it is often
FEW_STATES = 200  # up to which states are eliminated in less than some ms
MAX_ELIMINATED = 2_000  # and in seconds
MANY_STEPS = 1e6  # after so many steps, a factorization loses half of the digits


class HittingTimes(NamedTuple):
    """When a policy first is in one of the target states.

    Attributes:
        steps: `[S]` the expected number of steps until then; 0 in a target state, infinite if `probability`
            is below 1.
        probability: `[S]` that this ever happens.
    """

    steps: Floats
    probability: Floats


class LeavingEquations:
    """`x = b + P x`, or `x = b + P^T x`, for a chain that leaves its states sooner or later.

    Few states, or such that are left after a great many steps, are eliminated one after the other without a
    difference, so that even the smallest probabilities count. Otherwise it is a sparse LU factorization.

    Args:
        chain: `[n, n]`, the probabilities of going to each state; its diagonal is not used, since what is
            neither left nor gone stays.
        leaving: `[n]` the probability of leaving; from each state a path leads to one where it is above 0.

    Raises:
        UsageError: leaving takes too many steps for float64.

    Source: Grassmann, Taksar and Heyman 1985, "Regenerative analysis and steady state distributions for
    Markov chains"; Alfa, Xue and Ye 2002, "Accurate computation of the smallest eigenvalue of a diagonally
    dominant M-matrix" (the same elimination for equations).
    """

    def __init__(self, chain: sparse.csr_array, leaving: Floats):
        states = len(leaving)
        others = sparse.csr_array(chain - sparse.diags_array(chain.diagonal()))
        self._eliminated: tuple[Floats, Floats] | None = None
        if states > FEW_STATES:
            self._matrix = sparse.csc_array(sparse.diags_array(leaving + others.sum(axis=1)) - others)
            try:
                self._factors = linalg.splu(self._matrix)
                steps = float(np.abs(self.solve(np.ones(states))).max())
            except RuntimeError:  # exactly singular
                steps = np.inf
            if steps <= MANY_STEPS or (states > MAX_ELIMINATED and steps < np.inf):
                return
            if states > MAX_ELIMINATED:
                raise _never_left(states)
        off_diagonal = others.toarray()
        pivot = _eliminate(off_diagonal, leaving.astype(float))
        if not (pivot > 0).all():
            raise _never_left(states)
        self._eliminated = off_diagonal, pivot

    def solve(self, right: Floats, transposed: bool = False) -> Floats:
        """`x [n]` from `b [n]`; from an LU factorization with one step of refinement."""
        if self._eliminated is not None:
            found = right.astype(float)
            _substitute(*self._eliminated, found, transposed)
            return found
        turn = "T" if transposed else "N"
        matrix = self._matrix.T if transposed else self._matrix
        found = self._factors.solve(right, turn)
        return found + self._factors.solve(right - matrix @ found, turn)


def _never_left(states: int) -> UsageError:
    return UsageError(
        f"the policy hardly ever leaves some of {states} states, too rarely for float64; use a discount below"
        " 1 or a horizon"
    )


@cached_njit(error_model="numpy")
def _eliminate(chain, leaving):
    """Eliminate the states of `chain [n, n]`, in place: then entries right of the diagonal are the
    probabilities when the states before are passed over, and those left of it the factors.

    Returns:
        `[n]` the pivots: the probability of not staying.
    """
    states = len(leaving)
    pivot = np.empty(states)
    for k in range(states):
        total = leaving[k]
        for j in range(k + 1, states):
            total += chain[k, j]
        pivot[k] = total
        for i in range(k + 1, states):
            if chain[i, k] > 0:
                factor = chain[i, k] / total
                chain[i, k] = factor
                leaving[i] += factor * leaving[k]
                for j in range(k + 1, states):
                    if j != i:
                        chain[i, j] += factor * chain[k, j]
    return pivot


@cached_njit
def _substitute(chain, pivot, x, transposed):
    states = len(pivot)
    if transposed:
        for k in range(states):
            x[k] /= pivot[k]
            for j in range(k + 1, states):
                x[j] += chain[k, j] * x[k]
        for k in range(states - 1, -1, -1):
            for i in range(k):
                x[i] += chain[k, i] * x[k]
    else:
        for k in range(states):
            for i in range(k + 1, states):
                x[i] += chain[i, k] * x[k]
        for k in range(states - 1, -1, -1):
            for j in range(k + 1, states):
                x[k] += chain[k, j] * x[j]
            x[k] /= pivot[k]


def stationary_distribution(mdp: FiniteMDP, policy: ArrayLike) -> Floats:
    """The share of time that a policy spends in each state in the long run, of a task that goes on forever.

        mu = mu P,   sum mu = 1

    If the states in which the policy finally stays are one closed class, this is the only stationary
    distribution, and the first state does not matter. With several closed classes there are many; the result
    is the limit of the shares from `mdp.initial`: the distribution of each class, times the probability that
    the policy ends up in it. For a periodic chain it is the limit of the shares, not of the probabilities.

    Args:
        mdp: the problem; no episode may end.
        policy: `[S]` integers or `[S, A]` probabilities.

    Returns:
        `[S]`, with sum 1; 0 in states that are visited only for some time.

    Raises:
        UsageError: the policy does not fit, or it may end an episode that begins in `mdp.initial`; names the
            state.

    Source: Kemeny and Snell 1960, chapters 3 to 5; Puterman 1994, appendix A.4 (the limiting matrix).
    """
    chain, ending = _chain(mdp, policy)
    source, target = chain.nonzero()
    visited = reached_from(mdp.initial > 0, source, target)
    ends = visited & (ending > 0)
    if ends.any():
        raise UsageError(
            f"from {mdp.state_name(ends.argmax())} the policy may end the episode, so there is no stationary"
            " distribution; state_distribution gives the expected number of visits until the end"
        )
    classes = [inside for inside in closed_classes(chain) if visited[inside[0]]]
    shares = np.zeros(mdp.num_states)
    if len(classes) == 1:
        shares[classes[0]] = class_distribution(chain[classes[0]][:, classes[0]])
        return shares
    stays = np.zeros(mdp.num_states, dtype=bool)
    stays[np.concatenate(classes)] = True
    passing = np.flatnonzero(visited & ~stays)
    arrives = mdp.initial.copy()
    if len(passing):
        rows = chain[passing]
        leaving = rows @ stays.astype(float)
        visits = LeavingEquations(rows[:, passing], leaving).solve(mdp.initial[passing], transposed=True)
        arrives += rows.T @ visits
    for inside in classes:
        shares[inside] = arrives[inside].sum() * class_distribution(chain[inside][:, inside])
    return shares / shares.sum()


def hitting_times(mdp: FiniteMDP, policy: ArrayLike, target: ArrayLike | set[int]) -> HittingTimes:
    """The probability that a policy ever gets to one of some states, and the expected number of steps until
    it first does.

        p(s) = sum_s' P(s, s') p(s'),   k(s) = 1 + sum_s' P(s, s') k(s');   in the target p = 1, k = 0

    These are the smallest solutions. Where the target may be missed, since the episode may end before or the
    policy may get stuck elsewhere, `p` is below 1 and `k` infinite; that is read off the graph and not off
    rounded numbers.

    Args:
        mdp: the problem.
        policy: `[S]` integers or `[S, A]` probabilities.
        target: a state, several, or `[S]` whether each is one.

    Returns:
        Steps and probability, `[S]` each.

    Raises:
        UsageError: the policy does not fit, or there is no target state, or no such state.

    Source: Norris 1997, "Markov chains", theorems 1.3.2 and 1.3.5.
    """
    goal = _states(check_mdp(mdp), target)
    chain, ending = _chain(mdp, policy)
    source, towards = chain.nonzero()
    before = ~goal[source]
    source, towards = source[before], towards[before]
    can = next_towards(goal, source, towards) >= 0
    missed = ~can | ((ending > 0) & ~goal)
    sure = ~(next_towards(missed, source, towards) >= 0)
    probability, steps = np.where(sure, 1.0, 0.0), np.where(sure, 0.0, np.inf)
    probability[goal], steps[goal] = 1.0, 0.0
    unsure = np.flatnonzero(can & ~sure & ~goal)
    if len(unsure):
        rows = chain[unsure]
        there, nowhere = rows @ probability, rows @ (~can).astype(float)
        equations = LeavingEquations(rows[:, unsure], ending[unsure] + there + nowhere)
        probability[unsure] = np.minimum(equations.solve(there), 1.0)
    waiting = np.flatnonzero(sure & ~goal)
    if len(waiting):
        rows = chain[waiting]
        equations = LeavingEquations(rows[:, waiting], rows @ goal.astype(float))
        steps[waiting] = equations.solve(np.ones(len(waiting)))
    return HittingTimes(steps, probability)


def class_distribution(chain: sparse.csr_array) -> Floats:
    """`[n]` the stationary distribution of a chain `[n, n]` of one closed class: the expected visits to each
    state between two visits to one that is visited often, divided by their sum."""
    states = chain.shape[0]
    visits = np.ones(states)
    if states > 1:
        for _ in range(LOOKING_STEPS):
            visits = (visits + chain.T @ visits) / 2
        often = int(visits.argmax())
        others = np.delete(np.arange(states), often)
        rows = chain[others]
        back, there = rows[:, [often]].toarray().ravel(), chain[[often]][:, others].toarray().ravel()
        visits[often] = 1.0
        visits[others] = LeavingEquations(rows[:, others], back).solve(there, transposed=True)
    return visits / visits.sum()


def _chain(mdp: FiniteMDP, policy: ArrayLike) -> tuple[sparse.csr_array, Floats]:
    """The chain `[S, S]` of a policy, and its probability of ending `[S]`."""
    chosen = as_policy(mdp, policy)
    return induced_chain(mdp, chosen)[0], (chosen * mdp.ending).sum(axis=1)


def _states(mdp: FiniteMDP, target: ArrayLike | set[int]) -> Mask:
    given = as_numbers("target", list(target) if isinstance(target, set | frozenset) else target)
    if given.dtype == bool and given.shape == (mdp.num_states,):
        goal = given.copy()
    else:
        states: Ints = np.atleast_1d(given)
        if states.ndim != 1 or not (np.issubdtype(states.dtype, np.integer) or states.size == 0):
            raise UsageError(
                f"target must be a state, a list of states, or ({mdp.num_states},) flags; it has shape"
                f" {given.shape} of {given.dtype}"
            )
        wrong = (states < 0) | (states >= mdp.num_states)
        if wrong.any():
            raise UsageError(
                f"target: there is no state {states[wrong.argmax()]}; they are 0 to {mdp.num_states - 1}"
            )
        goal = np.zeros(mdp.num_states, dtype=bool)
        goal[states.astype(int)] = True
    if not goal.any():
        raise UsageError("target names no state; give at least one")
    return goal
