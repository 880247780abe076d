"""Turning frames into a video that every browser plays."""

import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np

from bellgrad.core.errors import BellgradError, UsageError, missing_extra
from bellgrad.report.files import replacing


def record(frames: Iterable[np.ndarray], out: Path, fps: float) -> Path:
    """Write an MP4 (H.264, yuv420p, index first, so that it plays while it loads).

    H.264 in yuv420p needs even sizes, so if a frame's size is odd, its last row or column is repeated. Frames
    are written as they arrive and are not kept in memory; `out` appears only when it is complete.

    Args:
        frames: `[H, W, 3]` uint8 RGB, all of one size.
        out: a path that ends in `.mp4`.
        fps: frames per second, above 0; an environment's metadata names it (`render_fps`).

    Returns:
        `out`.

    Raises:
        UsageError: there is no frame, a frame has a wrong shape or dtype, `out` is not an MP4, or
            imageio-ffmpeg is missing.
        BellgradError: the encoder failed, for example because the disk is full; the message says why.
    """
    out = Path(out)
    if out.suffix.lower() != ".mp4":
        raise UsageError(f"a video is written as .mp4, not {out.name!r}")
    if not fps > 0:
        raise UsageError(f"fps = {fps} must be above 0")
    try:
        from imageio_ffmpeg import get_ffmpeg_exe
    except ImportError as error:
        raise missing_extra("imageio-ffmpeg", "video") from error

    first: tuple[int, ...] = ()
    encoder = None
    with replacing(out) as temporary, TemporaryFile() as errors:
        try:
            for index, frame in enumerate(frames):
                if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
                    raise UsageError(
                        f"frame {index} is {frame.dtype} {list(frame.shape)}, expected uint8 [H, W, 3]"
                    )
                if frame.shape != (first or frame.shape):
                    raise UsageError(f"frame {index} is {list(frame.shape)}, but the first was {list(first)}")
                even = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
                if encoder is None:
                    first = frame.shape
                    size = f"{even.shape[1]}x{even.shape[0]}"
                    source = f"-f rawvideo -pix_fmt rgb24 -s {size} -r {fps:g} -i -".split()
                    target = [
                        "-c:v",
                        "libx264",
                        "-pix_fmt",
                        "yuv420p",
                        "-crf",
                        "20",
                        "-movflags",
                        "+faststart",
                    ]
                    command = [get_ffmpeg_exe(), "-y", "-loglevel", "error", *source, *target, str(temporary)]
                    encoder = subprocess.Popen(
                        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors
                    )
                try:
                    encoder.stdin.write(even.tobytes())
                except BrokenPipeError:  # the encoder stopped; its exit code and its messages say why
                    break
        finally:
            if encoder is not None:
                with suppress(BrokenPipeError):
                    encoder.stdin.close()
                encoder.wait()
        if encoder is None:
            raise UsageError("there is no frame to record")
        if encoder.returncode:
            errors.seek(0)
            messages = errors.read().decode(errors="replace").split("\n")
            reason = next(
                (line for line in reversed(messages) if line.strip()),
                f"the encoder ended with {encoder.returncode}",
            )
            raise BellgradError(f"{out} could not be written: {reason.strip()}")
    return out
