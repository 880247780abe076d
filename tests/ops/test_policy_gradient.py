import numpy as np
import pytest
import torch
from torch import nan, tensor

from bellgrad.ops.distributions import DiagonalGaussian
from bellgrad.ops.policy_gradient import (
    all_actions_loss,
    discount_weight,
    geometric_mask,
    pathwise,
    score_function,
    score_function_loss,
    total_return,
)
from bellgrad.ops.returns import discounted_returns, gae, td_residual

# Two episodes of lengths 3 and 1; padding holds rubbish.
REWARD = tensor([[1.0, 8.0], [2.0, nan], [4.0, nan]])
MASK = tensor([[True, True], [True, False], [True, False]])
AGE = tensor([[0, 0], [1, 0], [2, 0]])


def test_the_whole_return_stands_at_every_step_and_nowhere_else():
    # 1 + 2/2 + 4/4 = 3
    assert total_return(REWARD, 0.5, MASK).tolist() == [[3, 8], [3, 0], [3, 0]]


def test_the_discount_weight_is_gamma_to_the_age():
    assert discount_weight(AGE, 0.5).tolist() == [[1, 1], [0.5, 1], [0.25, 1]]
    assert discount_weight(AGE, 0.0)[:, 0].tolist() == [1, 0, 0]
    assert discount_weight(AGE, 1.0)[:, 0].tolist() == [1, 1, 1]


def test_a_step_is_kept_with_the_probability_gamma_to_its_age():
    age = tensor([[0], [1], [2], [9]]).expand(4, 100_000)
    kept = (
        geometric_mask(age, 0.5, torch.rand(age.shape, generator=torch.Generator().manual_seed(0)))
        .double()
        .mean(1)
    )
    assert kept[0] == 1
    # six standard errors of a share of 100,000: at most 6 * 0.5 / 316 = 0.0095
    torch.testing.assert_close(
        kept, 0.5 ** tensor([0.0, 1.0, 2.0, 9.0], dtype=torch.float64), rtol=0, atol=0.0095
    )


def test_the_td_residual_by_hand_is_gae_of_lambda_0():
    reward, value, next_value = tensor([[1.0], [2.0]]), tensor([[3.0], [5.0]]), tensor([[5.0], [nan]])
    terminated, truncated = tensor([[False], [True]]), tensor([[False], [False]])
    # 1 + 5/2 - 3 = 0.5, and 2 - 5 = -3, for nothing follows
    assert td_residual(reward, terminated, value, next_value, 0.5).flatten().tolist() == [0.5, -3]
    assert gae(reward, terminated, truncated, value, next_value, 0.5, 0.0).flatten().tolist() == [0.5, -3]


def test_the_whole_return_is_the_discounted_sum_of_what_the_reward_to_go_weighs():
    """At the first step both are the episode's return, and there gamma^t is 1."""
    assert torch.equal(total_return(REWARD, 0.9, MASK)[0], discounted_returns(REWARD, 0.9, MASK)[0])


def test_the_score_function_loss_sums_over_steps_and_divides_by_episodes():
    logprob = tensor([[-1.0, -2.0], [-3.0, nan], [-4.0, nan]], requires_grad=True)
    phi = tensor([[1.0, 10.0], [2.0, nan], [3.0, nan]], requires_grad=True)
    loss = score_function_loss(logprob, phi, discount_weight(AGE, 0.5), MASK, 2)
    assert loss.item() == (1 * 1 + 2 * 10 + 0.5 * 2 * 3 + 0.25 * 3 * 4) / 2
    loss.backward()
    assert logprob.grad.tolist() == [[-0.5, -5], [-0.5, 0], [-0.375, 0]]  # -weight * phi / 2
    assert phi.grad is None


def test_without_weight_and_mask_every_step_counts_alike():
    logprob, phi = tensor([[-1.0], [-2.0]]), tensor([[3.0], [4.0]])
    assert score_function_loss(logprob, phi, None, None, tensor(1)).item() == 3 + 8


def test_the_all_actions_loss_is_minus_the_expected_value_and_ignores_illegal_actions():
    logits = tensor([[[0.0, 0.0, -torch.inf]], [[0.0, 0.0, 0.0]]], requires_grad=True)
    q = tensor([[[2.0, 4.0, -torch.inf]], [[nan, nan, nan]]])
    loss = all_actions_loss(logits.softmax(-1), q, tensor([[0.5], [1.0]]), tensor([[True], [False]]), 1)
    assert loss.item() == -1.5
    loss.backward()
    # d/dlogit of the mean 3 of 2 and 4 is pi (q - 3) = -1/2 and 1/2; half of that, with the other sign
    assert logits.grad.flatten().tolist() == [0.25, -0.25, 0, 0, 0, 0]


def test_the_all_actions_gradient_is_the_mean_of_the_score_function_gradient():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1, 4, generator=rng, dtype=torch.float64, requires_grad=True)
    q = torch.randn(1, 1, 4, generator=rng, dtype=torch.float64)
    (summed,) = torch.autograd.grad(all_actions_loss(logits.softmax(-1), q, None, None, 1), logits)
    mean = torch.zeros_like(summed)
    for action in range(4):
        loss = score_function_loss(logits.log_softmax(-1)[..., action], q[..., action], None, None, 1)
        mean += logits.softmax(-1)[0, 0, action].detach() * torch.autograd.grad(loss, logits)[0]
    torch.testing.assert_close(summed, mean)


# ----------------------------------------------- the two estimators on a quadratic, whose variances are known
# f(x) = |x|^2 with x = m + sigma e in D dimensions: E f = D (m^2 + sigma^2), so the gradient is 2 m in each
# mean and 2 sigma^2 in each log sigma. The variances follow from E e^2, e^4, e^6, e^8 = 1, 3, 15, 105;
# Gauss and Hermite's quadrature with 8 nodes,
# exact to the 15th power, takes the place of draws.
def gradient_moments(estimator, m, sigma, dimensions):
    """Mean and variance of the estimates in the first mean and in the first log sigma."""
    node, weight = np.polynomial.hermite_e.hermegauss(8)
    noise = torch.cartesian_prod(*[tensor(node)] * dimensions).reshape(-1, dimensions)
    weight = (
        torch.cartesian_prod(*[tensor(weight / weight.sum())] * dimensions).reshape(-1, dimensions).prod(-1)
    )
    mean = torch.full_like(noise, m, requires_grad=True)
    log_std = torch.full_like(noise, sigma).log_().requires_grad_()
    surrogate = estimator(lambda x: x.square().sum(-1), DiagonalGaussian(mean, log_std), noise)
    for gradient in torch.autograd.grad(surrogate.sum(), (mean, log_std)):
        expected = weight @ gradient[:, 0]
        yield expected.item(), (weight @ (gradient[:, 0] - expected).square()).item()


@pytest.mark.parametrize("dimensions", [1, 3])
@pytest.mark.parametrize(("m", "sigma"), [(1.0, 0.5), (0.0, 1.0), (-2.0, 0.3)])
@pytest.mark.parametrize("name", ["pathwise", "score_function", "with_baseline"])
def test_on_a_quadratic_both_estimators_have_the_mean_and_the_variance_that_theory_gives(
    name, m, sigma, dimensions
):
    s2 = sigma**2
    others = (dimensions - 1) * (m**2 + s2)  # the mean of f's other terms
    spread = (dimensions - 1) * (4 * m**2 * s2 + 2 * s2**2)  # and their variance
    second = others**2 + spread
    estimator, of_mean, of_log_std = {
        "pathwise": (pathwise, 4 * s2, 4 * m**2 * s2 + 8 * s2**2),
        "score_function": (
            score_function,
            m**4 / s2 + 14 * m**2 + 15 * s2 + (2 * others * (m**2 + 3 * s2) + second) / s2,
            2 * m**4 + 60 * m**2 * s2 + 74 * s2**2 + 2 * others * (2 * m**2 + 10 * s2) + 2 * second,
        ),
        "with_baseline": (
            lambda *x: score_function(*x, baseline=dimensions * (m**2 + s2)),
            8 * m**2 + 10 * s2 + spread / s2,
            40 * m**2 * s2 + 56 * s2**2 + 2 * spread,
        ),
    }[name]
    got = list(gradient_moments(estimator, m, sigma, dimensions))
    assert got == [pytest.approx((2 * m, of_mean), abs=1e-9), pytest.approx((2 * s2, of_log_std), abs=1e-9)]


def test_f_must_give_a_number_a_draw():
    draws = torch.zeros(3, 2)
    for estimator in (pathwise, score_function):
        with pytest.raises(ValueError, match="value"):
            estimator(lambda x: x.square(), DiagonalGaussian(draws, draws), draws)
    with pytest.raises(ValueError, match="baseline"):
        score_function(lambda x: x.sum(-1), DiagonalGaussian(draws, draws), draws, baseline=torch.zeros(3, 1))


def test_the_score_function_only_looks_at_f():
    draws = torch.randn(4, 1, generator=torch.Generator().manual_seed(0))
    mean = torch.zeros(4, 1, requires_grad=True)
    surrogate = score_function(
        lambda x: (x > 0).float().squeeze(-1), DiagonalGaussian(mean, torch.zeros(1)), draws
    )
    (gradient,) = torch.autograd.grad(surrogate.sum(), mean)
    torch.testing.assert_close(gradient, torch.where(draws > 0, draws, 0.0))  # d/dmu log N(x; mu, 1) = x - mu
