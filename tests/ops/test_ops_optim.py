import pytest
import torch
from torch.func import vmap

from bellgrad.core.errors import UsageError
from bellgrad.core.tree import named_leaves
from bellgrad.ops.optim import SGD, Adam, AdamW, RMSprop

CASES = [
    (Adam(learning_rate=0.01), torch.optim.Adam, {"lr": 0.01}),
    (Adam(beta1=0.0, beta2=0.5, epsilon=1e-3), torch.optim.Adam, {"betas": (0.0, 0.5), "eps": 1e-3}),
    (Adam(weight_decay=0.1, amsgrad=True), torch.optim.Adam, {"weight_decay": 0.1, "amsgrad": True}),
    (AdamW(), torch.optim.AdamW, {}),
    (AdamW(weight_decay=0.1, amsgrad=True), torch.optim.AdamW, {"weight_decay": 0.1, "amsgrad": True}),
    (SGD(learning_rate=0.1), torch.optim.SGD, {"lr": 0.1}),
    (SGD(momentum=0.9, weight_decay=0.1), torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    (SGD(momentum=0.9, nesterov=True), torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    (RMSprop(), torch.optim.RMSprop, {}),
    (
        RMSprop(decay=0.9, weight_decay=0.1, momentum=0.9),
        torch.optim.RMSprop,
        {"alpha": 0.9, "weight_decay": 0.1, "momentum": 0.9},
    ),
    (RMSprop(centered=True, momentum=0.5), torch.optim.RMSprop, {"centered": True, "momentum": 0.5}),
]
OPTIMIZERS = [case[0] for case in CASES]


def problem(dtype=torch.float64, steps=60):
    """Parameters, and gradients that grow and shrink, one dictionary a step."""
    rng = torch.Generator().manual_seed(0)
    shapes = {"weight": (4, 3), "bias": (4,), "log_alpha": ()}

    def draw(scale):
        return {
            name: scale * torch.randn(shape, generator=rng, dtype=dtype) for name, shape in shapes.items()
        }

    return draw(1.0), [draw(10.0 ** (t % 5 - 2)) for t in range(steps)]


def clone(tree):
    return {name: leaf.clone() for name, leaf in named_leaves(tree).items()}


@pytest.mark.parametrize("ours, theirs, options", CASES)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@pytest.mark.parametrize("path", ["eager", "vmap"])
def test_every_step_equals_torchs(ours, theirs, options, dtype, tolerance, path):
    """Both ways of running: as it is (Adam then uses torch's fused kernel), and the plain equations that are
    traced."""
    params, grads = problem(dtype)
    tensors = {name: torch.nn.Parameter(param.clone()) for name, param in params.items()}
    optimizer = theirs(tensors.values(), **options)
    step = ours.step
    if path == "vmap":

        def step(params, grads, state):
            lifted = [
                torch.utils._pytree.tree_map(lambda leaf: leaf[None], tree) for tree in (params, grads, state)
            ]
            return torch.utils._pytree.tree_map(lambda leaf: leaf[0], vmap(ours.step)(*lifted))

    state = ours.init(params)
    for grad in grads:
        params, state = step(params, grad, state)
        for name, tensor in tensors.items():
            tensor.grad = grad[name].clone()
        optimizer.step()
        for name, tensor in tensors.items():
            torch.testing.assert_close(params[name], tensor.detach(), rtol=tolerance, atol=tolerance)
    assert state.step.dtype == torch.int64
    assert state.step.item() == len(grads)


def test_rmsprop_with_epsilon_in_the_root_and_squares_that_begin_at_one_is_tensorflows():
    # By hand: the mean square is 0.99 + 0.01 * 4 = 1.03, then 0.99 * 1.03 + 0.01 * 25 = 1.2697; each step is
    # 0.1 * g / sqrt(square + 0.2).
    optimizer = RMSprop(learning_rate=0.1, epsilon=0.2, epsilon_in_root=True, initial_square=1.0)
    params = {"w": torch.zeros(1, dtype=torch.float64)}
    state = optimizer.init(params)
    for grad in (2.0, -5.0):
        params, state = optimizer.step(params, {"w": torch.tensor([grad], dtype=torch.float64)}, state)
    assert params["w"].item() == pytest.approx(-0.2 / 1.23**0.5 + 0.5 / 1.4697**0.5)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_nothing_is_changed_in_place(optimizer):
    params, (first, second) = problem(steps=2)
    params, state = optimizer.step(params, first, optimizer.init(params))
    inputs = {"params": params, "grads": second, "state": state}
    before = clone(inputs)
    new_params, new_state = optimizer.step(params, second, state)
    for name, leaf in named_leaves(inputs).items():
        assert torch.equal(leaf, before[name]), name
    old_memory = {leaf.data_ptr() for leaf in named_leaves(inputs).values()}
    assert not old_memory & {leaf.data_ptr() for leaf in named_leaves((new_params, new_state)).values()}
    # the same structure: it can be saved and restored
    assert list(named_leaves(new_state)) == list(named_leaves(state))


@pytest.mark.parametrize("optimizer", [Adam(), Adam(amsgrad=True), AdamW(), SGD(momentum=0.9), RMSprop()])
def test_a_learning_rate_argument_replaces_the_field(optimizer):
    params, (grads,) = problem(steps=1)
    state = optimizer.init(params)
    replaced = type(optimizer)(**{**vars(optimizer), "learning_rate": 0.125})
    expected, _ = replaced.step(params, grads, state)
    for rate in (0.125, torch.tensor(0.125)):
        got, _ = optimizer.step(params, grads, state, rate)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_adams_first_step_is_the_learning_rate_against_the_gradients_sign():
    params, grads = {"w": torch.zeros(3)}, {"w": torch.tensor([1e-3, -5.0, 0.0])}
    params, _ = Adam(learning_rate=0.1).step(params, grads, Adam().init(params))
    # epsilon / 1e-3 = 1e-5
    torch.testing.assert_close(params["w"], torch.tensor([-0.1, 0.1, 0.0]), rtol=2e-5, atol=0)


def test_adam_takes_gradients_and_parameters_in_any_memory_layout():
    """autograd may give a transposed gradient; torch's kernel reads memory in order."""
    rng = torch.Generator().manual_seed(0)
    param, grad = torch.randn(2, 4, 3, generator=rng)
    expected, _ = Adam().step({"w": param}, {"w": grad}, Adam().init({"w": param}))
    for layout in (lambda x: x.t().contiguous().t(), lambda x: x):
        for other in (lambda x: x.t().contiguous().t(), lambda x: x):
            params = {"w": layout(param)}
            got, _ = Adam().step(params, {"w": other(grad)}, Adam().init(params))
            assert torch.equal(got["w"], expected["w"])
    expanded = {"w": torch.ones(()).expand(4, 3)}
    got, _ = Adam().step(expanded, expanded, Adam().init(expanded))
    assert torch.unique(got["w"]).numel() == 1


def test_adam_takes_parameters_of_two_dtypes():
    params = {"a": torch.ones(2), "b": torch.ones(2, dtype=torch.float64)}
    new, state = Adam(learning_rate=0.1).step(params, params, Adam().init(params))
    assert [leaf.dtype for leaf in new.values()] == [torch.float32, torch.float64]
    torch.testing.assert_close(new["b"], torch.full((2,), 0.9, dtype=torch.float64))
    assert state.mean["a"].dtype == torch.float32


def test_many_seeds_and_learning_rates_at_once():
    params, (grads,) = problem(torch.float32, steps=1)
    rates = torch.tensor([0.1, 0.2, 0.3])

    def stacked(tree):
        return {name: torch.stack([leaf, 2 * leaf, 3 * leaf]) for name, leaf in tree.items()}

    def step(params, grads, rate):
        return Adam().step(params, grads, Adam().init(params), rate)

    got, state = vmap(step)(stacked(params), stacked(grads), rates)
    assert state.step.tolist() == [1, 1, 1]
    for i, rate in enumerate(rates):
        expected, _ = step(
            *({name: leaf[i] for name, leaf in stacked(tree).items()} for tree in (params, grads)), rate
        )
        for name in params:
            assert got[name].dtype == torch.float32
            torch.testing.assert_close(got[name][i], expected[name])


def test_grads_must_match_params():
    params = {"w": torch.ones(3)}
    for optimizer in OPTIMIZERS:
        for wrong in ({"w": torch.ones(3, 1)}, {"v": torch.ones(3)}, {}):
            with pytest.raises(ValueError, match="differ"):
                optimizer.step(params, wrong, optimizer.init(params))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Adam(learning_rate=-1.0),
        lambda: Adam(beta1=1.0),
        lambda: AdamW(weight_decay=-0.1),
        lambda: Adam(epsilon=float("nan")),
        lambda: SGD(momentum=1.5),
        lambda: SGD(nesterov=True),
        lambda: RMSprop(decay=2.0),
        lambda: RMSprop(initial_square=-1.0),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(UsageError):
        make()


@pytest.mark.compiled
def test_optimizers_compile_whole_and_agree_with_eager():
    params, grads = problem(torch.float32, steps=4)
    chosen = (
        Adam(),
        AdamW(amsgrad=True),
        SGD(momentum=0.9, nesterov=True),
        RMSprop(centered=True, momentum=0.9),
    )

    def step_all(params, grads, states, rate):
        return [o.step(p, grads, s, rate) for o, p, s in zip(chosen, params, states, strict=True)]

    compiled = torch.compile(step_all, fullgraph=True, dynamic=False)
    all_params, states = [params] * len(chosen), [o.init(params) for o in chosen]
    rate = torch.tensor(1e-2)
    for grad in grads:
        results = compiled(all_params, grad, states, rate)
        torch.testing.assert_close(results, step_all(all_params, grad, states, rate), rtol=1e-4, atol=1e-6)
        all_params, states = [list(column) for column in zip(*results, strict=True)]
