import ast
import errno
import hashlib
import json
import os
import pickle
import random
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

import bellgrad
from bellgrad.core.errors import CheckpointError
from bellgrad.runs import checkpoint as module
from bellgrad.runs import files, tensor_files
from bellgrad.runs.checkpoint import Checkpoint, checkpoints, open_latest, prune, save_checkpoint

VALUES = {"updates": 7, "best": -1.5, "name": "q", "nested": {"list": [1, 2.5, None, True]}}


def example() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "state/weight": torch.randn(4, 3, generator=generator),
        "state/count": torch.tensor(12, dtype=torch.int64),
        "replay/obs": torch.randint(0, 256, (10, 6), generator=generator, dtype=torch.uint8),
    }


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.fixture
def saved(tmp_path) -> Path:
    return save_checkpoint(tmp_path / "checkpoints", 5, VALUES, example())


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(tensor_files, "SHARD_BYTES", 64)


def verified(folder: Path) -> Checkpoint:
    """A checkpoint with every byte of it verified."""
    checkpoint = Checkpoint.open(folder)
    checkpoint.verify()
    return checkpoint


def rewrite(folder: Path, change) -> None:
    """What an attacker would do: change the manifest and make its checksum match."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    write_manifest(folder, json.dumps(manifest).encode())


def write_manifest(folder: Path, text: bytes) -> None:
    (folder / "manifest.json").write_bytes(text)
    (folder / "manifest.sha256").write_text(f"{hashlib.sha256(text).hexdigest()}  manifest.json\n")


def replace_file(folder: Path, name: str, data: bytes) -> None:
    """The same for a tensor file: size and SHA-256 in the manifest are made to match."""
    (folder / name).write_bytes(data)
    described = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    rewrite(folder, lambda manifest: manifest["files"].update({name: described}))


# What is saved comes back


def test_values_step_names_and_tensors_come_back(saved):
    checkpoint = Checkpoint.open(saved)
    assert (checkpoint.path, checkpoint.step, checkpoint.values) == (saved, 5, VALUES)
    assert checkpoint.names() == list(example())
    assert checkpoint.shape("replay/obs") == (10, 6)
    for name, tensor in checkpoint.tensors().items():
        assert tensor.dtype == example()[name].dtype and torch.equal(tensor, example()[name])


def test_tensors_are_chosen_by_prefix(saved):
    assert list(Checkpoint.open(saved).tensors("replay/")) == ["replay/obs"]


def test_non_finite_values_come_back(tmp_path):
    values = Checkpoint.open(
        save_checkpoint(tmp_path, 0, {"low": float("-inf"), "nan": float("nan")}, {})
    ).values
    assert values["low"] == float("-inf") and values["nan"] != values["nan"]


@pytest.mark.parametrize("dtype", tensor_files.DTYPES.values(), ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (0, 5), (7,), (5, 3), (50, 2, 2)], ids=str)
def test_every_bit_of_every_dtype_and_shape_comes_back(tmp_path, small_shards, dtype, shape):
    generator = torch.Generator().manual_seed(1)
    count = torch.empty(shape, dtype=dtype).numel() * dtype.itemsize
    # Random bytes hold NaN payloads, infinities and denormals; a bool is 0 or 1.
    raw = torch.randint(
        0, 2 if dtype == torch.bool else 256, (count,), generator=generator, dtype=torch.uint8
    )
    tensor = raw.view(dtype).reshape(shape)
    loaded = Checkpoint.open(save_checkpoint(tmp_path, 0, {}, {"before": torch.ones(1), "x": tensor})).read(
        "x"
    )
    assert loaded.dtype == dtype and tuple(loaded.shape) == shape and bits(loaded) == bits(tensor)


@pytest.mark.parametrize("pattern", [0x7FC00001, 0x7F800001, 0xFFC12345, 0x80000000, 0x00000001])
def test_nan_payloads_negative_zero_and_denormals_keep_their_bits(tmp_path, pattern):
    tensor = torch.tensor([pattern], dtype=torch.uint32).view(torch.float32)
    loaded = Checkpoint.open(save_checkpoint(tmp_path, 0, {}, {"x": tensor})).read("x")
    assert struct.unpack("<I", bits(loaded))[0] == pattern


def test_non_contiguous_shared_and_gradient_tensors_are_saved_by_value(tmp_path, small_shards):
    base = torch.arange(60.0).reshape(6, 10).requires_grad_()
    tensors = {
        "a": base,
        "same": base,
        "transposed": base.t(),
        "strided": base[::2, 1::3],
        "expanded": base[:, :1].expand(6, 9),
    }
    loaded = Checkpoint.open(save_checkpoint(tmp_path, 0, {}, tensors)).tensors()
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor.detach())
    assert loaded["a"].data_ptr() != loaded["same"].data_ptr()


def test_a_tensor_that_is_read_owns_aligned_memory(saved):
    checkpoint = Checkpoint.open(saved)
    first, second = checkpoint.read("state/weight"), checkpoint.read("state/weight")
    # 64 bytes: a cache line, and AVX-512's width.
    assert first.data_ptr() % 64 == 0 and first.storage_offset() == 0
    first.zero_()
    assert torch.equal(second, example()["state/weight"])


def test_large_tensors_are_split_by_rows_and_small_ones_share_files(tmp_path, small_shards):
    # With 64-byte shards: 20 rows of 24 bytes go 2 to a file; two scalars of 4 bytes share one.
    tensors = {
        "x/a": torch.ones(()),
        "x/b": torch.ones(()),
        "x/big": torch.arange(120.0).reshape(20, 6),
        "x/c": torch.ones(()),
    }
    folder = save_checkpoint(tmp_path, 0, {}, tensors)
    described = json.loads((folder / "manifest.json").read_text())["tensors"]
    assert described["x/a"]["files"] == described["x/b"]["files"] != described["x/c"]["files"]
    assert len(described["x/big"]["files"]) == 10 and described["x/big"]["rows"] == 2
    assert torch.equal(Checkpoint.open(folder).read("x/big"), tensors["x/big"])
    assert max(path.stat().st_size for path in folder.glob("tensors-*")) < 64 + 200  # a shard and its header


def test_tensors_of_different_groups_never_share_a_file(tmp_path):
    groups = {"state": ["state/a", "state/b"], "replay": ["replay/obs", "replay/reward"], "alone": ["alone"]}
    tensors = {name: torch.ones(3) for names in groups.values() for name in names}
    described = json.loads((save_checkpoint(tmp_path, 0, {}, tensors) / "manifest.json").read_text())[
        "tensors"
    ]
    files = [{file for name in names for file in described[name]["files"]} for names in groups.values()]
    assert [len(of_group) for of_group in files] == [1, 1, 1] and len(set.union(*files)) == 3


def test_a_row_larger_than_a_shard_stays_whole(tmp_path, small_shards):
    tensor = torch.arange(100.0).reshape(2, 50)
    assert torch.equal(Checkpoint.open(save_checkpoint(tmp_path, 0, {}, {"x": tensor})).read("x"), tensor)


def test_the_safetensors_library_reads_the_files(tmp_path, small_shards):
    tensors = {
        "i": torch.arange(3, dtype=torch.uint8),
        "x": torch.randn(3),
        "y": torch.arange(2),
        "big": torch.randn(9, 5),
    }
    folder = save_checkpoint(tmp_path, 0, {}, tensors)
    described = json.loads((folder / "manifest.json").read_text())["tensors"]
    for name, tensor in tensors.items():
        parts = [safetensors.torch.load_file(folder / file)[name] for file in described[name]["files"]]
        assert torch.equal(torch.cat(parts), tensor)


def test_read_into_fills_the_first_rows_and_leaves_the_rest(tmp_path, small_shards):
    tensor = torch.arange(60).reshape(20, 3)
    checkpoint = Checkpoint.open(save_checkpoint(tmp_path, 0, {}, {"x": tensor, "scalar": torch.tensor(2.0)}))
    for out in (torch.full((25, 3), -1), torch.full((3, 25), -1).t()):  # contiguous, and not
        checkpoint.read_into("x", out)
        assert torch.equal(out[:20], tensor) and (out[20:] == -1).all()
    scalar = torch.zeros(())
    checkpoint.read_into("scalar", scalar)
    assert scalar == 2


@pytest.mark.parametrize(
    "out", [torch.zeros(9, 6, dtype=torch.uint8), torch.zeros(10, 7, dtype=torch.uint8), torch.zeros(10, 6)]
)
def test_read_into_refuses_what_does_not_fit(saved, out):
    with pytest.raises(CheckpointError, match="does not fit"):
        Checkpoint.open(saved).read_into("replay/obs", out)


def test_an_unknown_tensor_is_named(saved):
    with pytest.raises(CheckpointError, match="no tensor 'nothing'"):
        Checkpoint.open(saved).read("nothing")


def test_a_dtype_that_cannot_be_saved_is_refused_before_the_disk_is_touched(tmp_path):
    with pytest.raises(CheckpointError, match="complex64"):
        save_checkpoint(tmp_path / "new", 0, {}, {"x": torch.zeros(2, dtype=torch.complex64)})
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path / "new", 0, {"x": object()}, {})
    assert not (tmp_path / "new").exists()


# Damage is found


def test_a_flipped_bit_anywhere_is_refused(saved):
    rng = random.Random(0)
    for path in sorted(saved.iterdir()):
        whole = path.read_bytes()
        header = struct.unpack("<Q", whole[:8])[0] + 8 if path.suffix == ".safetensors" else 0
        # The length field and the end of the header, the first and last byte of the data, and many others.
        positions = {
            0,
            7,
            8,
            header - 1,
            header,
            len(whole) - 1,
            *(rng.randrange(len(whole)) for _ in range(150)),
        }
        for position in sorted(p for p in positions if 0 <= p < len(whole)):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << rng.randrange(8)
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=r"manifest|tensors-"):
                verified(saved)
        path.write_bytes(whole)
    verified(saved)


def test_a_file_cut_at_any_length_is_refused(saved):
    rng = random.Random(0)
    for path in sorted(saved.iterdir()):
        whole = path.read_bytes()
        for length in sorted(
            {0, 1, 7, 8, 9, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(60))}
        ):
            path.write_bytes(whole[:length])
            with pytest.raises(
                CheckpointError, match=f"has {length} bytes" if path.suffix == ".safetensors" else "manifest"
            ):
                verified(saved)
        path.write_bytes(whole + b"\n")
        with pytest.raises(CheckpointError):
            verified(saved)
        path.write_bytes(whole)
    verified(saved)


def test_a_missing_file_is_named(saved):
    for path in sorted(saved.iterdir()):
        whole = path.read_bytes()
        path.unlink()
        with pytest.raises(CheckpointError, match=path.name):
            verified(saved)
        path.write_bytes(whole)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_damage_is_found_before_any_byte_is_used_and_only_in_what_is_read(saved):
    replay = saved / "tensors-00001.safetensors"
    flip_a_bit(replay)
    checkpoint = Checkpoint.open(saved)
    assert torch.equal(checkpoint.read("state/weight"), example()["state/weight"])
    checkpoint.verify(["state/"])
    out = torch.full((10, 6), 7, dtype=torch.uint8)
    for read in (lambda: checkpoint.read_into("replay/obs", out), lambda: checkpoint.verify(["replay/"])):
        with pytest.raises(CheckpointError, match=rf"{replay.name} is damaged"):
            read()
    assert (out == 7).all()


def test_a_file_is_verified_once(saved, monkeypatch):
    done, verify_file = [], module.verify_file

    def counting(path, *described):
        done.append(path.name)
        verify_file(path, *described)

    monkeypatch.setattr(module, "verify_file", counting)
    checkpoint = Checkpoint.open(saved)
    assert done == []
    checkpoint.tensors("state/")
    assert done == ["tensors-00000.safetensors"]
    checkpoint.verify()
    checkpoint.tensors()
    assert done == ["tensors-00000.safetensors", "tensors-00001.safetensors"]


def test_a_checkpoint_with_all_groups_in_one_file_is_read_too(tmp_path, monkeypatch):
    """As they were once written: the manifest says which tensor lies in which file."""

    def plan(tensors):
        return {
            name: entry._replace(files=("tensors-00000.safetensors",))
            for name, entry in tensor_files.plan_files(tensors).items()
        }

    monkeypatch.setattr(module, "plan_files", plan)
    folder = save_checkpoint(tmp_path, 0, {}, example())
    assert len(list(folder.glob("tensors-*"))) == 1
    for name, tensor in verified(folder).tensors().items():
        assert torch.equal(tensor, example()[name])


def test_a_file_that_shrinks_after_it_was_verified_is_noticed(saved):
    checkpoint = verified(saved)
    os.truncate(saved / "tensors-00000.safetensors", 100)
    with pytest.raises(CheckpointError, match=r"tensors-00000.*shorter"):
        checkpoint.tensors()


def test_an_unreadable_disk_is_a_refusal(saved, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(tensor_files.hashlib, "file_digest", broken)
    with pytest.raises(CheckpointError, match=r"tensors-00000.*Input/output error"):
        verified(saved)


# Malice is refused


@pytest.mark.parametrize(
    "name", ["extra.bin", ".hidden", "tensors-00009.safetensors", "data.pkl", "manifest.json~"]
)
def test_an_unknown_file_is_refused(saved, name):
    (saved / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"{name} does not belong"):
        verified(saved)


def test_an_unknown_folder_is_refused(saved):
    (saved / "more").mkdir()
    with pytest.raises(CheckpointError, match="more does not belong"):
        verified(saved)


class _Bomb:
    """Unpickling it would make a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_in_place_of_any_file_is_refused_and_not_run(saved, tmp_path):
    bomb = pickle.dumps(_Bomb(tmp_path / "ran"))
    for path in sorted(saved.iterdir()):
        whole = {p: p.read_bytes() for p in saved.iterdir()}
        if path.suffix == ".safetensors":
            replace_file(saved, path.name, bomb)
        elif path.name == "manifest.json":
            write_manifest(saved, bomb)
        else:
            path.write_bytes(bomb)
        with pytest.raises(CheckpointError):
            verified(saved)
        for p, data in whole.items():
            p.write_bytes(data)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sha256", "tensors-00000.safetensors"])
@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "folder", "pipe"])
def test_only_ordinary_files_are_read(saved, tmp_path, name, kind):
    path, elsewhere = saved / name, tmp_path / "elsewhere"
    shutil.move(path, elsewhere)
    if kind == "symbolic link":
        path.symlink_to(elsewhere)
    elif kind == "hard link":
        path.hardlink_to(elsewhere)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)  # nobody writes into it: opening must not wait
    with pytest.raises(CheckpointError, match=f"{name} is (a {kind}|not an ordinary file)"):
        verified(saved)


def test_a_link_to_a_checkpoint_is_refused(saved, tmp_path):
    (tmp_path / "step-5").symlink_to(saved)
    with pytest.raises(CheckpointError, match="symbolic link"):
        verified(tmp_path / "step-5")


@pytest.mark.parametrize(
    "name",
    ["../tensors-00000.safetensors", "..", "/etc/passwd", "a/b", ".x", "tensors-0.safetensors", "t\0", ""],
)
def test_a_file_name_that_leads_elsewhere_is_refused(saved, name):
    def change(manifest):
        manifest["files"] = {name: manifest["files"]["tensors-00000.safetensors"]}
        for described in manifest["tensors"].values():
            described["files"] = [name]

    rewrite(saved, change)
    with pytest.raises(CheckpointError, match=r"manifest.json.*file name"):
        verified(saved)


def _set(*path_and_value):
    *path, last, value = path_and_value

    def change(manifest):
        for key in path:
            manifest = manifest[key]
        manifest[last] = value

    return change


WEIGHT, FILE = ("tensors", "state/weight"), ("files", "tensors-00000.safetensors")
MALICE = {
    "an unexpected key": _set("__class__", "os.system"),
    "a foreign class name in a tensor": _set(*WEIGHT, "class", "torch.nn.Module"),
    "an unexpected key in a file": _set(*FILE, "url", "http://example.org"),
    "a tensor without description": _set("tensors", "x", None),
    "an unknown dtype": _set(*WEIGHT, "dtype", "O"),
    "a dtype that is not a text": _set(*WEIGHT, "dtype", ["F32"]),
    "another dtype of the same width": _set(*WEIGHT, "dtype", "I32"),
    "another dtype": _set(*WEIGHT, "dtype", "F64"),
    "another shape of the same size": _set(*WEIGHT, "shape", [3, 4]),
    "another number of rows": _set(*WEIGHT, "rows", 2),
    "no rows": _set(*WEIGHT, "rows", 0),
    "an absurd shape": _set(*WEIGHT, "shape", [2**40, 2**40]),
    "an absurd empty shape": _set(*WEIGHT, "shape", [0, 2**40, 2**40]),
    "an absurd number of axes": _set(*WEIGHT, "shape", [1] * 100),
    "a large shape": _set(*WEIGHT, "shape", [4, 2**40]),
    "a negative shape": _set(*WEIGHT, "shape", [-4, -3]),
    "a fractional shape": _set(*WEIGHT, "shape", [4.0, 3]),
    "a boolean shape": _set(*WEIGHT, "shape", [True, 12]),
    "a file listed twice": _set(*WEIGHT, "files", ["tensors-00000.safetensors"] * 2),
    "a file not listed": _set(*WEIGHT, "files", ["tensors-00009.safetensors"]),
    "no file": _set(*WEIGHT, "files", []),
    "an absurd file size": _set(*FILE, "size", 2**61),
    "a file size past 64 bits": _set(*FILE, "size", 2**70),
    "a negative file size": _set(*FILE, "size", -1),
    "a wrong SHA-256": _set(*FILE, "sha256", "0" * 64),
    "a SHA-256 that is not a text": _set(*FILE, "sha256", 0),
    "another step": _set("step", 6),
    "a negative step": _set("step", -5),
    "a step that is not a number": _set("step", "5"),
    "values that are not an object": _set("values", [1]),
    "tensors that are not an object": _set("tensors", []),
    "no format version": _set("version", None),
    "a tensor more than the file holds": lambda m: m["tensors"].update(x=m["tensors"]["state/count"]),
    "a tensor less than the file holds": lambda m: m["tensors"].pop("state/count"),
    "a renamed tensor": lambda m: m["tensors"].update(x=m["tensors"].pop("state/count")),
    "a missing key": lambda m: m.pop("values"),
}


@pytest.mark.parametrize("change", MALICE.values(), ids=MALICE)
def test_a_manifest_with(saved, change):
    rewrite(saved, lambda manifest: None)
    verified(saved)  # rewriting alone does no harm
    rewrite(saved, change)
    with pytest.raises(CheckpointError, match=r"manifest.json|tensors-00000|renamed") as caught:
        verified(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [b"", b"null", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 10_000, b'{"version": 1, "version": 1}'],
)
def test_a_manifest_that_is_no_object_is_refused(saved, text):
    write_manifest(saved, text)
    with pytest.raises(CheckpointError, match=r"manifest.json"):
        verified(saved)


def test_a_tensor_named_twice_is_refused(saved):
    text = (saved / "manifest.json").read_text()
    doubled = text.replace('"tensors": {', '"tensors": {' + json.dumps(example_entry(text))[1:-1] + ",", 1)
    write_manifest(saved, doubled.encode())
    with pytest.raises(CheckpointError, match="occurs twice"):
        verified(saved)


def example_entry(text: str) -> dict:
    return {"state/count": json.loads(text)["tensors"]["state/count"]}


def test_a_newer_format_is_told_apart_from_damage(saved):
    rewrite(saved, _set("version", 2))
    with pytest.raises(CheckpointError, match="format version 2; this Bellgrad reads version 1"):
        verified(saved)


def test_a_huge_manifest_is_refused_unread(saved):
    os.truncate(saved / "manifest.json", 2**40)  # a sparse tebibyte
    with pytest.raises(CheckpointError, match=r"manifest.json is too large"):
        verified(saved)


def test_values_too_large_for_a_manifest_are_refused_when_saving(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "JSON_LIMIT", 1000)
    with pytest.raises(CheckpointError, match="values too large"):
        save_checkpoint(tmp_path, 0, {"long": "x" * 2000}, {})
    assert list(tmp_path.iterdir()) == []


HEADERS = {
    "a huge length": lambda header, data: struct.pack("<Q", 2**62) + header + data,
    "a length past the file": lambda header, data: struct.pack("<Q", 100_000) + header + data,
    "an absurd shape": lambda header, data: relabel(header, data, shape=[2**40, 2**40]),
    "a shape of another tensor": lambda header, data: relabel(header, data, shape=[3, 4]),
    "another dtype": lambda header, data: relabel(header, data, dtype="I32"),
    "overlapping data": lambda header, data: relabel(header, data, data_offsets=[0, 48]),
    "data past the end": lambda header, data: relabel(header, data, data_offsets=[8, 2**60]),
    "nothing": lambda header, data: b"",
    "metadata": lambda header, data: rebuild({"__metadata__": {"x": "y"}, **json.loads(header)}, data),
    "more data": lambda header, data: rebuild(json.loads(header), data + b"\0"),
}


def relabel(header: bytes, data: bytes, **changes) -> bytes:
    described = json.loads(header)
    described["state/weight"].update(changes)
    return rebuild(described, data)


def rebuild(described: dict, data: bytes) -> bytes:
    text = json.dumps(described).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize("forge", HEADERS.values(), ids=HEADERS)
def test_a_tensor_file_whose_header_claims(saved, forge):
    name = "tensors-00000.safetensors"
    whole = (saved / name).read_bytes()
    end = 8 + struct.unpack("<Q", whole[:8])[0]
    replace_file(saved, name, forge(whole[8:end], whole[end:]))
    with pytest.raises(CheckpointError, match=f"{name} does not hold the tensors"):
        verified(saved)


def test_an_empty_tensor_whose_strides_would_overflow_is_refused(tmp_path):
    folder = save_checkpoint(tmp_path, 5, {}, {"x": torch.empty(0, 3)})
    shape = [0, 2**40, 2**40]
    described = {"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    replace_file(folder, "tensors-00000.safetensors", struct.pack("<Q", len(text)) + text)
    rewrite(folder, _set("tensors", "x", "shape", shape))
    with pytest.raises(CheckpointError, match="size of tensor 'x'"):
        verified(folder)


# The folder of checkpoints


def test_checkpoints_are_listed_by_number(tmp_path):
    for step in (100, 20, 3):
        save_checkpoint(tmp_path, step, {}, {})
    for other in ("step-", "step-x", "step--1", "step-01", "best", ".tmp-step-9-ab"):
        (tmp_path / other).mkdir()
    assert [step for step, _ in checkpoints(tmp_path)] == [3, 20, 100]
    assert checkpoints(tmp_path / "missing") == []


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_used(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {}, example())
    assert open_latest(tmp_path)[0].step == 3 and open_latest(tmp_path)[1] == []
    os.truncate(tmp_path / "step-3" / "tensors-00000.safetensors", 10)
    (tmp_path / "step-4").mkdir()
    checkpoint, warnings = open_latest(tmp_path)
    assert checkpoint.step == 2
    assert len(warnings) == 2 and "step-4" in warnings[0] and "step-3/tensors-00000" in warnings[1]


def test_a_checkpoint_damaged_in_what_nobody_asks_for_is_used(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {}, example())
    flip_a_bit(tmp_path / "step-2" / "tensors-00001.safetensors")  # of the replay
    checkpoint, warnings = open_latest(tmp_path, ["state/"])
    assert (checkpoint.step, warnings) == (2, [])
    assert open_latest(tmp_path)[0].step == open_latest(tmp_path, ["state/", "replay/"])[0].step == 1


def test_no_whole_checkpoint_is_never_a_silent_fresh_start(tmp_path):
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        open_latest(tmp_path / "missing")
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {}, {})
        (tmp_path / f"step-{step}" / "manifest.sha256").unlink()
    with pytest.raises(CheckpointError, match=r"step-2.*step-1"):
        open_latest(tmp_path)


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path):
    save_checkpoint(tmp_path, 1, {"try": 1}, example())
    save_checkpoint(tmp_path, 1, {"try": 2}, {})
    assert Checkpoint.open(tmp_path / "step-1").values == {"try": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


def test_prune_keeps_the_last_and_the_chosen(tmp_path):
    for step in range(0, 80, 10):
        save_checkpoint(tmp_path, step, {}, {})
    prune(tmp_path, keep_last=3, keep={20})
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-20", "step-50", "step-60", "step-70"]
    prune(tmp_path, keep_last=3, keep={20})
    assert len(checkpoints(tmp_path)) == 4
    prune(tmp_path, keep_last=0)
    assert list(tmp_path.iterdir()) == []


def test_prune_after_a_resume_from_an_earlier_checkpoint_deletes_the_abandoned_future(tmp_path):
    for step in (10, 20, 30, 40, 50):
        save_checkpoint(tmp_path, step, {}, {})
    prune(
        tmp_path, keep_last=2, newest=30
    )  # or 40 and 50, being newest, would push out what the run stands on
    assert [step for step, _ in checkpoints(tmp_path)] == [20, 30]


def test_left_overs_of_dead_writers_are_removed_and_those_of_living_ones_not(tmp_path):
    dead, alive = tmp_path / ".tmp-step-1-dead", tmp_path / ".tmp-step-1-alive"
    dead.mkdir()
    (dead / "tensors-00000.safetensors").write_bytes(b"half")
    alive.mkdir()
    lock = os.open(alive, os.O_RDONLY)
    module.fcntl.flock(lock, module.fcntl.LOCK_EX)
    save_checkpoint(tmp_path, 2, {}, {})
    assert not dead.exists() and alive.exists()
    os.close(lock)
    save_checkpoint(tmp_path, 3, {}, {})
    assert not alive.exists()


# Full and read-only disks, kills


def assert_untouched(root: Path) -> None:
    assert [path.name for path in root.iterdir()] == ["step-5"]
    assert open_latest(root)[0].values == VALUES


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 1 MiB of its own; needs the right to mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True
    ).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_keeps_the_last_checkpoint(tiny_disk):
    root = tiny_disk / "checkpoints"
    save_checkpoint(root, 5, VALUES, example())
    for step in (5, 6):
        with pytest.raises(
            CheckpointError, match=rf"step-{step} was not written: No space left.*last checkpoint is intact"
        ):
            save_checkpoint(root, step, {}, {"x": torch.zeros(2**20)})
        assert_untouched(root)


def test_a_read_only_disk_keeps_the_last_checkpoint(tiny_disk):
    root = tiny_disk / "checkpoints"
    save_checkpoint(root, 5, VALUES, example())
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    with pytest.raises(
        CheckpointError, match=r"step-6 was not written: Read-only file system.*last checkpoint is intact"
    ):
        save_checkpoint(root, 6, {}, example())
    with pytest.raises(CheckpointError, match="Read-only file system"):
        prune(root, keep_last=0)
    assert_untouched(root)


def test_a_write_that_the_kernel_refuses_keeps_the_last_checkpoint(saved):
    # A limit on the size of files stands in for a full disk where mounting is not allowed.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(
            CheckpointError, match=r"step-6 was not written: File too large.*last checkpoint is intact"
        ):
            save_checkpoint(saved.parent, 6, {}, {"x": torch.zeros(2**20)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_untouched(saved.parent)


@pytest.mark.parametrize("call", range(4))
def test_a_disk_that_fails_at_any_fsync_keeps_the_last_checkpoint(saved, monkeypatch, call):
    # The first four: tensor file, manifest, its checksum, the temporary folder. (After them comes the
    # rename.)
    counted, fsync = iter(range(100)), os.fsync

    def failing(descriptor):
        if next(counted) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", failing)
    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(saved.parent, 6, {}, example())
    assert_untouched(saved.parent)


def test_every_name_is_durable_before_the_next_step_relies_on_it(saved, monkeypatch):
    # What the folder of checkpoints holds whenever a folder is synced: the hexadecimal end of temporary names
    # is left out.
    seen, fsync_folder = [], module.fsync_folder

    def spying(folder):
        names = {
            path.name.rsplit("-", 1)[0] if path.name.startswith(".tmp") else path.name
            for path in saved.parent.iterdir()
        }
        seen.append(("inside" if folder.name.startswith(".tmp") else "root", names))
        fsync_folder(folder)

    monkeypatch.setattr(module, "fsync_folder", spying)
    save_checkpoint(saved.parent, 5, {}, {})
    assert seen == [
        ("inside", {"step-5", ".tmp-step-5"}),
        ("root", {"step-5", "step-5.old"}),
        ("root", {"step-5", ".tmp-step-5.old"}),
    ]


def test_an_interrupted_replacement_is_settled(saved):
    os.rename(saved, saved.with_name("step-5.old"))  # killed between the two renames
    assert open_latest(saved.parent)[0].values == VALUES
    prune(saved.parent)
    assert_untouched(saved.parent)
    (saved.parent / "step-5.old").mkdir()  # killed while the replaced one was being deleted
    prune(saved.parent)
    assert_untouched(saved.parent)


def run_script(text: str, *arguments: object) -> str:
    command = [sys.executable, "-c", "import torch; torch.set_num_threads(1)\n" + text, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


KILLS = """
import os, random, signal, sys, time
from pathlib import Path
from bellgrad.runs import tensor_files
from bellgrad.runs.checkpoint import open_latest, prune, save_checkpoint

root = Path(sys.argv[1])
tensor_files.SHARD_BYTES = 2**13

def save(step, attempt):
    save_checkpoint(root, step, {"try": attempt}, {"x": torch.full((2**12,), float(attempt))})

def check(after):
    checkpoint, warnings = open_latest(root)
    assert not warnings, warnings
    assert checkpoint.step in after and (checkpoint.read("x") == checkpoint.values["try"]).all(), checkpoint
    return checkpoint

def in_child(work):
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    return child

def at_random_moments():
    rng, seen = random.Random(0), []
    save(0, 0)
    for attempt in range(12):
        last = open_latest(root)[0].step

        ready, tell = os.pipe()

        def work():
            for i in range(10**6):
                save(last + i // 2, attempt)  # every step twice: written, then replaced
                prune(root, keep_last=2)
                if i == 2:
                    os.write(tell, b"!")

        child = in_child(work)
        os.read(ready, 1)
        time.sleep(rng.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        seen.append(check(range(last, last + 10**6)).step)
    assert seen == sorted(seen) and seen[-1] > 0, seen

def at_every_event(start, work, steps):
    # The child dies just before its nth event that Python audits (open, mkdir, rename, remove, ...) or fsync,
    # for every n until it lives through.
    for n in range(1000):
        start()
        def dying():
            remaining = n
            def event(name, *_):
                nonlocal remaining
                if name == "open" or name.startswith(("os.", "shutil.")):
                    remaining -= 1
                    if remaining < 0:
                        os._exit(9)
            fsync = os.fsync
            os.fsync = lambda descriptor: (event("os.fsync"), fsync(descriptor))
            sys.addaudithook(event)
            work()
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(in_child(dying), 0)[1])
        check(steps)
        assert status in (0, 9), status
        save(7, 7)  # the next save clears up
        names = [path.name for path in root.iterdir()]
        assert not [name for name in names if name.startswith(".tmp-") or name.endswith(".old")]
        prune(root, keep_last=0)
        if status == 0:
            break
    assert n > 10, n

def only(step):
    def start():
        prune(root, keep_last=0)
        save(step, 1)
    return start

at_random_moments()
at_every_event(only(5), lambda: save(6, 2), {5, 6})
at_every_event(only(5), lambda: save(5, 2), {5})

def four():
    prune(root, keep_last=0)
    for step in range(4):
        save(step, 1)

at_every_event(four, lambda: prune(root, keep_last=1), {3})
print("survived")
"""


def test_a_kill_at_any_moment_leaves_the_old_checkpoint_or_the_new_one():
    # A kill loses nothing that was written, synced or not, so that a disk in memory shows the same, and
    # sooner.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        assert run_script(KILLS, Path(folder) / "checkpoints").strip() == "survived"


MEMORY = """
import resource, sys
from pathlib import Path
from bellgrad.runs.checkpoint import Checkpoint, save_checkpoint

def peak():  # MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

tensor = torch.ones(512, 2**18)  # 512 MiB
transposed = len(sys.argv) > 2
if transposed:
    tensor = tensor.t()  # rows are copied a shard at a time
before = peak()
path = save_checkpoint(Path(sys.argv[1]), 0, {}, {"x": tensor})
saved = peak()
Checkpoint.open(path).read_into("x", tensor)
print(saved - before, peak() - before)
assert before > 512 and tensor.sum() == 2**27
"""


@pytest.mark.parametrize("arguments", [(), ("transposed",)], ids=["contiguous", "transposed"])
def test_saving_and_loading_512_mib_does_not_double_the_memory(tmp_path, arguments):
    saving, loading = map(float, run_script(MEMORY, tmp_path, *arguments).split())
    shutil.rmtree(tmp_path / "step-0")
    assert saving < 200 and loading < 200  # MiB beyond the tensor; one shard has 64


# Nothing that is loaded can run code


FORBIDDEN_MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "cloudpickle",
    "dill",
    "joblib",
    "shelve",
    "marshal",
    "jsonpickle",
}


def code_loading(source: str) -> list[str]:
    """The places in a module that could load or write code with data."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module] if node.module.split(".")[0] in FORBIDDEN_MODULES else []
            found += [
                f"torch.{alias.name}"
                for alias in node.names
                if node.module == "torch" and alias.name in ("load", "save")
            ]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            found += (
                [name]
                if name in ("torch.load", "torch.save", "torch.serialization.load", "torch.jit.load")
                else []
            )
            found += [
                name
                for keyword in node.keywords
                if keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False"
            ]
            if (
                name in ("__import__", "importlib.import_module")
                and node.args
                and isinstance(node.args[0], ast.Constant)
            ):
                found += [node.args[0].value] if node.args[0].value in FORBIDDEN_MODULES else []
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from cloudpickle import dumps",
        "import os, marshal as m",
        "import torch\ntorch.load('x')",
        "from torch import save",
        "np.load(f, allow_pickle=True)",
        "__import__('shelve')",
    ],
)
def test_the_search_for_pickles_finds(source):
    assert code_loading(source)


def test_no_module_uses_pickle():
    modules = sorted(Path(bellgrad.__file__).parent.rglob("*.py"))
    assert len(modules) > 5
    assert {
        str(path): code_loading(path.read_text()) for path in modules if code_loading(path.read_text())
    } == {}
