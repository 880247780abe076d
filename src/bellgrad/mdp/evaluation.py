"""The value of a policy: `v = r + gamma * P v`, with its expected rewards `r [S]` and its chain `P [S,
S]`."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.sparse import linalg

from bellgrad.core.errors import unknown
from bellgrad.mdp.discounted import MAX_ITERATIONS, DiscountedProblem, MethodResult, OnSweep, q_sweeps
from bellgrad.mdp.model import FiniteMDP, Floats
from bellgrad.mdp.policies import as_policy, induced_chain
from bellgrad.mdp.solution import Solution

LinearMethod = Literal["direct", "gmres"]
GMRES_VECTORS = 50  # vectors that GMRES stores before it restarts
GMRES_RESTARTS = 200


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
    - `gmres`: restarted GMRES. Stops when the norm of the residual, which is at least its largest entry, is
      within `tolerance * (1 - g)`.

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
    problem, chosen = DiscountedProblem.of(mdp, gamma, tolerance, max_iterations), as_policy(mdp, policy)
    if method == "iterative":
        result = q_sweeps(problem, chosen, on_sweep)
    else:
        result = MethodResult(
            linear_solve(problem, *induced_chain(mdp, chosen), method, np.zeros(mdp.num_states)), np.inf, 1
        )
    return problem.solution(f"policy evaluation ({method})", result, chosen)


def linear_solve(
    problem: DiscountedProblem, chain: sparse.csr_array, reward: Floats, method: str, start: Floats
) -> Floats:
    """Solve `v = reward + gamma * chain v`.

    Args:
        problem: gives discount and tolerance.
        chain: `[S, S]`.
        reward: `[S]`.
        method: one of `LinearMethod`.
        start: `[S]`, the initial guess of `gmres`.

    Raises:
        UsageError: the method is unknown.
    """
    if method not in get_args(LinearMethod):
        raise unknown("way to evaluate a policy", method, [*get_args(LinearMethod), "iterative"])
    matrix = sparse.eye_array(len(reward), format="csr") - problem.gamma * chain
    if method == "direct":
        return linalg.splu(matrix.tocsc()).solve(reward)
    near = problem.tolerance * (1 - problem.max_factor)
    return linalg.gmres(
        matrix, reward, x0=start, rtol=0.0, atol=near, restart=GMRES_VECTORS, maxiter=GMRES_RESTARTS
    )[0]
