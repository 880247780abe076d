"""What a worker process of `SubprocessEnv` runs.

The rows lie in memory shared with the parent; over the connection go one-byte commands, JSON and raw actions,
never a pickle. No torch is imported here.
"""

import contextlib
import json
import mmap
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from bellgrad.core.errors import BellgradError
from bellgrad.core.output import Forgiving
from bellgrad.core.process import SIGNALS
from bellgrad.envs.arrays import ContractBreach, SteppedEnvs, mapped_arrays
from bellgrad.envs.names import make_single

STEP, REPLAY = b"s", b"r"


def serve(connection: Connection) -> None:
    """Make the environments that the first message describes, then obey until the connection closes."""
    task = json.loads(connection.recv_bytes())
    threading.Thread(target=_end_with_parent, args=(task["parent"],), daemon=True).start()

    first, num_envs = task["first"], task["num_envs"]
    memory = mmap.mmap(task["memory"], 0)
    progress = np.frombuffer(memory, np.int64, 1, 64 * task["worker"])
    try:
        envs = [
            make_single(task["env"], task["max_episode_steps"], task["env_kwargs"])
            for _ in range(task["count"])
        ]
        rows, _ = mapped_arrays(
            envs[0].observation_space, envs[0].action_space, num_envs, memoryview(memory)[task["offset"] :]
        )
    except BellgradError as error:
        _answer(connection, {"index": first, "text": f"could not be made in its worker: {error}"})
        return
    batch = SteppedEnvs(envs, rows, first)
    _answer(connection, None)

    def finish(calls: Iterator[None]) -> dict[str, Any] | None:
        try:
            for _ in calls:
                progress[0] += 1  # the parent sees that nothing hangs
        except ContractBreach as broken:
            return {"index": broken.index, "text": broken.text}
        return None

    while True:
        command = connection.recv_bytes()
        if command == STEP:
            _answer(connection, finish(batch.advance()))
        elif command == REPLAY:
            past = json.loads(connection.recv_bytes())
            actions = np.frombuffer(connection.recv_bytes(), rows.action.dtype).reshape(
                -1, *rows.action.shape[1:]
            )
            actions = actions.copy()  # writable, as an environment may expect
            parts = np.split(actions, np.cumsum(past["lengths"])[:-1])
            _answer(connection, finish(batch.replay(past["rows"], past["seeds"], parts)))


def _answer(connection: Connection, fault: dict[str, Any] | None) -> None:
    connection.send_bytes(b"" if fault is None else json.dumps(fault).encode())


def _end_with_parent(parent: int) -> None:
    """End this process when its parent is gone, even while an environment hangs."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def main(descriptor: int) -> None:
    """The worker's whole life; `descriptor` is its end of the connection."""
    # What asks a run to stop may reach its whole group. It is the parent's, which then closes the connection.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # What an environment prints must not end it, when nobody reads that any more.
    sys.stdout = sys.stderr = Forgiving(sys.stderr)
    with contextlib.suppress(EOFError, ConnectionError):  # the parent closed the connection, or is gone
        serve(Connection(descriptor))
