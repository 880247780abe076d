"""Capturing a pure function: its operations on tensors, written as the text of a Python function.

The function runs once on tensors without memory (torch's `make_fx`), and what it does to tensors is written
down. So nothing has to be known of its Python code, and two functions with the same text, shapes and dtypes
are the same graph. Whatever a function reads that is not an argument becomes a further input: numbers of its
configuration (see `inputs.py`), and tensors that its objects hold.
"""

import hashlib
import json
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from bellgrad.core.tree import Tree, leaves
from bellgrad.graphs.inputs import WeakNumbers, with_inputs
from bellgrad.graphs.structure import builder, flattener
from bellgrad.ops.grads import capturing

_ONE_AT_A_TIME = threading.Lock()  # torch patches `nn.Module` for all threads while it traces


class Graph(NamedTuple):
    """A captured function.

    Attributes:
        text: a Python function `forward(self, *tensors)` that gives a list of tensors.
        inputs: shape, strides and dtype of each tensor: those of the arguments, then `further`.
        further: the tensors that follow those of the arguments.
        flatten: the tensors of a call's arguments `(args)`, in order.
        build: the function's result, from its list of tensors.
    """

    text: str
    inputs: list[tuple[list[int], list[int], str]]
    further: list[Tensor]
    flatten: Callable[[tuple[Tree, ...]], list[Tensor]]
    build: Callable[[list[Tensor]], Tree]

    def to_json(self) -> dict[str, Any]:
        """What a compiler needs to know."""
        return {"text": self.text, "inputs": self.inputs}

    def key(self, **more: Any) -> str:
        """A name for all that determines the native code, together with `more`, which is JSON-able."""
        record = json.dumps(self.to_json() | more, sort_keys=True)
        return hashlib.sha256(record.encode()).hexdigest()[:32]


def capture(fn: Callable[..., Tree], args: tuple[Tree, ...]) -> Graph:
    """The graph of `fn(*args)`. If `fn` does with a number of its configuration what cannot be done with a
    tensor, all of them are parts of the graph, and other numbers make another graph.

    Args:
        fn: a pure function of trees of tensors, which may change its arguments' tensors in place.
        args: whose shapes, strides and dtypes hold for every later call; they are not changed.

    Raises:
        Exception: whatever `fn` raises, or torch if `fn` needs to know what is in a tensor.
    """
    try:
        return _capture(fn, args, as_inputs=True)
    except Exception:
        return _capture(fn, args, as_inputs=False)


def _capture(fn: Callable[..., Tree], args: tuple[Tree, ...], as_inputs: bool) -> Graph:
    given = leaves(args)
    flatten, fill = flattener(args), builder(args)
    values: list[float] = []
    if as_inputs:
        with_inputs(fn, values.append)  # in the order in which the copy below asks for them
    numbers = [torch.tensor(value, dtype=torch.float64) for value in values]
    result: list[Tree] = []

    def on_tensors(*tensors: Tensor) -> list[Tensor]:
        arguments, own = fill(list(tensors[: len(given)])), list(tensors[len(given) :])
        following = iter(own)
        with WeakNumbers(own, values):
            function = with_inputs(fn, lambda _: next(following)) if as_inputs else fn
            result.append(function(*arguments))
        return leaves(result[-1])

    fake = FakeTensorMode(allow_non_fake_inputs=True)
    objects = [tensor.detach() for tensor in (*given, *numbers)]  # a tensor given twice is two inputs
    without_memory = [fake.from_tensor(tensor) for tensor in objects]
    with _ONE_AT_A_TIME, capturing(), torch.no_grad(), fake:
        module = make_fx(on_tensors, _allow_non_fake_inputs=True)(*without_memory)
    if any(node.target is torch.ops.aten._local_scalar_dense.default for node in module.graph.nodes):
        raise ValueError("it needs to know a number that is in a tensor")
    further = _lift(module, len(given), numbers)
    inputs = [layout(tensor) for tensor in (*given, *further)]
    return Graph(module.code, inputs, further, flatten, builder(result[-1]))


def _lift(module: fx.GraphModule, given: int, numbers: list[Tensor]) -> list[Tensor]:
    """Make inputs of the tensors that the graph holds, leave out the numbers it does not use; the inputs that
    follow those of the arguments."""
    graph, further = module.graph, []
    places = [node for node in graph.nodes if node.op == "placeholder"]
    for node, number in zip(places[given:], numbers, strict=True):
        if node.users:
            further.append(number)
        else:
            graph.erase_node(node)
    held: dict[str, fx.Node] = {}
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    for node in [node for node in graph.nodes if node.op == "get_attr"]:
        if node.target not in held:
            with graph.inserting_after(last):
                held[node.target] = last = graph.placeholder(node.target)
            further.append(getattr(module, node.target).detach())
        node.replace_all_uses_with(held[node.target])
        graph.erase_node(node)
    module.recompile()
    return further


def layout(tensor: Tensor) -> tuple[list[int], list[int], str]:
    """Its shape, strides and dtype."""
    return list(tensor.shape), list(tensor.stride()), str(tensor.dtype).removeprefix("torch.")
