import pytest
import torch
from torch.func import vmap

from bellgrad.ops.grads import clip_by_norm, clip_by_value, global_norm, value_and_grad

PARAMS = {"w": torch.tensor([1.0, 2.0]), "unused": torch.ones(3)}


def loss_fn(params, x):
    error = params["w"] * x
    return error.square().sum(), {"error": error}


def run_eager(fn, *args):
    return fn(*args)


def run_traced(fn, *args):
    """Inside `vmap`, where torch.func must be used; a batch of one."""
    lift = torch.utils._pytree.tree_map(lambda leaf: leaf[None], args)
    return torch.utils._pytree.tree_map(lambda leaf: leaf[0], vmap(fn)(*lift))


@pytest.mark.parametrize("run", [run_eager, run_traced])
def test_loss_aux_and_gradients_by_hand_under_no_grad(run):
    x = torch.tensor([3.0, 1.0])
    with torch.no_grad():
        (loss, aux), grads = run(value_and_grad(loss_fn, has_aux=True), PARAMS, x)
        plain_loss, plain_grads = run(value_and_grad(lambda p, x: loss_fn(p, x)[0]), PARAMS, x)
    assert loss.item() == plain_loss.item() == 13  # 3^2 + 2^2
    assert grads["w"].tolist() == plain_grads["w"].tolist() == [18, 4]  # 2 w x^2
    assert grads["unused"].tolist() == [0, 0, 0]
    assert aux["error"].tolist() == [3, 2]


def test_nothing_that_comes_back_carries_a_graph_and_nothing_is_stored():
    params = {"w": torch.ones(2, requires_grad=True)}
    (loss, aux), grads = value_and_grad(loss_fn, has_aux=True)(params, torch.ones(2))
    assert not any(tensor.requires_grad for tensor in (loss, aux["error"], grads["w"]))
    assert params["w"].grad is None


@pytest.mark.parametrize("run", [run_eager, run_traced])
def test_a_loss_that_depends_on_nothing_has_zero_gradients(run):
    with torch.no_grad():
        loss, grads = run(value_and_grad(lambda params, x: x.sum()), PARAMS, torch.ones(2))
    assert loss.item() == 2
    assert not any(grad.any() for grad in grads.values())


def test_parameters_may_be_a_tree():
    params = {"actor": {"w": torch.tensor(2.0)}, "critics": (torch.tensor(3.0), torch.tensor(5.0))}
    _, grads = value_and_grad(lambda p: p["actor"]["w"] * p["critics"][0])(params)
    assert grads["actor"]["w"].item() == 3
    assert [grad.item() for grad in grads["critics"]] == [2, 0]


def test_trap_a_loss_per_item_is_refused():
    with pytest.raises(ValueError, match=r"scalar, got shape \[2\]"):
        value_and_grad(lambda params: params["w"])(PARAMS)


@pytest.mark.parametrize("max_norm", [0.5, 5.0, 1e6])
def test_clip_by_norm_equals_torchs(max_norm):
    rng = torch.Generator().manual_seed(0)
    grads = {
        "a": torch.randn(4, 3, generator=rng),
        "b": torch.randn(5, generator=rng),
        "c": torch.randn((), generator=rng),
    }
    tensors = [torch.nn.Parameter(torch.zeros_like(grad)) for grad in grads.values()]
    for tensor, grad in zip(tensors, grads.values(), strict=True):
        tensor.grad = grad.clone()
    expected = torch.nn.utils.clip_grad_norm_(tensors, max_norm)
    clipped, norm = clip_by_norm(grads, max_norm)
    torch.testing.assert_close(norm, expected)
    for tensor, grad in zip(tensors, clipped.values(), strict=True):
        torch.testing.assert_close(grad, tensor.grad)


def test_clipping_by_hand():
    grads = {"a": torch.tensor([3.0]), "b": torch.tensor([-4.0])}
    assert global_norm(grads).item() == 5
    clipped, norm = clip_by_norm(grads, 1.0)
    assert norm.item() == 5
    assert clipped["b"].item() == pytest.approx(-0.8, rel=1e-5)
    assert [grad.item() for grad in clip_by_value(grads, 3.5).values()] == [3, -3.5]


@pytest.mark.compiled
def test_compiled_gradients_equal_eager_ones():
    def update(params, x):
        (loss, aux), grads = value_and_grad(loss_fn, has_aux=True)(params, x)
        return loss, aux, clip_by_norm(grads, 1.0)

    x = torch.tensor([3.0, 1.0])
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(update, fullgraph=True)(PARAMS, x), update(PARAMS, x))
