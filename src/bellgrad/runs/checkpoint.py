"""Checkpoints: a JSON manifest and safetensors files, written whole or not at all, verified before they are
used.

A checkpoint is the folder `step-N`:

| file | content |
| --- | --- |
| `manifest.json` | version, step, values; of files size and SHA-256; of tensors dtype, shape, files |
| `manifest.sha256` | SHA-256 of `manifest.json`, in the form that `sha256sum -c` reads |
| `tensors-00000.safetensors`, ... | tensors; large ones are split, small ones of a group share a file |

Nothing that is loaded can run code: the manifest is JSON, and it gives the place of every tensor's bytes
(`tensor_files.py`).
"""

import fcntl
import hashlib
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bellgrad.core.errors import CheckpointError
from bellgrad.runs.files import (
    JSON_LIMIT,
    fsync_folder,
    make_folder,
    parse_json,
    read_bytes,
    readable,
    reason,
    write_synced,
)
from bellgrad.runs.tensor_files import (
    DTYPES,
    FILE_NAME,
    Entry,
    Part,
    Place,
    file_bytes,
    layout_of,
    places_of,
    plan_files,
    read_part,
    verify_file,
)

VERSION = 1  # of the format
MANIFEST, CHECKSUM = "manifest.json", "manifest.sha256"
_TEMPORARY = ".tmp-"
_CHECKSUMS = re.compile(rb"([0-9a-f]{64}  manifest\.json\n){1,2}")  # two lines while it is being revised
_FOLDER = re.compile(r"step-(0|[1-9][0-9]{0,17})(\.old)?")


class FileEntry(NamedTuple):
    """What the manifest says of a file of tensors."""

    parts: list[Part]
    size: int  # bytes
    sha256: str  # hexadecimal


def save_checkpoint(root: Path, step: int, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """Write the checkpoint `root/step-N`; until it is complete and on the disk, `root` keeps what it had.

    Needs little memory besides the tensors: contiguous CPU tensors are not copied, others a shard at a
    time. A `step-N` that exists is replaced. What killed writers left is removed.

    Args:
        root: the folder of checkpoints; made if missing.
        step: environment steps taken, 0 or more.
        values: anything that JSON can hold; tuples come back as lists, keys as strings.
        tensors: tensors by name, on any device; they may share memory, which is not kept.

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: the disk is full, read-only or gone, or the dtype of a tensor cannot be saved.
    """
    folder = root / f"step-{step}"
    if not _FOLDER.fullmatch(folder.name):
        raise CheckpointError(f"a checkpoint's step must be an integer, 0 or more, not {step!r}")
    entries = plan_files(tensors)
    described = {name: entry._asdict() for name, entry in entries.items()}
    files: dict[str, dict[str, Any]] = {}
    manifest = {
        "version": VERSION,
        "step": step,
        "values": dict(values),
        "tensors": described,
        "files": files,
    }
    json.dumps(manifest)  # values that JSON cannot hold raise here, before the disk is touched
    try:
        make_folder(root)
        _sweep(root)
        temporary = _temporary_name(folder)
        temporary.mkdir()
        lock = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(OSError):  # a network disk may not support locks
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # shows that the writer is alive: see _sweep
            for file, parts in layout_of(entries).items():
                size, digest = write_synced(temporary / file, file_bytes(parts, tensors))
                files[file] = {"size": size, "sha256": digest}
            text = json.dumps(manifest, indent=1).encode()
            if len(text) > JSON_LIMIT:
                raise CheckpointError(
                    f"checkpoint {folder} was not written: its manifest has {len(text)} bytes (values too"
                    " large)"
                )
            _, digest = write_synced(temporary / MANIFEST, [text])
            write_synced(temporary / CHECKSUM, [_checksum_line(digest)])
            fsync_folder(temporary)
            _publish(temporary, folder)
        finally:
            os.close(lock)
            shutil.rmtree(temporary, ignore_errors=True)  # already renamed if there was no error
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {folder} was not written: {reason(error)}; the last checkpoint is intact"
        ) from error
    return folder


def revise_checkpoint(root: Path, step: int, values: Mapping[str, Any]) -> None:
    """Give a checkpoint other values; its tensors stay. At every moment it is whole, with the old values or
    the new ones.

    Raises:
        CheckpointError: there is no such checkpoint, or the disk is full, read-only or gone.
    """
    folder = root / f"step-{step}"
    old = read_bytes(folder / MANIFEST, JSON_LIMIT)
    new = json.dumps(parse_json(old, folder / MANIFEST) | {"values": dict(values)}, indent=1).encode()
    before, after = (_checksum_line(hashlib.sha256(text).hexdigest()) for text in (old, new))
    try:
        for name, content in ((CHECKSUM, before + after), (MANIFEST, new), (CHECKSUM, after)):
            temporary = _temporary_name(folder)  # beside the folder, in which there may be nothing else
            try:
                write_synced(temporary, [content])
                os.replace(temporary, folder / name)
            finally:
                temporary.unlink(missing_ok=True)
            fsync_folder(folder)
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {folder} could not be revised: {reason(error)}; it is intact"
        ) from error


def _checksum_line(digest: str) -> bytes:
    return f"{digest}  {MANIFEST}\n".encode()


def _publish(temporary: Path, folder: Path) -> None:
    """Give a complete checkpoint its name. An older one of that name stays valid as `step-N.old` until the
    new one is durable."""
    old = folder.with_name(f"{folder.name}.old")
    if os.path.lexists(folder):
        os.rename(folder, old)
    os.rename(temporary, folder)
    fsync_folder(folder.parent)
    _discard(folder.parent, [old] if os.path.lexists(old) else [])


def _temporary_name(folder: Path) -> Path:
    return folder.with_name(f"{_TEMPORARY}{folder.name}-{secrets.token_hex(4)}")


def _discard(root: Path, paths: Sequence[Path]) -> None:
    """Delete checkpoints; they are renamed first, so that a half-deleted one is not read as a checkpoint."""
    if paths:
        renamed = [path.rename(_temporary_name(path)) for path in paths]
        fsync_folder(root)
        for path in renamed:
            _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)  # the next save removes what stays
    else:
        path.unlink(missing_ok=True)


def _sweep(root: Path) -> None:
    """Finish what killed writers began: remove half-written and half-deleted folders, complete an interrupted
    replacement."""
    for path in sorted(root.iterdir()):
        if path.name.startswith(_TEMPORARY):
            if path.is_file() and not path.is_symlink():
                path.unlink(missing_ok=True)  # of a revision
                continue
            with suppress(OSError):
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if the writer is alive
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
        keep: other steps to keep, for example the best.
        newest: the step that the run has reached. Later checkpoints were written before the run was resumed
            from an earlier one (usually because they are damaged); they are deleted and do not count. None:
            there are none.

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


def open_latest(root: Path, tensors: Sequence[str] = ("",)) -> tuple["Checkpoint", list[str]]:
    """The newest checkpoint that is whole, and a warning for each newer one that is not.

    Args:
        root: the folder of checkpoints.
        tensors: how the names of the tensors begin that must be whole; by default all of them. The files of
            the other tensors are not read.

    Raises:
        CheckpointError: none is whole; the message says what is wrong with each.
    """
    warnings: list[str] = []
    for _, path in reversed(checkpoints(root)):
        try:
            checkpoint = Checkpoint.open(path)
            checkpoint.verify(tensors)
        except CheckpointError as error:
            warnings.append(f"damaged checkpoint ignored: {error}")
        else:
            return checkpoint, warnings
    raise CheckpointError(
        f"{root} holds no usable checkpoint" + "".join(f"; {warning}" for warning in warnings)
    )


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint with a verified manifest; made by `Checkpoint.open`.

    A file of tensors is verified once, every byte of it, before the first of its bytes is used.

    Attributes:
        path: its folder.
        step: environment steps taken when it was saved.
        values: what the caller saved besides the tensors.
    """

    path: Path
    step: int
    values: dict[str, Any]
    _entries: dict[str, Entry] = field(repr=False)
    _unverified: dict[str, FileEntry] = field(repr=False)  # by the file's name
    _places: dict[str, list[Place]] = field(repr=False)

    @classmethod
    def open(cls, path: Path) -> "Checkpoint":
        """Verify the manifest of a checkpoint and the names in its folder. No file of tensors is read yet.

        Raises:
            CheckpointError: damaged, of another program or unsafe; the message names the file.
        """
        if path.is_symlink() or not path.is_dir():
            raise CheckpointError(
                f"{path} is not a checkpoint folder" + (" but a symbolic link" if path.is_symlink() else "")
            )
        text = read_bytes(path / MANIFEST, JSON_LIMIT)
        known = read_bytes(path / CHECKSUM, 1024)
        lines = known.splitlines(keepends=True)
        if not _CHECKSUMS.fullmatch(known) or _checksum_line(hashlib.sha256(text).hexdigest()) not in lines:
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
            raise CheckpointError(
                f"{path / odd} " + ("does not belong to the checkpoint" if odd in present else "is missing")
            )
        layout = layout_of(entries)
        unverified = {file: FileEntry(layout[file], size, digest) for file, (size, digest) in files.items()}
        return cls(path, step, values, entries, unverified, places_of(layout))

    def verify(self, tensors: Sequence[str] = ("",)) -> None:
        """Verify the files of the tensors whose names begin with one of `tensors`; by default every file.

        Raises:
            CheckpointError: one is damaged or unsafe; the message names it.
        """
        for name in self._entries:
            if name.startswith(tuple(tensors)):
                self._verify_files_of(name)

    def _verify_files_of(self, name: str) -> None:
        for file in self._entries[name].files:
            if file in self._unverified:
                verify_file(self.path / file, *self._unverified[file])
                del self._unverified[file]

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
            CheckpointError: there is no such tensor, or its file is damaged or unsafe.
        """
        entry = self._entry(name)
        # PyTorch's own memory, not that of the file: the bits of a matrix product may depend on alignment.
        out = torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
        self.read_into(name, out)
        return out

    def read_into(self, name: str, out: Tensor) -> None:
        """Fill the first rows of `out` (all of it for a scalar); the other rows stay as they are.

        Args:
            name: the tensor.
            out: same dtype and number of axes, same sizes except the first, which may be larger; on any
                device.

        Raises:
            CheckpointError: there is no such tensor, `out` does not fit it, or its file is damaged or unsafe.
        """
        entry = self._entry(name)
        shape, dtype = entry.shape, DTYPES[entry.dtype]
        fits = (
            out.dim() == len(shape)
            and tuple(out.shape[1:]) == shape[1:]
            and (not shape or out.shape[0] >= shape[0])
        )
        if out.dtype != dtype or not fits:
            raise CheckpointError(
                f"the checkpoint's {name!r} is {dtype} {list(shape)} and does not fit {out.dtype}"
                f" {list(out.shape)}"
            )
        self._verify_files_of(name)
        for file, offset, part in self._places[name]:
            target = out.detach()[part.first_row : part.first_row + part.shape[0]] if shape else out.detach()
            direct = target.device.type == "cpu" and target.is_contiguous()
            memory = target if direct else torch.empty(part.shape, dtype=dtype)
            read_part(self.path / file, offset, memory)
            if not direct:
                target.copy_(memory)

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """Every tensor whose name begins with `prefix`, by its full name."""
        return {name: self.read(name) for name in self._entries if name.startswith(prefix)}

    def _entry(self, name: str) -> Entry:
        if name not in self._entries:
            raise CheckpointError(f"checkpoint {self.path} has no tensor {name!r}")
        return self._entries[name]


def _parse_manifest(
    manifest: Any, path: Path
) -> tuple[int, dict[str, Any], dict[str, Entry], dict[str, tuple[int, str]]]:
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
    require(
        manifest.keys() == {"version", "step", "values", "tensors", "files"},
        f"unexpected keys {sorted(manifest)}",
    )
    require(is_count(manifest["step"]), "step")
    for key in ("values", "tensors", "files"):
        require(isinstance(manifest[key], dict), key)

    files: dict[str, tuple[int, str]] = {}
    for name, described in manifest["files"].items():
        require(FILE_NAME.fullmatch(name) is not None, f"file name {name!r}")
        require(isinstance(described, dict) and described.keys() == {"size", "sha256"}, f"file {name!r}")
        require(is_count(described["size"]) and isinstance(described["sha256"], str), f"file {name!r}")
        files[name] = (described["size"], described["sha256"])

    entries: dict[str, Entry] = {}
    for name, described in manifest["tensors"].items():
        require(isinstance(described, dict) and described.keys() == set(Entry._fields), f"tensor {name!r}")
        dtype, shape, rows, parts = (described[field] for field in Entry._fields)
        require(isinstance(dtype, str) and dtype in DTYPES, f"dtype of tensor {name!r}")
        require(
            isinstance(shape, list) and len(shape) <= 64 and all(map(is_count, shape)),
            f"shape of tensor {name!r}",
        )
        # Counting empty axes as 1: the strides of an empty tensor must not overflow either.
        require(is_count(math.prod(max(axis, 1) for axis in shape) * 8), f"size of tensor {name!r}")
        require(is_count(rows) and rows > 0, f"rows of tensor {name!r}")
        require(
            isinstance(parts, list) and all(isinstance(file, str) and file in files for file in parts),
            f"files of tensor {name!r}",
        )
        entry = Entry(dtype, tuple(shape), rows, tuple(parts))
        require(
            len(set(parts)) == len(parts) == max(1, -(-entry.total_rows // rows)), f"files of tensor {name!r}"
        )
        entries[name] = entry
    require(
        {file for entry in entries.values() for file in entry.files} == set(files),
        "a file that holds no tensor",
    )
    return manifest["step"], manifest["values"], entries, files
