"""The warning of a solver that stopped too early."""

import warnings

from bellgrad.mdp.solution import Solution


def warn_unless_converged(solution: Solution, tolerance: float) -> Solution:
    """The same solution. If its error bound is above the tolerance, a `RuntimeWarning` names bound and
    residual."""
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
