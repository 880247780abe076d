"""Errors for people: one line, an exit code, and the nearest right name."""

import math
from dataclasses import dataclass

import pytest

from bellgrad.core.errors import (
    BellgradError,
    CheckpointError,
    EnvironmentFault,
    UsageError,
    check_range,
    missing_extra,
    unknown,
)


def test_each_kind_has_its_own_exit_code():
    codes = [cls.exit_code for cls in (BellgradError, UsageError, EnvironmentFault, CheckpointError)]
    assert codes == [1, 2, 3, 4]
    assert all(issubclass(cls, BellgradError) for cls in (UsageError, EnvironmentFault, CheckpointError))


def test_a_wrong_name_gets_the_nearest_right_ones():
    assert (
        str(unknown("algorithm", "pp0", ["ppo", "dqn", "sac"]))
        == "unknown algorithm 'pp0'; did you mean ppo?"
    )
    assert str(unknown("run", "ab1", ["ab2", "ab3", "zz"])) in (
        "unknown run 'ab1'; did you mean ab2 or ab3?",
        "unknown run 'ab1'; did you mean ab3 or ab2?",
    )


def test_a_name_near_nothing_gets_all_of_them():
    assert str(unknown("algorithm", "xyz", ["sac", "dqn"])) == "unknown algorithm 'xyz'; known: dqn, sac"
    assert isinstance(unknown("algorithm", "xyz", iter(["sac"])), UsageError)


def test_a_missing_extra_gets_the_exact_command():
    error = missing_extra("onnx", "onnx")
    assert isinstance(error, UsageError) and str(error).endswith("pip install 'bellgrad[onnx]'")


@dataclass(frozen=True)
class Config:
    gamma: float = 0.99
    size: int = 4

    def __post_init__(self):
        check_range(self, gamma=(0, 1), size=(1, 1e6))


@pytest.mark.parametrize("gamma", [0, 1, 0.5])
def test_bounds_are_inside(gamma):
    assert Config(gamma).gamma == gamma


@pytest.mark.parametrize(("fields", "words"), [
    ({"gamma": 1.01}, r"Config\.gamma = 1\.01 is out of range \[0, 1\]"),
    ({"gamma": -1e-9}, r"Config\.gamma = -1e-09 is out of range"),
    ({"gamma": math.nan}, r"Config\.gamma = nan is out of range"),
    ({"gamma": math.inf}, r"Config\.gamma = inf is out of range"),
    ({"size": 0}, r"Config\.size = 0 is out of range \[1, 1e\+06\]"),
])  # fmt: skip
def test_a_field_out_of_range_is_named_with_its_value_and_its_range(fields, words):
    with pytest.raises(UsageError, match=words):
        Config(**fields)
