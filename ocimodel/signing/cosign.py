"""What cosign writes and reads: a bundle that refers to its subject, and the older tags.

cosign 3 makes a referrer for each signature or attestation. cosign 2, policy-controller and podman
look for a tag made of the digest, whose layers are signatures (`.sig`) or attestations (`.att`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ocimodel.errors import ConflictError, InputError, NotFoundError
from ocimodel.signing.evidence import REPOSITORY, SIGNATURE, TAG, Evidence, Form, Subject, expiry_of
from ocimodel.signing.signer import BundleSigner, Signer
from ocimodel.spec import canonical
from ocimodel.spec.base64text import decode_base64, encode_base64
from ocimodel.spec.bundle import BUNDLE, MAX_CERTIFICATES, encode_bundle, parse_bundle
from ocimodel.spec.descriptor import EMPTY_MEDIA_TYPE, Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.spec.dsse import ENVELOPE_TYPE, IN_TOTO, Envelope, pae, parse_envelope
from ocimodel.spec.manifest import MANIFEST, Manifest, parse_manifest
from ocimodel.spec.modelpack import IMAGE_CONFIG_TYPE
from ocimodel.spec.simplesigning import PAYLOAD_TYPE, Payload, encode_payload, parse_payload
from ocimodel.spec.statement import StatementSubject, encode_statement, parse_statement
from ocimodel.store.copy import Report, copy
from ocimodel.store.memory import MemoryStore
from ocimodel.store.protocol import Store

SIGNATURE_MARK: Final = "dev.cosignproject.cosign/signature"
CERTIFICATE_MARK: Final = "dev.sigstore.cosign/certificate"
CHAIN_MARK: Final = "dev.sigstore.cosign/chain"
EMPTY: Final = b"{}"
_MERGE_ATTEMPTS: Final = 5
_NEVER: Final = "0001-01-01T00:00:00Z"
_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----([^-]*)-----END CERTIFICATE-----")
Blob = tuple[Descriptor, bytes]


# writing: documents


def signature_statement(digest: str, annotations: Mapping[str, str]) -> bytes:
    """What a signature says; InputError for a digest that is no sha256."""
    return _statement(digest, annotations, SIGNATURE, {})


def attestation_statement(digest: str, predicate_type: str, predicate: Mapping[str, Any]) -> bytes:
    """A claim about the digest; InputError for a digest that is no sha256."""
    return _statement(digest, {}, predicate_type, predicate)


def _statement(
    digest: str, annotations: Mapping[str, str], kind: str, predicate: Mapping[str, Any]
) -> bytes:
    if not digest.startswith("sha256:"):
        raise InputError(f"{digest[:100]} cannot be signed: cosign's forms know sha256 only")
    return encode_statement([StatementSubject(digest, "", annotations)], kind, predicate)


def sign_statement(
    signer: Signer, statement: bytes, timestamp: Callable[[bytes], bytes] | None = None
) -> bytes:
    """A bundle over the statement. `timestamp`: makes an RFC 3161 response over a signature.

    A BundleSigner brings its own proof of time.
    """
    if isinstance(signer, BundleSigner):
        return signer.bundle(statement)
    signature = signer.sign(pae(IN_TOTO, statement))
    return encode_bundle(
        Envelope(statement, IN_TOTO, (signature,)),
        hint=signer.public_key.hint,
        timestamps=(timestamp(signature),) if timestamp else (),
    )


def simple_payload(digest: str, docker_reference: str, annotations: Mapping[str, str]) -> bytes:
    """What is signed, as it is, for the `.sig` tag. `docker_reference`: host/repository."""
    return encode_payload(Payload(digest, docker_reference, annotations))


def bundle_documents(
    bundle_raw: bytes, predicate_type: str, subject: Descriptor, created: str
) -> tuple[Manifest, list[Blob]]:
    """The referrer that carries a bundle, and its blobs. `created`: RFC 3339."""
    layer = Descriptor(BUNDLE, sha256(bundle_raw), len(bundle_raw))
    annotations = {
        "dev.sigstore.bundle.content": "dsse-envelope",
        "dev.sigstore.bundle.predicateType": predicate_type,
        "org.opencontainers.image.created": created,
    }
    return referrer(BUNDLE, (layer, bundle_raw), subject, annotations)


def referrer(
    artifact_type: str, layer: Blob, subject: Descriptor, annotations: Mapping[str, str]
) -> tuple[Manifest, list[Blob]]:
    """A manifest of one layer that refers to `subject`, and its blobs."""
    config = Descriptor(EMPTY_MEDIA_TYPE, sha256(EMPTY), len(EMPTY))
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": artifact_type,
        "config": config.to_json(),
        "layers": [layer[0].to_json()],
        "subject": Descriptor(subject.media_type, subject.digest, subject.size).to_json(),
        "annotations": dict(annotations),
    }
    return _manifest(document), [(config, EMPTY), layer]


def appended(existing: Manifest | None, layer: Descriptor) -> tuple[Manifest, Blob]:
    """`existing` with one more layer at its end, and its new configuration.

    All else stays as it was written. Of the configuration cosign makes one entry a layer, which
    only repeats the layers; so it is made again from them, whatever it was.
    """
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": MANIFEST}
    if existing:
        document = canonical.decode(existing.raw, "manifest")
    layers = [*canonical.sequence(document, "layers", "manifest"), layer.to_json()]
    raw = json.dumps(
        {
            "architecture": "",
            "created": _NEVER,
            "history": [{"created": _NEVER}] * len(layers),
            "os": "",
            "rootfs": {"type": "layers", "diff_ids": [one["digest"] for one in layers]},
            "config": {},
        },
        separators=(",", ":"),
    ).encode()
    config = Descriptor(IMAGE_CONFIG_TYPE, sha256(raw), len(raw))
    return _manifest({**document, "config": config.to_json(), "layers": layers}), (config, raw)


def _manifest(document: Mapping[str, Any]) -> Manifest:
    raw = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    parsed = parse_manifest(raw)
    assert isinstance(parsed, Manifest)
    return parsed


# writing: stores


def signature_tag(digest: str) -> str:
    return digest.replace(":", "-") + ".sig"


def attestation_tag(digest: str) -> str:
    return digest.replace(":", "-") + ".att"


def put_referrer(store: Store, manifest: Manifest, blobs: Sequence[Blob]) -> None:
    """Store a manifest that refers to another one, with its blobs."""
    copy(_holding(blobs), store, manifest)


def attach_bundle(
    store: Store, subject: Descriptor, bundle_raw: bytes, predicate_type: str, created: str
) -> Manifest:
    """Store a bundle as a referrer; the manifest that carries it."""
    manifest, blobs = bundle_documents(bundle_raw, predicate_type, subject, created)
    put_referrer(store, manifest, blobs)
    return manifest


def attach_signature_tag(store: Store, digest: str, payload: bytes, signature: bytes) -> Manifest:
    """Add a signature over `payload` to the `.sig` tag; the manifest that has it then."""
    marks = {SIGNATURE_MARK: encode_base64(signature)}
    layer = Descriptor(PAYLOAD_TYPE, sha256(payload), len(payload), marks)
    return _append(store, signature_tag(digest), layer, payload)


def attach_attestation_tag(
    store: Store, digest: str, envelope: Envelope, predicate_type: str
) -> Manifest:
    """Add an attestation to the `.att` tag; the manifest that has it then."""
    raw = envelope.encode()
    marks = {SIGNATURE_MARK: "", "predicateType": predicate_type}
    layer = Descriptor(ENVELOPE_TYPE, sha256(raw), len(raw), marks)
    return _append(store, attestation_tag(digest), layer, raw)


def _append(store: Store, tag: str, layer: Descriptor, content: bytes) -> Manifest:
    """Read, add, write; and once more where another writer came in between.

    Registries know no compare-and-swap: who writes in the moment of our own write is not seen.
    """
    for attempt in range(_MERGE_ATTEMPTS + 1):
        before = _tagged(store, tag)
        if before and layer in before.layers:
            return before
        if attempt < _MERGE_ATTEMPTS:
            after, config = appended(before, layer)
            # what is there already need not be looked for
            there = {blob.digest for blob in before.layers} if before else set()
            source = _holding([config, (layer, content)])
            copy(source, store, after, report=Report(blobs=there))
            if _tagged(store, tag) == before:
                store.tag(tag, after.descriptor)
    raise ConflictError(f"others keep overwriting {store.name}:{tag}", hint="try again")


def _tagged(store: Store, tag: str) -> Manifest | None:
    try:
        document = store.manifest(tag)
    except NotFoundError:
        return None
    if not isinstance(document, Manifest):
        raise InputError(
            f"{store.name}:{tag} is an image index, where signatures belong",
            hint=f"move it out of the way: ocimodel rm {store.name}:{tag}",
        )
    return document


def _holding(blobs: Sequence[Blob]) -> MemoryStore:
    store = MemoryStore()
    store.blobs = {what.digest: content for what, content in blobs}
    return store


# reading


def bundle_evidence(origin: str, raw: bytes) -> Evidence:
    """InputError for anything but a bundle around a statement."""
    bundle = parse_bundle(raw)
    return _evidence(
        origin,
        Form.BUNDLE,
        bundle.envelope,
        certificates=bundle.certificates,
        timestamps=bundle.timestamps,
        document=raw,
    )


def envelope_evidence(origin: str, raw: bytes, annotations: Mapping[str, str]) -> Evidence:
    """A layer of the `.att` tag, with its annotations. InputError for anything else."""
    certificates = _certificates(annotations)
    return _evidence(origin, Form.ENVELOPE, parse_envelope(raw), certificates=certificates)


def _evidence(origin: str, form: Form, envelope: Envelope, **more: Any) -> Evidence:
    statement = parse_statement(envelope.payload)
    annotations = statement.subjects[0].annotations
    if any(subject.annotations != annotations for subject in statement.subjects):
        # whose expiry would count?
        raise InputError("statement annotates its subjects differently")
    return Evidence(
        origin=origin,
        form=form,
        subjects=tuple(Subject(subject.digest) for subject in statement.subjects),
        predicate_type=statement.predicate_type,
        message=envelope.message,
        signature=envelope.signatures[0],
        predicate=statement.predicate,
        annotations=annotations,
        expires_at=expiry_of(annotations),
        repository=annotations.get(REPOSITORY, ""),
        tag=annotations.get(TAG, ""),
        **more,
    )


def simple_evidence(origin: str, payload: bytes, annotations: Mapping[str, str]) -> Evidence:
    """A layer of the `.sig` tag, with its annotations. InputError for anything else.

    Of these only what proves itself is taken: the signature and the certificates.
    """
    parsed = parse_payload(payload)
    signature = decode_base64(annotations.get(SIGNATURE_MARK, ""), SIGNATURE_MARK)
    if not signature:
        raise InputError(f"layer has no annotation {SIGNATURE_MARK}")
    return Evidence(
        origin=origin,
        form=Form.SIMPLE,
        subjects=(Subject(parsed.digest),),
        predicate_type=SIGNATURE,
        message=payload,
        signature=signature,
        annotations=parsed.annotations,
        certificates=_certificates(annotations),
        expires_at=expiry_of(parsed.annotations),
        repository=parsed.annotations.get(REPOSITORY, parsed.reference),
        tag=parsed.annotations.get(TAG, ""),
    )


def _certificates(annotations: Mapping[str, str]) -> tuple[bytes, ...]:
    """The signer's and its chain, PEM, as cosign 2 puts them beside a signature."""
    found: list[bytes] = []
    for mark in (CERTIFICATE_MARK, CHAIN_MARK):
        text = annotations.get(mark, "")
        blocks = _PEM.findall(text)
        if _PEM.sub("", text).strip():
            raise InputError(f"{mark} holds something else than PEM certificates")
        found += [decode_base64("".join(block.split()), mark) for block in blocks]
    if len(found) > MAX_CERTIFICATES:
        raise InputError(f"{len(found)} certificates are over the limit of {MAX_CERTIFICATES}")
    return tuple(found)
