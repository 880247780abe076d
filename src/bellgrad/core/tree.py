"""Trees of tensors: nested NamedTuples, tuples, lists and dicts, with tensors (or None) at the leaves.

Dictionaries keep their own order. A leaf's name is its path joined by `/`, for example `params/0.weight`. In
a dictionary's key `/` is written `~1` and `~` is `~0`, as in a JSON pointer, and an empty key is `~`: two
leaves never have one name.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from bellgrad.core.errors import CheckpointError

Tree = Any  # Tensor | None | NamedTuple | tuple[Tree, ...] | list[Tree] | dict[str, Tree]
T = TypeVar("T")  # a tree whose type is known


def is_record(node: Tree) -> bool:
    """Whether a node is a NamedTuple."""
    return isinstance(node, tuple) and hasattr(node, "_fields")


def _children(node: Tree) -> Iterator[tuple[str, Tree]]:
    if is_record(node):
        yield from zip(node._fields, node, strict=True)
    elif isinstance(node, tuple | list):
        yield from ((str(i), child) for i, child in enumerate(node))
    elif isinstance(node, Mapping):
        yield from ((escaped(key), child) for key, child in node.items())


def escaped(key: Any) -> str:
    """A dictionary's key as a part of a name."""
    name = str(key)
    return name.replace("~", "~0").replace("/", "~1") or "~"


def _unescaped(part: str) -> str:
    return "" if part == "~" else part.replace("~1", "/").replace("~0", "~")


def _is_inner(node: Tree) -> bool:
    return isinstance(node, tuple | list | Mapping)


def map_tree(fn: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """Apply `fn` to the leaves of trees of equal structure and return a tree of the results; None stays
    None."""
    if isinstance(tree, Tensor) or not _is_inner(tree):  # the test for a tensor is much faster
        return None if tree is None else fn(tree, *others)
    if isinstance(tree, Mapping):
        return {key: map_tree(fn, child, *(o[key] for o in others)) for key, child in tree.items()}
    children = [map_tree(fn, *nodes) for nodes in zip(tree, *others, strict=True)]
    return type(tree)(*children) if is_record(tree) else type(tree)(children)


def named_leaves(tree: Tree, prefix: str = "") -> dict[str, Tensor]:
    """Every tensor of a tree by its path; None leaves are left out."""
    if tree is None:
        return {}
    if not _is_inner(tree):
        return {prefix: tree}
    named: dict[str, Tensor] = {}
    for name, child in _children(tree):
        named |= named_leaves(child, f"{prefix}/{name}" if prefix else name)
    return named


def leaves(tree: Tree) -> list[Tensor]:
    """Every tensor of a tree, in order."""
    if isinstance(tree, Tensor) or not _is_inner(tree):
        return [] if tree is None else [tree]
    children = tree.values() if isinstance(tree, Mapping) else tree
    return [leaf for child in children for leaf in leaves(child)]


def nest(named: Mapping[str, Tensor]) -> dict[str, Any]:
    """Nested dictionaries from `a/b/c` names: the inverse of `named_leaves` for trees made of
    dictionaries."""
    tree: dict[str, Any] = {}
    for path, leaf in named.items():
        *folders, last = map(_unescaped, path.split("/"))
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = leaf
    return tree


# Leaves that have another name in older checkpoints.
FORMER_NAMES = {
    "behavior": "behaviour",
    "last_episode": "seen",
    "action_probability": "chance",
    "visited_states": "found",
    "num_visited": "num_found",
}


def restore_tree(template: Tree, named: Mapping[str, Tensor], prefix: str = "") -> Tree:
    """A tree with the structure of `template` and the tensors of `named`, on the template's devices. A name
    that is missing is looked up under its name in older versions.

    Raises:
        CheckpointError: a name is missing, or its shape or dtype differs from the template's.
    """

    def pick(path: str, like: Tensor) -> Tensor:
        if path not in named:
            path = "/".join(FORMER_NAMES.get(part, part) for part in path.split("/"))
        if path not in named:
            raise CheckpointError(f"the checkpoint has no tensor {path!r}")
        tensor = named[path]
        if tensor.shape != like.shape or tensor.dtype != like.dtype:
            raise CheckpointError(
                f"the checkpoint's {path!r} is {tensor.dtype} {list(tensor.shape)}, expected {like.dtype}"
                f" {list(like.shape)}"
            )
        return tensor.to(like.device)

    picked = iter([pick(path, like) for path, like in named_leaves(template, prefix).items()])
    return map_tree(lambda _: next(picked), template)


def to_device(tree: Tree, device: torch.device | str) -> Tree:
    """The tree with every tensor on `device`."""
    return map_tree(lambda leaf: leaf.to(device), tree)


def stack(trees: list[T], dim: int = 0) -> T:
    """Stack trees of equal structure leaf by leaf along a new axis."""
    stacked: T = map_tree(lambda *nodes: torch.stack(nodes, dim), trees[0], *trees[1:])
    return stacked


def concat(trees: list[T], dim: int = 0) -> T:
    """Concatenate trees of equal structure leaf by leaf along an axis."""
    joined: T = map_tree(lambda *nodes: torch.cat(nodes, dim), trees[0], *trees[1:])
    return joined


def index_tree(tree: T, *index: int | Tensor) -> T:
    """The tree with an index taken on the leading axes of every leaf."""
    indexed: T = map_tree(lambda leaf: leaf[index], tree)
    return indexed


def flat(tree: T) -> T:
    """The tree with the first two axes of every leaf as one."""
    flattened: T = map_tree(lambda leaf: leaf.flatten(0, 1), tree)
    return flattened


def tree_bytes(tree: Tree) -> int:
    """Bytes that the tensors of a tree take."""
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves(tree))


def where(mask: Tensor, yes: Tree, no: Tree) -> Tree:
    """Choose per item along the first axis; `mask [B]` bool, leaves `[B, ...]`."""

    def choose(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(mask.reshape(mask.shape + (1,) * (a.dim() - mask.dim())), a, b)

    return map_tree(choose, yes, no)
