"""The driver of algorithms that search for a policy: it plays a whole population of candidates at once."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from bellgrad.core.errors import EnvironmentFault, UsageError
from bellgrad.core.protocols import PopulationLearner
from bellgrad.core.rng import Streams, derive_seed, draw
from bellgrad.core.tree import Tree, map_tree, named_leaves, restore_tree
from bellgrad.envs.transforms import TransformedEnv
from bellgrad.runs.checkpoint import Checkpoint
from bellgrad.runs.settings import Settings
from bellgrad.training.driver import Driver, Ended, Loop, Report, Workload, at
from bellgrad.training.engine import Engine

UNROLL = 4  # environment steps in one compiled call: compiling takes more than in proportion to them


class Game(NamedTuple):
    """The episodes that a group of candidates is playing, one in each of B environments."""

    env: Tree  # a native environment's own state; None where the environment keeps its state itself
    obs: Tree  # [B, *O] to act on next
    active: Tensor  # [B] bool, False where the episode is over
    return_: Tensor  # [B] float32 of the episodes that are over
    length: Tensor  # [B] int64 likewise, environment steps


class Population(Driver):
    """One call is a generation: every candidate plays its episodes, and the learner is told their mean
    returns.

    All episodes begin together, and an environment whose episode is over stands still until the others' are.
    With fewer environments than episodes, groups of candidates (or parts of one candidate's episodes) play
    one after another.
    """

    learner: PopulationLearner
    env: TransformedEnv

    def __init__(
        self, learner: PopulationLearner, env: TransformedEnv, engine: Engine, seed: int, device: torch.device
    ):
        self.learner, self.env, self.engine, self.device = learner, env, engine, device
        self.seed, self.streams = seed, Streams(seed, device)
        self.steps = self.updates = 0
        self.native = env.compilable
        c, b = learner.config, env.num_envs
        self._total = c.population * c.episodes
        if not self._divides(b):
            would = next(n for n in range(min(b, self._total), 0, -1) if self._divides(n))
            raise UsageError(
                f"{c.population} candidates with {c.episodes} episodes each cannot be played by groups of {b}"
                f" environments; {would} would do, and {self._total} would play them at once"
            )
        self._unroll = (
            UNROLL if self.native else 1
        )  # where nothing is compiled, stop as soon as all have finished
        state = learner.init(self.streams["init"])
        self.loop = Loop(state, env.state if self.native else None, obs=None, carry=None)
        self._collect = engine.compile(self._run_steps) if self.native else self._run_steps
        self._play = learner.play if self.native else engine.compile(learner.play)

    def _divides(self, num_envs: int) -> bool:
        """Whether so many environments play whole candidates, or equal parts of one."""
        e = self.learner.config.episodes
        return self._total % num_envs == 0 and max(num_envs, e) % min(num_envs, e) == 0

    @classmethod
    def workload(cls, learner: PopulationLearner, settings: Settings) -> Workload:
        """Generations are few; what takes the time is acting and stepping."""
        return Workload(settings.steps // settings.num_envs, settings.num_envs, "steps of all environments")

    def advance(self) -> Report:
        """Play a generation, then learn from it."""
        learner, state = self.learner, self.loop.state
        with torch.no_grad():  # asking and telling are not compiled: hundreds of steps lie between them
            candidates = learner.ask(state, draw(learner.ask_noise(), self.streams["update"]))
            return_, length = self._play_generation(candidates.to(torch.float32))
            fitness = return_.view(-1, learner.config.episodes).mean(1)
            state, metrics = learner.tell(
                state, candidates, fitness, draw(learner.tell_noise(), self.streams["update"])
            )
        taken = int(length.sum())
        self.loop = self.loop._replace(state=state._replace(steps=state.steps + taken))
        self.steps += taken
        self.updates += 1
        return Report(Ended(torch.ones_like(length, dtype=torch.bool), return_, length), metrics)

    def _play_generation(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """Returns and lengths `[P * E]` of the episodes of `params [P, n]`, a candidate's beside each
        other."""
        e, b = self.learner.config.episodes, self.env.num_envs
        games = []
        for group in range(self._total // b):
            first = group * b // e
            games.append(self._play_episodes(params[first : first + max(1, b // e)], group))
        return_, length = (torch.cat(parts) for parts in zip(*games, strict=True))
        return return_, length

    def _play_episodes(self, params: Tensor, group: int) -> tuple[Tensor, Tensor]:
        """Returns and lengths `[B]` of an episode in each environment; `params [P', n]` of the candidates of
        this group."""
        obs, b = self.env.reset(derive_seed(self.seed, "generation", self.updates, group)), self.env.num_envs
        zero = torch.zeros(b, device=self.device)
        game = Game(self.env.state if self.native else None, obs, zero == 0, zero, zero.long())
        while game.active.any():
            noise = draw(self.env.noise, self.streams["environment"], self._unroll) if self.native else None
            game = self._collect(params, game, noise)
        if self.native:
            self.loop = self.loop._replace(env=game.env)
            self.sync_env()
        return game.return_, game.length

    def _run_steps(self, params: Tensor, game: Game, noise: Tree) -> Game:
        """A few steps of the environments whose episodes go on. Pure where native."""
        for t in range(self._unroll):
            own = map_tree(lambda x: x.unflatten(0, (len(params), -1)), game.obs)
            action = self._play(params, own).flatten(0, 1)
            if self.native:
                env, step = self.env.pure_step(game.env, action, at(noise, t), game.active)
            else:
                env, step = None, self.env.step(action, game.active)
            ended = step.terminated | step.truncated
            return_ = torch.where(ended, step.episode.return_, game.return_)
            length = torch.where(ended, step.episode.length, game.length)
            game = Game(env, step.obs, game.active & ~ended, return_, length)
        return game

    def snapshot(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Counters, the learner, the random streams and what the transforms remember: no episode is under
        way."""
        tensors = named_leaves(self.loop._replace(env=None), "loop") | named_leaves(
            self.streams.snapshot(), "streams"
        )
        return {"steps": self.steps, "updates": self.updates}, tensors | named_leaves(
            self.env.transform_state, "env/transforms"
        )

    def restore(self, checkpoint: Checkpoint) -> EnvironmentFault | None:
        """Continue from a checkpoint, with the next generation."""
        counters = checkpoint.values["driver"]
        self.steps, self.updates = counters["steps"], counters["updates"]
        self.streams.restore({name: checkpoint.read(f"streams/{name}") for name in self.streams.snapshot()})
        loop = restore_tree(self.loop._replace(env=None), checkpoint.tensors("loop"), "loop")
        saved = checkpoint.tensors("env/transforms")
        self.env.transform_state = restore_tree(self.env.transform_state, saved, "env/transforms")
        self.loop = loop._replace(env=self.env.state if self.native else None)
        return None
