"""What a solver says when it had to stop too early."""

import warnings

from bellgrad.mdp.solution import Solution


def warn_unless_converged(solution: Solution, tolerance: float) -> Solution:
    """The same solution; a `RuntimeWarning` names its residual and its error bound where that is more than
    the tolerance."""
    if not solution.converged:
        what = "the gain" if solution.criterion == "average" else "values"
        warnings.warn(
            f"{solution.method} stopped after {solution.iterations} iterations with the residual at"
            f" {solution.residual:.3g}: {what} may be off by {solution.error_bound:.3g}, more than the"
            f" tolerance of {tolerance:.3g}",
            RuntimeWarning,
            stacklevel=3,
        )
    return solution
