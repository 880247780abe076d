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
from multiprocessing.connection import Connection, Pipe
from typing import IO, Any, NamedTuple

import gymnasium
import numpy as np
import torch

from bellgrad.core.errors import EnvironmentFault, UsageError
from bellgrad.envs.arrays import ContractBreach, check_action_space, mapped_arrays
from bellgrad.envs.gym import SeededEnvs, gym_spec
from bellgrad.envs.names import env_name, importable_name, make_single
from bellgrad.envs.serve import REPLAY, STEP

START_SECONDS = 120.0  # a worker imports its environment's package first
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
        timeout: seconds that one step of one environment may take before the worker counts as hung.
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
        timeout: float = 60.0,
        max_episode_steps: int | None = None,
        env_kwargs: dict[str, Any] | None = None,
    ):
        if os.name != "posix":
            raise UsageError("environments in worker processes need Linux or macOS; use backend='gymnasium'")
        workers = min(num_envs, os.cpu_count() or 1) if workers is None else workers
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
        sample = make_single(task["env"], max_episode_steps, task["env_kwargs"])  # for its spaces only
        spec = gym_spec(sample, env_name(env))
        check_action_space(spec.action_space, spec.observation_space)
        sample.close()

        self.timeout = timeout
        self.workers = workers  # processes that keep a core busy: the thread rule counts them
        self._workers: list[_Worker] = []
        self._finalizer = weakref.finalize(self, _stop, self._workers)
        offset = 64 * workers  # first a cache line for each worker's progress
        _, size = mapped_arrays(spec.observation_space, spec.action_space, num_envs, None)
        with _anonymous_file(offset + size) as file:
            memory = mmap.mmap(file.fileno(), offset + size)
            self._progress = np.frombuffer(memory, np.int64, 8 * workers)[::8]
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
                self._wait(max(timeout, START_SECONDS), range(workers))
            except ContractBreach as broken:
                self.close()
                raise EnvironmentFault(f"environment {broken.index} {broken.text}") from None
        super().__init__(rows, spec, device)

    def _advance(self) -> None:
        self._need_workers()
        for worker in self._workers:
            self._send(worker, STEP)
        self._wait(self.timeout, range(len(self._workers)))

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
        self._wait(self.timeout, asked)

    def _send(self, worker: _Worker, *messages: bytes) -> None:
        # a dead worker is reported by `_wait`, which reads its end of file
        with contextlib.suppress(ConnectionError):
            for message in messages:
                worker.connection.send_bytes(message)

    def _wait(self, seconds: float, asked: Iterable[int]) -> None:
        """Take the answer of every worker that was `asked`, so that all are ready for the next command.

        Raises:
            ContractBreach: an environment's fault, the first one's.
            EnvironmentFault: a worker died, or finished no step for `seconds`; all workers are ended.
        """
        faults = []
        try:
            for k in asked:
                answer = self._answer(k, seconds)
                if answer:
                    faults.append(json.loads(answer))
        except BaseException:
            # The other answers are still under way: nothing can be asked of these workers any more.
            self.close(seconds=0.0)
            raise
        if faults:
            raise ContractBreach(faults[0]["index"], faults[0]["text"])

    def _answer(self, k: int, seconds: float) -> bytes:
        worker, seen = self._workers[k], int(self._progress[k])
        while not worker.connection.poll(seconds):
            if self._progress[k] == seen:
                raise EnvironmentFault(f"{worker} hung: no step was finished in {seconds:g} seconds")
            seen = int(self._progress[k])
        try:
            return worker.connection.recv_bytes()
        except (EOFError, ConnectionError):
            raise EnvironmentFault(f"the worker process of {worker} {_death(worker.process)}") from None

    def _need_workers(self) -> None:
        if not self._workers:
            raise EnvironmentFault("the environment's worker processes have ended; make it again")

    def close(self, seconds: float = 3.0) -> None:
        """End the workers, by force after `seconds`. May be called twice."""
        _stop(self._workers, seconds)


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
