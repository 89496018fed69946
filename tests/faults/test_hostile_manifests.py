"""Manifests that no honest tool writes: refused by name, before anything is created."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from ocimodel.errors import InputError, IntegrityError, NotFoundError, OcimodelError
from ocimodel.ops.pull import pull
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.manifest import INDEX, MANIFEST, Document, parse_manifest
from ocimodel.spec.modelpack import FILEPATH, layer_type
from ocimodel.store.copy import copy
from ocimodel.store.memory import MemoryStore
from tests.artifacts import put_blob, put_index, put_layers, put_model
from tests.faults.conftest import Bench
from tests.servers.faults import Headers, ReplaceBody, Status
from tests.trees import patient, read_tree, repository

NO_DIGEST = {"Docker-Content-Digest": None}


def publish(bench: Bench, store: MemoryStore, document: Document) -> str:
    """Put an artifact of ours into the registry, as a hostile pusher would."""
    copy(store, repository(bench.direct), document, tag="hostile")
    return f"{bench.registry.host}/{bench.repo}:hostile"


def refuse(bench: Bench, reference: str, expected: type[OcimodelError]) -> OcimodelError:
    with pytest.raises(OcimodelError) as caught:
        pull(reference, bench.target, client=patient())
    assert type(caught.value) is expected
    assert caught.value.exit_code == expected.exit_code
    return caught.value


def layers(store: MemoryStore, paths: Sequence[str]) -> list[Descriptor]:
    """Raw weight layers, each with bytes of its own."""
    found = []
    for i, path in enumerate(paths):
        content = f"bytes {i}".encode()
        digest = put_blob(store, content)
        found.append(Descriptor(layer_type("weight"), digest, len(content), {FILEPATH: path}))
    return found


@pytest.mark.parametrize(
    "paths",
    [
        ["../evil"],
        ["a/../../evil"],
        ["/etc/evil"],
        ["C:/evil"],
        ["a\\..\\evil"],
        ["line\nbreak"],
        ["bell\x07"],
        ["a//b"],
        ["./a"],
        [".ocimodel.partial/x"],
        ["x" * 300],
        ["same", "same"],
        ["Model.bin", "model.bin"],
        ["caf\u00e9", "cafe\u0301"],
        ["dir", "dir/inside"],
    ],
    ids=repr,
)
def test_hostile_paths_are_refused(empty: Bench, tmp_path: Path, paths: list[str]) -> None:
    store = MemoryStore()
    document = put_layers(store, layers(store, ["good.bin", *paths]))
    reference = publish(empty, store, document)
    before = set(tmp_path.rglob("*"))
    error = refuse(empty, reference, InputError)
    assert any(repr(path)[1:10] in str(error) for path in paths)
    # nothing was fetched, nothing created, inside the target or out of it
    assert not empty.target.exists()
    assert set(tmp_path.rglob("*")) == before
    # the same target takes an honest artifact
    honest = put_model(store, {"good.bin": b"good"})
    pull(publish(empty, store, honest), empty.target, client=patient())
    assert read_tree(empty.target) == {"good.bin": b"good"}


def test_an_index_is_no_model(empty: Bench) -> None:
    store = MemoryStore()
    index = put_index(store, [put_model(store, {"a": b"1"}), put_model(store, {"b": b"2"})])
    error = refuse(empty, publish(empty, store, index), InputError)
    assert "index" in str(error)
    assert "inspect" in error.hint
    assert not empty.target.exists()


def test_an_unknown_layer_type_is_named(empty: Bench) -> None:
    store = MemoryStore()
    content = put_blob(store, b"x")
    layer = Descriptor("application/vnd.cncf.model.weight.v9.raw", content, 1, {FILEPATH: "x"})
    error = refuse(empty, publish(empty, store, put_layers(store, [layer])), InputError)
    assert "weight.v9.raw" in str(error)
    assert error.hint


def test_a_symlink_layer_is_refused(empty: Bench) -> None:
    store = MemoryStore()
    metadata = json.dumps({"name": "x", "typeflag": 2, "mode": 0o777})
    notes = {FILEPATH: "x", "org.cncf.model.file.metadata+json": metadata}
    layer = Descriptor(layer_type("weight"), put_blob(store, b"/etc/passwd"), 11, notes)
    error = refuse(empty, publish(empty, store, put_layers(store, [layer])), InputError)
    assert "symbolic link" in str(error)


def test_a_manifest_over_the_limit_is_not_read(bench: Bench) -> None:
    big = b'{"schemaVersion":2,"pad":"' + b"x" * (4 << 20) + b'"}'
    bench.proxy.add(Headers(NO_DIGEST), path="/manifests/", times=None)
    bench.proxy.add(ReplaceBody(big), path="/manifests/", times=None)
    error = bench.refused(InputError)
    assert str(4 << 20) in str(error)
    bench.assert_heals()


@pytest.mark.parametrize(
    ("raw", "media_type", "expected"),
    [
        (b"not json at all", MANIFEST, InputError),
        (b"[" * 100_000, MANIFEST, InputError),
        (b'{"schemaVersion":1,"layers":[]}', MANIFEST, InputError),
        (b'{"schemaVersion":2,"mediaType":"text/x"}', MANIFEST, InputError),
        (b'{"schemaVersion":2,"manifests":[],"layers":[]}', INDEX, InputError),
        (b"<html>who are you?</html>", "text/html", InputError),
        (b"", MANIFEST, InputError),
    ],
    ids=["garbage", "nested", "schema1", "unknown", "both", "html", "empty"],
)
def test_what_is_no_manifest_is_bad_input(
    bench: Bench, raw: bytes, media_type: str, expected: type[OcimodelError]
) -> None:
    bench.proxy.add(
        Headers({**NO_DIGEST, "Content-Type": media_type}), path="/manifests/", times=None
    )
    bench.proxy.add(ReplaceBody(raw), path="/manifests/", times=None)
    bench.refused(expected, hint=False)
    assert not bench.target.exists()
    bench.assert_heals()


def test_other_bytes_under_the_digest_header_are_refused(bench: Bench) -> None:
    raw = repository(bench.direct).manifest("v1").raw.replace(b"a.bin", b"z.bin")
    bench.proxy.add(ReplaceBody(raw), method="GET", path="/manifests/")
    bench.refused(IntegrityError, hint=False)
    assert not bench.target.exists()
    bench.assert_heals()


def test_a_lying_digest_header_is_refused(bench: Bench) -> None:
    lie = {"Docker-Content-Digest": "sha256:" + "0" * 64}
    bench.proxy.add(Headers(lie), method="GET", path="/manifests/", times=None)
    bench.refused(IntegrityError, hint=False)
    bench.assert_heals()


def test_other_bytes_under_an_asked_digest_are_refused(bench: Bench) -> None:
    raw = repository(bench.direct).manifest("v1").raw.replace(b"a.bin", b"z.bin")
    other = parse_manifest(raw).digest
    bench.proxy.add(ReplaceBody(raw), method="GET", path="/manifests/", times=None)
    bench.proxy.add(
        Headers({"Docker-Content-Digest": other}), method="GET", path="/manifests/", times=None
    )
    with pytest.raises(IntegrityError):
        pull(f"{bench.proxy.host}/{bench.repo}@{bench.digest}", bench.target, client=patient())
    assert not bench.target.exists()
    bench.assert_heals()


def test_a_tag_that_moves_meanwhile_changes_nothing(bench: Bench) -> None:
    """Resolved once: the tag is asked for one time, all the rest is asked by digest."""
    store = MemoryStore()
    other = put_model(store, {"other.bin": b"moved"})

    class Move(Headers):
        def after(self, request: object, reply: object) -> object:  # type: ignore[override]
            copy(store, repository(bench.direct), other, tag="v1")
            return reply

    bench.proxy.add(Move({}), method="GET", path="/manifests/v1")
    result = bench.pull()
    assert result.digest == bench.digest
    assert read_tree(bench.target) == read_tree(bench.model)
    assert bench.proxy.count(path="/manifests/v1") == 1


def test_a_missing_tag_is_not_found(bench: Bench) -> None:
    with pytest.raises(NotFoundError) as caught:
        pull(f"{bench.proxy.host}/{bench.repo}:nope", bench.target, client=patient())
    assert caught.value.exit_code == 3
    assert "ls" in caught.value.hint
    with pytest.raises(NotFoundError):
        pull(f"{bench.proxy.host}/no/such/repo:v1", bench.target, client=patient())
    assert not bench.target.exists()


def test_a_missing_blob_is_not_found(bench: Bench) -> None:
    bench.proxy.add(Status(404), method="GET", path=bench.blob("b.bin"), times=None)
    bench.refused(NotFoundError, hint=False)
    bench.assert_heals()
