"""Optimizers as pure functions: `step(params, grads, state) -> (params, state)`, each step equal to that of
`torch.optim`."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from bellgrad.core.errors import UsageError, check_range, check_types
from bellgrad.ops.checks import same_params
from bellgrad.ops.grads import Params, tracing

LearningRate = float | Tensor | None


class Optimizer(Protocol):
    """What every optimizer offers: a frozen dataclass with these two methods."""

    def init(self, params: Params) -> Any:
        """The state before the first step."""

    def step(
        self, params: Params, grads: Params, state: Any, learning_rate: LearningRate = None
    ) -> tuple[Params, Any]:
        """New parameters and state; nothing is changed in place."""


class AdamState(NamedTuple):
    """Moments of `Adam` and `AdamW`."""

    step: Tensor  # [] int64, steps taken
    mean: Params  # running mean of the gradient
    square: Params  # running mean of its square
    max_square: Params  # largest `square` so far; empty without amsgrad


@dataclass(frozen=True)
class Adam:
    """Adam, with optional L2 regularization and AMSGrad.

    Source: Kingma and Ba 2015, arXiv 1412.6980, algorithm 1; Reddi et al. 2018, arXiv 1904.09237, algorithm
    2.
    """

    learning_rate: float = 1e-3  # 0 or more; torch's default
    beta1: float = 0.9  # decay of the mean, [0, 1)
    beta2: float = 0.999  # decay of the square, [0, 1)
    epsilon: float = 1e-8  # added to the denominator, 0 or more
    weight_decay: float = 0.0  # added to the gradient as `weight_decay * params`, 0 or more
    amsgrad: bool = False  # divide by the largest square so far

    decoupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_types(self)
        below_one = 1 - 2**-53
        _check_positive(self, "learning_rate", "epsilon", "weight_decay")
        check_range(self, beta1=(0, below_one), beta2=(0, below_one))

    def init(self, params: Params) -> AdamState:
        """The state before the first step: zeros on the parameters' devices."""
        return AdamState(
            _counter(params), _zeros(params), _zeros(params), _zeros(params) if self.amsgrad else {}
        )

    def step(
        self, params: Params, grads: Params, state: AdamState, learning_rate: LearningRate = None
    ) -> tuple[Params, AdamState]:
        """One step.

        Args:
            params: tensors by name.
            grads: their gradients, by the same names.
            state: from `init` or the step before.
            learning_rate: in place of the field, for a schedule; a number or `[]`.

        Returns:
            New parameters and state.

        Raises:
            ValueError: names or shapes of `params` and `grads` differ.
        """
        same_params(params=params, grads=grads)
        rate = self.learning_rate if learning_rate is None else learning_rate
        count = state.step + 1
        if not tracing() and _fused_kernel_takes(params):
            return self._fused(params, grads, state, count, rate)
        time = count.to(torch.float64)  # 1 - 0.999^t loses four digits in float32
        correct_mean, correct_square = 1 - _decayed(self.beta1, time), 1 - _decayed(self.beta2, time)
        new, mean, square, max_square = {}, {}, {}, {}
        for name, param in params.items():
            grad = grads[name]
            if self.weight_decay and self.decoupled:
                param = param * _like(1 - rate * self.weight_decay, param)
            elif self.weight_decay:
                grad = grad + self.weight_decay * param
            mean[name] = torch.lerp(state.mean[name], grad, 1 - self.beta1)
            square[name] = self.beta2 * state.square[name] + (1 - self.beta2) * grad * grad
            largest = square[name]
            if self.amsgrad:
                largest = max_square[name] = torch.maximum(state.max_square[name], largest)
            denominator = largest.sqrt() / _like(correct_square.sqrt(), param) + self.epsilon
            new[name] = param - _like(rate / correct_mean, param) * mean[name] / denominator
        return new, AdamState(count, mean, square, max_square)

    def _fused(
        self, params: Params, grads: Params, state: AdamState, count: Tensor, rate: float | Tensor
    ) -> tuple[Params, AdamState]:
        """The same step by torch's own kernel, on copies: a third of the time of separate operations."""
        new, mean, square, max_square = (
            _copy(group) for group in (params, state.mean, state.square, state.max_square)
        )
        kernel = torch._fused_adamw_ if self.decoupled else torch._fused_adam_
        kernel(
            list(new.values()),
            [grads[name].contiguous() for name in new],
            [mean[name] for name in new],
            [square[name] for name in new],
            [max_square[name] for name in new] if self.amsgrad else [],
            [count.to(torch.float32)] * len(new),  # exact up to 2^24, where both corrections have long been 1
            lr=rate,
            beta1=self.beta1,
            beta2=self.beta2,
            weight_decay=self.weight_decay,
            eps=self.epsilon,
            amsgrad=self.amsgrad,
            maximize=False,
        )
        return new, AdamState(count, mean, square, max_square)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay: parameters shrink by `learning_rate * weight_decay` of themselves
    each step.

    Source: Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2.
    """

    weight_decay: float = 1e-2  # 0 or more; torch's default

    decoupled: ClassVar[bool] = True


class SGDState(NamedTuple):
    """State of `SGD`."""

    step: Tensor  # [] int64, steps taken
    momentum: Params  # running sum of gradients; empty without momentum


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent, with optional momentum.

    Source: Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning", as
    torch writes it.
    """

    learning_rate: float = 1e-3  # 0 or more; torch's default
    momentum: float = 0.0  # decay of the running sum, [0, 1]
    nesterov: bool = False  # look ahead along the momentum
    weight_decay: float = 0.0  # added to the gradient as `weight_decay * params`, 0 or more

    def __post_init__(self) -> None:
        check_types(self)
        _check_positive(self, "learning_rate", "weight_decay")
        check_range(self, momentum=(0, 1))
        if self.nesterov and not self.momentum:
            raise UsageError("SGD.nesterov needs a momentum above 0")

    def init(self, params: Params) -> SGDState:
        """The state before the first step."""
        return SGDState(_counter(params), _zeros(params) if self.momentum else {})

    def step(
        self, params: Params, grads: Params, state: SGDState, learning_rate: LearningRate = None
    ) -> tuple[Params, SGDState]:
        """One step; arguments, result and errors as in `Adam.step`."""
        same_params(params=params, grads=grads)
        rate = self.learning_rate if learning_rate is None else learning_rate
        new, momentum = {}, {}
        for name, param in params.items():
            grad = grads[name]
            if self.weight_decay:
                grad = grad + self.weight_decay * param
            if self.momentum:
                momentum[name] = self.momentum * state.momentum[name] + grad
                grad = grad + self.momentum * momentum[name] if self.nesterov else momentum[name]
            new[name] = param - _like(rate, param) * grad
        return new, SGDState(state.step + 1, momentum)


class RMSpropState(NamedTuple):
    """State of `RMSprop`."""

    step: Tensor  # [] int64, steps taken
    square: Params  # running mean of the squared gradient
    mean: Params  # running mean of the gradient; empty unless centered
    momentum: Params  # running sum of scaled gradients; empty without momentum


@dataclass(frozen=True)
class RMSprop:
    """RMSprop, with optional centering and momentum.

    Source: Tieleman and Hinton 2012, lecture 6.5; centered, Graves 2013, arXiv 1308.0850, equations 38 to 41,
    with epsilon outside the root as in torch, or inside it as there and in Mnih et al. 2016, arXiv
    1602.01783, equation S2. TensorFlow has it inside, and running squares that begin at 1.
    """

    learning_rate: float = 1e-2  # 0 or more; torch's default
    decay: float = 0.99  # of the running means, [0, 1]
    epsilon: float = 1e-8  # added to the denominator, 0 or more
    weight_decay: float = 0.0  # added to the gradient as `weight_decay * params`, 0 or more
    momentum: float = 0.0  # decay of the running sum, [0, 1]
    centered: bool = False  # divide by the standard deviation in place of the root mean square
    epsilon_in_root: bool = False  # add epsilon to the mean square, before the root is taken
    initial_square: float = 0.0  # first running mean of the square, 0 or more; 1 makes the first steps small

    def __post_init__(self) -> None:
        check_types(self)
        _check_positive(self, "learning_rate", "epsilon", "weight_decay", "initial_square")
        check_range(self, decay=(0, 1), momentum=(0, 1))

    def init(self, params: Params) -> RMSpropState:
        """The state before the first step."""
        square = {name: zeros + self.initial_square for name, zeros in _zeros(params).items()}
        mean = _zeros(params) if self.centered else {}
        return RMSpropState(_counter(params), square, mean, _zeros(params) if self.momentum else {})

    def step(
        self, params: Params, grads: Params, state: RMSpropState, learning_rate: LearningRate = None
    ) -> tuple[Params, RMSpropState]:
        """One step; arguments, result and errors as in `Adam.step`."""
        same_params(params=params, grads=grads)
        rate = self.learning_rate if learning_rate is None else learning_rate
        new, square, mean, momentum = {}, {}, {}, {}
        for name, param in params.items():
            grad = grads[name]
            if self.weight_decay:
                grad = grad + self.weight_decay * param
            variance = square[name] = self.decay * state.square[name] + (1 - self.decay) * grad * grad
            if self.centered:
                mean[name] = torch.lerp(state.mean[name], grad, 1 - self.decay)
                variance = variance - mean[name] * mean[name]
            root = (
                (variance + self.epsilon).sqrt() if self.epsilon_in_root else variance.sqrt() + self.epsilon
            )
            update = grad / root
            if self.momentum:
                update = momentum[name] = self.momentum * state.momentum[name] + update
            new[name] = param - _like(rate, param) * update
        return new, RMSpropState(state.step + 1, square, mean, momentum)


def _check_positive(owner: object, *names: str) -> None:
    check_range(owner, **{name: (0.0, float("inf")) for name in names})


def _counter(params: Params) -> Tensor:
    return torch.zeros((), dtype=torch.int64, device=next(iter(params.values())).device)


def _zeros(params: Params) -> Params:
    return {name: torch.zeros_like(param, requires_grad=False) for name, param in params.items()}


def _copy(group: Params) -> Params:
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in group.items()}


def _decayed(beta: float | Tensor, time: Tensor) -> Tensor:
    """`beta^time`. Inductor computes an `exp` with many readers once; it would repeat a `pow` for every few
    parameters."""
    if isinstance(beta, Tensor):
        return torch.exp(time * beta.log())
    return torch.exp(time * (math.log(beta) if beta else -math.inf))


def _like(number: float | Tensor, param: Tensor) -> float | Tensor:
    """A scalar in the parameter's dtype, since under `vmap` a float64 scalar is a float64 vector and would
    promote."""
    return number.to(param.dtype) if isinstance(number, Tensor) else number


def _fused_kernel_takes(params: Params) -> bool:
    """Whether torch's fused kernel takes these parameters: one dtype, one device of a kind that has the
    kernel."""
    first = next(iter(params.values()))
    return first.device.type in ("cpu", "cuda") and all(
        param.dtype == first.dtype and param.device == first.device for param in params.values()
    )
