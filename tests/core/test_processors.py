import os

import pytest

from bellgrad.core import processors as module
from bellgrad.core.processors import processors
from bellgrad.envs import worker
from bellgrad.training import engine


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine of 8 processors without limits; gives what sets limits."""

    def limited(bound_to=8, membership="0::/\n", **files):
        monkeypatch.setattr(os, "cpu_count", lambda: 8)
        monkeypatch.setattr(os, "process_cpu_count", lambda: 8, raising=False)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(bound_to)), raising=False)
        monkeypatch.setattr(module, "CGROUPS", tmp_path)
        monkeypatch.setattr(module, "MEMBERSHIP", tmp_path / "membership")
        (tmp_path / "membership").write_text(membership)
        for path, text in files.items():
            file = tmp_path / path.replace("__", "/").replace("_DOT_", ".")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return processors()

    return limited


def test_without_limits_it_is_the_machine(machine):
    assert machine() == 8


def test_a_process_bound_to_some_processors_has_those(machine):
    assert machine(bound_to=1) == 1


@pytest.mark.parametrize(
    ("quota", "count"), [("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1), ("max 100000", 8)]
)
def test_a_container_of_version_2_has_its_quota_rounded_down(machine, quota, count):
    assert machine(cpu_DOT_max=quota) == count


def test_a_group_is_limited_by_those_around_it(machine):
    files = {"a__cpu_DOT_max": "300000 100000", "a__b__cpu_DOT_max": "max 100000"}
    assert machine(membership="0::/a/b\n", **files) == 3
    assert machine(membership="0::/a/b\n", bound_to=2, **files) == 2


@pytest.mark.parametrize(("quota", "count"), [("400000", 4), ("-1", 8)])
def test_a_container_of_version_1_has_its_quota(machine, quota, count):
    names = {"cpu__x__cpu_DOT_cfs_quota_us": quota, "cpu__x__cpu_DOT_cfs_period_us": "100000"}
    assert machine(membership="4:memory:/y\n3:cpu,cpuacct:/x\n", **names) == count


def test_what_cannot_be_read_is_no_limit(machine):
    assert machine(membership="nonsense\n0::/../..\n", cpu_DOT_max="?") == 8


def test_workers_and_threads_are_counted_in_the_same_way():
    assert worker.processors is engine.processors is processors
