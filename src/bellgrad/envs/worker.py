"""Gymnasium environments in worker processes, for environments that are slow to step.

Workers are started as fresh interpreters, not forked and not through a pickle: a script needs no `if __name__
== "__main__"`, and an environment is named (an id or `module:Class`), never sent. The rows lie in shared
memory; seeds, totals and snapshots are the parent's, so that the trajectories are those of `GymEnv`, bit for
bit.
"""

import contextlib
import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection, Pipe
from typing import IO, Any, NamedTuple

import gymnasium
import numpy as np
import torch

from bellgrad.core.errors import EnvironmentFault, UsageError
from bellgrad.core.output import warn
from bellgrad.core.processors import processors
from bellgrad.envs.arrays import ContractBreach, mapped_arrays
from bellgrad.envs.gym import GymEnv
from bellgrad.envs.names import env_name, importable_name, make_single
from bellgrad.envs.seeded import SeededEnvs, several_open
from bellgrad.envs.serve import CLOSE, IN_RESET, IN_STEP, REPLAY, STEP, WAITING, Place

STEP_SECONDS = 60.0  # that a step may take, if the user does not say otherwise
START_SECONDS = 120.0  # that at least a worker may take to begin: it imports the environment's package
CLOSE_SECONDS = 3.0  # that it may take to close its environments
RESET_FACTOR = 10  # a reset may take so many times as long: simulators load their worlds in it
BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); from bellgrad.envs.serve import main;"
    " main(int(sys.argv[1]))"
)
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")}


class _Worker(NamedTuple):
    process: subprocess.Popen
    connection: Connection
    first: int  # environment index
    count: int

    def __str__(self) -> str:
        last = self.first + self.count - 1
        return f"environment {self.first}" if self.count == 1 else f"environments {self.first} to {last}"

    def at(self, place: Place) -> str:
        """The environment that it calls, or all that it has."""
        return str(self) if place.call == WAITING else f"environment {place.row}"


def _stop(workers: list[_Worker], seconds: float = 3.0) -> None:
    """End worker processes: by closing their connections, then by force. Waits for each, so that no zombie
    stays."""
    for worker in workers:
        worker.connection.close()
    deadline = time.monotonic() + seconds
    for worker in workers:
        try:
            worker.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
    workers.clear()


class SubprocessEnv(SeededEnvs):
    """Gymnasium environments divided over worker processes. For Linux and macOS.

    Args:
        env: a registered id, `module:Class`, or a class or function that can be imported under its own name.
        num_envs: how many environments.
        device: of the tensors that `step` gives.
        workers: processes; None for one for each processor, at most one for each environment.
        timeout: seconds that one step of one environment may take before the worker counts as hung; a reset
            and making the environment may take `RESET_FACTOR` times as long. None is `STEP_SECONDS`.
        max_episode_steps: replaces the registered time limit; in environment steps.
        env_kwargs: arguments of the environment, of plain JSON values.

    Raises:
        UsageError: an environment that cannot be named or made, arguments that JSON would change, an
            unsupported space.
        EnvironmentFault: a worker did not start.
    """

    def __init__(
        self,
        env: str | Callable[..., gymnasium.Env],
        num_envs: int,
        device: torch.device | str = "cpu",
        workers: int | None = None,
        timeout: float | None = None,
        max_episode_steps: int | None = None,
        env_kwargs: dict[str, Any] | None = None,
    ):
        if os.name != "posix":
            raise UsageError("environments in worker processes need Linux or macOS; use backend='gymnasium'")
        workers = min(num_envs, processors()) if workers is None else workers
        timeout = STEP_SECONDS if timeout is None else timeout
        if not 1 <= workers <= num_envs:
            raise UsageError(f"workers = {workers} is out of range [1, num_envs = {num_envs}]")
        if not timeout > 0:
            raise UsageError(f"timeout = {timeout} must be more than 0 seconds")
        task = {
            "env": importable_name(env),
            "env_kwargs": _plain(env_kwargs or {}),
            "max_episode_steps": max_episode_steps,
            "num_envs": num_envs,
            "parent": os.getpid(),
        }
        name = env_name(env)
        # for its spaces only
        sample = GymEnv(partial(make_single, task["env"], max_episode_steps, task["env_kwargs"]), name=name)
        spec = sample.spec
        sample.close()
        task["spaces"] = [str(spec.observation_space), str(spec.action_space)]

        self.timeout = timeout
        self.workers = workers  # processes that keep a core busy: the thread rule counts them
        self._workers: list[_Worker] = []
        self._finalizer = weakref.finalize(self, _stop, self._workers)
        offset = 64 * workers  # first a cache line for each worker's progress
        _, size = mapped_arrays(spec.observation_space, spec.action_space, num_envs, None)
        with _anonymous_file(offset + size) as file:
            memory = mmap.mmap(file.fileno(), offset + size)
            self._progress = np.frombuffer(memory, np.int64, 8 * workers).reshape(workers, 8)
            rows, _ = mapped_arrays(
                spec.observation_space, spec.action_space, num_envs, memoryview(memory)[offset:]
            )
            for k, part in enumerate(np.array_split(np.arange(num_envs), workers)):
                place = {
                    "worker": k,
                    "first": int(part[0]),
                    "count": len(part),
                    "memory": file.fileno(),
                    "offset": offset,
                }
                self._workers.append(_start(task | place))
            try:
                self._wait(range(workers))
            except ContractBreach as broken:
                _stop(self._workers)
                hint = several_open(num_envs - 1, name)
                raise EnvironmentFault(f"environment {broken.index} {broken.text}{hint}") from None
        super().__init__(rows, spec, device)

    def _advance(self) -> None:
        self._need_workers()
        for worker in self._workers:
            self._send(worker, STEP)
        self._wait(range(len(self._workers)))

    def _replay(self, rows: Sequence[int], seeds: Sequence[int], actions: Sequence[np.ndarray]) -> None:
        self._need_workers()
        asked = []
        for k, worker in enumerate(self._workers):
            mine = [i for i, row in enumerate(rows) if worker.first <= row < worker.first + worker.count]
            if not mine:
                continue
            past = {
                "rows": [rows[i] for i in mine],
                "seeds": [seeds[i] for i in mine],
                "lengths": [len(actions[i]) for i in mine],
            }
            parts = np.concatenate([actions[i] for i in mine])
            self._send(worker, REPLAY, json.dumps(past).encode(), parts.tobytes())
            asked.append(k)
        self._wait(asked)

    def _send(self, worker: _Worker, *messages: bytes) -> None:
        # a dead worker is reported by `_wait`, which reads its end of file
        with contextlib.suppress(ConnectionError):
            for message in messages:
                worker.connection.send_bytes(message)

    def _wait(self, asked: Iterable[int]) -> None:
        """Take the answer of every worker that was `asked`, so that all are ready for the next command.

        Raises:
            ContractBreach: an environment's fault, the first one's.
            EnvironmentFault: a worker died, or a call took too long; all workers are ended.
        """
        faults = []
        try:
            for k in asked:
                answer = self._answer(k)
                if answer:
                    faults.append(json.loads(answer))
        except BaseException:
            # The other answers are still under way: nothing can be asked of these workers any more.
            _stop(self._workers, 0.0)
            raise
        if faults:
            raise ContractBreach(faults[0]["index"], faults[0]["text"])

    def _answer(self, k: int) -> bytes:
        worker, seen, since = self._workers[k], self._place(k), time.monotonic()
        while True:
            limit = self._limit(seen)
            left = since + limit - time.monotonic()
            # the worker may begin another call while this waits: look again every second
            if worker.connection.poll(min(max(left, 0.0), 1.0)):
                break
            now = self._place(k)
            if now != seen:
                seen, since = now, time.monotonic()
            elif left <= 0.0:
                raise EnvironmentFault(
                    f"{worker.at(seen)} hung: no {seen} was finished in {limit:g} seconds; if it needs"
                    f" longer, give a longer --worker-timeout (now {self.timeout:g} for a step,"
                    f" {RESET_FACTOR} times that for a reset)"
                )
        try:
            return worker.connection.recv_bytes()
        except (EOFError, ConnectionError):
            place = self._place(k)
            call = "" if place.call == WAITING else f" in its {place}"
            raise EnvironmentFault(
                f"the worker process of {worker.at(place)} {_death(worker.process)}{call}"
            ) from None

    def _place(self, k: int) -> Place:
        return Place(*self._progress[k, :3].tolist())

    def _limit(self, place: Place) -> float:
        """Seconds that the present call of a worker may take."""
        if place.call == IN_STEP:
            return self.timeout
        long = RESET_FACTOR * self.timeout
        return long if place.call == IN_RESET else max(long, START_SECONDS)

    def _need_workers(self) -> None:
        if not self._workers:
            raise EnvironmentFault("the environment's worker processes have ended; make it again")

    def close(self) -> None:
        """Let the workers close their environments and end, by force if they do not. May be called twice.

        Raises:
            EnvironmentFault: an environment failed in `close`; as `GymEnv.close`.
        """
        underway = sys.exception()
        super().close()
        fault = None
        for worker in self._workers:
            self._send(worker, CLOSE)
        deadline = time.monotonic() + CLOSE_SECONDS
        for worker in self._workers:
            with contextlib.suppress(EOFError, ConnectionError):  # it ended before, which was reported
                waits = max(0.0, deadline - time.monotonic())
                if worker.connection.poll(waits) and (answer := worker.connection.recv_bytes()):
                    broken = json.loads(answer)
                    fault = fault or f"environment {broken['index']} {broken['text']}"
        _stop(self._workers)
        if fault and underway is None:
            raise EnvironmentFault(fault)
        if fault:
            warn(str(fault))


def _plain(env_kwargs: dict[str, Any]) -> dict[str, Any]:
    try:
        same = json.loads(json.dumps(env_kwargs)) == env_kwargs
    except (TypeError, ValueError):
        same = False
    if not same:
        raise UsageError(
            "env_kwargs for worker processes must be plain JSON values (no tuples, arrays or objects):"
            f" {env_kwargs!r}"
        )
    return env_kwargs


@contextlib.contextmanager
def _anonymous_file(size: int) -> Iterator[IO[bytes]]:
    """A file without a name, in memory if the system can: nothing is left behind, however the processes
    end."""
    with (
        os.fdopen(os.memfd_create("bellgrad"), "r+b")
        if hasattr(os, "memfd_create")
        else tempfile.TemporaryFile()
    ) as file:
        file.truncate(size)
        yield file


def _start(task: dict[str, Any]) -> _Worker:
    ours, theirs = Pipe()
    path = json.dumps([str(entry) for entry in sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", BOOTSTRAP, str(theirs.fileno()), path],
        env=os.environ | ONE_THREAD,
        stdin=subprocess.DEVNULL,
        stdout=2,  # what an environment prints must not mix with --json
        pass_fds=(theirs.fileno(), task["memory"]),
    )
    theirs.close()
    worker = _Worker(process, ours, task["first"], task["count"])
    with contextlib.suppress(ConnectionError):  # a worker that died at once is reported by `_wait`
        ours.send_bytes(json.dumps(task).encode())
    return worker


def _death(process: subprocess.Popen) -> str:
    try:
        code = process.wait(5.0)
    except subprocess.TimeoutExpired:
        return "closed its connection"
    if code >= 0:
        return f"ended with exit code {code}"
    hint = " (the system does that when memory runs out)" if code == -signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-code).name}{hint}"
