"""Gradients as values: nothing is stored in `.grad`, nothing is changed in place."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from bellgrad.core.tree import Tree, map_tree

Params = dict[str, Tensor]


_capturing: ContextVar[bool] = ContextVar("capturing", default=False)


@contextlib.contextmanager
def capturing() -> Iterator[None]:
    """While a function is captured as a graph."""
    token = _capturing.set(True)
    try:
        yield
    finally:
        _capturing.reset(token)


def tracing() -> bool:
    """Whether a function is captured, or `torch.compile` or a `torch.func` transform is running; then only
    pure torch operations work."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return True  # torch.compile, which understands no context variable, comes no further
    return _capturing.get()


def value_and_grad(loss_fn: Callable[..., Any], has_aux: bool = False) -> Callable[..., tuple[Any, Tree]]:
    """A function that gives a loss and its gradient with respect to its first argument.

    Traced (compiled or inside `vmap`) it is `torch.func.grad_and_value`; otherwise plain autograd, which is
    faster. Both work under `torch.no_grad()`.

    Args:
        loss_fn: `loss_fn(params, *args)` gives a scalar `[]`, or `(scalar, aux)` with `has_aux`; `params` is
            a tree of floating point tensors, `aux` a tree of tensors.
        has_aux: whether `loss_fn` gives `aux` too.

    Returns:
        `fn(params, *args) -> (loss, grads)`, or `((loss, aux), grads)` with `has_aux`. `grads` has the
        structure of `params`, zeros if the loss does not depend on a parameter. Nothing returned carries a
        graph.

    Raises:
        ValueError: when called, if the loss is not a scalar.
    """

    def checked(params: Tree, *args: Any) -> Any:
        result = loss_fn(params, *args)
        loss = result[0] if has_aux else result
        if loss.dim() != 0:
            raise ValueError(f"the loss must be a scalar, got shape {list(loss.shape)}")
        return result

    def traced(params: Tree, *args: Any) -> tuple[Any, Tree]:
        grads, value = torch.func.grad_and_value(checked, has_aux=has_aux)(params, *args)
        return value, grads

    def eager(params: Tree, *args: Any) -> tuple[Any, Tree]:
        inputs: list[Tensor] = []

        def track(leaf: Tensor) -> Tensor:
            inputs.append(leaf.detach().requires_grad_())
            return inputs[-1]

        tracked = map_tree(track, params)
        with torch.enable_grad():
            result = checked(tracked, *args)
        loss, aux = result if has_aux else (result, None)
        if loss.requires_grad:
            grads = iter(torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True))
        else:  # the loss depends on no parameter at all
            grads = iter([torch.zeros_like(leaf, requires_grad=False) for leaf in inputs])
        value = (loss.detach(), map_tree(lambda leaf: leaf.detach(), aux)) if has_aux else loss.detach()
        return value, map_tree(lambda _: next(grads), tracked)

    return lambda params, *args: (traced if tracing() else eager)(params, *args)


def global_norm(grads: Params) -> Tensor:
    """The Euclidean norm `[]` of all gradients taken as one vector."""
    norm: Tensor = torch.linalg.vector_norm(
        torch.stack([torch.linalg.vector_norm(grad) for grad in grads.values()])
    )
    return norm


def clip_by_norm(grads: Params, max_norm: float) -> tuple[Params, Tensor]:
    """Scale all gradients together so that their global norm is at most `max_norm`.

    Returns:
        The gradients, and the norm `[]` before clipping. Equal to `torch.nn.utils.clip_grad_norm_`.

    Source: Pascanu et al. 2013, arXiv 1211.5063, algorithm 1.
    """
    norm = global_norm(grads)
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    return {name: grad * scale for name, grad in grads.items()}, norm


def clip_by_value(grads: Params, limit: float) -> Params:
    """Clip every entry of every gradient to `[-limit, limit]`."""
    return {name: grad.clamp(-limit, limit) for name, grad in grads.items()}
