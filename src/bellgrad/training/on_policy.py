"""The driver of algorithms that learn from the rollouts of their own policy."""

import torch

from bellgrad.core.errors import UsageError
from bellgrad.core.protocols import BatchedEnv, Metrics, OnPolicyLearner
from bellgrad.core.records import Acted, Minibatch, Rollout, Step
from bellgrad.core.rng import Noise, draw
from bellgrad.core.tree import Tree, concat, map_tree, stack
from bellgrad.training.driver import Driver, Ended, Loop, Report, Workload, at, ended_of, largest_divisor, mean_metrics
from bellgrad.training.engine import Engine
from bellgrad.training.settings import Settings

UNROLL = 8  # environment steps in one compiled call


class OnPolicy(Driver):
    """One call is a rollout of `rollout_steps` steps of all environments, then `epochs` passes over it in minibatches."""

    learner: OnPolicyLearner

    def __init__(self, learner: OnPolicyLearner, env: BatchedEnv, engine: Engine, seed: int, device: torch.device):
        super().__init__(learner, env, engine, seed, device)
        c = learner.config
        self.steps_per_call = c.rollout_steps * env.num_envs
        if self.steps_per_call % c.minibatches:
            raise UsageError(
                f"a rollout of {c.rollout_steps} steps x {env.num_envs} environments cannot be split into {c.minibatches} equal "
                f"minibatches; {largest_divisor(self.steps_per_call, c.minibatches)} would do"
            )
        self._unroll = largest_divisor(c.rollout_steps, UNROLL)
        self._updates_per_call = largest_divisor(c.epochs * c.minibatches, engine.updates_per_call)
        self._collect = engine.compile(self._run_steps) if self.native else self._run_steps
        self._values = engine.compile(self._value_of)
        self._prepare = engine.compile(learner.prepare)
        self._update = engine.compile(self._run_updates)

    @classmethod
    def workload(cls, learner: OnPolicyLearner, settings: Settings) -> Workload:
        """Every rollout is used for `epochs` passes."""
        c = learner.config
        rollout = c.rollout_steps * settings.num_envs
        return Workload(settings.steps // rollout * c.epochs * c.minibatches, rollout // c.minibatches)

    def advance(self) -> Report:
        """Gather a rollout, then learn from it."""
        c = self.learner.config
        first_carry, chunks, ended = self.loop.carry, [], []
        with torch.no_grad():
            for _ in range(c.rollout_steps // self._unroll):
                self.loop, chunk, end = self._collect(self.loop, self.draw_interaction(self._unroll))
                chunks.append(chunk)
                ended.append(end)
            rollout = concat(chunks)._replace(carry=first_carry)
        state, whole = self._prepare(self.loop.state, rollout)
        state, metrics = self._epochs(state, whole)
        self.loop = self.loop._replace(state=state)
        self.steps += self.steps_per_call
        return Report(concat(ended), mean_metrics(metrics))

    def _epochs(self, state: Tree, whole: Minibatch) -> tuple[Tree, list[Metrics]]:
        c, metrics = self.learner.config, []
        order = draw(Noise("permutation", (self.steps_per_call,)), self.streams["batch"], c.epochs)
        index = order.view(-1, self._updates_per_call, self.steps_per_call // c.minibatches)
        noise = draw(self.learner.update_noise(), self.streams["update"], *index.shape[:2])
        for call in range(index.shape[0]):
            state, metric = self._update(state, whole, index[call], at(noise, call))
            metrics.append(metric)
            self.updates += self._updates_per_call
            if c.target_kl is not None and metric["approx_kl"].item() > c.target_kl:
                break
        return state, metrics

    # ---------------------------------------------------------------------------------------------- pure parts
    def _run_steps(self, loop: Loop, noise: Tree) -> tuple[Loop, Rollout, Ended]:
        """A few steps of all environments; what they saw and where it led are valued together. One graph where native."""
        rows, successors, ended = [], [], []
        for t in range(self._unroll):
            before = loop
            loop, acted, step = self.interact(before, at(noise, t))
            rows.append(_row(before, acted, step))
            successors.append(step.next_obs)
            ended.append(ended_of(step))
        whole = stack(rows)
        seen = concat([whole.obs, stack(successors)])
        value, next_value = (self._value_of if self.native else self._values)(loop.state, seen).chunk(2)
        return loop, whole._replace(value=value, next_value=next_value), stack(ended)

    def _value_of(self, state: Tree, obs: Tree) -> torch.Tensor:
        """`V` of `obs [T, B, *O]`: `[T, B]`."""
        flat = map_tree(lambda x: x.flatten(0, 1), obs)
        return self.learner.value(state, flat).unflatten(0, (-1, self.env.num_envs))

    def _run_updates(self, state: Tree, whole: Minibatch, index: torch.Tensor, noise: Tree) -> tuple[Tree, Metrics]:
        """One update for each row of `index [n, minibatch]`."""
        metrics, undivided = [], self.learner.config.minibatches == 1  # then the order of the rows does not matter
        for u in range(index.shape[0]):
            batch = whole if undivided else at_rows(whole, index[u])
            state, metric = self.learner.update(state, batch, at(noise, u))
            metrics.append(metric)
        return state, mean_metrics(metrics)


def at_rows(whole: Minibatch, index: torch.Tensor) -> Minibatch:
    """The rows of a prepared rollout that make a minibatch."""
    return map_tree(lambda x: x[index], whole)


def _row(before: Loop, acted: Acted, step: Step) -> Rollout:
    """One step of a rollout; the values come later, for several steps at once."""
    return Rollout(before.obs, acted.action, step.reward, step.terminated, step.truncated, acted.logprob, None, None, None)
