"""Temporal-difference learning: predictions, targets and how errors are measured. `discount` is gamma to the
power of the steps taken, 0 if terminated: it masks all that follows."""

from torch import Tensor

from bellgrad.ops.checks import has_shape, same_shape


def value_of_action(q: Tensor, action: Tensor) -> Tensor:
    """The entry of each row at its action.

    Args:
        q: `[B, A]`.
        action: `[B]` int64.

    Returns:
        `[B]`.

    Raises:
        ValueError: shapes do not match.
    """
    has_shape(q.shape[:-1], action=action)
    return q.gather(-1, action[..., None]).squeeze(-1)


def squared_error(error: Tensor) -> Tensor:
    """`error^2` per item (no half), any shape; its mean is `torch.nn.MSELoss`."""
    return error.square()


def huber(error: Tensor, delta: float = 1.0) -> Tensor:
    """Quadratic near 0, linear beyond: `e^2 / 2` where `|e| <= delta`, else `delta * (|e| - delta / 2)`; per
    item, any shape.

    With delta 1 its gradient is the error clipped to [-1, 1], as deep Q-learning does.

    Source: Huber 1964, "Robust estimation of a location parameter"; Mnih et al. 2015, methods.
    """
    size = error.abs()
    inner = size.clamp(max=delta)
    return inner * (size - 0.5 * inner)


def td_target(reward: Tensor, discount: Tensor, next_value: Tensor) -> Tensor:
    """`r + discount * V(s')`; all `[B]`.

    Raises:
        ValueError: shapes differ.

    Source: Sutton and Barto 2018, equation 6.2.
    """
    same_shape(reward=reward, discount=discount, next_value=next_value)
    return reward + discount * next_value


def td_error(value: Tensor, target: Tensor) -> Tensor:
    """`target - value`, positive where the prediction is too low.

    Args:
        value: `[B]` predictions, or `[E, B]` of an ensemble.
        target: `[B]`.

    Returns:
        Like `value`.

    Raises:
        ValueError: shapes do not match.
    """
    has_shape(value.shape[value.dim() - target.dim() :], target=target)
    return target - value


def q_learning_target(reward: Tensor, discount: Tensor, next_q_target: Tensor) -> Tensor:
    """`r + discount * max_a Q_target(s', a)`.

    Args:
        reward: `[B]`.
        discount: `[B]`.
        next_q_target: `[B, A]` of the target network.

    Returns:
        `[B]`.

    Raises:
        ValueError: shapes do not match.

    Source: Mnih et al. 2015, algorithm 1.
    """
    return td_target(reward, discount, next_q_target.amax(-1))


def double_q_target(reward: Tensor, discount: Tensor, next_q: Tensor, next_q_target: Tensor) -> Tensor:
    """`r + discount * Q_target(s', argmax_a Q(s', a))`: one network chooses, the other evaluates.

    Args:
        reward: `[B]`.
        discount: `[B]`.
        next_q: `[B, A]` of the online network.
        next_q_target: `[B, A]` of the target network.

    Returns:
        `[B]`.

    Raises:
        ValueError: shapes do not match.

    Source: van Hasselt et al. 2016, arXiv 1509.06461, equation 4.
    """
    same_shape(next_q=next_q, next_q_target=next_q_target)
    best = next_q.argmax(-1, keepdim=True)
    return td_target(reward, discount, next_q_target.gather(-1, best).squeeze(-1))


def clipped_double_q_target(reward: Tensor, discount: Tensor, next_q: Tensor) -> Tensor:
    """`r + discount * min_e Q_e(s', a')`, with the lowest value of an ensemble.

    Args:
        reward: `[B]`.
        discount: `[B]`.
        next_q: `[E, B]` of the target critics at the target policy's action.

    Returns:
        `[B]`.

    Raises:
        ValueError: shapes do not match.

    Source: Fujimoto et al. 2018, arXiv 1802.09477, equation 10.
    """
    return td_target(reward, discount, next_q.amin(0))


def soft_q_target(
    reward: Tensor, discount: Tensor, next_q: Tensor, next_logprob: Tensor, alpha: float | Tensor
) -> Tensor:
    """`r + discount * (min_e Q_e(s', a') - alpha * log pi(a'|s'))`; the entropy term is masked too if the
    episode terminated.

    Args:
        reward: `[B]`.
        discount: `[B]`.
        next_q: `[E, B]` of the target critics at a fresh action of the policy.
        next_logprob: `[B]` log-probability of that action.
        alpha: temperature, `[]`.

    Returns:
        `[B]`.

    Raises:
        ValueError: shapes do not match.

    Source: Haarnoja et al. 2018, arXiv 1812.05905, equations 3 and 5, with the minimum of section 6.
    """
    has_shape(next_q.shape[1:], next_logprob=next_logprob)
    if isinstance(alpha, Tensor):
        has_shape((), alpha=alpha)
    return td_target(reward, discount, next_q.amin(0) - alpha * next_logprob)
