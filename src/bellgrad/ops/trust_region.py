"""Steps within a trust region: natural gradients without a matrix, and a line search that may take no step.

Parameters are one vector `[n]` here; `ravel` makes it and gives the way back.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, jvp, vjp, vmap

from bellgrad.core.tree import Tree
from bellgrad.ops.checks import same_shape
from bellgrad.ops.grads import Params

Product = Callable[[Tensor], Tensor]


def ravel(params: Params) -> tuple[Tensor, Callable[[Tensor], Params]]:
    """Parameters as one vector `[n]`, and the function that turns such a vector into parameters."""
    sizes = [param.numel() for param in params.values()]

    def unravel(vector: Tensor) -> Params:
        parts = torch.split(vector, sizes)
        return {
            name: part.view(param.shape) for (name, param), part in zip(params.items(), parts, strict=True)
        }

    return torch.cat([param.flatten() for param in params.values()]), unravel


def fisher_product(
    distribution: Callable[[Tensor], Tree], kl: Callable[[Tree], Tensor], params: Tensor, damping: float
) -> Product:
    """The function `v -> (F + damping * I) v`, with `F = J^T M J` the Fisher information of the old policy.

    J is how the distributions' parameters follow the policy's, M the Hessian of the KL divergence in the
    former. At the old policy, where the KL divergence is least, F is its Hessian in the policy's parameters
    too, but takes half the work.

    Args:
        distribution: `[n]` to distributions, any tree of tensors.
        kl: such distributions to `[]`, the mean KL divergence to them from those of `params`.
        params: `[n]` of the old policy.
        damping: 0 or more; it bounds the step if the KL divergence hardly depends on the parameters.

    Returns:
        A function of `[n]` to `[n]`.

    Source: Schulman et al. 2015, arXiv 1502.05477, appendix C.1.
    """
    old, pull_back = vjp(distribution, params)  # type: ignore[misc]  # torch types a third that only has_aux gives

    def product(v: Tensor) -> Tensor:
        same_shape(params=params, v=v)
        _, change = jvp(distribution, (params,), (v,))  # type: ignore[misc]  # as above
        curvature: Tensor = pull_back(jvp(grad(kl), (old,), (change,))[1])[0]
        return curvature + damping * v

    return product


def conjugate_gradient(product: Product, b: Tensor, steps: int, tolerance: float = 1e-10) -> Tensor:
    """Solve `A x = b` approximately, for a symmetric positive definite A of which only products are needed.

    Args:
        product: `v [n]` to `A v [n]`.
        b: `[n]`.
        steps: how many products, always; once the residual is small enough, further steps leave x as it is.
        tolerance: of the squared residual, in units of that of x = 0.

    Returns:
        `[n]` x, 0 if b is 0.

    Source: Hestenes and Stiefel 1952, section 3; Nocedal and Wright 2006, algorithm 5.2.
    """
    x, residual, direction = torch.zeros_like(b), b, b
    squared = enough = b.dot(b)
    enough = tolerance * enough
    for _ in range(steps):
        image = product(direction)
        length = torch.where(squared > enough, squared / direction.dot(image), 0.0)
        x, residual = x + length * direction, residual - length * image
        before, squared = squared, residual.dot(residual)
        direction = residual + torch.where(before > enough, squared / before, 0.0) * direction
    return x


def natural_step(product: Product, gradient: Tensor, kl: float, steps: int) -> Tensor:
    """The step along the natural gradient `F^-1 g` whose KL divergence is `kl` to second order: `s^T F s / 2
    = kl`.

    Args:
        product: `v [n]` to `F v [n]`.
        gradient: `[n]` g, of what should increase.
        kl: nats, above 0.
        steps: of the conjugate gradient method.

    Returns:
        `[n]`, 0 if the gradient is 0.

    Source: Schulman et al. 2015, arXiv 1502.05477, appendix C.
    """
    direction = conjugate_gradient(product, gradient, steps)
    squared = direction.dot(product(direction))
    return torch.where(squared > 0, (2 * kl / squared).sqrt(), 0.0) * direction


def line_search(
    acceptable: Callable[[Tensor], Tensor], params: Tensor, step: Tensor, fractions: Tensor
) -> tuple[Tensor, Tensor]:
    """The first of `params + fraction * step` that is acceptable; if none is, exactly `params`.

    All candidates are tried at once.

    Args:
        acceptable: `[n]` to `[]` bool.
        params: `[n]`.
        step: `[n]`.
        fractions: `[K]` in the order in which they are preferred.

    Returns:
        `[n]` the parameters chosen, and `[]` their fraction, 0 if none was acceptable.

    Raises:
        ValueError: shapes of `params` and `step` differ.

    Source: Schulman et al. 2015, arXiv 1502.05477, appendix C; the authors' code restores the parameters.
    """
    same_shape(params=params, step=step)
    candidates = params + fractions[:, None] * step
    passed = vmap(acceptable)(candidates)
    first = passed.to(torch.uint8).argmax()[None]  # of equals the first
    found = passed.any()
    chosen = torch.where(found, candidates.index_select(0, first)[0], params)
    return chosen, torch.where(found, fractions.index_select(0, first)[0], 0.0)
