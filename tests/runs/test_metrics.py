import json
import math
import resource
import sys

import numpy
import pytest
import torch

from bellgrad.core.errors import CheckpointError
from bellgrad.runs.metrics import MetricsWriter
from bellgrad.runs.reading import read_metrics


def without_tensorboard(monkeypatch):
    for name in [
        name for name in sys.modules if name.startswith("tensorboard.")
    ]:  # imported by an earlier test
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # importing it raises ImportError


def write(folder, steps, resume_bytes=None) -> int:
    writer = MetricsWriter(folder, resume_bytes)
    for step in steps:
        writer.write({"step": step, "loss": 1 / (step + 3)})
    size = writer.size
    writer.close()
    writer.close()
    return size


def test_records_come_back_with_every_bit_of_their_floats(tmp_path, monkeypatch):
    without_tensorboard(monkeypatch)
    writer = MetricsWriter(tmp_path)
    single = torch.tensor(0.1)  # float32: 0.100000001490116...
    record = {
        "step": 1,
        "a": 0.1 + 0.2,
        "tiny": 5e-324,
        "tensor": single,
        "count": torch.tensor(3),
        "numpy": numpy.float64(1 / 3),
    }
    writer.write(record | {"name": "größe", "flag": True, "list": [1, 2.5], "nested": {"x": numpy.int64(2)}})
    writer.close()
    (read,) = read_metrics(tmp_path)
    assert (
        read["a"] == 0.1 + 0.2
        and read["tiny"] == 5e-324
        and read["tensor"] == single.item()
        and read["numpy"] == 1 / 3
    )
    assert (read["count"], read["name"], read["flag"], read["list"], read["nested"]) == (
        3,
        "größe",
        True,
        [1, 2.5],
        {"x": 2},
    )
    assert list(read)[:2] == ["step", "a"]
    assert not (tmp_path / "tensorboard").exists()


def test_nan_and_infinities_become_null_so_that_any_reader_can_read_them(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write(
        {
            "step": 0,
            "nan": math.nan,
            "inf": torch.tensor(math.inf),
            "nested": [numpy.float32("-inf")],
            "number": 1.0,
        }
    )
    writer.close()
    strict = json.loads(
        (tmp_path / "metrics.jsonl").read_text(), parse_constant=lambda text: pytest.fail(text)
    )
    assert strict == {"step": 0, "nan": None, "inf": None, "nested": [None], "number": 1.0}


def test_a_record_is_in_the_file_when_write_returns(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write({"step": 0})
    assert read_metrics(tmp_path) == [{"step": 0}]
    assert writer.size == (tmp_path / "metrics.jsonl").stat().st_size == len('{"step": 0}\n')
    writer.close()


def test_a_killed_and_resumed_run_ends_with_the_same_lines(tmp_path, monkeypatch):
    without_tensorboard(monkeypatch)
    write(tmp_path / "whole", range(10))
    at_checkpoint = write(tmp_path / "killed", range(4))
    write(tmp_path / "killed", range(4, 7), at_checkpoint)
    with open(tmp_path / "killed" / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 7, "lo')  # the kill came in the middle of a line
    write(tmp_path / "killed", range(4, 10), at_checkpoint)
    assert (tmp_path / "killed" / "metrics.jsonl").read_bytes() == (
        tmp_path / "whole" / "metrics.jsonl"
    ).read_bytes()


def test_a_new_run_starts_with_an_empty_file(tmp_path):
    write(tmp_path, range(3))
    write(tmp_path, range(2))
    assert [record["step"] for record in read_metrics(tmp_path)] == [0, 1]


@pytest.mark.parametrize("size", [5, 10**6])
def test_metrics_that_do_not_reach_the_checkpoint_are_refused(tmp_path, size):
    write(tmp_path, range(3))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(
        CheckpointError, match=rf"metrics.jsonl does not belong to the checkpoint.*byte {size}"
    ):
        MetricsWriter(tmp_path, size)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_full_disk_is_one_clear_line(tmp_path, monkeypatch):
    without_tensorboard(monkeypatch)
    writer = MetricsWriter(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(CheckpointError, match=r"metrics.jsonl could not be written: File too large"):
            writer.write({"step": 0, "text": "x" * 200})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    writer.close()


def test_a_disk_that_is_too_full_for_tensorboard_is_the_same_line_and_nothing_else(tmp_path, capfd):
    pytest.importorskip("tensorboard")
    writer = MetricsWriter(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(CheckpointError, match=r"could not be written: File too large"):
            for step in range(10):  # an event takes more bytes than its line
                writer.write({"step": step, "loss": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    writer.close()
    assert (tmp_path / "metrics.jsonl").stat().st_size < 300  # so it was the event file that had no room
    assert capfd.readouterr() == ("", "")


def test_a_link_in_place_of_the_metrics_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("text")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").symlink_to(tmp_path / "precious")
    with pytest.raises(CheckpointError, match=r"metrics.jsonl could not be written"):
        MetricsWriter(tmp_path / "run")
    assert (tmp_path / "precious").read_text() == "text"


def test_tensorboard_shows_the_resumed_run_and_not_what_it_replaced(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = MetricsWriter(tmp_path)
    for step in (0, 1):
        writer.write({"step": step, "loss": float(step), "name": "text", "nothing": math.nan})
    size = writer.size
    writer.write({"step": 2, "loss": -99.0})
    writer.close()
    resumed = MetricsWriter(tmp_path, size)
    resumed.write({"step": 2, "loss": 2.0})
    resumed.write({"step": 3, "loss": 3.0})
    resumed.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (0, 0.0),
        (1, 1.0),
        (2, 2.0),
        (3, 3.0),
    ]
