"""The driver of algorithms that search for a policy: it plays a whole population of candidates at once."""

from typing import NamedTuple

import torch
from torch import Tensor

from bellgrad.core.errors import EnvironmentFault, UsageError
from bellgrad.core.protocols import PopulationLearner
from bellgrad.core.rng import derive_seed, draw
from bellgrad.core.tree import Tree, index_tree, map_tree, named_leaves, restore_tree
from bellgrad.envs.transformed import TransformedEnv
from bellgrad.runs.checkpoint import Checkpoint
from bellgrad.runs.settings import Settings
from bellgrad.training.actor import Ended
from bellgrad.training.driver import Advanced, Driver, Workload, whole_episodes_note
from bellgrad.training.engine import Engine

UNROLL = 4  # environment steps in one compiled call: compiling takes more than in proportion to them


class UnderWay(NamedTuple):
    """The episodes that a group of candidates is playing, one in each of B environments."""

    env: Tree  # the environments' own state
    obs: Tree  # [B, *O] to act on next
    active: Tensor  # [B] bool, False if the episode is over
    return_: Tensor  # [B] float32 of the episodes that are over
    length: Tensor  # [B] int64 of the same, environment steps


class Population(Driver):
    """One call is a generation: every candidate plays its episodes, and the learner is given their mean
    returns.

    All episodes begin together, and an environment whose episode is over waits until all are.
    With fewer environments than episodes, groups of candidates (or parts of one candidate's episodes) play
    one after another. The arguments are those of `Driver`.
    """

    stream_names = ("init", "environment", "update")
    learner: PopulationLearner
    env: TransformedEnv

    def __init__(
        self,
        learner: PopulationLearner,
        env: TransformedEnv,
        engine: Engine,
        seed: int,
        device: torch.device,
        total: int | None = None,
    ):
        super().__init__(learner, env, engine, seed, device, total)
        c, b, compilable = learner.config, env.num_envs, env.compilable
        self._episodes: int = c.population * c.episodes  # of a generation
        if not self._divides(b):
            would = next(n for n in range(min(b, self._episodes), 0, -1) if self._divides(n))
            raise UsageError(
                f"{c.population} candidates with {c.episodes} episodes each cannot be played by groups of {b}"
                f" environments; {would} would do, and {self._episodes} would play them at once"
            )
        # If nothing is compiled, stop as soon as all have finished.
        self._unroll = UNROLL if compilable else 1
        self._collect = engine.compile(self.collect) if compilable else self.collect
        self._play = learner.play if compilable else engine.compile(learner.play)

    def _divides(self, num_envs: int) -> bool:
        """Whether so many environments play whole candidates, or equal parts of one."""
        e: int = self.learner.config.episodes
        return self._episodes % num_envs == 0 and max(num_envs, e) % min(num_envs, e) == 0

    @classmethod
    def workload(cls, learner: PopulationLearner, settings: Settings) -> Workload:
        """Generations are few; what takes the time is acting and stepping."""
        num_envs = settings.filled_num_envs()
        return Workload(settings.steps // num_envs, num_envs, "steps of all environments")

    def notes(self, settings: Settings) -> list[str]:
        """That the steps of a generation are not known before."""
        limit = self.env.spec.max_episode_steps
        unit = f"a generation of {self._episodes} episodes"
        return whole_episodes_note(unit, self._episodes, limit, settings.steps)

    @torch.no_grad()
    def advance(self) -> Advanced:
        """Play a generation, then learn from it."""
        with self.at_once():  # states are new ones, and the environments begin anew with each generation
            return self._run_generation()

    def _run_generation(self) -> Advanced:
        # `ask` and `tell` are not compiled: they run once in hundreds of steps.
        learner, updates = self.learner, self.streams["update"]
        candidates = learner.ask(self.state, draw(learner.ask_noise(), updates))
        return_, length = self._play_generation(candidates.to(torch.float32))
        fitness = return_.view(-1, learner.config.episodes).mean(1)
        state, metrics = learner.tell(self.state, candidates, fitness, draw(learner.tell_noise(), updates))
        taken = int(length.sum())
        self.state = state._replace(steps=state.steps + taken)
        self.steps += taken
        self.updates += 1
        return Advanced(Ended(torch.ones_like(length, dtype=torch.bool), return_, length), metrics)

    def _play_generation(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """Returns and lengths `[P * E]` of the episodes of `params [P, n]`, those of a candidate together."""
        e, b = self.learner.config.episodes, self.env.num_envs
        results = []
        for group in range(self._episodes // b):
            first = group * b // e
            results.append(self._play_episodes(params[first : first + max(1, b // e)], group))
        return_, length = (torch.cat(parts) for parts in zip(*results, strict=True))
        return return_, length

    def _play_episodes(self, params: Tensor, group: int) -> tuple[Tensor, Tensor]:
        """Returns and lengths `[B]` of an episode in each environment; `params [P', n]` of the candidates of
        this group."""
        env, b = self.env, self.env.num_envs
        obs = env.reset(derive_seed(self.seed, "generation", self.updates, group))
        zero = torch.zeros(b, device=self.device)
        now = UnderWay(env.state, obs, zero == 0, zero, zero.long())
        while now.active.any():
            now = self._collect(params, now, draw(env.noise, self.streams["environment"], self._unroll))
        env.state = now.env
        return now.return_, now.length

    def collect(self, params: Tensor, now: UnderWay, noise: Tree) -> UnderWay:
        """A few steps of the environments whose episodes go on. Pure if the environment is."""
        for t in range(self._unroll):
            own = map_tree(lambda x: x.unflatten(0, (len(params), -1)), now.obs)
            action = self._play(params, own).flatten(0, 1)
            env, step = self.env.pure_step(now.env, action, index_tree(noise, t), now.active)
            ended = step.terminated | step.truncated
            return_ = torch.where(ended, step.episode.return_, now.return_)
            length = torch.where(ended, step.episode.length, now.length)
            now = UnderWay(env, step.obs, now.active & ~ended, return_, length)
        return now

    def snapshot_experience(self) -> dict[str, Tensor]:
        """What the transforms remember: no episode is under way."""
        return named_leaves(self.env.transform_state, "env/transforms")

    def restore_experience(self, checkpoint: Checkpoint) -> EnvironmentFault | None:
        """Continue with the next generation."""
        saved = checkpoint.tensors("env/transforms")
        self.env.transform_state = restore_tree(self.env.transform_state, saved, "env/transforms")
        return None
