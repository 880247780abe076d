"""What Bellgrad says to a person. Output that fails, or that cannot be encoded, ends nothing."""

import codecs
import io
import os
import sys
from typing import Any

ESCAPED = "bellgrad.escaped"  # an error handler for `str.encode`
# How what is not ASCII is written where there is nothing else; other signs as escapes.
_PLAIN = {
    "\N{LEFTWARDS ARROW}": "<",
    "\N{UPWARDS ARROW}": "^",
    "\N{RIGHTWARDS ARROW}": ">",
    "\N{DOWNWARDS ARROW}": "v",
    "\N{MINUS SIGN}": "-",
    "\N{PLUS-MINUS SIGN}": "+-",
    "\N{HORIZONTAL ELLIPSIS}": "...",
    "\N{MULTIPLICATION SIGN}": "x",
}


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    plain = "".join(
        _PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode("ascii") for sign in signs
    )
    return plain, error.end


codecs.register_error(ESCAPED, _escape)


class Forgiving(io.TextIOBase):
    """A text stream over another one, to which every write succeeds.

    What the stream inside cannot encode is written in other signs or as an escape. What it cannot write at
    all is dropped: its reader left, its terminal was closed, its disk is full, it is closed or missing, or
    the object that a program put in its place fails in its own way.

    Args:
        stream: where the text goes; None, as a process without a console has, drops everything.
    """

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what can be written; returns the length of the text."""
        if self._stream is not None:
            try:
                try:
                    self._stream.write(text)
                except UnicodeError:
                    name = getattr(self._stream, "encoding", None) or "ascii"
                    self._stream.write(text.encode(name, ESCAPED).decode(name))
            except Exception:
                self._give_up()
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        if self._stream is not None:
            try:
                self._stream.flush()
            except Exception:
                self._give_up()

    def _give_up(self) -> None:
        """Let a standard stream of this process lead nowhere, so that what it holds back does not fail again
        when Python ends."""
        if self._stream in (sys.__stdout__, sys.__stderr__):
            leads_nowhere(self._stream)

    def writable(self) -> bool:
        """Always."""
        return True

    def isatty(self) -> bool:
        """Whether the stream inside is a terminal."""
        try:
            return bool(self._stream.isatty())
        except Exception:
            return False

    def fileno(self) -> int:
        """The file descriptor of the stream inside."""
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return int(self._stream.fileno())

    def close(self) -> None:
        """The stream inside is not ours to close."""

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a plain attribute there
        """That of the stream inside."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def __getattr__(self, name: str) -> Any:
        if name == "_stream":
            raise AttributeError(name)
        return getattr(self._stream, name)


def leads_nowhere(stream: Any) -> None:
    """Point a stream's file descriptor at the null device and drop what it holds back."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, stream.fileno())
        finally:
            os.close(null)
        stream.flush()
    except (OSError, ValueError, AttributeError):
        pass


def error_stream() -> Forgiving:
    """Standard error, as it is now."""
    return sys.stderr if isinstance(sys.stderr, Forgiving) else Forgiving(sys.stderr)


def say(line: str) -> None:
    """Print a line on standard error, whatever has become of it."""
    stream = error_stream()
    stream.write(f"{line}\n")
    stream.flush()


def warn(line: str) -> None:
    """`say` a warning."""
    say(f"warning: {line}")
