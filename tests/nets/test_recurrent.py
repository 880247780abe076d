"""Networks with a memory: the cells against PyTorch's, rows against single steps, and where gradients
stop."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import nn

from bellgrad.algos.dqn import DQN
from bellgrad.algos.sac import SAC
from bellgrad.core.errors import UsageError
from bellgrad.core.records import EnvSpec
from bellgrad.nets.build import build, init_params, skeleton
from bellgrad.nets.policy import Policy
from bellgrad.nets.specs import GRU, LSTM, MLP

SPACE = Box(-1, 1, (3,), np.float32)
KINDS = [LSTM, GRU]
SIZE, STEPS = 5, 8


def network(kind, **fields):
    """A network with random biases, its parameters, and a memory of two rows that is not empty."""
    make = lambda: build(kind(SIZE, **fields), SPACE, 2)  # noqa: E731
    params = {
        name: value + 0.3 * torch.randn_like(value)
        for name, value in init_params(make, torch.Generator()).items()
    }
    module = skeleton(make)
    return (
        module,
        params,
        {name: 0.5 * torch.randn_like(value) for name, value in module.first_memory(2).items()},
    )


def torch_cell(kind, params, inputs):
    cell = {LSTM: nn.LSTMCell, GRU: nn.GRUCell}[kind](inputs, SIZE)
    cell.load_state_dict(
        {name.removeprefix("cell."): value for name, value in params.items() if name.startswith("cell.")}
    )
    return cell


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_cells_are_pytorchs(kind):
    module, params, memory = network(kind, hidden=())
    obs, cell = torch.randn(2, 3), torch_cell(kind, params, 3)
    _, after = module.unroll(params, "", obs, memory)
    expected = cell(obs, tuple(memory.values()) if kind is LSTM else memory["hidden"])
    torch.testing.assert_close(tuple(after.values()), expected if kind is LSTM else (expected,))


@pytest.mark.parametrize("kind", KINDS)
def test_fully_connected_layers_come_before_the_memory_and_a_linear_one_after(kind):
    module, params, memory = network(kind, hidden=(7,), activation="relu")
    obs, cell = torch.randn(2, 3), torch_cell(kind, params, 7)
    out, after = module.unroll(params, "", obs, memory)
    x = (obs @ params["before.layers.0.weight"].T + params["before.layers.0.bias"]).relu()
    hidden = cell(x, tuple(memory.values()))[0] if kind is LSTM else cell(x, memory["hidden"])
    torch.testing.assert_close(after["hidden"], hidden)
    torch.testing.assert_close(out, hidden @ params["output.weight"].T + params["output.bias"])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_their_steps_one_by_one_and_memory_begins_anew_after_an_ended_step(kind):
    module, params, memory = network(kind)
    obs, ended = torch.randn(2, STEPS, 3), torch.zeros(2, STEPS, dtype=torch.bool)
    ended[0, 2] = ended[1, 5] = ended[1, -1] = True
    out, last = module.unroll(params, "", obs.flatten(0, 1), memory, ended.flatten())
    for t in range(STEPS):
        expected, memory = module.unroll(params, "", obs[:, t], memory)
        torch.testing.assert_close(out.view(2, STEPS, -1)[:, t], expected)
        if t == STEPS - 1:
            torch.testing.assert_close(last, memory)
        memory = {name: torch.where(ended[:, t, None], 0.0, value) for name, value in memory.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_back_to_the_start_of_the_row_or_of_the_episode(kind):
    module, params, memory = network(kind)
    obs, ended = torch.randn(2, STEPS, 3, requires_grad=True), torch.zeros(2, STEPS, dtype=torch.bool)
    ended[0, 2] = True
    out, _ = module.unroll(params, "", obs.flatten(0, 1), memory, ended.flatten())
    out.view(2, STEPS, -1)[:, -1].sum().backward()
    reached = obs.grad.abs().sum(-1) > 0
    assert reached[1].all()
    assert reached[0].tolist() == [False] * 3 + [True] * 5


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_gradients_are_those_of_a_chain_that_is_cut_and_full_ones_where_a_row_holds_the_episode(
    kind,
):
    module, params, memory = network(kind, hidden=())
    obs, weights = torch.randn(2 * STEPS, 3), torch.randn(2 * STEPS, 1)
    never = torch.zeros(2 * STEPS, dtype=torch.bool)

    def pytorchs(cut):
        cell = torch_cell(kind, params, 3)
        state, hidden = tuple(memory.values()) if kind is LSTM else memory["hidden"], []
        for t, x in enumerate(obs.view(2, STEPS, 3).unbind(1)):
            if t == cut:
                state = tuple(part.detach() for part in state) if kind is LSTM else state.detach()
            state = cell(x, state)
            hidden.append(state[0] if kind is LSTM else state)
        (torch.stack(hidden, 1).flatten(0, 1) * weights).sum().backward()
        return {f"cell.{name}": parameter.grad for name, parameter in cell.named_parameters()}

    def ours(rows):
        leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
        with torch.no_grad():
            half = obs.view(2, STEPS, 3)[:, : STEPS // 2].flatten(0, 1)
            _, middle = module.unroll(params, "", half, memory, never[:STEPS])
        begin = (
            memory
            if rows == 2
            else {k: torch.stack([v, middle[k]], 1).flatten(0, 1) for k, v in memory.items()}
        )
        leaves["output.weight"], leaves["output.bias"] = torch.ones(1, SIZE), torch.zeros(1)
        out, _ = module.unroll(leaves, "", obs, begin, never)
        (out * weights).sum().backward()
        return {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}

    full, truncated = ours(rows=2), ours(rows=4)
    torch.testing.assert_close(full, pytorchs(cut=None))
    torch.testing.assert_close(truncated, pytorchs(cut=STEPS // 2))
    assert not torch.allclose(full["cell.weight_hh"], truncated["cell.weight_hh"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_gate_begins_orthogonal_and_only_the_forget_gate_has_a_bias(kind):
    params = init_params(
        lambda: build(kind(SIZE, hidden=(SIZE,)), SPACE, 2, output_gain=0.01), torch.Generator()
    )
    for name in ("cell.weight_ih", "cell.weight_hh"):
        for gate in params[name].split(SIZE):
            torch.testing.assert_close(gate @ gate.T, torch.eye(SIZE))
    assert params["output.weight"].norm(dim=1).tolist() == pytest.approx([0.01, 0.01])
    biases = params["cell.bias_ih"] + params["cell.bias_hh"]
    forget = [1.0] * SIZE if kind is LSTM else [0.0] * SIZE  # the second of the LSTM's gates
    assert biases.tolist() == [0.0] * SIZE + forget + [0.0] * (len(biases) - 2 * SIZE)


@pytest.mark.parametrize("log_std", ["free", "shared"])
def test_a_policys_rows_are_its_steps(log_std):
    policy = Policy(LSTM(SIZE), EnvSpec("Test", SPACE, Box(-1, 1, (2,), np.float32)), log_std=log_std)
    params, memory, obs = policy.init(torch.Generator()), policy.first_memory(1), torch.randn(STEPS, 3)
    rows = policy.unroll(params, obs, memory, torch.zeros(STEPS, dtype=torch.bool))
    for t in range(STEPS):
        step, memory = policy.step(params, obs[t : t + 1], memory)
        torch.testing.assert_close(step.logprob(torch.ones(1, 2))[0], rows.logprob(torch.ones(STEPS, 2))[t])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LSTM(0), "LSTM.size = 0 is out of range"),
        (lambda: GRU(hidden=(0,)), r"GRU.hidden = \(0,\)"),
        (lambda: GRU(backprop_steps=0), "GRU.backprop_steps = 0 is out of range"),
        (lambda: DQN(network=LSTM()), "LSTM has a memory, which this algorithm does not carry"),
        (lambda: SAC(network=GRU()), "GRU has a memory, which this algorithm does not carry"),
        (lambda: build(LSTM(), SPACE, 1, action_size=2), "can neither join an action"),
        (lambda: build(LSTM(), SPACE, 1, ensemble=2), "nor be one of an ensemble"),
        (lambda: Policy(LSTM(), EnvSpec("Test", SPACE, Discrete(2)), head="score"), "computed once per step"),
        (lambda: Policy(LSTM(), EnvSpec("Test", SPACE, SPACE), log_std="separate"), "computed once per step"),
    ],
)
def test_what_a_memory_cannot_do_is_refused_in_words(make, words):
    with pytest.raises(UsageError, match=words):
        make()


def test_a_policy_without_a_memory_has_none():
    assert Policy(MLP(), EnvSpec("Test", SPACE, Discrete(2))).first_memory(3) is None
