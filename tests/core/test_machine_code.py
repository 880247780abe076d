"""Machine code on disk, where there is a disk."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core.caching import NullCache

import bellgrad
from bellgrad.core import forks
from bellgrad.core.errors import UsageError
from bellgrad.core.machine_code import KeptCode, cached_njit, is_kept, numba_threads


def double(x):
    return 2 * x


@pytest.fixture
def no_folder(monkeypatch):
    monkeypatch.setattr("numba.core.caching.CompileResultCacheImpl._locator_classes", [])


def test_without_a_folder_functions_are_compiled_and_not_kept(no_folder):
    function = cached_njit(double)
    assert isinstance(function._cache, NullCache) and not is_kept()
    assert function(4) == 8 and function(0.5) == 1.0


def test_with_a_folder_they_are_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    first, second = cached_njit(double), cached_njit(double)
    assert is_kept() and first(3) == second(3) == 6
    assert list(tmp_path.rglob("*.nbc"))
    assert (first.stats.cache_hits.total(), second.stats.cache_hits.total()) == (0, 1)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_cannot_be_written_ends_nothing(code, monkeypatch, tmp_path):
    def fails(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    function = cached_njit(double)
    monkeypatch.setattr(function._cache._cache_file, "save", fails)
    assert function(3) == 6 and function(1.5) == 3.0


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x80\x04N."])
def test_a_damaged_file_is_compiled_anew(content, monkeypatch, tmp_path):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    cached_njit(double)(3)
    for path in (*tmp_path.rglob("*.nbi"), *tmp_path.rglob("*.nbc")):
        path.write_bytes(content)
    assert cached_njit(double)(3) == 6


def test_every_compiled_function_is_kept_in_this_way():
    direct = [
        path.name
        for path in Path(bellgrad.__file__).parent.rglob("*.py")
        if "cache=True)" in path.read_text() and path.name != "machine_code.py"
    ]
    assert not direct


WITHOUT_A_CACHE = """
import sys
from numba.core import caching
caching.CompileResultCacheImpl._locator_classes = []
import bellgrad as bg
from bellgrad.cli import main
assert main(["solve", "FrozenLake-v1", "--gamma", "0.9", "--quiet"]) == 0
train = "train q_learning --env FrozenLake-v1 --steps 500 --quiet --out"
assert main([*train.split(), sys.argv[1]]) == 0
"""


def test_solving_and_training_work_without_a_cache(tmp_path):
    command = [sys.executable, "-c", WITHOUT_A_CACHE, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr


def test_numba_threads_are_refused_if_they_were_lost_in_a_fork(monkeypatch):
    with numba_threads(1):
        assert numba.get_num_threads() == 1
    monkeypatch.setattr(forks, "_lost_numba", True)
    with pytest.raises(UsageError, match="spawn"), numba_threads(1):
        pass


def test_kept_code_is_numbas_own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    function = cached_njit(parallel=True)(double)
    assert type(function._cache) is KeptCode
    assert function(np.arange(3)).tolist() == [0, 2, 4]
