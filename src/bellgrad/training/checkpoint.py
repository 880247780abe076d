"""Checkpoints: a JSON manifest and safetensors files, written whole or not at all, verified before they are trusted.

A checkpoint is the folder `step-N`:

| file | content |
| --- | --- |
| `manifest.json` | format version, step, the caller's values; size and SHA-256 of files; dtype, shape and files of tensors |
| `manifest.sha256` | SHA-256 of `manifest.json`, in the form that `sha256sum -c` reads |
| `tensors-00000.safetensors`, ... | the tensors; a large one is split by rows over several files, small ones share a file |

The manifest determines each file's safetensors header to the byte. The reader therefore parses no header: it computes the one
that must be there and compares. Nothing that is loaded can run code.

Source: the format of the tensor files is https://github.com/huggingface/safetensors#format.
"""

import fcntl
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bellgrad.core.errors import CheckpointError
from bellgrad.training.files import (
    JSON_LIMIT,
    fsync_folder,
    make_folder,
    open_regular,
    parse_json,
    read_bytes,
    readable,
    reason,
    write_synced,
)

VERSION = 1
SHARD_BYTES = 64 * 2**20
MANIFEST, CHECKSUM = "manifest.json", "manifest.sha256"
_TEMPORARY = ".tmp-"
_FOLDER = re.compile(r"step-(0|[1-9][0-9]{0,17})(\.old)?")
_TENSOR_FILE = re.compile(r"tensors-[0-9]{5}\.safetensors")
_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class _Entry(NamedTuple):
    """Where a tensor lies: `rows` rows of it in each of `files`, fewer in the last. A scalar is one row."""

    dtype: str
    shape: tuple[int, ...]
    rows: int
    files: tuple[str, ...]

    @property
    def total_rows(self) -> int:
        return self.shape[0] if self.shape else 1


class _Part(NamedTuple):
    """Consecutive rows of one tensor in one file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    first_row: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * _DTYPES[self.dtype].itemsize


class _Place(NamedTuple):
    """A part and where it lies: its file, and the byte there at which it begins."""

    file: str
    offset: int
    part: _Part


def _plan(tensors: Mapping[str, Tensor]) -> dict[str, _Entry]:
    """Decide which files hold which tensor: at most a shard each, except where a single row is larger."""
    entries: dict[str, _Entry] = {}
    count = filled = 0  # files opened so far, and the bytes in the last of them
    for name, tensor in tensors.items():
        if name == "__metadata__" or tensor.dtype not in _DTYPE_NAMES or tensor.layout != torch.strided:
            raise CheckpointError(f"tensor {name!r} ({tensor.dtype}, {tensor.layout}) cannot be saved in a checkpoint")
        size = tensor.numel() * tensor.element_size()
        shape = tuple(tensor.shape)
        total = shape[0] if shape else 1
        rows = max(1, total if size <= SHARD_BYTES else SHARD_BYTES * total // size)
        shards = max(1, -(-total // rows))
        if count == 0 or shards > 1 or filled + size > SHARD_BYTES:
            count, filled = count + shards, 0
        filled = SHARD_BYTES if shards > 1 else filled + size
        files = tuple(f"tensors-{i:05}.safetensors" for i in range(count - shards, count))
        entries[name] = _Entry(_DTYPE_NAMES[tensor.dtype], shape, rows, files)
    return entries


def _layout(entries: Mapping[str, _Entry]) -> dict[str, list[_Part]]:
    """The parts in each file, in the order of their bytes."""
    layout: dict[str, list[_Part]] = {}
    for name, entry in entries.items():
        for i, file in enumerate(entry.files):
            first = i * entry.rows
            shape = (min(entry.rows, entry.total_rows - first), *entry.shape[1:]) if entry.shape else ()
            layout.setdefault(file, []).append(_Part(name, entry.dtype, shape, first))
    return layout


def _places(layout: Mapping[str, list[_Part]]) -> dict[str, list[_Place]]:
    """Where the parts of every tensor are, by the tensor's name."""
    places: dict[str, list[_Place]] = {}
    for file, parts in layout.items():
        offset = len(_header(parts))
        for part in parts:
            places.setdefault(part.name, []).append(_Place(file, offset, part))
            offset += part.nbytes
    return places


def _header(parts: list[_Part]) -> bytes:
    """What a safetensors file with these parts begins with: the length of a JSON object (8 bytes), and the object."""
    described, offset = {}, 0
    for part in parts:
        described[part.name] = {"dtype": part.dtype, "shape": part.shape, "data_offsets": [offset, offset + part.nbytes]}
        offset += part.nbytes
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _raw(tensor: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor."""
    flat = tensor.reshape(-1).as_strided((tensor.numel(),), (1,))  # a tensor of one item or none may have any stride
    return memoryview(flat.view(torch.uint8).numpy())


def _file_bytes(parts: list[_Part], tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    yield _header(parts)
    for part in parts:
        tensor = tensors[part.name].detach()
        rows = tensor[part.first_row : part.first_row + part.shape[0]] if part.shape else tensor
        yield _raw(rows.cpu().contiguous())


def save_checkpoint(root: Path, step: int, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """Write the checkpoint `root/step-N`; until it is complete and on the disk, `root` keeps what it had.

    Needs little memory beside the tensors: contiguous CPU tensors are written from where they lie, others are copied a shard at a
    time. A `step-N` that exists is replaced. Left-overs of killed writers are removed.

    Args:
        root: the folder of checkpoints; made if missing.
        step: environment steps taken, 0 or more.
        values: anything that JSON can hold; tuples come back as lists, keys as strings.
        tensors: tensors by name, on any device; they may share memory (and come back apart).

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: the disk is full, read-only or gone, or a tensor has a dtype that cannot be saved.
    """
    folder = root / f"step-{step}"
    if not _FOLDER.fullmatch(folder.name):
        raise CheckpointError(f"a checkpoint's step must be an integer, 0 or more, not {step!r}")
    entries = _plan(tensors)
    described = {name: entry._asdict() for name, entry in entries.items()}
    manifest = {"version": VERSION, "step": step, "values": dict(values), "tensors": described, "files": {}}
    json.dumps(manifest)  # values that JSON cannot hold raise here, before the disk is touched
    try:
        make_folder(root)
        _sweep(root)
        temporary = _temporary_name(folder)
        temporary.mkdir()
        lock = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(OSError):  # a network disk may know no locks
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # says that the writer lives: see _sweep
            for file, parts in _layout(entries).items():
                size, digest = write_synced(temporary / file, _file_bytes(parts, tensors))
                manifest["files"][file] = {"size": size, "sha256": digest}
            text = json.dumps(manifest, indent=1).encode()
            if len(text) > JSON_LIMIT:
                raise CheckpointError(
                    f"checkpoint {folder} was not written: its manifest has {len(text)} bytes (values too large)"
                )
            _, digest = write_synced(temporary / MANIFEST, [text])
            write_synced(temporary / CHECKSUM, [_checksum_line(digest)])
            fsync_folder(temporary)
            _publish(temporary, folder)
        finally:
            os.close(lock)
            shutil.rmtree(temporary, ignore_errors=True)  # already renamed where all went well
    except OSError as error:
        raise CheckpointError(f"checkpoint {folder} was not written: {reason(error)}; the last checkpoint is intact") from error
    return folder


def _checksum_line(digest: str) -> bytes:
    return f"{digest}  {MANIFEST}\n".encode()


def _publish(temporary: Path, folder: Path) -> None:
    """Give a complete checkpoint its name. One that had the name stays valid as `step-N.old` until the new one is durable."""
    old = folder.with_name(f"{folder.name}.old")
    if os.path.lexists(folder):
        os.rename(folder, old)
    os.rename(temporary, folder)
    fsync_folder(folder.parent)
    _discard(folder.parent, [old] if os.path.lexists(old) else [])


def _temporary_name(folder: Path) -> Path:
    return folder.with_name(f"{_TEMPORARY}{folder.name}-{secrets.token_hex(4)}")


def _discard(root: Path, paths: Sequence[Path]) -> None:
    """Delete checkpoints; under its new name a half-deleted one is no checkpoint."""
    if paths:
        renamed = [path.rename(_temporary_name(path)) for path in paths]
        fsync_folder(root)
        for path in renamed:
            _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)  # what stays is swept by the next save
    else:
        path.unlink(missing_ok=True)


def _sweep(root: Path) -> None:
    """Finish what killed writers began: remove half-written and half-deleted folders, settle an interrupted replacement."""
    for path in sorted(root.iterdir()):
        if path.name.startswith(_TEMPORARY):
            with suppress(OSError):
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where the writer lives
                    _delete(path)
                finally:
                    os.close(descriptor)
        elif (match := _FOLDER.fullmatch(path.name)) and match[2]:
            current = path.with_suffix("")
            if os.path.lexists(current):
                _discard(root, [path])
            else:
                os.rename(path, current)


def checkpoints(root: Path) -> list[tuple[int, Path]]:
    """Step and path of everything in `root` that is named like a checkpoint, by step; nothing is verified."""
    found: dict[int, Path] = {}
    if root.is_dir():
        for path in sorted(root.iterdir()):  # step-N sorts before step-N.old
            if match := _FOLDER.fullmatch(path.name):
                found.setdefault(int(match[1]), path)
    return sorted(found.items())


def prune(root: Path, keep_last: int = 3, keep: Collection[int] = (), newest: int | None = None) -> None:
    """Delete all checkpoints but the last few.

    Args:
        root: the folder of checkpoints.
        keep_last: how many to keep, counted back from the newest.
        keep: steps to keep besides, for example the best.
        newest: the step that the run stands at. Later checkpoints are what the run left behind when it was resumed from an
            earlier one (damaged, most often); they are deleted and do not count. None: there are none.

    Raises:
        CheckpointError: the disk is read-only or gone.
    """
    try:
        if root.is_dir():
            _sweep(root)
        found = checkpoints(root)
        timeline = [step for step, _ in found if newest is None or step <= newest]
        kept = {*timeline[max(0, len(timeline) - keep_last) :], *keep}
        _discard(root, [path for step, path in found if step not in kept])
    except OSError as error:
        raise CheckpointError(f"old checkpoints in {root} could not be deleted: {reason(error)}") from error


def open_latest(root: Path) -> tuple["Checkpoint", list[str]]:
    """The newest checkpoint that is whole, and a warning for each newer one that is not.

    Raises:
        CheckpointError: none is whole; the message says what is wrong with each.
    """
    warnings: list[str] = []
    for _, path in reversed(checkpoints(root)):
        try:
            checkpoint = Checkpoint.open(path)
        except CheckpointError as error:
            warnings.append(f"damaged checkpoint ignored: {error}")
        else:
            return checkpoint, warnings
    raise CheckpointError(f"{root} holds no usable checkpoint" + "".join(f"; {warning}" for warning in warnings))


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint; made by `Checkpoint.open`.

    Attributes:
        path: its folder.
        step: environment steps taken when it was saved.
        values: what the caller saved beside the tensors.
    """

    path: Path
    step: int
    values: dict[str, Any]
    _entries: dict[str, _Entry] = field(repr=False)
    _places: dict[str, list[_Place]] = field(repr=False)

    @classmethod
    def open(cls, path: Path) -> "Checkpoint":
        """Verify a checkpoint, every byte of it, and give access to it. No tensor is allocated yet.

        Raises:
            CheckpointError: damaged, foreign or unsafe; the message names the file.
        """
        if path.is_symlink() or not path.is_dir():
            raise CheckpointError(f"{path} is not a checkpoint folder" + (" but a symbolic link" if path.is_symlink() else ""))
        text = read_bytes(path / MANIFEST, JSON_LIMIT)
        if read_bytes(path / CHECKSUM, 1024) != _checksum_line(hashlib.sha256(text).hexdigest()):
            raise CheckpointError(f"{path / MANIFEST} is damaged: it does not match {CHECKSUM}")
        step, values, entries, files = _parse_manifest(parse_json(text, path / MANIFEST), path / MANIFEST)
        match = _FOLDER.fullmatch(path.name)
        if match and int(match[1]) != step:
            raise CheckpointError(f"{path} holds the checkpoint of step {step}: the folder was renamed")
        with readable(path):
            present = set(os.listdir(path))
        expected = {MANIFEST, CHECKSUM, *files}
        if present != expected:
            odd = min(present ^ expected)
            raise CheckpointError(f"{path / odd} " + ("does not belong to the checkpoint" if odd in present else "is missing"))
        layout = _layout(entries)
        for file, (size, digest) in files.items():
            _verify_file(path / file, layout[file], size, digest)
        return cls(path, step, values, entries, _places(layout))

    def names(self) -> list[str]:
        """The names of the tensors, in the order in which they were saved."""
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor.

        Raises:
            CheckpointError: there is no such tensor.
        """
        return self._entry(name).shape

    def read(self, name: str) -> Tensor:
        """A tensor, in its own 64-byte aligned CPU memory.

        Raises:
            CheckpointError: there is no such tensor, or its file changed since it was verified.
        """
        entry = self._entry(name)
        # Memory of PyTorch's own and not of the file: the bits of a matrix product may depend on alignment.
        out = torch.empty(entry.shape, dtype=_DTYPES[entry.dtype])
        self.read_into(name, out)
        return out

    def read_into(self, name: str, out: Tensor) -> None:
        """Fill the first rows of `out` (all of it for a scalar); the other rows stay as they are.

        Args:
            name: the tensor.
            out: same dtype and number of axes, same sizes but for the first, which may be larger; on any device.

        Raises:
            CheckpointError: there is no such tensor, `out` does not fit it, or its file changed since it was verified.
        """
        entry = self._entry(name)
        shape, dtype = entry.shape, _DTYPES[entry.dtype]
        fits = out.dim() == len(shape) and tuple(out.shape[1:]) == shape[1:] and (not shape or out.shape[0] >= shape[0])
        if out.dtype != dtype or not fits:
            raise CheckpointError(
                f"the checkpoint's {name!r} is {dtype} {list(shape)} and does not fit {out.dtype} {list(out.shape)}"
            )
        for file, offset, part in self._places[name]:
            target = out.detach()[part.first_row : part.first_row + part.shape[0]] if shape else out.detach()
            direct = target.device.type == "cpu" and target.is_contiguous()
            memory = target if direct else torch.empty(part.shape, dtype=dtype)
            _read_exactly(self.path / file, offset, _raw(memory))
            if not direct:
                target.copy_(memory)

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """Every tensor whose name begins with `prefix`, by its full name."""
        return {name: self.read(name) for name in self._entries if name.startswith(prefix)}

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            raise CheckpointError(f"checkpoint {self.path} has no tensor {name!r}")
        return self._entries[name]


def _read_exactly(path: Path, offset: int, memory: memoryview) -> None:
    with readable(path), open_regular(path) as file:
        file.seek(offset)
        done = 0
        while done < len(memory):  # one read gives at most 2 GiB
            count = file.readinto(memory[done:])
            if not count:
                raise CheckpointError(f"{path} has become shorter since it was verified")
            done += count


def _verify_file(path: Path, parts: list[_Part], size: int, digest: str) -> None:
    header = _header(parts)
    with readable(path), open_regular(path) as file:
        actual = os.fstat(file.fileno()).st_size
        if actual != size:
            raise CheckpointError(f"{path} has {actual} bytes, the manifest says {size}")
        if size != len(header) + sum(part.nbytes for part in parts) or file.read(len(header)) != header:
            raise CheckpointError(f"{path} does not hold the tensors that the manifest lists")
        file.seek(0)
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            raise CheckpointError(f"{path} is damaged: its SHA-256 is not the manifest's")


def _parse_manifest(manifest: Any, path: Path) -> tuple[int, dict[str, Any], dict[str, _Entry], dict[str, tuple[int, str]]]:
    """Check a decoded manifest.

    Returns:
        The step, the values, the tensors by name, and size and SHA-256 of every file by name.

    Raises:
        CheckpointError: anything is missing, unknown, of the wrong type or out of range.
    """

    def require(condition: bool, what: str) -> None:
        if not condition:
            raise CheckpointError(f"{path} is damaged or foreign: {what}")

    def is_count(value: Any) -> bool:
        return type(value) is int and 0 <= value < 2**62

    require(isinstance(manifest, dict), "not an object")
    version = manifest.get("version")
    require(type(version) is int, "no format version")
    if version != VERSION:
        raise CheckpointError(f"{path} has format version {version}; this Bellgrad reads version {VERSION}")
    require(manifest.keys() == {"version", "step", "values", "tensors", "files"}, f"unexpected keys {sorted(manifest)}")
    require(is_count(manifest["step"]), "step")
    for key in ("values", "tensors", "files"):
        require(isinstance(manifest[key], dict), key)

    files: dict[str, tuple[int, str]] = {}
    for name, described in manifest["files"].items():
        require(_TENSOR_FILE.fullmatch(name) is not None, f"file name {name!r}")
        require(isinstance(described, dict) and described.keys() == {"size", "sha256"}, f"file {name!r}")
        require(is_count(described["size"]) and isinstance(described["sha256"], str), f"file {name!r}")
        files[name] = (described["size"], described["sha256"])

    entries: dict[str, _Entry] = {}
    for name, described in manifest["tensors"].items():
        require(isinstance(described, dict) and described.keys() == set(_Entry._fields), f"tensor {name!r}")
        dtype, shape, rows, parts = (described[field] for field in _Entry._fields)
        require(isinstance(dtype, str) and dtype in _DTYPES, f"dtype of tensor {name!r}")
        require(isinstance(shape, list) and len(shape) <= 64 and all(map(is_count, shape)), f"shape of tensor {name!r}")
        # Counting empty axes as 1: the strides of an empty tensor must not overflow either.
        require(is_count(math.prod(max(axis, 1) for axis in shape) * 8), f"size of tensor {name!r}")
        require(is_count(rows) and rows > 0, f"rows of tensor {name!r}")
        require(
            isinstance(parts, list) and all(isinstance(file, str) and file in files for file in parts),
            f"files of tensor {name!r}",
        )
        entry = _Entry(dtype, tuple(shape), rows, tuple(parts))
        require(len(set(parts)) == len(parts) == max(1, -(-entry.total_rows // rows)), f"files of tensor {name!r}")
        entries[name] = entry
    require({file for entry in entries.values() for file in entry.files} == set(files), "a file that holds no tensor")
    return manifest["step"], manifest["values"], entries, files
