"""The driver of algorithms that learn from a replay: act, store, learn.

One cycle is the shortest pattern that repeats: `iterations` steps of all environments, then `cycle_updates`
updates. Around an environment that can be compiled and with few updates to a cycle, one call runs several
cycles as one graph. Otherwise acting, storing and learning are calls of their own.
"""

from typing import Any

import torch
from torch import Tensor

from bellgrad.core.errors import EnvironmentFault, UsageError
from bellgrad.core.output import warn
from bellgrad.core.protocols import BatchedEnv, OffPolicyLearner
from bellgrad.core.records import Acted, Metrics, Transition
from bellgrad.core.rng import draw
from bellgrad.core.tree import Tree, index_tree, stack
from bellgrad.data import storage
from bellgrad.data.storage import Storage
from bellgrad.runs.checkpoint import Checkpoint
from bellgrad.runs.settings import Settings
from bellgrad.training.actor import ActorState, Ended
from bellgrad.training.driver import (
    ActingDriver,
    Advanced,
    Workload,
    largest_divisor,
    mean_metrics,
)
from bellgrad.training.engine import Engine


class OffPolicy(ActingDriver):
    """Acts, stores and learns; the arguments are those of `Driver`.

    Attributes:
        replay: how experience is kept and sampled.
        kept: the experience, written in place.
    """

    learner: OffPolicyLearner

    def __init__(
        self,
        learner: OffPolicyLearner,
        env: BatchedEnv,
        engine: Engine,
        seed: int,
        device: torch.device,
        total: int | None = None,
    ):
        super().__init__(learner, env, engine, seed, device, total)
        c, b = learner.config, env.num_envs
        if max(c.update_period, b) % min(c.update_period, b):
            raise UsageError(
                f"update_period ({c.update_period}) and the number of environments ({b}): one must divide the"
                " other"
            )
        self._iterations = max(1, c.update_period // b)
        self._cycle_updates = c.updates_per_period * max(1, b // c.update_period)
        self._chunk = largest_divisor(self._cycle_updates, engine.updates_per_call)  # updates in a call
        self._whole = self.actor.env.compilable and self._chunk == self._cycle_updates
        length = self._cycle_updates * self._iterations
        self._cycles = max(1, engine.updates_per_call // length) if self._whole else 1
        self.steps_per_call = self._cycles * self._iterations * b
        self.replay = c.replay
        self.kept = self.replay.allocate(env.spec, c.buffer_size, b, device)
        self._told = False  # that the replay holds less than was asked for
        self._cycles_graph = engine.compile(self.run_cycles)
        self._store = engine.compile(self.replay.add)
        self._learn = engine.compile(self.run_updates)
        self._store_and_learn = engine.compile(self.store_and_learn)

    @classmethod
    def workload(cls, learner: OffPolicyLearner, settings: Settings) -> Workload:
        """Updates begin at `learning_starts`."""
        c = learner.config
        periods = max(0, settings.steps - c.learning_starts) // c.update_period
        return Workload(periods * c.updates_per_period, c.batch_size, begins=c.learning_starts)

    @torch.no_grad()
    def advance(self) -> Advanced:
        """Act uniformly until `learning_starts`; then run cycles."""
        if self._warming_up:
            advanced = Advanced(self._warm_up(), {})
        else:
            advanced = self._run_whole_call() if self._whole else self._run_by_parts()
            self.updates += self._cycles * self._cycle_updates
        self.steps += self.steps_per_call
        return advanced

    @property
    def _warming_up(self) -> bool:
        return bool(self.steps < self.learner.config.learning_starts)

    @property
    def compiles_next(self) -> bool:
        """The first calls act only."""
        return super().compiles_next and not self._warming_up

    def notes(self, settings: Settings) -> list[str]:
        """Also that nothing will be learned."""
        starts = self.learner.config.learning_starts
        silent = f"learns nothing in this run: its first {starts:,} steps are random (learning_starts)"
        return super().notes(settings) + ([silent] if settings.steps <= starts else [])

    def _warm_up(self) -> Ended:
        """Uniform actions; the experience is kept, and nothing is learned."""
        block, actor = [], self.actor
        with self.at_once():  # the replay is changed after it
            for _ in range(self._cycles * self._iterations):
                noise = actor.draw()
                acted = Acted(actor.uniform_action(), None, actor.state.carry)
                self.state, actor.state, taken = actor.follow(self.state, actor.state, acted, noise["env"])
                block.append(taken)
        for taken in block:
            self.replay.add(self.kept, taken.transition())
        return stack([Ended.of(taken.step) for taken in block])

    def _run_whole_call(self) -> Advanced:
        """Several cycles as one graph."""
        noise = {
            "actor": self.actor.draw(self._cycles, self._iterations),
            "updates": self._draw_updates(self._cycles, self._chunk),
        }
        self.state, self.actor.state, *advanced = self._cycles_graph(
            self.state, self.actor.state, self.kept, noise
        )
        return Advanced(*advanced)

    def _run_by_parts(self) -> Advanced:
        """One cycle; acting, storing and learning are calls of their own."""
        block, metrics, actor = [], [], self.actor
        noise = actor.draw(self._iterations)
        updates = self._draw_updates(self._cycle_updates // self._chunk, self._chunk)
        with self.at_once():  # the replay is changed after it
            for t in range(self._iterations):
                self.state, actor.state, taken = actor.step(self.state, actor.state, index_tree(noise, t))
                block.append(taken)
        for taken in block[:-1]:
            self._store(self.kept, taken.transition())
        taken = block[-1]
        self.state, metric = self._store_and_learn(
            self.state, self.kept, taken.transition(), index_tree(updates, 0)
        )
        metrics.append(metric)
        for chunk in range(1, self._cycle_updates // self._chunk):
            self.state, metric = self._learn(self.state, self.kept, index_tree(updates, chunk))
            metrics.append(metric)
        return Advanced(stack([Ended.of(taken.step) for taken in block]), mean_metrics(metrics))

    # ------------------------------------------------------------------------------------------ pure parts
    def run_cycles(
        self, state: Any, actor: ActorState, kept: Tree, noise: dict[str, Tree]
    ) -> tuple[Any, ActorState, Ended, Metrics]:
        """Cycles of acting, storing and learning."""
        ended, metrics = [], []
        for k in range(self._cycles):
            numbers = index_tree(noise, k)
            state, actor, block = self.actor.run(state, actor, numbers["actor"], self._iterations)
            for taken in block:
                self.replay.add(kept, taken.transition())
                ended.append(Ended.of(taken.step))
            state, mean = self.run_updates(state, kept, numbers["updates"])
            metrics.append(mean)
        return state, actor, stack(ended), mean_metrics(metrics)

    def run_updates(self, state: Any, kept: Tree, noise: dict[str, Tree]) -> tuple[Any, Metrics]:
        """Updates, each on a batch of its own."""
        metrics, gamma = [], self.learner.config.gamma
        for u in range(self._chunk):
            batch = self.replay.sample(kept, index_tree(noise["sample"], u), gamma, state.steps)
            state, metric, priority = self.learner.update(state, batch, index_tree(noise["update"], u))
            self.replay.feedback(kept, batch.index, priority)
            metrics.append(metric)
        return state, mean_metrics(metrics)

    def store_and_learn(
        self, state: Any, kept: Tree, transition: Transition, noise: dict[str, Tree]
    ) -> tuple[Any, Metrics]:
        """Both in one call."""
        self.replay.add(kept, transition)
        return self.run_updates(state, kept, noise)

    def _draw_updates(self, *lead: int) -> dict[str, Tree]:
        sample = self.replay.noise(self.learner.config.batch_size)
        return {
            "sample": draw(sample, self.streams["batch"], *lead),
            "update": draw(self.learner.update_noise(), self.streams["update"], *lead),
        }

    # ---------------------------------------------------------------------------------------------- saving
    def snapshot(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """As that of every driver, and the filled rows of the replay."""
        counters, tensors = super().snapshot()
        told = storage.missing(self.kept, self.steps) if isinstance(self.kept, Storage) else None
        if told is not None and not self._told:
            self._told = True
            warn(told)
        filled = self.replay.filled(self.kept)
        return counters, tensors | {f"replay/{name}": tensor for name, tensor in filled.items()}

    def restore_experience(self, checkpoint: Checkpoint) -> EnvironmentFault | None:
        """The actor; and the replay, which is read into the memory that is already there."""
        fault = super().restore_experience(checkpoint)
        saved = [name.removeprefix("replay/") for name in checkpoint.names() if name.startswith("replay/")]
        shapes = {name: checkpoint.shape(f"replay/{name}") for name in saved}
        for name, out in self.replay.restore_into(self.kept, shapes).items():
            checkpoint.read_into(f"replay/{name}", out)
        return fault
