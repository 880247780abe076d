"""What the drivers share: what one call gives, and how a run is saved."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from bellgrad.core.errors import EnvironmentFault
from bellgrad.core.protocols import BatchedEnv, Learner
from bellgrad.core.records import Metrics
from bellgrad.core.rng import Streams
from bellgrad.core.tree import named_leaves, restore_tree
from bellgrad.runs.checkpoint import Checkpoint
from bellgrad.runs.settings import Settings
from bellgrad.training.actor import Actor, Ended
from bellgrad.training.engine import Engine
from bellgrad.training.stopping import StopRequest

UNROLL = 8  # environment steps in one compiled call


class Advanced(NamedTuple):
    """What one call of a driver gives for the log. The tensors are read later, so that no call waits for the
    device."""

    ended: Ended
    metrics: Metrics


class Workload(NamedTuple):
    """What a whole run asks of a network; the engine is chosen by it."""

    updates: int  # gradient updates, or whatever takes most of the time
    batch_size: int  # items in one of them
    unit: str = "updates"  # what they are
    begins: int = 0  # environment steps before the first of them


class Driver:
    """A learner in its environment, advanced one call at a time.

    Args:
        learner: the algorithm's pure functions.
        env: where it acts.
        engine: how the functions run.
        seed: of every random stream.
        device: where every tensor lives.
        total: environment steps of the whole run; None if there is no end.

    Attributes:
        stream_names: of the random streams beside the actor's.
        steps_per_call: environment steps that one `advance` takes.
        state: the learner's.
        steps: environment steps so far.
        updates: gradient updates so far.
        at_once: a block within `advance` that may be left at any point, after which the driver is not used
            again: nothing in it changes what `snapshot` gave before the call.
        stop: whether the run was asked to stop; a driver that can end a call early looks at it.
    """

    stream_names: ClassVar[tuple[str, ...]] = ("init", "batch", "update")
    steps_per_call: int

    def __init__(
        self,
        learner: Learner,
        env: BatchedEnv,
        engine: Engine,
        seed: int,
        device: torch.device,
        total: int | None = None,
    ):
        self.learner, self.env, self.engine, self.device = learner, env, engine, device
        self.seed, self.total = seed, total
        self.streams = Streams(seed, device, self.stream_names)
        self.state: Any = learner.init(self.streams["init"])
        self.steps = self.updates = 0
        self.at_once: Callable[[], AbstractContextManager[None]] = nullcontext
        self.stop = StopRequest()

    @classmethod
    def workload(cls, learner: Any, settings: Settings) -> Workload | None:
        """What the run asks of the learner's networks; None if it has none."""
        raise NotImplementedError

    def heed(self, stop: StopRequest, may_leave: bool) -> None:
        """Before a call: by what it is asked to stop, and whether what was there before it is kept, so that
        it may be left at once."""
        self.stop, self.at_once = stop, stop.at_once if may_leave else nullcontext

    def advance(self) -> Advanced:
        """Take `steps_per_call` environment steps and the updates that are due."""
        raise NotImplementedError

    @property
    def call_began(self) -> int:
        """The step at which the present call began; other than `steps` only if it was ended early."""
        return self.steps

    @property
    def compiles_next(self) -> bool:
        """Whether the next call may have to wait for a compiler, a time in which nothing can be saved."""
        return self.engine.compilation.may_wait

    def notes(self, settings: Settings) -> list[str]:
        """What a user may not expect of a run of so many steps, each to be said after the algorithm's
        name."""
        per_call = getattr(self, "steps_per_call", 1)
        total = -(-settings.steps // per_call) * per_call
        if total == settings.steps:
            return []
        calls = total // per_call
        saves = f", and saves {calls} of the {settings.checkpoints} checkpoints"
        return [
            f"takes {per_call:,} steps at a time: this run takes {total:,}, not {settings.steps:,}"
            + (saves if calls < settings.checkpoints else "")
        ]

    def sync_env(self) -> None:
        """Let `env` know where its episodes and its transforms stand."""

    def snapshot(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Counters, and every tensor of the run by name."""
        tensors = named_leaves(self.state, "loop/state") | self.snapshot_experience()
        return {"steps": self.steps, "updates": self.updates}, tensors | self.streams.snapshot()

    def snapshot_experience(self) -> dict[str, Tensor]:
        """Whatever must be saved beside the learner and the streams of its updates."""
        raise NotImplementedError

    def restore(self, checkpoint: Checkpoint) -> EnvironmentFault | None:
        """Continue from a checkpoint, bit for bit if the environment repeats itself given its seed.

        Returns:
            None; or why the environment could not be brought back: it then begins new episodes, and all else
            is as it was.

        Raises:
            CheckpointError: the checkpoint does not fit this run.
            EnvironmentFault: the environment cannot begin an episode either.
        """
        counters = checkpoint.values["driver"]
        self.steps, self.updates = counters["steps"], counters["updates"]
        self.streams.restore(checkpoint.tensors("streams/"))
        self.state = restore_tree(self.state, checkpoint.tensors("loop/state"), "loop/state")
        return self.restore_experience(checkpoint)

    def restore_experience(self, checkpoint: Checkpoint) -> EnvironmentFault | None:
        """Take back what `snapshot_experience` gave; returns and raises as `restore`."""
        raise NotImplementedError


class ActingDriver(Driver):
    """A driver whose experience comes from an actor; the arguments are those of `Driver`.

    Attributes:
        actor: acts, and has the environments.
    """

    def __init__(
        self,
        learner: Learner,
        env: BatchedEnv,
        engine: Engine,
        seed: int,
        device: torch.device,
        total: int | None = None,
    ):
        super().__init__(learner, env, engine, seed, device, total)
        self.actor = Actor(learner, env, engine, seed, device)

    def sync_env(self) -> None:
        """Let `env` know where its episodes and its transforms stand."""
        self.actor.sync_env()

    def snapshot_experience(self) -> dict[str, Tensor]:
        """The actor."""
        return self.actor.snapshot()

    def restore_experience(self, checkpoint: Checkpoint) -> EnvironmentFault | None:
        """The actor."""
        return self.actor.restore(checkpoint, self.steps)


def mean_metrics(metrics: list[Metrics]) -> Metrics:
    """The mean of every metric over several updates."""
    names = list(metrics[0])
    table = torch.stack([update[name] for update in metrics for name in names]).view(len(metrics), -1)
    return dict(zip(names, table.mean(0).unbind(), strict=True))


def whole_episodes_note(unit: str, episodes: int, limit: int | None, steps: int) -> list[str]:
    """What to say of a driver whose calls are whole episodes, if they may be long compared to the run.

    Args:
        unit: what is played at a time.
        episodes: how many episodes that is.
        limit: the environment's time limit; None if there is none.
        steps: environment steps that were asked for.
    """
    if limit is not None and 100 * episodes * limit <= steps:
        return []
    at_most = "" if limit is None else f" (at most {episodes * limit:,} steps)"
    return [f"plays {unit} at a time{at_most}, and ends with the first after step {steps:,}"]


def largest_divisor(n: int, limit: int) -> int:
    """The largest divisor of `n` that is at most `limit`."""
    return next(d for d in range(min(n, limit), 0, -1) if n % d == 0)
