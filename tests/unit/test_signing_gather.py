"""Gathering: all forms are found; what is malformed, foreign or too much harms nothing else."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ocimodel.errors import AuthenticationError, InputError, OcimodelError, RegistryError
from ocimodel.signing import cosign
from ocimodel.signing import gather as gathering
from ocimodel.signing.evidence import SIGNATURE, Form, Gathered
from ocimodel.signing.gather import MAX_REFERRERS, MAX_TAG_LAYERS, gather
from ocimodel.signing.keys import PrivateKey
from ocimodel.spec.base64text import encode_base64
from ocimodel.spec.bundle import BUNDLE
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.spec.dsse import ENVELOPE_TYPE, IN_TOTO, Envelope, pae
from ocimodel.spec.manifest import Document, Manifest, parse_manifest
from ocimodel.spec.simplesigning import PAYLOAD_TYPE
from ocimodel.store.memory import MemoryStore
from ocimodel.store.streams import BytesReader
from tests.artifacts import put_blob, put_index, put_model

VECTORS = Path(__file__).parents[1] / "vectors" / "signing"
KEY = PrivateKey.generate()
PREDICATE = "https://example.com/p"
CREATED = "2027-01-31T00:00:00Z"
EMPTY = Descriptor("application/vnd.oci.empty.v1+json", sha256(b"{}"), 2)


class Spy(MemoryStore):
    """A store that remembers what was asked of it, and can be told what to list or to fail with.

    `fails`: what was asked → the error. `listed`: instead of its own referrers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()
        self.fails: dict[str, OcimodelError] = {}
        self.listed: list[Descriptor] | None = None
        self.meet: threading.Barrier | None = None

    def _ask(self, what: str) -> None:
        self.asked[what] += 1
        if what in self.fails:
            raise self.fails[what]

    def referrers(self, subject: str) -> Sequence[Descriptor]:
        if self.meet:
            self.meet.wait(timeout=30)
        self._ask("referrers")
        return super().referrers(subject) if self.listed is None else self.listed

    def manifest(self, reference: str) -> Document:
        if self.meet:
            self.meet.wait(timeout=30)
        self._ask(reference)
        return super().manifest(reference)

    def open(self, what: Descriptor, start: int = 0, length: int | None = None) -> BytesReader:
        self._ask(what.digest)
        return super().open(what, start, length)


@pytest.fixture
def store() -> Spy:
    return Spy()


@pytest.fixture
def root(store: Spy) -> Manifest:
    return put_model(store, {"weights": b"w"})


def sign(store: Spy, root: Document, name: str = "") -> str:
    """A bundle; the digest of its referrer."""
    statement = cosign.signature_statement(root.digest, {"name": name} if name else {})
    raw = cosign.sign_statement(KEY, statement)
    return cosign.attach_bundle(store, root.descriptor, raw, SIGNATURE, CREATED).digest


def sign_tag(store: Spy, root: Document, n: int = 1) -> str:
    payload = cosign.simple_payload(root.digest, "host/repo", {})
    for _ in range(n):
        cosign.attach_signature_tag(store, root.digest, payload, KEY.sign(payload))
    return cosign.signature_tag(root.digest)


def put_raw(store: Spy, document: dict[str, Any], tag: str = "") -> str:
    """Any manifest, with the blobs that it has or lacks."""
    parsed = parse_manifest(json.dumps(document).encode())
    store._manifests[parsed.digest] = parsed
    if tag:
        store._tags[tag] = parsed.digest
    return parsed.digest


def referrer(store: Spy, root: Document, content: bytes, **changes: Any) -> str:
    """A referrer in which something is amiss."""
    layer = Descriptor(BUNDLE, put_blob(store, content), len(content))
    document, _ = cosign.referrer(BUNDLE, (layer, content), root.descriptor, {})
    put_blob(store, b"{}")
    return put_raw(store, {**json.loads(document.raw), **changes})


def reasons(found: Gathered) -> dict[str, str]:
    return {unreadable.origin: unreadable.reason for unreadable in found.unreadable}


# what is there is found


def test_every_form_is_found(store: Spy, root: Manifest) -> None:
    statement = cosign.attestation_statement(root.digest, PREDICATE, {"a": 1})
    envelope = Envelope(statement, IN_TOTO, (KEY.sign(pae(IN_TOTO, statement)),))
    first = sign(store, root)
    raw = cosign.sign_statement(KEY, statement)
    second = cosign.attach_bundle(store, root.descriptor, raw, PREDICATE, CREATED).digest
    tag = sign_tag(store, root, n=2)
    cosign.attach_attestation_tag(store, root.digest, envelope, PREDICATE)
    found = gather(store, root)
    assert not found.unreadable
    assert {(e.origin, e.form, e.predicate_type) for e in found.evidence} == {
        (f"referrer {first}", Form.BUNDLE, SIGNATURE),
        (f"referrer {second}", Form.BUNDLE, PREDICATE),
        (f"{tag}[0]", Form.SIMPLE, SIGNATURE),
        (f"{tag}[1]", Form.SIMPLE, SIGNATURE),
        (f"{cosign.attestation_tag(root.digest)}[0]", Form.ENVELOPE, PREDICATE),
    }
    for evidence in found.evidence:
        assert [s.digest for s in evidence.subjects] == [root.digest]
        assert KEY.public_key.verify(evidence.signature, evidence.message)


@pytest.mark.parametrize("concurrency", [1, 2, 16])
def test_the_order_is_always_the_same(store: Spy, root: Manifest, concurrency: int) -> None:
    for name in "abcdefgh":
        sign(store, root, name)
        referrer(store, root, name.encode())
    sign_tag(store, root, n=3)
    found = gather(store, root, concurrency=concurrency)
    assert len(found.evidence) == 11
    assert [e.origin for e in found.evidence] == sorted(e.origin for e in found.evidence)
    assert len(found.unreadable) == 8
    assert [u.origin for u in found.unreadable] == sorted(reasons(found))


def test_nothing_is_nothing(store: Spy, root: Manifest) -> None:
    assert gather(store, root) == Gathered()


def test_what_cosign_3_wrote_is_found(store: Spy) -> None:
    root = parse_manifest((VECTORS / "subject.manifest.json").read_bytes())
    put_blob(store, b"{}")
    for i in (0, 1):
        put_blob(store, (VECTORS / f"cosign3.bundle{i}.json").read_bytes())
        put_raw(store, json.loads((VECTORS / f"cosign3.bundle{i}.manifest.json").read_bytes()))
    found = gather(store, root)
    assert not found.unreadable
    kinds = [SIGNATURE, "https://slsa.dev/provenance/v1"]
    assert sorted(e.predicate_type for e in found.evidence) == kinds


def test_what_cosign_2_wrote_is_found(store: Spy) -> None:
    root = parse_manifest((VECTORS / "subject2.manifest.json").read_bytes())
    tag = f"sha256-{root.digest.removeprefix('sha256:')}"
    for kind in ("sig", "att"):
        put_blob(store, (VECTORS / f"cosign2.{kind}.layer0.json").read_bytes())
        manifest = json.loads((VECTORS / f"cosign2.{kind}.manifest.json").read_bytes())
        put_raw(store, manifest, f"{tag}.{kind}")
    found = gather(store, root)
    assert not found.unreadable
    origins = [f"{tag}.att[0]", f"{tag}.sig[0]", f"{tag}.sig[1]", f"{tag}.sig[2]"]
    assert [e.origin for e in found.evidence] == origins


def test_what_notation_wrote_is_found(store: Spy) -> None:
    root = parse_manifest((VECTORS / "subject3.manifest.json").read_bytes())
    put_blob(store, (VECTORS / "notation.jws.json").read_bytes())
    # its type stands in the configuration only
    put_raw(store, json.loads((VECTORS / "notation.manifest.json").read_bytes()))
    found = gather(store, root)
    assert not found.unreadable
    assert [e.form for e in found.evidence] == [Form.NOTATION]
    assert [s.digest for s in found.evidence[0].subjects] == [root.digest]


@pytest.mark.parametrize("listed_type", ["", "application/vnd.oci.empty.v1+json", "application/x"])
def test_a_list_that_calls_it_something_else_hides_nothing(
    store: Spy, root: Manifest, listed_type: str
) -> None:
    digest = sign(store, root)
    store.listed = [Descriptor("", digest, 9, artifact_type=listed_type)]
    assert len(gather(store, root).evidence) == 1


# few requests


def test_the_lists_are_asked_for_at_the_same_time(store: Spy, root: Manifest) -> None:
    # each waits for the two others
    store.meet = threading.Barrier(3)
    assert gather(store, root) == Gathered()


def test_what_is_known_to_sign_nothing_is_not_fetched(store: Spy, root: Manifest) -> None:
    sbom, _ = cosign.referrer("application/spdx+json", (EMPTY, b"{}"), root.descriptor, {})
    put_blob(store, b"{}")
    store.put_manifest(sbom)
    assert gather(store, root) == Gathered()
    assert store.asked[sbom.digest] == 0


def test_of_other_referrers_no_blob_is_fetched(store: Spy, root: Manifest) -> None:
    other = put_model(store, {"notes": b"n"}, subject=root)
    assert gather(store, root) == Gathered()
    assert store.asked[other.digest] == 1
    assert store.asked[sha256(b"n")] == 0


def test_a_payload_that_was_signed_often_is_fetched_once(store: Spy, root: Manifest) -> None:
    tag = sign_tag(store, root, n=5)
    found = gather(store, root)
    assert len({e.signature for e in found.evidence}) == 5
    layer = store.manifest(tag).blobs()[1]
    assert store.asked[layer.digest] == 1


def test_sha512_has_no_tags(store: Spy, root: Manifest) -> None:
    longer = parse_manifest(root.raw, digest=f"sha512:{hashlib.sha512(root.raw).hexdigest()}")
    assert gather(store, longer) == Gathered()
    assert store.asked == {"referrers": 1}


# what is wrong is set aside


def other_subject(**changes: Any) -> Any:
    return lambda root: {"subject": {**root.descriptor.to_json(), **changes}}


def layer(content: bytes, size: int) -> dict[str, Any]:
    return Descriptor(BUNDLE, sha256(content), size).to_json()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (other_subject(digest="sha256:" + "ab" * 32), "subject is another"),
        (other_subject(size=1), "subject is another"),
        (other_subject(mediaType="application/x"), "subject is another"),
        (lambda root: {"subject": None}, "subject is another"),
        (lambda root: {"layers": []}, "0 layers"),
        (lambda root: {"layers": [EMPTY.to_json()] * 2}, "2 layers"),
        (lambda root: {"layers": [layer(b"gone", 4)]}, "no blob"),
        (lambda root: {"layers": [layer(b"gone", 4 << 20 | 1)]}, "over the limit"),
        (lambda root: {"layers": [layer(b"{ }", 4)]}, "ended after 3 of 4"),
        (lambda root: {"layers": [layer(b"{ }", 2)]}, "arrived with the bytes of"),
        (lambda root: {}, "media type"),
    ],
)
def test_a_referrer_that_is_not_right_says_why(
    store: Spy, root: Manifest, changes: Any, why: str
) -> None:
    good = sign(store, root)
    bad = referrer(store, root, b"{ }", **changes(root))
    store.listed = [Descriptor("", d, 1, artifact_type=BUNDLE) for d in (bad, good)]
    found = gather(store, root)
    assert why in reasons(found)[f"referrer {bad}"]
    assert [e.origin for e in found.evidence] == [f"referrer {good}"]


def test_bytes_that_are_not_the_digests_are_not_read(store: Spy, root: Manifest) -> None:
    digest = sign(store, root)
    layer = store.manifest(digest).blobs()[1]
    store.blobs[layer.digest] = store.blobs[layer.digest].replace(b"hint", b"Hint")
    found = gather(store, root)
    assert not found.evidence
    assert "arrived with the bytes of" in reasons(found)[f"referrer {digest}"]


def test_a_referrer_that_is_gone_says_so(store: Spy, root: Manifest) -> None:
    gone = "sha256:" + "ab" * 32
    good = sign(store, root)
    store.listed = [Descriptor("", d, 1) for d in (gone, good)]
    found = gather(store, root)
    assert list(reasons(found)) == [f"referrer {gone}"]
    assert len(found.evidence) == 1


def test_a_list_that_cannot_be_read_leaves_the_tags(store: Spy, root: Manifest) -> None:
    sign_tag(store, root)
    store.fails["referrers"] = InputError("no index\nbut a page")
    found = gather(store, root)
    assert reasons(found) == {"referrers": "no index but a page"}
    assert len(found.evidence) == 1


@pytest.mark.parametrize("suffix", ["sig", "att"])
def test_a_tag_that_is_something_else_leaves_the_referrers(
    store: Spy, root: Manifest, suffix: str
) -> None:
    sign(store, root)
    tag = root.digest.replace(":", "-") + f".{suffix}"
    store.tag(tag, put_index(store, [root]).descriptor)
    assert reasons(gather(store, root)) == {tag: "it is an image index, not a manifest"}
    store.fails[tag] = InputError("junk")
    found = gather(store, root)
    assert reasons(found) == {tag: "junk"}
    assert len(found.evidence) == 1


@pytest.mark.parametrize("suffix", ["sig", "att"])
def test_layers_of_a_tag_are_judged_one_by_one(store: Spy, root: Manifest, suffix: str) -> None:
    tag = root.digest.replace(":", "-") + f".{suffix}"
    payload = cosign.simple_payload(root.digest, "", {})
    envelope = Envelope(cosign.attestation_statement(root.digest, PREDICATE, {}), IN_TOTO, (b"s",))
    good = payload if suffix == "sig" else envelope.encode()
    kind = PAYLOAD_TYPE if suffix == "sig" else ENVELOPE_TYPE
    marks = {cosign.SIGNATURE_MARK: encode_base64(b"s")}
    layers = [
        Descriptor(kind, put_blob(store, b"{}"), 2, marks),
        Descriptor("application/x", put_blob(store, good), len(good), marks),
        Descriptor(kind, sha256(good), len(good), marks),
        Descriptor(kind, sha256(b"gone"), 4, marks),
        Descriptor(kind, sha256(b"large"), (64 << 10) + 1 if suffix == "sig" else 5 << 20, marks),
    ]
    document = {
        "schemaVersion": 2,
        "mediaType": root.media_type,
        "config": EMPTY.to_json(),
        "layers": [layer.to_json() for layer in layers],
    }
    put_raw(store, document, tag)
    found = gather(store, root)
    assert [e.origin for e in found.evidence] == [f"{tag}[2]"]
    assert list(reasons(found)) == [f"{tag}[{i}]" for i in (0, 1, 3, 4)]
    assert store.asked[sha256(b"large")] == 0


@pytest.mark.parametrize("error", [RegistryError("down"), AuthenticationError("no")])
@pytest.mark.parametrize("what", ["referrers", "sig", "att", "manifest", "blob"])
def test_trouble_with_the_registry_is_not_an_answer(
    store: Spy, root: Manifest, what: str, error: OcimodelError
) -> None:
    digest = sign(store, root)
    name = root.digest.replace(":", "-")
    places = {
        "referrers": "referrers",
        "sig": f"{name}.sig",
        "att": f"{name}.att",
        "manifest": digest,
        "blob": store.manifest(digest).blobs()[1].digest,
    }
    store.fails[places[what]] = error
    with pytest.raises(type(error)):
        gather(store, root)


# too much


# cosign 3 lists its own as empty in the fallback tag
@pytest.mark.parametrize("listed_type", [BUNDLE, gathering.NOTATION, EMPTY.media_type])
def test_a_flood_of_others_does_not_hide_a_signature(
    store: Spy, root: Manifest, listed_type: str
) -> None:
    # by their digests alone they would all come first
    others = [
        Descriptor("", f"sha256:{i:064x}", 9, artifact_type="application/x") for i in range(600)
    ]
    ours = store.manifest(sign(store, root))
    store.listed = [*others, Descriptor("", ours.digest, len(ours.raw), artifact_type=listed_type)]
    found = gather(store, root)
    assert [e.origin for e in found.evidence] == [f"referrer {ours.digest}"]
    assert f"{601 - MAX_REFERRERS} more were not looked into" in reasons(found)["the rest"]


def test_a_flood_of_the_same_kind_costs_only_so_much(store: Spy, root: Manifest) -> None:
    store.listed = [Descriptor("", sha256(b"%d" % i), 9, artifact_type=BUNDLE) for i in range(2000)]
    found = gather(store, root)
    assert sum(n for what, n in store.asked.items() if what.startswith("sha256:")) == MAX_REFERRERS
    assert "1488 more" in reasons(found)["the rest"]


def test_of_a_tag_with_too_many_layers_the_last_are_read(store: Spy, root: Manifest) -> None:
    payload = cosign.simple_payload(root.digest, "", {})
    put_blob(store, payload)
    layers = [
        Descriptor(
            PAYLOAD_TYPE,
            sha256(payload),
            len(payload),
            {cosign.SIGNATURE_MARK: encode_base64(b"%d" % i)},
        ).to_json()
        for i in range(200)
    ]
    document = {"schemaVersion": 2, "config": EMPTY.to_json(), "layers": layers}
    tag = cosign.signature_tag(root.digest)
    put_raw(store, {**document, "mediaType": root.media_type}, tag)
    found = gather(store, root)
    expected = {b"%d" % i for i in range(200 - MAX_TAG_LAYERS, 200)}
    assert {e.signature for e in found.evidence} == expected
    assert "72 more" in reasons(found)["the rest"]


def test_of_a_list_that_is_too_long_the_same_are_looked_into(store: Spy, root: Manifest) -> None:
    store.listed = [Descriptor("", sha256(b"%d" % i), 9, artifact_type=BUNDLE) for i in range(600)]
    found = gather(store, root)
    store.listed.reverse()
    assert gather(store, root) == found


def test_large_pieces_do_not_crowd_out_small_ones(
    store: Spy, root: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "MAX_TOTAL_BYTES", 50_000)
    ours = sign(store, root)
    n_bytes = store.manifest(ours).blobs()[1].size
    for i in range(40):
        # so many that no room is left for one that is any smaller
        referrer(store, root, b"%0*d" % (n_bytes + 1, i))
    found = gather(store, root, concurrency=1)
    assert [e.origin for e in found.evidence] == [f"referrer {ours}"]
    assert "more were not looked into" in reasons(found)["the rest"]


def test_a_list_cannot_make_manifests_smaller_than_they_are(
    store: Spy, root: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "MAX_TOTAL_BYTES", 2000)
    digests = [sign(store, root, str(i)) for i in range(50)]
    store.listed = [Descriptor("", digest, 0, artifact_type=BUNDLE) for digest in digests]
    gather(store, root, concurrency=1)
    assert sum(store.asked[digest] for digest in digests) <= 3
