"""Layers that are segments of a file: joined where the artifact says so, and refused when odd."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import InputError
from ocimodel.spec.chunkindex import BlobChunks, ChunkIndex, IndexedFile
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.spec.manifest import Manifest
from ocimodel.spec.modelpack import (
    EXECUTABLE,
    REGULAR,
    ModelFile,
    file_layer,
    new_index_layer,
    read_layer,
)
from ocimodel.spec.segments import (
    check_index,
    files_of,
    is_segment_path,
    join_segments,
    model_files,
    segment_path,
)
from ocimodel.store.memory import MemoryStore
from tests.artifacts import put_layers

PATHS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


def layer(path: str, content: str = "", size: int = 10, mode: int = REGULAR) -> Descriptor:
    return file_layer(path, "weight", sha256((content or path).encode()), size, mode)


def segments(path: str, n: int, size: int = 10) -> list[Descriptor]:
    return [layer(segment_path(path, i, n), size=size + i) for i in range(1, n + 1)]


def manifest(layers: Sequence[Descriptor], *, has_index: bool = True) -> Manifest:
    index = [new_index_layer(sha256(b"index"), 5)] if has_index else []
    return put_layers(MemoryStore(), [*layers, *index])


@given(PATHS, st.integers(1, 999_999), st.integers(1, 999_999))
def test_a_segment_is_known_by_its_name(path: str, number: int, n: int) -> None:
    assert is_segment_path(segment_path(path, number, n))


@pytest.mark.parametrize(
    "path",
    [
        "w.segments/000001-of-000002/x",
        "w.segments/1-of-2",
        "w.segments/0000001-of-0000002",
        "w.segments",
        "w/000001-of-000002",
        ".segments/000001-of-000002",
        "w.segments/00000\u0661-of-000002",
        "model-00001-of-00002.safetensors",
        "w.segments/000001-of-000002\n",
    ],
)
def test_what_is_no_segment(path: str) -> None:
    assert not is_segment_path(path)
    file = read_layer(layer(path))
    assert join_segments([file]) == [file]


@given(st.permutations(range(12)))
def test_segments_join_in_the_order_of_their_numbers(order: list[int]) -> None:
    """Wherever they stand: `000010` after `000009`, and files beside them stay."""
    layers = segments("a/w.bin", 12)
    shuffled = [layers[i] for i in order]
    found = files_of(manifest([layer("first"), *shuffled, layer("z")]))
    assert [f.path for f in found] == ["first", "a/w.bin", "z"]
    assert found[1].layers == tuple(layers)
    assert found[1].size == sum(x.size for x in layers)


def test_several_files_are_kept_apart() -> None:
    layers = [x for pair in zip(segments("a", 3), segments("b", 3), strict=True) for x in pair]
    assert [(f.path, len(f.layers)) for f in files_of(manifest(layers))] == [("a", 3), ("b", 3)]


def test_one_segment_is_a_file_too() -> None:
    (found,) = files_of(manifest(segments("w", 1)))
    assert (found.path, len(found.layers)) == ("w", 1)


def test_a_joined_file_has_the_mode_of_its_first_segment() -> None:
    first = layer(segment_path("run", 1, 2), mode=EXECUTABLE)
    (found,) = files_of(manifest([first, layer(segment_path("run", 2, 2))]))
    assert found.mode == EXECUTABLE


def test_without_an_index_such_names_are_files_of_their_own() -> None:
    layers = [*segments("w", 3)[:2], layer("x.segments/000007-of-000002")]
    found = model_files(manifest(layers, has_index=False))
    assert [f.path for f in found] == [x.annotations["org.cncf.model.filepath"] for x in layers]


def test_our_own_documents_are_no_files() -> None:
    found = files_of(manifest([layer("a"), layer(".ocimodel/lineage.json")]))
    assert [f.path for f in found] == ["a"]


def named(name: str) -> Descriptor:
    return layer(f"w.segments/{name}", content=name)


@pytest.mark.parametrize(
    "names",
    [
        ["000001-of-000003", "000003-of-000003"],
        ["000001-of-000002"],
        ["000002-of-000002"],
        ["000001-of-000002", "000001-of-000002", "000002-of-000002"],
        ["000001-of-000002", "000002-of-000002", "000002-of-000002"],
        ["000001-of-000002", "000002-of-000003"],
        ["000001-of-000002", "000002-of-000002", "000003-of-000002"],
        ["000000-of-000001"],
        ["000000-of-000002", "000001-of-000002", "000002-of-000002"],
    ],
)
def test_a_segment_too_few_or_too_many(names: list[str]) -> None:
    with pytest.raises(InputError, match=r"'w' lacks one of its segments, or has one twice"):
        files_of(manifest([named(n) for n in names]))


def test_a_segment_that_is_a_directory() -> None:
    odd = Descriptor(
        "application/vnd.cncf.model.weight.v1.raw",
        sha256(b"d"),
        10,
        {
            "org.cncf.model.filepath": "w.segments/000002-of-000002",
            "org.cncf.model.file.metadata+json": '{"typeflag":53}',
        },
    )
    assert read_layer(odd).is_directory
    with pytest.raises(InputError, match="segments"):
        files_of(manifest([named("000001-of-000002"), odd]))


@pytest.mark.parametrize("empty", [1, 2, 3])
def test_a_segment_without_bytes_is_refused(empty: int) -> None:
    """It would begin where the next one begins, and the file be complete without that one."""
    layers = [layer(segment_path("w", i, 3), size=0 if i == empty else 10) for i in range(1, 4)]
    with pytest.raises(InputError, match="without bytes"):
        files_of(manifest(layers))


@pytest.mark.parametrize(
    "other", ["w", "W", "w/x", "w.segments/000001-of-000002/x"], ids=lambda name: name
)
def test_a_joined_file_collides_as_any_other(other: str) -> None:
    layers = [*segments("w", 2), layer(other)]
    if other.startswith("w.segments"):
        # the folder of that name is nowhere but in the manifest
        assert len(model_files(manifest(layers))) == 2
    else:
        with pytest.raises(InputError):
            model_files(manifest(layers))


@pytest.mark.parametrize("path", ["../w", "/w", "a/../w", ".ocimodel.partial/w", "a\\b"])
def test_hostile_names_of_joined_files(path: str) -> None:
    with pytest.raises(InputError):
        model_files(manifest(segments(path, 2)))


# what an index says, against the manifest


FILES = join_segments([read_layer(x) for x in [*segments("w", 3), layer("v", size=7)]])
W, V = FILES
LAYERS = tuple(x.digest for x in W.layers)


def chunks(*lengths: int) -> BlobChunks:
    return BlobChunks(lengths, bytes(32 * len(lengths)))


def entry(file: ModelFile, size: int = 0, layers: tuple[str, ...] = ()) -> IndexedFile:
    digests = layers or tuple(x.digest for x in file.layers)
    return IndexedFile(file.path, size or file.size, digests)


def test_an_index_that_agrees() -> None:
    index = ChunkIndex({LAYERS[0]: chunks(5, 6)}, {"w": entry(W), "v": entry(V)})
    assert check_index(index, FILES) is index
    # it need not speak of all
    assert check_index(ChunkIndex(), FILES) == ChunkIndex()


@pytest.mark.parametrize(
    "index",
    [
        ChunkIndex({}, {"w": entry(W, size=W.size + 1)}),
        ChunkIndex({}, {"w": entry(W, layers=LAYERS[:2])}),
        ChunkIndex({}, {"w": entry(W, layers=(LAYERS[1], LAYERS[0], LAYERS[2]))}),
        ChunkIndex({}, {"w": entry(W, layers=(*LAYERS, LAYERS[0]))}),
        ChunkIndex({}, {"v": entry(V, layers=LAYERS)}),
        ChunkIndex({}, {"u": IndexedFile("u", 7, (V.layer.digest,))}),
        ChunkIndex({}, {"w.segments/000001-of-000003": IndexedFile("x", 11, LAYERS[:1])}),
        ChunkIndex({LAYERS[0]: chunks(5, 7)}),
        ChunkIndex({LAYERS[0]: chunks(5)}),
        ChunkIndex({sha256(b"unknown"): chunks(5, 6)}),
        ChunkIndex({sha256(b"index"): chunks(5)}),
    ],
)
def test_an_index_that_contradicts_the_manifest(index: ChunkIndex) -> None:
    with pytest.raises(InputError, match="index"):
        check_index(index, FILES)
