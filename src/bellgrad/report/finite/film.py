"""The sweeps of a solver as a film."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bellgrad.core.errors import UsageError
from bellgrad.mdp.model import FiniteMDP, Floats
from bellgrad.mdp.policies import greedy
from bellgrad.report.figures import INK, figure_in_style
from bellgrad.report.files import replacing
from bellgrad.report.finite.grid import color_bar, draw_values, panel, scale
from bellgrad.report.finite.shown import kinds
from bellgrad.report.tables import short_count
from bellgrad.report.video import record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GROWTH = 1.12  # of the distance between sweeps that are kept: about 60 of 5,000
FPS = 10
FILM_DPI = 110
LAST_FRAME = 2.0  # seconds that the last frame is shown
BARS = 60  # the most states that are drawn as bars


class Frame(NamedTuple):
    """What one frame shows."""

    sweep: int
    value: Floats  # [S]


class Sweeps:
    """Keeps some of a solver's sweeps for `animate`.

    `sweeps = Sweeps(); solve(mdp, on_sweep=sweeps); animate(mdp, sweeps, "sweeps.gif")`. The first sweeps
    change most, so all of them are kept; of later ones, fewer and fewer.
    """

    def __init__(self) -> None:
        self._kept: list[Frame] = []
        self._last: Frame | None = None
        self._count, self._next = 0, 1

    def __call__(self, sweep: int, value: Floats) -> None:
        """Take the values `[S]` after a sweep."""
        self._count += 1
        self._last = Frame(sweep, value.copy())
        if self._count >= self._next:
            self._kept.append(self._last)
            self._next = max(self._count + 1, round(self._count * GROWTH))

    @property
    def frames(self) -> list[Frame]:
        """The sweeps that were kept, and the last one."""
        return self._kept if self._last is None or self._kept[-1] is self._last else [*self._kept, self._last]


def animate(
    mdp: FiniteMDP, values: Sweeps | Iterable[Floats], out: Path | str, gamma: float | None = None
) -> Path:
    """Write a film of the values after each sweep: about 60 frames, all with the same color scale.

    Args:
        mdp: what was solved; a grid is drawn as one, the states of any other MDP as bars, or as a line if
            there are many.
        values: a `Sweeps`, or the values `[S]` after each sweep.
        out: `.gif` or `.mp4`; the latter needs the extra `video`.
        gamma: the discount; if given, a grid has the arrows of the greedy policy for the values.

    Returns:
        `out`.

    Raises:
        UsageError: another suffix, no sweep at all, or a missing extra.
    """
    out = checked_film_path(out)
    if not isinstance(values, Sweeps):
        kept = Sweeps()
        for sweep, value in enumerate(values, start=1):
            kept(sweep, value)
        values = kept
    if not values.frames:
        raise UsageError("there is no sweep to animate: this method has none")
    pictures = (
        _draw_grid(mdp, values.frames, gamma) if mdp.grid is not None else _draw_states(mdp, values.frames)
    )
    if out.suffix.lower() == ".mp4":
        *most, last = pictures
        return record([*most, *[last] * round(LAST_FRAME * FPS)], out, FPS)
    return _write_gif(list(pictures), out)


def checked_film_path(out: Path | str) -> Path:
    """`out` as a path that ends in `.gif` or `.mp4`.

    Raises:
        UsageError: the suffix is neither of these.
    """
    out = Path(out)
    if out.suffix.lower() not in (".gif", ".mp4"):
        raise UsageError(f"an animation is written as .gif or .mp4, not {out.name!r}")
    return out


def _draw_grid(mdp: FiniteMDP, frames: list[Frame], gamma: float | None) -> Iterator[NDArray[np.uint8]]:
    what, size = kinds(mdp), panel(mdp)
    norm = scale(np.stack([frame.value[what.open] for frame in frames]))
    with figure_in_style((size.width + 1.25, size.height + 0.5), "light") as figure:
        ax = figure.subplots()
        for frame in frames:
            ax.clear()
            policy = None if gamma is None else greedy(mdp, frame.value, gamma=gamma)
            color_bar(
                ax, draw_values(ax, mdp, what, frame.value, policy, norm, size.cell), "Value", size.width
            )
            yield _picture(figure, ax, frame)


def _draw_states(mdp: FiniteMDP, frames: list[Frame]) -> Iterator[NDArray[np.uint8]]:
    """Bars in the order of the states, or a line over the states in the order of their final values."""
    everything = np.stack([frame.value for frame in frames])
    low, high = min(float(everything.min()), 0.0), max(float(everything.max()), 0.0)
    margin = 0.03 * ((high - low) or 1.0)
    few = mdp.num_states <= BARS
    order = np.arange(mdp.num_states) if few else np.argsort(-frames[-1].value, kind="stable")
    with figure_in_style((7.2, 3.8), "light") as figure:
        ax = figure.subplots()
        for frame in frames:
            ax.clear()
            draw = ax.bar if few else ax.plot
            draw(np.arange(mdp.num_states), frame.value[order], color=INK["light"].lines[0])
            ax.set(
                ylim=(low - margin, high + margin),
                ylabel="Value",
                xlabel="State" if few else "States, sorted by their final values",
            )
            ax.xaxis.set_major_formatter(short_count)
            yield _picture(figure, ax, frame)


def _picture(figure: "Figure", ax: "Axes", frame: Frame) -> NDArray[np.uint8]:
    """The figure as `[H, W, 3]`. Only the first frame is laid out, so that the axes do not move."""
    ax.set_title(f"Sweep {frame.sweep:,}")
    figure.set_dpi(FILM_DPI)
    figure.canvas.draw()
    figure.set_layout_engine("none")
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def _write_gif(pictures: list[NDArray[np.uint8]], out: Path) -> Path:
    from PIL import Image

    # One palette for the whole film: with one for each frame, a value's color would flicker.
    palette = Image.fromarray(
        np.concatenate([pictures[0], pictures[len(pictures) // 2], pictures[-1]])
    ).quantize(256, kmeans=1)
    first, *others = [
        Image.fromarray(picture).quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures
    ]
    durations = [*[round(1000 / FPS)] * len(others), round(1000 * LAST_FRAME)]
    with replacing(out) as temporary:
        first.save(temporary, save_all=True, append_images=others, duration=durations, loop=0)
    return out
