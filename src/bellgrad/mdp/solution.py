"""The result of a solver."""

from dataclasses import dataclass

from bellgrad.mdp.model import Floats


@dataclass(frozen=True, eq=False)
class Solution:
    """An optimal value and policy, or a policy and its value, with measures of their accuracy.

    Attributes:
        value: `[S]` float; `[H+1, S]` with a horizon, `value[t]` from step t on.
        q: `[S, A]` float, -inf if the action is illegal; `[H, S, A]` with a horizon.
        policy: `[S, A]` float, rows are probabilities, equal for all best actions; `[H, S, A]` with a
            horizon. Actions count as best if the error bound or rounding cannot separate them from the best.
        method: the solver's name.
        criterion: `discounted`, `total` or `average`.
        gamma: the discount; 1 if there is none.
        iterations: of the method's outer loop.
        residual: `max |T v - v|` of the Bellman operator T at `value`, measured at the end.
        error_bound: `max |value - true value|` is at most this, except for rounding.
        converged: whether `error_bound` is within the tolerance; without a discount also if it is only
            rounding.
        gain: the average reward per step from the start distribution; only with `criterion="average"`.
        gains: `[S]` the average reward per step from each state; only with `criterion="average"`.
        bias: `[S]` the relative value; only with `criterion="average"`.
        horizon: steps, or None.
        note: which choices the solver made and why, in one line; empty if none.
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
    gains: Floats | None = None
    bias: Floats | None = None
    horizon: int | None = None
    note: str = ""
