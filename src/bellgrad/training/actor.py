"""The actor: a policy at work in its environments. It is given a learner's state and gives experience.

It owns the environments, what they show, the policy's memory and two random streams, and knows nothing of
updates. So the same actor runs inside a compiled graph with a native environment, around any other one in
this process or a thread, and in another process that builds environment and learner from a run's settings.
"""

from typing import Any, NamedTuple

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from bellgrad.core.errors import EnvironmentFault
from bellgrad.core.protocols import BatchedEnv, Learner
from bellgrad.core.records import Acted, Step, Transition
from bellgrad.core.rng import Noise, Streams, derive_seed, draw
from bellgrad.core.tree import Tree, index_tree, map_tree, named_leaves, nest, restore_tree, to_device, where
from bellgrad.runs.checkpoint import Checkpoint
from bellgrad.training.engine import Engine


class ActorState(NamedTuple):
    """Where an actor stands between two steps."""

    env: Tree  # a pure environment's own state; None if the environment keeps its state itself
    obs: Tree  # [B, *O] to act on next
    carry: Tree  # the policy's memory


class Ended(NamedTuple):
    """Which episodes ended, with their totals; `[B]` for a step, `[n, B]` for a call of n steps."""

    ended: Tensor  # bool
    return_: Tensor  # float32
    length: Tensor  # int64

    @classmethod
    def of(cls, step: Step) -> "Ended":
        """The episodes that a step ended."""
        return cls(step.terminated | step.truncated, *step.episode)


class Taken(NamedTuple):
    """A step of all environments `[B, ...]`; of several steps `[T, B, ...]`."""

    obs: Tree
    carry: Tree  # the policy's memory before the step
    acted: Acted
    step: Step

    def transition(self) -> Transition:
        """What a replay keeps of it."""
        step = self.step
        return Transition(
            self.obs, self.acted.action, step.reward, step.terminated, step.truncated, step.next_obs
        )


class Actor:
    """Acts in all environments, step by step.

    Args:
        learner: whose policy acts.
        env: where it acts.
        engine: how the policy runs if it is not a part of a larger graph.
        seed: of the environments and of the actor's random streams.
        device: where the tensors live.

    Attributes:
        env: the environments, their state outside.
        state: where the actor stands.
    """

    def __init__(self, learner: Learner, env: BatchedEnv, engine: Engine, seed: int, device: torch.device):
        self.learner, self.device, self.seed = learner, device, seed
        self.env, self._whole_env = env.as_pure(), env
        self.streams = Streams(seed, device, ("action", "environment"))
        self._act = learner.act if self.env.compilable else engine.compile(learner.act)
        self._first_carry = to_device(learner.init_carry(env.num_envs), device)
        self._begin(seed)

    def _begin(self, seed: int) -> None:
        obs = self._whole_env.reset(seed)
        # A copy: one tensor given twice to a compiled call would be taken for one input ever after.
        self.state = ActorState(self.env.state, obs, map_tree(torch.clone, self._first_carry))

    # ------------------------------------------------------------------------------------------ pure parts
    def step(
        self, learned: Any, actor: ActorState, noise: Tree, active: Tensor | None = None
    ) -> tuple[Any, ActorState, Taken]:
        """Act and step once, in all environments or only where `active [B]` is True.

        Pure if the environment is (`env.compilable`), so that it can be a part of a compiled call.

        Args:
            learned: the learner's state.
            actor: where the actor stands.
            noise: as `draw` gives it for one step.
            active: bool; None if all environments move.

        Returns:
            The learner's state with its count of environment steps advanced, where the actor stands now, and
            the step.
        """
        acted = self._act(learned, actor.carry, actor.obs, noise["act"])
        return self.follow(learned, actor, acted, noise["env"], active)

    def follow(
        self, learned: Any, actor: ActorState, acted: Acted, noise: Tree, active: Tensor | None = None
    ) -> tuple[Any, ActorState, Taken]:
        """As `step`, with the action given; the memory begins anew where an episode ended."""
        env, step = self.env.pure_step(actor.env, acted.action, noise, active)
        carry = where(step.terminated | step.truncated, self._first_carry, acted.carry)
        if active is not None:
            carry = where(active, carry, actor.carry)
        moved = self.env.num_envs if active is None else active.sum()
        learned = learned._replace(steps=learned.steps + moved)
        taken = Taken(actor.obs, actor.carry, acted, step)
        return learned, ActorState(env, step.obs, carry), taken

    def run(
        self, learned: Any, actor: ActorState, noise: Tree, steps: int
    ) -> tuple[Any, ActorState, list[Taken]]:
        """`step` several times; `noise` as `draw(steps)` gives it."""
        block = []
        for t in range(steps):
            learned, actor, taken = self.step(learned, actor, index_tree(noise, t))
            block.append(taken)
        return learned, actor, block

    # --------------------------------------------------------------------------------------- random numbers
    def draw(self, *lead: int) -> dict[str, Tree]:
        """The random numbers that steps of interaction need; `lead` are the leading axes."""
        act = draw(self.learner.act_noise(self.env.num_envs), self.streams["action"], *lead)
        return {"act": act, "env": draw(self.env.noise, self.streams["environment"], *lead)}

    def uniform_action(self) -> Tensor:
        """Uniform over the actions, in the units that the policy works in: `[B]` int64, or `[B, D]` in
        [-1, 1)."""
        space, b = self.env.action_space, self.env.num_envs
        if isinstance(space, Discrete):
            uniform: Tensor = draw(Noise("uniform", (b,)), self.streams["action"])
            return (uniform * int(space.n)).long().clamp(max=int(space.n) - 1)
        assert space.shape is not None  # an array's
        uniform = draw(Noise("uniform", (b, *space.shape)), self.streams["action"])
        return uniform * 2 - 1

    # ----------------------------------------------------------------------------------------------- saving
    def sync_env(self) -> None:
        """Give the environment the state that the actor carries."""
        self.env.state = self.state.env

    def snapshot(self) -> dict[str, Tensor]:
        """The environments, what they show, the memory and the random streams, by name."""
        self.sync_env()
        tensors = named_leaves(self.state.obs, "loop/obs") | named_leaves(self.state.carry, "loop/carry")
        return tensors | named_leaves(self._whole_env.snapshot(), "env") | self.streams.snapshot()

    def restore(self, checkpoint: Checkpoint, steps: int) -> EnvironmentFault | None:
        """Continue from a checkpoint, bit for bit if the environment repeats itself given its seed.

        Args:
            checkpoint: whose tensors `snapshot` gave.
            steps: environment steps so far.

        Returns:
            None; or why the environment could not be brought back: it then begins new episodes.

        Raises:
            CheckpointError: the checkpoint does not fit.
            EnvironmentFault: the environment cannot begin an episode either.
        """
        self.streams.restore(checkpoint.tensors("streams/"))
        obs = restore_tree(self.state.obs, checkpoint.tensors("loop/obs"), "loop/obs")
        carry = restore_tree(self.state.carry, checkpoint.tensors("loop/carry"), "loop/carry")
        past = {name.removeprefix("env/"): tensor for name, tensor in checkpoint.tensors("env/").items()}
        try:
            self._whole_env.restore(nest(past))
        except EnvironmentFault as fault:
            self._begin(derive_seed(self.seed, "resumed", steps))
            return fault
        self.state = ActorState(self.env.state, obs, carry)
        return None
