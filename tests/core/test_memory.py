"""The memory that is left, read from made-up Linux files."""

import pytest

from bellgrad.core.memory import available_bytes


@pytest.fixture
def machine(tmp_path):
    """Writes files under a made-up root; 1,000 kB are free on the machine."""

    def write(**files):
        for name, text in {"proc/meminfo": "MemTotal: 2000 kB\nMemAvailable:   1000 kB\n", **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def group(folder, limit, usage, cache, names=("memory.max", "memory.current", "inactive_file")):
    return {
        f"{folder}/{names[0]}": limit,
        f"{folder}/{names[1]}": usage,
        f"{folder}/memory.stat": f"anon 1\n{names[2]} {cache}\n",
    }


V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def test_without_control_groups_it_is_what_the_machine_has_left(machine):
    assert available_bytes("cpu", machine()) == 1_024_000


def test_a_control_group_allows_less_and_its_page_cache_is_free(machine):
    files = {"proc/self/cgroup": "0::/job/a\n"} | group("sys/fs/cgroup/job/a", "max\n", "5", 0)
    assert (
        available_bytes("cpu", machine(**files, **group("sys/fs/cgroup/job", "900\n", "500\n", 100)))
        == 900 - 500 + 100
    )


def test_the_first_version_of_control_groups_is_read_too(machine):
    files = {"proc/self/cgroup": "3:cpu:/x\n4:memory:/x\n0::/\n"}
    assert (
        available_bytes("cpu", machine(**files, **group("sys/fs/cgroup/memory/x", "700", "100", 0, V1)))
        == 600
    )


def test_in_a_container_the_top_group_counts(machine):
    files = {"proc/self/cgroup": "0::/../host/path\n"}
    assert available_bytes("cpu", machine(**files, **group("sys/fs/cgroup", "800", "900", 0))) == 0


def test_this_machine_answers():
    left = available_bytes("cpu")
    assert left is None or left > 0
