"""Drawing on machines without a screen."""

import os
import sys

from bellgrad.core.errors import UsageError


def without_screen() -> None:
    """Without a screen, keep SDL, with which pygame draws, from looking for one: it prints warnings on
    standard error."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def no_pictures(name: str) -> UsageError:
    """The refusal of the environment called `name` to draw itself."""
    return UsageError(
        f"{name} draws no pictures here; make it with backend='gymnasium' and render_mode='rgb_array'"
    )
