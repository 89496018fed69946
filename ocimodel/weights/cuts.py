"""Where a weights file is cut: into chunks, and into the segments that layers hold.

Cuts follow from the tensors alone, by one rule for both: a tensor of at least one `unit` stands by
itself, in pieces of 16 units if it is larger; smaller ones are joined. Where a run of small tensors
is cut is decided by their names, so that equal tensors end up in equal pieces whatever file, shard
or version they are in. A file without a tensor map is cut every 16 units: content-defined cuts
would save more when bytes are inserted, and cost more than the hashing (docs/adr/0009).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ocimodel.spec.chunkindex import MAX_CHUNK_BYTES
from ocimodel.spec.tensor import Tensor

PIECE_UNITS = 16
CHUNK_UNIT = MAX_CHUNK_BYTES // PIECE_UNITS
# registries refuse bigger layers, some of them from 10 GB on
MAX_LAYER_BYTES = 5 << 30
# of all segmented files of an artifact: what keeps its manifest far below 1 MiB
MAX_SEGMENTS = 1000


# what stands between two tensors: up to here it aligns the second, above it belongs to it
_PADDING = 32

Range = tuple[int, int]  # start, length


@dataclass(frozen=True, slots=True)
class Stretch:
    """`length` bytes at `start` of a file: a tensor and what frames it; with no `rank`, a header.

    `rank`: evenly distributed in [0, 2^64) over tensor names; the lower, the likelier a cut.
    """

    start: int
    length: int
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """A file to be cut: `size` in bytes, the tensors in it, and whether it may be segmented."""

    size: int
    tensors: Sequence[Tensor] = ()
    is_weight: bool = False


@dataclass(frozen=True, slots=True)
class Cuts:
    """A file as consecutive ranges: what each layer holds of it, and the chunks in these."""

    segments: tuple[Range, ...]
    chunks: tuple[Range, ...]


def cut(files: Mapping[str, Content], layering: str, max_layer_bytes: int) -> dict[str, Cuts]:
    """Cut all files of an artifact. `layering`: "file" or "tensor".

    With "tensor" each weights file of several chunks is segmented at its tensors, finer the fewer
    bytes the artifact has. A file over `max_layer_bytes` (at least 16 * CHUNK_UNIT) is segmented
    in any case.
    """
    parts = {path: stretches(file.tensors, file.size) for path, file in files.items()}
    fine = {
        path
        for path, file in files.items()
        if layering == "tensor"
        and file.is_weight
        and file.tensors
        and file.size > PIECE_UNITS * CHUNK_UNIT
    }
    unit = segment_unit([parts[path] for path in fine], max_layer_bytes)
    coarse = _largest_unit(max_layer_bytes)
    found = {}
    for path, file in files.items():
        begins = [0]
        if path in fine:
            begins = cut_points(parts[path], unit)
        elif file.size > max_layer_bytes:
            begins = cut_points(parts[path], coarse)
        chunks = sorted({*cut_points(parts[path], CHUNK_UNIT), *begins}) if file.size else [0]
        found[path] = Cuts(_ranges(begins, file.size), _ranges(chunks, file.size))
    return found


def pieces(tensor: Tensor) -> list[Range]:
    """The tensor's bytes in pieces of up to MAX_CHUNK_BYTES, of which its fingerprint is made."""
    end = tensor.offset + tensor.length
    return [
        (start, min(MAX_CHUNK_BYTES, end - start))
        for start in range(tensor.offset, end, MAX_CHUNK_BYTES)
    ]


def _ranges(begins: Sequence[int], size: int) -> tuple[Range, ...]:
    return tuple((a, b - a) for a, b in pairwise([*begins, size]))


def stretches(tensors: Iterable[Tensor], size: int) -> list[Stretch]:
    """A file of `size` bytes as its header and its tensors, in order and without gaps.

    Tensors that overlap, as shared storages may, count as one; those outside the file do not count.
    What lies between two tensors belongs to the first if it is padding, else to the second, which
    it describes.
    """
    found: list[Stretch] = []
    position = 0
    for tensor in sorted(tensors, key=lambda t: (t.offset, -t.length, t.name)):
        end = tensor.offset + tensor.length
        if not tensor.length or end > size or end <= position:
            continue
        gap = tensor.offset - position
        last = found[-1] if found else None
        if last is None:
            if gap:
                found.append(Stretch(0, gap))
            position = tensor.offset
        elif gap < 0:
            found[-1] = Stretch(last.start, end - last.start, last.rank)
            position = end
            continue
        elif gap < _PADDING:
            found[-1] = Stretch(last.start, tensor.offset - last.start, last.rank)
            position = tensor.offset
        found.append(Stretch(position, end - position, _rank(tensor.name)))
        position = end
    if position < size:
        found.append(Stretch(position, size - position))
    return found


def cut_points(parts: Sequence[Stretch], unit: int) -> list[int]:
    """Where each piece of a file begins, ascending, the first at 0; no piece is over 16 units."""
    return sorted(set(_cuts(parts, unit)) - {parts[-1].start + parts[-1].length if parts else 0})


def _cuts(parts: Sequence[Stretch], unit: int) -> Iterator[int]:
    begin = 0
    headed = True
    yield 0
    for part in parts:
        end = part.start + part.length
        large = part.length >= unit
        # the header changes with every edit: what follows shall not change with it
        ends_header = headed and part.rank is not None
        headed = headed and not ends_header
        if large or ends_header or end - begin > PIECE_UNITS * unit:
            begin = part.start
            yield begin
        if large:
            yield from range(part.start, end, PIECE_UNITS * unit)
        # small ones end a piece as often as makes pieces of one unit on average
        if large or (part.rank is not None and part.rank * unit < part.length << 64):
            begin = end
            yield begin


def segment_unit(files: Sequence[Sequence[Stretch]], max_segment_bytes: int) -> int:
    """The smallest unit, CHUNK_UNIT or twice that and so on, that makes at most MAX_SEGMENTS.

    No segment is over `max_segment_bytes`, even if there are more of them then.
    """
    unit = CHUNK_UNIT
    while (
        2 * unit * PIECE_UNITS <= max_segment_bytes
        and sum(len(cut_points(parts, unit)) for parts in files) > MAX_SEGMENTS
    ):
        unit *= 2
    return unit


def _largest_unit(max_segment_bytes: int) -> int:
    """Of which 16 are no more than `max_segment_bytes`."""
    unit = CHUNK_UNIT
    while 2 * unit * PIECE_UNITS <= max_segment_bytes:
        unit *= 2
    return unit


def _rank(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
