"""Compiling graphs beside the work: the process of `build.py`, and what is ordered from it."""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from bellgrad.core.errors import CompilationError
from bellgrad.graphs import build
from bellgrad.graphs.compiler import temporary_folder

# Variables of torch that would change the code, or where it goes, behind the key of a graph.
FOREIGN = ("TORCHINDUCTOR_", "TORCH_COMPILE", "AOT_INDUCTOR_", "TORCH_LOGS", "TORCH_TRACE")


class Order:
    """A graph that is being compiled.

    Attributes:
        done: set at its end.
        fault: why there is no code; None if there is.
        seconds: that it took.
        cpu_seconds: of all processors.
    """

    def __init__(self) -> None:
        self.done = threading.Event()
        self.fault: CompilationError | None = None
        self.seconds = self.cpu_seconds = 0.0

    def wait(self) -> None:
        """Until it is done, in short pieces, so that a signal is heard."""
        while not self.done.wait(0.1):
            pass


class Workshop:
    """Takes orders. Its process begins with the first one and ends when nothing is left to do."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._open: dict[str, Order] = {}
        self._owner = os.getpid()

    def order(self, key: str, record: dict[str, Any], into: Path) -> Order:
        """Compile a graph into a library, which is in the folder `into`, whole, when the order is done.

        Args:
            key: of the graph; while it is being compiled, a second order for it is the first one.
            record: what `build.py` wants to know.
            into: a folder that can be written.
        """
        with self._lock:
            if key in self._open:
                return self._open[key]
            order = Order()
            try:
                folder = temporary_folder()
                path = Path(folder) / f"{key}.json"
                path.write_text(json.dumps(record | {"key": key, "into": str(into), "folder": folder}))
                process = self._running()
                assert process.stdin is not None
                process.stdin.write(f"{path}\n")
                process.stdin.flush()
            except (OSError, ValueError) as error:
                order.fault = CompilationError(f"the compiling process cannot be used: {error}")
                order.done.set()
                return order
            self._open[key] = order
            return order

    def close(self) -> None:
        """End the process and all compilers, if they run; open orders fail."""
        process = self._process
        if process is None or os.getpid() != self._owner:
            return
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            environment = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
            # a session of its own, so that Ctrl-C on the terminal is not sent to it
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(build.__file__)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
                env=environment,
            )
            threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()
        return self._process

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None and process.stdin is not None
        for line in process.stdout:
            try:
                answer = json.loads(line)
            except ValueError:  # not one of its lines
                process.kill()
                break
            with self._lock:
                order = self._open.pop(answer["key"])
                if not self._open:
                    self._leave(process)
            order.seconds, order.cpu_seconds = answer["seconds"], answer["cpu_seconds"]
            if answer["error"] is not None:
                order.fault = CompilationError(
                    f"compiling failed: {answer['error']['line']}", answer["error"]["whole"]
                )
            order.done.set()
        code = process.wait()
        with self._lock:
            if self._process is not process:
                return
            lost, self._open = self._open, {}
            self._leave(process)
        for order in lost.values():
            order.fault = CompilationError(f"compiling failed: its process ended with exit code {code}")
            order.done.set()

    def _leave(self, process: subprocess.Popen[str]) -> None:
        """Let the process end: it has nothing to do."""
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        self._process = None


WORKSHOP = Workshop()
atexit.register(WORKSHOP.close)


def _forget() -> None:
    """In a fork: the process belongs to the parent."""
    global WORKSHOP
    WORKSHOP = Workshop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
