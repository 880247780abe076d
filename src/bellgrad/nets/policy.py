"""A policy as a network: which distribution an action space needs, and the outputs that give its
parameters."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn

from bellgrad.core.errors import UsageError
from bellgrad.core.masks import KEY, choices, has_mask
from bellgrad.core.memory import need_memory
from bellgrad.core.records import EnvSpec
from bellgrad.core.rng import Noise
from bellgrad.core.tree import Tree, leaves, map_tree
from bellgrad.nets.build import build, init_params, skeleton
from bellgrad.nets.layers import apply
from bellgrad.nets.recurrent import RecurrentNetwork
from bellgrad.nets.specs import Recurrent, Spec
from bellgrad.ops.distributions import Categorical, DiagonalGaussian, MultiCategorical
from bellgrad.ops.grads import Params

Distribution = Categorical | MultiCategorical | DiagonalGaussian
Head = Literal["vector", "score"]
LogStd = Literal["free", "shared", "separate"]
FORBIDDEN = torch.finfo(torch.float32).min  # a logit; with minus infinity a choice among nothing would be NaN
SMALL = 0.01  # gain of the last layer: a policy begins close to uniform, or to a centered Gaussian


class Policy:
    """`pi(. | obs)`: modules without numbers and pure functions; the parameters are outside.

    Actions that the observation's `action_mask` or the environment's `legal` forbids have probability 0.
    If all are forbidden, as after the end of an episode, none is.

    With `LSTM` or `GRU` it is `pi(. | obs, memory)`: `step` and `unroll` take the place of `distribution`.

    Args:
        network: of the policy.
        spec: the environment.
        head: how a choice among actions is scored. `vector`: one output per action. `score`: one output for
            the observation joined with the action (one-hot), computed for every action.
        log_std: of a Gaussian. `free`: one parameter per action dimension, the same for all observations.
            `shared`: further outputs of the network that gives the mean. `separate`: a network of its own.
        initial_log_std: its value before anything is learned.

    Attributes:
        discrete: whether the action is a choice among finitely many.
        action_size: D dimensions of a Box, or A actions to choose from, in all dimensions of a MultiDiscrete
            space together.
        remembers: whether the network has a memory.

    Raises:
        UsageError: the action space is none of Box, Discrete and MultiDiscrete, or `head` is `score` and it
            is not Discrete, or a mask does not fit the actions, or a network with a memory would be computed
            more than once per step.
    """

    def __init__(
        self,
        network: Spec,
        spec: EnvSpec,
        head: Head = "vector",
        log_std: LogStd = "free",
        initial_log_std: float = 0.0,
    ):
        space = spec.action_space
        sizes = choices(space)
        if sizes is None and not isinstance(space, Box):
            raise UsageError(
                f"a policy needs a Box, Discrete or MultiDiscrete action space; {spec.id} has {space}"
            )
        self.discrete = sizes is not None
        self.action_size = sum(sizes) if sizes else math.prod(space.shape or ())
        self._sizes = None if isinstance(space, Discrete) else sizes
        if sizes:  # every dimension is padded to the longest; the head `score` joins each action, one-hot
            row = self.action_size if head == "score" else max(sizes)
            need_memory(4 * row * (row if head == "score" else len(sizes)), f"a policy over {space}")
        self._masked = has_mask(spec.observation_space, space)
        self._legal = None if spec.legal is None else torch.from_numpy(spec.legal)
        if head == "score" and not isinstance(space, Discrete):
            raise UsageError(
                f"the head 'score' scores each action of a Discrete space; {spec.id} has {space}"
            )
        self.remembers = isinstance(network, Recurrent)
        if self.remembers and (head == "score" or (not self.discrete and log_std == "separate")):
            raise UsageError(
                "a policy with a memory is one network, computed once per step: give head='vector', and"
                " log_std 'free' or 'shared'"
            )
        self.head, self.log_std, self.initial_log_std = head, log_std, initial_log_std
        observed = spec.observation_space
        builders: dict[str, Callable[[], nn.Module]] = {}
        if head == "score":
            builders["actor."] = lambda: build(
                network, observed, 1, action_size=self.action_size, output_gain=SMALL
            )
        else:
            outputs = self.action_size * (2 if not self.discrete and log_std == "shared" else 1)
            builders["actor."] = lambda: build(network, observed, outputs, output_gain=SMALL)
        if not self.discrete and log_std == "separate":
            builders["log_std."] = lambda: build(network, observed, self.action_size, output_gain=SMALL)
        self._builders = builders
        self._modules = {prefix: skeleton(builder) for prefix, builder in builders.items()}

    def init(self, rng: torch.Generator) -> Params:
        """Random parameters, on the generator's device."""
        params: Params = {}
        for prefix, builder in self._builders.items():
            params |= {prefix + name: tensor for name, tensor in init_params(builder, rng).items()}
        if not self.discrete and self.log_std == "free":
            params["log_std"] = torch.full((self.action_size,), self.initial_log_std, device=rng.device)
        return params

    def noise(self, num_envs: int) -> Noise:
        """What `Distribution.sample` needs: a uniform for each choice, or a standard normal for each
        dimension of a Box."""
        if not self.discrete:
            return Noise("normal", (num_envs, self.action_size))
        return Noise("uniform", (num_envs, len(self._sizes)) if self._sizes else (num_envs,))

    def distribution(self, params: Params, obs: Tree) -> Distribution:
        """`pi(. | obs)` for `obs [B, *O]`."""
        if self.head == "score":
            return self._choice(self._scores(params, obs), obs)
        return self._of_output(params, obs, self._apply("actor.", params, obs))

    def first_memory(self, num_envs: int) -> Tree:
        """The memory when an episode begins, on the CPU; None without one."""
        actor = self._modules["actor."]
        return actor.first_memory(num_envs) if isinstance(actor, RecurrentNetwork) else None

    def step(self, params: Params, obs: Tree, memory: Tree) -> tuple[Distribution, Tree]:
        """`pi(. | obs, memory)` for `obs [B, *O]`, and the memory after it."""
        return self._unroll(params, obs, memory, None)

    def unroll(self, params: Params, obs: Tree, memory: Tree, ended: Tensor) -> Distribution:
        """The distributions of rows of consecutive steps; see `RecurrentNetwork.unroll`."""
        return self._unroll(params, obs, memory, ended)[0]

    def _unroll(
        self, params: Params, obs: Tree, memory: Tree, ended: Tensor | None
    ) -> tuple[Distribution, Tree]:
        actor = self._modules["actor."]
        assert isinstance(actor, RecurrentNetwork)  # `remembers`
        output, memory = actor.unroll(params, "actor.", obs, memory, ended)
        return self._of_output(params, obs, output), memory

    def _of_output(self, params: Params, obs: Tree, output: Tensor) -> Distribution:
        if self.discrete:
            return self._choice(output, obs)
        if self.log_std == "free":
            return DiagonalGaussian(output, params["log_std"])
        if self.log_std == "shared":
            mean, log_std = output.chunk(2, -1)
        else:
            mean, log_std = output, self._apply("log_std.", params, obs)
        return DiagonalGaussian(mean, self.initial_log_std + log_std)

    def _choice(self, logits: Tensor, obs: Tree) -> Categorical | MultiCategorical:
        """The distribution over the allowed actions that logits `[B, A]` give."""
        if self._masked:
            logits = torch.where(obs[KEY] != 0, logits, FORBIDDEN)
        if self._legal is not None:
            logits = torch.where(self._legal.to(obs.device)[obs], logits, FORBIDDEN)
        return MultiCategorical.of(logits, self._sizes) if self._sizes else Categorical(logits)

    def _apply(self, prefix: str, params: Params, *inputs: Tree) -> Tensor:
        return apply(self._modules[prefix], params, *inputs, prefix=prefix)

    def _scores(self, params: Params, obs: Tree) -> Tensor:
        """`[B, A]`: every observation joined with every action."""
        a = self.action_size
        first = leaves(obs)[0]
        choices = torch.eye(a, device=first.device).repeat(len(first), 1)
        return self._apply(
            "actor.", params, map_tree(lambda x: x.repeat_interleave(a, 0), obs), choices
        ).view(-1, a)
