import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bellgrad.ops.returns import (
    discounted_returns,
    gae,
    lambda_returns,
    linear_recurrence,
    n_step_returns,
)

YES, NO = torch.tensor([[True]]), torch.tensor([[False]])


def row(*numbers):
    """A trajectory of one environment, [T, 1]."""
    return torch.tensor(numbers, dtype=torch.float64)[:, None]


def flags(*numbers):
    return torch.tensor(numbers, dtype=torch.bool)[:, None]


@st.composite
def rollouts(draw):
    """Sizes and a seed are drawn, the rest follows: reward, terminated, truncated, value, next_value, gamma,
    lambda."""
    steps, batch = draw(st.integers(1, 17)), draw(st.integers(1, 3))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    probability = draw(st.sampled_from([0.0, 0.2, 0.7]))
    reward, value, next_value = torch.randn(3, steps, batch, generator=rng, dtype=torch.float64)
    terminated, truncated = torch.rand(2, steps, batch, generator=rng) < probability
    gamma, lambda_ = (
        draw(st.sampled_from([0.0, 0.5, 0.99, 1.0])),
        draw(st.sampled_from([0.0, 0.3, 0.95, 1.0])),
    )
    return reward, terminated, truncated, value, next_value, gamma, lambda_


def n_step_twin(reward, terminated, truncated, next_value, gamma, n):
    """Walk forward from every step, one number at a time."""
    out = torch.zeros_like(reward)
    steps, batch = reward.shape
    for b in range(batch):
        for t in range(steps):
            total, discount = 0.0, 1.0
            for k in range(t, min(t + n, steps)):
                total += discount * reward[k, b].item()
                discount *= gamma
                if terminated[k, b] or truncated[k, b]:
                    break
            out[t, b] = total + (0.0 if terminated[k, b] else discount * next_value[k, b].item())
    return out


def lambda_twin(reward, terminated, truncated, next_value, gamma, lambda_):
    """The forward view: a mixture of n-step returns, the longest one taking the weight that is left."""
    out = torch.zeros_like(reward)
    steps, batch = reward.shape
    longer = [n_step_twin(reward, terminated, truncated, next_value, gamma, n) for n in range(1, steps + 1)]
    ended = terminated | truncated
    for b in range(batch):
        for t in range(steps):
            length = next((k - t + 1 for k in range(t, steps) if ended[k, b]), steps - t)
            weights = [(1 - lambda_) * lambda_ ** (n - 1) for n in range(1, length)] + [
                lambda_ ** (length - 1)
            ]
            out[t, b] = sum(weight * longer[n][t, b].item() for n, weight in enumerate(weights))
    return out


@settings(max_examples=40, deadline=None)
@given(rollouts())
def test_the_recurrence_equals_a_backward_loop(rollout):
    x, _, _, decay, last, *_ = rollout
    expected, following = torch.zeros_like(x), last[0]
    for t in reversed(range(len(x))):
        expected[t] = following = x[t] + decay[t] * following
    torch.testing.assert_close(linear_recurrence(x, decay, last[0]), expected, rtol=1e-10, atol=1e-10)


@settings(max_examples=40, deadline=None)
@given(rollouts(), st.integers(1, 20))
def test_n_step_returns_equal_a_forward_walk(rollout, n):
    reward, terminated, truncated, _, next_value, gamma, _ = rollout
    got = n_step_returns(reward, terminated, truncated, next_value, gamma, n)
    torch.testing.assert_close(
        got, n_step_twin(reward, terminated, truncated, next_value, gamma, n), rtol=1e-10, atol=1e-10
    )


@settings(max_examples=40, deadline=None)
@given(rollouts())
def test_lambda_returns_equal_the_forward_view(rollout):
    reward, terminated, truncated, _, next_value, gamma, lambda_ = rollout
    got = lambda_returns(reward, terminated, truncated, next_value, gamma, lambda_)
    twin = lambda_twin(reward, terminated, truncated, next_value, gamma, lambda_)
    torch.testing.assert_close(got, twin, rtol=1e-10, atol=1e-10)


@settings(max_examples=40, deadline=None)
@given(rollouts())
def test_gae_equals_a_sum_of_discounted_errors_within_the_episode(rollout):
    reward, terminated, truncated, value, next_value, gamma, lambda_ = rollout
    expected = torch.zeros_like(reward)
    for t in range(len(reward)):
        for b in range(reward.shape[1]):
            for k in range(t, len(reward)):
                future = 0.0 if terminated[k, b] else gamma * next_value[k, b]
                expected[t, b] += (gamma * lambda_) ** (k - t) * (reward[k, b] + future - value[k, b])
                if terminated[k, b] or truncated[k, b]:
                    break
    got = gae(reward, terminated, truncated, value, next_value, gamma, lambda_)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@settings(max_examples=20, deadline=None)
@given(rollouts())
def test_gae_plus_the_value_is_the_lambda_return_where_values_agree(rollout):
    reward, terminated, truncated, value, next_value, gamma, lambda_ = rollout
    going_on = ~(terminated | truncated)[:-1]
    # inside an episode the successor is the next state
    next_value[:-1] = torch.where(going_on, value[1:], next_value[:-1])
    advantage = gae(reward, terminated, truncated, value, next_value, gamma, lambda_)
    return_ = lambda_returns(reward, terminated, truncated, next_value, gamma, lambda_)
    torch.testing.assert_close(advantage + value, return_, rtol=1e-10, atol=1e-10)


def test_discounted_returns_by_hand():
    # G_2 = 4, G_1 = 2 + 4/2 = 4, G_0 = 1 + 4/2 = 3
    assert discounted_returns(row(1, 2, 4), 0.5).flatten().tolist() == [3, 4, 4]
    assert discounted_returns(row(1, 2, 4), 1.0).flatten().tolist() == [7, 6, 4]


def test_padding_counts_for_nothing_even_if_it_holds_rubbish():
    reward, mask = row(1, 2, 4, float("nan")), flags(1, 1, 1, 0)
    assert discounted_returns(reward, 0.5, mask).flatten().tolist() == [3, 4, 4, 0]
    assert discounted_returns(reward, 1.0, mask).flatten().tolist() == [7, 6, 4, 0]


def test_n_step_returns_by_hand():
    # gamma 1/2, values 8: two steps from 0: 1 + 2/2 + 8/4 = 4; from 1, where step 2 terminates: 2 + 4/2 = 4;
    # step 2: 4 step 3 is the rollout's end, one step really taken: 8 + 8/2 = 12
    got = n_step_returns(row(1, 2, 4, 8), flags(0, 0, 1, 0), flags(0, 0, 0, 0), row(8, 8, 8, 8), 0.5, 2)
    assert got.flatten().tolist() == [4, 4, 4, 12]


def test_n_below_one_is_refused():
    with pytest.raises(ValueError, match="n = 0"):
        n_step_returns(row(1), NO, NO, row(1), 0.9, 0)


ESTIMATORS = {
    "n_step": lambda *x: n_step_returns(x[0], x[1], x[2], x[4], 0.5, 3),
    "lambda": lambda *x: lambda_returns(x[0], x[1], x[2], x[4], 0.5, 0.9),
    "gae": lambda *x: gae(*x, 0.5, 0.9),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_trap_truncation_treated_as_termination(name):
    # one step, reward 1, V(s) 0, V(s') 10, gamma 1/2: truncated 1 + 5 = 6, terminated 1, both: termination
    # wins
    got = [
        ESTIMATORS[name](row(1), a, b, row(0), row(10)).item()
        for a, b in ((NO, YES), (YES, NO), (YES, YES), (NO, NO))
    ]
    assert got == [6, 1, 1, 6]


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("ending", ["terminated", "truncated"])
def test_trap_gae_across_an_episode_end(name, ending):
    """What follows an episode's end, the next episode's values and rewards, changes nothing before it."""
    end, none = flags(0, 1, 0), flags(0, 0, 0)
    both = (end, none) if ending == "terminated" else (none, end)
    first = ESTIMATORS[name](row(1, 1, 1), *both, row(2, 2, 2), row(2, 3, 2))
    second = ESTIMATORS[name](row(1, 1, 99), *both, row(2, 2, 99), row(2, 3, 99))
    assert torch.equal(first[:2], second[:2])
    assert not torch.equal(first[2:], second[2:])


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_terminal_successors_value_may_be_anything(name):
    assert ESTIMATORS[name](row(1), YES, NO, row(0), row(float("nan"))).item() == 1


def test_the_recurrence_has_right_gradients():
    rng = torch.Generator().manual_seed(0)
    x, decay, last = (
        torch.randn(*s, generator=rng, dtype=torch.float64, requires_grad=True)
        for s in ((5, 2), (5, 2), (2,))
    )
    assert torch.autograd.gradcheck(linear_recurrence, (x, decay, last))


def test_float32_stays_accurate_over_a_long_rollout():
    rng = torch.Generator().manual_seed(0)
    reward = torch.randn(2048, 2, generator=rng)
    gamma = 1 - 2**-10  # exact in float32
    got, exact = discounted_returns(reward, gamma), discounted_returns(reward.double(), gamma)
    # returns reach about 60, where float32 steps are 4e-6
    torch.testing.assert_close(got.double(), exact, rtol=0, atol=1e-4)


@pytest.mark.compiled
def test_gae_and_n_step_compile_whole_and_agree_with_eager():
    rng = torch.Generator().manual_seed(0)
    reward, value, next_value = torch.randn(3, 37, 4, generator=rng)
    terminated, truncated = torch.rand(2, 37, 4, generator=rng) < 0.1

    def both(*rollout):
        reward, terminated, truncated, _, next_value = rollout
        return gae(*rollout, 0.99, 0.95), n_step_returns(reward, terminated, truncated, next_value, 0.99, 3)

    rollout = (reward, terminated, truncated, value, next_value)
    torch.testing.assert_close(
        torch.compile(both, fullgraph=True)(*rollout), both(*rollout), rtol=1e-5, atol=1e-5
    )
