"""Where a weights file is cut: into chunks, and into the segments that layers hold.

Cuts follow from the tensors alone, by one rule for both: a tensor of at least one `unit` stands by
itself, in pieces of 16 units if it is larger; smaller ones, and what lies between tensors, are
joined. Where a run of small tensors is cut is decided by their names, so that equal tensors end up
in equal pieces whatever file, shard or version they are in. A file without a tensor map is cut
every 16 units: content-defined cuts would save more when bytes are inserted, and cost far more
than the hashing itself (docs/adr/0009).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ocimodel.spec.chunkindex import MAX_CHUNK_BYTES
from ocimodel.spec.tensor import Tensor

PIECE_UNITS = 16
CHUNK_UNIT = MAX_CHUNK_BYTES // PIECE_UNITS
# of all segmented files of an artifact: what keeps its manifest far below 1 MiB
MAX_SEGMENTS = 1000


@dataclass(frozen=True, slots=True)
class Stretch:
    """`length` bytes at `start` of a file: a tensor, or with no `rank` what lies between two.

    `rank`: evenly distributed in [0, 2^64) over tensor names; the lower, the likelier a cut.
    """

    start: int
    length: int
    rank: int | None = None


def stretches(tensors: Iterable[Tensor], size: int) -> list[Stretch]:
    """A file of `size` bytes as tensors and what lies between, in order and without gaps.

    Tensors that overlap, as shared storages may, count as one; those outside the file do not count.
    """
    found: list[Stretch] = []
    position = 0
    for tensor in sorted(tensors, key=lambda t: (t.offset, -t.length, t.name)):
        end = tensor.offset + tensor.length
        if not tensor.length or end > size:
            continue
        if tensor.offset < position:
            if end > position:
                last = found.pop()
                found.append(Stretch(last.start, end - last.start, last.rank))
                position = end
            continue
        if tensor.offset > position:
            found.append(Stretch(position, tensor.offset - position))
        found.append(Stretch(tensor.offset, tensor.length, _rank(tensor.name)))
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


def _rank(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
