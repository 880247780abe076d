"""Shape checks. torch broadcasts `[B]` against `[B, 1]` to `[B, B]` without a warning, so every op checks
shapes first."""

from collections.abc import Mapping, Sequence

from torch import Tensor


def same_shape(**tensors: Tensor) -> None:
    """Check that named tensors have one shape; free under `torch.compile`.

    Raises:
        ValueError: naming every tensor and its shape.
    """
    first, *others = tensors.values()
    for other in others:
        if other.shape != first.shape:
            raise ValueError(f"shapes differ: {_names(tensors)}")


def has_shape(shape: Sequence[int], **tensors: Tensor) -> None:
    """Check that named tensors all have the given shape; free under `torch.compile`.

    Raises:
        ValueError: naming every tensor, its shape and the shape expected.
    """
    for tensor in tensors.values():
        if tuple(tensor.shape) != tuple(shape):
            raise ValueError(f"expected shape {list(shape)}, got {_names(tensors)}")


def same_params(**groups: Mapping[str, Tensor]) -> None:
    """Check that named dictionaries of tensors have the same names and, name by name, the same shape.

    Raises:
        ValueError: naming the first difference.
    """
    (first_name, first), *others = groups.items()
    for other_name, other in others:
        if first.keys() != other.keys():
            raise ValueError(
                f"{first_name} and {other_name} differ in their names: {sorted(first.keys() ^ other.keys())}"
            )
        for name, tensor in first.items():
            if other[name].shape != tensor.shape:
                shapes = f"{first_name} {list(tensor.shape)}, {other_name} {list(other[name].shape)}"
                raise ValueError(f"shapes of {name!r} differ: {shapes}")


def _names(tensors: dict[str, Tensor]) -> str:
    return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
