"""Which distribution a policy gives: choices in one dimension or several, and what a mask forbids."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

from bellgrad.core.errors import UsageError
from bellgrad.core.records import EnvSpec
from bellgrad.core.rng import Noise
from bellgrad.nets.encoder import Encoder
from bellgrad.nets.policy import Policy
from bellgrad.nets.specs import MLP
from bellgrad.ops.distributions import Categorical, MultiCategorical

SEEN, SMALL = Box(-1, 1, (3,), np.float32), MLP((8,))
MASKED = Dict({"observation": SEEN, "action_mask": MultiBinary(4)})
ALLOWED = torch.tensor([[1.0, 0, 1, 1], [0, 1, 0, 0]])


def masked(actions=None, observed=MASKED, **fields):
    return Policy(SMALL, EnvSpec("mine", observed, actions or Discrete(4)), **fields)


def obs(mask=ALLOWED, seed=0):
    return {
        "observation": torch.randn(len(mask), 3, generator=torch.Generator().manual_seed(seed)),
        "action_mask": mask,
    }


def start(policy):
    return policy.init(torch.Generator().manual_seed(0))


@pytest.mark.parametrize("head", ["vector", "score"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_a_forbidden_action_has_probability_zero(head, dtype):
    policy = masked(head=head)
    params = start(policy)
    free = policy.distribution(params, obs(torch.ones(2, 4))).logprobs().exp()
    got = policy.distribution(params, obs(ALLOWED.to(dtype))).logprobs().exp()
    assert (got[ALLOWED == 0] == 0).all()
    torch.testing.assert_close(got, free * ALLOWED / (free * ALLOWED).sum(-1, keepdim=True))


def test_the_mask_is_no_feature():
    assert Encoder(MASKED).features == 3
    assert Encoder(Dict({"inner": MASKED})).features == 7  # only the observation's own mask is one
    with pytest.raises(UsageError, match="nothing to observe"):
        Encoder(Dict({"action_mask": MultiBinary(4)}))


def test_entropy_divergence_and_gradients_of_a_masked_policy_are_finite():
    policy = masked()
    params = {name: tensor.requires_grad_() for name, tensor in start(policy).items()}
    now, other = (policy.distribution(params, obs(seed=seed)) for seed in (0, 1))
    terms = now.entropy() + now.kl(other) + now.logprob(torch.tensor([2, 1]))
    gradients = torch.autograd.grad(terms.sum(), list(params.values()))
    assert terms.isfinite().all() and all(g.isfinite().all() for g in gradients)
    begins = now.entropy().detach()  # close to uniform
    assert begins[1] == 0 and begins[0].item() == pytest.approx(np.log(3), abs=1e-3)


def test_where_nothing_is_allowed_nothing_becomes_nan():
    """So it is after the end of an episode, where nobody acts."""
    policy = masked()
    given = policy.distribution(start(policy), obs(torch.zeros(1, 4)))
    torch.testing.assert_close(given.logprobs().exp(), torch.full((1, 4), 0.25))
    sizes = MultiDiscrete([3, 1])
    given = masked(sizes).distribution(start(masked(sizes)), obs(torch.zeros(5, 4)))
    assert given.sample(torch.linspace(0, 1, 10).view(5, 2)).amax(0).tolist() == [2, 0]


def test_the_states_of_a_finite_problem_have_their_legal_actions():
    legal = np.array([[True, False], [True, True], [False, True]])
    policy = Policy(SMALL, EnvSpec("mine", Discrete(3), Discrete(2), legal=legal))
    probability = policy.distribution(start(policy), torch.tensor([2, 0, 1, 2])).logprobs().exp()
    assert torch.equal(probability > 0, torch.from_numpy(legal)[[2, 0, 1, 2]])


def test_several_choices_are_drawn_apart_and_masked_in_one_row():
    policy = masked(MultiDiscrete([2, 2], start=[5, 7]))
    given = policy.distribution(start(policy), obs())
    assert isinstance(given, MultiCategorical) and policy.action_size == 4 and policy.discrete
    assert policy.noise(7) == Noise("uniform", (7, 2))
    probability = Categorical(given.logits).logprobs().exp()
    # The second row's mask forbids all of the second dimension, which frees it.
    assert torch.equal(
        probability > 0, torch.tensor([[[True, False], [True, True]], [[False, True], [True, True]]])
    )


@pytest.mark.parametrize("shape", [(5,), (2, 2), (2, 3)])
def test_many_choices_come_in_one_row(shape):
    policy = Policy(SMALL, EnvSpec("mine", SEEN, MultiDiscrete(np.full(shape, 3))))
    given = policy.distribution(start(policy), torch.zeros(4, 3))
    assert given.sample(torch.rand(policy.noise(4).shape)).shape == given.mode().shape == (4, np.prod(shape))


@pytest.mark.parametrize(
    ("actions", "observed", "fields", "words"),
    [
        (Discrete(3), MASKED, {}, r"'action_mask' has shape \(4,\); the actions Discrete\(3\) need \(3,\)"),
        (MultiDiscrete([2, 3]), MASKED, {}, r"need \(5,\)"),
        (Box(-1, 1, (4,)), MASKED, {}, "'action_mask' needs Discrete or MultiDiscrete actions"),
        (MultiDiscrete([2, 2]), SEEN, {"head": "score"}, "'score' scores each action of a Discrete space"),
        (MultiBinary(3), SEEN, {}, "a policy needs a Box, Discrete or MultiDiscrete action space"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(actions, observed, fields, words):
    with pytest.raises(UsageError, match=words):
        masked(actions, observed, **fields)
