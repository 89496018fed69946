"""PyTorch zip checkpoints: which storages they hold, and where. Nothing is unpickled.

`torch.save` writes an uncompressed zip: `<name>/data.pkl` (a pickle, never opened here) and
`<name>/data/0`, `<name>/data/1`, …: the bytes of each storage. TorchScript adds `constants.pkl`,
and `constants/0` and so on, where a frozen module has all of its weights. The dtypes stand in the
pickles only, so parameters cannot be counted, and a storage may hold several tensors.

Source: torch/serialization.py and caffe2/serialize/inline_container.h of PyTorch 1.6 and later.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ocimodel.errors import InputError
from ocimodel.spec.tensor import Tensor, TensorMap
from ocimodel.weights.cursor import ReadAt
from ocimodel.weights.magic import begins_torch_zip, format_of
from ocimodel.weights.reader import Match
from ocimodel.weights.zip_directory import STORED, Entry, data_offset, read_entries


def recognises(head: bytes, size: int, name: str) -> Match:
    if format_of(head) != "zip":
        return Match.NO
    # zip is a container for everything: only a checkpoint's damage is ours to report
    return Match.CERTAIN if begins_torch_zip(head) else Match.MAYBE


def read(read_at: ReadAt, size: int) -> TensorMap | None:
    """Each storage as a tensor of bytes, named as its entry without the archive's own folder."""
    entries = read_entries(read_at, size)
    prefix = prefix_of(entries)
    if prefix is None:
        return None
    is_script = any(entry.name == f"{prefix}constants.pkl" for entry in entries)
    found = tuple(_storages(read_at, size, entries, prefix))
    return TensorMap("torchscript" if is_script else "torch", {}, found)


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


def _storages(read_at: ReadAt, size: int, entries: Sequence[Entry], prefix: str) -> list[Tensor]:
    """The storages in the order of their bytes, without those that somebody compressed.

    InputError when one is outside the file or overlaps another one.
    """
    found = []
    for entry in entries:
        if not entry.name.startswith((prefix + "data/", prefix + "constants/")):
            continue
        if entry.method != STORED or entry.size != entry.stored:
            continue
        offset = data_offset(read_at, entry, size)
        name = entry.name[len(prefix) :]
        found.append(Tensor(name, "U8", (entry.size,), offset, entry.size))
    found.sort(key=lambda storage: (storage.offset, storage.length))
    for before, after in pairwise(found):
        if before.offset + before.length > after.offset:
            raise InputError(f"torch: storage {after.name[:200]!r} overlaps {before.name[:200]!r}")
    return found
