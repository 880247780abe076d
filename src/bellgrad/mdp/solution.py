"""What a solver gives."""

from dataclasses import dataclass

from bellgrad.mdp.model import Floats


@dataclass(frozen=True, eq=False)
class Solution:
    """An optimal value and policy, or those of the policy that was evaluated, with the evidence for them.

    Attributes:
        value: `[S]` float; `[H+1, S]` with a horizon, `value[t]` from step t on.
        q: `[S, A]` float, -inf where the action is illegal; `[H, S, A]` with a horizon.
        policy: `[S, A]` float, rows are probabilities, shared equally among the best actions; `[H, S, A]`
            with a horizon. Best are all that the error bound cannot tell from the best, or that come within
            rounding of it.
        method: the solver's name.
        criterion: `discounted`, `total` or `average`.
        gamma: the discount; 1 where there is none.
        iterations: of the method's outer loop.
        residual: `max |T v - v|` of the Bellman operator at `value`, as measured at the end.
        error_bound: `max |value - true value|` is at most this, rounding aside.
        converged: whether `error_bound` is within the tolerance that was asked for.
        gain: the average reward a step; only with `criterion="average"`.
        bias: `[S]` the relative value; only with `criterion="average"`.
        horizon: steps, or None.
        note: what was chosen and why, in a line; empty where nothing was.
    """

    value: Floats
    q: Floats
    policy: Floats
    method: str
    criterion: str
    gamma: float
    iterations: int
    residual: float
    error_bound: float
    converged: bool
    gain: float | None = None
    bias: Floats | None = None
    horizon: int | None = None
    note: str = ""
