"""The safetensors files of a checkpoint: which rows of which tensor are in which of them, and their bytes.

A manifest's entries determine each file's safetensors header to the byte. So the reader parses no header:
it computes the one that must be there and compares.

Source: the format is https://github.com/huggingface/safetensors#format.
"""

import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bellgrad.core.errors import CheckpointError
from bellgrad.runs.files import open_regular, readable

SHARD_BYTES = 64 * 2**20
FILE_NAME = re.compile(r"tensors-[0-9]{5}\.safetensors")
DTYPES = {
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
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Entry(NamedTuple):
    """The files of a tensor: `rows` rows of it in each of `files`, fewer in the last. A scalar is one row."""

    dtype: str
    shape: tuple[int, ...]
    rows: int
    files: tuple[str, ...]

    @property
    def total_rows(self) -> int:
        """Rows in all files together."""
        return self.shape[0] if self.shape else 1


class Part(NamedTuple):
    """Consecutive rows of one tensor in one file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    first_row: int

    @property
    def nbytes(self) -> int:
        """Bytes that the part takes."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


class Place(NamedTuple):
    """A part, its file, and the byte of the file at which it begins."""

    file: str
    offset: int
    part: Part


def plan_files(tensors: Mapping[str, Tensor]) -> dict[str, Entry]:
    """Decide which files hold which tensor: at most a shard each, unless a single row is larger.

    A file holds tensors of one group only: those whose names begin with the same part. So a reader of the
    policy, for example, does not read and verify all the experience.
    """
    entries: dict[str, Entry] = {}
    group = None
    count = filled = 0  # files opened so far, and the bytes in the last of them
    for name, tensor in tensors.items():
        if name == "__metadata__" or tensor.dtype not in _DTYPE_NAMES or tensor.layout != torch.strided:
            raise CheckpointError(
                f"tensor {name!r} ({tensor.dtype}, {tensor.layout}) cannot be saved in a checkpoint"
            )
        size = tensor.numel() * tensor.element_size()
        shape = tuple(tensor.shape)
        total = shape[0] if shape else 1
        rows = max(1, total if size <= SHARD_BYTES else SHARD_BYTES * total // size)
        shards = max(1, -(-total // rows))
        first = name.partition("/")[0]
        if first != group or shards > 1 or filled + size > SHARD_BYTES:
            group, count, filled = first, count + shards, 0
        filled = SHARD_BYTES if shards > 1 else filled + size
        files = tuple(f"tensors-{i:05}.safetensors" for i in range(count - shards, count))
        entries[name] = Entry(_DTYPE_NAMES[tensor.dtype], shape, rows, files)
    return entries


def layout_of(entries: Mapping[str, Entry]) -> dict[str, list[Part]]:
    """The parts in each file, in the order of their bytes."""
    layout: dict[str, list[Part]] = {}
    for name, entry in entries.items():
        for i, file in enumerate(entry.files):
            first = i * entry.rows
            shape = (min(entry.rows, entry.total_rows - first), *entry.shape[1:]) if entry.shape else ()
            layout.setdefault(file, []).append(Part(name, entry.dtype, shape, first))
    return layout


def places_of(layout: Mapping[str, list[Part]]) -> dict[str, list[Place]]:
    """Where the parts of every tensor are, by the tensor's name."""
    places: dict[str, list[Place]] = {}
    for file, parts in layout.items():
        offset = len(_header(parts))
        for part in parts:
            places.setdefault(part.name, []).append(Place(file, offset, part))
            offset += part.nbytes
    return places


def _header(parts: list[Part]) -> bytes:
    """What a safetensors file with these parts begins with: the length of a JSON object (8 bytes), and the
    object."""
    described, offset = {}, 0
    for part in parts:
        described[part.name] = {
            "dtype": part.dtype,
            "shape": part.shape,
            "data_offsets": [offset, offset + part.nbytes],
        }
        offset += part.nbytes
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _raw(tensor: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor."""
    flat = tensor.reshape(-1).as_strided(
        (tensor.numel(),), (1,)
    )  # a tensor of one item or none may have any stride
    return flat.view(torch.uint8).numpy().data


def file_bytes(parts: list[Part], tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """A whole file, piece by piece. Contiguous CPU tensors are not copied, others a part at a time."""
    yield _header(parts)
    for part in parts:
        tensor = tensors[part.name].detach()
        rows = tensor[part.first_row : part.first_row + part.shape[0]] if part.shape else tensor
        yield _raw(rows.cpu().contiguous())


def read_part(path: Path, offset: int, out: Tensor) -> None:
    """Fill a contiguous CPU tensor with the bytes of a file from `offset` on.

    Raises:
        CheckpointError: the file cannot be read or is too short.
    """
    memory = _raw(out)
    with readable(path), open_regular(path) as file:
        file.seek(offset)
        done = 0
        while done < len(memory):  # one read gives at most 2 GiB
            count = file.readinto(memory[done:])
            if not count:
                raise CheckpointError(f"{path} has become shorter since it was verified")
            done += count


def verify_file(path: Path, parts: list[Part], size: int, digest: str) -> None:
    """Check a file, every byte of it.

    Args:
        path: the file.
        parts: what it must hold, in order.
        size: its size in bytes according to the manifest.
        digest: its SHA-256 in hexadecimal, according to the manifest.

    Raises:
        CheckpointError: it cannot be read, or is not what the manifest says.
    """
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
