"""Networks with a memory of the episode so far, which is passed on from step to step."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bellgrad.core.tree import Tree
from bellgrad.nets.encoder import Encoder
from bellgrad.nets.layers import Perceptron, check_layers, initialize
from bellgrad.nets.specs import ACTIVATIONS, GRU, LSTM, Recurrent
from bellgrad.ops.grads import Params

Memory = dict[str, Tensor]  # `[n, size]` each; "hidden" is what the rest of the network reads


def lstm_step(x: Tensor, weight: Tensor, bias: Tensor, memory: Memory) -> Memory:
    """One step of long short-term memory, with input, forget and output gates `i, f, o` and the candidate
    `g`.

        i, f, g, o = x + U h + b,   c' = sigmoid(f) c + sigmoid(i) tanh(g),   h' = sigmoid(o) tanh(c')

    Args:
        x: what the input adds to the gates, `[n, 4 * size]`.
        weight: U, `[4 * size, size]`.
        bias: b, `[4 * size]`.
        memory: `hidden` h and `cell` c.
    """
    i, f, g, o = (x + F.linear(memory["hidden"], weight, bias)).chunk(4, -1)
    cell = f.sigmoid() * memory["cell"] + i.sigmoid() * g.tanh()
    return {"hidden": o.sigmoid() * cell.tanh(), "cell": cell}


def gru_step(x: Tensor, weight: Tensor, bias: Tensor, memory: Memory) -> Memory:
    """One step of a gated recurrent unit, with reset and update gates `r, z` and the candidate `g`.

        r = sigmoid(x_r + U_r h + b_r),   z = sigmoid(x_z + U_z h + b_z),   g = tanh(x_g + r (U_g h + b_g)),
        h' = g + z (h - g)

    Args:
        x: what the input adds to the gates, `[n, 3 * size]`.
        weight: U, `[3 * size, size]`.
        bias: b, `[3 * size]`.
        memory: `hidden` h.
    """
    hidden = memory["hidden"]
    x_r, x_z, x_g = x.chunk(3, -1)
    h_r, h_z, h_g = F.linear(hidden, weight, bias).chunk(3, -1)
    g = (x_g + (x_r + h_r).sigmoid() * h_g).tanh()
    return {"hidden": g + (x_z + h_z).sigmoid() * (hidden - g)}


Cell = type[nn.LSTMCell] | type[nn.GRUCell]
# PyTorch's cells hold the parameters, in PyTorch's order of the gates; the functions above compute with them.
CELLS: dict[type[Recurrent], tuple[Cell, Callable[..., Memory], tuple[str, ...]]] = {
    LSTM: (nn.LSTMCell, lstm_step, ("hidden", "cell")),
    GRU: (nn.GRUCell, gru_step, ("hidden",)),
}


class RecurrentNetwork(nn.Module):
    """An encoder, fully connected layers, a memory, and a linear layer to the output.

    Args:
        spec: `LSTM` or `GRU`.
        observation_space: a Gymnasium space.
        outputs: numbers per item.
        output_gain: scale of the last layer's orthogonal weights.
    """

    def __init__(
        self, spec: Recurrent, observation_space: gymnasium.Space[Any], outputs: int, output_gain: float
    ):
        super().__init__()
        cell, self.step, self.names = CELLS[type(spec)]
        self.size, self.activation = spec.size, ACTIVATIONS[spec.activation]
        self.encoder = Encoder(observation_space, None)
        sizes = (self.encoder.features, *spec.hidden)
        self.before = (
            Perceptron(sizes, spec.activation, spec.initialization, math.sqrt(2)) if spec.hidden else None
        )
        check_layers((sizes[-1] + spec.size, 4 * spec.size))
        check_layers((spec.size, outputs))
        self.cell = cell(sizes[-1], spec.size)
        self.output = nn.Linear(spec.size, outputs)
        if spec.initialization == "orthogonal":
            self._initialize_cell()
            initialize(self.output, output_gain)

    def _initialize_cell(self) -> None:
        for weight in (self.cell.weight_ih, self.cell.weight_hh):
            for gate in torch.split(weight.detach(), self.size):
                nn.init.orthogonal_(gate)
        for bias in (self.cell.bias_ih, self.cell.bias_hh):
            nn.init.zeros_(bias)
        if "cell" in self.names:
            nn.init.ones_(self.cell.bias_ih.detach()[self.size : 2 * self.size])  # of the forget gate

    def first_memory(self, n: int) -> Memory:
        """The memory when an episode begins: zeros `[n, size]`."""
        return {name: torch.zeros(n, self.size) for name in self.names}

    def unroll(
        self, params: Params, prefix: str, obs: Tree, memory: Memory, ended: Tensor | None = None
    ) -> tuple[Tensor, Memory]:
        """`n` rows of `L` consecutive steps each, row after row; pure. Gradients flow back to the first step
        of each row.

        Args:
            params: every parameter by name.
            prefix: of this network's names in it.
            obs: `[n * L, *O]`.
            memory: before the first step of each row, `[n, size]`.
            ended: `[n * L]` bool, after which steps the memory starts again; None for rows of one step.

        Returns:
            The outputs `[n * L, outputs]`, and the memory after the last step of each row.
        """
        x = self.encoder.functional(params, f"{prefix}encoder.", obs)
        if self.before is not None:
            x = self.activation(self.before.functional(params, f"{prefix}before.", x))
        w = {
            name: params[f"{prefix}cell.{name}"] for name in ("weight_ih", "bias_ih", "weight_hh", "bias_hh")
        }
        rows = len(memory["hidden"])
        steps = torch.unflatten(F.linear(x, w["weight_ih"], w["bias_ih"]), 0, (rows, -1)).unbind(1)
        kept: Sequence[Tensor] = ()
        if ended is not None:
            kept = torch.unflatten((~ended).to(x.dtype), 0, (rows, -1)).unsqueeze(-1).unbind(1)
        hidden = []
        for t, step in enumerate(steps):
            if t:
                memory = {name: value * kept[t - 1] for name, value in memory.items()}
            memory = self.step(step, w["weight_hh"], w["bias_hh"], memory)
            hidden.append(memory["hidden"])
        out = torch.stack(hidden, 1).flatten(0, 1)
        return F.linear(out, params[f"{prefix}output.weight"], params[f"{prefix}output.bias"]), memory
