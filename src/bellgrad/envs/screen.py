"""Drawing where there is no screen."""

import os
import sys


def without_screen() -> None:
    """Where there is no screen, keep SDL, with which pygame draws, from looking for one: it complains on
    standard error."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
