"""What `build`, `skeleton`, `init_params` and `apply` promise."""

import math
import threading
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from bellgrad.core.errors import UsageError
from bellgrad.nets import build as build_module
from bellgrad.nets.build import build, init_params, skeleton
from bellgrad.nets.layers import apply
from bellgrad.nets.specs import CNN, MLP

VECTOR = spaces.Box(-1, 1, (3,))
IMAGE = spaces.Box(0, 255, (2, 12, 12), np.uint8)
# PyTorch's own initialization where values are compared: orthogonal biases are zero and would hide a layer
# that forgets its bias.
SMALL_MLP = MLP(hidden=(8,), initialization="torch")
SMALL_CNN = CNN(channels=(4, 5), kernels=(4, 3), strides=(2, 1), dense=(6,), initialization="torch")


class UserNet(nn.Module):
    """A user's network: tied weights, and a constant buffer drawn at random when it is made."""

    def __init__(self, observation_space, outputs, action_size=0):
        super().__init__()
        self.register_buffer("basis", torch.randn(observation_space.shape[0], 8))
        self.inner = nn.Linear(8 + action_size, 8 + action_size)
        self.again = nn.Linear(8 + action_size, 8 + action_size)
        self.again.weight = self.inner.weight
        self.head = nn.Linear(8 + action_size, outputs)

    def forward(self, obs, action=None):
        x = obs @ self.basis
        if action is not None:
            x = torch.cat([x, action], -1)
        return self.head(self.again(self.inner(x).tanh()).tanh())


class BatchNormNet(nn.Sequential):
    def __init__(self, observation_space, outputs):
        super().__init__(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, outputs))


class DropoutNet(nn.Sequential):
    def __init__(self, observation_space, outputs):
        super().__init__(nn.Linear(3, 64), nn.Dropout(), nn.Linear(64, outputs))


class FrozenNet(nn.Linear):
    def __init__(self, observation_space, outputs):
        super().__init__(3, outputs)
        self.weight.requires_grad_(False)


class WideNet(nn.Linear):
    def __init__(self, observation_space, outputs):
        super().__init__(3, outputs + 1)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def made(spec, space=VECTOR, outputs=2, seed=0, **options):
    """The skeleton and the parameters of a network."""

    def make():
        return build(spec, space, outputs, **options)

    return skeleton(make), init_params(make, rng(seed))


def member(params, i):
    return {name: value[i] for name, value in params.items()}


def test_an_mlp_computes_what_plain_torch_layers_compute_from_the_same_weights():
    module, params = made(MLP(hidden=(5, 4), activation="relu", initialization="torch"))
    plain = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    plain.load_state_dict(dict(zip(plain.state_dict(), params.values(), strict=True)))
    obs = torch.randn(7, 3)
    assert torch.equal(apply(module, params, obs), plain(obs))


def test_a_cnn_computes_what_plain_torch_layers_compute_from_the_same_weights():
    module, params = made(SMALL_CNN, IMAGE)
    # 12 -> (12 - 4) / 2 + 1 = 5 -> 3 pixels; 5 * 3 * 3 = 45
    convolutions = [nn.Conv2d(2, 4, 4, 2), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten()]
    plain = nn.Sequential(*convolutions, nn.Linear(45, 6), nn.ReLU(), nn.Linear(6, 2))
    plain.load_state_dict(dict(zip(plain.state_dict(), params.values(), strict=True)))
    obs = torch.randint(0, 256, (7, 2, 12, 12), dtype=torch.uint8)
    torch.testing.assert_close(apply(module, params, obs), plain(obs / 255))


def test_the_default_cnn_has_the_size_of_deepminds_atari_network():
    module, _ = made(CNN(), spaces.Box(0, 255, (4, 84, 84), np.uint8), outputs=4)
    # Conv 8*8*4*32+32 = 8,224; 4*4*32*64+64 = 32,832; 3*3*64*64+64 = 36,928; dense 3136*512+512 = 1,606,144;
    # 512*4+4 = 2,052.
    assert sum(p.numel() for p in module.parameters()) == 1_686_180


@pytest.mark.parametrize("action_size", [0, 2])
@pytest.mark.parametrize("ensemble", [None, 1, 3])
@pytest.mark.parametrize(("spec", "space"), [(MLP(), VECTOR), (SMALL_CNN, IMAGE), (UserNet, VECTOR)])
def test_the_output_has_one_row_per_item_and_one_layer_per_member(spec, space, ensemble, action_size):
    module, params = made(spec, space, 4, action_size=action_size, ensemble=ensemble)
    obs = torch.stack([torch.as_tensor(space.sample()) for _ in range(5)])
    inputs = (obs, torch.rand(5, action_size)) if action_size else (obs,)
    assert apply(module, params, *inputs).shape == ((5, 4) if ensemble is None else (ensemble, 5, 4))


@pytest.mark.parametrize("outputs", [1, 2])  # one output takes another path than the batched matrix product
@pytest.mark.parametrize("action_size", [0, 2])
@pytest.mark.parametrize(("spec", "space"), [(SMALL_MLP, VECTOR), (SMALL_CNN, IMAGE), (UserNet, VECTOR)])
def test_an_ensemble_equals_its_members_applied_one_by_one(spec, space, action_size, outputs):
    options = {"action_size": action_size}
    module, params = made(spec, space, outputs, ensemble=3, **options)
    single, one = made(spec, space, outputs, **options)
    obs = torch.stack([torch.as_tensor(space.sample()) for _ in range(5)])
    inputs = (obs, torch.rand(5, action_size)) if action_size else (obs,)
    together = apply(module, params, *inputs)
    for i in range(3):
        values = member(params, i).values()
        alone = {
            name: (
                value.T if "perceptron" in name and value.dim() == 2 and name.endswith("weight") else value
            ).reshape(like.shape)
            for (name, like), value in zip(one.items(), values, strict=True)
        }
        torch.testing.assert_close(together[i], apply(single, alone, *inputs))
        assert not torch.equal(together[i], together[i - 1])  # members start from different parameters


@pytest.mark.parametrize("ensemble", [None, 2])
@pytest.mark.parametrize("spec", [MLP(), UserNet])
def test_the_same_seed_gives_the_same_parameters_and_another_seed_others(spec, ensemble):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    _, params = made(spec, ensemble=ensemble)
    assert torch.equal(torch.get_rng_state(), before)  # torch's own stream is left alone
    torch.manual_seed(2)
    again, other = made(spec, ensemble=ensemble)[1], made(spec, ensemble=ensemble, seed=1)[1]
    weights = [name for name in params if name.endswith("weight")]
    assert all(torch.equal(params[name], again[name]) for name in params)
    assert all(not torch.equal(params[name], other[name]) for name in weights)


def test_two_networks_from_one_stream_differ():
    generator = rng()
    first, second = (init_params(lambda: build(MLP(), VECTOR, 2), generator) for _ in range(2))
    assert not torch.equal(first["perceptron.layers.0.weight"], second["perceptron.layers.0.weight"])


@pytest.mark.parametrize("ensemble", [None, 2])
def test_orthogonal_weights_have_the_gain_sqrt_2_and_the_last_layer_the_asked_one(ensemble):
    _, params = made(MLP((6, 6)), outputs=2, ensemble=ensemble, output_gain=0.01)
    for i in range(ensemble or 1):
        one = params if ensemble is None else member(params, i)
        for layer, gain in ((0, math.sqrt(2)), (1, math.sqrt(2)), (2, 0.01)):
            weight = one[f"perceptron.layers.{layer}.weight"]
            gram = weight @ weight.T if weight.shape[0] < weight.shape[1] else weight.T @ weight
            torch.testing.assert_close(gram, gain**2 * torch.eye(len(gram)), rtol=0, atol=1e-5 * gain**2)
            assert not one[f"perceptron.layers.{layer}.bias"].any()


def test_torch_initialization_is_that_of_nn_linear():
    _, params = made(MLP((6,), initialization="torch"))
    seed = int(torch.randint(2**63 - 1, (), generator=rng()))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first = nn.Linear(3, 6)
    assert torch.equal(params["perceptron.layers.0.weight"], first.weight)
    assert torch.equal(params["perceptron.layers.0.bias"], first.bias)


def test_a_skeleton_holds_no_numbers_except_constant_buffers_which_are_the_same_in_every_run():
    module, params = made(UserNet, seed=0)
    other, _ = made(UserNet, seed=1)
    assert all(parameter.is_meta for parameter in module.parameters())
    assert set(params) == {name for name, _ in module.named_parameters()}
    assert "basis" not in params
    assert torch.equal(module.basis, other.basis)


@pytest.mark.parametrize("ensemble", [None, 2])
@pytest.mark.parametrize(("spec", "space"), [(MLP(), VECTOR), (SMALL_CNN, IMAGE)])
def test_the_fast_path_equals_functional_call_in_value_and_gradient(spec, space, ensemble):
    module, params = made(spec, space, ensemble=ensemble)
    obs = torch.stack([torch.as_tensor(space.sample()) for _ in range(5)])

    def loss(call, params):
        return call(module, params, obs).square().sum()

    fast, slow = (
        torch.func.grad_and_value(lambda p, call=call: loss(call, p))(params)
        for call in (apply, lambda m, p, x: torch.func.functional_call(m, p, (x,)))
    )
    assert torch.equal(fast[1], slow[1])
    assert all(torch.equal(fast[0][name], slow[0][name]) for name in params)
    assert all(fast[0][name].any() for name in params)  # every parameter takes part


def test_many_seeds_go_through_vmap():
    module, _ = made(MLP(), outputs=1, ensemble=2)
    runs = [made(MLP(), outputs=1, ensemble=2, seed=seed)[1] for seed in range(3)]
    stacked = {name: torch.stack([run[name] for run in runs]) for name in runs[0]}
    obs = torch.randn(5, 3)
    together = torch.func.vmap(lambda params: apply(module, params, obs))(stacked)
    torch.testing.assert_close(together, torch.stack([apply(module, run, obs) for run in runs]))


@pytest.mark.compiled
@pytest.mark.parametrize(("spec", "space"), [(SMALL_MLP, VECTOR), (UserNet, VECTOR)])
def test_compiled_gradients_of_twin_critics_equal_eager_ones(spec, space):
    module, params = made(spec, space, 1, ensemble=2)
    obs = torch.stack([torch.as_tensor(space.sample()) for _ in range(4)])
    grad = torch.func.grad(lambda params, obs: apply(module, params, obs).square().sum())
    eager, compiled = grad(params, obs), torch.compile(grad, fullgraph=True, dynamic=False)(params, obs)
    for name in params:
        torch.testing.assert_close(compiled[name], eager[name])


@dataclass(frozen=True)
class Wide:
    """A specification of a user's own."""

    width: int

    def build(self, observation_space, outputs, action_size=0):
        if self.width < 1:
            raise ValueError("no width")
        return nn.Sequential(
            nn.Linear(observation_space.shape[0], self.width), nn.Linear(self.width, outputs)
        )


def test_a_users_own_specification_builds_its_network():
    module, params = made(Wide(7), outputs=2)
    assert params["0.weight"].shape == (7, 3)
    assert apply(module, params, torch.zeros(5, 3)).shape == (5, 2)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (BatchNormNet, "BatchNormNet changes its buffer '1.running_mean'"),
        (DropoutNet, "DropoutNet gives two different outputs"),
        (FrozenNet, "FrozenNet freezes the parameter 'weight'"),
        (WideNet, r"must return shape \[B, 2\]; for B = 2 it returned shape \[2, 3\]"),
        (nn.ReLU, r"could not be made as ReLU\(observation_space, 2\)"),
        (
            Wide(0),
            r"could not be made as Wide\(width=0\)\.build\(observation_space, 2\): ValueError: no width",
        ),
        (3, "3 is not a network: give MLP"),
    ],
)
def test_a_network_that_cannot_work_is_refused_in_words(spec, message):
    with pytest.raises(UsageError, match=message):
        build(spec, VECTOR, 2)


def test_an_empty_ensemble_is_refused():
    with pytest.raises(UsageError, match="ensemble of 0"):
        build(MLP(), VECTOR, 2, ensemble=0)


def test_networks_built_in_threads_have_the_parameters_of_a_lone_one():
    """Also while another thread draws from torch's global generator and seeds it."""
    make, found, stop = partial(build, MLP(hidden=(64, 64)), VECTOR, 4), [], threading.Event()

    def other_work():
        while not stop.is_set():
            torch.manual_seed(1)
            torch.rand(3)

    def one():
        found.extend(init_params(make, torch.Generator().manual_seed(5)) for _ in range(5))

    expected = init_params(make, torch.Generator().manual_seed(5))
    other, threads = threading.Thread(target=other_work), [threading.Thread(target=one) for _ in range(6)]
    for thread in (other, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    other.join()
    assert len(found) == 30
    assert all(torch.equal(params[name], expected[name]) for params in found for name in expected)


def drawn_in_many_ways():
    like = torch.zeros(30, 2)
    layers = (nn.Linear(3, 4), nn.Conv2d(2, 3, 3), nn.LSTM(3, 4), nn.MultiheadAttention(4, 2))
    return [
        *(torch.rand(5), torch.randn(20), torch.randint(2, 9, (4,)), torch.randperm(9)),
        *(torch.rand_like(like), torch.randn_like(like), torch.randint_like(like, 9)),
        *(torch.randint_like(like, 2, 9), torch.randint_like(like, 2, high=9)),
        *(torch.normal(like, 1.0), torch.bernoulli(like + 0.5), torch.zeros(4).exponential_()),
        *(nn.init.orthogonal_(torch.empty(4, 5)), nn.init.trunc_normal_(torch.empty(9))),
        *(parameter for layer in layers for parameter in layer.parameters()),
    ]


def test_a_construction_draws_what_the_global_generator_would_give_it():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        expected = drawn_in_many_ways()
    before = torch.get_rng_state()
    found = build_module._make_from_seed(drawn_in_many_ways, 11)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert torch.equal(before, torch.get_rng_state())
