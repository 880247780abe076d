"""Specifications check themselves; how they are recorded is tested with the codec."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from bellgrad.core.errors import UsageError
from bellgrad.nets.specs import CNN, GRU, LSTM, MLP, check_spec


class Net(nn.Module):
    pass


@dataclass(frozen=True)
class Own:
    def build(self, observation_space, outputs, action_size=0):
        return nn.Linear(1, outputs)


@dataclass
class Melting:
    def build(self, observation_space, outputs, action_size=0):
        return nn.Linear(1, outputs)


class Bare:
    build = Own.build


@pytest.mark.parametrize("spec", [MLP(), CNN(), Net, Own()])
def test_what_builds_a_network_is_a_specification(spec):
    check_spec(spec)


@pytest.mark.parametrize("spec", [LSTM(), GRU()])
def test_a_network_that_remembers_needs_an_algorithm_that_keeps_its_memory(spec):
    check_spec(spec, memory=True)
    with pytest.raises(UsageError, match="has a memory, which this algorithm does not carry"):
        check_spec(spec)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP(activation="rleu"), "unknown activation 'rleu'; did you mean relu"),
        (lambda: MLP(initialization="ortho"), "did you mean orthogonal"),
        (lambda: MLP(hidden=(0,)), r"MLP.hidden = \(0,\)"),
        (lambda: MLP(hidden=(2.5,)), r"MLP.hidden = \(2.5,\)"),
        (lambda: MLP(hidden=64), "MLP.hidden = 64"),
        (lambda: CNN(kernels=(8,)), "equally long"),
        (lambda: CNN(channels=(), kernels=(), strides=()), "at least one convolution"),
        (lambda: CNN(activation="x"), "unknown activation"),
        (lambda: check_spec(torch.relu), "is not a network"),
        (lambda: check_spec("mlp"), "'mlp' is not a network"),
        (lambda: check_spec(MLP), r"MLP is a class; give an instance: MLP\(\.\.\.\)"),
        (lambda: check_spec(Net()), "this Net is an instance; give its class"),
        (lambda: check_spec(Melting()), "Melting must be a frozen dataclass"),
        (lambda: check_spec(Bare()), "Bare must be a frozen dataclass"),
    ],
)
def test_a_wrong_specification_is_refused_in_words(make, message):
    with pytest.raises(UsageError, match=message):
        make()
