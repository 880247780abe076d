"""Specifications check themselves, and go to JSON and back without running code."""

import json
import sys

import pytest
import torch
from torch import nn

from bellgrad.core.errors import CheckpointError, UsageError
from bellgrad.nets.specs import CNN, GRU, LSTM, MLP, spec_from_json, spec_to_json


class Known(nn.Module):
    class Inner(nn.Linear):
        pass


@pytest.mark.parametrize(
    "spec",
    [
        MLP(),
        MLP((), "relu", "torch"),
        LSTM(),
        GRU(32, (), 8),
        CNN(),
        CNN((8,), (3,), (1,), ()),
        Known,
        Known.Inner,
    ],
)
def test_a_specification_survives_json(spec):
    assert spec_from_json(json.loads(json.dumps(spec_to_json(spec)))) == spec


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
        (
            lambda: spec_to_json(type("Local", (nn.Module,), {"__qualname__": "f.<locals>.Local"})),
            "inside a function",
        ),
        (lambda: spec_to_json(torch.relu), "is not a network"),
    ],
)
def test_a_wrong_specification_is_refused_in_words(make, message):
    with pytest.raises(UsageError, match=message):
        make()


@pytest.mark.parametrize(
    "data",
    [
        {"kind": "transformer"},
        {"kind": ["mlp"]},
        {},
        {"kind": "mlp", "depth": 3},
        {"kind": "mlp", "hidden": [-1]},
        {"kind": "mlp", "activation": ["tanh"]},
        {"kind": "module", "name": "os"},
        {"kind": "module", "name": 3},
        {"kind": "module", "name": "os:system", "extra": 1},
    ],
)
def test_damaged_json_is_refused(data):
    with pytest.raises(CheckpointError):
        spec_from_json(data)


def test_a_file_that_is_read_imports_nothing_unless_trusted(tmp_path, monkeypatch):
    marker = tmp_path / "ran"
    (tmp_path / "stranger_net.py").write_text(
        f"open({str(marker)!r}, 'w').close()\nfrom torch import nn\nclass Net(nn.Linear):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    data = {"kind": "module", "name": "stranger_net:Net"}
    with pytest.raises(UsageError, match="trust_imports=True"):
        spec_from_json(data)
    assert not marker.exists()
    assert spec_from_json(data, trust_imports=True).__name__ == "Net"
    assert marker.exists()
    del sys.modules["stranger_net"]


def test_only_module_classes_are_handed_out_by_name():
    with pytest.raises(UsageError, match=r"does not name a torch\.nn\.Module class"):
        spec_from_json({"kind": "module", "name": "os:system"})
