"""Settings come back from `run.json` as they were given, or are refused before anything is made."""

import enum
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bellgrad import api
from bellgrad.algos.dqn import DQN
from bellgrad.core.codec import plain, plain_from_json, plain_to_json, same
from bellgrad.core.errors import UsageError
from bellgrad.runs.settings import Settings

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
KEYS = SCALARS | st.tuples(st.integers(), st.text())
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.dictionaries(st.sampled_from(["kind", "items", "pairs"]), inner, max_size=3)
        | st.builds(lambda items: {"kind": "tuple", "items": items}, st.lists(inner, max_size=2))
    ),
    max_leaves=8,
)


def through_json(value):
    return json.loads(json.dumps(value))


@given(st.dictionaries(st.text(), VALUES, max_size=3))
def test_every_nesting_of_plain_values_comes_back_the_same(kwargs):
    settings = Settings(DQN(), "CartPole-v1", 100, env_kwargs=kwargs)
    back = Settings.from_json(through_json(settings.recorded("CartPole-v1")))
    assert same(back.env_kwargs, kwargs)


def test_numbers_of_numpy_become_pythons():
    given_ = {"a": np.float32(2.5), "b": (np.int64(3), [np.bool_(True)]), np.str_("c"): np.float64(0.1)}
    made = Settings(
        DQN(batch_size=np.int64(8)), "CartPole-v1", np.int64(100), seed=np.uint8(3), env_kwargs=given_
    )
    assert same(made.env_kwargs, {"a": 2.5, "b": (3, [True]), "c": 0.1})
    assert type(made.env_kwargs["a"]) is float and type(made.env_kwargs["b"][0]) is int
    assert (type(made.steps), type(made.seed), type(made.algorithm.batch_size)) == (int, int, int)


def test_equal_is_not_the_same_if_the_types_differ():
    assert not same((1, 2), [1, 2]) and not same(1, True) and not same({1: 2}, {1: 2.0})
    assert same(float("nan"), float("nan")) and same({"a": (1,)}, {"a": (np.int8(1),)})


def test_records_of_older_versions_are_read_as_they_were_written():
    old = {"gravity": -5.0, "size": [3, 4], "named": {"kind": "box", "items": 3}}
    assert plain_from_json(old) == old
    assert plain_to_json({"size": [3, 4]}) == {"size": [3, 4]}


class Color(enum.IntEnum):
    RED = 1


@dataclass
class Point:
    x: int = 1


@pytest.mark.parametrize(
    "value",
    [
        np.zeros(2),
        np.array(2.5),
        {1, 2},
        Path("a"),
        Color.RED,
        Point(),
        print,
        b"x",
        1j,
        object(),
        [(1, {"deep": {3}})],
        np.datetime64("2020-01-01"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_would_come_back_as_another_value_is_refused_before_anything_is_made(value, tmp_path):
    with pytest.raises(UsageError, match=r"env_kwargs\['size'\].* which run\.json cannot keep") as refused:
        api.train(DQN(), "CartPole-v1", 10, out=tmp_path / "run", env_kwargs={"size": value})
    assert "\n" not in str(refused.value) and list(tmp_path.iterdir()) == []


def test_the_name_of_an_argument_is_a_word():
    with pytest.raises(UsageError, match="names of arguments are words"):
        Settings(DQN(), "CartPole-v1", 10, env_kwargs={1: 2})


@dataclass(frozen=True)
class Chosen:
    """An algorithm with a field that JSON would turn into another value."""

    color: int = Color.RED
    gamma: float = 0.9

    def build(self, spec, steps=None):
        raise NotImplementedError


def test_a_field_of_an_algorithm_that_would_change_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(UsageError, match=r"algorithm = Chosen.* would come back"):
        api.train(Chosen(), "CartPole-v1", 10, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_plain_names_the_place():
    with pytest.raises(UsageError, match=r"^x\['a'\]\[1\] is \{3\} \(set\)"):
        plain({"a": [1, {3}]}, "x")
