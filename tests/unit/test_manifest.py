"""Manifests, indexes and descriptors: a value with its raw bytes, or the declared error."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import InputError, IntegrityError
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.spec.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    INDEX,
    MANIFEST,
    MAX_LAYERS,
    MAX_MANIFEST_BYTES,
    Index,
    Manifest,
    as_referrer,
    parse_manifest,
)

D1, D2, D3 = (f"sha256:{c * 64}" for c in "123")


def blob(digest: str = D1, size: Any = 5, **more: Any) -> dict[str, Any]:
    return {"mediaType": "application/x", "digest": digest, "size": size, **more}


def manifest(**changes: Any) -> dict[str, Any]:
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": blob(D1),
        "layers": [blob(D2), blob(D3)],
        **changes,
    }
    return {k: v for k, v in document.items() if v is not ...}


def index(**changes: Any) -> dict[str, Any]:
    document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [blob()], **changes}
    return {k: v for k, v in document.items() if v is not ...}


def raw_of(document: Any) -> bytes:
    # not our canonical form: foreign bytes are kept as they are
    return json.dumps(document, indent=3).encode() + b"\n"


def test_a_manifest_keeps_its_bytes() -> None:
    raw = raw_of(
        manifest(
            artifactType="application/a",
            annotations={"k": "v"},
            subject=blob(D3),
            layers=[blob(D2, annotations={"t": "n"}), blob(D2), blob(D1)],
            unknown={"x": 1},
        )
    )
    parsed = parse_manifest(raw, MANIFEST, sha256(raw))
    assert isinstance(parsed, Manifest)
    assert parsed.raw == raw
    assert parsed.digest == sha256(raw)
    assert [b.digest for b in parsed.blobs()] == [D1, D2]
    assert parsed.layers[0].annotations == {"t": "n"}
    assert parsed.subject == Descriptor("application/x", D3, 5)
    assert parsed.descriptor == Descriptor(MANIFEST, sha256(raw), len(raw))
    assert as_referrer(parsed) == Descriptor(
        MANIFEST, sha256(raw), len(raw), {"k": "v"}, "application/a"
    )


def test_without_an_artifact_type_the_configuration_tells() -> None:
    assert parse_manifest(raw_of(manifest())).effective_type == "application/x"
    assert parse_manifest(raw_of(index())).effective_type == ""


def test_an_index() -> None:
    raw = raw_of(index(manifests=[blob(D1), blob(D2)], artifactType="application/a"))
    parsed = parse_manifest(raw, INDEX)
    assert isinstance(parsed, Index)
    assert [m.digest for m in parsed.manifests] == [D1, D2]
    assert parsed.blobs() == ()
    assert (parsed.raw, parsed.effective_type) == (raw, "application/a")


@pytest.mark.parametrize(
    ("document", "served_as", "kind"),
    [
        (manifest(), "", Manifest),
        (manifest(mediaType=...), MANIFEST, Manifest),
        (manifest(mediaType=...), "", Manifest),
        (manifest(mediaType=DOCKER_MANIFEST), DOCKER_MANIFEST, Manifest),
        (manifest(mediaType=...), DOCKER_MANIFEST, Manifest),
        (manifest(layers=[]), "", Manifest),
        (index(), "", Index),
        (index(mediaType=...), "", Index),
        (index(mediaType=...), INDEX, Index),
        (index(mediaType=DOCKER_LIST), DOCKER_LIST, Index),
        (index(manifests=[]), "", Index),
    ],
)
def test_kinds(document: Any, served_as: str, kind: type) -> None:
    parsed = parse_manifest(raw_of(document), served_as)
    assert isinstance(parsed, kind)
    assert parsed.media_type == (document.get("mediaType") or served_as or parsed.media_type)


@pytest.mark.parametrize(
    ("document", "served_as"),
    [
        ([], ""),
        ({}, ""),
        (manifest(), INDEX),
        (index(), MANIFEST),
        (manifest(mediaType=...), INDEX + "x"),
        (manifest(schemaVersion=1), ""),
        (manifest(schemaVersion="2"), ""),
        (manifest(schemaVersion=...), ""),
        (manifest(manifests=[]), ""),
        (index(layers=[]), ""),
        (index(config=blob()), ""),
        (manifest(mediaType="application/json"), ""),
        (manifest(mediaType=7), ""),
        (manifest(config=...), ""),
        (manifest(config=None), ""),
        (manifest(config=[]), ""),
        (manifest(layers={}), ""),
        (manifest(layers=[None]), ""),
        (manifest(layers=["x"]), ""),
        (manifest(layers=[blob("sha256:12")]), ""),
        (manifest(layers=[blob(D1.upper())]), ""),
        (manifest(layers=[blob(size=-1)]), ""),
        (manifest(layers=[blob(size=1 << 63)]), ""),
        (manifest(layers=[blob(size="5")]), ""),
        (manifest(layers=[blob(size=5.0)]), ""),
        (manifest(layers=[blob(size=True)]), ""),
        (manifest(layers=[blob(size=None)]), ""),
        (manifest(layers=[{"digest": D1}]), ""),
        (manifest(layers=[blob(annotations={"a": 1})]), ""),
        (manifest(layers=[blob(annotations=[])]), ""),
        (manifest(layers=[blob(mediaType=1)]), ""),
        (manifest(layers=[blob(D2, 5), blob(D2, 6)]), ""),
        (manifest(layers=[blob(D1, 6)]), ""),
        (manifest(subject="x"), ""),
        (manifest(subject={}), ""),
        (manifest(annotations={"a": None}), ""),
        (manifest(artifactType=[]), ""),
        (index(manifests={}), ""),
        (index(manifests=[1]), ""),
    ],
)
def test_refused(document: Any, served_as: str) -> None:
    with pytest.raises(InputError):
        parse_manifest(raw_of(document), served_as)


def test_what_was_asked_for_is_what_must_come() -> None:
    raw = raw_of(manifest())
    with pytest.raises(IntegrityError):
        parse_manifest(raw, MANIFEST, D1)
    digest = "sha512:" + hashlib.sha512(raw).hexdigest()
    assert parse_manifest(raw, MANIFEST, digest).digest == digest
    with pytest.raises(IntegrityError):
        # wrong bytes are no input to be read, however broken
        parse_manifest(b"garbage", MANIFEST, D1)


def test_limits() -> None:
    with pytest.raises(InputError, match="limit"):
        parse_manifest(b" " * (MAX_MANIFEST_BYTES + 1))
    padded = raw_of(manifest()).ljust(MAX_MANIFEST_BYTES)
    assert len(parse_manifest(padded).raw) == MAX_MANIFEST_BYTES
    tiny = {"digest": D2, "size": 1}
    many = json.dumps(manifest(layers=[tiny] * 2), separators=(",", ":")).encode()
    one = json.dumps(tiny, separators=(",", ":")).encode()
    flood = many.replace(one + b"," + one, b",".join([b"0"] * (MAX_LAYERS + 1)))
    with pytest.raises(InputError, match="limit"):
        parse_manifest(flood)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(D1),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["digest", "size", "mediaType", "annotations", "x"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)
members = st.dictionaries(
    st.sampled_from(
        sorted(manifest().keys() | index().keys() | {"subject", "annotations", "artifactType"})
    ),
    json_values,
    max_size=4,
)


@given(members, st.booleans(), st.sampled_from(["", MANIFEST, INDEX, DOCKER_LIST, "text/html"]))
def test_parse_gives_a_document_or_the_declared_error(
    changes: dict[str, Any], as_index: bool, served_as: str
) -> None:
    raw = raw_of((index if as_index else manifest)(**changes))
    try:
        parsed = parse_manifest(raw, served_as)
    except InputError as error:
        str(error).encode("utf-8", "backslashreplace")
        return
    assert parsed.raw == raw
    assert parsed.digest == sha256(raw)


@given(st.binary(max_size=100), st.sampled_from(["", D1]))
def test_any_bytes(raw: bytes, digest: str) -> None:
    with pytest.raises((InputError, IntegrityError)):
        parse_manifest(raw, "", digest)


@given(
    st.builds(
        Descriptor,
        st.text(st.characters(exclude_categories=["Cs"])),
        st.sampled_from([D1, D2]),
        st.integers(0, 2**63 - 1),
        st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
        st.text(max_size=5),
    )
)
def test_descriptors_round_trip(what: Descriptor) -> None:
    assert Descriptor.parse(what.to_json()) == what
