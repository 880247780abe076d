"""The run's page: everything about one run in one HTML file that needs no network."""

import base64
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from statistics import median
from string import Template
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

from bellgrad.report.files import replacing
from bellgrad.report.tables import format_duration, format_number
from bellgrad.report.training.curves import plot_diagnostics, plot_run
from bellgrad.report.training.experiments import flatten, in_words
from bellgrad.report.training.series import series_of
from bellgrad.runs.reading import read_evaluation, read_metrics, read_record
from bellgrad.runs.settings import shown_settings

# Pictures in the folder of a tabular run, with their titles.
TABLE_PICTURES = {"values.png": "Values and policy", "known.png": "When each action became known"}
EMBEDDED_VIDEO = 8_000_000  # bytes: a larger video is linked, not embedded


def write_report(run: Path) -> Path:
    """Write `report.html`, and the `learning_curve.png` it shows, into a run folder.

    The page contains its figures and its video; what the run does not have yet (an evaluation, a video, a
    curve) is left out. Only a video larger than 8 MB is not embedded but linked.

    Args:
        run: a run folder.

    Returns:
        The path of the page.

    Raises:
        UsageError: the folder holds no run.
        CheckpointError: the run's record, metrics or evaluation are damaged.
    """
    run = Path(run)
    record, rows, evaluation = read_record(run), read_metrics(run), read_evaluation(run)
    sections = [
        _headline(record, rows, evaluation),
        _curve(run, rows),
        _tables(run),
        _video(run),
        _diagnostics(run),
        '<div class="columns">'
        + _table(
            "Hyper-parameters",
            {name: _exactly(value) for name, value in flatten(record["algorithm"]["fields"]).items()},
        )
        + _table("Environment and versions", _circumstances(record))
        + "</div>",
        _commands(run, record),
    ]
    status = str(record.get("status", "unknown"))
    page = Template(_file("page.html")).substitute(
        style=_file("page.css"),
        script=_file("page.js"),
        algorithm=escape(str(record["algorithm"]["name"])),
        env=escape(str(record["env"])),
        status=escape(status),
        kind="finished" if status == "finished" else "other",
        when=_when(record),
        sections="".join(sections),
        folder=escape(run.resolve().name),
    )
    out = run / "report.html"
    with replacing(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return out


def _file(name: str) -> str:
    """A file of this package."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _when(record: Mapping[str, Any]) -> str:
    parts = [f"seed {record['seed']}"] if "seed" in record else []
    parts += [f"{name} {_moment(record[name])}" for name in ("started", "finished") if record.get(name)]
    return " ".join(f"<span>{escape(part)}</span>" for part in parts)


def _moment(value: Any) -> str:
    """A time in ISO 8601 to the minute; anything else as it is."""
    try:
        moment = datetime.fromisoformat(value)
    except (ValueError, TypeError):
        return str(value)
    return f"{moment:%Y-%m-%d %H:%M} {moment.tzname() or ''}".rstrip()


def _headline(
    record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], evaluation: Mapping[str, Any] | None
) -> str:
    """The few numbers that a reader looks for first."""
    figures = []
    if evaluation:
        returns = evaluation.get("returns") or []
        span = f", from {format_number(min(returns))} to {format_number(max(returns))}" if returns else ""
        episodes = evaluation["episodes"]
        note = (
            f"mean ± standard deviation over {episodes:,} {'episode' if episodes == 1 else 'episodes'}{span}"
        )
        if capped := evaluation.get("capped"):
            note += f"; {capped:,} of them did not end and were cut"
        figures.append(
            ("Final evaluation return", _spread(evaluation["return_mean"], evaluation["return_std"]), note)
        )
        if evaluation.get("length_mean") is not None:
            figures.append(("Episode length", format_number(evaluation["length_mean"]), "steps, mean"))
    else:
        for key, label in (
            ("eval_return_mean", "Last evaluation return"),
            ("episode_return_mean", "Last training return"),
        ):
            steps, values = series_of(rows, key)
            if steps.size:
                spread = dict(zip(*series_of(rows, key.replace("mean", "std")), strict=True)).get(steps[-1])
                note = f"mean over episodes, at step {steps[-1]:,.0f}"
                cut_at, shares = series_of(rows, "eval_truncated")
                if key.startswith("eval") and cut_at.size and shares[-1] > 0:
                    note += f"; {shares[-1]:.0%} of them did not end and were cut"
                figures.append((label, _spread(values[-1], spread), note))
                break
    if rows:
        step, planned = rows[-1]["step"], record.get("steps")
        figures.append(
            (
                "Environment steps",
                f"{step:,}",
                f"of {planned:,} planned" if planned and planned != step else "",
            )
        )
    times = series_of(rows, "time")[1]
    if times.size:
        figures.append(("Training time", format_duration(times[-1]), ""))
    speeds = series_of(rows, "steps_per_second")[1]
    if speeds.size:
        figures.append(("Steps per second", f"{median(speeds):,.0f}", "median"))
    if not figures:
        return ""
    items = [
        f'<div><dt>{label}</dt><dd class="value">{value}</dd><dd class="note">{note}</dd></div>'
        for label, value, note in figures
    ]
    return f'<section><dl class="figures">{"".join(items)}</dl></section>\n'


def _spread(mean: float, std: float | None) -> str:
    return format_number(mean) + ("" if std is None else f" <small>± {format_number(std)}</small>")


def _curve(run: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    if not any(series_of(rows, key)[0].size for key in ("episode_return_mean", "eval_return_mean")):
        return ""
    light = plot_run(run, run / "learning_curve.png")
    with TemporaryDirectory() as folder:
        dark = plot_run(run, Path(folder) / "dark.png", theme="dark")
        return _section("Learning curve", _picture(light, dark, "Episode return over environment steps"))


def _tables(run: Path) -> str:
    """The pictures that a tabular run has drawn of its tables."""
    there = [(run / name, title) for name, title in TABLE_PICTURES.items() if (run / name).is_file()]
    return "".join(
        _section(title, f'<img src="{_data_uri(path, "image/png")}" alt="{title}">') for path, title in there
    )


def _diagnostics(run: Path) -> str:
    with TemporaryDirectory() as folder:
        light, dark = Path(folder) / "light.png", Path(folder) / "dark.png"
        if not plot_diagnostics(run, light):
            return ""
        plot_diagnostics(run, dark, theme="dark")
        return _section(
            "Diagnostics", _picture(light, dark, "What the algorithm logged over environment steps")
        )


def _video(run: Path) -> str:
    """The newest video, embedded if it is small enough, and links to the others."""
    videos = sorted((run / "videos").glob("[!.]*.mp4"), key=lambda video: (video.stat().st_mtime, video.name))
    if not videos:
        return ""
    *others, newest = videos
    link = quote(f"videos/{newest.name}")
    source = _data_uri(newest, "video/mp4") if newest.stat().st_size <= EMBEDDED_VIDEO else link
    player = (
        f'<video controls loop muted playsinline src="{source}"><a'
        f' href="{link}">{escape(newest.name)}</a></video>'
    )
    if others:
        links = ", ".join(
            f'<a href="{quote(f"videos/{video.name}")}">{escape(video.name)}</a>'
            for video in reversed(others)
        )
        player += f'<p class="label">Earlier videos: {links}</p>'
    return _section("Video", player)


def _circumstances(record: Mapping[str, Any]) -> dict[str, str]:
    """Where and how the run ran."""
    threads = (record.get("engine_used") or {}).get("threads")
    table = dict(shown_settings(record)) | {"threads": threads} | (record.get("versions") or {})
    return {name: _exactly(value) for name, value in table.items() if value is not None}


def _commands(run: Path, record: Mapping[str, Any]) -> str:
    commands = {}
    if record.get("command"):
        commands["Train it again from the start"] = str(record["command"])
    commands["Continue it"] = f"bellgrad resume {shlex.quote(str(run))}"
    commands["Evaluate it"] = f"bellgrad evaluate {shlex.quote(str(run))} --episodes 100"
    body = "".join(
        f'<p class="label">{label}</p><div class="command"><pre>{escape(command)}</pre><button'
        ' type="button">Copy</button></div>'
        for label, command in commands.items()
    )
    return _section("Repeat", body)


def _table(title: str, rows: Mapping[str, str]) -> str:
    if not rows:
        return ""
    cells = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in rows.items()
    )
    return _section(title, f"<table>{cells}</table>")


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>\n"


def _picture(light: Path, dark: Path, text: str) -> str:
    dark_source = f'<source srcset="{_data_uri(dark, "image/png")}" media="(prefers-color-scheme: dark)">'
    return f'<picture>{dark_source}<img src="{_data_uri(light, "image/png")}" alt="{text}"></picture>'


def _data_uri(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _exactly(value: Any) -> str:
    """A setting as text, not rounded: a discount of 0.99999 is not 1."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_exactly, value))
    return in_words(value)
