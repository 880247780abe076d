import pytest
import torch
from torch import tensor
from torch.func import jacrev

from bellgrad.ops.distributions import Categorical, DiagonalGaussian
from bellgrad.ops.trust_region import conjugate_gradient, fisher_product, line_search, natural_step, ravel

OBS = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def draw(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def positive_definite(n, seed=2):
    root = draw(n, n, seed=seed)
    return root @ root.T + 0.1 * torch.eye(n, dtype=torch.float64)


def categorical(vector):
    """Three actions, one linear layer: `vector [9]`."""
    weight, bias = vector[:6].view(2, 3), vector[6:]
    return Categorical((OBS @ weight + bias).tanh())


def gaussian(vector):
    """Two dimensions, one linear layer and a free standard deviation: `vector [8]`."""
    weight, bias, log_std = vector[:4].view(2, 2), vector[4:6], vector[6:]
    return DiagonalGaussian((OBS @ weight + bias).tanh(), log_std)


def explicit_fisher(policy, params):
    """The mean over observations of E[grad log pi, outer product with itself], from the definition."""
    if policy is categorical:
        scores = jacrev(lambda p: policy(p).logprobs())(params)  # [6, 3, n]
        chances = policy(params).logprobs().exp()
        return torch.einsum("ba,bai,baj->ij", chances, scores, scores) / len(OBS)
    # Of a Gaussian: 1 / std^2 in its mean and 2 in its log std.
    mean = jacrev(lambda p: policy(p).mean)(params)  # [6, 2, n]
    fisher = torch.einsum("d,bdi,bdj->ij", (-2 * params[6:]).exp(), mean, mean) / len(OBS)
    fisher[6:, 6:] += 2 * torch.eye(2, dtype=torch.float64)
    return fisher


@pytest.mark.parametrize(("policy", "size"), [(categorical, 9), (gaussian, 8)])
def test_the_fisher_product_is_that_of_the_explicit_matrix(policy, size):
    params, v = draw(size), draw(size, seed=3)
    old = policy(params)
    product = fisher_product(policy, lambda new: old.kl(new).mean(), params, damping=0.3)
    torch.testing.assert_close(product(v), explicit_fisher(policy, params) @ v + 0.3 * v)


@pytest.mark.parametrize("n", [1, 3, 8])
def test_conjugate_gradients_solve_as_many_equations_as_they_take_steps(n):
    a, b = positive_definite(n), draw(n)
    torch.testing.assert_close(
        conjugate_gradient(lambda v: a @ v, b, n, tolerance=1e-20), torch.linalg.solve(a, b)
    )


def test_conjugate_gradients_stay_where_they_are_once_they_have_arrived():
    a, b = positive_definite(3).float(), draw(3).float()
    x = conjugate_gradient(lambda v: a @ v, b, 200)
    torch.testing.assert_close(x, torch.linalg.solve(a, b), rtol=1e-3, atol=1e-4)
    assert conjugate_gradient(lambda v: a @ v, torch.zeros(3), 5).tolist() == [0, 0, 0]


def test_the_natural_step_has_the_direction_of_the_natural_gradient_and_the_length_of_the_bound():
    a, g = positive_definite(5), draw(5)
    step = natural_step(lambda v: a @ v, g, kl=0.02, steps=5)
    assert (0.5 * step @ a @ step).item() == pytest.approx(0.02)
    torch.testing.assert_close(
        step / step.norm(), torch.nn.functional.normalize(torch.linalg.solve(a, g), dim=0)
    )
    assert natural_step(lambda v: a @ v, torch.zeros_like(g), kl=0.02, steps=5).tolist() == [0] * 5


FRACTIONS = tensor([1.0, 0.5, 0.25])


def test_the_line_search_takes_the_first_good_candidate():
    params, step = tensor([1.0, -2.0]), tensor([4.0, 8.0])
    for bound, fraction in ((100.0, 1.0), (2.5, 0.5), (1.0, 0.25)):
        chosen, taken = line_search(lambda p, bound=bound: p[1] <= bound, params, step, FRACTIONS)
        assert taken.item() == fraction and torch.equal(chosen, params + fraction * step)
    chosen, taken = line_search(lambda p: p[1] < 1, params, step, FRACTIONS)  # 6, 2, 0: only the last
    assert taken.item() == 0.25


@pytest.mark.parametrize("step", [1.0, 0.0, float("nan"), float("inf")])
def test_trap_trpo_restores_every_bit_where_no_candidate_is_good(step):
    params = tensor([0.1, -0.0, 1e-42, float("inf")])
    chosen, taken = line_search(lambda p: (p == 123.0).all(), params, torch.full((4,), step), FRACTIONS)
    assert chosen.view(torch.int32).tolist() == params.view(torch.int32).tolist()
    assert taken.item() == 0


def test_ravel_and_back():
    params = {"weight": draw(2, 3), "bias": draw(3), "scale": draw()}
    vector, unravel = ravel(params)
    assert vector.shape == (10,)
    back = unravel(2 * vector)
    assert list(back) == list(params)
    assert all(torch.equal(back[name], 2 * params[name]) for name in params)
