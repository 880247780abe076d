"""The driver of tabular learners: a sampler of known dynamics, or any environment with Discrete observations
and actions."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bellgrad.core.errors import EnvironmentFault, UsageError
from bellgrad.core.rng import derive_seed
from bellgrad.core.tree import map_tree, named_leaves, nest, restore_tree
from bellgrad.envs.discrete import DiscreteStates
from bellgrad.envs.gym import GymEnv
from bellgrad.envs.single import SingleEnvStepper
from bellgrad.envs.transformed import TransformedEnv
from bellgrad.mdp.model import FiniteMDP
from bellgrad.runs.checkpoint import Checkpoint
from bellgrad.runs.settings import Settings
from bellgrad.tabular.common import TABLE_FULL, TabularLearner, UniformNumbers
from bellgrad.training.actor import Ended
from bellgrad.training.driver import Advanced, Driver, Workload
from bellgrad.training.engine import Engine
from bellgrad.training.sampling import (
    LOOP_DRAWS,
    EpisodePosition,
    SampledDynamics,
    build_compiled,
    build_plain,
    make_loop,
    make_step,
    specialize,
)
from bellgrad.training.stopping import StopRequest

CALLS = 200  # calls in a run, so that each line of the log has one
MOST_STEPS = 200_000  # environment steps in a call, so that Ctrl-C takes effect soon
DRAWN = 1 << 16  # uniform numbers that are drawn at once


class Tabular(Driver):
    """One call is many steps, with an update after each; the arguments are those of `Driver`.

    Only the learner's tables change in place. If the dynamics are known, all steps of a call are one compiled
    function; otherwise the environment steps in Python, and the same two functions of the learner follow each
    step.
    """

    stream_names = ("init", "action")
    learner: TabularLearner

    def __init__(
        self,
        learner: TabularLearner,
        env: TransformedEnv,
        engine: Engine,
        seed: int,
        device: torch.device,
        total: int | None = None,
    ):
        super().__init__(learner, env, engine, seed, device, total)
        self.steps_per_call = max(1, min(MOST_STEPS, learner.horizon // CALLS))
        self._noise = UniformNumbers(
            np.zeros(max(DRAWN, 2 * self._most_draws)), np.array([max(DRAWN, 2 * self._most_draws)])
        )
        self._table = map_tree(Tensor.numpy, self.state)  # the same memory
        if env.mdp is None and learner.exploring_starts:
            raise UsageError(
                f"{type(learner.config).__name__} starts episodes in any state, which needs known dynamics; "
                f"{env.spec.id} can only be stepped"
            )
        self._source: SampledMDP | SteppedEnv
        if env.mdp is None:
            self._source = SteppedEnv(learner, env, engine, seed, self._table, self._noise)
        else:
            self._source = SampledMDP(learner, env.mdp, engine)

    @property
    def _most_draws(self) -> int:
        return LOOP_DRAWS + 2 * self.learner.max_draws  # of one step that begins an episode

    @classmethod
    def workload(cls, learner: TabularLearner, settings: Settings) -> Workload | None:
        """A table has no network."""
        return None

    def advance(self) -> Advanced:
        """Take `steps_per_call` steps, fewer at the end of the run, or if it is asked to stop: then the next
        call takes the rest of them.

        Raises:
            UsageError: the learner's tables are too small for the problem.
        """
        until = self.call_began + self.steps_per_call
        wanted = (until if self.total is None else min(until, self.total)) - self.steps
        returns, lengths = np.empty(wanted), np.empty(wanted, np.int64)
        taken = ended = 0
        while taken < wanted and not (taken and self.stop.asked):
            self._draw()
            n, e = self._source.run(
                self._table,
                self._noise,
                wanted - taken,
                self._most_draws,
                returns[ended:],
                lengths[ended:],
                self.stop,
            )
            taken, ended = taken + n, ended + e
            if self._source.action == TABLE_FULL:
                raise UsageError(self.learner.table_full_message())
        self.steps += taken
        self.updates += taken
        over = Ended(
            torch.ones(ended, dtype=torch.bool),
            torch.from_numpy(returns[:ended]),
            torch.from_numpy(lengths[:ended]),
        )
        return Advanced(over, self.learner.metrics(self.state) if taken == wanted else {})

    @property
    def call_began(self) -> int:
        """Calls begin at multiples of their steps."""
        return self.steps - self.steps % self.steps_per_call

    def _draw(self) -> None:
        """Draw new numbers if fewer are left than one step may take; those that are left come first, so that
        none is lost."""
        uniform, taken = self._noise
        left = len(uniform) - int(taken[0])
        if left < self._most_draws:
            uniform[:left] = uniform[len(uniform) - left :]
            fresh = torch.rand(len(uniform) - left, dtype=torch.float64, generator=self.streams["action"])
            uniform[left:] = fresh.numpy()
            taken[0] = 0

    def snapshot_experience(self) -> dict[str, Tensor]:
        """The random numbers drawn and not yet taken, and the state of the episode."""
        return named_leaves(map_tree(torch.from_numpy, self._noise), "noise") | self._source.snapshot()

    def restore_experience(self, checkpoint: Checkpoint) -> EnvironmentFault | None:
        """Continue in the episode, or begin a new one if the environment does not repeat itself."""
        self._table = map_tree(Tensor.numpy, self.state)
        noise = map_tree(torch.from_numpy, self._noise)
        self._noise = map_tree(Tensor.numpy, restore_tree(noise, checkpoint.tensors("noise"), "noise"))
        return self._source.restore(checkpoint, derive_seed(self.seed, "resumed", self.steps))


class SampledMDP:
    """Steps of a known MDP, sampled in one call."""

    def __init__(self, learner: TabularLearner, mdp: FiniteMDP, engine: Engine):
        self._config = learner.config_record
        self._dynamics = SampledDynamics.of(mdp, learner.spec.max_episode_steps, learner.exploring_starts)
        self._position = EpisodePosition(np.array(0), np.array(-1), np.array(0), np.array(0.0))
        build = build_plain if engine.mode == "eager" else build_compiled
        self._loop = build(make_loop, learner.begin, learner.learn)

    def run(
        self,
        table: Any,
        noise: UniformNumbers,
        steps: int,
        draws: int,
        returns: np.ndarray,
        lengths: np.ndarray,
        stop: StopRequest,
    ) -> tuple[int, int]:
        """See `sampling.make_loop`. It takes a moment: `stop` is not looked at."""
        taken, ended = self._loop(
            self._config, table, self._dynamics, self._position, noise, steps, draws, returns, lengths
        )
        return taken, ended

    @property
    def action(self) -> int:
        """The next action; negative as in `sampling.EpisodePosition`."""
        return int(self._position.action)

    def snapshot(self) -> dict[str, Tensor]:
        """The state of the current episode."""
        return named_leaves(map_tree(torch.from_numpy, self._position), "place")

    def restore(self, checkpoint: Checkpoint, seed: int) -> None:
        """Continue in that episode; `seed` is not needed."""
        position = map_tree(torch.from_numpy, self._position)
        self._position = map_tree(Tensor.numpy, restore_tree(position, checkpoint.tensors("place"), "place"))


class SteppedEnv:
    """Steps of an environment whose dynamics are not known."""

    def __init__(
        self,
        learner: TabularLearner,
        env: TransformedEnv,
        engine: Engine,
        seed: int,
        table: Any,
        noise: UniformNumbers,
    ):
        inner = env.env
        if not isinstance(inner, GymEnv) or env.num_envs != 1:
            raise UsageError(
                "a tabular learner acts in one environment of this process: num_envs must be 1, and backend"
                " not subprocess"
            )
        self._env = inner
        self._configs = np.array([learner.config_record.item()], dtype=learner.config_record.dtype)
        to_row = env.transforms[0] if env.transforms else None
        assert to_row is None or isinstance(to_row, DiscreteStates)
        self._see = None if to_row is None else to_row.observe_one
        self._begin(seed)
        if engine.mode == "eager":
            self._step = build_plain(make_step, learner.begin, learner.learn)
        else:
            obs = SingleEnvStepper(self._env, self._see).obs
            arguments = (self._configs, table, noise, obs, 0, 0.0, obs, False, False)
            self._step = specialize(build_compiled(make_step, learner.begin, learner.learn), *arguments)

    def _begin(self, seed: int) -> None:
        """Start a new episode."""
        self._env.reset(seed)
        self.action = -1

    def run(
        self,
        table: Any,
        noise: UniformNumbers,
        steps: int,
        draws: int,
        returns: np.ndarray,
        lengths: np.ndarray,
        stop: StopRequest,
    ) -> tuple[int, int]:
        """As `sampling.make_loop`, with the environment's own steps; fewer if the run is to stop."""
        configs, step, action, ended, taken = self._configs, self._step, self.action, 0, 0
        most = min(steps, (len(noise.uniform) - int(noise.taken[0])) // draws)
        with SingleEnvStepper(self._env, self._see) as env:
            obs, act = env.obs, env.step
            while taken < most:
                if action < 0:
                    action = step(configs, table, noise, obs, -1, 0.0, obs, False, False)
                next_obs, reward, terminated, truncated = act(action)
                taken += 1
                action = step(configs, table, noise, obs, action, reward, next_obs, terminated, truncated)
                obs = next_obs
                if action == TABLE_FULL:
                    break
                if terminated or truncated:
                    returns[ended], lengths[ended] = env.return_, env.length
                    obs, action, ended = env.restart(), -1, ended + 1
                if stop.asked:
                    break
        self.action = action
        return taken, ended

    def snapshot(self) -> dict[str, Tensor]:
        """The environment's past, and the next action."""
        return named_leaves(self._env.snapshot(), "env") | {"place/action": torch.tensor(self.action)}

    def restore(self, checkpoint: Checkpoint, seed: int) -> EnvironmentFault | None:
        """Repeat that past.

        Returns:
            None; or why the environment cannot repeat it: it then begins a new episode with `seed`.
        """
        names = [name for name in checkpoint.names() if name.startswith("env/")]
        past = nest({name.removeprefix("env/"): checkpoint.read(name) for name in names})
        try:
            self._env.restore(past)
        except EnvironmentFault as fault:
            self._begin(seed)
            return fault
        self.action = int(checkpoint.read("place/action"))
        return None
