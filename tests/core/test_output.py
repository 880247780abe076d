"""What is said to a person never ends anything."""

import contextlib
import io
import os
import sys

import pytest

from bellgrad.core.output import Forgiving, say, warn


class Broken(io.StringIO):
    """A stream whose reader left."""

    def write(self, text):
        raise BrokenPipeError

    def flush(self):
        raise OSError(28, "No space left on device")


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [None, Broken(), closed()], ids=["none", "broken", "closed"])
def test_a_line_that_cannot_be_written_is_dropped(stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream)
    say("a line")
    warn("another")
    print("a third", file=Forgiving(stream), flush=True)


def test_what_cannot_be_encoded_is_written_otherwise():
    inside = io.BytesIO()
    stream = io.TextIOWrapper(inside, encoding="ascii")
    Forgiving(stream).write("\N{UPWARDS ARROW} caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{SNOWMAN}\n")
    stream.flush()
    assert inside.getvalue() == b"^ caf\\xe9 \\u2603\n"


def test_a_pipe_without_a_reader_fails_neither_now_nor_later():
    read, write = os.pipe()
    os.close(read)
    stream = os.fdopen(write, "w")
    wrapped = Forgiving(stream)
    for _ in range(3):
        wrapped.write("x" * 100_000)
        wrapped.flush()
    with contextlib.suppress(OSError):
        stream.close()


def test_a_stream_that_fails_in_its_own_way_ends_nothing():
    class Window:
        def write(self, text):
            raise RuntimeError("the window was closed")

        flush = isatty = write

    stream = Forgiving(Window())
    assert stream.write("word") == 4 and not stream.isatty()
    stream.flush()
