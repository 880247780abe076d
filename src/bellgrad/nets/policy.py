"""A policy as a network: which distribution an action space asks for, and the heads that give its parameters."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn

from bellgrad.core.errors import UsageError
from bellgrad.core.records import EnvSpec
from bellgrad.core.rng import Noise
from bellgrad.core.tree import Tree, leaves, map_tree
from bellgrad.nets.build import build, init_params, skeleton
from bellgrad.nets.layers import Params, apply
from bellgrad.nets.specs import Spec
from bellgrad.ops.distributions import Categorical, DiagonalGaussian

Distribution = Categorical | DiagonalGaussian
Head = Literal["vector", "score"]
LogStd = Literal["free", "shared", "separate"]
SMALL = 0.01  # gain of the last layer: a policy begins close to uniform, or to a centred Gaussian


class Policy:
    """`pi(. | obs)`: skeleton modules and pure functions; the parameters live outside.

    Args:
        network: of the policy.
        spec: the environment.
        head: how a choice among actions is scored. `vector`: one output an action. `score`: one output for the observation joined
            with the action (one-hot), which is asked for every action.
        log_std: of a Gaussian. `free`: a parameter an action dimension, the same everywhere. `shared`: further outputs of the
            network that gives the mean. `separate`: a network of its own.
        initial_log_std: where it begins.

    Attributes:
        discrete: whether the actions are a choice.
        action_size: A actions to choose from, or D dimensions.

    Raises:
        UsageError: the action space is neither Box nor Discrete, or `head` is `score` and it is a Box.
    """

    def __init__(
        self, network: Spec, spec: EnvSpec, head: Head = "vector", log_std: LogStd = "free", initial_log_std: float = 0.0
    ):
        space = spec.action_space
        if not isinstance(space, Box | Discrete):
            raise UsageError(f"a policy needs a Box or Discrete action space; {spec.id} has {space}")
        self.discrete = isinstance(space, Discrete)
        self.action_size = int(space.n) if isinstance(space, Discrete) else math.prod(space.shape)
        if head == "score" and not self.discrete:
            raise UsageError(f"the head 'score' scores each action of a Discrete space; {spec.id} has {space}")
        self.head, self.log_std, self.initial_log_std = head, log_std, initial_log_std
        observed = spec.observation_space
        makes: dict[str, Callable[[], nn.Module]] = {}
        if head == "score":
            makes["actor."] = lambda: build(network, observed, 1, action_size=self.action_size, output_gain=SMALL)
        else:
            outputs = self.action_size * (2 if not self.discrete and log_std == "shared" else 1)
            makes["actor."] = lambda: build(network, observed, outputs, output_gain=SMALL)
        if not self.discrete and log_std == "separate":
            makes["log_std."] = lambda: build(network, observed, self.action_size, output_gain=SMALL)
        self._makes = makes
        self._modules = {prefix: skeleton(make) for prefix, make in makes.items()}

    def init(self, rng: torch.Generator) -> Params:
        """Random parameters, on the generator's device."""
        params = {}
        for prefix, make in self._makes.items():
            params |= {prefix + name: tensor for name, tensor in init_params(make, rng).items()}
        if not self.discrete and self.log_std == "free":
            params["log_std"] = torch.full((self.action_size,), self.initial_log_std, device=rng.device)
        return params

    def noise(self, num_envs: int) -> Noise:
        """What `Distribution.sample` needs: a uniform an environment, or a standard normal an action dimension."""
        return Noise("uniform", (num_envs,)) if self.discrete else Noise("normal", (num_envs, self.action_size))

    def distribution(self, params: Params, obs: Tree) -> Distribution:
        """`pi(. | obs)` for `obs [B, *O]`."""
        if self.head == "score":
            return Categorical(self._scores(params, obs))
        output = self._apply("actor.", params, obs)
        if self.discrete:
            return Categorical(output)
        if self.log_std == "free":
            return DiagonalGaussian(output, params["log_std"])
        if self.log_std == "shared":
            mean, log_std = output.chunk(2, -1)
        else:
            mean, log_std = output, self._apply("log_std.", params, obs)
        return DiagonalGaussian(mean, self.initial_log_std + log_std)

    def _apply(self, prefix: str, params: Params, *inputs: Tree) -> Tensor:
        return apply(self._modules[prefix], params, *inputs, prefix=prefix)

    def _scores(self, params: Params, obs: Tree) -> Tensor:
        """`[B, A]`: every observation beside every action."""
        a = self.action_size
        first = leaves(obs)[0]
        choices = torch.eye(a, device=first.device).repeat(len(first), 1)
        return self._apply("actor.", params, map_tree(lambda x: x.repeat_interleave(a, 0), obs), choices).view(-1, a)
