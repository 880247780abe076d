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
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

from bellgrad.core.errors import BellgradError, UsageError
from bellgrad.core.guard import what_happened
from bellgrad.core.output import Forgiving
from bellgrad.core.signals import SIGNALS
from bellgrad.envs.arrays import ContractBreach, SteppedEnvs, mapped_arrays
from bellgrad.envs.names import make_single

STEP, REPLAY, CLOSE = b"s", b"r", b"c"
# What a worker is doing, which its parent reads when it hangs or dies.
WAITING, IN_MAKING, IN_RESET, IN_STEP, IN_CLOSE = range(5)


class Place(NamedTuple):
    """Where a worker is: the beginning of its line in shared memory."""

    finished: int  # calls
    row: int  # of the environment that is called
    call: int  # WAITING, or which call

    def __str__(self) -> str:
        """To follow "no" and "in"."""
        return ("command", "environment", "reset", "step", "close")[self.call]


class _ReportingEnvs(SteppedEnvs):
    """Says in `place` what it is about to call."""

    place: NDArray[np.int64]  # as `Place`

    def reset(self, row: int, seed: int) -> Any:
        self.place[1:3] = row, IN_RESET
        return super().reset(row, seed)

    def step(self, row: int, action: Any) -> tuple[Any, float, bool, bool]:
        self.place[1:3] = row, IN_STEP
        return super().step(row, action)

    def close(self) -> Iterator[None]:
        """Close every environment, yielding after each.

        Raises:
            ContractBreach: one failed, after all were closed.
        """
        broken = None
        for row, env in enumerate(self.envs, self.first):
            self.place[1:3] = row, IN_CLOSE
            try:
                env.close()
            except BaseException as error:
                broken = broken or ContractBreach(row, what_happened(error, "close()"))
            yield
        if broken is not None:
            raise broken


def serve(connection: Connection) -> None:
    """Make the environments that the first message describes, then obey until the connection closes."""
    task = json.loads(connection.recv_bytes())
    threading.Thread(target=_end_with_parent, args=(task["parent"],), daemon=True).start()

    first, num_envs = task["first"], task["num_envs"]
    memory = mmap.mmap(task["memory"], 0)
    place = np.frombuffer(memory, np.int64, 3, 64 * task["worker"])
    envs: list[gymnasium.Env] = []
    try:
        for row in range(first, first + task["count"]):
            place[1:3] = row, IN_MAKING
            envs.append(make_single(task["env"], task["max_episode_steps"], task["env_kwargs"]))
            place[0] += 1
            spaces = [str(envs[-1].observation_space), str(envs[-1].action_space)]
            if spaces != task["spaces"]:
                raise UsageError("the environments of one batch must have the same spaces")
    except BellgradError as error:
        _answer(connection, {"index": row, "text": f"could not be made in its worker: {error}"})
        return
    shared = memoryview(memory)[task["offset"] :]
    rows, _ = mapped_arrays(envs[0].observation_space, envs[0].action_space, num_envs, shared)
    batch = _ReportingEnvs(envs, rows, first)
    batch.place = place
    place[2] = WAITING
    _answer(connection, None)

    def finish(calls: Iterator[None]) -> dict[str, Any] | None:
        fault = None
        try:
            for _ in calls:
                place[0] += 1  # the parent sees that nothing hangs
        except ContractBreach as broken:
            fault = {"index": broken.index, "text": broken.text}
        place[2] = WAITING
        return fault

    while True:
        command = connection.recv_bytes()
        if command == STEP:
            _answer(connection, finish(batch.advance()))
        elif command == CLOSE:
            _answer(connection, finish(batch.close()))
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
