import json
import os
import resource

import pytest

from bellgrad.core.errors import CheckpointError
from bellgrad.runs import files
from bellgrad.runs.files import make_folder, read_json, write_atomic, write_json_atomic


def test_text_bytes_and_json_are_written_and_replaced(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    write_atomic(path, "größer")
    assert path.read_text(encoding="utf-8") == "größer"
    value = {"b": 1, "a": [0.1, None, float("inf")]}
    write_json_atomic(path, value)
    assert read_json(path) == value and list(read_json(path)) == ["b", "a"]
    assert os.listdir(tmp_path) == ["file"]


def test_a_failed_write_keeps_the_old_content_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "run.json"
    write_atomic(path, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(CheckpointError, match=r"run.json could not be written: File too large"):
            write_atomic(path, "x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["run.json"]


def test_the_name_changes_only_after_the_content_is_on_the_disk(tmp_path, monkeypatch):
    path, order = tmp_path / "run.json", []
    write_atomic(path, "old")
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(files.os, "fsync", lambda fd: (order.append(("fsync", path.read_text())), fsync(fd)))
    monkeypatch.setattr(
        files.os, "replace", lambda a, b: (order.append(("replace", path.read_text())), replace(a, b))
    )
    write_atomic(path, "new")
    assert order == [("fsync", "old"), ("replace", "old"), ("fsync", "new")]


def test_a_missing_folder_is_one_clear_line(tmp_path):
    with pytest.raises(CheckpointError, match="could not be written: No such file or directory"):
        write_atomic(tmp_path / "missing" / "file", "x")


def test_folders_are_made_with_their_parents(tmp_path):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize(
    "text", [b"", b"{", b'{"a": 1', b"\xff", b'{"a": 1, "a": 2}', b"[" * 100_000, b"9" * 5000]
)
def test_damaged_json_is_refused(tmp_path, text):
    path = tmp_path / "run.json"
    path.write_bytes(text)
    with pytest.raises(CheckpointError, match=r"run.json is damaged"):
        read_json(path)


def test_a_large_missing_or_odd_file_is_refused(tmp_path):
    path = tmp_path / "run.json"
    with pytest.raises(CheckpointError, match="No such file"):
        read_json(path)
    path.write_text(json.dumps("x" * 100))
    with pytest.raises(CheckpointError, match="too large"):
        read_json(path, limit=50)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(CheckpointError, match="link is a symbolic link"):
        read_json(tmp_path / "link")
    with pytest.raises(CheckpointError, match="not an ordinary file"):
        read_json(tmp_path)
