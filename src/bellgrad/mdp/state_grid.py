"""Continuous states on a grid, with multilinear interpolation between its points.

A next state inside a cell of the grid is spread over the corners of the cell:

    x' = sum_i w_i x_i,   w_i >= 0,   sum_i w_i = 1,   v(x') = sum_i w_i v(x_i)

The weights are probabilities, so that the result is a finite MDP that every solver accepts, and its values at
the points of the grid are those of the interpolated value function. The value of a smooth problem converges
with the square of the distance of the points; if V* is convex, it is approached from above, if concave, from
below.

Source: Davies 1996, "Multidimensional triangulation and interpolation for reinforcement learning"; Rust 1996,
"Numerical dynamic programming in economics", section 6.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bellgrad.core.errors import UsageError, unknown
from bellgrad.mdp import build
from bellgrad.mdp.checks import array, number
from bellgrad.mdp.model import FiniteMDP, Floats

OUTSIDE = ("refuse", "clip")
LARGEST = 1e300  # coordinate
ROUNDING = 1e-9  # of a grid's width: a point this far outside is on the edge


class StateGrid:
    """A rectangular grid of states.

    Args:
        axes: the coordinates in each dimension, rising, two or more each; for one dimension also a single
            array.
        outside: what happens to a point outside: `refuse` raises an error, `clip` moves it to the edge.

    Attributes:
        axes: the coordinates in each dimension, float64.
        points: `[S, D]` the points, the last dimension runs fastest.

    Raises:
        UsageError: an axis is not a rising array of numbers.
    """

    def __init__(
        self, axes: ArrayLike | Sequence[ArrayLike], *, outside: Literal["refuse", "clip"] = "refuse"
    ):
        if outside not in OUTSIDE:
            raise unknown("choice for points outside", str(outside), OUTSIDE)
        if not np.iterable(axes):
            raise UsageError(f"axes must be an array of coordinates, or one per dimension; got {axes!r}")
        parts = list(axes)
        given = [parts] if not parts or np.ndim(parts[0]) == 0 else parts
        self.axes = tuple(array(f"axis {i}", axis).astype(np.float64) for i, axis in enumerate(given))
        for i, axis in enumerate(self.axes):
            if axis.ndim != 1 or len(axis) < 2 or not (axis[1:] > axis[:-1]).all():
                raise UsageError(f"axis {i} must be two or more rising numbers, got shape {axis.shape}")
            if max(-axis[0], axis[-1]) > LARGEST:
                raise UsageError(
                    f"axis {i} goes from {axis[0]:g} to {axis[-1]:g}, too far; use a larger unit"
                )
        self.outside = outside
        self.points = np.stack(np.meshgrid(*self.axes, indexing="ij"), axis=-1).reshape(-1, len(self.axes))

    @property
    def num_states(self) -> int:
        """`S`."""
        return len(self.points)

    def weights(self, points: ArrayLike) -> tuple[NDArray[np.int64], Floats]:
        """The corners of the cells of points, and their weights.

        Args:
            points: `[K, D]`, or `[K]` on a grid of one dimension.

        Returns:
            `[K, 2^D]` numbers of states, and `[K, 2^D]` weights, at least 0, whose rows sum to one.

        Raises:
            UsageError: the shape is wrong, or a point is outside and `outside` is `refuse`.
        """
        where = array("points", points)
        dimensions = len(self.axes)
        if where.ndim == 1 and dimensions == 1:
            where = where[:, None]
        if where.ndim != 2 or where.shape[1] != dimensions:
            raise UsageError(f"points has shape {where.shape}; expected [K, D] with D = {dimensions}")
        cells, shares = [], []
        for d, axis in enumerate(self.axes):
            x = where[:, d]
            slack = ROUNDING * (axis[-1] - axis[0])
            out = (x < axis[0] - slack) | (x > axis[-1] + slack)
            if self.outside == "refuse" and out.any():
                raise UsageError(
                    f"the point {where[out.argmax()].tolist()} is outside the grid: axis {d} goes from"
                    f" {axis[0]:g} to {axis[-1]:g}; make it longer, or move points to the edge with"
                    " outside='clip'"
                )
            x = np.clip(x, axis[0], axis[-1])
            cell = np.clip(np.searchsorted(axis, x, side="right") - 1, 0, len(axis) - 2)
            cells.append(cell)
            shares.append((x - axis[cell]) / (axis[cell + 1] - axis[cell]))
        index = np.zeros((len(where), 2**dimensions), np.int64)
        weight = np.ones((len(where), 2**dimensions))
        for corner, upper in enumerate(product((0, 1), repeat=dimensions)):
            for d, (up, axis) in enumerate(zip(upper, self.axes, strict=True)):
                index[:, corner] = index[:, corner] * len(axis) + cells[d] + up
                weight[:, corner] *= shares[d] if up else 1 - shares[d]
        return index, weight

    def interpolate(self, values: ArrayLike, points: ArrayLike) -> Floats:
        """Values between the points of the grid.

        Args:
            values: `[S, ...]` at the points of the grid, for example a solution's `value`, `q` or `policy`.
            points: `[K, D]`, or `[K]` on a grid of one dimension.

        Returns:
            `[K, ...]`.

        Raises:
            UsageError: a shape is wrong, or a point is outside and `outside` is `refuse`.
        """
        known = np.asarray(values)
        if known.ndim < 1 or len(known) != self.num_states:
            raise UsageError(f"values has shape {known.shape}; expected [S, ...] with S = {self.num_states}")
        index, weight = self.weights(points)
        return np.einsum("kc,kc...->k...", weight, known[index])

    def mdp(
        self,
        actions: Sequence[Any],
        outcomes: Callable[[Any, Any], Iterable[tuple[float, Any, float, bool]]],
        *,
        initial: Any = None,
        costs: bool = False,
        **other_fields: Any,
    ) -> FiniteMDP:
        """The finite MDP of a problem with continuous states.

        Args:
            actions: all actions, anything that `outcomes` understands; they are named by `str`.
            outcomes: a function of a state, `[D]` or a float on a grid of one dimension, and an action. It
                returns `[(probability, next state, reward, terminated), ...]`, next states anywhere; an empty
                list if the action is illegal.
            initial: the first state, anywhere, or a dictionary of states (tuples) and their probabilities;
                None for a uniform distribution over the grid.
            costs: whether the function returns costs, to be minimized: their sign is then changed.
            other_fields: other fields of `FiniteMDP`: names and time limit.

        Raises:
            UsageError: the function returns something else, a next state is outside and `outside` is
                `refuse`, or `FiniteMDP` refuses the numbers; the message names state and action.
        """
        if not np.iterable(actions):
            raise UsageError(f"actions must be a list of actions; got {actions!r}")
        actions = list(actions)
        alone = len(self.axes) == 1
        counts: list[int] = []
        chances: list[float] = []
        rewards: list[float] = []
        ends: list[bool] = []
        targets: list[Any] = []
        for point in self.points:
            state = float(point[0]) if alone else point.copy()
            for action in actions:
                before = len(chances)
                where = f"state {point.tolist()}, action {action!r}"
                try:
                    for chance, target, reward, ended in outcomes(state, action):
                        chances.append(number("probability", chance))
                        rewards.append(number("reward", reward))
                        if not isinstance(ended, (bool, np.bool_)) and ended not in (0, 1):
                            raise UsageError(f"terminated = {ended!r} must be true or false")
                        ends.append(bool(ended))
                        # Where an episode ends does not matter, and may be outside.
                        targets.append(point if ended else np.reshape(np.asarray(target, float), len(point)))
                        if not np.isfinite(targets[-1]).all():
                            raise UsageError(f"the next state {target!r} must be finite")
                except (TypeError, ValueError) as error:
                    raise UsageError(
                        f"{where}: expected outcomes (probability, next state, reward, terminated): {error}"
                    ) from error
                except UsageError as error:
                    raise UsageError(f"{where}: {error}") from error
                counts.append(len(chances) - before)
        if not chances:
            raise UsageError("no action has an outcome in any state")
        pair = np.repeat(np.arange(len(counts)), counts)
        try:
            index, weight = self.weights(np.array(targets))
        except UsageError:
            self._name_outside(actions, pair, targets)
            raise
        spread = weight * np.array(chances)[:, None]
        kept = weight > 0
        per_pair = np.bincount(pair, kept.sum(axis=1), minlength=len(counts)).astype(np.int64)
        offset = build.offsets(per_pair)
        corners = kept.shape[1]
        reward = np.repeat(rewards, corners).reshape(kept.shape)[kept]
        return FiniteMDP(
            len(actions),
            offset,
            spread[kept],
            index[kept].astype(offset.dtype),
            -reward if costs else reward,
            np.repeat(ends, corners).reshape(kept.shape)[kept],
            self._start(initial),
            **{"action_names": tuple(map(str, actions)), "state_names": self._names()} | other_fields,
        )

    def _name_outside(self, actions: list[Any], pair: NDArray[np.int64], targets: list[Any]) -> None:
        """Raise the error of the first next state outside, with its state and action."""
        for at, target in zip(pair.tolist(), targets, strict=True):
            try:
                self.weights(np.array([target]))
            except UsageError as error:
                state, action = divmod(at, len(actions))
                where = f"state {self.points[state].tolist()}, action {actions[action]!r}"
                raise UsageError(f"{where}: {error}") from None

    def _names(self) -> tuple[str, ...]:
        if len(self.axes) == 1:
            return tuple(f"{x:.6g}" for x in self.axes[0])
        return tuple("(" + ", ".join(f"{x:.6g}" for x in point) + ")" for point in self.points)

    def _start(self, initial: Any) -> Floats:
        if initial is None:
            return np.full(self.num_states, 1 / self.num_states)
        given = initial if isinstance(initial, Mapping) else None
        states = [np.ravel(array("initial", state)) for state in (given or [initial])]
        given_chances = given.values() if given else [1.0]
        chances = [number("the probability of an initial state", chance) for chance in given_chances]
        index, weight = self.weights(np.array(states))
        distribution = np.zeros(self.num_states)
        np.add.at(distribution, index, weight * np.array(chances)[:, None])
        return distribution
