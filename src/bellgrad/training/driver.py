"""What the drivers share: what one call gives, and how a run is saved."""

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

    @classmethod
    def workload(cls, learner: Any, settings: Settings) -> Workload | None:
        """What the run asks of the learner's networks; None if it has none."""
        raise NotImplementedError

    def advance(self) -> Advanced:
        """Take `steps_per_call` environment steps and the updates that are due."""
        raise NotImplementedError

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


def largest_divisor(n: int, limit: int) -> int:
    """The largest divisor of `n` that is at most `limit`."""
    return next(d for d in range(min(n, limit), 0, -1) if n % d == 0)
