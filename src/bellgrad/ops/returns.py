"""Returns and advantages of `[T, B]` trajectories. Termination zeroes the discount; termination or truncation
cuts the trace."""

import torch
from torch import Tensor

from bellgrad.ops.checks import has_shape, same_shape


def linear_recurrence(x: Tensor, decay: Tensor, last: Tensor | None = None) -> Tensor:
    """Solve `y_t = x_t + decay_t * y_{t+1}` backwards in time, for all t at once.

    After the pass with shift s every `x_t` holds the sum over the next 2s steps, so log2(T) passes over whole
    tensors do the work of T small ones.

    Args:
        x: `[T, B]` floating point.
        decay: `[T, B]`, same dtype.
        last: `[B]` what follows the last step, `y_T`; zeros if None.

    Returns:
        `[T, B]` y.

    Raises:
        ValueError: shapes do not match.

    Source: Hillis and Steele 1986, "Data parallel algorithms", on the pairs of Blelloch 1990, section 1.4.1.
    """
    same_shape(x=x, decay=decay)
    if last is not None:
        has_shape(x.shape[1:], last=last)
        x = torch.cat([x[:-1], (x[-1] + decay[-1] * last)[None]])
    shift, steps = 1, x.shape[0]
    while shift < steps:
        x = torch.cat([x[:-shift] + decay[: steps - shift] * x[shift:], x[-shift:]])
        rows = steps - 2 * shift  # that the next pass reads
        if rows > 0:
            decay = decay[:rows] * decay[shift : shift + rows]
        shift *= 2
    return x


def discounted_returns(reward: Tensor, gamma: float, mask: Tensor | None = None) -> Tensor:
    """The return of whole episodes from every step on: `G_t = r_t + gamma * G_{t+1}`.

    Args:
        reward: `[T, B]`, one episode per column, padded at its end.
        gamma: discount per step, in [0, 1].
        mask: `[T, B]` bool, True if the step was really taken; None if nothing is padded.

    Returns:
        `[T, B]`, 0 on padding.

    Raises:
        ValueError: shapes do not match.

    Source: Sutton and Barto 2018, equation 3.9.
    """
    if mask is not None:
        same_shape(reward=reward, mask=mask)
        reward = torch.where(mask, reward, 0.0)
    return linear_recurrence(reward, torch.full_like(reward, gamma))


def n_step_returns(
    reward: Tensor, terminated: Tensor, truncated: Tensor, next_value: Tensor, gamma: float, n: int
) -> Tensor:
    """Returns over at most n rewards that bootstrap after the last step really taken.

    `G_t = r_t + ... + gamma^(m-1) r_{t+m-1} + gamma^m V(s_{t+m})`, with m the smallest of n, the steps to
    the episode's end and the steps to the rollout's end. The bootstrap is 0 if step t+m-1 terminated.

    Args:
        reward: `[T, B]`.
        terminated: `[T, B]` bool.
        truncated: `[T, B]` bool; if both are set, termination wins.
        next_value: `[T, B]` value of the true successor of each step.
        gamma: discount per step, in [0, 1].
        n: steps, 1 or more.

    Returns:
        `[T, B]`.

    Raises:
        ValueError: shapes do not match, or n is less than 1.

    Source: Sutton and Barto 2018, equation 7.1.
    """
    same_shape(reward=reward, terminated=terminated, truncated=truncated, next_value=next_value)
    if n < 1:
        raise ValueError(f"n = {n}, expected 1 or more")
    bootstrap = torch.where(terminated, 0.0, next_value)
    ended = (terminated | truncated)[:-1]
    return_ = reward + gamma * bootstrap
    for _ in range(min(n, reward.shape[0]) - 1):
        longer = reward[:-1] + gamma * torch.where(ended, bootstrap[:-1], return_[1:])
        return_ = torch.cat([longer, return_[-1:]])
    return return_


def lambda_returns(
    reward: Tensor, terminated: Tensor, truncated: Tensor, next_value: Tensor, gamma: float, lambda_: float
) -> Tensor:
    """The geometric mixture of n-step returns: `G_t = r_t + gamma * ((1 - lambda) * V(s_{t+1}) + lambda *
    G_{t+1})`.

    If an episode or the rollout ended after step t, `G_t = r_t + gamma * V(s_{t+1})`, without the
    bootstrap if terminated.

    Args:
        reward: `[T, B]`.
        terminated: `[T, B]` bool.
        truncated: `[T, B]` bool; if both are set, termination wins.
        next_value: `[T, B]` value of the true successor of each step.
        gamma: discount per step, in [0, 1].
        lambda_: 0 gives one-step targets, 1 gives Monte Carlo returns.

    Returns:
        `[T, B]`.

    Raises:
        ValueError: shapes do not match.

    Source: Sutton and Barto 2018, equation 12.18 (recursive form).
    """
    same_shape(reward=reward, terminated=terminated, truncated=truncated, next_value=next_value)
    trace = (~(terminated | truncated)).to(reward.dtype) * lambda_
    bootstrap = torch.where(terminated, 0.0, next_value)
    return linear_recurrence(reward + gamma * (1 - trace) * bootstrap, gamma * trace, bootstrap[-1])


def td_residual(
    reward: Tensor, terminated: Tensor, value: Tensor, next_value: Tensor, gamma: float
) -> Tensor:
    """`delta_t = r_t + gamma V(s_{t+1}) - V(s_t)`: with the true V, an estimate of the advantage without
    bias.

    Args:
        reward: any shape.
        terminated: the same shape, bool: the value of what follows is 0.
        value: of each step's state.
        next_value: of the true successor of each step, never of the reset observation.
        gamma: discount per step, in [0, 1].

    Returns:
        The same shape.

    Raises:
        ValueError: shapes differ.

    Source: Schulman et al. 2016, arXiv 1506.02438, equation 10.
    """
    same_shape(reward=reward, terminated=terminated, value=value, next_value=next_value)
    return reward + gamma * torch.where(terminated, 0.0, next_value) - value


def gae(
    reward: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    value: Tensor,
    next_value: Tensor,
    gamma: float,
    lambda_: float,
) -> Tensor:
    """Generalized advantage estimation: `A_t = delta_t + gamma * lambda * A_{t+1}`, cut when an episode
    ended.

    Args:
        reward: `[T, B]`.
        terminated: `[T, B]` bool.
        truncated: `[T, B]` bool; if both are set, termination wins.
        value: `[T, B]` value of each step's state.
        next_value: `[T, B]` value of the true successor of each step, never of the reset observation.
        gamma: discount per step, in [0, 1].
        lambda_: 0 gives one-step temporal differences, 1 gives Monte Carlo returns minus the value.

    Returns:
        `[T, B]` advantage; `advantage + value` is the lambda return.

    Raises:
        ValueError: shapes do not match.

    Source: Schulman et al. 2016, arXiv 1506.02438, equation 16.
    """
    same_shape(reward=reward, truncated=truncated)
    delta = td_residual(reward, terminated, value, next_value, gamma)
    return linear_recurrence(delta, (~(terminated | truncated)).to(reward.dtype) * (gamma * lambda_))
