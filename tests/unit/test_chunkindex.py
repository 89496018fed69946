"""The chunk index: what is written is read again; what is no index is refused by name."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import InputError
from ocimodel.spec import canonical
from ocimodel.spec.chunkindex import (
    MAX_CHUNK_BYTES,
    BlobChunks,
    Chunk,
    ChunkIndex,
    IndexedFile,
    fingerprint,
    parse_index,
)
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.manifest import Manifest
from ocimodel.spec.modelpack import (
    EXECUTABLE,
    INDEX_PATH,
    REGULAR,
    TITLE,
    ModelFile,
    directories_layer,
    file_layer,
    index_layer,
    new_index_layer,
    read_layer,
)
from ocimodel.spec.segments import (
    check_index,
    files_of,
    is_segment_path,
    join_segments,
    segment_path,
)
from ocimodel.spec.tensor import Tensor
from tests.artifacts import random_bytes

ROOT = Path(__file__).parents[2]
SCHEMA = jsonschema.Draft202012Validator(
    json.loads((ROOT / "schemas" / "index.schema.json").read_text("utf-8"))
)
D1, D2, D3 = (f"sha256:{c * 64}" for c in "123")
MAX = (1 << 63) - 1


def blob(*lengths: int) -> BlobChunks:
    return BlobChunks(lengths, random_bytes(32 * len(lengths)))


EXAMPLE = ChunkIndex(
    blobs={D1: blob(7, 5), D2: blob(MAX_CHUNK_BYTES, 1)},
    files={
        "a/model.onnx": IndexedFile("a/model.onnx", 12, (D1,), "onnx", {"producer": "x"}),
        "größe.bin": IndexedFile(
            "größe.bin",
            MAX_CHUNK_BYTES + 4,
            (D2, D3),
            "safetensors",
            {"format": "pt"},
            (
                Tensor("w", "F32", (1,), 8, 4),
                Tensor("x", "U8", (2, 3), 1, 6, "a/model.onnx"),
                Tensor("none", "F32", (0,), 12, 0),
            ),
            (bytes(range(32)), b"", b""),
        ),
    },
    profiles={"load": (("größe.bin", 0, 100), ("a/model.onnx", 3, 0))},
)


# writing and reading

digests = st.binary(min_size=32, max_size=32).map(lambda b: "sha256:" + b.hex())
lengths = st.lists(st.integers(1, MAX_CHUNK_BYTES), min_size=1, max_size=5)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
paths = st.lists(
    st.text("aB1.ß", min_size=1, max_size=4).filter(lambda n: set(n) != {"."}),
    min_size=1,
    max_size=3,
).map("/".join)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | names | st.floats(allow_nan=False).filter(
        lambda x: abs(x) < 1e300
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@st.composite
def blobs(draw: st.DrawFn) -> BlobChunks:
    chosen = draw(lengths)
    return BlobChunks(
        tuple(chosen), draw(st.binary(min_size=32 * len(chosen), max_size=32 * len(chosen)))
    )


@st.composite
def tensors(draw: st.DrawFn, sizes: dict[str, int], path: str) -> Tensor:
    holder = draw(st.sampled_from(["", *sizes]))
    size = sizes[holder or path]
    offset = draw(st.integers(0, size))
    return Tensor(
        draw(names),
        draw(st.sampled_from(["F32", "Q4_K", ""])),
        tuple(draw(st.lists(st.integers(0, MAX), max_size=4))),
        offset,
        draw(st.integers(0, size - offset)),
        holder,
    )


@st.composite
def indexes(draw: st.DrawFn) -> ChunkIndex:
    sizes = draw(st.dictionaries(paths, st.integers(0, MAX), max_size=4))
    files = {}
    for path in sorted(sizes):
        found = tuple(draw(st.lists(tensors(sizes, path), max_size=4)))
        prints = st.just(b"") | st.binary(min_size=32, max_size=32)
        files[path] = IndexedFile(
            path,
            sizes[path],
            tuple(draw(st.lists(digests, min_size=1, max_size=3))),
            draw(st.sampled_from(["", "safetensors", "gguf"])),
            draw(st.dictionaries(names, json_values, max_size=3)),
            found,
            tuple(draw(prints) for _ in found),
        )
    ranges = st.tuples(paths, st.integers(0, MAX), st.integers(0, MAX))
    profiles = st.dictionaries(names, st.lists(ranges, max_size=3).map(tuple), max_size=2)
    return ChunkIndex(draw(st.dictionaries(digests, blobs(), max_size=3)), files, draw(profiles))


@given(indexes())
def test_what_is_written_is_read_again(index: ChunkIndex) -> None:
    raw = index.encode()
    assert parse_index(raw) == index
    assert parse_index(raw).encode() == raw
    SCHEMA.validate(json.loads(raw))


def test_the_bytes_are_canonical() -> None:
    raw = EXAMPLE.encode()
    assert raw == canonical.encode(json.loads(raw))
    backwards = ChunkIndex(
        dict(reversed(EXAMPLE.blobs.items())), dict(reversed(EXAMPLE.files.items())),
        EXAMPLE.profiles,
    )  # fmt: skip
    assert backwards.encode() == raw
    # what is empty is not written
    bare = ChunkIndex(files={"x": IndexedFile("x", 0, (D1,))}).encode()
    assert json.loads(bare) == {
        "version": 1,
        "blobs": {},
        "files": [{"path": "x", "size": 0, "segments": [D1]}],
    }


def test_golden_bytes() -> None:
    index = ChunkIndex(
        {D1: BlobChunks((4, 2), bytes(64))},
        {"m": IndexedFile("m", 6, (D1,), "raw", {}, (Tensor("t", "U8", (2,), 4, 2),), (b"",))},
    )
    assert index.encode() == (
        b'{"blobs":{"' + D1.encode() + b'":{"digests":"' + b"A" * 86 + b'==","lengths":[4,2]}},'
        b'"files":[{"format":"raw","path":"m","segments":["' + D1.encode() + b'"],"size":6,'
        b'"tensors":[{"dtype":"U8","length":2,"name":"t","offset":4,"shape":[2]}]}],"version":1}'
    )


@pytest.mark.parametrize("length", [MAX_CHUNK_BYTES, MAX_CHUNK_BYTES - 1])
def test_a_chunk_costs_at_most_sixty_bytes(length: int) -> None:
    n = 35_000  # of 140 GB
    index = ChunkIndex({D1: BlobChunks((length,) * n, bytes(32 * n))})
    assert len(index.encode()) <= 60 * n
    assert len(ChunkIndex({D1: blob(1, 1)}).encode()) <= 60 * 2 + 200


# refusals


def example(**changes: Any) -> dict[str, Any]:
    document = json.loads(EXAMPLE.encode())
    return {k: v for k, v in {**document, **changes}.items() if v is not ...}


def with_blob(digest: str = D1, **changes: Any) -> dict[str, Any]:
    fields = {"lengths": [7, 5], "digests": base64.b64encode(bytes(64)).decode(), **changes}
    return example(blobs={digest: {k: v for k, v in fields.items() if v is not ...}})


def with_file(**changes: Any) -> dict[str, Any]:
    fields = {"path": "x", "size": 100, "segments": [D1], **changes}
    return example(files=[{k: v for k, v in fields.items() if v is not ...}])


def with_tensor(**changes: Any) -> dict[str, Any]:
    fields = {"name": "t", "dtype": "U8", "shape": [4], "offset": 90, "length": 10, **changes}
    return with_file(tensors=[{k: v for k, v in fields.items() if v is not ...}])


GOOD = [example(), example(profiles=...), example(more={"is": "ignored"}), with_tensor()]
GOOD += [with_tensor(length=0, offset=100), with_tensor(shape=[]), with_tensor(file="x")]
GOOD += [with_tensor(sha256="ab" * 32), with_file(tensors=[]), with_blob("sha512:" + "a" * 128)]


@pytest.mark.parametrize("document", GOOD)
def test_good_ones_are_good_by_the_schema_too(document: dict[str, Any]) -> None:
    parse_index(json.dumps(document).encode())
    SCHEMA.validate(document)


# refused by reader and schema alike
BAD_SHAPES = {
    "version 2, not 1": example(version=2),
    "version must be an integer": example(version="1"),
    "index: version must": example(version=True),
    "blobs must be an object": example(blobs=[]),
    "files must be an array": example(files={}),
    "'md5:1' is no digest": example(blobs={"md5:1": {"lengths": [1], "digests": ""}}),
    "is no object": example(blobs={D1: [7, 5]}),
    "a chunk has 1 to 4194304 bytes": with_blob(lengths=[0, 12]),
    "a chunk has 1 to": with_blob(lengths=[MAX_CHUNK_BYTES + 1, 1]),
    "chunk has 1 to": with_blob(lengths=[7, "5"]),
    "has 1 to 4194304": with_blob(lengths=[True, 5]),
    "lengths must be an array": with_blob(lengths=7),
    "digests must be a string": with_blob(digests=7),
    "digests are no base64": with_blob(digests="!" * 88),
    "no base64": with_blob(digests="A" * 87),
    "0 chunks, 0 bytes": with_blob(lengths=[], digests=""),
    "2 chunks, 0 bytes": with_blob(digests=""),
    "a file is no object": example(files=["x"]),
    "file name ''": with_file(path=...),
    "is absolute": with_file(path="/x"),
    "control character": with_file(path="a\nb"),
    "backslash": with_file(path="a\\b"),
    "path must be a string": with_file(path=1),
    "segments must be digests": with_file(segments=[]),
    "must be digests, at least one": with_file(segments=[1]),
    "is no digest": with_file(segments=["abc"]),
    "size must be an integer": with_file(size=...),
    "size -1 is out of range": with_file(size=-1),
    "out of range": with_file(size=1 << 63),
    "format must be a string": with_file(format=1),
    "metadata must be an object": with_file(metadata=[]),
    "tensors must be an array": with_file(tensors={}),
    "a tensor is no object": with_file(tensors=[[]]),
    "name must be a string": with_tensor(name=1),
    "dtype must be a string": with_tensor(dtype=1),
    "shape must be an array": with_tensor(shape=4),
    "up to 64 whole numbers": with_tensor(shape=[1] * 65),
    "a shape must be": with_tensor(shape=[-1]),
    "shape must be up to": with_tensor(shape=[1.5]),
    "be up to 64 whole": with_tensor(shape=[1 << 63]),
    "whole numbers": with_tensor(shape=[True]),
    "offset must be an integer": with_tensor(offset=...),
    "offset -1": with_tensor(offset=-1),
    "length must be an integer": with_tensor(length="10"),
    "file must be a string": with_tensor(file=1),
    "sha256 must be a string": with_tensor(sha256=1),
    "a sha256 that is no hex": with_tensor(sha256="zz"),
    "a sha256 of 31 bytes": with_tensor(sha256="ab" * 31),
    "profiles must be an object": example(profiles=[]),
    "profile 'p' must list": example(profiles={"p": {}}),
    "must list [path, start, length]": example(profiles={"p": [["x", 1]]}),
    "list [path": example(profiles={"p": [["x", -1, 1]]}),
    "[path, start": example(profiles={"p": [["x", 0, "1"]]}),
}


@pytest.mark.parametrize("message", BAD_SHAPES)
def test_what_has_another_shape_is_refused(message: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_index(json.dumps(BAD_SHAPES[message]).encode())
    assert message in str(refused.value)
    assert not SCHEMA.is_valid(BAD_SHAPES[message])


# beyond what a schema can say
CONTRADICTIONS = {
    "2 chunks, 96 bytes of digests": with_blob(digests=base64.b64encode(bytes(96)).decode()),
    "2 chunks, 63 bytes": with_blob(digests=base64.b64encode(bytes(63)).decode()),
    "the index has 'x' twice": example(
        files=[{"path": "x", "size": 1, "segments": [digest]} for digest in (D1, D2)]
    ),
    "has the component '..'": with_file(path="a/../b"),
    "folder of unfinished transfers": with_file(path=".ocimodel.partial/x"),
    "tensor 't' lies outside of 'x'": with_tensor(length=11),
    "lies outside of 'x'": with_tensor(length=MAX),
    "lies outside of 'gone'": with_tensor(file="gone"),
}  # fmt: skip


@pytest.mark.parametrize("message", CONTRADICTIONS)
def test_what_contradicts_itself_is_refused(message: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_index(json.dumps(CONTRADICTIONS[message]).encode())
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"version":1,"version":1}',
        b'{"version":1,"blobs":{},"files":[{"path":"x","size":1,"size":2}]}',
        b'{"version":1,"profiles":{"p":[["x",NaN,1]]}}',
        b'{"version":1,"files":' + b"[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(InputError):
        parse_index(raw)


def test_a_long_name_is_not_repeated_in_full() -> None:
    for bad in ({"length": 11}, {"sha256": "z"}, {"sha256": "ab"}):
        with pytest.raises(InputError) as refused:
            parse_index(json.dumps(with_tensor(name="n" * 10_000, **bad)).encode())
        assert len(str(refused.value)) < 400


@given(st.binary() | json_values.map(lambda v: json.dumps(v).encode()))
def test_anything_is_an_index_or_the_declared_error(raw: bytes) -> None:
    with contextlib.suppress(InputError):
        parse_index(raw)


@given(st.data())
def test_an_index_with_a_value_exchanged_is_one_or_the_declared_error(data: st.DataObject) -> None:
    document = example()
    holder: Any = document
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = data.draw(st.sampled_from(keys))
        inner = holder[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            break
        holder = inner
    holder[key] = data.draw(json_values)
    try:
        index = parse_index(json.dumps(document).encode())
    except InputError:
        return
    assert parse_index(index.encode()) == index


# chunks


def test_chunks_of_a_blob() -> None:
    cut = blob(7, 5)
    assert cut.size == 12
    assert list(cut.at(100)) == [
        Chunk(100, 7, cut.digests[:32]),
        Chunk(107, 5, cut.digests[32:]),
    ]
    assert EXAMPLE.chunks(Descriptor("", D1, 12)) == EXAMPLE.blobs[D1]
    small = EXAMPLE.chunks(Descriptor("", D3, MAX_CHUNK_BYTES))
    assert small == BlobChunks((MAX_CHUNK_BYTES,), bytes.fromhex("3" * 64))
    assert EXAMPLE.chunks(Descriptor("", D3, MAX_CHUNK_BYTES + 1)) is None
    assert EXAMPLE.chunks(Descriptor("", D3, 0)) is None
    # its own digest says nothing of the sha256 of its only chunk
    assert EXAMPLE.chunks(Descriptor("", "sha512:" + "a" * 128, 5)) is None


def test_a_fingerprint_is_the_digest_or_the_digest_of_the_digests() -> None:
    assert fingerprint([b"a" * 32]) == b"a" * 32
    joined = hashlib.sha256(b"a" * 32 + b"b" * 32).digest()
    assert fingerprint([b"a" * 32, b"b" * 32]) == joined


# segments


def layer(path: str, digest: str, size: int, mode: int = REGULAR) -> ModelFile:
    return read_layer(file_layer(path, "weight", digest, size, mode))


def segmented(path: str, *sizes: int) -> list[ModelFile]:
    n = len(sizes)
    return [
        layer(segment_path(path, i, n), f"sha256:{i:064x}", size, EXECUTABLE)
        for i, size in enumerate(sizes, 1)
    ]


def entry(path: str, size: int, segments: Sequence[ModelFile]) -> ChunkIndex:
    return ChunkIndex(
        files={path: IndexedFile(path, size, tuple(s.layer.digest for s in segments))}
    )


def test_segments_are_joined_where_they_stand() -> None:
    parts = segmented("m/w.bin", 5, 6, 7)
    readme = layer("README", D1, 3)
    folders = read_layer(directories_layer(["x"], D2, 9))
    for found in ([readme, *parts, folders], [parts[2], readme, parts[1], folders, parts[0]]):
        joined = {f.path: f for f in join_segments(found)}
        assert list(joined) in (["README", "m/w.bin", "."], ["m/w.bin", "README", "."])
        whole = joined["m/w.bin"]
        assert whole.layers == tuple(p.layer for p in parts)
        assert (whole.size, whole.kind, whole.codec) == (18, "weight", "raw")
        assert whole.mode == EXECUTABLE
    assert join_segments([readme, folders]) == [readme, folders]
    assert [f.path for f in join_segments(segmented("a", 1) + segmented("b", 1, 2))] == ["a", "b"]


def test_what_lacks_a_segment_or_has_one_twice_is_refused() -> None:
    one, two, three = segmented("w", 5, 6, 7)
    for files in ([one, two], [two, three], [one, two, two, three], [one, *segmented("w", 5, 6)]):
        with pytest.raises(InputError, match="'w' lacks one of its segments, or has one twice"):
            join_segments(files)


@pytest.mark.parametrize(
    "name",
    ["w.segments/1-of-2", "w.segments/000001", ".segments/000001-of-000001", "w/000001-of-000001",
     "w.segments/000001-of-000001/x"],
)  # fmt: skip
def test_what_is_named_otherwise_is_no_segment(name: str) -> None:
    assert not is_segment_path(name)
    file = layer(name, D1, 5)
    assert join_segments([file]) == [file]


def test_a_tar_is_no_segment() -> None:
    (part,) = segmented("w", 5)
    tar = read_layer(
        Descriptor("application/vnd.cncf.model.weight.v1.tar", D1, 5, part.layer.annotations)
    )
    assert join_segments([tar]) == [tar]


def manifest(*layers: Descriptor) -> Manifest:
    return Manifest(b"", D1, "", Descriptor("", D1, 1), layers)


def test_only_beside_an_index_segments_are_joined() -> None:
    parts = [p.layer for p in segmented("w", 5, 6)]
    assert [f.path for f in files_of(manifest(*parts))] == [segment_path("w", i, 2) for i in (1, 2)]
    found = files_of(manifest(*parts, new_index_layer(D2, 7)))
    assert [(f.path, f.size) for f in found] == [("w", 11)]


def test_an_index_that_contradicts_the_manifest_is_refused() -> None:
    parts = segmented("w", 5, 6)
    joined = join_segments(parts)
    right = entry("w", 11, parts)
    assert check_index(right, joined) is right
    for files in ([layer("w", D1, 11)], [layer("x", D1, 11)], [], parts):
        with pytest.raises(InputError, match="gives 'w' other layers than the manifest"):
            check_index(right, files)
    with pytest.raises(InputError, match="gives 'w' 12 bytes, not 11"):
        check_index(entry("w", 12, parts), joined)
    cut = ChunkIndex({D1: blob(7, 5)})
    assert check_index(cut, [layer("x", D1, 12)]) is cut
    for files in ([layer("x", D1, 13)], [layer("x", D2, 12)]):
        with pytest.raises(InputError, match=f"cuts {D1} into 12 bytes, no such layer"):
            check_index(cut, files)


def test_the_layer_of_the_index() -> None:
    plain = file_layer("model.bin", "weight", D1, 5, REGULAR)
    index = new_index_layer(D2, 7)
    assert index.media_type == "application/vnd.cncf.model.doc.v1.raw"
    assert index_layer(manifest(plain)) is None
    assert index_layer(manifest(plain, index)) == index
    # another tool has copied only the title
    titled = Descriptor("application/octet-stream", D2, 7, {TITLE: INDEX_PATH})
    assert index_layer(manifest(titled)) == titled
    assert segment_path("m/w.bin", 3, 230) == "m/w.bin.segments/000003-of-000230"
