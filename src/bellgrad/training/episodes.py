"""The driver of algorithms that learn from whole episodes."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from bellgrad.core.errors import UsageError
from bellgrad.core.protocols import BatchedEnv, EpisodesLearner
from bellgrad.core.records import Episodes, Metrics, Step
from bellgrad.core.rng import draw
from bellgrad.core.tree import Tree, concat, index_tree, map_tree, stack
from bellgrad.runs.settings import Settings
from bellgrad.training.actor import ActorState, Ended
from bellgrad.training.driver import (
    UNROLL,
    ActingDriver,
    Advanced,
    Workload,
    largest_divisor,
    whole_episodes_note,
)
from bellgrad.training.engine import Engine


class Steps(NamedTuple):
    """Steps of all environments, `[T, B]`, as they were taken."""

    obs: Tree
    action: Tensor
    step: Step
    active: Tensor  # bool, False if the environment had finished its share


class WholeEpisodes(ActingDriver):
    """One call is exactly n episodes, all of them finished, and one update; the arguments are those of
    `Driver`.

    Stopping at a number of steps would leave out long episodes more often than short ones. So each of B
    environments runs its own n / B episodes one after another; one that has finished them waits for the
    others.
    """

    learner: EpisodesLearner

    def __init__(
        self,
        learner: EpisodesLearner,
        env: BatchedEnv,
        engine: Engine,
        seed: int,
        device: torch.device,
        total: int | None = None,
    ):
        super().__init__(learner, env, engine, seed, device, total)
        n, b = learner.config.episodes, env.num_envs
        if n % b:
            raise UsageError(
                f"{n} episodes cannot be shared equally by {b} environments; {largest_divisor(n, b)} would do"
            )
        compilable = self.actor.env.compilable
        # If nothing is compiled, stop as soon as all have finished.
        self._unroll = UNROLL if compilable else 1
        self._collect = engine.compile(self.collect) if compilable else self.collect

    @classmethod
    def workload(cls, learner: EpisodesLearner, settings: Settings) -> Workload:
        """Updates are few; what is compiled is acting and stepping."""
        num_envs = settings.filled_num_envs()
        return Workload(settings.steps // num_envs, num_envs, "steps of all environments")

    def notes(self, settings: Settings) -> list[str]:
        """That the steps of a call are not known before."""
        n = self.learner.config.episodes
        limit = self.env.spec.max_episode_steps
        return whole_episodes_note(f"{n} whole episodes", n, limit, settings.steps)

    @torch.no_grad()
    def advance(self) -> Advanced:
        """Run the episodes, then learn from them."""
        with self.at_once():  # states are new ones, and the episodes are the call's own
            taken, metrics = self._play_and_learn()
        self.steps += int(taken.active.sum())
        self.updates += 1
        return Advanced(Ended.of(taken.step), metrics)

    def _play_and_learn(self) -> tuple[Steps, Metrics]:
        b, actor, parts = self.env.num_envs, self.actor, []
        left = torch.full(
            (b,), self.learner.config.episodes // b, device=self.device
        )  # episodes that each has to finish
        while left.any():
            self.state, actor.state, left, part = self._collect(
                self.state, actor.state, left, actor.draw(self._unroll)
            )
            parts.append(part)
        taken = concat(parts)
        episodes = one_per_column(taken)
        noise = draw(self.learner.update_noise(*episodes.mask.shape), self.streams["update"])
        # Not compiled: every update has another T, and there are few, each over thousands of steps.
        self.state, metrics = self.learner.update(self.state, episodes, noise)
        return taken, metrics

    def collect(
        self, state: Any, actor: ActorState, left: Tensor, noise: dict[str, Tree]
    ) -> tuple[Any, ActorState, Tensor, Steps]:
        """A few steps of the environments that have episodes left. Pure if the environment is."""
        rows = []
        for t in range(self._unroll):
            active = left > 0
            state, actor, taken = self.actor.step(state, actor, index_tree(noise, t), active)
            left = left - (taken.step.terminated | taken.step.truncated).long()
            rows.append(Steps(taken.obs, taken.acted.action, taken.step, active))
        return state, actor, left, stack(rows)


def one_per_column(taken: Steps) -> Episodes:
    """Steps `[T, B]`, several episodes of an environment one after another, as episodes `[T', n]`, one per
    column."""
    step, active = taken.step, taken.active
    ended = step.terminated | step.truncated
    b, n = active.shape[1], int(ended.sum())
    before = ended.long().cumsum(0) - ended.long()  # episodes that the environment finished before this step
    column = before * b + torch.arange(b, device=active.device)
    count = active.long().cumsum(0)  # steps of the environment, this one included
    finished = torch.where(ended, count, 0).cummax(0).values  # those of its episodes that are over
    row = count - 1 - torch.cat([torch.zeros_like(finished[:1]), finished[:-1]])
    length = int(row[active].max()) + 1

    def place(x: Tensor) -> Tensor:
        out = x.new_zeros((length, n, *x.shape[2:]))
        out[row[active], column[active]] = x[active]
        return out

    def place_last(x: Tensor) -> Tensor:
        out = x.new_zeros((n, *x.shape[2:]))
        out[column[ended]] = x[ended]
        return out

    return Episodes(
        obs=map_tree(place, taken.obs),
        action=place(taken.action),
        reward=place(step.reward),
        terminated=place(step.terminated),
        truncated=place(step.truncated),
        mask=place(active),
        last_obs=map_tree(place_last, step.next_obs),
    )
