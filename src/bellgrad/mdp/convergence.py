"""What is rounding in a sum over outcomes, and the warning of a solver that stopped too early."""

import warnings

import numpy as np

from bellgrad.mdp import kernels
from bellgrad.mdp.model import FiniteMDP, Floats
from bellgrad.mdp.solution import Solution


def sum_rounding(mdp: FiniteMDP) -> Floats:
    """`[S, A]` the greatest relative rounding of a sum of products over the outcomes of a pair: times the sum
    of the absolute terms it bounds the error.

    Source: Higham 2002, "Accuracy and stability of numerical algorithms", section 3.1 (a sum of n products);
    2 more units for the rounding of the factors, and for one more term.
    """
    counts = np.diff(mdp.offset).reshape(mdp.legal.shape)
    return (counts + 2) * np.finfo(float).eps


def reward_sizes(mdp: FiniteMDP) -> Floats:
    """`[S, A]` `sum p |r|`, the size of the terms of an expected reward."""
    return kernels.row_dot(mdp.offset, mdp.probability, np.abs(mdp.reward)).reshape(mdp.legal.shape)


def reward_rounding(mdp: FiniteMDP) -> Floats:
    """`[S, A]` expected rewards up to this are 0 but for rounding."""
    return sum_rounding(mdp) * reward_sizes(mdp)


def warn_unless_converged(solution: Solution, tolerance: float) -> Solution:
    """The same solution. If it has not converged, a `RuntimeWarning` names bound and residual."""
    if not solution.converged:
        quantity = "the gain" if solution.criterion == "average" else "values"
        warnings.warn(
            f"{solution.method} stopped after {solution.iterations} iterations with the residual at"
            f" {solution.residual:.3g}: {quantity} may be off by {solution.error_bound:.3g}, more than the"
            f" tolerance of {tolerance:.3g}",
            RuntimeWarning,
            stacklevel=3,
        )
    return solution
