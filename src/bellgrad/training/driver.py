"""What the drivers share: the state of a run between calls, one step of interaction, and how both are
saved."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from bellgrad.core.errors import EnvironmentFault
from bellgrad.core.protocols import BatchedEnv, Learner
from bellgrad.core.records import Acted, Metrics, Step
from bellgrad.core.rng import Streams, derive_seed, draw
from bellgrad.core.tree import Tree, map_tree, named_leaves, nest, restore_tree, to_device, where
from bellgrad.runs.checkpoint import Checkpoint
from bellgrad.runs.settings import Settings
from bellgrad.training.engine import Engine

UNROLL = 8  # environment steps in one compiled call


class Loop(NamedTuple):
    """Everything that one step of interaction takes and gives."""

    state: Any  # the learner's
    env: Tree  # a native environment's own state; None where the environment keeps its state itself
    obs: Tree  # [B, *O] to act on next
    carry: Tree  # the actor's memory


class Ended(NamedTuple):
    """Which episodes ended, with their totals; `[B]` for a step, `[n, B]` for a call of n steps."""

    ended: Tensor  # bool
    return_: Tensor  # float32
    length: Tensor  # int64


class Report(NamedTuple):
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
    """

    steps_per_call: int  # environment steps that one `advance` takes
    total: int  # environment steps of the whole run; whoever makes the driver says

    def __init__(self, learner: Learner, env: BatchedEnv, engine: Engine, seed: int, device: torch.device):
        env = env.as_pure()
        self.learner, self.env, self.engine, self.device = learner, env, engine, device
        self.seed, self.streams = seed, Streams(seed, device)
        self.steps = 0  # environment steps so far
        self.updates = 0  # gradient updates so far
        self.native = env.compilable
        self._first_carry = to_device(learner.init_carry(env.num_envs), device)
        state = learner.init(self.streams["init"])
        obs = env.reset(seed)
        # A copy: one tensor given twice to a compiled call would be taken for one input ever after.
        self.loop = Loop(
            state, env.state if self.native else None, obs, map_tree(torch.clone, self._first_carry)
        )
        self._compiled_act = engine.compile(learner.act)

    @classmethod
    def workload(cls, learner: Learner, settings: Settings) -> Workload | None:
        """What the run asks of the learner's networks; None where it has none."""
        raise NotImplementedError

    def advance(self) -> Report:
        """Take `steps_per_call` environment steps and the updates that are due."""
        raise NotImplementedError

    def draw_interaction(self, *lead: int) -> dict[str, Tree]:
        """The random numbers that steps of interaction need; `lead` are the leading axes."""
        act = draw(self.learner.act_noise(self.env.num_envs), self.streams["action"], *lead)
        return {
            "act": act,
            "env": draw(self.env.noise, self.streams["environment"], *lead) if self.native else None,
        }

    def interact(
        self, loop: Loop, noise: dict[str, Tree], active: Tensor | None = None
    ) -> tuple[Loop, Acted, Step]:
        """Act and step once. Pure where the environment is native, so that it can be a part of a compiled
        call."""
        act = self.learner.act if self.native else self._compiled_act
        acted = act(loop.state, loop.carry, loop.obs, noise["act"])
        return self.follow(loop, acted, noise["env"], active)

    def follow(
        self, loop: Loop, acted: Acted, env_noise: Tree, active: Tensor | None = None
    ) -> tuple[Loop, Acted, Step]:
        """Step with the action given, in all environments or where `active`; the memory begins anew where an
        episode ended."""
        if self.native:
            env, step = self.env.pure_step(loop.env, acted.action, env_noise, active)
        else:
            env, step = None, self.env.step(acted.action, active)
        carry = where(step.terminated | step.truncated, self._first_carry, acted.carry)
        if active is not None:
            carry = where(active, carry, loop.carry)
        taken = self.env.num_envs if active is None else active.sum()
        return Loop(loop.state._replace(steps=loop.state.steps + taken), env, step.obs, carry), acted, step

    def sync_env(self) -> None:
        """Give a native environment the state that the loop carries."""
        if self.native:
            self.env.state = self.loop.env

    def snapshot(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Counters, and every tensor of the run by name."""
        self.sync_env()
        tensors = named_leaves(self.loop._replace(env=None), "loop")
        tensors |= named_leaves(self.env.snapshot(), "env") | named_leaves(self.streams.snapshot(), "streams")
        return {"steps": self.steps, "updates": self.updates}, tensors

    def restore(self, checkpoint: Checkpoint) -> EnvironmentFault | None:
        """Continue from a checkpoint, bit for bit where the environment repeats itself given its seed.

        Returns:
            None; or why the environment could not be brought back: it then begins new episodes, and all else
            is as it was.

        Raises:
            CheckpointError: the checkpoint does not fit this run.
            EnvironmentFault: the environment cannot begin an episode either.
        """
        counters = checkpoint.values["driver"]
        self.steps, self.updates = counters["steps"], counters["updates"]
        self.streams.restore({name: checkpoint.read(f"streams/{name}") for name in self.streams.snapshot()})
        loop = restore_tree(self.loop._replace(env=None), checkpoint.tensors("loop"), "loop")
        past = {name.removeprefix("env/"): tensor for name, tensor in checkpoint.tensors("env/").items()}
        try:
            self.env.restore(nest(past))
        except EnvironmentFault as fault:
            obs = self.env.reset(derive_seed(self.seed, "resumed", self.steps))
            self.loop = loop._replace(obs=obs, carry=map_tree(torch.clone, self._first_carry))
            return fault
        self.loop = loop._replace(env=self.env.state if self.native else None)
        return None


def at(tree: Tree, *index: int) -> Tree:
    """The tree with an index taken on the leading axes of every leaf."""
    return map_tree(lambda leaf: leaf[index], tree)


def ended_of(step: Step) -> Ended:
    """Which episodes a step ended, with their totals."""
    return Ended(step.terminated | step.truncated, *step.episode)


def mean_metrics(metrics: list[Metrics]) -> Metrics:
    """The mean of every scalar metric over several updates; metrics per item are for the replay, not for the
    log."""
    names = [name for name, first in metrics[0].items() if first.dim() == 0]
    table = torch.stack([update[name] for update in metrics for name in names]).unflatten(
        0, (len(metrics), -1)
    )
    return dict(zip(names, table.mean(0).unbind(), strict=True))


def largest_divisor(n: int, limit: int) -> int:
    """The largest divisor of `n` that is at most `limit`."""
    return next(d for d in range(min(n, limit), 0, -1) if n % d == 0)
