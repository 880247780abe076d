import math

import pytest
import torch
from torch import distributions as reference
from torch import tensor

from bellgrad.ops.distributions import (
    Categorical,
    DiagonalGaussian,
    MultiCategorical,
    SquashedGaussian,
)

RNG = torch.Generator().manual_seed(0)
B, A, D = 7, 5, 3
LOGITS, OTHER_LOGITS = 2 * torch.randn(2, B, A, generator=RNG, dtype=torch.float64)
CHOICES, OTHER_CHOICES = torch.randn(2, B, 9, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
MEAN, LOG_STD, OTHER_MEAN, OTHER_LOG_STD, NOISE = torch.randn(5, B, D, generator=RNG, dtype=torch.float64)


def normal(mean, log_std):
    return reference.Independent(reference.Normal(mean, log_std.exp()), 1)


def test_categorical_equals_torchs():
    ours, theirs = Categorical(LOGITS), reference.Categorical(logits=LOGITS)
    other, their_other = Categorical(OTHER_LOGITS), reference.Categorical(logits=OTHER_LOGITS)
    for k in range(A):
        action = torch.full((B,), k)
        torch.testing.assert_close(ours.logprob(action), theirs.log_prob(action))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.kl(other), reference.kl_divergence(theirs, their_other))
    assert torch.equal(ours.mode(), theirs.mode)


def test_categorical_sampling_inverts_the_cumulative_distribution():
    # probabilities 1/2, 1/4, 1/4: the steps are at 1/2 and 3/4, and a step belongs to the action above it
    logits = tensor([0.5, 0.25, 0.25]).log().expand(6, 3)
    noise = tensor([0.0, 0.49, 0.5, 0.74, 0.75, 0.999])
    assert Categorical(logits).sample(noise).tolist() == [0, 0, 1, 1, 2, 2]


def test_categorical_samples_with_the_right_frequencies():
    logits = LOGITS[:1].float()
    noise = torch.rand(50_000, generator=torch.Generator().manual_seed(1))
    share = torch.bincount(Categorical(logits.expand(len(noise), A)).sample(noise), minlength=A) / len(noise)
    # standard errors are below 0.0023
    torch.testing.assert_close(share, logits[0].softmax(-1), atol=0.01, rtol=0)


@pytest.mark.parametrize("noise", [0.0, 1 - 2.0**-24, 1.0])
@pytest.mark.parametrize("actions", [2, 3, 7, 1000])
def test_no_noise_draws_a_forbidden_action(noise, actions):
    """The first and the last actions are forbidden, where the ends of the noise would land."""
    for legal in range(actions) if actions < 10 else [0, 500, 999]:
        logits = torch.full((1, actions), -math.inf)
        logits[0, legal] = 3.0
        assert Categorical(logits).sample(tensor([noise])).item() == legal
    logits = torch.randn(200, actions, generator=torch.Generator().manual_seed(2))
    assert (Categorical(logits).sample(torch.full((200,), noise)) < actions).all()


def test_forbidden_actions_leave_entropy_kl_and_gradients_finite():
    logits = tensor([[0.0, 0.0, -math.inf]], requires_grad=True)
    policy = Categorical(logits)
    assert policy.entropy().item() == pytest.approx(math.log(2))
    assert policy.kl(Categorical(logits.detach())).item() == 0
    (gradient,) = torch.autograd.grad(policy.entropy().sum() + policy.logprob(tensor([0])).sum(), logits)
    assert gradient.isfinite().all()


def test_a_forbidden_action_is_not_drawn_in_a_million_draws():
    logits = torch.randn(A, generator=torch.Generator().manual_seed(3))
    logits[[0, 3]] = torch.tensor([-math.inf, torch.finfo(torch.float32).min])
    noise = torch.rand(1_000_000, generator=torch.Generator().manual_seed(4))
    drawn = torch.bincount(Categorical(logits.expand(len(noise), A)).sample(noise), minlength=A)
    assert (drawn == 0).tolist() == [True, False, False, True, False]


def test_many_choices_equal_torchs_one_by_one():
    sizes = (3, 1, 5)
    ours, other = (MultiCategorical.of(x, sizes) for x in (CHOICES, OTHER_CHOICES))
    theirs, their_other = (
        [reference.Categorical(logits=part) for part in x.split(list(sizes), -1)]
        for x in (CHOICES, OTHER_CHOICES)
    )
    noise = torch.rand(B, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    action = ours.sample(noise)
    assert action.dtype == torch.int64 and (action < torch.tensor(sizes)).all()
    torch.testing.assert_close(
        ours.logprob(action), sum(d.log_prob(a) for d, a in zip(theirs, action.unbind(-1), strict=True))
    )
    torch.testing.assert_close(ours.entropy(), sum(d.entropy() for d in theirs))
    pairs = zip(theirs, their_other, strict=True)
    torch.testing.assert_close(ours.kl(other), sum(reference.kl_divergence(*pair) for pair in pairs))
    assert torch.equal(ours.mode(), torch.stack([d.mode for d in theirs], -1))


def test_each_of_many_choices_is_drawn_with_its_own_noise_and_frequencies():
    sizes, n = (3, 1, 5), 50_000
    choices = MultiCategorical.of(CHOICES[:1].float().expand(n, -1), sizes)
    action = choices.sample(torch.rand(n, 3, generator=torch.Generator().manual_seed(6)))
    for d, size in enumerate(sizes):
        share = torch.bincount(action[:, d], minlength=size) / n
        # standard errors < 0.0023
        torch.testing.assert_close(share, choices.logits[0, d].softmax(-1)[:size], atol=0.01, rtol=0)
    both = torch.bincount(action[:, 0] * 5 + action[:, 2], minlength=15).view(3, 5) / n
    # independent
    torch.testing.assert_close(both, both.sum(1, keepdim=True) * both.sum(0), atol=0.01, rtol=0)


def test_filling_up_leaves_entropy_divergence_and_gradients_of_many_choices_finite():
    logits = CHOICES.clone().requires_grad_()
    choices = MultiCategorical.of(logits, (3, 1, 5))
    terms = (
        choices.entropy()
        + choices.kl(MultiCategorical.of(OTHER_CHOICES, (3, 1, 5)))
        + choices.logprob(choices.mode())
    )
    (gradient,) = torch.autograd.grad(terms.sum(), logits)
    # a choice of one is none
    assert terms.isfinite().all() and gradient.isfinite().all() and gradient[:, 3].abs().max() == 0
    with pytest.raises(ValueError, match="expected shape"):
        MultiCategorical.of(CHOICES, (3, 2, 5))


@pytest.mark.parametrize("log_std", [LOG_STD, LOG_STD[0]], ids=["[B,D]", "[D]"])
def test_gaussian_equals_torchs(log_std):
    ours, theirs = DiagonalGaussian(MEAN, log_std), normal(MEAN, log_std)
    action = ours.sample(NOISE)
    torch.testing.assert_close(action, MEAN + NOISE * log_std.exp())
    torch.testing.assert_close(ours.logprob(action), theirs.log_prob(action))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(
        ours.kl(DiagonalGaussian(OTHER_MEAN, OTHER_LOG_STD)),
        reference.kl_divergence(theirs, normal(OTHER_MEAN, OTHER_LOG_STD)),
    )
    assert torch.equal(ours.mode(), MEAN)


# small enough for atanh to undo tanh
@pytest.mark.parametrize("log_std", [0.3 * LOG_STD, 0.3 * LOG_STD[0]], ids=["[B,D]", "[D]"])
def test_squashed_gaussian_equals_torchs_transformed_distribution(log_std):
    ours = SquashedGaussian(MEAN, log_std)
    tanh = reference.transforms.TanhTransform()
    theirs = reference.TransformedDistribution(
        normal(MEAN, log_std), [reference.IndependentTransform(tanh, 1)]
    )
    action, logprob = ours.sample(NOISE)
    raw = MEAN + NOISE * log_std.exp()
    torch.testing.assert_close(action, tanh(raw))
    torch.testing.assert_close(logprob, theirs.log_prob(tanh(raw)))
    torch.testing.assert_close(ours.logprob(raw), logprob)
    torch.testing.assert_close(ours.mode(), MEAN.tanh())
    other = SquashedGaussian(OTHER_MEAN, OTHER_LOG_STD)
    torch.testing.assert_close(
        ours.kl(other), reference.kl_divergence(normal(MEAN, log_std), normal(OTHER_MEAN, OTHER_LOG_STD))
    )


@pytest.mark.parametrize("raw", [-60.0, -20.0, -9.5, 9.5, 20.0, 60.0])
def test_trap_squashed_gaussian_log_probability_at_extreme_values(raw):
    """tanh rounds to 1 in float32 there; the naive log(1 - a^2) would be log 0."""
    mean = torch.full((1, 2), raw, requires_grad=True)
    policy = SquashedGaussian(mean, torch.zeros(2))
    action, logprob = policy.sample(torch.zeros(1, 2))
    assert action.abs().max() <= 1
    # per dimension: -log sqrt(2 pi) - log(1 - tanh^2), and far out 1 - tanh(x)^2 = 4 exp(-2|x|)
    expected = 2 * (-0.5 * math.log(2 * math.pi) - math.log(4) + 2 * abs(raw))
    assert logprob.item() == pytest.approx(expected, rel=1e-6)
    (gradient,) = torch.autograd.grad(logprob.sum(), mean)
    torch.testing.assert_close(gradient, torch.full((1, 2), math.copysign(2.0, raw)))  # d/dx of 2|x|


def test_trap_squashed_gaussian_log_probability_sums_over_dimensions():
    one, three = (
        SquashedGaussian(torch.ones(1, d), torch.zeros(d)).sample(torch.ones(1, d)).logprob for d in (1, 3)
    )
    torch.testing.assert_close(three, 3 * one)


def test_squashed_density_integrates_to_one():
    grid = torch.linspace(-0.9999, 0.9999, 20_001, dtype=torch.float64)
    raw = grid.atanh()[:, None]
    policy = SquashedGaussian(torch.full_like(raw, 0.3), torch.full_like(raw, -0.5))
    assert torch.trapezoid(policy.logprob(raw).exp(), grid).item() == pytest.approx(1, abs=1e-4)


def test_samples_and_densities_have_right_gradients():
    inputs = [x.clone().requires_grad_() for x in (MEAN, LOG_STD)]
    assert torch.autograd.gradcheck(lambda m, s: tuple(SquashedGaussian(m, s).sample(NOISE)), inputs)
    assert torch.autograd.gradcheck(lambda m, s: DiagonalGaussian(m, s).logprob(NOISE), inputs)
    assert torch.autograd.gradcheck(lambda x: Categorical(x).entropy(), [LOGITS.clone().requires_grad_()])


@pytest.mark.compiled
def test_distributions_compile_whole_and_agree_with_eager():
    def all_of_them(logits, mean, log_std, uniform, noise):
        categorical, choices, gaussian = (
            Categorical(logits),
            MultiCategorical.of(logits, (2, 3)),
            DiagonalGaussian(mean, log_std),
        )
        action = categorical.sample(uniform)
        density = gaussian.logprob(gaussian.sample(noise))
        squashed = SquashedGaussian(mean, log_std).sample(noise)
        several = choices.entropy() + choices.logprob(choices.sample(uniform[:, None].expand(-1, 2)))
        return action, categorical.logprob(action), categorical.entropy(), density, several, *squashed

    inputs = (LOGITS, MEAN, LOG_STD, torch.rand(B, generator=RNG, dtype=torch.float64), NOISE)
    torch.testing.assert_close(torch.compile(all_of_them, fullgraph=True)(*inputs), all_of_them(*inputs))
