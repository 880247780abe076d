"""The style of all figures, and how they are written: no pyplot, no window, no global state changed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from bellgrad.core.errors import UsageError
from bellgrad.report.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Theme = Literal["light", "dark"]


class Ink(NamedTuple):
    """The colors of a theme, as matplotlib reads them."""

    paper: str
    text: str
    quiet: str
    grid: str
    lines: tuple[str, ...]


# Lines: Okabe and Ito's palette, which people with any common color blindness can tell apart; yellow is too
# pale, so gray replaces it. The dark theme has the same hues, lighter.
INK = {
    "light": Ink(
        paper="#ffffff",
        text="#1f2328",
        quiet="#656d76",
        grid="#e7e9ec",
        lines=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f"),
    ),
    "dark": Ink(
        paper="#161b22",
        text="#e6edf3",
        quiet="#9198a1",
        grid="#2a313a",
        lines=("#4aa3df", "#ff8a4c", "#2ec49a", "#e5a0c5", "#f3bb45", "#9ad4f5", "#aab0b8"),
    ),
}


@contextmanager
def figure_in_style(size: tuple[float, float], theme: Theme) -> Iterator["Figure"]:
    """A figure of `size` (width and height in inches), to be drawn on and saved inside the block."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ink = INK[theme]
    style = {
        "text.parse_math": False,  # a name with two dollars is a name
        "text.usetex": False,
        "font.family": "sans-serif",
        "font.size": 9.5,
        "figure.facecolor": ink.paper,
        "savefig.facecolor": ink.paper,
        "axes.facecolor": ink.paper,
        "text.color": ink.text,
        "axes.labelcolor": ink.quiet,
        "axes.titlecolor": ink.text,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.edgecolor": ink.grid,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": ink.grid,
        "grid.linewidth": 0.8,
        "xtick.color": ink.grid,
        "ytick.color": ink.grid,
        "xtick.labelcolor": ink.quiet,
        "ytick.labelcolor": ink.quiet,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "lines.linewidth": 1.8,
        "lines.solid_capstyle": "round",
        "legend.frameon": False,
        "legend.handlelength": 1.6,
        "svg.hashsalt": "bellgrad",  # the same figure gives the same bytes
    }
    with matplotlib.rc_context(style):
        figure = Figure(size, dpi=160, layout="constrained")
        FigureCanvasAgg(figure)
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
        yield figure


def save(figure: "Figure", out: Path) -> None:
    """Write the figure whole or not at all; the same figure gives the same bytes."""
    with replacing(out) as temporary:
        figure.savefig(temporary, metadata={"Date": None} if out.suffix.lower() == ".svg" else None)


def checked_path(out: Path | str) -> Path:
    """`out` as a path that ends in `.png`, `.svg` or `.pdf`.

    Raises:
        UsageError: the suffix is none of these three.
    """
    out = Path(out)
    if out.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UsageError(f"a figure is written as .png, .svg or .pdf, not {out.name!r}")
    return out
