"""Calls into code that a user wrote: whatever it raises becomes words, even what would end the process.

`sys.exit()` in an environment must not look like the end of a run that went well. Only the user's own Ctrl-C
passes through.
"""

import opcode
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from bellgrad.core.errors import BellgradError, EnvironmentFault, UsageError

PACKAGE = str(Path(__file__).parents[1])
STANDARD = str(Path(opcode.__file__).parent)  # of Python's own library
RAISE = opcode.opmap["RAISE_VARARGS"]  # the instruction of the statement `raise`


@contextmanager
def guarded(who: str, call: str, refusal: str | None = None) -> Iterator[None]:
    """Run a block that calls a user's code; an error of Bellgrad's own passes through.

    Args:
        who: whose code it is, for example `"environment 0"`.
        call: what is called, for example `"render()"`.
        refusal: what an exception means if it is rather a wrong request than a fault of the environment.

    Raises:
        EnvironmentFault: the code raised something, in one line with file and line number; or it asked to
            end the process.
        UsageError: it raised an exception, and there is a `refusal`.
        KeyboardInterrupt: the user pressed Ctrl-C.
    """
    try:
        yield
    except BellgradError:
        raise
    except BaseException as error:
        if refusal is not None and isinstance(error, Exception):
            raise UsageError(f"{refusal}: {describe(error)}") from error
        raise EnvironmentFault(f"{who} {what_happened(error, call)}") from error


def what_happened(error: BaseException, call: str) -> str:
    """What a user's code did in place of returning, to follow the words "environment 0".

    Raises:
        KeyboardInterrupt: `error` itself, if it is the user's Ctrl-C.
    """
    if isinstance(error, KeyboardInterrupt) and not _was_raised_by_user_code(error):
        raise error
    if isinstance(error, SystemExit):
        code = "" if error.code is None else repr(error.code)
        return f"ended the process in {call}: sys.exit({code}){_place(error)}"
    if isinstance(error, BellgradError):  # of a part of ours inside the user's
        return f"failed in {call}: {error}"
    return f"raised {describe(error)} in {call}"


def describe(error: BaseException) -> str:
    """An exception in one line, with the file and line that raised it."""
    try:
        text = " ".join(str(error).split())
    except BaseException:  # its own `__str__` fails
        text = ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{_place(error)}"


def _place(error: BaseException) -> str:
    """The last line of the user's own that led there; of an installed package, if there is none."""
    files = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    users = [at for at in files if not at[0].startswith((PACKAGE, "<frozen"))]
    own = [at for at in users if "site-packages" not in at[0] and not at[0].startswith(STANDARD)]
    last = (own or users)[-1:]
    return f" ({last[0][0]}:{last[0][1]})" if last else ""


def _was_raised_by_user_code(error: KeyboardInterrupt) -> bool:
    """Whether a statement `raise` of the user's made it. Ctrl-C interrupts another instruction, or comes from
    a handler of the signal."""
    last: TracebackType | None = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:
        return False
    frame = last.tb_frame
    handlers = [getattr(signal.getsignal(s), "__code__", None) for s in (signal.SIGINT, signal.SIGTERM)]
    ours = frame.f_globals.get("__name__", "").partition(".")[0] == "bellgrad"
    return not ours and frame.f_code not in handlers and frame.f_code.co_code[last.tb_lasti] == RAISE
