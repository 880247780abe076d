"""The results as Markdown, for the terminal and for the documentation.

python benchmarks/tables.py
[speed|compile|memory|first_step|learning|planning|estimators|tabular|tabular_compile]
"""

import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from common import RESULTS, read_results

from bellgrad.core.registry import ALGORITHMS
from bellgrad.report.tables import format_duration, format_number, markdown_table


def speed_table(results: Mapping[str, Any]) -> str:
    """One line per ratio: both medians in environment steps per second, the ratio, its bar."""
    return markdown_table(
        (
            {
                **row,
                "ratio": _times(row["ratio"]),
                "bar": _times(row["bar"]) if row["peer"] else f"{row['bar']:,.0f} steps/s",
            }
            for row in results.values()
        ),
        {
            "title": "work",
            "engine": "engine",
            "ours_steps_per_second": "Bellgrad, steps/s",
            "peer": "peer",
            "peer_setting": "peer's setting",
            "peer_steps_per_second": "peer, steps/s",
            "ratio": "ratio",
            "bar": "bar",
            "met": "met",
        },
    )


def solve_table(results: Mapping[str, Any]) -> str:
    """One line a row: the median seconds of training until solved, ours and the peer's."""
    return markdown_table(
        (
            {**row, "ratio": _times(row["ratio"]), "bar": f"{row['bar']:g} s, {_times(row['ratio_bar'])}"}
            for row in results.values()
        ),
        {
            "title": "task",
            "algorithm": "algorithm",
            "ours_seconds": "Bellgrad, s",
            "ours_steps": "steps",
            "peer": "peer",
            "peer_seconds": "peer, s",
            "peer_steps": "its steps",
            "ratio": "ratio",
            "seeds": "seeds",
            "bar": "bar",
            "met": "met",
        },
    )


def compile_table(results: Mapping[str, Any]) -> str:
    """What compiling took, in the first call and again from the cache on disk."""
    rows = [row for row in results.values() if row.get("compile_seconds_cold") is not None]
    unique = {row["title"]: row for row in rows}
    return markdown_table(
        unique.values(),
        {
            "title": "work",
            "compile_seconds_cold": "first time, s",
            "compile_seconds_cached": "from the cache, s",
        },
    )


def memory_table(results: Mapping[str, Any]) -> str:
    """One line a run: its peak against what it must hold, in MiB."""
    megabytes = ("imports_bytes", "replay_bytes", "network_bytes", "peak_bytes")
    return markdown_table(
        ({**row, **{name: row[name] / 2**20 for name in megabytes}} for row in results["memory"].values()),
        {
            "title": "run",
            "engine": "engine",
            "imports_bytes": "imports, MiB",
            "replay_bytes": "replay or rollout, MiB",
            "network_bytes": "networks, MiB",
            "peak_bytes": "peak, MiB",
            "ratio": "peak / sum",
            "bar": "bar",
            "met": "met",
        },
    )


def first_step_table(results: Mapping[str, Any]) -> str:
    """From the command to the first environment step."""
    return markdown_table(
        results["first_step"].values(),
        {
            "title": "command",
            "seconds": "median, s",
            "seconds_most": "slowest, s",
            "bar": "bar, s",
            "met": "met",
        },
    )


def learning_table(results: Mapping[str, Any]) -> str:
    """One line a row: the statistic over seeds with its interval, against the bar."""
    lines = []
    for row in results.values():
        known = row["value"] is not None
        lines.append(
            {
                "title": (
                    f"{ALGORITHMS.find(row['settings']['algorithm']['name']).__name__} on"
                    f" {row['settings']['env']}"
                ),
                "settings_name": row["settings_name"],
                "steps": row["settings"]["steps"],
                "statistic": row["statistic"],
                "value": format_number(row["value"]) if known else None,
                "interval": f"{format_number(row['low'])} to {format_number(row['high'])}" if known else None,
                "seeds": len(row["seeds"]),
                "bar": f"{'at most' if row.get('at_most') else 'at least'} {format_number(row['bar'])}",
                "met": row["met"],
                "time": (
                    format_duration(statistics.mean(s["seconds"] for s in row["seeds"].values()))
                    if row["seeds"]
                    else None
                ),
            }
        )
    return markdown_table(
        lines,
        {
            "title": "task",
            "settings_name": "settings",
            "steps": "steps",
            "seeds": "seeds",
            "statistic": "statistic",
            "value": "return",
            "interval": "95% interval",
            "bar": "bar",
            "met": "met",
            "time": "training, a seed",
        },
    )


def planning_table(results: Mapping[str, Any]) -> str:
    """One line a ratio: seconds of both sides, what the values are off by, memory and bandwidth."""
    return markdown_table(
        (
            {
                **row,
                "ratio": _times(row["ratio"]),
                "bar": _times(row["bar"]) if row["peer"] else f"{format_number(row['bar'])} s",
                "value_error": _off(row["value_error"]),
                "peer_value_error": _off(row["peer_value_error"]),
                "memory_ratio": _times(row["memory_ratio"]),
                "bandwidth_share": f"{row['bandwidth_share']:.0%}",
            }
            for row in results.values()
            if row["ours_seconds"] is not None
        ),
        {
            "title": "MDP",
            "ours_seconds": "Bellgrad, s",
            "value_error": "off by",
            "peer": "peer",
            "peer_method": "its best method",
            "peer_seconds": "peer, s",
            "peer_value_error": "off by ",
            "ratio": "ratio",
            "bar": "bar",
            "memory_ratio": "memory / matrix",
            "bandwidth_share": "share of copy bandwidth",
            "met": "met",
        },
    )


def estimators_table(results: Mapping[str, Any]) -> str:
    """One line an estimator of the policy gradient: how far its mean is from the computed one, its bias and
    its variance."""
    lines, exact = [], np.array(results["corridor"]["exact"])
    for name, row in results["corridor"]["estimators"].items():
        mean, expected, error = (np.array(row[key]) for key in ("mean", "expected", "standard_error"))
        off = np.abs(mean - expected)[error > 0] / error[error > 0]
        bias = np.linalg.norm(expected - exact).round(9)  # what is below comes from rounding
        lines.append({"phi": name, "off": off.max(), "bias": bias, "variance": row["variance"]})
    return markdown_table(lines, {"phi": "Phi", "off": "mean off by, standard errors", "bias": "exact bias",
                                  "variance": "variance, an episode"})  # fmt: skip


def provenances(results: Any) -> Iterator[Mapping[str, Any]]:
    """How each result was measured, wherever it is in the tree of results."""
    if isinstance(results, Mapping):
        if "provenance" in results:
            yield results["provenance"]
        for child in results.values():
            yield from provenances(child)


def measured(results: Any) -> str:
    """Days and machines of the measurements, in a few words."""
    made = list(provenances(results))
    days = sorted({one["started"][:10] for one in made})
    machines = sorted({_machine(one) for one in made})
    return f"Measured on {' and '.join(days)}, on {' and '.join(machines)}"


def provenance_table(results: Any) -> str:
    """One line per measurement: day, commit, machine and command."""
    rows = (
        {
            "day": one["started"][:10],
            "commit": one["commit"][:12] + (", with local changes" if one["dirty"] else ""),
            "machine": _machine(one),
            "command": f"`{one['command']}`",
        }
        for one in sorted(provenances(results), key=lambda one: one["started"])
    )
    return markdown_table(
        [dict(row) for row in dict.fromkeys(tuple(row.items()) for row in rows)],
        ["day", "commit", "machine", "command"],
    )


def _machine(provenance: Mapping[str, Any]) -> str:
    machine = provenance["machine"]
    return f"{machine['cpu']} with {machine['cores']} core{'s' * (machine['cores'] > 1)}"


# What `table` knows: the name of a table, the file that it is made of, and how.
TABLES: dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
    "speed": ("speed.json", speed_table),
    "compile": ("speed.json", compile_table),
    "memory": ("memory.json", memory_table),
    "first_step": ("memory.json", first_step_table),
    "learning": ("learning.json", learning_table),
    "solve_time": ("solve_time.json", solve_table),
    "planning": ("planning.json", planning_table),
    "estimators": ("estimators.json", estimators_table),
    "tabular": ("tabular.json", speed_table),
    "tabular_compile": ("tabular.json", compile_table),
}


def table(name: str) -> str | None:
    """A table of the stored results by its name, or None if they have not been made."""
    file, write = TABLES[name]
    results = read_results(RESULTS / file)
    return write(results) if results else None


def _off(error: float | None) -> str | None:
    return None if error is None else f"{error:.1e}"


def _times(ratio: float | None) -> str | None:
    return None if ratio is None else f"{ratio:.2f}x"


if __name__ == "__main__":
    for name in sys.argv[1:] or TABLES:
        print(table(name) or f"{name}: not measured yet\n")
