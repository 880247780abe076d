"""TRAPS "target as [B,1] against [B]": torch would broadcast to [B,B] without a word, so every op refuses."""

import pytest
import torch

from bellgrad.ops import distributions, exploration, losses, policy_gradient, returns, targets
from bellgrad.ops.checks import has_shape, same_params, same_shape
from bellgrad.ops.polyak import hard_copy_every, polyak
from bellgrad.ops.statistics import RunningMoments

T, B, A, E, D = 5, 3, 4, 2, 6
item, column = torch.rand(B), torch.rand(B, 1)
path, path_column = torch.rand(T, B), torch.rand(T, B, 1)
paths_q = torch.rand(T, B, A)
flag, flag_column = path > 0.5, path_column > 0.5
q, ensemble, matrix = torch.rand(B, A), torch.rand(E, B), torch.rand(B, D)
action = torch.zeros(B, dtype=torch.int64)
gaussian, squashed = (
    distributions.DiagonalGaussian(matrix, matrix),
    distributions.SquashedGaussian(matrix, matrix),
)
zero = torch.zeros(())

# (op, right arguments, which of them are [B] or [T, B], that is, which a trailing axis of 1 would corrupt)
OPS = [
    (returns.linear_recurrence, (path, path, item), (0, 1, 2)),
    (lambda r, m: returns.discounted_returns(r, 0.9, m), (path, flag), (0, 1)),
    (lambda *x: returns.n_step_returns(*x, gamma=0.9, n=3), (path, flag, flag, path), (0, 1, 2, 3)),
    (lambda *x: returns.lambda_returns(*x, gamma=0.9, lambda_=0.9), (path, flag, flag, path), (0, 1, 2, 3)),
    (lambda *x: returns.td_residual(*x, gamma=0.9), (path, flag, path, path), (0, 1, 2, 3)),
    (lambda *x: returns.gae(*x, gamma=0.9, lambda_=0.9), (path, flag, flag, path, path), (0, 1, 2, 3, 4)),
    (targets.td_target, (item, item, item), (0, 1, 2)),
    (targets.td_error, (item, item), (0, 1)),
    (targets.td_error, (ensemble, item), (0, 1)),
    (targets.q_learning_target, (item, item, q), (0, 1, 2)),
    (targets.double_q_target, (item, item, q, q), (0, 1, 2, 3)),
    (targets.clipped_double_q_target, (item, item, ensemble), (0, 1, 2)),
    (lambda *x: targets.soft_q_target(*x, alpha=0.1), (item, item, ensemble, item), (0, 1, 2, 3)),
    (lambda *x: losses.ppo_clip_loss(*x, epsilon=0.2), (item, item, item), (0, 1, 2)),
    (lambda *x: losses.clipped_value_loss(*x, epsilon=0.2), (item, item, item), (0, 1, 2)),
    (lambda *x: losses.sac_actor_loss(*x, alpha=0.1), (item, ensemble), (0, 1)),
    (lambda *x: losses.sac_temperature_loss(*x, target_entropy=-1.0), (zero, item), (0, 1)),
    (lambda r, m: policy_gradient.total_return(r, 0.9, m), (path, flag), (0, 1)),
    (lambda t, u: policy_gradient.geometric_mask(t, 0.9, u), (path.long(), path), (0, 1)),
    (lambda *x: policy_gradient.score_function_loss(*x, episodes=B), (path, path, path, flag), (0, 1, 2, 3)),
    (lambda *x: policy_gradient.all_actions_loss(*x, episodes=B), (paths_q, paths_q, path, flag), (2, 3)),
    (targets.value_of_action, (q, action), (1,)),
    (exploration.epsilon_greedy, (q, item, torch.rand(B, 2)), (1, 2)),
    (distributions.Categorical(q).sample, (item,), (0,)),
    (distributions.Categorical(q).logprob, (action,), (0,)),
    (gaussian.sample, (matrix,), (0,)),
    (gaussian.logprob, (matrix,), (0,)),
    (squashed.sample, (matrix,), (0,)),
    (squashed.logprob, (matrix,), (0,)),
    (RunningMoments.init((D,)).update, (matrix,), (0,)),
    (RunningMoments.init((D,)).normalize, (matrix,), (0,)),
    (RunningMoments.init((D,)).rescale, (matrix,), (0,)),
]


@pytest.mark.parametrize("op, right, scalars", OPS)
def test_a_trailing_axis_of_one_is_refused_in_every_argument(op, right, scalars):
    op(*right)
    for position in scalars:
        wrong = list(right)
        wrong[position] = right[position].unsqueeze(-1)
        with pytest.raises(ValueError, match="shape"):
            op(*wrong)


@pytest.mark.parametrize("kind", [distributions.DiagonalGaussian, distributions.SquashedGaussian])
def test_gaussians_refuse_a_log_std_and_a_partner_of_another_shape(kind):
    with pytest.raises(ValueError, match="log_std"):
        kind(matrix, torch.rand(B, 1)).sample(matrix)
    with pytest.raises(ValueError, match="log_std"):
        kind(matrix, torch.rand(1)).logprob(matrix)
    with pytest.raises(ValueError, match="shapes differ"):
        kind(matrix, matrix).kl(kind(matrix[:, :1], matrix[:, :1]))


def test_an_action_dimension_of_one_does_not_admit_a_flat_action():
    with pytest.raises(ValueError, match=r"mean \[3, 1\], action \[3\]"):
        distributions.DiagonalGaussian(column, column).logprob(item)


def test_categorical_kl_refuses_another_shape():
    with pytest.raises(ValueError, match="shapes differ"):
        distributions.Categorical(q).kl(distributions.Categorical(q[:1]))


def test_a_temperature_must_be_a_scalar():
    alpha = torch.ones(1)
    for call in (
        lambda: targets.soft_q_target(item, item, ensemble, item, alpha),
        lambda: losses.sac_actor_loss(item, ensemble, alpha),
        lambda: losses.sac_temperature_loss(alpha, item, -1.0),
    ):
        with pytest.raises(ValueError, match="alpha"):
            call()


@pytest.mark.parametrize(
    "follow", [lambda p, t: polyak(p, t, 0.5), lambda p, t: hard_copy_every(p, t, torch.tensor(0), 1)]
)
def test_target_networks_refuse_other_shapes_and_names(follow):
    with pytest.raises(ValueError, match="shapes of 'w' differ"):
        follow({"w": item}, {"w": column})
    with pytest.raises(ValueError, match="names"):
        follow({"w": item, "v": item}, {"w": item})


def test_messages_name_every_tensor_and_its_shape():
    with pytest.raises(ValueError, match=r"shapes differ: reward \[3\], next_value \[3, 1\]"):
        same_shape(reward=item, next_value=column)
    with pytest.raises(ValueError, match=r"expected shape \[3\], got target \[3, 1\]"):
        has_shape((3,), target=column)
    with pytest.raises(ValueError, match=r"params and grads differ in their names: \['a'\]"):
        same_params(params={"a": item}, grads={})
