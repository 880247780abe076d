"""The driver of algorithms that learn from the rollouts of their own policy."""

import torch

from bellgrad.core.errors import UsageError
from bellgrad.core.protocols import BatchedEnv, OnPolicyLearner
from bellgrad.core.records import Acted, Metrics, Minibatch, Rollout, Step
from bellgrad.core.rng import Noise, draw
from bellgrad.core.tree import Tree, concat, flat, map_tree, stack
from bellgrad.runs.settings import Settings
from bellgrad.training.driver import (
    UNROLL,
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


class OnPolicy(Driver):
    """One call is a rollout of `rollout_steps` steps of all environments, then `epochs` passes over it in
    minibatches.

    With a native environment, short rollouts and a single update to each, one call runs several rollouts as
    one graph.
    """

    learner: OnPolicyLearner

    def __init__(
        self, learner: OnPolicyLearner, env: BatchedEnv, engine: Engine, seed: int, device: torch.device
    ):
        super().__init__(learner, env, engine, seed, device)
        c, b = learner.config, env.num_envs
        if c.rollout_steps % learner.sequence:
            raise UsageError(
                f"a rollout of {c.rollout_steps} steps cannot be split into sequences of {learner.sequence}; "
                f"{largest_divisor(c.rollout_steps, learner.sequence)} would do"
            )
        self._rollout = c.rollout_steps * b  # environment steps
        self._rows = self._rollout // learner.sequence
        if self._rows % c.minibatches:
            unit = f"sequences of {learner.sequence} steps" if learner.sequence > 1 else "steps"
            raise UsageError(
                f"a rollout of {c.rollout_steps // learner.sequence} {unit} x {b} environments cannot be"
                f" split into {c.minibatches} equal minibatches; {largest_divisor(self._rows, c.minibatches)}"
                " would do"
            )
        self._unroll = largest_divisor(c.rollout_steps, UNROLL)
        per_call = max(
            1, engine.updates_per_call // learner.sequence
        )  # an update of sequences is unrolled itself
        self._updates_per_call = largest_divisor(c.epochs * c.minibatches, per_call)
        self._fused = self.native and c.epochs * c.minibatches == 1 and self._unroll == c.rollout_steps
        self._rollouts = max(1, UNROLL // c.rollout_steps) if self._fused else 1
        self.steps_per_call = self._rollouts * self._rollout
        self._collect = engine.compile(self._run_steps) if self.native else self._run_steps
        self._values = engine.compile(self._value_of)
        self._prepare = engine.compile(self._run_prepare)
        self._update = engine.compile(self._run_updates)
        self._whole_rollouts = engine.compile(self._run_rollouts)

    @classmethod
    def workload(cls, learner: OnPolicyLearner, settings: Settings) -> Workload:
        """Every rollout is used for `epochs` passes."""
        c = learner.config
        rollout = c.rollout_steps * settings.num_envs
        return Workload(settings.steps // rollout * c.epochs * c.minibatches, rollout // c.minibatches)

    def advance(self) -> Report:
        """Gather a rollout, then learn from it."""
        if self._fused:
            noise = self.draw_interaction(self._rollouts, self._unroll) | {
                "prepare": self._draw_prepare(self._rollouts)
            }
            noise |= {"update": draw(self.learner.update_noise(), self.streams["update"], self._rollouts, 1)}
            self.loop, ended, metrics = self._whole_rollouts(self.loop, noise)
            self.updates += self._rollouts
        else:
            ended, metrics = self._rollout_by_parts()
        self.steps += self.steps_per_call
        return Report(ended, metrics)

    def _rollout_by_parts(self) -> tuple[Ended, Metrics]:
        chunks, ended = [], []
        with torch.no_grad():
            for _ in range(self.learner.config.rollout_steps // self._unroll):
                self.loop, chunk, end = self._collect(self.loop, self.draw_interaction(self._unroll))
                chunks.append(chunk)
                ended.append(end)
            rollout = concat(chunks)
        state, whole, prepared = self._prepare(self.loop.state, rollout, self._draw_prepare())
        state, metrics = self._epochs(state, whole)
        self.loop = self.loop._replace(state=state)
        return concat(ended), prepared | mean_metrics(metrics)

    def _epochs(self, state: Tree, whole: Minibatch) -> tuple[Tree, list[Metrics]]:
        c, metrics = self.learner.config, []
        order = draw(Noise("permutation", (self._rows,)), self.streams["batch"], c.epochs)
        index = order.view(-1, self._updates_per_call, self._rows // c.minibatches)
        noise = draw(self.learner.update_noise(), self.streams["update"], *index.shape[:2])
        for call in range(index.shape[0]):
            state, metric = self._update(state, whole, index[call], at(noise, call))
            metrics.append(metric)
            self.updates += self._updates_per_call
            if self.learner.max_kl is not None and metric["approx_kl"].item() > self.learner.max_kl:
                break
        return state, metrics

    def _draw_prepare(self, *lead: int) -> Tree:
        return draw(self.learner.prepare_noise(self.env.num_envs), self.streams["update"], *lead)

    # --------------------------------------------------------------------------------------------- pure parts
    def _run_rollouts(self, loop: Loop, noise: Tree) -> tuple[Loop, Ended, Metrics]:
        """Several rollouts of a native environment and the update that follows each: one graph."""
        ended, metrics = [], []
        for k in range(self._rollouts):
            loop, rollout, end = self._run_steps(loop, at({"act": noise["act"], "env": noise["env"]}, k))
            state, whole, prepared = self._run_prepare(loop.state, rollout, at(noise["prepare"], k))
            state, metric = self.learner.update(state, _steps(whole), at(noise["update"], k, 0))
            loop = loop._replace(state=state)
            ended.append(end)
            metrics.append(prepared | metric)
        return loop, concat(ended), mean_metrics(metrics)

    def _run_steps(self, loop: Loop, noise: Tree) -> tuple[Loop, Rollout, Ended]:
        """A few steps of all environments; what they saw and where it led are valued together. One graph
        where native."""
        rows, successors, ended = [], [], []
        for t in range(self._unroll):
            before = loop
            loop, acted, step = self.interact(before, at(noise, t))
            rows.append(_row(before, acted, step))
            successors.append((step.next_obs, acted.carry))
            ended.append(ended_of(step))
        whole = stack(rows)
        seen = concat([(whole.obs, whole.carry), stack(successors)])
        value, next_value = (self._value_of if self.native else self._values)(loop.state, *seen).chunk(2)
        return loop, whole._replace(value=value, next_value=next_value), stack(ended)

    def _value_of(self, state: Tree, obs: Tree, carry: Tree) -> torch.Tensor:
        """`V` of `obs [T, B, *O]`: `[T, B]`."""
        return self.learner.value(state, flat(obs), flat(carry)).unflatten(0, (-1, self.env.num_envs))

    def _run_prepare(self, state: Tree, rollout: Rollout, noise: Tree) -> tuple[Tree, Minibatch, Metrics]:
        """The rollout as rows `[T / L * B, L, ...]` of L consecutive steps, each with the memory before its
        first step."""
        state, whole, metrics = self.learner.prepare(state, rollout, noise)
        length = self.learner.sequence
        carry = map_tree(lambda x: x[::length].flatten(0, 1), whole.carry)
        rows = map_tree(
            lambda x: x.unflatten(0, (-1, length)).transpose(1, 2).flatten(0, 1), whole._replace(carry=None)
        )
        return state, rows._replace(carry=carry), metrics

    def _run_updates(
        self, state: Tree, whole: Minibatch, index: torch.Tensor, noise: Tree
    ) -> tuple[Tree, Metrics]:
        """One update for each row of `index [n, minibatch]`."""
        metrics, undivided = (
            [],
            self.learner.config.minibatches == 1,
        )  # then the order of the rows does not matter
        for u in range(index.shape[0]):
            chosen = whole if undivided else at_rows(whole, index[u])
            state, metric = self.learner.update(state, _steps(chosen), at(noise, u))
            metrics.append(metric)
        return state, mean_metrics(metrics)


def at_rows(whole: Minibatch, index: torch.Tensor) -> Minibatch:
    """The rows of a prepared rollout that make a minibatch."""
    return map_tree(lambda x: x[index], whole)


def _steps(rows: Minibatch) -> Minibatch:
    """Rows `[n, L, ...]` as steps `[n * L, ...]`; the memory stays that before the first step of each row."""
    return flat(rows._replace(carry=None))._replace(carry=rows.carry)


def _row(before: Loop, acted: Acted, step: Step) -> Rollout:
    """One step of a rollout; the values come later, for several steps at once."""
    return Rollout(
        before.obs,
        acted.action,
        step.reward,
        step.terminated,
        step.truncated,
        acted.logprob,
        value=None,
        next_value=None,
        age=step.episode.length - 1,
        carry=before.carry,
    )
