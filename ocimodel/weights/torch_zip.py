"""PyTorch zip checkpoints: which storages they hold, and where. Nothing is unpickled.

`torch.save` writes an uncompressed zip: `<name>/data.pkl` (a pickle, never opened here) and
`<name>/data/0`, `<name>/data/1`, …: the bytes of each storage. TorchScript adds `constants.pkl`.
The dtypes stand in the pickle only, so parameters cannot be counted.

Source: torch/serialization.py and caffe2/serialize/inline_container.h of PyTorch 1.6 and later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ocimodel.errors import InputError
from ocimodel.weights.cursor import ReadAt
from ocimodel.weights.zip_directory import STORED, Entry, data_offset, read_entries


@dataclass(frozen=True, slots=True)
class Storage:
    """`length` bytes at `offset` of the file: one storage, which several tensors may share."""

    name: str
    offset: int
    length: int


def prefix_of(entries: Sequence[Entry]) -> str | None:
    """The archive's inner directory with its slash, or None when this is no torch checkpoint."""
    names = {entry.name for entry in entries}
    with_data = {name.rpartition("/")[0] for name in names if "/data/" in name}
    for name in sorted(names):
        head, slash, last = name.rpartition("/")
        if (
            slash
            and last == "data.pkl"
            and (f"{head}/version" in names or f"{head}/data" in with_data)
        ):
            return head + slash
    return None


def storage_bytes(entries: Sequence[Entry], prefix: str) -> int:
    """Bytes of all storages together, from the directory alone."""
    return sum(entry.size for entry in _storages(entries, prefix))


def storages(read_at: ReadAt, size: int) -> tuple[Storage, ...]:
    """The storages of a checkpoint of `size` bytes in the order of their bytes.

    InputError when it is no torch checkpoint, or a storage is compressed, outside the file, or
    overlaps another one.
    """
    entries = read_entries(read_at, size)
    prefix = prefix_of(entries)
    if prefix is None:
        raise InputError("torch: expected a zip with data.pkl and data/0 in one folder")
    found = []
    for entry in _storages(entries, prefix):
        if entry.method != STORED or entry.size != entry.stored:
            raise InputError(f"torch: storage {entry.name[:200]!r} is compressed")
        offset = data_offset(read_at, entry, size)
        found.append(Storage(entry.name[len(prefix) :], offset, entry.size))
    found.sort(key=lambda storage: (storage.offset, storage.length))
    for before, after in pairwise(found):
        if before.offset + before.length > after.offset:
            raise InputError(f"torch: storage {after.name[:200]!r} overlaps {before.name[:200]!r}")
    return tuple(found)


def _storages(entries: Sequence[Entry], prefix: str) -> list[Entry]:
    inside = prefix + "data/"
    return [entry for entry in entries if entry.name.startswith(inside)]
