"""Indexes that lie, segments that are odd, donors that change: right bytes, or a declared error."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from ocimodel.errors import InputError, IntegrityError
from ocimodel.events import BlobStarted, Event
from ocimodel.ops.access import IndexOf
from ocimodel.ops.donors import Donors
from ocimodel.ops.pull import PullResult, pull
from ocimodel.ops.push import push
from ocimodel.spec.chunkindex import MAX_INDEX_BYTES, BlobChunks, ChunkIndex, parse_index
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.spec.manifest import Manifest
from ocimodel.spec.modelpack import FILEPATH, REGULAR, file_layer, index_layer, new_index_layer
from ocimodel.spec.segments import files_of, segment_path
from ocimodel.store.checkout import Checkout
from ocimodel.store.copy import copy
from ocimodel.store.layout import Layout
from ocimodel.store.memo import Memo
from ocimodel.store.memory import MemoryStore
from tests.artifacts import Recorder, put_blob, put_layers, random_bytes
from tests.faults.conftest import Bench
from tests.indexed import Weights, put_indexed, safetensors
from tests.servers.faults import FlipByte
from tests.trees import MIB, Notices, patient, read_tree, write_tree

NAME = "model.safetensors"
SAME = random_bytes(3 * MIB, 1)
OLD = random_bytes(2 * MIB, 2)
NEW = random_bytes(2 * MIB, 3)


def weights(changing: bytes) -> Weights:
    return safetensors(
        {
            "same": ("U8", [len(SAME)], SAME),
            "changing": ("U8", [len(changing)], changing),
            "tail": ("U8", [MIB], SAME[:MIB]),
        }
    )


BEFORE, AFTER = weights(OLD), weights(NEW)
OTHER = random_bytes(MIB, 4)


@dataclass
class Lab:
    """The new version in memory, to be given another index; the old one in a directory."""

    tmp: Path
    layering: str
    store: MemoryStore = field(default_factory=MemoryStore)

    def __post_init__(self) -> None:
        files: dict[str, bytes | Weights] = {NAME: AFTER, "other.bin": OTHER}
        self.root = put_indexed(self.store, files, layering=self.layering)
        layer = index_layer(self.root)
        assert layer is not None
        self.index = parse_index(self.store.blobs[layer.digest])
        self.target = write_tree(self.tmp / "target", {NAME: BEFORE.content})
        self.expected = {NAME: AFTER.content, "other.bin": OTHER}

    def layers(self) -> list[Descriptor]:
        """Those of the files."""
        return list(self.root.layers[:-1])

    def put(self, index: ChunkIndex | bytes, layers: Iterable[Descriptor] = ()) -> str:
        """An artifact with this index, in a layout; its reference."""
        raw = index.encode() if isinstance(index, ChunkIndex) else index
        described = new_index_layer(put_blob(self.store, raw), len(raw))
        manifest = put_layers(self.store, [*(list(layers) or self.layers()), described])
        layout = Layout(self.tmp / "layout", create=True)
        copy(self.store, layout, manifest, tag="v1")
        return f"oci:{self.tmp / 'layout'}:v1"

    def pull(self, reference: str, target: Path | None = None) -> PullResult:
        return pull(reference, target or self.target, client=patient())

    def refused(self, reference: str, match: str) -> None:
        """A delta pull says what is wrong, and leaves the old version."""
        with pytest.raises(InputError, match=match):
            self.pull(reference)
        assert (self.target / NAME).read_bytes() == BEFORE.content

    def fresh(self, reference: str) -> None:
        """Whoever has no old version has no need of the index."""
        self.pull(reference, self.tmp / "fresh")
        assert read_tree(self.tmp / "fresh") == self.expected


@pytest.fixture(params=["file", "tensor"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Lab:
    return Lab(tmp_path, request.param)


def test_a_true_index_saves_what_it_says(lab: Lab) -> None:
    """What all others here are measured against."""
    result = lab.pull(lab.put(lab.index))
    assert read_tree(lab.target) == lab.expected
    assert len(NEW) <= result.bytes_fetched - MIB < len(NEW) + 10_000


# lies about chunks


def test_chunk_digests_that_belong_to_other_bytes_here(lab: Lab) -> None:
    """The index calls the new tensor's chunks by the digests of the old one's, which are here."""
    truth, lie = sha256(NEW)[7:], sha256(OLD)[7:]
    blobs = {
        digest: replace(
            blob, digests=blob.digests.replace(bytes.fromhex(truth), bytes.fromhex(lie))
        )
        for digest, blob in lab.index.blobs.items()
    }
    if lab.layering == "tensor":
        blobs = {sha256(NEW): BlobChunks((len(NEW),), bytes.fromhex(lie))}
    assert blobs != lab.index.blobs
    result = lab.pull(lab.put(replace(lab.index, blobs=blobs)))
    assert read_tree(lab.target) == lab.expected
    # tried once, and then fetched without its help
    assert result.bytes_fetched < 2 * len(AFTER.content) + MIB
    assert lab.pull(lab.put(lab.index)).bytes_fetched == 0


def test_chunk_digests_all_mixed_up(lab: Lab) -> None:
    known = [sha256(x)[7:] for x in (SAME, SAME[:MIB], OLD)]
    blobs = {
        layer.digest: BlobChunks(
            (n,) * (layer.size // n), bytes.fromhex(known[1]) * (layer.size // n)
        )
        for layer in lab.layers()
        for n in (MIB,)
        if layer.size % n == 0 and layer.size
    }
    if lab.layering == "file":
        # as if the file were the same megabyte again and again, but for its ends
        size = len(AFTER.content)
        lengths = (*(MIB,) * (size // MIB), size % MIB)
        digests = bytes.fromhex(known[1]) * (size // MIB) + bytes(32)
        blobs[sha256(AFTER.content)] = BlobChunks(lengths, digests)
    lab.pull(lab.put(replace(lab.index, blobs=blobs)))
    assert read_tree(lab.target) == lab.expected


def test_a_source_that_is_wrong_too(lab: Lab) -> None:
    """A lying index, and then lying bytes: an end with IntegrityError, and the old file stays."""
    blobs = {
        layer.digest: BlobChunks((MIB, layer.size - MIB), bytes.fromhex(sha256(SAME[:MIB])[7:]) * 2)
        for layer in lab.layers()
        if layer.size > MIB
    }
    index = replace(lab.index, blobs=blobs)
    raw = index.encode()
    root = put_layers(
        lab.store, [*lab.layers(), new_index_layer(put_blob(lab.store, raw), len(raw))]
    )
    source = Recorder(lab.store)
    for digest in blobs:
        source.swapped[digest] = random_bytes(len(lab.store.blobs[digest]), 77)
    with (
        pytest.raises(IntegrityError),
        Donors(lab.target, Memo(None)) as donors,
        Checkout(lab.target, index=lambda: index, chunks=[donors]) as checkout,
    ):
        copy(source, checkout, root)
    assert (lab.target / NAME).read_bytes() == BEFORE.content
    assert source.n_bytes_read < 4 * len(AFTER.content)
    source.swapped.clear()
    with Checkout(lab.target) as checkout:
        copy(source, checkout, root)
    assert read_tree(lab.target) == lab.expected


@dataclass
class Liar:
    """A `ChunkFinder` that has everything, and all of it wrong."""

    calls: int = 0

    def copy_chunk(self, digest: bytes, length: int, out_fd: int, out_offset: int) -> bool:
        self.calls += 1
        os.pwrite(out_fd, b"\xee" * length, out_offset)
        return True


def test_a_finder_that_gives_wrong_bytes(lab: Lab) -> None:
    liar = Liar()
    source = Recorder(lab.store)
    with Checkout(lab.target, index=lambda: lab.index, chunks=[liar]) as checkout:
        copy(source, checkout, lab.root)
    assert read_tree(lab.target) == lab.expected
    assert liar.calls
    # each blob once more from the start, and not a third time
    assert source.n_bytes_read == len(AFTER.content) + len(OTHER)


def test_old_chunks_that_change_after_they_were_looked_at(lab: Lab) -> None:
    """By someone else, in place, while the pull is at its second file."""
    # what the second file wants is in the first one's old version
    second = safetensors({"moved": ("U8", [len(OLD)], OLD)})
    store = MemoryStore()
    files: dict[str, bytes | Weights] = {"a.safetensors": AFTER, "b.safetensors": second}
    root = put_indexed(store, files, layering=lab.layering)
    layout = Layout(lab.tmp / "layout", create=True)
    copy(store, layout, root, tag="v1")
    begun: list[str] = []

    def write(event: Event) -> None:
        if isinstance(event, BlobStarted):
            begun.append(event.name)
            if len(begun) == 1:
                with (lab.target / NAME).open("r+b") as file:
                    file.write(random_bytes(len(BEFORE.content), 8))

    pull(
        f"oci:{lab.tmp / 'layout'}:v1",
        lab.target,
        concurrency=1,
        client=patient(),
        observer=write,
    )
    assert (lab.target / "a.safetensors").read_bytes() == AFTER.content
    assert (lab.target / "b.safetensors").read_bytes() == second.content


# indexes that contradict the manifest


def contradictions(lab: Lab) -> dict[str, ChunkIndex]:
    index = lab.index
    entry = index.files[NAME]
    some = lab.layers()[-1]
    swapped = (*entry.segments[1:], entry.segments[0])
    return {
        "size": replace(index, files={NAME: replace(entry, size=entry.size + 1)}),
        "file": replace(index, files={"x": replace(entry, path="x")}),
        "segments": replace(
            index,
            files={NAME: replace(entry, segments=swapped if len(swapped) > 1 else (some.digest,))},
        ),
        "too many segments": replace(
            index, files={NAME: replace(entry, segments=(*entry.segments, some.digest))}
        ),
        "chunks": replace(index, blobs={some.digest: BlobChunks((5, 6), bytes(64))}),
        "unknown blob": replace(index, blobs={sha256(b"?"): BlobChunks((5, 6), bytes(64))}),
    }


@pytest.mark.parametrize(
    "what", ["size", "file", "segments", "too many segments", "chunks", "unknown blob"]
)
def test_an_index_that_contradicts_the_manifest(lab: Lab, what: str) -> None:
    reference = lab.put(contradictions(lab)[what])
    lab.refused(reference, "index")
    lab.fresh(reference)


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b"[]", b"\xff", b'{"version":2}', b'{"version":1,"blobs":7}', b"[" * 10_000]
)
def test_what_is_no_index(lab: Lab, raw: bytes) -> None:
    reference = lab.put(raw)
    lab.refused(reference, "index")
    lab.fresh(reference)


def test_tensors_that_overlap_are_no_harm(lab: Lab) -> None:
    """The map of tensors does not decide over any byte."""
    entry = lab.index.files[NAME]
    lies = tuple(replace(t, offset=0) for t in entry.tensors)
    result = lab.pull(lab.put(replace(lab.index, files={NAME: replace(entry, tensors=lies)})))
    assert read_tree(lab.target) == lab.expected
    assert result.bytes_fetched < len(NEW) + MIB + 10_000


def test_an_index_that_is_too_large_is_not_fetched(lab: Lab) -> None:
    digest = put_blob(lab.store, b"{}")
    huge = new_index_layer(digest, MAX_INDEX_BYTES + 1)
    root = put_layers(lab.store, [*lab.layers(), huge])
    source = Recorder(lab.store)
    index = IndexOf(source, root)
    with (
        pytest.raises(IntegrityError, match="limit"),
        Checkout(lab.target, index=index, chunks=[Liar()]) as checkout,
    ):
        copy(source, checkout, root)
    assert source.n_bytes_read == 0
    assert (lab.target / NAME).read_bytes() == BEFORE.content


def test_an_index_blob_that_arrives_damaged(empty: Bench) -> None:
    write_tree(empty.model, {NAME: AFTER.content})
    write_tree(empty.target, {NAME: BEFORE.content})
    push(empty.model, empty.direct, layering="tensor", client=patient())
    root = empty.direct_manifest()
    assert isinstance(root, Manifest)
    layer = index_layer(root)
    assert layer is not None
    path = f"/blobs/{layer.digest}"
    empty.proxy.add(FlipByte(100), method="GET", path=path, times=None)
    with pytest.raises(IntegrityError, match=layer.digest):
        empty.pull()
    assert (empty.target / NAME).read_bytes() == BEFORE.content
    result = empty.assert_heals()
    assert result.bytes_fetched < 10 * MIB


# segments


def segments_of(store: MemoryStore, content: bytes, names: Iterable[str]) -> list[Descriptor]:
    names = list(names)
    step = len(content) // len(names)
    parts = [content[i * step : (i + 1) * step] for i in range(len(names) - 1)]
    parts.append(content[(len(names) - 1) * step :])
    return [
        file_layer(name, "weight", put_blob(store, part), len(part), REGULAR)
        for name, part in zip(names, parts, strict=True)
    ]


def put_segments(
    tmp: Path, store: MemoryStore, layers: list[Descriptor], *, has_index: bool = True
) -> str:
    if has_index:
        raw = ChunkIndex().encode()
        layers = [*layers, new_index_layer(put_blob(store, raw), len(raw))]
    layout = Layout(tmp / "layout", create=True)
    copy(store, layout, put_layers(store, layers), tag="v1")
    return f"oci:{tmp / 'layout'}:v1"


CONTENT = random_bytes(50_000, 20)
THREE = [segment_path("w", i, 3) for i in (1, 2, 3)]


def test_segments_of_which_the_index_says_nothing_are_joined(tmp_path: Path) -> None:
    store = MemoryStore()
    reference = put_segments(tmp_path, store, segments_of(store, CONTENT, THREE))
    pull(reference, tmp_path / "target", client=patient())
    assert read_tree(tmp_path / "target") == {"w": CONTENT}


def test_foreign_names_without_an_index_stay_files(tmp_path: Path) -> None:
    store = MemoryStore()
    layers = segments_of(store, CONTENT, THREE)
    reference = put_segments(tmp_path, store, layers, has_index=False)
    pull(reference, tmp_path / "target", client=patient())
    found = read_tree(tmp_path / "target")
    assert list(found) and set(found) == set(THREE)
    assert b"".join(found[name] or b"" for name in THREE) == CONTENT


def whole_file(path: str, blob: Descriptor) -> Descriptor:
    return file_layer(path, "weight", blob.digest, blob.size, REGULAR)


def without(n: int) -> Callable[[list[Descriptor]], list[Descriptor]]:
    return lambda layers: [x for i, x in enumerate(layers) if i != n]


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (without(0), "lacks one"),
        (without(1), "lacks one"),
        (without(2), "lacks one"),
        (lambda layers: [*layers, layers[1]], "twice"),
        (lambda layers: [*layers, whole_file("w", layers[0])], "twice"),
        (lambda layers: [replace(layers[0], size=0), *layers[1:]], "without bytes"),
    ],
)
def test_segments_too_few_too_many_or_empty(
    tmp_path: Path, damage: Callable[[list[Descriptor]], list[Descriptor]], match: str
) -> None:
    store = MemoryStore()
    layers = damage(segments_of(store, CONTENT, THREE))
    raw = ChunkIndex().encode()
    root = put_layers(store, [*layers, new_index_layer(put_blob(store, raw), len(raw))])
    with pytest.raises(InputError, match=match), Checkout(tmp_path / "target") as checkout:
        copy(store, checkout, root)
    assert not (tmp_path / "target").exists()


def test_a_folder_in_the_place_of_a_file_in_segments(tmp_path: Path) -> None:
    store = MemoryStore()
    reference = put_segments(tmp_path, store, segments_of(store, CONTENT, THREE))
    (tmp_path / "target" / "w").mkdir(parents=True)
    with pytest.raises(InputError, match="is a directory"):
        pull(reference, tmp_path / "target", client=patient())


def test_one_blob_in_many_places(tmp_path: Path) -> None:
    """The same segment twice in a file, in another file, and as a whole file: fetched once."""
    store = MemoryStore()
    part, rest = random_bytes(300_000, 1), random_bytes(1000, 2)

    def layer(path: str, content: bytes) -> Descriptor:
        return file_layer(path, "weight", put_blob(store, content), len(content), REGULAR)

    layers = [
        layer(segment_path("a", 1, 3), part),
        layer(segment_path("a", 2, 3), rest),
        layer(segment_path("a", 3, 3), part),
        layer(segment_path("b", 1, 2), rest),
        layer(segment_path("b", 2, 2), part),
        layer("c", part),
        layer("deep/d", part),
    ]
    raw = ChunkIndex().encode()
    root = put_layers(store, [*layers, new_index_layer(put_blob(store, raw), len(raw))])
    expected = {"a": part + rest + part, "b": rest + part, "c": part, "deep/d": part}
    source = Recorder(store)
    with Checkout(tmp_path / "target") as checkout:
        copy(source, checkout, root)
    assert read_tree(tmp_path / "target") == expected
    assert source.n_bytes_read == len(part) + len(rest)
    # one that is there already gives it to the others, without an index
    for gone in ("a", "b", "c"):
        (tmp_path / "target" / gone).unlink()
        source.n_bytes_read = 0
        with Checkout(tmp_path / "target") as checkout:
            copy(source, checkout, root)
        assert read_tree(tmp_path / "target") == expected
        assert source.n_bytes_read == 0


def test_a_wrong_segment_is_named_and_nothing_is_shown(empty: Bench) -> None:
    """Until it is right; then the others need not come again."""
    write_tree(empty.model, {NAME: AFTER.content})
    push(empty.model, empty.direct, layering="tensor", client=patient())
    root = empty.direct_manifest()
    assert isinstance(root, Manifest)
    (file,) = [f for f in files_of(root) if f.path == NAME]
    assert len(file.layers) == 4
    digest = sha256(NEW)
    path = f"/blobs/{digest}"
    empty.proxy.add(FlipByte(MIB), method="GET", path=path, times=None)
    error = empty.refused(IntegrityError)
    assert digest in str(error)
    assert not (empty.target / NAME).exists()
    names = {x.digest: x.annotations[FILEPATH] for x in root.layers}
    empty.proxy.clear()
    told = Notices()
    result = pull(empty.reference, empty.target, client=patient(), observer=told)
    assert read_tree(empty.target) == read_tree(empty.model)
    assert result.bytes_fetched >= len(NEW)
    asked = {names[e.path.rpartition("/")[2]] for e in empty.proxy.select("GET", "/blobs/")}
    assert names[digest] in asked
