import json
import os
import re
import shlex
import tomllib
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

import bellgrad
from bellgrad.core.errors import UsageError
from bellgrad.report.training import page
from bellgrad.report.training.page import write_report

ROOT = Path(__file__).parents[3]
VOID = {"meta", "link", "img", "source", "br"}


class Checker(HTMLParser):
    """Collects elements and checks that they are nested."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "poster")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(run):
    checker = Checker()
    text = write_report(run).read_text(encoding="utf-8")
    checker.feed(text)
    assert checker.open == []
    return text, checker


def words(text):
    return " ".join(
        unescape(re.sub(r"<[^>]+>", " ", re.sub(r"<(style|script)>.*?</\1>", "", text, flags=re.S))).split()
    )


def test_the_page_holds_what_a_reader_looks_for(make_run, evaluated):
    run = evaluated(make_run(), [90.0, 110.0])
    (run / "videos").mkdir()
    (run / "videos" / "step-20000.mp4").write_bytes(b"not really a film")
    text, checker = parsed(run)
    shown = words(text)
    for part in (
        "ppo on CartPole-v1",
        "finished",
        "100 ± 10 mean ± standard deviation over 2 episodes, from 90 to 110",
        "Environment steps 20,000",
        "Training time 22.2 s",  # 20,000 steps at 900 a second
        "Steps per second 900",
        "learning_rate 0.0003",
        "engine compiled",
        "device cpu",
        "torch 2.13.0",
        "bellgrad train ppo --env CartPole-v1 --steps 20000 --seed 0",
        f"bellgrad resume {run}",
    ):
        assert part in shown
    assert {"video", "picture", "img", "button"} <= set(checker.tags)
    assert "prefers-color-scheme: dark" in text
    assert (run / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_needs_no_network(make_run, evaluated):
    run = evaluated(make_run(), [1.0])
    (run / "videos").mkdir()
    (run / "videos" / "a.mp4").write_bytes(b"film")
    text, checker = parsed(run)
    assert all(link.startswith("data:") or link == "videos/a.mp4" for link in checker.links)
    assert "http" not in text and "@import" not in text and "url(" not in text


def test_a_young_run_leaves_out_what_it_does_not_have(make_run):
    run = make_run(lines=0, status="running")
    text, checker = parsed(run)
    assert not {"video", "img", "dl"} & set(checker.tags)
    assert "running" in text and "Hyper-parameters" in text and "Diagnostics" not in text
    assert not (run / "learning_curve.png").exists()


def test_a_run_without_an_evaluation_shows_its_last_return(make_run):
    # 8% of level 100
    assert re.search(r"Last evaluation return [\d.]+ ± 8 mean", words(parsed(make_run(lines=8))[0]))
    assert "Last training return" in words(parsed(make_run("short", lines=4))[0])


def test_a_stopped_run_says_how_far_it_came(make_run):
    run = make_run(lines=10, status="interrupted")
    path = run / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"steps": 50_000}))
    assert "20,000 of 50,000 planned" in words(parsed(run)[0])


def test_everything_is_escaped(make_run):
    evil = "<script>alert('x')</script>\"&"
    run = make_run(
        algorithm=evil,
        env=evil,
        fields={evil: evil, "nested": {evil: [evil]}},
        versions={evil: evil},
        command=shlex.join(["bellgrad", "train", evil]),
        status=evil,
        started=evil,
        device_used=evil,
        lines=3,
    )
    (run / "videos").mkdir()
    for name in ("a 'b' <i>&.mp4", 'z"x" onerror=.mp4'):
        (run / "videos" / name).write_bytes(b"")
    text, checker = parsed(run)
    assert checker.tags.count("script") == 1 and "i" not in checker.tags
    assert "alert('x')</script>" not in text
    assert words(text).count(evil) > 8 and "bellgrad train '<script>" in words(text)  # quoted for the shell


def test_the_newest_video_is_shown_and_the_others_linked(make_run):
    run = make_run(lines=2)
    (run / "videos").mkdir()
    for age, name in enumerate(("step-100.mp4", "step-9.mp4")):
        (run / "videos" / name).write_bytes(name.encode())
        os.utime(run / "videos" / name, (1000 - age, 1000 - age))
    (run / "videos" / ".half.tmp.mp4").write_bytes(b"")
    _, checker = parsed(run)
    assert "data:video/mp4;base64,c3RlcC0xMDAubXA0" in checker.links  # base64 of step-100.mp4
    assert "videos/step-9.mp4" in checker.links and not any("half" in link for link in checker.links)


def test_a_large_video_is_linked(make_run, monkeypatch):
    run = make_run(lines=2)
    (run / "videos").mkdir()
    (run / "videos" / "long film.mp4").write_bytes(bytes(101))
    monkeypatch.setattr(page, "EMBEDDED_VIDEO", 100)
    _, checker = parsed(run)
    assert checker.links.count("videos/long%20film.mp4") == 2 and not any(
        "video/mp4" in link for link in checker.links
    )


def test_settings_are_shown_exactly(make_run):
    shown = words(
        parsed(
            make_run(
                fields={"gamma": 0.9999995, "net": {"hidden": [64, 64]}, "double": True, "limit": None},
                lines=2,
            )
        )[0]
    )
    for part in ("gamma 0.9999995", "net.hidden 64, 64", "double yes", "limit none"):
        assert part in shown


def test_settings_that_are_not_at_their_defaults_are_shown(make_run):
    run = make_run(
        lines=2, bins=[9], tilings=8, backend="auto", normalize_obs=True, env_kwargs={"gravity": 9.8}
    )
    shown = words(parsed(run)[0])
    for part in ("bins 9", "tilings 8", "normalize_obs(clip=10.0)", "gravity 9.8", "planned steps 20,000"):
        assert part in shown
    assert "backend" not in shown


def test_times_are_shown_to_the_minute(make_run):
    run = make_run(started="2026-01-05T09:12:44+00:00", lines=2)
    assert "started 2026-01-05 09:12 UTC" in words(parsed(run)[0])


def test_a_folder_without_a_description_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no run\.json"):
        write_report(tmp_path)


def test_an_installed_package_has_every_file_that_is_not_python():
    package = Path(bellgrad.__file__).parent
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    shipped = {
        path
        for name, patterns in listed.items()
        for pattern in patterns
        for path in package.parent.joinpath(*name.split(".")).glob(pattern)
    }
    made = set(package.rglob("__pycache__/*"))
    assert shipped == {path for path in package.rglob("*.*") if path.suffix != ".py"} - made
    assert {"page.css", "page.html", "page.js"} <= {path.name for path in shipped}
