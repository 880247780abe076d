"""The progress of long work: a live bar on a terminal, plain lines elsewhere, or nothing."""

import contextlib
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Literal, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from bellgrad.core.output import error_stream, say

SPINNER = "|/-\\"
PLAIN_LINES = 10  # how many lines a whole run prints if there is no terminal


class TrainingProgress:
    """Shows steps done, steps per second, the recent return and the time left, on standard error.

    Args:
        total: environment steps in the whole run.
        done: environment steps that a resumed run has already taken.
        style: `auto` looks for a terminal; `off` prints nothing.
    """

    def __init__(self, total: int, done: int, style: Literal["auto", "off"] = "auto"):
        self._total, self._off = total, style == "off"
        self._last_line = done * PLAIN_LINES // total
        console = Console(file=cast(TextIO, error_stream()))
        self._bar: Progress | None = None
        if not self._off and console.is_terminal:
            columns = (
                BarColumn(None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[detail]}"),
            )
            self._bar = Progress(*columns, console=console)
            self._task = self._bar.add_task("train", total=total, completed=min(done, total), detail="")

    def begin(self) -> None:
        """Show the bar, if there is one."""
        if self._bar is not None:
            self._bar.start()

    def update(self, steps: int, rate: float, return_mean: float | None) -> None:
        """Report how far the run is.

        Args:
            steps: environment steps so far.
            rate: environment steps per second, lately.
            return_mean: undiscounted return of recent episodes; None before the first one ends.
        """
        shown = "-" if return_mean is None else f"{return_mean:.1f}"
        if self._bar is not None:
            left = timedelta(seconds=max(0, self._total - steps) // rate)
            detail = f"{rate:,.0f} steps/s  return {shown}  {left} left"
            self._bar.update(self._task, completed=min(steps, self._total), detail=detail)
        elif not self._off and steps * PLAIN_LINES // self._total > self._last_line:
            self._last_line = steps * PLAIN_LINES // self._total
            say(f"{steps:>12,} steps  {rate:>9,.0f} steps/s  return {shown}")

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """While the run waits for the compiler."""
        began = time.perf_counter()
        if self._bar is None:
            self.say("compiling: once for these networks on this machine; Ctrl-C stops the run")
            yield
            self.say(f"compiled after {time.perf_counter() - began:.0f} seconds more")
            return
        before = self._bar.tasks[self._task].fields["detail"]
        self._bar.update(self._task, detail=Compiling(began))
        yield
        self._bar.update(self._task, detail=before)

    def say(self, line: str) -> None:
        """Print a line above the bar that stays."""
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False)
        elif not self._off:
            say(line)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class Compiling:
    """What the bar shows while the run waits for the compiler.

    Args:
        began: when that began, by `time.perf_counter`.
    """

    def __init__(self, began: float):
        self._began = began

    def __format__(self, _: Any) -> str:
        seconds = time.perf_counter() - self._began
        return f"{SPINNER[int(4 * seconds) % 4]} compiling, once for these networks: {seconds:.0f} s"
