"""Films of a solver's sweeps."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from bellgrad.core.errors import UsageError
from bellgrad.report.finite.film import GROWTH, Sweeps, animate


def test_of_many_sweeps_a_film_keeps_the_first_some_later_ones_and_the_last():
    sweeps = Sweeps()
    buffer = np.zeros(3)
    for sweep in range(1, 5_001):
        buffer[:] = sweep  # a solver may write each sweep over the one before it
        sweeps(sweep, buffer)
    numbers = [frame.sweep for frame in sweeps.frames]
    assert numbers[:8] == [1, 2, 3, 4, 5, 6, 7, 8] and numbers[-1] == 5_000
    assert len(numbers) <= 70
    assert all(b <= max(a + 1, a * GROWTH + 1) for a, b in pairwise(numbers))
    assert all((frame.value == frame.sweep).all() for frame in sweeps.frames)


def test_a_gif_has_a_frame_for_each_sweep(maze, solved, tmp_path):
    mdp, _ = maze
    sweeps = Sweeps()
    solved(mdp, sweeps=sweeps)
    out = animate(mdp, sweeps, tmp_path / "sweeps.gif", gamma=1.0)
    with Image.open(out) as film:
        assert film.n_frames == len(sweeps.frames) == 3
        first = film.convert("RGB")
        film.seek(1)
        assert first.size == film.size and first.tobytes() != film.convert("RGB").tobytes()


def test_an_mp4_and_an_mdp_without_a_grid(random_mdp, solved, tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    for states in (3, 61):  # bars, and a line
        mdp = random_mdp(states, 2)
        values = []
        solved(mdp, gamma=0.5, sweeps=lambda _, value, kept=values: kept.append(value))
        out = animate(mdp, values[:2], tmp_path / f"{states}.mp4")
        assert out.read_bytes()[4:8] == b"ftyp"  # ISO/IEC 14496-12: the first box of an MP4


def test_a_wrong_suffix_or_an_empty_film_is_refused_in_one_line_and_leaves_no_file(maze, tmp_path):
    mdp, solution = maze
    with pytest.raises(UsageError, match=r"\.gif or \.mp4, not 'a\.avi'"):
        animate(mdp, [solution.value], tmp_path / "a.avi")
    with pytest.raises(UsageError, match="no sweep"):
        animate(mdp, [], tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())
