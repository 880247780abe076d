"""Numbers of a configuration as inputs of a graph, so that runs which differ in numbers share one.

While a function is captured, every float of the objects that it belongs to is a tensor without axes. Python's
rules for floats hold for it: in an operation with a tensor it takes that tensor's dtype, and where Python
needs its value (a comparison, `bool`, `math.log`) the value is used and becomes a part of the graph.
"""

import copy
from collections.abc import Callable
from dataclasses import is_dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

# Operations for which Python needs the value, without the underscores around their names.
COMPARISONS = {"eq", "ne", "lt", "le", "gt", "ge"}
VALUES = {"bool", "float", "int", "item"}
# Parts of the object a function belongs to whose numbers may be inputs, besides frozen dataclasses.
PARTS = ("learner", "actor")


def with_inputs(fn: Callable[..., Any], make: Callable[[float], Any]) -> Callable[..., Any]:
    """A bound method of a copy of its object in which `make(number)` is in place of each float of the
    object's frozen dataclasses, of its `learner` and of its `actor`; any other function as it is."""
    root = getattr(fn, "__self__", None)
    if root is None:
        return fn
    opened = {id(root): root}
    waiting = [root]
    while waiting:
        one = waiting.pop()
        parts = [part for name in PARTS if (part := getattr(one, name, None)) is not None]
        waiting += [part for part in parts if id(part) not in opened]
        opened |= {id(part): part for part in parts}
    copies: dict[int, Any] = {}

    def swap(value: Any) -> Any:
        if type(value) is float:
            return make(value)
        if isinstance(value, MethodType):
            return MethodType(value.__func__, swap(value.__self__))
        if type(value) in (tuple, list):
            return type(value)(map(swap, value))
        if type(value) is dict:
            return {key: swap(item) for key, item in value.items()}
        if isinstance(value, type) or not (is_dataclass(value) or id(value) in opened):
            return value
        if id(value) not in copies:
            copies[id(value)] = twin = copy.copy(value)
            vars(twin).update({name: swap(item) for name, item in vars(value).items()})
        return copies[id(value)]

    swapped: Callable[..., Any] = swap(fn)
    return swapped


class WeakNumbers(TorchFunctionMode):
    """Makes tensors follow Python's rules for floats.

    Args:
        numbers: the tensors, `[]` float64.
        values: what they stand for.
    """

    def __init__(self, numbers: list[Tensor], values: list[float]):
        super().__init__()
        # the tensor is kept, so that no other one gets its id
        self._values = {id(n): (n, value) for n, value in zip(numbers, values, strict=True)}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [*args, *kwargs.values()]
        if not any(self._is_number(x) for x in given):
            return func(*args, **kwargs)
        others = [x for x in _tensors(given) if not self._is_number(x)]
        name = getattr(func, "__name__", "").strip("_")
        if name in VALUES or (name in COMPARISONS and not others):
            result = self._exactly(func, args, kwargs)
            return bool(result) if isinstance(result, Tensor) else result
        if not others:
            return self._of_numbers(func, args, kwargs)
        dtype = next((x.dtype for x in others if x.is_floating_point()), torch.get_default_dtype())

        def call(fit: Callable[[Any], Any]) -> Any:
            return func(*map(fit, args), **{name: fit(x) for name, x in kwargs.items()})

        try:
            return call(lambda x: x.to(dtype) if self._is_number(x) else x)
        except Exception:  # an operation that takes a Python float only
            return call(lambda x: self._values[id(x)][1] if self._is_number(x) else x)

    def _of_numbers(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What is worked out from numbers alone is such a number too."""
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and result.shape == () and result.dtype == torch.float64:
            self._values[id(result)] = (result, float(self._exactly(func, args, kwargs)))
        return result

    def _exactly(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The operation on real tensors, outside of the graph."""
        with _disable_current_modes():

            def real(x: Any) -> Any:
                return torch.tensor(self._values[id(x)][1], dtype=x.dtype) if self._is_number(x) else x

            return func(*map(real, args), **{name: real(x) for name, x in kwargs.items()})

    def _is_number(self, value: Any) -> bool:
        return isinstance(value, Tensor) and id(value) in self._values


def _tensors(values: list[Any]) -> list[Tensor]:
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, tuple | list):
            found += _tensors(list(value))
    return found
