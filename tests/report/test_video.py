import sys

import numpy as np
import pytest

from bellgrad.core.errors import BellgradError, UsageError
from bellgrad.report.video import record

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")


def frames(count=10, height=64, width=96):
    for i in range(count):
        frame = np.zeros((height, width, 3), np.uint8)
        frame[:, : width // 2] = (255, 0, 0)  # red left, a green that brightens right
        frame[:, width // 2 :, 1] = 20 * i
        yield frame


def read(path):
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    return meta, [np.frombuffer(raw, np.uint8).reshape(meta["size"][1], meta["size"][0], 3) for raw in reader]


def test_a_video_holds_its_frames_at_its_rate(tmp_path):
    out = record(frames(), tmp_path / "new" / "a.mp4", fps=25)
    meta, back = read(out)
    assert meta["codec"] == "h264" and meta["pix_fmt"].startswith("yuv420p")
    assert meta["fps"] == 25 and meta["size"] == (96, 64) and len(back) == 10
    for wrote, got in zip(frames(), back, strict=True):
        # lossy; chroma is halved at the color edge
        assert np.abs(wrote.astype(int) - got)[:, 4:44].max() < 16
        assert np.abs(wrote.astype(int) - got)[:, 52:92].max() < 16
    data = out.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # the index comes first


def test_odd_frames_are_padded_to_even_sizes(tmp_path):
    meta, _ = read(record(frames(height=33, width=51), tmp_path / "a.mp4", fps=30))
    assert meta["size"] == (52, 34)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ([], "no frame"),
        ([np.zeros((8, 8, 3), np.float32)], "float32"),
        ([np.zeros((8, 8), np.uint8)], r"\[8, 8\]"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 10, 3), np.uint8)], "frame 1"),
    ],
)
def test_wrong_frames_are_refused_and_leave_nothing_behind(tmp_path, bad, words):
    with pytest.raises(UsageError, match=words):
        record(bad, tmp_path / "a.mp4", fps=30)
    assert list(tmp_path.iterdir()) == []


def test_an_environment_that_fails_midway_keeps_the_older_video(tmp_path):
    out = record(frames(), tmp_path / "a.mp4", fps=30)
    before = out.read_bytes()

    def breaking():
        yield from frames(3)
        raise BrokenPipeError("a worker died")

    with pytest.raises(BrokenPipeError):
        record(breaking(), out, fps=30)
    assert out.read_bytes() == before and list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("count", [1, 300])
def test_an_encoder_that_fails_is_reported_in_its_own_words(tmp_path, monkeypatch, count):
    encoder = tmp_path / "encoder"
    encoder.write_text("#!/bin/sh\necho 'No space left on device' >&2\nexit 1\n")
    encoder.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(encoder))
    with pytest.raises(BellgradError, match="No space left on device"):
        record(frames(count), tmp_path / "a.mp4", fps=30)
    assert list(tmp_path.iterdir()) == [encoder]


def test_a_wrong_name_or_rate_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"\.mp4"):
        record(frames(), tmp_path / "a.gif", fps=30)
    with pytest.raises(UsageError, match="fps"):
        record(frames(), tmp_path / "a.mp4", fps=0)


def test_a_missing_encoder_names_the_install_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UsageError, match=r"pip install 'bellgrad\[video\]'"):
        record(frames(), tmp_path / "a.mp4", fps=30)
