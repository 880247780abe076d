"""The value of a policy: `v = r + gamma * P v`, with its expected rewards `r [S]` and its chain `P [S,
S]`."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.sparse import linalg

from bellgrad.core.errors import unknown
from bellgrad.mdp.discounted import MAX_ITERATIONS, Discounted, Found, OnSweep, q_sweeps
from bellgrad.mdp.model import FiniteMDP, Floats
from bellgrad.mdp.policies import as_policy, induced_chain
from bellgrad.mdp.solution import Solution

Linear = Literal["direct", "gmres"]
KRYLOV = 50  # vectors that GMRES keeps before it starts anew
KRYLOV_ROUNDS = 200


def evaluate_policy(
    mdp: FiniteMDP,
    policy: ArrayLike,
    gamma: float,
    *,
    method: Linear | Literal["iterative"] = "direct",
    tolerance: float = 1e-6,
    max_iterations: int = MAX_ITERATIONS,
    on_sweep: OnSweep | None = None,
) -> Solution:
    """The value and action values of a policy, by one of three ways.

    - `direct`: a sparse LU factorization. Exact but for rounding.
    - `iterative`: sweeps `v <- r + gamma * P v`. Stops as `value_iteration` does: its bounds hold for one
      policy alike. The only way that copies no outcome.
    - `gmres`: restarted GMRES. Stops when the norm of the residual, which is no less than its largest
      entry, is within `tolerance * (1 - g)`.

    Args:
        mdp: the problem.
        policy: `[S]` integers or `[S, A]` probabilities.
        gamma: discount per step, in [0, 1).
        method: `direct`, `iterative` or `gmres`.
        tolerance: greatest error of any state's value.
        max_iterations: sweeps of `iterative`.
        on_sweep: called with the number of the sweep of `iterative` and the value `[S]`.

    Returns:
        The solution, whose `policy` is the one that was given; its residual is that of the policy's own
        operator.

    Raises:
        UsageError: gamma is out of range, the policy is none of this MDP, or an unknown method.

    Source: Puterman 1994, section 6.1; Saad and Schultz 1986 (GMRES).
    """
    problem, chosen = Discounted.of(mdp, gamma, tolerance, max_iterations), as_policy(mdp, policy)
    if method == "iterative":
        found = q_sweeps(problem, chosen, on_sweep)
    else:
        found = Found(
            linear_solve(problem, *induced_chain(mdp, chosen), method, np.zeros(mdp.num_states)), np.inf, 1
        )
    return problem.solution(f"policy evaluation ({method})", found, chosen)


def linear_solve(
    problem: Discounted, chain: sparse.csr_array, reward: Floats, method: str, start: Floats
) -> Floats:
    """Solve `v = reward + gamma * chain v`.

    Args:
        problem: where discount and tolerance come from.
        chain: `[S, S]`.
        reward: `[S]`.
        method: one of `Linear`.
        start: `[S]`, a first guess for `gmres`.

    Raises:
        UsageError: an unknown method.
    """
    if method not in get_args(Linear):
        raise unknown("way to evaluate a policy", method, [*get_args(Linear), "iterative"])
    matrix = sparse.eye_array(len(reward), format="csr") - problem.gamma * chain
    if method == "direct":
        return linalg.splu(matrix.tocsc()).solve(reward)
    near = problem.tolerance * (1 - problem.greatest)
    return linalg.gmres(matrix, reward, x0=start, rtol=0.0, atol=near, restart=KRYLOV, maxiter=KRYLOV_ROUNDS)[
        0
    ]
