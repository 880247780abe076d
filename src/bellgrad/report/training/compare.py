"""Which of several algorithms is better, and how sure a handful of seeds can make us."""

from collections.abc import Callable, Iterable
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bellgrad.core.errors import UsageError
from bellgrad.report.statistics import bootstrap_interval, interquartile_mean, probability_of_improvement
from bellgrad.report.tables import format_number
from bellgrad.report.training.experiments import group_runs
from bellgrad.report.training.series import read_series
from bellgrad.runs.reading import read_evaluation

if TYPE_CHECKING:
    from rich.console import RenderableType


def _from_evaluation(run: Path) -> float | None:
    return (read_evaluation(run) or {}).get("return_mean")


def _from_last_evaluation(run: Path) -> float | None:
    _, values = read_series(run, "eval_return_mean")
    return float(values[-1]) if values.size else None


def _from_last_tenth(run: Path) -> float | None:
    steps, values = read_series(run, "episode_return_mean")
    return float(values[steps >= 0.9 * steps[-1]].mean()) if values.size else None


SOURCES: dict[str, Callable[[Path], float | None]] = {  # best first
    "evaluation.json": _from_evaluation,
    "last eval_return_mean in metrics.jsonl": _from_last_evaluation,
    "episode_return_mean over the last 10% of steps": _from_last_tenth,
}


def final_performance(runs: Iterable[Path]) -> tuple[dict[Path, float], str]:
    """The final return of every run, all from the same source, and the name of that source.

    The best source that every run has is used: an evaluation is never compared with a training return.

    Raises:
        UsageError: no source is available for every run.
    """
    runs = list(runs)
    for source, read in SOURCES.items():
        scores = {run: read(run) for run in runs}
        if None not in scores.values():
            return scores, source
    empty = [str(run) for run, score in scores.items() if score is None]
    raise UsageError(
        f"no final return in {', '.join(empty)}: not evaluated, and no episode ended in training"
    )


def compare(runs: Iterable[Path | str]) -> dict[str, Any]:
    """The final performance of every experiment with intervals, and a comparison of every pair in the same
    environment.

    Args:
        runs: run folders and folders of seeds, preferably several seeds of each experiment.

    Returns:
        A dictionary that can be written as JSON. `groups`: for each experiment `label, algorithm, env, seeds,
        source, scores`, and `iqm` and `mean`, each `{"value", "low", "high"}` (95% bootstrap; low and high
        are None for a single seed). `improvement`: for each pair `x, y, env, probability, low, high`: the
        probability that a run of x beats a run of y.

    Raises:
        UsageError: no run was given, or a run has no final return.
    """
    experiments = group_runs(runs)
    if not experiments:
        raise UsageError("nothing to compare: no run was given")
    finals = {
        env: final_performance(
            run for experiment in experiments if experiment.env == env for run in experiment.runs
        )
        for env in dict.fromkeys(experiment.env for experiment in experiments)
    }
    groups = []
    for experiment in experiments:
        final, source = finals[experiment.env]
        scores = [final[run] for run in experiment.runs]
        groups.append(
            {
                "label": experiment.label,
                "algorithm": experiment.algorithm,
                "env": experiment.env,
                "seeds": len(scores),
                "source": source,
                "iqm": _estimate(scores, interquartile_mean),
                "mean": _estimate(scores, np.mean),
                "scores": scores,
            }
        )
    pairs = []
    for a, b in combinations(groups, 2):
        if a["env"] == b["env"]:
            improvement = probability_of_improvement(a["scores"], b["scores"])
            several = min(a["seeds"], b["seeds"]) > 1
            pairs.append(
                {
                    "x": a["label"],
                    "y": b["label"],
                    "env": a["env"],
                    "probability": improvement.value,
                    "low": improvement.low if several else None,
                    "high": improvement.high if several else None,
                }
            )
    return {"groups": groups, "improvement": pairs}


def _estimate(scores: list[float], statistic: Callable[..., Any]) -> dict[str, float | None]:
    """A statistic with its interval; a single seed has none."""
    low, high = bootstrap_interval(scores, statistic) if len(scores) > 1 else (None, None)
    return {
        "value": float(statistic(np.asarray(scores))),
        "low": None if low is None else float(low),
        "high": None if high is None else float(high),
    }


def comparison_table(result: dict[str, Any]) -> "RenderableType":
    """The result of `compare` for a rich console: a table of experiments, and one of pairs."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Final return", title_justify="left", title_style="bold", caption_justify="left")
    for heading in ("algorithm", "environment"):
        table.add_column(heading)
    for heading in ("seeds", "interquartile mean [95%]", "mean [95%]"):
        table.add_column(Text(heading), justify="right")
    for group in result["groups"]:
        row = (
            group["label"],
            group["env"],
            str(group["seeds"]),
            _with_interval(group["iqm"]),
            _with_interval(group["mean"]),
        )
        table.add_row(*map(Text, row))
    sources = {group["env"]: group["source"] for group in result["groups"]}
    table.caption = "\n".join(
        dict.fromkeys(
            f"from {source}{'' if len(set(sources.values())) == 1 else f' ({env})'}"
            for env, source in sources.items()
        )
    )
    if not result["improvement"]:
        return table
    pairs = Table(title="Probability of improvement", title_justify="left", title_style="bold")
    for heading in ("a run of", "beats a run of", "environment"):
        pairs.add_column(heading)
    pairs.add_column(Text("with probability [95%]"), justify="right")
    for pair in result["improvement"]:
        probability = f"{pair['probability']:.2f}" + (
            f" [{pair['low']:.2f}, {pair['high']:.2f}]" if pair["low"] is not None else ""
        )
        pairs.add_row(*map(Text, (pair["x"], pair["y"], pair["env"], probability)))
    return Group(table, pairs)


def _with_interval(estimate: dict[str, float | None]) -> str:
    value = format_number(estimate["value"])
    return (
        value
        if estimate["low"] is None
        else f"{value} [{format_number(estimate['low'])}, {format_number(estimate['high'])}]"
    )
