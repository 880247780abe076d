"""A user's modules: the working folder comes first."""

import subprocess
import sys

import pytest

from bellgrad.core.errors import UsageError
from bellgrad.core.imports import import_users
from bellgrad.core.registry import ALGORITHMS
from bellgrad.envs.make import make_env

SOURCE = "from misbehaving import Counter as Mine\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["this", "antigravity_", "mine"])
def test_a_module_of_the_working_folder_comes_before_pythons_own(folder, name):
    (folder / f"{name}.py").write_text(SOURCE)
    assert make_env(f"{name}:Mine").spec.id == f"{name}:Mine"
    assert import_users(name).__file__ == str(folder / f"{name}.py")


def test_a_package_of_the_working_folder_too(folder):
    (folder / "this").mkdir()
    (folder / "this" / "__init__.py").write_text("")
    (folder / "this" / "sims.py").write_text(SOURCE)
    make_env("this.sims:Mine")


def test_the_search_path_is_as_before_but_for_the_folder_at_its_end(folder):
    (folder / "this.py").write_text(SOURCE)
    before = [*sys.path]
    import_users("this")
    assert sys.path in ([*before, str(folder)], before)


@pytest.mark.parametrize("path", ["sims/mine.py", "./sims/mine.py", "sims/../sims/mine.py"])
def test_a_file_can_be_named_by_its_path(folder, path):
    (folder / "sims").mkdir()
    (folder / "sims" / "mine.py").write_text(SOURCE)
    make_env(f"{path}:Mine")
    make_env(f"{path}:Mine", 2, backend="subprocess").close()


def test_a_file_that_is_not_there_or_whose_name_is_taken_is_said(folder):
    with pytest.raises(UsageError, match=r"cannot import the module 'no.py'.*there is no file no.py"):
        make_env("no.py:Mine")
    (folder / "json.py").write_text(SOURCE)
    with pytest.raises(UsageError, match=r"json.py must have another name.*already .*json/__init__.py"):
        make_env("./json.py:Mine")
    with pytest.raises(UsageError, match=r"'json'.*'Mine'.*json/__init__.py was read"):
        make_env("json:Mine")


def test_what_is_not_in_a_module_is_said_with_the_file_that_was_read(folder):
    (folder / "this.py").write_text(SOURCE)
    with pytest.raises(UsageError, match=rf"did you mean Mine\? \({folder}/this.py was read\)"):
        make_env("this:Mime")
    with pytest.raises(UsageError, match=rf"{folder}/this.py was read"):
        ALGORITHMS.find("this:Mime")


def test_a_module_with_nothing_of_the_kind_says_so(folder):
    (folder / "this.py").write_text("")
    words = rf"the module 'this' has no 'Mine', and nothing else .* environment \({folder}/this.py was read\)"
    with pytest.raises(UsageError, match=words):
        make_env("this:Mine")


@pytest.mark.parametrize(
    ("command", "words"),
    [("train ppo --env test:Base --steps 10", "test.py"), ("train test:Base --env CartPole-v1", "test.py")],
)
def test_the_command_line_reads_the_working_folders_file(folder, command, words):
    (folder / "test.py").write_text("class Other:\n    pass\n")
    said = subprocess.run(
        [sys.executable, "-m", "bellgrad.cli", *command.split()], capture_output=True, text=True, cwd=folder
    )
    assert said.returncode == 2 and f"{folder}/{words} was read" in said.stderr
