"""cosign's forms: written as cosign writes them, added to what others wrote, and read strictly."""

from __future__ import annotations

import copy as copying
import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import ConflictError, InputError
from ocimodel.signing import cosign
from ocimodel.signing.evidence import EXPIRES, REPOSITORY, SIGNATURE, TAG, Evidence, Form, Subject
from ocimodel.signing.keys import PrivateKey, parse_public_key
from ocimodel.spec import canonical
from ocimodel.spec.base64text import encode_base64
from ocimodel.spec.bundle import BUNDLE, encode_bundle, parse_bundle
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.spec.dsse import IN_TOTO, Envelope, parse_envelope
from ocimodel.spec.manifest import Document, Manifest, parse_manifest
from ocimodel.spec.simplesigning import PAYLOAD_TYPE
from ocimodel.spec.statement import StatementSubject, encode_statement
from ocimodel.store.memory import MemoryStore
from tests.artifacts import put_index, put_model

VECTORS = Path(__file__).parents[1] / "vectors" / "signing"
D = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32
KEY = PrivateKey.generate()
MARKS = {cosign.SIGNATURE_MARK: "AA=="}
ROOT = Descriptor("application/vnd.oci.image.manifest.v1+json", D, 417)


def golden(name: str) -> bytes:
    return (VECTORS / name).read_bytes()


def manifest(name: str) -> Manifest:
    found = parse_manifest(golden(name))
    assert isinstance(found, Manifest)
    return found


def bundle_of(statement: bytes) -> bytes:
    return encode_bundle(Envelope(statement, IN_TOTO, (b"s",)))


# what the real tools wrote is read, and their keys have signed it


@pytest.mark.parametrize(("i", "kind"), [(0, SIGNATURE), (1, "https://slsa.dev/provenance/v1")])
def test_a_bundle_of_cosign_3_verifies(i: int, kind: str) -> None:
    raw = golden(f"cosign3.bundle{i}.json")
    found = cosign.bundle_evidence("x", raw)
    assert (found.form, found.predicate_type, found.document) == (Form.BUNDLE, kind, raw)
    assert found.subjects == (Subject(sha256(golden("subject.manifest.json"))),)
    assert parse_public_key(golden("p256.pub"), "key").verify(found.signature, found.message)


@pytest.mark.parametrize(("i", "key"), [(0, "p256"), (1, "ed"), (2, "p384")])
def test_a_signature_of_cosign_2_verifies(i: int, key: str) -> None:
    layer = manifest("cosign2.sig.manifest.json").layers[i]
    found = cosign.simple_evidence("x", golden(f"cosign2.sig.layer{i}.json"), layer.annotations)
    assert (found.form, found.predicate_type) == (Form.SIMPLE, SIGNATURE)
    assert found.subjects == (Subject(sha256(golden("subject2.manifest.json"))),)
    assert found.repository == "127.0.0.1:5903/poc/vec2b73b"
    assert found.annotations == {"team": "ml"}
    keys = {name: parse_public_key(golden(f"{name}.pub"), name) for name in ("p256", "ed", "p384")}
    for name, public in keys.items():
        assert public.verify(found.signature, found.message) == (name == key)


def test_an_attestation_of_cosign_2_verifies() -> None:
    layer = manifest("cosign2.att.manifest.json").layers[0]
    found = cosign.envelope_evidence("x", golden("cosign2.att.layer0.json"), layer.annotations)
    assert (found.form, found.predicate_type) == (Form.ENVELOPE, "https://slsa.dev/provenance/v1")
    assert found.subjects == (Subject(sha256(golden("subject2.manifest.json"))),)
    assert found.predicate["runDetails"]["builder"]["id"] == "https://x"
    assert parse_public_key(golden("p256.pub"), "key").verify(found.signature, found.message)


# writing


def test_a_signature_says_byte_for_byte_what_cosign_3_says() -> None:
    subject = sha256(golden("subject.manifest.json"))
    theirs = parse_bundle(golden("cosign3.bundle0.json")).envelope.payload
    assert cosign.signature_statement(subject, {"team": "ml"}) == theirs


def test_a_payload_is_byte_for_byte_what_cosign_2_signs() -> None:
    subject = sha256(golden("subject2.manifest.json"))
    ours = cosign.simple_payload(subject, "127.0.0.1:5903/poc/vec2b73b", {"team": "ml"})
    assert ours == golden("cosign2.sig.layer0.json")


@pytest.mark.parametrize(
    "statement",
    [
        cosign.signature_statement(D, {"a": "b"}),
        cosign.attestation_statement(D, "https://example.com/p", {"a": [1]}),
    ],
)
def test_a_signed_statement_is_a_bundle_of_its_key(statement: bytes) -> None:
    raw = cosign.sign_statement(KEY, statement, timestamp=lambda signature: b"at:" + signature)
    found = cosign.bundle_evidence("x", raw)
    assert KEY.public_key.verify(found.signature, found.message)
    assert found.timestamps == (b"at:" + found.signature,)
    assert parse_bundle(raw).hint == KEY.public_key.hint
    assert parse_bundle(raw).envelope.payload == statement


def test_a_signer_of_bundles_is_asked_for_one() -> None:
    class Keyless:
        identity = "somebody"

        def bundle(self, statement: bytes) -> bytes:
            return b"bundle of " + statement

    assert cosign.sign_statement(Keyless(), b"this") == b"bundle of this"


def test_only_sha256_digests_can_be_signed() -> None:
    with pytest.raises(InputError, match="sha256 only"):
        cosign.signature_statement("sha512:" + "ab" * 64, {})


def test_a_referrer_looks_like_one_of_cosign_3() -> None:
    theirs = json.loads(golden("cosign3.bundle0.manifest.json"))
    subject = Descriptor.parse(theirs["subject"])
    bundle = golden("cosign3.bundle0.json")
    created = theirs["annotations"]["org.opencontainers.image.created"]
    ours, blobs = cosign.bundle_documents(bundle, SIGNATURE, subject, created)
    # it repeats the type there
    del theirs["config"]["artifactType"]
    assert json.loads(ours.raw) == theirs
    assert [content for _, content in blobs] == [b"{}", bundle]
    assert all(what.digest == sha256(content) for what, content in blobs)


def signature_layer(signature: bytes) -> Descriptor:
    marks = {cosign.SIGNATURE_MARK: encode_base64(signature)}
    return Descriptor(PAYLOAD_TYPE, sha256(b"payload"), 7, marks)


def test_the_first_signature_of_a_tag_looks_like_cosigns() -> None:
    theirs = manifest("cosign2.sig.manifest.json")
    ours: Manifest | None = None
    for layer in theirs.layers:
        ours, (what, config) = cosign.appended(ours, layer)
        assert (what.digest, what.size) == (sha256(config), len(config))
    assert ours is not None
    # the configuration too, to the byte
    assert json.loads(ours.raw) == json.loads(theirs.raw)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"annotations": {"theirs": "kept"}, "artifactType": "application/x"},
        {"config": {"mediaType": "application/vnd.oci.empty.v1+json", "size": 2, "digest": D}},
        {"subject": ROOT.to_json(), "unknown": [1, {"b": 1, "a": 2}]},
        {"layers": None},
        {"layers": [{"mediaType": "application/x", "size": 1, "digest": D, "urls": ["u"]}]},
    ],
)
def test_what_others_wrote_stays_as_it_is(changes: dict[str, Any]) -> None:
    before = {**json.loads(golden("cosign2.sig.manifest.json")), **changes}
    existing = parse_manifest(json.dumps(before).encode())
    assert isinstance(existing, Manifest)
    after, (config, raw) = cosign.appended(existing, signature_layer(b"s"))
    written = json.loads(after.raw)
    foreign = before["layers"] or []
    assert written["layers"][:-1] == foreign
    assert after.layers[-1] == signature_layer(b"s")
    same = [key for key in before if key not in ("layers", "config")]
    assert {key: written[key] for key in same} == {key: before[key] for key in same}
    assert list(written)[: len(before)] == list(before)
    assert after.config == config
    about = json.loads(raw)
    assert about["rootfs"]["diff_ids"] == [layer["digest"] for layer in written["layers"]]
    assert len(about["history"]) == len(written["layers"])


def test_signatures_are_added_to_a_tag_and_never_twice() -> None:
    store = MemoryStore()
    first = cosign.attach_signature_tag(store, D, b"payload", b"one")
    assert [layer.digest for layer in first.layers] == [sha256(b"payload")]
    second = cosign.attach_signature_tag(store, D, b"payload", b"two")
    assert second.layers == (*first.layers, signature_layer(b"two"))
    again = cosign.attach_signature_tag(store, D, b"payload", b"one")
    assert again == second == store.manifest(cosign.signature_tag(D))


def test_attestations_are_added_to_a_tag() -> None:
    store = MemoryStore()
    for i in range(2):
        statement = cosign.attestation_statement(D, "https://example.com/p", {"i": i})
        cosign.attach_attestation_tag(
            store, D, Envelope(statement, IN_TOTO, (b"s",)), "https://example.com/p"
        )
    written = store.manifest(f"sha256-{'ab' * 32}.att")
    assert isinstance(written, Manifest)
    read = [
        cosign.envelope_evidence("x", store.blobs[layer.digest], layer.annotations)
        for layer in written.layers
    ]
    assert [found.predicate for found in read] == [{"i": 0}, {"i": 1}]
    marks = {"dev.cosignproject.cosign/signature": "", "predicateType": "https://example.com/p"}
    assert [layer.annotations for layer in written.layers] == [marks, marks]


class Raced(MemoryStore):
    """Others sign as well, `n_races` times: each time right after a call of ours of `when`.

    `stale`: what they write is made of what was there before ours, so that ours is undone.
    """

    def __init__(self, when: str, n_races: int, *, stale: bool) -> None:
        super().__init__()
        self.when, self.n_races, self.stale = when, n_races, stale
        self.n_raced = 0
        self.before: Manifest | None = None

    def put_manifest(self, document: Document) -> None:
        super().put_manifest(document)
        self._race("put_manifest")

    def tag(self, name: str, what: Descriptor) -> None:
        super().tag(name, what)
        self._race("tag")

    def _race(self, now: str) -> None:
        if now == self.when and self.n_raced < self.n_races:
            self.n_raced += 1
            existing = self.before if self.stale else self._now()
            self.before, (what, config) = cosign.appended(
                existing, signature_layer(b"foreign %d" % self.n_raced)
            )
            self.blobs[what.digest] = config
            self.blobs[sha256(b"payload")] = b"payload"
            super().put_manifest(self.before)
            super().tag(cosign.signature_tag(D), self.before.descriptor)

    def _now(self) -> Manifest | None:
        found = self._manifests.get(self._tags.get(cosign.signature_tag(D), ""))
        assert found is None or isinstance(found, Manifest)
        return found


@pytest.mark.parametrize(
    ("when", "stale"), [("put_manifest", False), ("tag", True)], ids=["before us", "after us"]
)
@pytest.mark.parametrize("n_races", [1, 4])
def test_what_two_write_at_once_is_all_kept(when: str, stale: bool, n_races: int) -> None:
    store = Raced(when, n_races, stale=stale)
    written = cosign.attach_signature_tag(store, D, b"payload", b"ours")
    expected = [signature_layer(b"foreign %d" % i) for i in range(1, n_races + 1)]
    assert list(written.layers) == [*expected, signature_layer(b"ours")]
    assert store.manifest(cosign.signature_tag(D)) == written


def test_who_always_loses_says_so() -> None:
    with pytest.raises(ConflictError, match="keep overwriting"):
        cosign.attach_signature_tag(Raced("tag", 1000, stale=True), D, b"payload", b"ours")


def test_an_index_under_the_tag_is_left_alone() -> None:
    store = MemoryStore()
    index = put_index(store, [put_model(store, {"a": b"a"})])
    store.tag(cosign.signature_tag(D), index.descriptor)
    with pytest.raises(InputError, match="image index"):
        cosign.attach_signature_tag(store, D, b"payload", b"ours")
    assert store.resolve(cosign.signature_tag(D)).digest == index.digest


# reading


OURS = {
    REPOSITORY: "host/repo",
    TAG: "v1",
    EXPIRES: "2027-01-31T00:00:00Z",
    "team": "ml",
}


@pytest.mark.parametrize(
    "found",
    [
        cosign.bundle_evidence("x", bundle_of(cosign.signature_statement(D, OURS))),
        cosign.simple_evidence("x", cosign.simple_payload(D, "other/name", OURS), MARKS),
    ],
    ids=["bundle", "simple"],
)
def test_our_signed_annotations_are_understood(found: Evidence) -> None:
    assert (found.repository, found.tag) == ("host/repo", "v1")
    assert found.expires_at == datetime(2027, 1, 31, tzinfo=UTC)
    assert found.annotations == OURS


def test_without_them_a_payload_still_has_its_reference() -> None:
    found = cosign.simple_evidence("x", cosign.simple_payload(D, "host/repo", {}), MARKS)
    assert (found.repository, found.tag, found.expires_at) == ("host/repo", "", None)


@pytest.mark.parametrize(
    "time",
    ["", "never", "2027-01-31", "2027-01-31T00:00:00", "2027-01-31T00:00:00+02:00",
     "2027-13-31T00:00:00Z", "2027-01-31T00:00:00Z ", "99999-01-31T00:00:00Z"],
)  # fmt: skip
def test_an_expiry_that_cannot_be_read_does_not_count_as_none(time: str) -> None:
    annotations = {EXPIRES: time}
    with pytest.raises(InputError, match="not a time"):
        cosign.bundle_evidence("x", bundle_of(cosign.signature_statement(D, annotations)))
    with pytest.raises(InputError, match="not a time"):
        cosign.simple_evidence("x", cosign.simple_payload(D, "", annotations), MARKS)


def test_subjects_of_one_statement_must_not_be_told_apart() -> None:
    def statement(*annotations: dict[str, str]) -> bytes:
        about = [StatementSubject(d, "", a) for d, a in zip((D, OTHER), annotations, strict=True)]
        return bundle_of(encode_statement(about, SIGNATURE, {}))

    found = cosign.bundle_evidence("x", statement({"a": "b"}, {"a": "b"}))
    assert found.subjects == (Subject(D), Subject(OTHER))
    assert found.annotations == {"a": "b"}
    with pytest.raises(InputError, match="differently"):
        cosign.bundle_evidence("x", statement({EXPIRES: "2027-01-31T00:00:00Z"}, {}))


def pem(*certificates: bytes) -> str:
    return "".join(
        f"-----BEGIN CERTIFICATE-----\n{encode_base64(c)}\n-----END CERTIFICATE-----\n"
        for c in certificates
    )


def test_certificates_beside_a_signature_are_taken_and_log_entries_are_not() -> None:
    marks = {
        **MARKS,
        cosign.CERTIFICATE_MARK: pem(b"leaf"),
        cosign.CHAIN_MARK: pem(b"issuer", b"root"),
        "dev.sigstore.cosign/bundle": "{}",
    }
    found = cosign.simple_evidence("x", cosign.simple_payload(D, "", {}), marks)
    assert found.certificates == (b"leaf", b"issuer", b"root")
    assert found.annotations == {}
    raw = golden("cosign2.att.layer0.json")
    assert cosign.envelope_evidence("x", raw, marks).certificates == found.certificates


@pytest.mark.parametrize(
    ("marks", "why"),
    [
        ({}, "no annotation"),
        ({cosign.SIGNATURE_MARK: ""}, "no annotation"),
        ({cosign.SIGNATURE_MARK: "AA"}, "base64"),
        ({cosign.SIGNATURE_MARK: "AB=="}, "canonical"),
        ({**MARKS, cosign.CERTIFICATE_MARK: "leaf"}, "something else"),
        ({**MARKS, cosign.CHAIN_MARK: pem(b"a") + "x"}, "something else"),
        ({**MARKS, cosign.CHAIN_MARK: pem(b"a").replace("YQ==", "YQ")}, "base64"),
        ({**MARKS, cosign.CHAIN_MARK: pem(*[b"a"] * 33)}, "33 certificates"),
    ],
)
def test_a_layer_that_makes_no_sense_is_refused(marks: dict[str, str], why: str) -> None:
    with pytest.raises(InputError, match=why):
        cosign.simple_evidence("x", cosign.simple_payload(D, "", {}), marks)


# whatever comes: evidence or InputError


READERS: dict[str, tuple[Callable[[bytes], Evidence], bytes]] = {
    "bundle": (lambda raw: cosign.bundle_evidence("x", raw), golden("cosign3.bundle0.json")),
    "attestation": (lambda raw: cosign.bundle_evidence("x", raw), golden("cosign3.bundle1.json")),
    "envelope": (
        lambda raw: cosign.envelope_evidence("x", raw, {}),
        golden("cosign2.att.layer0.json"),
    ),
    "simple": (
        lambda raw: cosign.simple_evidence("x", raw, MARKS),
        golden("cosign2.sig.layer0.json"),
    ),
}
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.sampled_from(["AA==", D]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


def attempt(name: str, raw: bytes) -> Evidence | None:
    try:
        return READERS[name][0](raw)
    except InputError:
        return None


@pytest.mark.parametrize("name", READERS)
@given(raw=st.binary(max_size=200))
def test_random_bytes_are_refused(name: str, raw: bytes) -> None:
    assert attempt(name, raw) is None


@pytest.mark.parametrize("name", READERS)
@given(at=st.integers(0, 4096), drop=st.integers(0, 3), insert=st.binary(max_size=3))
def test_bytes_that_were_changed_are_read_or_refused(
    name: str, at: int, drop: int, insert: bytes
) -> None:
    raw = READERS[name][1]
    at %= len(raw)
    attempt(name, raw[:at] + insert + raw[at + drop :])


def nodes(document: object) -> list[tuple[Any, Any]]:
    """Each container in a document with each of its keys."""
    if isinstance(document, dict):
        pairs: list[tuple[Any, Any]] = list(document.items())
    elif isinstance(document, list):
        pairs = list(enumerate(document))
    else:
        return []
    below = [node for _, value in pairs for node in nodes(value)]
    return [(document, key) for key, _ in pairs] + below


@pytest.mark.parametrize("name", READERS)
@given(data=st.data(), value=values)
def test_values_that_were_changed_are_read_or_refused(
    name: str, data: st.DataObject, value: object
) -> None:
    document = json.loads(READERS[name][1])
    container, key = data.draw(st.sampled_from(nodes(document)))
    container[key] = value
    attempt(name, json.dumps(document).encode())


@pytest.mark.parametrize("name", ["bundle", "attestation", "envelope"])
@given(data=st.data(), value=values)
def test_statements_that_were_changed_are_read_or_refused(
    name: str, data: st.DataObject, value: object
) -> None:
    document = json.loads(READERS[name][1])
    within = document.get("dsseEnvelope", document)
    statement = canonical.decode(parse_envelope(within).payload, "statement")
    changed = copying.deepcopy(statement)
    container, key = data.draw(st.sampled_from(nodes(changed)))
    container[key] = value
    within["payload"] = encode_base64(json.dumps(changed).encode())
    found = attempt(name, json.dumps(document).encode())
    if found:
        # nothing is read that is not under the signature
        assert json.dumps(changed).encode() in found.message
        dataclasses.asdict(found)


def test_a_bundle_has_its_own_media_type() -> None:
    made, _ = cosign.bundle_documents(b"x", SIGNATURE, ROOT, "2027-01-31T00:00:00Z")
    assert made.artifact_type == made.layers[0].media_type == BUNDLE
