import pytest
import torch
from torch import tensor
from torch.nn import functional as F

from bellgrad.ops.exploration import epsilon_greedy
from bellgrad.ops.losses import (
    adapted_kl_coef,
    clipped_value_loss,
    normalize_advantage,
    policy_gradient_loss,
    ppo_clip_loss,
    ppo_kl_loss,
    sac_actor_loss,
    sac_temperature_loss,
    surrogate,
)
from bellgrad.ops.targets import (
    clipped_double_q_target,
    double_q_target,
    huber,
    q_learning_target,
    soft_q_target,
    squared_error,
    td_error,
    td_target,
    value_of_action,
)

REWARD, DISCOUNT = tensor([1.0, 1.0]), tensor([0.5, 0.0])  # the second item terminated


def test_td_target_by_hand():
    assert td_target(REWARD, DISCOUNT, tensor([4.0, 4.0])).tolist() == [3, 1]


def test_q_learning_takes_the_best_target_value():
    assert q_learning_target(REWARD, DISCOUNT, tensor([[2.0, 4.0], [9.0, 8.0]])).tolist() == [3, 1]


def test_double_q_lets_the_online_network_choose_and_the_target_network_evaluate():
    next_q = tensor([[5.0, 1.0], [0.0, 1.0]])  # chooses action 0, although the target network prefers 1
    assert double_q_target(REWARD, DISCOUNT, next_q, tensor([[2.0, 4.0], [9.0, 8.0]])).tolist() == [2, 1]


def test_clipped_double_q_takes_the_lowest_critic_of_each_item():
    assert clipped_double_q_target(REWARD, tensor([0.5, 0.5]), tensor([[2.0, 8.0], [4.0, 6.0]])).tolist() == [
        2,
        4,
    ]


def test_trap_sac_target_masks_the_entropy_at_terminals_too():
    # item 0: 1 + 0.5 * (min(4, 6) - 0.2 * -5) = 3.5; item 1 terminated: its reward alone
    got = soft_q_target(REWARD, DISCOUNT, tensor([[4.0, 4.0], [6.0, 6.0]]), tensor([-5.0, -5.0]), tensor(0.2))
    assert got.tolist() == [3.5, 1]


def test_td_error_of_an_ensemble_is_per_member():
    assert td_error(tensor([[1.0, 2.0], [3.0, 4.0]]), tensor([1.0, 1.0])).tolist() == [[0, -1], [-2, -3]]


@pytest.mark.parametrize("delta", [0.5, 1.0, 3.0])
def test_huber_and_squared_error_equal_torchs(delta):
    error = torch.linspace(-5, 5, 101, dtype=torch.float64, requires_grad=True)
    zeros = torch.zeros_like(error)
    torch.testing.assert_close(huber(error, delta), F.huber_loss(error, zeros, reduction="none", delta=delta))
    torch.testing.assert_close(squared_error(error), F.mse_loss(error, zeros, reduction="none"))
    (gradient,) = torch.autograd.grad(huber(error, delta).sum(), error)
    torch.testing.assert_close(gradient, error.detach().clamp(-delta, delta))


def test_ppo_clip_loss_by_hand():
    # ratios 2, 2, 1/2, 1/2 with epsilon 0.2: min(2, 1.2) = 1.2; min(-2, -1.2) = -2; min(0.5, 0.8) = 0.5;
    # min(-0.5, -0.8) = -0.8
    ratio = tensor([2.0, 2.0, 0.5, 0.5], dtype=torch.float64)
    result = ppo_clip_loss(ratio.log(), torch.zeros_like(ratio), tensor([1.0, -1.0, 1.0, -1.0]).double(), 0.2)
    assert result.loss.item() == pytest.approx(-(1.2 - 2 + 0.5 - 0.8) / 4)
    assert result.clip_fraction.item() == 1
    # the log ratios cancel: mean of (ratio - 1) = (1 + 1 - 0.5 - 0.5) / 4
    assert result.approx_kl.item() == pytest.approx(0.25)


def test_ppo_has_no_gradient_where_the_clip_holds_and_statistics_have_none_at_all():
    logprob = tensor([2.0, 2.0, 0.5, 0.5]).log().requires_grad_()
    result = ppo_clip_loss(logprob, torch.zeros(4), tensor([1.0, -1.0, 1.0, -1.0]), tensor(0.2))
    (gradient,) = torch.autograd.grad(result.loss, logprob)
    assert (gradient != 0).tolist() == [False, True, True, False]
    assert not result.approx_kl.requires_grad
    assert not result.clip_fraction.requires_grad


def test_ppo_at_the_old_policy_is_the_policy_gradient():
    logprob = torch.zeros(2, requires_grad=True)
    result = ppo_clip_loss(logprob, torch.zeros(2), tensor([3.0, -5.0]), 0.2)
    (gradient,) = torch.autograd.grad(result.loss, logprob)
    assert gradient.tolist() == [-1.5, 2.5]  # minus the advantage over two items
    assert result.clip_fraction.item() == 0


def test_the_surrogate_and_its_gradient_by_hand():
    logprob, old = tensor([2.0, 0.5]).log().requires_grad_(), torch.zeros(2)
    result = surrogate(logprob, old, tensor([3.0, -8.0]))
    assert result.item() == pytest.approx((2 * 3 - 0.5 * 8) / 2)
    (gradient,) = torch.autograd.grad(result, logprob)
    torch.testing.assert_close(gradient, tensor([2 * 3 / 2, -0.5 * 8 / 2]))


def test_the_policy_gradient_loss_weighs_log_probabilities_by_advantages_alone():
    logprob, advantage = tensor([-1.0, -2.0], requires_grad=True), tensor([3.0, -5.0], requires_grad=True)
    loss = policy_gradient_loss(logprob, advantage)
    assert loss.item() == pytest.approx((3 - 10) / 2)
    gradients = torch.autograd.grad(loss, (logprob, advantage), allow_unused=True)
    assert gradients[0].tolist() == [-1.5, 2.5] and gradients[1] is None


def test_the_sampled_penalty_and_its_gradient_are_the_kl_divergences_on_average():
    # An old policy that chooses uniformly makes the mean over the actions the expectation.
    logits = tensor([0.3, -1.2, 0.7, 0.1], dtype=torch.float64, requires_grad=True)
    new, old = logits.log_softmax(-1), torch.full((4,), 0.25, dtype=torch.float64).log()
    exact = (old.exp() * (old - new)).sum()
    result = ppo_kl_loss(new, old, torch.zeros_like(old), 3.0)
    assert result.loss.item() == pytest.approx(3 * exact.item()) and result.approx_kl.item() == pytest.approx(
        exact.item()
    )
    assert not result.approx_kl.requires_grad
    (expected,) = torch.autograd.grad(3 * exact, logits, retain_graph=True)
    (actual,) = torch.autograd.grad(result.loss, logits)
    torch.testing.assert_close(actual, expected)


def test_the_penalized_loss_is_the_penalty_less_the_surrogate():
    logprob, old, advantage = tensor([-1.0, -0.5]), tensor([-1.3, -0.2]), tensor([2.0, -1.0])
    loss, kl = ppo_kl_loss(logprob, old, advantage, tensor(0.5))
    assert loss.item() == pytest.approx(0.5 * kl.item() - surrogate(logprob, old, advantage).item())


@pytest.mark.parametrize(
    ("kl", "factor"),
    [(0.0, 0.5), (0.0066, 0.5), (0.0067, 1.0), (0.01, 1.0), (0.015, 1.0), (0.0151, 2.0), (1.0, 2.0)],
)
def test_the_coefficient_follows_the_papers_rule(kl, factor):
    assert adapted_kl_coef(tensor(3.0), tensor(kl), 0.01).item() == 3 * factor  # thresholds 0.00667 and 0.015


def test_the_coefficient_never_reaches_zero_or_infinity():
    low, high = tensor(1.0), tensor(1.0)
    for _ in range(2000):
        low, high = adapted_kl_coef(low, tensor(0.0), 0.01), adapted_kl_coef(high, tensor(1.0), 0.01)
    assert low > 0 and high.isfinite()
    assert adapted_kl_coef(low, tensor(1.0), 0.01) == 2 * low


def test_clipped_value_loss_by_hand():
    # value 3, old 1, epsilon 0.5: clipped 1.5. Target 4: worse is 1.5, (2.5)^2; target 2: worse is 3, 1
    got = clipped_value_loss(tensor([3.0, 3.0]), tensor([1.0, 1.0]), tensor([4.0, 2.0]), 0.5)
    assert got.item() == pytest.approx(0.5 * (6.25 + 1) / 2)


def test_trap_advantage_normalization_of_a_minibatch_of_one():
    for shape in ((1,), (1, 1)):
        advantage = torch.full(shape, 3.0)
        assert torch.equal(normalize_advantage(advantage), advantage)


def test_advantage_normalization_by_hand():
    # mean 2, unbiased standard deviation sqrt(2)
    torch.testing.assert_close(normalize_advantage(tensor([1.0, 3.0])), tensor([-(0.5**0.5), 0.5**0.5]))
    assert normalize_advantage(torch.full((4,), 7.0)).tolist() == [0, 0, 0, 0]  # no spread, no NaN


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 2)])
def test_advantage_normalization_takes_its_moments_from_the_items_inside_the_mask(shape):
    rng = torch.Generator().manual_seed(0)
    advantage, mask = torch.randn(shape, generator=rng), torch.rand((3, 4), generator=rng) < 0.6
    advantage[~mask] = 1e6
    torch.testing.assert_close(
        normalize_advantage(advantage, mask)[mask], normalize_advantage(advantage[mask])
    )
    one = torch.tensor([True, False])
    assert normalize_advantage(tensor([3.0, 9.0]), one)[0] == 3


def test_sac_losses_by_hand():
    logprob, q = tensor([1.0, 3.0]), tensor([[1.0, 9.0], [2.0, 5.0]])
    assert sac_actor_loss(logprob, q, 0.5).item() == pytest.approx(((0.5 - 1) + (1.5 - 5)) / 2)
    log_alpha = torch.zeros((), requires_grad=True)
    # entropy is -2, target -1: too low, so a descent step must raise alpha
    (gradient,) = torch.autograd.grad(
        sac_temperature_loss(log_alpha, logprob.requires_grad_(), -1.0), log_alpha
    )
    assert gradient.item() == -1
    assert not sac_temperature_loss(
        log_alpha.detach(), logprob, -1.0
    ).requires_grad  # the policy gets no gradient from it


def test_take_picks_one_entry_per_row():
    assert value_of_action(tensor([[1.0, 2.0], [3.0, 4.0]]), tensor([1, 0])).tolist() == [2, 3]


def test_epsilon_greedy_draws_each_action_alike_and_the_greedy_one_otherwise():
    noise = torch.rand(40_000, 2, generator=torch.Generator().manual_seed(0))
    q = tensor([0.0, 1.0, 0.0, 0.0]).expand(len(noise), 4)
    share = torch.bincount(epsilon_greedy(q, tensor(0.4), noise), minlength=4) / len(noise)
    # 0.1 each by chance, and 0.6 more for the greedy one; standard errors are below 0.0025
    torch.testing.assert_close(share, tensor([0.1, 0.7, 0.1, 0.1]), atol=0.01, rtol=0)


def test_epsilon_greedy_at_its_ends_and_per_environment():
    q, noise = tensor([[0.0, 1.0]]).expand(2, 2), tensor([[0.0, 0.0], [0.999, 0.0]])
    assert epsilon_greedy(q, 0.0, noise).tolist() == [1, 1]  # noise 0 does not explore
    assert epsilon_greedy(q, 1.0, noise).tolist() == [0, 0]
    assert epsilon_greedy(q, tensor([1.0, 0.0]), noise).tolist() == [0, 1]


@pytest.mark.parametrize("actions", [1, 3, 6, 1025, 2**20 + 1])
def test_the_uniform_index_never_reaches_the_number_of_actions(actions):
    largest = 1 - 2.0**-24  # torch.rand's largest float32; times 1025 it rounds to 1025
    for number in (largest, 1.0):
        assert epsilon_greedy(torch.zeros(1, actions), 1.0, tensor([[0.0, number]])).item() == actions - 1
