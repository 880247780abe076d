import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from bellgrad.core.errors import UsageError
from bellgrad.report.figures import INK
from bellgrad.report.training import curves
from bellgrad.report.training.curves import plot, plot_diagnostics, plot_run


def straight(run, *points):
    """A run whose return goes through the points."""
    (run / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": s, "episode_return_mean": v}) + "\n" for s, v in points)
    )
    return run


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_every_format_is_written(make_run, tmp_path, suffix):
    out = plot([make_run()], tmp_path / "figures" / f"curve.{suffix}")
    head = out.read_bytes()[:5]
    assert head.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF-"}[suffix])
    if suffix == "svg":
        ElementTree.parse(out)


def test_a_single_run_is_a_line_through_its_points(make_run, tmp_path, drawn):
    run = straight(make_run(), (1, 10), (5, 30), (9, 20))
    plot([run], tmp_path / "a.png")
    (ax,) = drawn().axes
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_xydata(), [(1, 10), (5, 30), (9, 20)])
    assert not ax.collections


def test_seeds_are_interpolated_to_the_steps_that_all_have_reached(make_run, tmp_path, drawn):
    # the lines y = x and y = 2 x: the mean is 1.5 x between step 10 and step 60
    runs = [
        straight(make_run("a", seed=0), (0, 0), (100, 100)),
        straight(make_run("b", seed=1), (10, 20), (60, 120)),
    ]
    plot(runs, tmp_path / "a.png", statistic="mean")
    (line,) = drawn().axes[0].lines
    x, y = line.get_xydata().T
    assert (x[0], x[-1]) == (10, 60)
    np.testing.assert_allclose(y, 1.5 * x)
    (band,) = drawn().axes[0].collections
    vertices = band.get_paths()[0].vertices
    # of two seeds the band is their range
    np.testing.assert_allclose(vertices[vertices[:, 0] == 60][:, 1].max(), 120)


def test_the_interquartile_mean_leaves_a_failed_seed_out(make_run, tmp_path, drawn):
    runs = [straight(make_run(f"r{i}", seed=i), (0, v), (10, v)) for i, v in enumerate((100, 100, 100, 0))]
    plot(runs, tmp_path / "a.png")
    assert drawn().axes[0].lines[0].get_ydata() == pytest.approx(np.full(curves.GRID, 100))
    plot(runs, tmp_path / "a.png", statistic="mean")
    assert drawn().axes[0].lines[0].get_ydata() == pytest.approx(np.full(curves.GRID, 75))


def test_a_panel_for_each_environment_and_one_color_for_each_experiment(make_run, tmp_path, drawn):
    runs = [
        make_run(f"{a}{e}", a, env=e, lines=3)
        for a in ("ppo", "dqn")
        for e in ("A-v0", "B-v0", "C-v0", "D-v0")
    ]
    plot(runs, tmp_path / "a.png")
    axes = drawn().axes
    assert [ax.get_title("left") for ax in axes] == ["A-v0", "B-v0", "C-v0", "D-v0"]
    for ax in axes:
        assert [line.get_color() for line in ax.lines] == list(INK["light"].lines[:2])
    assert [text.get_text() for text in drawn().legends[0].get_texts()] == ["ppo, 1 seed", "dqn, 1 seed"]


def test_more_experiments_than_colors_are_told_apart_by_dashes(make_run, tmp_path, drawn):
    runs = [make_run(f"r{i}", f"algorithm_{i}", lines=3) for i in range(9)]
    plot(runs, tmp_path / "a.png")
    looks = {(line.get_color(), str(line.get_linestyle())) for line in drawn().axes[0].lines}
    assert len(looks) == 9


def test_long_settings_do_not_push_the_curves_out_of_the_figure(make_run, tmp_path, drawn):
    runs = [
        make_run(f"r{i}", fields={f"hyper_parameter_number_{j}": i + j for j in range(8)}, lines=3)
        for i in range(2)
    ]
    plot(runs, tmp_path / "a.png")
    assert drawn().axes[0].get_position().height > 0.3
    box = drawn().legends[0].get_window_extent()
    assert box.x1 <= drawn().bbox.x1


def test_the_same_runs_give_the_same_bytes(make_run, tmp_path):
    run = make_run()
    for suffix in ("png", "svg"):
        assert (
            plot([run], tmp_path / f"a.{suffix}").read_bytes()
            == plot([run], tmp_path / f"b.{suffix}").read_bytes()
        )


def test_themes_have_their_own_paper(make_run, tmp_path):
    for theme in ("light", "dark"):
        paper = (
            Image.open(plot_run(make_run(), tmp_path / f"{theme}.png", theme=theme))
            .convert("RGB")
            .getpixel((0, 0))
        )
        assert "#{:02x}{:02x}{:02x}".format(*paper) == INK[theme].paper


def test_no_data_is_refused_in_words(make_run, tmp_path):
    empty = make_run("empty", lines=0)
    with pytest.raises(UsageError, match="no run has logged"):
        plot([empty], tmp_path / "a.png")
    with pytest.raises(UsageError, match="no run has a value of episode_return_mean yet"):
        plot([make_run("young", lines=1)], tmp_path / "a.png")  # null while no episode has ended
    with pytest.raises(UsageError, match="no return"):
        plot_run(empty, tmp_path / "a.png")
    with pytest.raises(UsageError, match="entropy"):
        plot([make_run()], tmp_path / "a.png", key="entropi")
    with pytest.raises(UsageError, match=r"\.png, \.svg or \.pdf"):
        plot([make_run()], tmp_path / "a.gif")
    with pytest.raises(UsageError, match="iqm"):
        plot([make_run()], tmp_path / "a.png", statistic="iqn")
    assert not list(tmp_path.glob("*a.png"))


def test_seeds_without_a_common_step_are_refused(make_run, tmp_path):
    runs = [straight(make_run("a", seed=0), (0, 0), (5, 1)), straight(make_run("b", seed=1), (6, 0), (9, 1))]
    with pytest.raises(UsageError, match="no step in common"):
        plot(runs, tmp_path / "a.png")


def test_runs_without_the_metric_are_left_out_where_others_have_it(make_run, tmp_path, drawn):
    plot([make_run("empty", lines=0), make_run("full", seed=1)], tmp_path / "a.png")
    assert len(drawn().axes[0].lines) == 1


def test_one_run_shows_training_and_evaluations_with_their_spread(make_run, tmp_path, drawn):
    plot_run(make_run(lines=16), tmp_path / "a.png")
    (ax,) = drawn().axes
    (bars,) = ax.containers
    (spread,) = bars[2]
    # twice 8% of level 100
    assert [np.ptp(segment[:, 1]) for segment in spread.get_segments()] == pytest.approx([16, 16])


def test_diagnostics_show_what_the_algorithm_logged_and_nothing_else(make_run, tmp_path, drawn):
    assert plot_diagnostics(make_run(), tmp_path / "a.png")
    assert [ax.get_title("left") for ax in drawn().axes] == ["loss", "entropy", "kl"]
    assert not plot_diagnostics(straight(make_run("bare"), (0, 0), (1, 1)), tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()


def test_drawing_changes_no_global_setting(make_run, tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    plot([make_run()], tmp_path / "a.png")
    assert dict(matplotlib.rcParams) == before
