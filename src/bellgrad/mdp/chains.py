"""Markov chains of policies: where a policy is in the long run, and when it arrives somewhere.

Both are the solutions of linear equations `x = b + P x` on states that the chain surely leaves. The matrix `I
- P` is made without a difference that cancels: its diagonal is the probability of leaving, plus those of
going to other states. So its errors are relative, even if leaving has a probability of 1e-12.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.sparse import linalg

from bellgrad.core.errors import UsageError
from bellgrad.mdp.checks import as_numbers
from bellgrad.mdp.components import Mask, closed_classes, next_towards, reached_from
from bellgrad.mdp.model import FiniteMDP, Floats, Ints
from bellgrad.mdp.policies import as_policy, induced_chain


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

    Args:
        chain: `[n, n]`, the probabilities of going to each state; its diagonal is not used, since what is
            neither left nor gone stays.
        leaving: `[n]` the probability of leaving; from each state a path leads to one where it is above 0.
    """

    def __init__(self, chain: sparse.csr_array, leaving: Floats):
        others = sparse.csr_array(chain - sparse.diags_array(chain.diagonal()))
        self._matrix = sparse.csc_array(sparse.diags_array(leaving + others.sum(axis=1)) - others)
        self._factors = linalg.splu(self._matrix)

    def solve(self, right: Floats, transposed: bool = False) -> Floats:
        """`x [n]` from `b [n]`, with one step of refinement."""
        turn = "T" if transposed else "N"
        matrix = self._matrix.T if transposed else self._matrix
        found = self._factors.solve(right, turn)
        return found + self._factors.solve(right - matrix @ found, turn)


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
    goal = _states(mdp, target)
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
    state between two visits to the first, divided by their sum."""
    visits = np.ones(chain.shape[0])
    if len(visits) > 1:
        back, there = chain[1:, [0]].toarray().ravel(), chain[[0], 1:].toarray().ravel()
        visits[1:] = LeavingEquations(chain[1:, 1:], back).solve(there, transposed=True)
    return visits / visits.sum()


def _chain(mdp: FiniteMDP, policy: ArrayLike) -> tuple[sparse.csr_array, Floats]:
    """The chain `[S, S]` of a policy, and its probability of ending `[S]`."""
    chosen = as_policy(mdp, policy)
    return induced_chain(mdp, chosen)[0], (chosen * mdp.ending).sum(axis=1)


def _states(mdp: FiniteMDP, target: ArrayLike | set[int]) -> Mask:
    given = as_numbers("target", sorted(target) if isinstance(target, set | frozenset) else target)
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
