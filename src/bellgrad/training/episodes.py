"""The driver of algorithms that learn from whole episodes."""

from typing import NamedTuple

import torch
from torch import Tensor

from bellgrad.core.errors import UsageError
from bellgrad.core.protocols import BatchedEnv, EpisodesLearner
from bellgrad.core.records import Episodes, Step
from bellgrad.core.rng import draw
from bellgrad.core.tree import Tree, concat, map_tree, stack
from bellgrad.runs.settings import Settings
from bellgrad.training.driver import UNROLL, Driver, Loop, Report, Workload, at, ended_of, largest_divisor
from bellgrad.training.engine import Engine


class Taken(NamedTuple):
    """Steps of all environments, `[T, B]`, as they were taken."""

    obs: Tree
    action: Tensor
    step: Step
    active: Tensor  # bool, False where the environment had finished its share


class WholeEpisodes(Driver):
    """One call is exactly n episodes, all of them finished, and one update.

    Stopping at a number of steps would leave out long episodes more often than short ones. So each of B
    environments runs its own n / B episodes one after another; one that has finished them stands still until
    the others have.
    """

    learner: EpisodesLearner

    def __init__(
        self, learner: EpisodesLearner, env: BatchedEnv, engine: Engine, seed: int, device: torch.device
    ):
        super().__init__(learner, env, engine, seed, device)
        n, b = learner.config.episodes, env.num_envs
        if n % b:
            raise UsageError(
                f"{n} episodes cannot be shared equally by {b} environments; {largest_divisor(n, b)} would do"
            )
        self._unroll = (
            UNROLL if self.native else 1
        )  # where nothing is compiled, stop as soon as all have finished
        self._collect = engine.compile(self._run_steps) if self.native else self._run_steps

    @classmethod
    def workload(cls, learner: EpisodesLearner, settings: Settings) -> Workload:
        """Updates are few; what is compiled is acting and stepping."""
        return Workload(settings.steps // settings.num_envs, settings.num_envs, "steps of all environments")

    def advance(self) -> Report:
        """Run the episodes, then learn from them."""
        b = self.env.num_envs
        left = torch.full(
            (b,), self.learner.config.episodes // b, device=self.device
        )  # episodes that each has yet to finish
        parts = []
        with torch.no_grad():
            while left.any():
                self.loop, left, part = self._collect(self.loop, left, self.draw_interaction(self._unroll))
                parts.append(part)
            taken = concat(parts)
            episodes = one_a_column(taken)
            noise = draw(self.learner.update_noise(*episodes.mask.shape), self.streams["update"])
            # Not compiled: every update has another T, and there are few, each over thousands of steps.
            state, metrics = self.learner.update(self.loop.state, episodes, noise)
        self.loop = self.loop._replace(state=state)
        self.steps += int(taken.active.sum())
        self.updates += 1
        return Report(ended_of(taken.step), metrics)

    def _run_steps(self, loop: Loop, left: Tensor, noise: Tree) -> tuple[Loop, Tensor, Taken]:
        """A few steps of the environments that have episodes left. Pure where native."""
        rows = []
        for t in range(self._unroll):
            active, before = left > 0, loop
            loop, acted, step = self.interact(before, at(noise, t), active)
            left = left - (step.terminated | step.truncated).long()
            rows.append(Taken(before.obs, acted.action, step, active))
        return loop, left, stack(rows)


def one_a_column(taken: Taken) -> Episodes:
    """Steps `[T, B]`, several episodes of an environment one after another, as episodes `[T', n]`, one beside
    another."""
    step, active = taken.step, taken.active
    ended = step.terminated | step.truncated
    b, n = active.shape[1], int(ended.sum())
    before = (
        ended.long().cumsum(0) - ended.long()
    )  # episodes that the environment had finished before this step
    column = before * b + torch.arange(b, device=active.device)
    row, length = step.episode.length - 1, int(step.episode.length[active].max())

    def place(x: Tensor) -> Tensor:
        out = x.new_zeros((length, n, *x.shape[2:]))
        out[row[active], column[active]] = x[active]
        return out

    def place_last(x: Tensor) -> Tensor:
        out = x.new_zeros((n, *x.shape[2:]))
        out[column[ended]] = x[ended]
        return out

    columns = map_tree(place, (taken.obs, taken.action, step.reward, step.terminated, step.truncated, active))
    return Episodes(*columns, last_obs=map_tree(place_last, step.next_obs))
