"""What every store promises, whatever it is: see ocimodel/store/protocol.py."""

from __future__ import annotations

import contextlib

import pytest

from ocimodel.errors import IntegrityError, NotFoundError, OcimodelError, RegistryError
from ocimodel.events import Outcome
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.spec.manifest import Document, Index, Manifest
from ocimodel.spec.modelpack import REGULAR, file_layer
from ocimodel.store.copy import copy
from ocimodel.store.landing import PART_BYTES
from ocimodel.store.memory import MemoryStore
from ocimodel.store.protocol import Source, Store
from ocimodel.store.streams import drain
from tests.artifacts import (
    MIB,
    Recorder,
    put_blob,
    put_index,
    put_layers,
    put_model,
    random_bytes,
)

ABSENT = sha256(b"nobody has this")
FILES = {
    "model.safetensors": random_bytes(3 * MIB + 17, 1),
    "onnx/model ü.onnx": random_bytes(MIB, 2),
    "config.json": b'{"hidden_size":384}',
    "empty.txt": b"",
}


@pytest.fixture
def origin() -> MemoryStore:
    return MemoryStore("origin")


def read(source: Source, what: Descriptor) -> bytes:
    with source.open(what) as reader:
        return drain(reader)


def blobs_of(source: Source, document: Document) -> dict[str, bytes]:
    return {blob.digest: read(source, blob) for blob in document.blobs()}


# there and back


def test_the_same_bytes_come_back(store: Store, origin: MemoryStore) -> None:
    root = put_model(origin, FILES, executables={"config.json"})
    report = copy(origin, store, root, tag="v1")
    assert report.bytes_transferred == sum(blob.size for blob in root.blobs())
    assert report.manifests == [root.digest]

    back = MemoryStore("back")
    copy(store, back, store.manifest("v1"), tag="v1")
    assert back.manifest("v1").raw == root.raw
    assert blobs_of(back, root) == blobs_of(origin, root)


def test_manifests_by_tag_and_by_digest_are_the_bytes_that_were_put(
    store: Store, origin: MemoryStore
) -> None:
    root = put_model(origin, FILES, annotations={"org.example.note": "ünïcode"})
    copy(origin, store, root, tag="v1")
    for reference in ("v1", root.digest):
        document = store.manifest(reference)
        assert document == root
        assert document.raw == root.raw
        found = store.resolve(reference)
        assert (found.media_type, found.digest, found.size) == (
            root.media_type,
            root.digest,
            len(root.raw),
        )


def test_a_big_blob_goes_in_parts_and_comes_whole(store: Store, origin: MemoryStore) -> None:
    content = random_bytes(2 * PART_BYTES + 8 * MIB + 5, 3)
    root = put_model(origin, {"model.bin": content})
    report = copy(origin, store, root, concurrency=4)
    assert report.bytes_transferred == len(content) + root.config.size
    back = MemoryStore("back")
    copy(store, back, root, concurrency=4)
    assert back.blobs[root.layers[0].digest] == content


def test_zero_bytes_are_a_blob(store: Store, origin: MemoryStore) -> None:
    root = put_model(origin, {"empty": b"", "also empty": b""})
    copy(origin, store, root)
    assert read(store, root.layers[0]) == b""
    assert store.begin(root.layers[0], origin) is Outcome.EXISTS
    assert store.manifest(root.digest) == root


@pytest.mark.parametrize(
    ("start", "length"),
    [(0, None), (0, 1), (1, MIB), (MIB - 1, 2), (3 * MIB, 17), (3 * MIB + 16, 1), (5, None)],
)
def test_ranges(store: Store, origin: MemoryStore, start: int, length: int | None) -> None:
    content = FILES["model.safetensors"]
    root = put_model(origin, {"model.safetensors": content})
    copy(origin, store, root)
    with store.open(root.layers[0], start, length) as reader:
        wanted = (start, len(content) - start if length is None else length)
        # a store that cannot serve ranges says that all of it comes
        assert (reader.start, reader.length) in (wanted, (0, len(content)))
        assert drain(reader) == content[reader.start : reader.start + reader.length]


def test_plan_wants_each_blob_once(store: Store, origin: MemoryStore) -> None:
    root = put_model(origin, {"a": b"same", "b": b"same", "c": b"other"})
    planned = store.plan(root)
    assert sorted(what.digest for what in planned) == sorted(
        {root.config.digest, sha256(b"same"), sha256(b"other")}
    )
    index = put_index(origin, [root])
    assert list(store.plan(index)) == []


# tags


def test_tags_are_sorted_and_move(store: Store, origin: MemoryStore) -> None:
    first = put_model(origin, {"a": b"1"})
    second = put_model(origin, {"a": b"2"})
    for document, tag in ((first, "v2"), (first, "latest"), (first, "v10"), (second, "V1")):
        copy(origin, store, document, tag=tag)
    assert list(store.tags()) == ["V1", "latest", "v10", "v2"]
    store.tag("latest", second.descriptor)
    assert store.resolve("latest").digest == second.digest
    assert store.resolve("v2").digest == first.digest
    assert list(store.tags()) == ["V1", "latest", "v10", "v2"]
    assert store.manifest(first.digest) == first


def test_tagging_again_changes_nothing(store: Store, origin: MemoryStore) -> None:
    root = put_model(origin, {"a": b"1"})
    copy(origin, store, root, tag="v1")
    store.tag("v1", root.descriptor)
    assert list(store.tags()) == ["v1"]
    assert store.manifest("v1") == root


def test_untag_takes_the_tag_and_leaves_the_rest(store: Store, origin: MemoryStore) -> None:
    root = put_model(origin, {"a": b"1"})
    copy(origin, store, root, tag="v1")
    store.tag("v2", root.descriptor)
    store.untag("v1")
    assert list(store.tags()) == ["v2"]
    store.untag("v2")
    assert list(store.tags()) == []
    assert store.manifest(root.digest) == root
    assert read(store, root.layers[0]) == b"1"


def test_delete_takes_the_manifest_and_its_tags(store: Store, origin: MemoryStore) -> None:
    doomed = put_model(origin, {"a": b"1", "shared": b"shared"})
    kept = put_model(origin, {"a": b"2", "shared": b"shared"})
    copy(origin, store, doomed, tag="v1")
    copy(origin, store, kept, tag="v2")
    store.tag("old", doomed.descriptor)
    store.delete(doomed.digest)
    assert list(store.tags()) == ["v2"]
    for reference in ("v1", "old", doomed.digest):
        with pytest.raises(NotFoundError):
            store.manifest(reference)
    assert store.manifest("v2") == kept
    assert blobs_of(store, kept) == blobs_of(origin, kept)


# what is not there


def test_missing_things_are_not_found(store: Store, origin: MemoryStore) -> None:
    root = put_model(origin, {"a": b"1"})
    copy(origin, store, root, tag="v1")
    nothing = Descriptor("application/octet-stream", ABSENT, 15)
    for call in (
        lambda: store.manifest("v2"),
        lambda: store.manifest(ABSENT),
        lambda: store.resolve("v2"),
        lambda: store.resolve(ABSENT),
        lambda: store.untag("v2"),
        lambda: store.delete(ABSENT),
        lambda: read(store, nothing),
        lambda: store.tag("v2", nothing),
    ):
        with pytest.raises(NotFoundError):
            call()
    assert list(store.tags()) == ["v1"]


def test_an_empty_store_has_no_tags_and_no_referrers(store: Store) -> None:
    assert list(store.referrers(ABSENT)) == []
    # registries make a repository with its first manifest
    with contextlib.suppress(NotFoundError):
        assert list(store.tags()) == []


def test_a_manifest_without_its_blobs_is_refused(store: Store, origin: MemoryStore) -> None:
    root = put_model(origin, {"a": b"1"})
    with pytest.raises(OcimodelError):
        store.put_manifest(root)
    with pytest.raises(NotFoundError):
        store.manifest(root.digest)


# referrers


def test_referrers_are_found_by_their_subject(store: Store, origin: MemoryStore) -> None:
    root = put_model(origin, {"a": b"1"})
    other = put_model(origin, {"a": b"2"})
    first = put_model(origin, {"sig": b"s1"}, subject=root, annotations={"kind": "signature"})
    second = put_model(origin, {"sig": b"s2"}, subject=root)
    for document in (root, other, first, second):
        copy(origin, store, document)
    found = {r.digest: r for r in store.referrers(root.digest)}
    assert found.keys() == {first.digest, second.digest}
    assert found[first.digest].artifact_type == first.artifact_type
    assert found[first.digest].annotations.get("kind") == "signature"
    assert found[first.digest].size == len(first.raw)
    assert list(store.referrers(other.digest)) == []
    store.delete(first.digest)
    assert [r.digest for r in store.referrers(root.digest)] == [second.digest]


def test_copy_takes_referrers_and_their_referrers(store: Store, origin: MemoryStore) -> None:
    root = put_model(origin, {"a": random_bytes(MIB, 9)})
    attestation = put_model(origin, {"att": b"{}"}, subject=root)
    signature = put_model(origin, {"sig": b"sig"}, subject=attestation)
    report = copy(origin, store, root, tag="v1", referrers=True)
    assert report.manifests == [root.digest, attestation.digest, signature.digest]

    back = MemoryStore("back")
    copy(store, back, store.manifest("v1"), referrers=True)
    assert [r.digest for r in back.referrers(root.digest)] == [attestation.digest]
    assert back.manifest(signature.digest).raw == signature.raw


# copy


def test_a_second_copy_moves_nothing(store: Store, origin: MemoryStore) -> None:
    root = put_model(origin, FILES)
    copy(origin, store, root, tag="v1")
    recorder = Recorder(origin)
    again = copy(recorder, store, root, tag="v1")
    assert again.bytes_transferred == 0
    assert again.n_blobs[Outcome.EXISTS] == len(root.blobs())
    assert again.bytes_skipped == sum(blob.size for blob in root.blobs())
    assert recorder.asked == []
    assert list(store.tags()) == ["v1"]


def test_only_what_is_new_moves(store: Store, origin: MemoryStore) -> None:
    copy(origin, store, put_model(origin, FILES))
    tuned = put_model(origin, FILES | {"config.json": b'{"hidden_size":768}'})
    report = copy(origin, store, tuned)
    assert report.bytes_transferred == 19 + tuned.config.size


class _InOrder(MemoryStore):
    """Remembers in which order its manifests are put."""

    def __init__(self) -> None:
        super().__init__("in order")
        self.order: list[str] = []

    def put_manifest(self, document: Document) -> None:
        super().put_manifest(document)
        self.order.append(document.digest)


def test_the_children_of_an_index_come_before_it(store: Store, origin: MemoryStore) -> None:
    children = [put_model(origin, {"a": b"cpu"}), put_model(origin, {"a": b"gpu"})]
    index = put_index(origin, children)
    report = copy(origin, store, index, tag="both")
    assert report.manifests == [children[0].digest, children[1].digest, index.digest]
    found = store.manifest("both")
    assert isinstance(found, Index)
    assert found.raw == index.raw

    back = _InOrder()
    copy(store, back, found)
    assert back.order == [children[0].digest, children[1].digest, index.digest]


@pytest.mark.parametrize("path", ["small", "big"])
def test_wrong_bytes_are_refused_and_leave_nothing(
    store: Store, origin: MemoryStore, path: str
) -> None:
    files = {"small": random_bytes(MIB, 4), "big": random_bytes(PART_BYTES + MIB, 5)}
    root = put_model(origin, {path: files[path]})
    (what,) = root.layers
    wrong = bytes([files[path][0] ^ 1]) + files[path][1:]
    with pytest.raises(IntegrityError):
        copy(Recorder(origin, swapped={what.digest: wrong}), store, root, tag="v1")
    with pytest.raises(NotFoundError):
        store.manifest(root.digest)
    with pytest.raises(NotFoundError):
        read(store, what)
    begun = store.begin(what, origin)
    assert not isinstance(begun, Outcome)
    assert sum(length for _, length in begun.parts) == what.size, "bytes of the wrong blob stayed"
    begun.close()
    copy(origin, store, root, tag="v1")
    assert read(store, what) == files[path]


def test_a_blob_that_is_not_as_long_as_its_manifest_says_is_refused(
    store: Store, origin: MemoryStore
) -> None:
    content = random_bytes(MIB, 6)
    digest = put_blob(origin, content)
    for size in (len(content) - 1, len(content) + 1):
        root = put_layers(origin, [file_layer("a", "weight", digest, size, REGULAR)])
        with pytest.raises(IntegrityError):
            copy(Recorder(origin), store, root)
        with pytest.raises(NotFoundError):
            store.manifest(root.digest)


def interrupted(store: Store, origin: MemoryStore, root: Manifest) -> None:
    """A copy whose source dies in the last layer."""
    last = root.layers[-1]
    dying = Recorder(origin, n_bytes_left={last.digest: last.size - 1})
    with pytest.raises(RegistryError):
        copy(dying, store, root, tag="v1", concurrency=1)


def test_an_interrupted_copy_leaves_no_manifest_and_is_resumed(
    store: Store, origin: MemoryStore
) -> None:
    files = {"a": random_bytes(2 * MIB, 7), "b": random_bytes(2 * PART_BYTES + MIB, 8)}
    root = put_model(origin, files)
    interrupted(store, origin, root)
    for reference in ("v1", root.digest):
        with pytest.raises(NotFoundError):
            store.manifest(reference)
    recorder = Recorder(origin)
    report = copy(recorder, store, root, tag="v1")
    everything = sum(blob.size for blob in root.blobs())
    assert recorder.n_bytes_read <= everything - len(files["a"]) - root.config.size
    assert report.bytes_transferred <= everything - len(files["a"]) - root.config.size
    assert report.bytes_skipped + report.bytes_transferred == everything
    assert store.manifest("v1") == root
    assert blobs_of(store, root) == blobs_of(origin, root)
