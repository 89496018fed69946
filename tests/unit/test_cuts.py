"""Where files are cut: everywhere covered, by content alone, into few and not too big pieces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.ops.indexing import Hashed, Surveyed, build_index, plan
from ocimodel.spec.chunkindex import MAX_CHUNK_BYTES, ChunkIndex
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.spec.modelpack import (
    CONFIG_TYPE,
    REGULAR,
    build_manifest,
    file_layer,
    new_index_layer,
)
from ocimodel.spec.segments import segment_path
from ocimodel.spec.tensor import Tensor
from ocimodel.store.tree import TreeFile
from ocimodel.weights import read_tensor_map
from ocimodel.weights.cuts import (
    CHUNK_UNIT,
    MAX_SEGMENTS,
    PIECE_UNITS,
    Content,
    Range,
    Stretch,
    cut,
    cut_points,
    pieces,
    segment_unit,
    stretches,
)
from tests.servers.models import headers_only_model

UNIT = 64
PIECE = PIECE_UNITS * UNIT
# of a name that makes no cut
LAST = (1 << 64) - 1
MIB = 1 << 20
GIB = 1 << 30
# lengths around all that the rule looks at
LENGTHS = st.one_of(
    st.integers(1, 2 * UNIT),
    st.sampled_from([UNIT - 1, UNIT, UNIT + 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5]),
)
GAPS = st.sampled_from([0, 0, 0, 8, 31, 32, 33, 500])


def tensor(name: str, offset: int, length: int) -> Tensor:
    return Tensor(name, "U8", (length,), offset, length)


def laid_out(items: Iterable[tuple[str, int, int]], start: int = 0) -> list[Tensor]:
    """Tensors of (name, gap before it, length), one after the other."""
    found = []
    for name, gap, length in items:
        found.append(tensor(name, start + gap, length))
        start += gap + length
    return found


def end_of(tensors: Sequence[Tensor], default: int = 0) -> int:
    return tensors[-1].offset + tensors[-1].length if tensors else default


@st.composite
def runs(draw: st.DrawFn, prefix: str = "r") -> list[tuple[str, int, int]]:
    sizes = draw(st.lists(st.tuples(GAPS, LENGTHS), min_size=1, max_size=60))
    seed = draw(st.integers(0, 1 << 30))
    return [(f"{prefix}{seed}.{i}", gap, n) for i, (gap, n) in enumerate(sizes)]


def assert_covers(ranges: Sequence[Range], size: int) -> None:
    assert ranges[0][0] == 0
    assert all(start + length == after for (start, length), (after, _) in pairwise(ranges))
    assert sum(ranges[-1]) == size
    assert all(length > 0 for _, length in ranges) or size == 0


# stretches


@given(
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 900)), max_size=40),
    st.integers(0, 3000),
)
def test_any_tensors_cover_the_file_once(places: list[tuple[int, int]], size: int) -> None:
    """Overlapping ones, empty ones and those outside of the file too."""
    found = stretches([tensor(f"t{i}", *p) for i, p in enumerate(places)], size)
    if size:
        assert_covers([(s.start, s.length) for s in found], size)
    else:
        assert found == []


def test_what_lies_between_two_tensors() -> None:
    """Padding goes with the tensor before it, a description with the one after it."""
    tensors = [tensor("a", 100, 50), tensor("b", 150 + 31, 50), tensor("c", 231 + 32, 50)]
    found = [(s.start, s.length) for s in stretches(tensors, 400)]
    assert found == [(0, 100), (100, 81), (181, 50), (231, 82), (313, 87)]
    assert [s.rank is None for s in stretches(tensors, 400)] == [True, False, False, False, True]


def test_overlapping_tensors_are_one_stretch() -> None:
    tensors = [tensor("a", 10, 50), tensor("b", 40, 50), tensor("in a", 10, 20), tensor("c", 90, 5)]
    found = [(s.start, s.length) for s in stretches(tensors, 95)]
    assert found == [(0, 10), (10, 80), (90, 5)]


@pytest.mark.parametrize("outside", [tensor("x", 90, 20), tensor("x", 200, 1), tensor("x", 50, 0)])
def test_what_is_not_in_the_file_does_not_count(outside: Tensor) -> None:
    inside = tensor("a", 10, 20)
    assert stretches([inside, outside], 100) == stretches([inside], 100)


def test_the_order_of_the_tensors_is_nothing() -> None:
    tensors = laid_out((f"t{i}", 0, 100) for i in range(50))
    assert stretches(reversed(tensors), 5000) == stretches(tensors, 5000)


# the rule


@given(runs(), st.integers(0, 3 * PIECE), st.integers(0, 3 * PIECE))
def test_no_piece_is_over_16_units_and_large_tensors_stand_alone(
    run: list[tuple[str, int, int]], header: int, tail: int
) -> None:
    tensors = laid_out(run, header)
    size = end_of(tensors) + tail
    parts = stretches(tensors, size)
    points = cut_points(parts, UNIT)
    assert_covers([(a, b - a) for a, b in pairwise([*points, size])], size)
    assert max(b - a for a, b in pairwise([*points, size])) <= PIECE
    for part in parts:
        inside = [p for p in [*points, size] if part.start <= p <= part.start + part.length]
        if part.length >= UNIT:
            assert inside == [*range(part.start, part.start + part.length, PIECE), sum(span(part))]
        else:
            # a small one is never cut
            assert all(p in span_ends(part) for p in inside)


def span(part: Stretch) -> Range:
    return part.start, part.length


def span_ends(part: Stretch) -> tuple[int, int]:
    return part.start, part.start + part.length


@given(st.lists(st.tuples(st.integers(1, UNIT - 1), st.sampled_from([0, LAST, LAST, LAST, None]))))
def test_small_tensors_are_joined_up_to_16_units(sizes: list[tuple[int, int | None]]) -> None:
    """However unlikely their names make a cut: only between two of them, as late as may be."""
    parts = []
    end = 0
    for length, rank in [(10, None), *sizes, *[(50, LAST)] * 60]:
        parts.append(Stretch(end, length, rank))
        end += length
    points = cut_points(parts, UNIT)
    lengths = [b - a for a, b in pairwise([*points, end])]
    assert max(lengths) <= PIECE
    assert set(points) <= {part.start for part in parts}
    # at the end of the sixty there is a piece to which not one more could be added
    assert max(lengths) > PIECE - 50


@given(runs(), runs("before"), runs("after"), st.integers(0, 5000), st.integers(0, 5000))
def test_equal_tensors_are_cut_equally_wherever_they_are(
    run: list[tuple[str, int, int]],
    before: list[tuple[str, int, int]],
    after: list[tuple[str, int, int]],
    header: int,
    other_header: int,
) -> None:
    """The same run of tensors: behind another header, alone, or in the midst of others."""
    alone = laid_out(run, header)
    # from a large tensor on, whatever was before it
    anchored = [("anchor", 0, UNIT), *run]
    inside = laid_out([*before, *anchored, *after], other_header)
    at = len(before)
    embedded = inside[at : at + len(anchored)]
    behind_header = laid_out(anchored, header)
    assert relative(behind_header, behind_header) == relative(inside, embedded)
    shifted = laid_out([*run, *after], other_header)
    if header and other_header:
        assert relative(alone, alone[1:]) == relative(shifted, shifted[1 : len(alone)])


def relative(tensors: Sequence[Tensor], of: Sequence[Tensor]) -> list[int]:
    """The cuts of a file from the first to the last byte of some of its tensors."""
    if not of:
        return []
    points = cut_points(stretches(tensors, end_of(tensors)), UNIT)
    return [p - of[0].offset for p in points if of[0].offset <= p < end_of(of)]


def test_runs_of_small_tensors_find_their_cuts_again() -> None:
    """Without any large tensor: one inserted at the front moves a cut or two, not all of them."""
    run = [(f"layers.{i}.norm", 0, 40) for i in range(3000)]
    pieces_before = named_pieces(laid_out(run, 1000))
    inserted = [*run[:5], ("new", 0, 50), *run[5:]]
    pieces_after = named_pieces(laid_out(inserted, 3000))
    assert len(pieces_before) > 1000
    assert len(pieces_before - pieces_after) <= 2
    # one in the middle taken out
    without = named_pieces(laid_out([*run[:1500], *run[1501:]], 1000))
    assert len(pieces_before - without) <= 2


def named_pieces(tensors: Sequence[Tensor]) -> set[tuple[str, ...]]:
    points = [*cut_points(stretches(tensors, end_of(tensors)), UNIT), end_of(tensors)]
    return {tuple(t.name for t in tensors if a <= t.offset < b) for a, b in pairwise(points)} - {()}


def test_the_pieces_of_small_tensors_have_a_unit_on_average() -> None:
    tensors = laid_out((f"t{i}", 0, 7) for i in range(20_000))
    n = len(cut_points(stretches(tensors, end_of(tensors)), UNIT))
    assert 0.9 < end_of(tensors) / n / UNIT < 1.1


def test_a_header_is_a_piece_of_its_own() -> None:
    """What changes with each edit takes no tensor along."""
    tensors = laid_out([("a", 0, 10), ("b", 0, 10)], start=50)
    assert 50 in cut_points(stretches(tensors, 100), 1 << 40)


# artifacts


@given(
    st.lists(st.tuples(runs(), st.integers(0, 9), st.booleans()), min_size=1, max_size=3),
    st.sampled_from(["file", "tensor"]),
    st.sampled_from([MAX_CHUNK_BYTES, 3 * MAX_CHUNK_BYTES, 5 * GIB]),
)
def test_an_artifact_is_covered_by_segments_and_these_by_chunks(
    files: list[tuple[list[tuple[str, int, int]], int, bool]], layering: str, max_layer_bytes: int
) -> None:
    contents = {}
    for i, (run, header, is_weight) in enumerate(files):
        # up to 4 MiB a tensor
        tensors = laid_out(((name, gap, 4097 * n) for name, gap, n in run), header)
        contents[f"f{i}"] = Content(end_of(tensors), tensors, is_weight)
    contents["raw"] = Content(30 * MIB + 1)
    contents["empty"] = Content(0)
    found = cut(contents, layering, max_layer_bytes)
    assert found.keys() == contents.keys()
    for path, cuts in found.items():
        size = contents[path].size
        assert_covers(cuts.segments, size)
        assert_covers(cuts.chunks, size)
        assert {start for start, _ in cuts.segments} <= {start for start, _ in cuts.chunks}
        assert max(n for _, n in cuts.segments) <= max_layer_bytes
        assert max(n for _, n in cuts.chunks) <= MAX_CHUNK_BYTES
        if len(cuts.segments) > 1 and size <= max_layer_bytes:
            assert layering == "tensor"
            assert contents[path].is_weight


def test_only_weights_of_several_chunks_are_segmented() -> None:
    tensors = laid_out((f"t{i}", 0, MIB) for i in range(5))
    contents = {
        "weights": Content(5 * MIB, tensors, True),
        "small": Content(4 * MIB, tensors[:4], True),
        "no weights": Content(5 * MIB, tensors, False),
        "no tensors": Content(5 * MIB, (), True),
    }
    found = cut(contents, "tensor", 5 * GIB)
    assert {path: len(cuts.segments) for path, cuts in found.items()} == {
        "weights": 5,
        "small": 1,
        "no weights": 1,
        "no tensors": 1,
    }
    assert all(len(cuts.segments) == 1 for cuts in cut(contents, "file", 5 * GIB).values())


@pytest.mark.parametrize("layering", ["file", "tensor"])
@pytest.mark.parametrize(
    ("max_layer_bytes", "step"),
    [(4 * MIB, 4 * MIB), (8 * MIB - 1, 4 * MIB), (8 * MIB, 8 * MIB), (40 * MIB, 32 * MIB)],
)
def test_a_raw_file_is_cut_at_fixed_places(layering: str, max_layer_bytes: int, step: int) -> None:
    size = 50 * MIB + 3
    cuts = cut({"raw": Content(size)}, layering, max_layer_bytes)["raw"]
    assert [start for start, _ in cuts.segments] == list(range(0, size, step))
    assert [start for start, _ in cuts.chunks] == list(range(0, size, MAX_CHUNK_BYTES))
    whole = cut({"raw": Content(max_layer_bytes)}, layering, max_layer_bytes)["raw"]
    assert len(whole.segments) == 1


def test_the_unit_grows_with_the_model() -> None:
    """At most MAX_SEGMENTS, all files of the artifact together; not one unit larger than needed."""
    previous = 0
    for n_tensors in (100, 999, 1000, 3000, 20_000):
        tensors = laid_out((f"t{i}", 0, MIB) for i in range(n_tensors))
        halves = (
            tensors[: n_tensors // 2],
            laid_out((t.name, 0, t.length) for t in tensors[n_tensors // 2 :]),
        )
        contents = {f"f{i}": Content(end_of(t), t, True) for i, t in enumerate(halves)}
        cuts = cut(contents, "tensor", 5 * GIB)
        n_segments = sum(len(c.segments) for c in cuts.values())
        parts = [stretches(c.tensors, c.size) for c in contents.values()]
        unit = segment_unit(parts, 5 * GIB)
        assert n_segments <= MAX_SEGMENTS
        assert unit >= previous
        if unit > CHUNK_UNIT:
            assert sum(len(cut_points(p, unit // 2)) for p in parts) > MAX_SEGMENTS
        previous = unit
    assert previous > CHUNK_UNIT


def test_no_segment_is_too_big_for_the_registry_even_if_there_are_many_then() -> None:
    tensors = laid_out((f"t{i}", 0, 8 * MIB) for i in range(1500))
    content = Content(end_of(tensors), tensors, True)
    cuts = cut({"f": content}, "tensor", 4 * MIB)["f"]
    assert max(n for _, n in cuts.segments) <= 4 * MIB
    assert len(cuts.segments) == 3000


@pytest.mark.parametrize("length", [0, 1, MAX_CHUNK_BYTES, MAX_CHUNK_BYTES + 1, 9 * MIB])
def test_the_pieces_of_a_tensor_cover_it(length: int) -> None:
    found = pieces(tensor("t", 77, length))
    assert sum(n for _, n in found) == length
    assert all(0 < n <= MAX_CHUNK_BYTES for _, n in found)
    assert [start for start, _ in found] == list(range(77, 77 + length, MAX_CHUNK_BYTES))


@pytest.mark.parametrize(
    ("n_tensors", "layering"), [(1000, "file"), (1000, "tensor"), (90_000, "tensor")]
)
def test_a_manifest_of_100_gb_stays_under_a_mib(n_tensors: int, layering: str) -> None:
    """From the header alone; the digests, which only have to be as long as real ones, are not."""
    header, n_bytes = headers_only_model(n_tensors)
    assert n_bytes > 99 * 10**9
    name = "model.safetensors"
    found = read_tensor_map(lambda at, n: header[at : at + n], n_bytes, name)
    assert found is not None
    assert len(found.tensors) == n_tensors
    file = TreeFile(name, None, n_bytes, executable=False)  # type: ignore[arg-type]
    wanted = plan([Surveyed(file, True, found)], layering)[name]
    segments = wanted.cuts.segments
    if layering == "tensor":
        assert len(segments) <= MAX_SEGMENTS
        # as fine as that allows
        assert len(segments) > MAX_SEGMENTS / 4
    parts = {*segments, *wanted.cuts.chunks, *wanted.to_fingerprint()}
    hashed = Hashed(wanted, {p: b"%032d" % i for i, p in enumerate(sorted(parts))})
    layers = [
        file_layer(segment_path(name, i, len(segments)), "weight", digest, length, REGULAR)
        for i, (digest, (_, length)) in enumerate(
            zip(hashed.segments, segments, strict=True), start=1
        )
    ]
    index = build_index({name: hashed})
    raw_index = index.encode()
    layers.append(new_index_layer(sha256(raw_index), len(raw_index)))
    config = Descriptor(CONFIG_TYPE, sha256(b""), 100_000)
    manifest = build_manifest(config, tuple(layers), {})
    assert len(manifest) < MIB
    n_chunks = sum(len(blob.lengths) for blob in index.blobs.values())
    n_chunk_bytes = len(ChunkIndex(blobs=index.blobs).encode())
    print(
        f"{n_tensors} tensors, layering {layering}: {len(layers)} layers, "
        f"manifest {len(manifest)} bytes, index {len(raw_index)} bytes, {n_chunks} chunks of "
        f"{n_chunk_bytes / n_chunks:.1f} bytes in it"
    )
    assert n_chunk_bytes <= 60 * n_chunks
    assert len(raw_index) < 32 * MIB
