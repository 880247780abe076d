"""Stopping a run from outside: which signals ask for it, and where in a run they take effect at once."""

import _thread
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from bellgrad.core.signals import SIGNALS

ALWAYS = (signal.SIGINT, signal.SIGTERM)  # the others only if nobody else handles or ignores them, as nohup
DEFAULT = (signal.SIG_DFL, signal.default_int_handler)
# A batch system and its launcher may both send the signal; only a person sends another one later.
SECOND_AFTER = 1.0  # seconds
# Where Python drops every exception, in a `__del__` or a callback of a weak reference, `Stopped` is lost too;
# so much later it is raised again.
AGAIN_AFTER = 0.02  # seconds


class Stopped(KeyboardInterrupt):
    """Raised where a run can be left at once; a subclass, so that code which lets Ctrl-C through lets it
    through too."""


class StopRequest:
    """Whether the run was asked to stop.

    A signal is noted, and looked at between the calls of a driver. Inside `at_once`, where nothing is lost
    because what came before is saved or can be, it is raised as `Stopped` wherever the program is, also in
    an environment that takes long.

    Args:
        say: tells the user that the request was understood.

    Attributes:
        asked: whether a signal has come.
        cut_short: whether `Stopped` was raised, so that the work in `at_once` is not to be used, even if
            somebody's code caught it.
    """

    def __init__(self, say: Callable[[str], None] = lambda line: None):
        self.asked = self.cut_short = False
        self._say = say
        self._open = False  # whether the program is in `at_once`
        self._raised = False  # in that block, and perhaps on its way out of it
        self._asked_at = 0.0

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals; in any thread but the main one, to which they are sent, do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        taken = [s for s in SIGNALS if s in ALWAYS or signal.getsignal(s) in DEFAULT]
        previous = {s: signal.signal(s, self._receive) for s in taken}
        previous_hook = sys.unraisablehook

        def hook(lost: Any) -> None:
            if not isinstance(lost.exc_value, Stopped):
                previous_hook(lost)
            elif self._open:
                self._raised = False
                threading.Timer(AGAIN_AFTER, self._again).start()

        sys.unraisablehook = hook
        try:
            yield
        finally:
            if sys.unraisablehook is hook:
                sys.unraisablehook = previous_hook
            for s, handler in previous.items():
                # None: it was set by code that is not Python's
                signal.signal(s, signal.SIG_DFL if handler is None else handler)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within the block a request ends it; a block in another one leaves that as it was.

        Raises:
            Stopped: the run was asked to stop, before or inside the block.
        """
        outside, self._open = self._open, True
        try:
            if self.asked:
                self._cut()
            yield
        finally:
            self._open = outside

    def _cut(self) -> None:
        self._raised = self.cut_short = True
        raise Stopped

    def _again(self) -> None:
        if self._open:  # else the handler may be another one by now
            _thread.interrupt_main(signal.SIGTERM)

    def _receive(self, signum: int, frame: Any) -> None:
        now = time.monotonic()
        if not self.asked:
            self.asked, self._asked_at = True, now
            with contextlib.suppress(RuntimeError):  # the interrupted code may have been printing itself
                self._say("stopping and saving; press Ctrl-C again to stop at once")
        elif signum == signal.SIGINT and now - self._asked_at > SECOND_AFTER:
            raise KeyboardInterrupt
        if self._open and not self._raised:
            self._cut()
