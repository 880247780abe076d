"""The pictures of `docs/policy-gradients.md`, of what `estimators.py` measured: by the name of their file,
how to draw them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bellgrad.report.figures import INK, figure_in_style, save

INKS = INK["light"]
UNBIASED, BIASED = INKS.lines[0], INKS.lines[1]
STATES = ("1", "2", "3", "4")  # in the fifth both actions end the episode, and the gradient is 0
RIGHT = 1


def means(results: Mapping[str, Any], out: Path) -> None:
    """Every estimator's mean with two standard errors, the exact gradient, and the exact mean if it is
    another."""
    stored = results["corridor"]
    names = list(stored["estimators"])
    height = np.arange(len(names))[::-1]
    with figure_in_style((9.5, 4.2), "light") as figure:
        panels = figure.subplots(1, len(STATES), sharey=True)
        for state, axes in enumerate(panels):
            exact = stored["exact"][state][RIGHT]
            axes.axvline(exact, color=INKS.text, linewidth=1)
            for y, name in zip(height, names, strict=True):
                row = stored["estimators"][name]
                mean, error, expected = (
                    row[key][state][RIGHT] for key in ("mean", "standard_error", "expected")
                )
                color = _color(row, stored["exact"])
                axes.errorbar(mean, y, xerr=2 * error, fmt="o", markersize=4, color=color, linewidth=1.4)
                axes.plot([expected, expected], [y - 0.35, y + 0.35], color=color, linewidth=1.2)
            axes.set_title(f"state {STATES[state]}")
            axes.grid(False, axis="y")
            axes.margins(x=0.12)
        panels[0].set_yticks(height, names)
        figure.supxlabel("derivative of J in the preference for going right", color=INKS.quiet, fontsize=9.5)
        save(figure, out)


def variances(results: Mapping[str, Any], out: Path) -> None:
    """The variance of one episode's estimate, estimator by estimator."""
    stored = results["corridor"]
    rows = stored["estimators"]
    height = np.arange(len(rows))[::-1]
    with figure_in_style((7.5, 3.8), "light") as figure:
        axes = figure.subplots()
        numbers = [row["variance"] for row in rows.values()]
        axes.barh(height, numbers, height=0.65, color=[_color(row, stored["exact"]) for row in rows.values()])
        for y, number in zip(height, numbers, strict=True):
            axes.annotate(
                f"{number:.3g}",
                (number, y),
                (4, 0),
                textcoords="offset points",
                va="center",
                color=INKS.quiet,
            )
        axes.set_xscale("log")
        axes.set_xlim(0.5, 2_000)
        axes.set_yticks(height, list(rows))
        axes.set_xlabel("variance of the estimate from one episode")
        axes.grid(False, axis="y")
        axes.grid(True, axis="x")
        save(figure, out)


def trade_off(results: Mapping[str, Any], out: Path) -> None:
    """GAE with a wrong critic: squared bias, variance and their sum for the mean of a hundred episodes."""
    rows = results["corridor"]["lambdas"]
    lambdas = [float(name) for name in rows]
    exact, measured, variance = (
        np.array([row[key] for row in rows.values()])
        for key in ("bias_squared", "measured_bias_squared", "variance")
    )
    with figure_in_style((7.5, 3.6), "light") as figure:
        axes = figure.subplots()
        axes.plot(lambdas, exact, color=BIASED, label="bias squared, computed")
        axes.plot(
            lambdas,
            measured,
            "o",
            color=BIASED,
            markersize=4.5,
            clip_on=False,
            label="bias squared, measured",
        )
        axes.plot(lambdas, variance / 100, color=UNBIASED, label="variance of the mean of 100 episodes")
        axes.plot(
            lambdas,
            exact + variance / 100,
            color=INKS.text,
            linestyle=(0, (5, 2)),
            label="their sum, the expected squared error",
        )
        axes.set_xlabel("lambda")
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper center")
        save(figure, out)


def quadratic(results: Mapping[str, Any], out: Path) -> None:
    """Pathwise and score function on a quadratic: lines from the formulas, points measured."""
    panels = {
        "sigmas": "standard deviation of x, in 1 dimension",
        "dimensions": "dimensions of x, at standard deviation 0.5",
    }
    with figure_in_style((9.5, 3.6), "light") as figure:
        for axes, (panel, label) in zip(figure.subplots(1, 2, sharey=True), panels.items(), strict=True):
            rows = results["quadratic"][panel]
            at = [float(x) for x in rows]
            for color, name in zip(INKS.lines, next(iter(rows.values())), strict=False):
                axes.plot(at, [row[name]["formula"] for row in rows.values()], color=color, label=name)
                axes.plot(
                    at, [row[name]["variance"] for row in rows.values()], "o", color=color, markersize=4.5
                )
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xticks(at, list(rows))
            axes.minorticks_off()
            axes.set_xlabel(label)
        figure.axes[0].set_ylabel("variance of one draw's estimate")
        figure.axes[1].legend(loc="upper left")
        save(figure, out)


def _color(row: Mapping[str, Any], exact: Any) -> str:
    return UNBIASED if np.allclose(row["expected"], exact, atol=1e-9) else BIASED


PICTURES: dict[str, Callable[[Mapping[str, Any], Path], None]] = {
    "estimator-means.svg": means,
    "estimator-variances.svg": variances,
    "gae-bias-and-variance.svg": trade_off,
    "pathwise-and-score-function.svg": quadratic,
}
