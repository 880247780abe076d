"""Trees of tensors: what goes in comes out, whatever the structure."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bellgrad.core.errors import CheckpointError
from bellgrad.core.tree import (
    concat,
    leaves,
    map_tree,
    named_leaves,
    nest,
    restore_tree,
    stack,
    to_device,
    tree_bytes,
    where,
)


class Pair(NamedTuple):
    first: object
    second: object


tensors = st.builds(
    lambda shape, number: torch.full(shape, float(number)),
    st.lists(st.integers(0, 3), max_size=2),
    st.integers(0, 99),
)
names = st.text("abc01_./~", max_size=4)
folders = st.recursive(
    tensors, lambda inner: st.dictionaries(names, inner, min_size=1, max_size=3), max_leaves=8
)
trees = st.recursive(
    tensors | st.none(),
    lambda inner: (
        st.dictionaries(names, inner, max_size=3)
        | st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.builds(Pair, inner, inner)
    ),
    max_leaves=8,
)


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)  # the order too
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, tuple | list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)


@given(st.dictionaries(names, folders, min_size=1, max_size=3))
@settings(max_examples=80, deadline=None)
def test_flattening_and_nesting_gives_the_dictionaries_back(tree):
    assert_same(nest(named_leaves(tree)), tree)


@given(trees)
@settings(max_examples=80, deadline=None)
def test_flattening_and_restoring_gives_any_tree_back(tree):
    template = map_tree(torch.zeros_like, tree)
    assert_same(restore_tree(template, named_leaves(tree, "run"), "run"), tree)


@given(trees)
@settings(max_examples=80, deadline=None)
def test_mapping_keeps_the_structure_and_every_leaf_has_its_own_name(tree):
    assert_same(map_tree(lambda leaf: leaf, tree), tree)
    doubled = map_tree(lambda a, b: a + b, tree, tree)
    assert len(named_leaves(tree)) == len(leaves(tree)) == len(leaves(doubled))
    for a, b in zip(leaves(doubled), leaves(tree), strict=True):
        assert torch.equal(a, 2 * b)


TREE = {"b": Pair(torch.arange(3), None), "a": [torch.zeros(2, 2), (torch.ones(()),)]}


def test_names_are_paths_in_the_trees_own_order():
    assert list(named_leaves(TREE)) == ["b/first", "a/0", "a/1/0"]
    assert list(named_leaves(TREE, "x")) == ["x/b/first", "x/a/0", "x/a/1/0"]
    assert list(named_leaves(torch.ones(1), "x")) == ["x"] and named_leaves(None, "x") == {}


def test_trees_of_other_structure_do_not_pass_for_the_same():
    with pytest.raises(ValueError):
        map_tree(lambda a, b: a, [torch.ones(1)], [torch.ones(1), torch.ones(1)])
    with pytest.raises(KeyError):
        map_tree(lambda a, b: a, {"a": torch.ones(1)}, {"b": torch.ones(1)})


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({}, "has no tensor 'x/b/first'"),
        ({"x/b/first": torch.arange(4)}, r"'x/b/first' is torch.int64 \[4\], expected torch.int64 \[3\]"),
        ({"x/b/first": torch.zeros(3)}, r"'x/b/first' is torch.float32 \[3\], expected torch.int64 \[3\]"),
    ],
)
def test_what_does_not_fit_the_template_is_named(named, words):
    with pytest.raises(CheckpointError, match=words):
        restore_tree(TREE, named, "x")


def test_restoring_leaves_alone_what_the_template_does_not_ask_for():
    restored = restore_tree({"a": torch.zeros(1)}, {"a": torch.ones(1), "b": torch.ones(9)})
    assert list(restored) == ["a"] and restored["a"].item() == 1


def test_stacking_and_joining_by_hand():
    one, two = Pair({"x": torch.tensor([1, 2])}, None), Pair({"x": torch.tensor([3, 4])}, None)
    assert stack([one, two]).first["x"].tolist() == [[1, 2], [3, 4]] and stack([one, two]).second is None
    assert stack([one, two], dim=1).first["x"].tolist() == [[1, 3], [2, 4]]
    assert concat([one, two]).first["x"].tolist() == [1, 2, 3, 4]


def test_where_chooses_per_item_whatever_the_other_axes():
    mask = torch.tensor([True, False])
    yes, no = ({"a": torch.full((2,), v), "b": torch.full((2, 3, 4), v), "c": None} for v in (1.0, 2.0))
    chosen = where(mask, yes, no)
    assert chosen["a"].tolist() == [1, 2] and chosen["c"] is None
    assert (chosen["b"][0] == 1).all() and (chosen["b"][1] == 2).all()
    assert where(mask, None, None) is None


def test_bytes_are_those_of_the_numbers():
    assert tree_bytes(TREE) == 3 * 8 + 4 * 4 + 4
    assert tree_bytes(None) == 0


def test_moving_a_tree_moves_every_leaf():
    moved = to_device(TREE, "meta")
    assert {leaf.device.type for leaf in leaves(moved)} == {"meta"} and moved["b"].second is None


def test_a_leaf_that_was_renamed_is_found_under_its_former_name():
    template = {"visits": torch.zeros(2), "last_episode": torch.zeros(3)}
    saved = {"loop/visits": torch.ones(2), "loop/seen": torch.full((3,), 7.0)}
    restored = restore_tree(template, saved, "loop")
    assert restored["last_episode"].tolist() == [7.0] * 3 and restored["visits"].tolist() == [1.0] * 2
    with pytest.raises(CheckpointError, match="no tensor 'loop/chance'"):
        restore_tree({"action_probability": torch.zeros(1)}, saved, "loop")


def test_names_of_leaves_are_unique_whatever_the_keys():
    keys = ["a/b", "a", "", "/", "~", "~1", "a~1b", "~0", "b"]
    tree = {key: {other: torch.tensor(1.0) for other in keys} for key in keys}
    tree |= {f"{a}/{b}": torch.tensor(2.0) for a in keys for b in keys if f"{a}/{b}" not in keys}
    named = named_leaves(tree, "loop/obs")
    assert len(named) == len(leaves(tree)) == len(keys) ** 2 + len(tree) - len(keys)
    assert nest(named) == {"loop": {"obs": tree}}
    assert named_leaves({"camera": {"left eye": tree["a"]["b"]}}).keys() == {"camera/left eye"}
