import logging
import sys

import numpy as np
import pytest
import torch
from torch import nn

from bellgrad.core.errors import UsageError
from bellgrad.report.training.export import export_onnx

onnxruntime = pytest.importorskip("onnxruntime")


class Actor(nn.Module):
    """Normalizer, network, tanh, scaling to the environment's bounds: what a continuous policy is made of."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([5.0, -3.0, 0.1]))
        self.register_buffer("var", torch.tensor([4.0, 0.25, 9.0]))
        self.register_buffer("low", torch.tensor([-2.0, 0.0]))
        self.register_buffer("high", torch.tensor([2.0, 10.0]))
        self.net = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 2))

    def forward(self, obs):
        normal = ((obs - self.mean) / torch.sqrt(self.var + 1e-8)).clamp(-10, 10)
        return self.low + 0.5 * (torch.tanh(self.net(normal)) + 1) * (self.high - self.low)


class Greedy(nn.Module):
    """Images to the best of four actions."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(2, 4, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 7 * 7, 4))

    def forward(self, obs):
        return self.net(obs.float() / 255).argmax(-1)


@pytest.fixture(scope="module")
def actor(tmp_path_factory):
    torch.manual_seed(0)
    policy = Actor().train()
    return policy, export_onnx(
        policy, torch.zeros(1, 3), tmp_path_factory.mktemp("export") / "deep" / "actor.onnx"
    )


@pytest.mark.parametrize("batch", [1, 2, 7, 256])
def test_running_normalizers_and_action_scaling_are_exported_with_the_policy_for_any_batch(actor, batch):
    policy, out = actor
    session = onnxruntime.InferenceSession(out)
    obs = 5 * torch.randn(batch, 3, generator=torch.Generator().manual_seed(batch))
    (action,) = session.run(["action"], {"obs": obs.numpy()})
    policy.eval()
    assert action.dtype == np.float32 and action.shape == (batch, 2)
    np.testing.assert_allclose(action, policy(obs).detach().numpy(), atol=1e-5)


def test_the_file_is_whole_by_itself(actor):
    _, out = actor
    assert list(out.parent.iterdir()) == [out]


def test_images_to_discrete_actions(tmp_path):
    torch.manual_seed(1)
    policy = Greedy()
    session = onnxruntime.InferenceSession(
        export_onnx(policy, torch.zeros(3, 2, 16, 16, dtype=torch.uint8), tmp_path / "a.onnx")
    )
    obs = torch.randint(0, 256, (5, 2, 16, 16), dtype=torch.uint8)
    (action,) = session.run(["action"], {"obs": obs.numpy()})
    assert action.dtype == np.int64
    np.testing.assert_array_equal(action, policy(obs).numpy())


def test_export_prints_nothing_and_keeps_each_modules_mode(tmp_path, capfd, caplog):
    policy = Actor().train()
    policy.net[2].eval()
    export_onnx(policy, torch.zeros(1, 3), tmp_path / "a.onnx")
    assert capfd.readouterr() == ("", "") and not [
        record for record in caplog.records if record.levelno >= logging.WARNING
    ]
    assert policy.training and not policy.net[2].training


def test_a_policy_that_cannot_be_exported_leaves_nothing_behind(tmp_path):
    class Branching(nn.Module):
        def forward(self, obs):
            return obs if obs.sum() > 0 else -obs

    with pytest.raises(UsageError, match="cannot be exported"):
        export_onnx(Branching(), torch.zeros(1, 3), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_name_is_refused_and_a_missing_package_names_the_install_command(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"\.onnx"):
        export_onnx(Actor(), torch.zeros(1, 3), tmp_path / "a.pt")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UsageError, match=r"'onnxscript'.*pip install 'bellgrad\[onnx\]'"):
        export_onnx(Actor(), torch.zeros(1, 3), tmp_path / "a.onnx")
