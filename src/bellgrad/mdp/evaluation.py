"""The value of a policy: `v = r + gamma * P v`, with its expected rewards `r [S]` and its chain `P [S,
S]`."""

from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.sparse import linalg

from bellgrad.core.errors import unknown
from bellgrad.mdp.discounted import MAX_ITERATIONS, DiscountedProblem, MethodResult, OnSweep, q_sweeps
from bellgrad.mdp.model import FiniteMDP, Floats
from bellgrad.mdp.policies import EPSILON, ROUNDING, as_policy, induced_chain
from bellgrad.mdp.solution import Solution

LinearMethod = Literal["direct", "gmres"]
GMRES_VECTORS = 50  # vectors that GMRES stores before it restarts
GMRES_RESTARTS = 200
GMRES_AGAIN = 100  # the factor of accuracy at which GMRES goes on, if the true residual is too large
EVALUATIONS = (*get_args(LinearMethod), "iterative")


def evaluate_policy(
    mdp: FiniteMDP,
    policy: ArrayLike,
    gamma: float,
    *,
    method: LinearMethod | Literal["iterative"] = "direct",
    tolerance: float = 1e-6,
    max_iterations: int = MAX_ITERATIONS,
    on_sweep: OnSweep | None = None,
) -> Solution:
    """The state values and action values of a policy, by one of three methods.

    - `direct`: a sparse LU factorization. Exact except for rounding.
    - `iterative`: sweeps `v <- r + gamma * P v`. Stops like `value_iteration`, whose bounds hold for a single
      policy too. The only method that copies no outcomes.
    - `gmres`: restarted GMRES. Stops when the largest entry of the residual is within `tolerance * (1 - g)`,
      and solves directly if that is not reached.

    Args:
        mdp: the problem.
        policy: `[S]` integers or `[S, A]` probabilities.
        gamma: discount per step, in [0, 1).
        method: `direct`, `iterative` or `gmres`.
        tolerance: greatest error of any state's value.
        max_iterations: most sweeps of `iterative`.
        on_sweep: of `iterative`: called with the number of the sweep and the value `[S]`.

    Returns:
        The solution; its `policy` is the one that was given, and its residual is that of the policy's Bellman
        operator.

    Raises:
        UsageError: gamma is out of range, the policy does not fit this MDP, or the method is unknown.

    Source: Puterman 1994, section 6.1; Saad and Schultz 1986 (GMRES).
    """
    if method not in EVALUATIONS:
        raise unknown("way to evaluate a policy", str(method), EVALUATIONS)
    problem, chosen = DiscountedProblem.of(mdp, gamma, tolerance, max_iterations), as_policy(mdp, policy)
    if method == "iterative":
        result = q_sweeps(problem, chosen, on_sweep)
    else:
        near = problem.tolerance * (1 - problem.max_factor) / 2
        solved = linear_solve(problem, *induced_chain(mdp, chosen), method, np.zeros(mdp.num_states), near)
        result = MethodResult(solved.value, np.inf, 1, solved.note, solved.error)
    return problem.solution(f"policy evaluation ({method})", result, chosen)


class Solved(NamedTuple):
    """The value of a policy.

    Attributes:
        value: `[S]`.
        error: `[S]` an upper bound on the error of each state's value, from the residual and its rounding.
        note: which method was used, if not the one that was asked for.
    """

    value: Floats
    error: Floats
    note: str = ""


def linear_solve(
    problem: DiscountedProblem,
    chain: sparse.csr_array,
    reward: Floats,
    method: str,
    start: Floats,
    near: float,
) -> Solved:
    """Solve `v = reward + gamma * chain v`.

    Args:
        problem: gives the discount.
        chain: `[S, S]`.
        reward: `[S]`.
        method: one of `LinearMethod`.
        start: `[S]`, the initial guess of `gmres`.
        near: the largest entry of the residual at which `gmres` may stop, unless rounding is more.
    """
    ahead = problem.gamma * chain
    matrix = sparse.eye_array(len(reward), format="csr") - ahead

    def residual(value: Floats) -> tuple[Floats, Floats]:
        """Of every state: its absolute value, and its rounding."""
        left, size = reward + ahead @ value - value, np.abs(reward) + ahead @ np.abs(value)
        return np.abs(left), EPSILON * size

    note = ""
    if method == "gmres":
        value = start
        for accuracy in (
            near,
            near / GMRES_AGAIN,
        ):  # the norm that GMRES computes may differ from the true one
            value = linalg.gmres(
                matrix,
                reward,
                x0=value,
                rtol=0.0,
                atol=accuracy,
                restart=GMRES_VECTORS,
                maxiter=GMRES_RESTARTS,
            )[0]
            left, rounding = residual(value)
            if left.max() <= max(near, ROUNDING * rounding.max()):
                return Solved(value, np.full(len(value), (left + rounding).max() / (1 - problem.max_factor)))
        note = "a policy was evaluated directly, since GMRES did not reach the accuracy"
    factors = linalg.splu(matrix.tocsc())
    value = factors.solve(reward)
    left, rounding = residual(value)
    return Solved(value, np.abs(factors.solve(left + rounding)), note)
