"""What differs between two artifacts, from documents alone."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocimodel.errors import InputError
from ocimodel.spec.chunkindex import BlobChunks, ChunkIndex, IndexedFile, parse_index
from ocimodel.spec.compare import Difference, Side, Status, compare
from ocimodel.spec.leaves import MAX_DEPTH, MAX_PATH_CHARACTERS, leaves
from ocimodel.spec.modelpack import (
    EXECUTABLE,
    REGULAR,
    directories_layer,
    file_layer,
    index_layer,
    read_layer,
)
from ocimodel.spec.segments import model_files
from ocimodel.spec.tensor import Tensor
from ocimodel.store.memory import MemoryStore
from tests.artifacts import MIB, random_bytes
from tests.indexed import Weights, put_indexed, safetensors

KIB = 1024
FILE = "model.safetensors"
Files = Mapping[str, bytes | Weights]


def side(files: Files, **how: Any) -> Side:
    store = MemoryStore()
    manifest = put_indexed(store, files, **how)
    layer = index_layer(manifest)
    index = parse_index(store.blobs[layer.digest]) if layer else None
    return Side(model_files(manifest), index)


@cache
def tensor(n_bytes: int, seed: int, dtype: str = "U8") -> tuple[str, tuple[int], bytes]:
    return (dtype, (n_bytes,), random_bytes(n_bytes, seed))


def values(**changed: Any) -> dict[str, Any]:
    """A large tensor of several pieces, one of one piece, and small ones."""
    made = {
        "big": tensor(9 * MIB + 8, 1),
        "middle": tensor(300 * KIB, 2),
        **{f"small.{i}": tensor(1000 + 8 * i, 10 + i) for i in range(12)},
        "empty": ("F32", (0, 7), b""),
    }
    return {name: value for name, value in {**made, **changed}.items() if value}


def statuses(found: Difference) -> dict[str, str]:
    """By name, those that are not the same."""
    return {t.name: t.status.value for t in found.tensors if t.status is not Status.SAME}


def of_files(found: Difference) -> dict[str, str]:
    return {f.path: f.status.value for f in found.files}


ORIGINAL = {FILE: safetensors(values(), {"format": "pt"}), "config.json": b"{}"}


@pytest.mark.parametrize("layering", ["file", "tensor"])
def test_the_same_in_either_layering_is_the_same(layering: str) -> None:
    found = compare(side(ORIGINAL), side(ORIGINAL, layering=layering))
    assert not found.differs
    assert of_files(found) == {FILE: "same", "config.json": "same"}
    assert len(found.tensors) == 15
    assert found.share.shared_bytes == found.share.total_bytes
    assert found.share.fetch_bytes == 0


@pytest.mark.parametrize("layering", ["file", "tensor"])
def test_only_the_changed_tensors_have_changed(layering: str) -> None:
    end = values()["big"][2][:-1] + b"!"
    changes: dict[str, Any] = {
        "big": ("U8", (9 * MIB + 8,), end),
        "small.3": tensor(1024, 99),
        "small.7": None,
        "new": tensor(40, 5),
    }
    other = {**ORIGINAL, FILE: safetensors(values(**changes), {"format": "pt"})}
    found = compare(side(ORIGINAL), side(other, layering=layering))
    assert statuses(found) == {
        "big": "changed",
        "small.3": "changed",
        "small.7": "removed",
        "new": "added",
    }
    assert of_files(found) == {FILE: "changed", "config.json": "same"}
    # of the big one, 8 of 9 MiB are as they were
    assert 0 < found.share.fetch_bytes < 2 * MIB
    assert found.share.shared_bytes + found.share.fetch_bytes == found.share.total_bytes


def test_another_type_or_shape_is_a_change_even_of_equal_bytes() -> None:
    content = random_bytes(MIB, 1)
    a, b, c = (
        side({FILE: safetensors({"x": (dtype, shape, content)})})
        for dtype, shape in (("F32", (MIB // 4,)), ("I32", (MIB // 4,)), ("F32", (4, MIB // 16)))
    )
    for other in (b, c):
        found = compare(a, other)
        assert statuses(found) == {"x": "changed"}
        # only the header is new
        assert found.share.fetch_bytes < 200
        (row,) = found.tensors
        assert row.a and row.b and row.a.fingerprint == row.b.fingerprint != b""


@pytest.mark.parametrize("layering", ["file", "tensor"])
def test_resharding_moves_tensors_and_changes_none(layering: str) -> None:
    names = list(values())
    shards: Files = {
        f"model-{i}.safetensors": safetensors(
            {n: values()[n] for n in names[i::3]}, {"format": "pt"}
        )
        for i in range(3)
    }
    found = compare(side(ORIGINAL), side({"config.json": b"{}", **shards}, layering=layering))
    assert statuses(found) == {}
    assert found.metadata == ()
    assert of_files(found) == {
        FILE: "removed",
        "config.json": "same",
        **dict.fromkeys(shards, "added"),
    }
    assert found.differs
    assert found.share.fetch_bytes < 64 * KIB


def test_the_metadata_of_weights_is_compared_by_format_not_by_file() -> None:
    other = {FILE: safetensors(values(), {"format": "np", "step": "1"}), "config.json": b"{}"}
    found = compare(side(ORIGINAL), side(other))
    assert statuses(found) == {}
    assert [(v.document, v.key, v.status, v.a, v.b) for v in found.metadata] == [
        ("safetensors", "format", "changed", "pt", "np"),
        ("safetensors", "step", "added", None, "1"),
    ]
    mixed: Files = {
        "a.safetensors": safetensors({"x": tensor(8, 1)}, {"format": "pt"}),
        "b.safetensors": safetensors({"y": tensor(8, 1)}, {"format": "np"}),
    }
    found = compare(side(ORIGINAL), side(mixed))
    assert [(v.key, v.b) for v in found.metadata] == [("format", ["np", "pt"])]


def test_a_name_in_several_files_is_matched_within_the_file_then_by_format() -> None:
    one, two = tensor(300 * KIB, 1), tensor(300 * KIB, 2)
    onnx = replace(safetensors({"x": two}), format="onnx")
    a = side({FILE: safetensors({"x": one}), "model.onnx": onnx})
    b = side({"a.safetensors": safetensors({"x": one}), "model.onnx": onnx})
    assert statuses(compare(a, b)) == {}
    c = side({"b.onnx": onnx, "c.safetensors": safetensors({"x": one})})
    assert statuses(compare(a, c)) == {}
    # alone on each side, it is compared whatever it is in
    d, e = side({FILE: safetensors({"x": two})}), side({"model.onnx": onnx})
    assert statuses(compare(d, e)) == {}
    found = compare(a, e)
    assert [(t.status.value, t.a and t.a.path) for t in found.tensors] == [
        ("same", "model.onnx"),
        ("removed", FILE),
    ]
    assert Counter(t.status for t in compare(e, a).tensors) == {Status.SAME: 1, Status.ADDED: 1}


def test_bytes_in_another_file_are_looked_up_there() -> None:
    graph, data = "onnx/model.onnx", "onnx/model.onnx_data"

    def built(content: bytes) -> Side:
        plain = side({graph: b"graph", data: content}, has_index=False)
        layers = {f.path: (f.layer.digest,) for f in plain.files}
        named = Tensor("x", "U8", (MIB,), 0, MIB, data)
        entries = {
            graph: IndexedFile(graph, 5, layers[graph], "onnx", {}, (named,)),
            data: IndexedFile(data, MIB, layers[data]),
        }
        return replace(plain, index=parse_index(ChunkIndex(files=entries).encode()))

    a, b = built(random_bytes(MIB, 1)), built(random_bytes(MIB, 2))
    assert statuses(compare(a, b)) == {"x": "changed"}
    assert statuses(compare(a, a)) == {}


def test_what_no_digest_tells_is_unknown_and_never_the_same() -> None:
    def without_prints(files: Files) -> Side:
        found = side(files)
        assert found.index
        bare = {p: replace(f, fingerprints=()) for p, f in found.index.files.items()}
        return replace(found, index=replace(found.index, files=bare))

    changed = {FILE: safetensors(values(middle=tensor(300 * KIB, 3)), {"format": "pt"})}
    a, b = without_prints(ORIGINAL), without_prints(changed)
    assert statuses(compare(a, a)) == {}
    found = statuses(compare(a, b))
    assert found.pop("middle") == "changed"
    assert set(found) >= {f"small.{i}" for i in range(11)}
    assert set(found.values()) == {"unknown"}
    # one side that knows is not enough
    assert compare(side(ORIGINAL), b).differs
    assert "unknown" in statuses(compare(side(ORIGINAL), b)).values()


def test_without_an_index_files_are_compared_and_tensors_are_not() -> None:
    plain = side(ORIGINAL, has_index=False)
    assert plain.index is None
    found = compare(plain, side(ORIGINAL))
    assert not found.differs and not found.has_tensors and found.tensors == ()
    assert found.share.shared_bytes == found.share.total_bytes
    other = {**ORIGINAL, FILE: safetensors(values(middle=None))}
    found = compare(plain, side(other))
    assert of_files(found) == {FILE: "changed", "config.json": "same"}
    assert found.metadata == ()
    # a blob that nobody cuts for us is all or nothing
    assert found.share.shared_bytes == len(b"{}")


def test_without_weights_no_index_is_needed() -> None:
    plain = side({"config.json": b"{}"}, has_index=False)
    assert compare(plain, plain).has_tensors
    assert set(statuses(compare(plain, side(ORIGINAL))).values()) == {"added"}
    # a layer of which nobody says what it is
    unsaid = replace(plain, files=[replace(plain.files[0], kind="")])
    assert not compare(unsaid, side(ORIGINAL)).has_tensors


def test_files_cut_differently_may_be_beyond_telling() -> None:
    def cut(content: bytes, sizes: list[int]) -> Side:
        plain = side({"x.bin": content}, has_index=False)
        position, digests = 0, b""
        for size in sizes:
            piece = side({"p": content[position : position + size]}, has_index=False)
            digests += bytes.fromhex(piece.files[0].layer.digest[7:])
            position += size
        blobs = {plain.files[0].layer.digest: BlobChunks(tuple(sizes), digests)}
        return replace(plain, index=ChunkIndex(blobs))

    def joined(content: bytes, size: int) -> Side:
        parts = [content[:size], content[size:]]
        plain = side({f"x.bin.segments/{i}": part for i, part in enumerate(parts)}, has_index=False)
        layers = tuple(f.layer for f in plain.files)
        return Side([replace(plain.files[0], path="x.bin", layers=layers)], ChunkIndex())

    content = random_bytes(3000)
    status = lambda a, b: compare(a, b).files[0].status.value  # noqa: E731
    assert status(joined(content, 1000), cut(content, [1000, 2000])) == "same"
    assert status(joined(content, 1000), cut(content, [2000, 1000])) == "unknown"
    assert status(joined(content, 1000), cut(content[::-1], [1000, 2000])) == "changed"
    assert status(joined(content, 1000), joined(content[:-1], 1000)) == "changed"
    assert status(joined(content, 1000), cut(content, [1000, 500, 1500])) == "unknown"


def test_kinds_modes_directories_and_tars() -> None:
    digest = "sha256:" + "a" * 64
    a = Side(
        [
            read_layer(file_layer("run.sh", "code", digest, 5, REGULAR)),
            read_layer(file_layer("notes", "doc", digest, 5, REGULAR)),
            read_layer(directories_layer(["x", "y/z"], digest, 5)),
        ]
    )
    b = Side(
        [
            read_layer(file_layer("run.sh", "code", digest, 5, EXECUTABLE)),
            read_layer(file_layer("notes", "weight", digest, 5, REGULAR)),
            read_layer(directories_layer(["x", "w"], "sha256:" + "b" * 64, 6)),
        ]
    )
    assert of_files(compare(a, b)) == {
        "run.sh": "changed",
        "notes": "changed",
        "x/": "same",
        "y/z/": "removed",
        "w/": "added",
    }
    # the names of directories are in the manifest
    assert compare(a, b).share.total_bytes == 10

    tar = replace(a.files[1], path=".", codec="tar", kind="")
    tars = Side([tar, replace(tar, layers=(replace(tar.layer, digest="sha256:" + "c" * 64),))])
    assert of_files(compare(tars, tars)) == {"./ (tar 1)": "same", "./ (tar 2)": "same"}
    assert of_files(compare(tars, Side([tar]))) == {"./ (tar 1)": "same", "./ (tar 2)": "removed"}


def test_a_blob_in_two_files_is_fetched_once() -> None:
    content = random_bytes(1000)
    found = compare(side({"a": b"x"}), side({"a": content, "b": content})).share
    assert (found.total_bytes, found.shared_bytes, found.fetch_bytes) == (2000, 0, 1000)
    nothing = compare(side({"a": b"x"}), side({"a": b""})).share
    assert (nothing.total_bytes, nothing.fetch_bytes) == (0, 0)


def test_values_are_compared_by_the_path_of_their_keys() -> None:
    a = Side([], configuration={"c": {"x": {"y": 1, "z": [1, 2]}, "gone": None, "one": 1}})
    b = Side([], configuration={"c": {"x": {"y": 2, "z": [1, 3]}, "one": True, "new": None}})
    found = compare(a, b).configuration
    assert [(v.key, v.status.value, v.a, v.b) for v in found] == [
        ("x.y", "changed", 1, 2),
        ("x.z", "changed", [1, 2], [1, 3]),
        ("gone", "removed", None, None),
        ("one", "changed", 1, True),
        ("new", "added", None, None),
    ]
    assert not compare(a, a).differs
    dotted = Side([], configuration={"c": {"x.y": 1, "x": {"y": 2}}})
    swapped = Side([], configuration={"c": {"x.y": 2, "x": {"y": 1}}})
    assert len(compare(dotted, swapped).configuration) == 2


def test_leaves() -> None:
    document = {
        "a": {"b": 1, "c": {}},
        "d": [],
        "e": [1, "x"],
        "f": [{"g": 2}, [3, float("nan")]],
        "h": float("inf"),
    }
    assert leaves(document, "it") == {
        ("a", "b"): 1,
        ("a", "c"): {},
        ("d",): [],
        ("e",): [1, "x"],
        ("f", "0", "g"): 2,
        ("f", "1"): [3, "nan"],
        ("h",): "inf",
    }
    assert leaves({}, "it") == {}


def test_leaves_are_bounded_by_what_was_read() -> None:
    deep: Any = 1
    for _ in range(MAX_DEPTH):
        deep = {"k": deep}
    assert list(leaves(deep, "it").values()) == [1]
    with pytest.raises(InputError, match="it is nested deeper than 32 levels"):
        leaves({"k": deep}, "it")
    long = {"k" * (MAX_PATH_CHARACTERS // 4): {str(i): i for i in range(5)}}
    with pytest.raises(InputError, match="it has keys of over"):
        leaves(long, "it")


def test_a_hostile_index_of_tensors_over_each_other_ends() -> None:
    n = 20_000
    size = 4 * MIB * n
    layer = file_layer("x", "weight", "sha256:" + "d" * 64, size, REGULAR)
    tensors = tuple(Tensor(str(i), "U8", (size - i,), 0, size - i) for i in range(n))
    blobs = {layer.digest: BlobChunks((4 * MIB,) * n, bytes(32 * n))}
    entry = IndexedFile("x", size, (layer.digest,), "raw", {}, tensors)
    found = Side([read_layer(layer)], ChunkIndex(blobs, {"x": entry}))
    # walked in full these are 4 * 10^8 chunks
    assert not compare(found, found).differs


def test_ninety_thousand_tensors_in_one_pass() -> None:
    n, size = 90_000, 1 * MIB
    digests = random.Random(0).randbytes(32 * n)

    def made(digests: bytes) -> Side:
        layer = file_layer("x", "weight", "sha256:" + digests[:32].hex(), n * size, REGULAR)
        tensors = tuple(Tensor(f"l.{i}", "U8", (size,), i * size, size) for i in range(n))
        entry = IndexedFile("x", n * size, (layer.digest,), "safetensors", {}, tensors)
        blobs = {layer.digest: BlobChunks((size,) * n, digests)}
        return Side([read_layer(layer)], ChunkIndex(blobs, {"x": entry}))

    other = bytes(32) + digests[32:-32] + bytes(32)
    found = compare(made(digests), made(other))
    assert statuses(found) == {"l.0": "changed", f"l.{n - 1}": "changed"}
    assert found.share.fetch_bytes == 2 * size


Recipe = dict[str, tuple[int, int]]  # name → size and seed of a tensor


@st.composite
def edits(draw: st.DrawFn) -> tuple[Recipe, Recipe]:
    sizes = st.sampled_from([0, 1, 100, 300 * KIB, 4 * MIB, 4 * MIB + 1])
    names = st.sampled_from([f"t.{i}" for i in range(6)])
    before = {n: (draw(sizes), i) for i, n in enumerate(sorted(draw(st.sets(names))))}
    after = dict(before)
    for name in sorted(draw(st.sets(names, max_size=3))):
        if name in after and draw(st.booleans()):
            del after[name]
        else:
            after[name] = (draw(sizes), draw(st.integers(0, 3)))
    order = draw(st.permutations(sorted(after)))
    return before, {name: after[name] for name in order}


@settings(max_examples=60, deadline=None)
@given(edits(), st.sampled_from(["file", "tensor"]), st.sampled_from(["file", "tensor"]))
def test_any_edit_is_told_as_the_bytes_tell_it(
    recipes: tuple[Recipe, Recipe], layering_a: str, layering_b: str
) -> None:
    before, after = ({n: tensor(*of) for n, of in recipe.items()} for recipe in recipes)
    files = safetensors(before), safetensors(after)
    found = compare(
        side({FILE: files[0]}, layering=layering_a), side({FILE: files[1]}, layering=layering_b)
    )
    expected = dict.fromkeys(before.keys() - after.keys(), "removed")
    expected |= dict.fromkeys(after.keys() - before.keys(), "added")
    expected |= {n: "changed" for n in before.keys() & after.keys() if before[n] != after[n]}
    assert statuses(found) == expected
    is_same = files[0].content == files[1].content
    assert of_files(found) == {FILE: "same" if is_same else "changed"}
    share = found.share
    assert share.total_bytes == len(files[1].content)
    # less where two segments are equal
    assert share.fetch_bytes <= share.total_bytes - share.shared_bytes
    assert (share.fetch_bytes == 0) == (share.shared_bytes == share.total_bytes)
    assert not is_same or share.fetch_bytes == 0
    large = {after[n] for n in after if before.get(n) == after[n] and len(after[n][2]) >= MIB}
    assert share.shared_bytes >= sum(len(content) for *_, content in large)
