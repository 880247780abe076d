"""The result of a solver."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bellgrad.mdp import frames, saving
from bellgrad.mdp.model import FiniteMDP, Floats, check_mdp


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

    def save(self, path: str | Path) -> None:
        """Write the solution to a file, from which `Solution.load` gives the same bits; an older file of this
        name is replaced.

        Raises:
            CheckpointError: the file cannot be written; an older one is then intact.
        """
        saving.save(path, "solution", self)

    @classmethod
    def load(cls, path: str | Path) -> Solution:
        """A solution from a file that `save` wrote.

        Raises:
            CheckpointError: there is no such file, it is damaged, or it holds something else.
        """
        return saving.load(path, "solution", cls)

    def to_rows(self, mdp: FiniteMDP | None = None, by: str = "state") -> list[dict[str, Any]]:
        """The solution as a list of dictionaries.

        Args:
            mdp: the problem, for the names of states and actions; None, or names that are not unique, gives
                their numbers.
            by: `state`, with value, bias if there is one, the first of the best actions, and `q(...)` and
                `policy(...)` of each action, -inf and 0 if it is illegal; or `pair`, with q and policy of
                each legal pair. With a horizon there is a column `step` too, and a last step of values only.

        Raises:
            UsageError: the MDP has another size, or `by` is something else.
        """
        return frames.as_rows(frames.solution_table(self, None if mdp is None else check_mdp(mdp), by))

    def to_frame(self, mdp: FiniteMDP | None = None, by: str = "state") -> Any:
        """The rows of `to_rows` as a `pandas.DataFrame`.

        Raises:
            UsageError: as `to_rows`, or pandas is not installed.
        """
        return frames.as_frame(frames.solution_table(self, None if mdp is None else check_mdp(mdp), by))
