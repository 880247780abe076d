"""Learning curves: a line for one run, or a mean with a 95% bootstrap band for several seeds."""

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bellgrad.core.errors import UsageError, unknown
from bellgrad.report.figures import INK, Theme, checked_path, figure_in_style, save
from bellgrad.report.statistics import bootstrap_interval, interquartile_mean
from bellgrad.report.tables import format_number, plain_name, short_count
from bellgrad.report.training.experiments import group_runs
from bellgrad.report.training.series import read_series, series_of
from bellgrad.runs.reading import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GRID = 256  # steps to which seeds are interpolated
STATISTICS = {"iqm": (interquartile_mean, "interquartile mean"), "mean": (np.mean, "mean")}
LABELS = {
    "episode_return_mean": "Episode return",
    "episode_length_mean": "Episode length (steps)",
    "eval_return_mean": "Evaluation return",
    "eval_length_mean": "Evaluation episode length (steps)",
    "steps_per_second": "Environment steps per second",
}
COMMON = {"step", "time", "updates", "eval_return_std", *LABELS}  # metrics that every run has

DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)))  # the eighth line takes the first color again, dashed


def plot(
    runs: Iterable[Path | str],
    out: Path,
    key: str = "episode_return_mean",
    statistic: Literal["iqm", "mean"] = "iqm",
    theme: Theme = "light",
) -> Path:
    """Draw the learning curves of runs: a color for each experiment, a panel for each environment.

    The seeds of an experiment are interpolated linearly to common steps, which every seed has reached. So an
    unfinished seed shortens the curve, and every average is over all seeds.

    Args:
        runs: run folders and folders of seeds.
        out: `.png`, `.svg` or `.pdf`.
        key: the metric, a name in `metrics.jsonl`.
        statistic: over the seeds, drawn with its 95% bootstrap interval.
        theme: for a light or a dark background.

    Returns:
        `out`.

    Raises:
        UsageError: no run has the metric, seeds have no step in common, or an argument is unknown.
    """
    out = checked_path(out)
    if statistic not in STATISTICS:
        raise unknown("statistic", statistic, STATISTICS)
    experiments = group_runs(runs)
    drawn = []
    for experiment in experiments:
        curves = [curve for run in experiment.runs if (curve := read_series(run, key))[0].size]
        if curves:
            drawn.append((experiment, curves))
    if not drawn:
        known = {
            name
            for experiment in experiments
            for run in experiment.runs
            for row in read_metrics(run)
            for name in row
        }
        if not known:
            raise UsageError("nothing to plot: no run has logged a line yet")
        if key in known:
            raise UsageError(f"nothing to plot: no run has a value of {key} yet")
        raise UsageError(f"nothing to plot: {unknown('metric', key, known - {'step'})}")

    panels = list(dict.fromkeys(experiment.env for experiment, _ in drawn))
    labels = list(dict.fromkeys(experiment.label for experiment, _ in drawn))
    colors = INK[theme].lines
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with figure_in_style(
        (7.2, 4.4) if len(panels) == 1 else (4.0 * columns, 3.0 * rows + 0.8), theme
    ) as figure:
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax, env in zip(axes, panels, strict=False):
            ax.set_title(plain_name(env))
            ax.set_xlabel("Environment steps")
            ax.set_ylabel(_label(key))
            for experiment, curves in drawn:
                if experiment.env == env:
                    number = labels.index(experiment.label)
                    style = {
                        "color": colors[number % len(colors)],
                        "linestyle": DASHES[number // len(colors) % len(DASHES)],
                    }
                    _draw(ax, curves, statistic, experiment.label, style)
            _finish(ax)
        for ax in axes[len(panels) :]:
            ax.remove()
        several = any(len(curves) > 1 for _, curves in drawn)
        if several:
            note = f"Line: {STATISTICS[statistic][1]} over seeds. Band: 95% bootstrap interval."
            figure.supxlabel(note, x=0.015, ha="left", fontsize=8, color=INK[theme].quiet)
        if several or len(labels) > 1:
            _legend(figure, axes[: len(panels)], labels, drawn)
        save(figure, out)
    return out


def plot_run(run: Path, out: Path, theme: Theme = "light") -> Path:
    """Draw one run: the training return as a line, evaluations as points with one standard deviation.

    Args:
        run: a run folder.
        out: `.png`, `.svg` or `.pdf`.
        theme: for a light or a dark background.

    Returns:
        `out`.

    Raises:
        UsageError: the run has logged no return yet.
    """
    out = checked_path(out)
    rows = read_metrics(run)
    training, evaluation = series_of(rows, "episode_return_mean"), series_of(rows, "eval_return_mean")
    if not training[0].size and not evaluation[0].size:
        raise UsageError(f"nothing to plot: {run} has logged no return yet")
    with figure_in_style((7.2, 3.8), theme) as figure:
        ax = figure.subplots()
        ax.set_xlabel("Environment steps")
        ax.set_ylabel("Episode return")
        if training[0].size:
            marker = "o" if training[0].size == 1 else ""
            ax.plot(*training, color=INK[theme].lines[0], label="training", marker=marker)
        if evaluation[0].size:
            spread = dict(zip(*series_of(rows, "eval_return_std"), strict=True))
            bars = [spread.get(step, 0.0) for step in evaluation[0]]
            dots = {"fmt": "o", "markersize": 5, "elinewidth": 1.2, "zorder": 3}
            ax.errorbar(
                *evaluation,
                yerr=bars,
                color=INK[theme].lines[1],
                label="evaluation, ± one standard deviation",
                **dots,
            )
        _finish(ax)
        figure.legend(loc="outside upper left", ncols=2)
        save(figure, out)
    return out


def plot_diagnostics(run: Path, out: Path, theme: Theme = "light") -> bool:
    """Draw what the algorithm itself logged (losses, entropy, ...), in up to twelve small panels.

    Args:
        run: a run folder.
        out: `.png`, `.svg` or `.pdf`.
        theme: for a light or a dark background.

    Returns:
        Whether there was anything to draw.
    """
    out = checked_path(out)
    rows = read_metrics(run)
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in COMMON]
    curves = {name: curve for name in names if (curve := series_of(rows, name))[0].size > 1}
    if not curves:
        return False
    shown = list(curves.items())[:12]
    columns = min(4, len(shown))
    lines = -(-len(shown) // columns)
    with figure_in_style((7.2, 1.55 * lines + 0.1), theme) as figure:
        axes = figure.subplots(lines, columns, squeeze=False).ravel()
        for ax, (name, curve) in zip(axes, shown, strict=False):
            ax.plot(*curve, color=INK[theme].lines[0], linewidth=1.2)
            ax.set_title(textwrap.fill(name.replace("_", " "), 20), fontsize=8, fontweight="normal")
            ax.tick_params(labelsize=7)
            ax.locator_params(nbins=3)
            _finish(ax)
        for ax in axes[len(shown) :]:
            ax.remove()
        save(figure, out)
    return True


def _draw(
    ax: "Axes", curves: list[tuple[np.ndarray, np.ndarray]], statistic: str, label: str, style: dict[str, Any]
) -> None:
    """One experiment: a single run as it is, or several seeds as a line with a band."""
    if len(curves) == 1:
        ax.plot(*curves[0], label=label, marker="o" if curves[0][0].size == 1 else "", **style)
        return
    first, last = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    if first > last:
        raise UsageError(
            f"the seeds of {label} have no step in common: one starts at {first:,.0f}, one ends at"
            f" {last:,.0f}"
        )
    grid = np.linspace(first, last, GRID) if last > first else np.array([first])
    values = np.stack([np.interp(grid, *curve) for curve in curves])  # [n, G]
    function = STATISTICS[statistic][0]
    low, high = bootstrap_interval(values, function)
    ax.fill_between(grid, low, high, color=style["color"], alpha=0.18, linewidth=0)
    ax.plot(grid, function(values, axis=0), label=label, marker="o" if grid.size == 1 else "", **style)


def _legend(figure: "Figure", axes: Iterable["Axes"], labels: list[str], drawn: list[Any]) -> None:
    """One legend above all panels, with the number of seeds of each line."""
    handles = {line.get_label(): line for ax in axes for line in ax.get_lines()}
    texts = []
    for label in labels:
        counts = sorted({len(curves) for experiment, curves in drawn if experiment.label == label})
        seeds = " to ".join(map(str, counts[:1] + counts[1:][-1:])) + (" seed" if counts == [1] else " seeds")
        # a space before it, since matplotlib leaves a text out that begins with _
        name = " " * label.startswith("_") + plain_name(label)
        texts.append(textwrap.fill(f"{name}, {seeds}", 76, drop_whitespace=False))
    width = figure.get_figwidth() / 0.085  # characters that fit into one row
    columns = max(1, min(len(texts), int(width // (max(map(len, texts)) + 6))))
    # matplotlib fills column by column
    order = [i for column in range(columns) for i in range(column, len(labels), columns)]
    figure.legend(
        [handles[labels[i]] for i in order],
        [texts[i] for i in order],
        loc="outside upper left",
        ncols=columns,
    )


def _label(key: str) -> str:
    return LABELS.get(key) or key.replace("_", " ").capitalize()


def _finish(ax: "Axes") -> None:
    ax.margins(x=0.02)
    ax.xaxis.set_major_formatter(short_count)
    ax.yaxis.set_major_formatter(lambda value, _position: format_number(value).replace("-", "\N{MINUS SIGN}"))
