"""The driver of algorithms that learn from the rollouts of their own policy: act, value, learn."""

from typing import Any

import torch
from torch import Tensor

from bellgrad.core.errors import UsageError
from bellgrad.core.memory import need_memory
from bellgrad.core.protocols import BatchedEnv, OnPolicyLearner
from bellgrad.core.records import Metrics, Minibatch, Rollout
from bellgrad.core.rng import Noise, draw
from bellgrad.core.tree import Tree, concat, flat, index_tree, map_tree, stack, tree_bytes
from bellgrad.runs.settings import Settings
from bellgrad.training.actor import ActorState, Ended, Taken
from bellgrad.training.driver import (
    UNROLL,
    ActingDriver,
    Advanced,
    Workload,
    largest_divisor,
    mean_metrics,
)
from bellgrad.training.engine import Engine


class OnPolicy(ActingDriver):
    """One call is a rollout of `rollout_steps` steps of all environments, then `epochs` passes over it in
    minibatches; the arguments are those of `Driver`.

    Around an environment that can be compiled, with short rollouts and one update for each, one call runs
    several rollouts as one graph.
    """

    learner: OnPolicyLearner

    def __init__(
        self,
        learner: OnPolicyLearner,
        env: BatchedEnv,
        engine: Engine,
        seed: int,
        device: torch.device,
        total: int | None = None,
    ):
        super().__init__(learner, env, engine, seed, device, total)
        c, b, compilable = learner.config, env.num_envs, self.actor.env.compilable
        if c.rollout_steps % learner.sequence:
            raise UsageError(
                f"a rollout of {c.rollout_steps} steps cannot be split into sequences of {learner.sequence}; "
                f"{largest_divisor(c.rollout_steps, learner.sequence)} would do"
            )
        need_memory(
            c.rollout_steps * tree_bytes(self.actor.state.obs),
            f"a rollout of {c.rollout_steps:,} steps in {b:,} environments",
            device,
        )
        self._rows = c.rollout_steps * b // learner.sequence
        if self._rows % c.minibatches:
            unit = f"sequences of {learner.sequence} steps" if learner.sequence > 1 else "steps"
            raise UsageError(
                f"a rollout of {c.rollout_steps // learner.sequence} {unit} x {b} environments cannot be"
                f" split into {c.minibatches} equal minibatches;"
                f" {largest_divisor(self._rows, c.minibatches)} would do"
            )
        self._unroll = largest_divisor(c.rollout_steps, UNROLL)
        per_call = max(
            1, engine.updates_per_call // learner.sequence
        )  # an update of sequences is unrolled itself
        self._updates_per_call = largest_divisor(c.epochs * c.minibatches, per_call)
        self._whole = compilable and c.epochs * c.minibatches == 1 and self._unroll == c.rollout_steps
        self._rollouts = max(1, UNROLL // c.rollout_steps) if self._whole else 1
        self.steps_per_call = self._rollouts * c.rollout_steps * b
        self._value = self.value if compilable else engine.compile(self.value)
        self._collect = engine.compile(self.collect) if compilable else self.collect
        self._prepare = engine.compile(self.prepare)
        self._update = engine.compile(self.run_updates)
        self._rollouts_graph = engine.compile(self.run_rollouts)

    @classmethod
    def workload(cls, learner: OnPolicyLearner, settings: Settings) -> Workload:
        """Every rollout is used for `epochs` passes."""
        c = learner.config
        rollout = c.rollout_steps * settings.filled_num_envs()
        return Workload(settings.steps // rollout * c.epochs * c.minibatches, rollout // c.minibatches)

    def advance(self) -> Advanced:
        """Gather a rollout, then learn from it."""
        with self.at_once():  # states are new ones, and the rollout is the call's own
            advanced = self._run_whole_call() if self._whole else self._run_by_parts()
        self.steps += self.steps_per_call
        return advanced

    def _run_whole_call(self) -> Advanced:
        """Several rollouts and their updates as one graph."""
        noise = {
            "actor": self.actor.draw(self._rollouts, self._unroll),
            "prepare": self._draw_prepare(self._rollouts),
            "update": draw(self.learner.update_noise(), self.streams["update"], self._rollouts, 1),
        }
        self.state, self.actor.state, *advanced = self._rollouts_graph(self.state, self.actor.state, noise)
        self.updates += self._rollouts
        return Advanced(*advanced)

    def _run_by_parts(self) -> Advanced:
        """One rollout; acting, preparing and every few updates are separate calls."""
        parts, ended, actor = [], [], self.actor
        with torch.no_grad():
            for _ in range(self.learner.config.rollout_steps // self._unroll):
                self.state, actor.state, part, end = self._collect(
                    self.state, actor.state, actor.draw(self._unroll)
                )
                parts.append(part)
                ended.append(end)
            rollout = concat(parts)
        self.state, whole, prepared = self._prepare(self.state, rollout, self._draw_prepare())
        return Advanced(concat(ended), prepared | mean_metrics(self._run_epochs(whole)))

    def _run_epochs(self, whole: Minibatch) -> list[Metrics]:
        c, metrics = self.learner.config, []
        order = draw(Noise("permutation", (self._rows,)), self.streams["batch"], c.epochs)
        index = order.view(-1, self._updates_per_call, self._rows // c.minibatches)
        noise = draw(self.learner.update_noise(), self.streams["update"], *index.shape[:2])
        for call in range(index.shape[0]):
            self.state, metric = self._update(self.state, whole, index[call], index_tree(noise, call))
            metrics.append(metric)
            self.updates += self._updates_per_call
            if self.learner.max_kl is not None and metric["approx_kl"].item() > self.learner.max_kl:
                break
        return metrics

    def _draw_prepare(self, *lead: int) -> Tree:
        return draw(self.learner.prepare_noise(self.env.num_envs), self.streams["update"], *lead)

    # ------------------------------------------------------------------------------------------ pure parts
    def run_rollouts(
        self, state: Any, actor: ActorState, noise: dict[str, Tree]
    ) -> tuple[Any, ActorState, Ended, Metrics]:
        """Rollouts, each with the one update that follows it."""
        ended, metrics = [], []
        for k in range(self._rollouts):
            numbers = index_tree(noise, k)
            state, actor, rollout, end = self.collect(state, actor, numbers["actor"])
            state, whole, prepared = self.prepare(state, rollout, numbers["prepare"])
            state, metric = self.learner.update(state, _as_steps(whole), index_tree(numbers["update"], 0))
            ended.append(end)
            metrics.append(prepared | metric)
        return state, actor, concat(ended), mean_metrics(metrics)

    def collect(
        self, state: Any, actor: ActorState, noise: dict[str, Tree]
    ) -> tuple[Any, ActorState, Rollout, Ended]:
        """A few steps of all environments; observations and their successors are valued together. Pure if the
        environment is."""
        state, actor, block = self.actor.run(state, actor, noise, self._unroll)
        rollout = stack([self._row(taken) for taken in block])
        successors = stack([(taken.step.next_obs, taken.acted.carry) for taken in block])
        both = self._value(state, *concat([(rollout.obs, rollout.carry), successors]))
        value = map_tree(lambda v: v[: self._unroll], both)
        next_value = map_tree(lambda v: v[self._unroll :], both)
        ended = stack([Ended.of(taken.step) for taken in block])
        return state, actor, rollout._replace(value=value, next_value=next_value), ended

    def _row(self, taken: Taken) -> Rollout:
        """One step of a rollout; the values come later, for several steps at once."""
        step, logprob = taken.step, taken.acted.logprob
        assert logprob is not None  # every learner of this driver gives it
        return Rollout(
            obs=taken.obs,
            action=taken.acted.action,
            reward=step.reward,
            terminated=step.terminated,
            truncated=step.truncated,
            logprob=logprob,
            value=None,
            next_value=None,
            age=step.episode.length - 1,
            carry=taken.carry,
            next_obs=step.next_obs if self.learner.needs_next_obs else None,
        )

    def value(self, state: Any, obs: Tree, carry: Tree) -> Tree:
        """The values of `obs [T, B, *O]`: `[T, B]`."""
        values = self.learner.value(state, flat(obs), flat(carry))
        return map_tree(lambda v: v.unflatten(0, (-1, self.env.num_envs)), values)

    def prepare(self, state: Any, rollout: Rollout, noise: Tree) -> tuple[Any, Minibatch, Metrics]:
        """The rollout as rows `[T / L * B, L, ...]` of L consecutive steps, each with the memory before its
        first step."""
        state, whole, metrics = self.learner.prepare(state, rollout, noise)
        length = self.learner.sequence
        carry = map_tree(lambda x: x[::length].flatten(0, 1), whole.carry)
        rows = map_tree(
            lambda x: x.unflatten(0, (-1, length)).transpose(1, 2).flatten(0, 1), whole._replace(carry=None)
        )
        return state, rows._replace(carry=carry), metrics

    def run_updates(self, state: Any, whole: Minibatch, index: Tensor, noise: Tree) -> tuple[Any, Metrics]:
        """One update for each row of `index [n, minibatch]`."""
        # If all rows are one minibatch, their order does not matter.
        metrics, undivided = [], self.learner.config.minibatches == 1
        for u in range(index.shape[0]):
            chosen = whole if undivided else index_tree(whole, index[u])
            state, metric = self.learner.update(state, _as_steps(chosen), index_tree(noise, u))
            metrics.append(metric)
        return state, mean_metrics(metrics)


def _as_steps(rows: Minibatch) -> Minibatch:
    """Rows `[n, L, ...]` as steps `[n * L, ...]`; the memory stays that before the first step of each row."""
    return flat(rows._replace(carry=None))._replace(carry=rows.carry)
