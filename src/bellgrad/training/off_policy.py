"""The driver of algorithms that learn from a replay: act, step, store, sample, update."""

import torch
from gymnasium.spaces import Discrete

from bellgrad.core.errors import EnvironmentFault, UsageError
from bellgrad.core.protocols import BatchedEnv, OffPolicyLearner
from bellgrad.core.records import Acted, Metrics, Transition
from bellgrad.core.rng import Noise, draw
from bellgrad.core.tree import Tree, stack
from bellgrad.data.replay import Replay, add, allocate, filled, restore_into, sample
from bellgrad.envs.transforms import FrameStack
from bellgrad.runs.checkpoint import Checkpoint
from bellgrad.runs.settings import Settings
from bellgrad.training.driver import (
    Driver,
    Ended,
    Loop,
    Report,
    Workload,
    at,
    ended_of,
    largest_divisor,
    mean_metrics,
)
from bellgrad.training.engine import Engine


class OffPolicy(Driver):
    """One cycle is the shortest pattern that repeats: `iterations` steps of all environments, then
    `cycle_updates` updates.

    With a native environment and few updates to a cycle, one call runs several cycles as one graph. Otherwise
    acting, storing and updating are calls of their own.
    """

    learner: OffPolicyLearner

    def __init__(
        self, learner: OffPolicyLearner, env: BatchedEnv, engine: Engine, seed: int, device: torch.device
    ):
        super().__init__(learner, env, engine, seed, device)
        c, b = learner.config, env.num_envs
        if max(c.update_period, b) % min(c.update_period, b):
            raise UsageError(
                f"update_period ({c.update_period}) and the number of environments ({b}): one must divide the"
                " other"
            )
        self.iterations = max(1, c.update_period // b)
        self.cycle_updates = c.updates_per_period * max(1, b // c.update_period)
        stacked = any(isinstance(t, FrameStack) for t in getattr(env, "transforms", ()))
        self.replay: Replay = allocate(
            env.observation_space, env.action_space, c.buffer_size, device, num_envs=b, stacked_frames=stacked
        )
        self._chunk = largest_divisor(self.cycle_updates, engine.updates_per_call)
        self._whole = self.native and self._chunk == self.cycle_updates  # the whole loop fits one graph
        self._cycles = (
            max(1, engine.updates_per_call // (self.cycle_updates * self.iterations)) if self._whole else 1
        )
        self.steps_per_call = self._cycles * self.iterations * b
        self._whole_cycles = engine.compile(self._run_cycles)
        self._store = engine.compile(add)
        self._learn = engine.compile(self._run_updates)
        self._store_learn = engine.compile(self._run_store)

    @classmethod
    def workload(cls, learner: OffPolicyLearner, settings: Settings) -> Workload:
        """Updates begin at `learning_starts`."""
        c = learner.config
        return Workload(
            max(0, settings.steps - c.learning_starts) // c.update_period * c.updates_per_period, c.batch_size
        )

    def advance(self) -> Report:
        """Warm up with uniform actions until `learning_starts`, then run cycles."""
        warm_up = self.steps < self.learner.config.learning_starts
        if warm_up:
            with torch.no_grad():
                report = self._warm_up()
        elif self._whole:
            noise = self.draw_interaction(self._cycles, self.iterations) | self._draw_updates(
                self._cycles, self.cycle_updates
            )
            self.loop, ended, metrics = self._whole_cycles(self.loop, self.replay, noise)
            report = Report(ended, metrics)
        else:
            report = self._cycle_by_parts()
        self.steps += self.steps_per_call
        self.updates += 0 if warm_up else self._cycles * self.cycle_updates
        return report

    # --------------------------------------------------------------------------------------------- pure parts
    def _run_cycles(self, loop: Loop, replay: Replay, noise: Tree) -> tuple[Loop, Ended, Metrics]:
        """Several cycles of a native environment: one graph."""
        ended, metrics = [], []
        for k in range(self._cycles):
            for i in range(self.iterations):
                before = loop
                loop, acted, step = self.interact(
                    before, at({"act": noise["act"], "env": noise["env"]}, k, i)
                )
                add(replay, _transition(before, acted, step))
                ended.append(ended_of(step))
            state, mean = self._run_updates(
                loop.state, replay, at({"sample": noise["sample"], "update": noise["update"]}, k)
            )
            loop = loop._replace(state=state)
            metrics.append(mean)
        return loop, stack(ended), mean_metrics(metrics)

    def _run_updates(self, state: Tree, replay: Replay, noise: Tree) -> tuple[Tree, Metrics]:
        """As many updates as the noise has rows."""
        metrics = []
        for u in range(noise["sample"].shape[0]):
            batch = sample(replay, noise["sample"][u], self.learner.config.gamma)
            updated = self.learner.update(state, batch, at(noise["update"], u))
            state = updated.state
            metrics.append(updated.metrics)
        return state, mean_metrics(metrics)

    def _run_store(
        self, state: Tree, replay: Replay, transition: Transition, noise: Tree
    ) -> tuple[Tree, Metrics]:
        add(replay, transition)
        return self._run_updates(state, replay, noise)

    # --------------------------------------------------------------------------------- the loop, part by part
    def _cycle_by_parts(self) -> Report:
        ended, metrics = [], []
        noise = self.draw_interaction(self.iterations)
        updates = self._draw_updates(self.cycle_updates // self._chunk, self._chunk)
        for i in range(self.iterations):
            before = self.loop
            self.loop, acted, step = self.interact(before, at(noise, i))
            ended.append(ended_of(step))
            transition = _transition(before, acted, step)
            if i < self.iterations - 1:
                self._store(self.replay, transition)
        state, metric = self._store_learn(self.loop.state, self.replay, transition, at(updates, 0))
        metrics.append(metric)
        for chunk in range(1, self.cycle_updates // self._chunk):
            state, metric = self._learn(state, self.replay, at(updates, chunk))
            metrics.append(metric)
        self.loop = self.loop._replace(state=state)
        return Report(stack(ended), metrics[0] if len(metrics) == 1 else mean_metrics(metrics))

    def _warm_up(self) -> Report:
        ended = []
        for _ in range(self.steps_per_call // self.env.num_envs):
            before, noise = self.loop, self.draw_interaction()
            acted = Acted(self._uniform_action(), None, before.carry)
            self.loop, acted, step = self.follow(before, acted, noise["env"])
            add(self.replay, _transition(before, acted, step))
            ended.append(ended_of(step))
        return Report(stack(ended), {})

    def _uniform_action(self) -> torch.Tensor:
        """Uniform over the actions, in the units that the network works in: `[B]` int64, or `[B, D]` in [-1,
        1)."""
        space, b = self.env.action_space, self.env.num_envs
        if isinstance(space, Discrete):
            return (
                (draw(Noise("uniform", (b,)), self.streams["action"]) * int(space.n))
                .long()
                .clamp(max=int(space.n) - 1)
            )
        return draw(Noise("uniform", (b, *space.shape)), self.streams["action"]) * 2 - 1

    def _draw_updates(self, *lead: int) -> dict[str, Tree]:
        rows = draw(Noise("uniform", (self.learner.config.batch_size,)), self.streams["batch"], *lead)
        return {"sample": rows, "update": draw(self.learner.update_noise(), self.streams["update"], *lead)}

    # ------------------------------------------------------------------------------------------------- saving
    def snapshot(self) -> tuple[dict, dict[str, torch.Tensor]]:
        """The driver's snapshot with the filled rows of the replay."""
        values, tensors = super().snapshot()
        return values, tensors | {f"replay/{name}": tensor for name, tensor in filled(self.replay).items()}

    def restore(self, checkpoint: Checkpoint) -> EnvironmentFault | None:
        """Continue from a checkpoint; the replay is read into the memory that is already there."""
        fault = super().restore(checkpoint)
        saved = [name.removeprefix("replay/") for name in checkpoint.names() if name.startswith("replay/")]
        for name, out in restore_into(
            self.replay, {name: checkpoint.shape(f"replay/{name}") for name in saved}
        ).items():
            checkpoint.read_into(f"replay/{name}", out)
        return fault


def _transition(before: Loop, acted: Acted, step) -> Transition:
    return Transition(before.obs, acted.action, step.reward, step.terminated, step.truncated, step.next_obs)
