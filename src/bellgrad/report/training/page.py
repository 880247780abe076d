"""The run's page: everything about one run in one HTML file that needs no network."""

import base64
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

from bellgrad.report.files import replacing
from bellgrad.report.tables import format_duration, format_number
from bellgrad.report.training.curves import plot_diagnostics, plot_run
from bellgrad.report.training.experiments import flatten
from bellgrad.report.training.readers import read_evaluation, read_metrics, read_record
from bellgrad.report.training.series import series_of

TABLE_PICTURES = {
    "values.png": "Values and policy",
    "known.png": "When each action became known",
}  # of a tabular run
EMBEDDED_VIDEO = 8_000_000  # bytes: a larger video is linked, not embedded

_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ground: #f6f7f9; --text: #1f2328; --quiet: #59616b;
  --line: #e3e6ea;
  --accent: #0067a3; --good: #116b3c; --good-ground: #dff3e7; --warn: #8a4600; --warn-ground: #fdeeda; }
@media (prefers-color-scheme: dark) { :root { --paper: #161b22; --ground: #0d1117; --text: #e6edf3;
  --quiet: #9198a1;
  --line: #2a313a; --accent: #6cb6ff; --good: #6fdd9b; --good-ground: #12301f; --warn: #f3b765;
  --warn-ground: #37260e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 3rem 1.25rem 2rem; }
header { margin-bottom: 2rem; }
h1 { font-size: 2rem; line-height: 1.2; letter-spacing: -.02em; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h1 span { color: var(--quiet); font-weight: 400; }
header p { margin: 0; color: var(--quiet); display: flex; flex-wrap: wrap; gap: .35rem .9rem;
  align-items: center; }
.badge { border-radius: 1rem; padding: .05rem .7rem; font-size: .85rem; font-weight: 600; color: var(--warn);
  background: var(--warn-ground); }
.badge.finished { color: var(--good); background: var(--good-ground); }
section { background: var(--paper); border: 1px solid var(--line); border-radius: .75rem;
  padding: 1.4rem 1.5rem;
  margin-bottom: 1.25rem; }
h2 { font-size: 1.05rem; margin: 0 0 1rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(7.5rem, 1fr));
  gap: 1.1rem 1.25rem; margin: 0; }
.figures dt, .figures dd { margin: 0; }
.figures dt, .figures .note { color: var(--quiet); font-size: .85rem; }
.figures .value { font-size: 1.3rem; font-weight: 600; line-height: 2.1rem; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.figures > :first-child { grid-column: span 2; }
.figures > :first-child .value { font-size: 1.9rem; letter-spacing: -.01em; color: var(--accent); }
.figures small { font-size: 1.05rem; font-weight: 400; letter-spacing: 0; color: var(--quiet); }
img, video { display: block; width: 100%; height: auto; border-radius: .4rem; }
video { width: auto; max-width: 100%; min-width: min(100%, 24rem); max-height: 70vh; margin: 0 auto;
  border: 1px solid var(--line); }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr));
  gap: 0 1.25rem;
  align-items: start; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .38rem 0; border-top: 1px solid var(--line); vertical-align: top; }
tr:first-child > * { border-top: 0; }
th { font-weight: 400; color: var(--quiet); padding-right: 1.25rem; }
td { text-align: right; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.command { display: flex; gap: .75rem; align-items: start; margin: .3rem 0 1.1rem; }
.command:last-child { margin-bottom: 0; }
.command pre { flex: 1; min-width: 0; margin: 0; padding: .6rem .8rem; border-radius: .4rem;
  background: var(--ground);
  border: 1px solid var(--line);
  font: .88rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  overflow-x: auto; }
button { font: inherit; font-size: .85rem; min-width: 5.2rem; padding: .55rem .9rem; border-radius: .4rem;
  cursor: pointer;
  border: 1px solid var(--line); background: var(--paper); color: var(--accent); }
button:hover { border-color: var(--accent); }
.label { margin: 0; color: var(--quiet); font-size: .85rem; }
video + .label { margin-top: .8rem; }
a { color: var(--accent); }
footer { color: var(--quiet); font-size: .85rem; text-align: center; padding-top: .5rem; }
@media (max-width: 32rem) { main { padding: 1.5rem .75rem; } section { padding: 1.1rem;
  } .command { flex-direction: column; }
  .command pre { align-self: stretch; } }
@media print { body { background: none; } button { display: none; } section { break-inside: avoid; } }
"""

# Where a browser denies the clipboard, the command is selected, so that one key press copies it.
_SCRIPT = """
for (const button of document.querySelectorAll("button")) button.addEventListener("click", async () => {
  const command = button.previousElementSibling;
  try { await navigator.clipboard.writeText(command.textContent); button.textContent = "Copied"; }
  catch { getSelection().selectAllChildren(command); button.textContent = "Selected"; }
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
});
"""


def write_report(run: Path) -> Path:
    """Write `report.html`, and the `learning_curve.png` it shows, into a run folder.

    The page holds its figures and its video; what the run does not have yet (an evaluation, a video, a curve)
    is left out. Only a video above 8 MB stays outside and is linked.

    Args:
        run: a run folder.

    Returns:
        The path of the page.

    Raises:
        UsageError: the folder holds no run.
        CheckpointError: the run's description or metrics are damaged.
    """
    run = Path(run)
    info, rows, evaluation = read_record(run), read_metrics(run), read_evaluation(run)
    sections = [
        _headline(info, rows, evaluation),
        _curve(run, rows),
        _tables(run),
        _video(run),
        _diagnostics(run),
        '<div class="columns">'
        + _table(
            "Hyper-parameters",
            {name: _exactly(value) for name, value in flatten(info["algorithm"].get("fields", {})).items()},
        )
        + _table("Environment and versions", _circumstances(info))
        + "</div>",
        _commands(run, info),
    ]
    algorithm, env = escape(str(info["algorithm"]["name"])), escape(str(info["env"]))
    status = escape(str(info.get("status", "unknown")))
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{algorithm} on {env}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<main>
<header>
<h1>{algorithm} <span>on</span> {env}</h1>
<p><span class="badge {"finished" if status == "finished" else "other"}">{status}</span> {_when(info)}</p>
</header>
{"".join(sections)}
<footer>Written by Bellgrad from {escape(run.resolve().name)}</footer>
</main>
<script>{_SCRIPT}</script>
</body>
</html>
"""
    out = run / "report.html"
    with replacing(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return out


def _when(info: Mapping[str, Any]) -> str:
    parts = [f"seed {info['seed']}"] if "seed" in info else []
    parts += [f"{name} {_moment(info[name])}" for name in ("started", "finished") if info.get(name)]
    return " ".join(f"<span>{escape(part)}</span>" for part in parts)


def _moment(value: Any) -> str:
    """A clock reading, in ISO 8601 or as seconds since 1970, to the minute; anything else as it is."""
    try:
        moment = (
            datetime.fromisoformat(value) if isinstance(value, str) else datetime.fromtimestamp(value, UTC)
        )
    except (ValueError, TypeError):
        return str(value)
    return f"{moment:%Y-%m-%d %H:%M} {moment.tzname() or ''}".rstrip()


def _headline(
    info: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], evaluation: Mapping[str, Any] | None
) -> str:
    """The few numbers a reader looks for first."""
    figures = []
    if evaluation:
        returns = evaluation.get("returns") or []
        span = f", from {format_number(min(returns))} to {format_number(max(returns))}" if returns else ""
        episodes = evaluation["episodes"]
        note = (
            f"mean ± standard deviation over {episodes:,} {'episode' if episodes == 1 else 'episodes'}{span}"
        )
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
                figures.append(
                    (label, _spread(values[-1], spread), f"mean over episodes, at step {steps[-1]:,.0f}")
                )
                break
    if rows:
        step, planned = rows[-1]["step"], info.get("steps")
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
    """What a tabular run has drawn of its tables."""
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
    """The newest video, inside the page where it is small enough, and links to the others."""
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


def _circumstances(info: Mapping[str, Any]) -> dict[str, str]:
    """Where and how the run ran. What was chosen by a rule is shown as chosen; wrappers are shown where there
    are any."""
    used = info.get("engine_used") or {}
    table = {
        "environment": info["env"],
        **flatten(info.get("env_kwargs") or {}),
        "time limit in steps": info.get("max_episode_steps"),
        "observations normalized": info.get("normalize_obs") or None,
        "rewards normalized": info.get("normalize_reward") or None,
        "frames stacked": info["frame_stack"] if info.get("frame_stack", 1) > 1 else None,
        "parallel environments": info.get("num_envs"),
        "planned steps": info.get("steps"),
        "target return": info.get("target_return"),
        "seed": info.get("seed"),
        "engine": used.get("mode", info.get("engine")),
        "threads": used.get("threads", info.get("threads")),
        "device": info.get("device_used", info.get("device")),
        **flatten(info.get("versions") or {}),
    }
    return {name: _exactly(value) for name, value in table.items() if value is not None}


def _commands(run: Path, info: Mapping[str, Any]) -> str:
    commands = {}
    if info.get("command"):
        command = info["command"]
        commands["Train it again from the start"] = (
            command if isinstance(command, str) else shlex.join(map(str, command))
        )
    commands["Go on where it stopped"] = f"bellgrad resume {shlex.quote(str(run))}"
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
    """A setting as it was, not rounded: a discount of 0.99999 is not 1."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_exactly, value))
    return str(value)
