"""Making signatures: who signs and how, and what is stored for it.

`open_signing` finds out all that can be wrong before anything is sent; `sign_document` and
`attach_statement` write what is not there yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ocimodel.errors import InputError, NotFoundError, UsageError
from ocimodel.registry.transport import ClientOptions
from ocimodel.signing import cosign
from ocimodel.signing.evidence import EXPIRES, REPOSITORY, SIGNATURE, TAG, Evidence, Form
from ocimodel.signing.gather import gather
from ocimodel.signing.signer import Ask, BundleSigner, Signer, open_signer
from ocimodel.spec.bundle import parse_bundle
from ocimodel.spec.dsse import IN_TOTO, pae
from ocimodel.spec.manifest import Document
from ocimodel.spec.moment import format_time
from ocimodel.spec.reference import Reference, RegistryReference
from ocimodel.store.protocol import Store

MAX_FILE_BYTES = 2 << 20


@dataclass(frozen=True, slots=True)
class Signing:
    """Who signs, and how. `chain`: certificates, DER, of notation. `expires`: from now."""

    signer: Signer
    format: str = "cosign"
    annotations: Mapping[str, str] = field(default_factory=dict)
    chain: Sequence[bytes] = ()
    expires: timedelta | None = None
    timestamp_url: str = ""


def open_signing(
    key: str,
    options: ClientOptions,
    passphrase: Ask,
    *,
    format: str = "cosign",  # noqa: A002
    annotations: Mapping[str, str] = {},
    certificate_chain: Path | None = None,
    expires: timedelta | None = None,
    timestamp_url: str = "",
) -> Signing:
    """Everything that can be wrong with who signs, found out before anything is sent.

    Raises UsageError, NotFoundError and InputError for names, files and passphrases, and what a
    plugin of `ocimodel.signing` raises.
    """
    if ours := {EXPIRES, REPOSITORY, TAG} & annotations.keys():
        raise UsageError(
            f"the annotation {ours.pop()} is set by ocimodel itself", hint="leave it out"
        )
    if format == "notation" and certificate_chain is None:
        raise UsageError(
            "notation signs with certificates", hint="--certificate-chain FILE, PEM, leaf to root"
        )
    chain: Sequence[bytes] = ()
    if certificate_chain:
        from ocimodel.signing.notation import load_chain

        chain = load_chain(read_small(certificate_chain))
    signer = open_signer(key, options.environ, passphrase)
    return Signing(signer, format, annotations, chain, expires, timestamp_url)


def sign_document(
    store: Store, name: Reference, root: Document, how: Signing, options: ClientOptions
) -> tuple[str, ...]:
    """Sign `root`, which `store` has, under `name`; what was written for it: manifests and tags.

    Nothing where this key has signed the same already. Raises InputError for a digest that is no
    sha256, ConflictError where others keep overwriting a tag, and the errors of stores and signers.
    """
    now = datetime.now(UTC)
    annotations = dict(how.annotations)
    if isinstance(name, RegistryReference):
        annotations[REPOSITORY] = name.name
    if name.tag:
        annotations[TAG] = name.tag
    expires_at = now + how.expires if how.expires else None
    if how.format == "notation":
        return _sign_notation(store, root, annotations, how, options, now, expires_at)
    if expires_at:
        annotations[EXPIRES] = format_time(expires_at)
    found = gather(store, root).evidence
    statement = cosign.signature_statement(root.digest, annotations)
    written = attach_statement(store, root, statement, SIGNATURE, how, options, found)
    if isinstance(how.signer, BundleSigner):
        return tuple(written)
    docker_reference = name.name if isinstance(name, RegistryReference) else ""
    payload = cosign.simple_payload(root.digest, docker_reference, annotations)
    if not _is_signed(found, Form.SIMPLE, payload, how):
        signature = how.signer.sign(payload)
        cosign.attach_signature_tag(store, root.digest, payload, signature)
        written.append(f"{store.name}:{cosign.signature_tag(root.digest)}")
    return tuple(written)


def attach_statement(
    store: Store,
    root: Document,
    statement: bytes,
    predicate_type: str,
    how: Signing,
    options: ClientOptions,
    found: Sequence[Evidence],
    compatible: bool = False,
) -> list[str]:
    """A bundle as a referrer; `compatible`: and its envelope under `.att`."""
    message = pae(IN_TOTO, statement)
    missing = [
        form
        for form in (Form.BUNDLE, *([Form.ENVELOPE] if compatible else []))
        if not _is_signed(found, form, message, how)
    ]
    if not missing:
        return []
    bundle = cosign.sign_statement(how.signer, statement, _timestamper(how, options))
    written = []
    if Form.BUNDLE in missing:
        created = format_time(datetime.now(UTC))
        manifest = cosign.attach_bundle(store, root.descriptor, bundle, predicate_type, created)
        written.append(f"{store.name}@{manifest.digest}")
    if Form.ENVELOPE in missing:
        envelope = parse_bundle(bundle).envelope
        cosign.attach_attestation_tag(store, root.digest, envelope, predicate_type)
        written.append(f"{store.name}:{cosign.attestation_tag(root.digest)}")
    return written


def _is_signed(found: Sequence[Evidence], form: str, message: bytes, how: Signing) -> bool:
    """Whether this very key has signed these very bytes, and has a timestamp if one is wanted."""
    if isinstance(how.signer, BundleSigner):
        return False
    key = how.signer.public_key
    return any(
        e.form == form and e.message == message and key.verify(e.signature, message)
        for e in found
        if e.timestamps or form != "bundle" or not how.timestamp_url
    )


def _sign_notation(
    store: Store,
    root: Document,
    annotations: Mapping[str, str],
    how: Signing,
    options: ClientOptions,
    now: datetime,
    expires_at: datetime | None,
) -> tuple[str, ...]:
    from ocimodel.signing import notation
    from ocimodel.signing.keys import PrivateKey
    from ocimodel.signing.timestamps import token_of

    if not isinstance(how.signer, PrivateKey):
        raise UsageError("notation signatures are made with a key file here")
    stamp = _timestamper(how, options)
    envelope = notation.sign_notation(
        how.signer,
        how.chain,
        root.descriptor,
        annotations,
        signing_time=now,
        expires_at=expires_at,
        timestamp=(lambda signature: token_of(stamp(signature))) if stamp else None,
        agent=options.user_agent,
    )
    created = format_time(now)
    manifest, blobs = notation.notation_documents(envelope, how.chain, root.descriptor, created)
    cosign.put_referrer(store, manifest, blobs)
    return (f"{store.name}@{manifest.digest}",)


def _timestamper(how: Signing, options: ClientOptions) -> Callable[[bytes], bytes] | None:
    if not how.timestamp_url:
        return None
    from ocimodel.signing.timestamps import request_timestamp

    return lambda message: request_timestamp(
        how.timestamp_url,
        message,
        timeout_s=options.timeout_s,
        plain_http=options.plain_http,
        environ=options.environ,
        user_agent=options.user_agent,
    )


def signer_name(signer: Signer) -> str:

    if isinstance(signer, BundleSigner):
        return signer.identity
    return f"{signer.public_key.fingerprint} ({signer.public_key.kind})"


def read_small(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {path}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise InputError(f"{path} is over the limit of {MAX_FILE_BYTES} bytes")
    return raw
