"""sign and attest: statements about an artifact, signed and stored beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from ocimodel.errors import InputError, NotFoundError, UsageError
from ocimodel.events import Observer, ignore
from ocimodel.ops.access import client_options, find, open_store, parse_full, parse_local
from ocimodel.registry.transport import ClientOptions
from ocimodel.spec import canonical
from ocimodel.spec.manifest import Document
from ocimodel.spec.reference import Reference, RegistryReference
from ocimodel.store.protocol import Store

if TYPE_CHECKING:
    from ocimodel.signing.evidence import Evidence
    from ocimodel.signing.signer import Signer

FORMATS = ("cosign", "notation", "oms")
MAX_PREDICATE_BYTES = 2 << 20
# asked for the passphrase of what is named
Ask = Callable[[str], bytes]


def no_passphrase(what: str) -> bytes:
    """For whoever has nobody to ask."""
    raise UsageError(f"{what} needs a passphrase", hint="set COSIGN_PASSWORD; it may be empty")


@dataclass(frozen=True, slots=True)
class SignResult:
    """`signer`: key or identity. `written`: manifests and tags; empty: it was signed so already.

    For a directory `pinned` and `digest` are empty, and `written` is the file. `left_out`: paths in
    it that are not signed, since packing leaves them out; `links`: signed as what they lead to.
    """

    reference: str
    pinned: str
    digest: str
    format: str
    signer: str
    written: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AttestResult:
    """`written`: manifests and tags; empty: it was attested so already."""

    reference: str
    pinned: str
    digest: str
    predicate_type: str
    signer: str
    written: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Signing:
    """Who signs, and how. `chain`: certificates, DER, of notation. `expires`: from now."""

    signer: Signer
    format: str = "cosign"
    annotations: Mapping[str, str] = field(default_factory=dict)
    chain: Sequence[bytes] = ()
    expires: timedelta | None = None
    timestamp_url: str = ""


def sign(
    reference: str | Path,
    *,
    key: str,
    format: str = "cosign",  # noqa: A002
    annotations: Mapping[str, str] = {},
    certificate_chain: Path | None = None,
    expires: timedelta | None = None,
    timestamp_url: str = "",
    passphrase: Ask = no_passphrase,
    client: ClientOptions | None = None,
    observer: Observer = ignore,
) -> SignResult:
    """Sign an artifact, by its digest; what others have signed stays.

    `key`: a private key file, `env://VARIABLE`, a KMS name, or `keyless:`. `format`: "cosign" (a
    bundle as a referrer and, with a key, the `.sig` tag too), "notation" (needs the
    `certificate_chain` of the key, PEM), or "oms", for which `reference` is a model directory that
    gets a `model.sig`. `expires`: after that long the signature does not count any more here and in
    notation. `timestamp_url`: an RFC 3161 authority. To sign the same again changes nothing.
    Raises the tree of ocimodel.errors.
    """
    options = client_options(client)
    if format not in FORMATS:
        raise UsageError(f"{format!r} is no format", hint=f"one of: {', '.join(FORMATS)}")
    directory = reference if isinstance(reference, Path) else parse_local(reference)
    if (directory is not None) != (format == "oms"):
        raise UsageError(
            f"{reference} is a {'directory' if directory else 'reference'}, "
            f"which is not what the format {format} signs",
            hint="oms signs a model directory before it is packed, the others what was pushed",
        )
    _load_ahead(str(reference))
    how = open_signing(
        key,
        options,
        passphrase,
        format=format,
        annotations=annotations,
        certificate_chain=certificate_chain,
        expires=expires,
        timestamp_url=timestamp_url,
    )
    if directory is not None:
        return _sign_directory(directory, how, options)
    name = parse_full(str(reference))
    store = _open(name, options, observer)
    root = find(store, name)
    written = sign_document(store, name, root, how, options)
    return SignResult(
        reference=str(name),
        pinned=str(name.at(root.digest)),
        digest=root.digest,
        format=format,
        signer=_signer_name(how.signer),
        written=written,
    )


def attest(
    reference: str,
    *,
    predicate_type: str,
    predicate: Path | Mapping[str, Any],
    key: str,
    compatible: bool = False,
    timestamp_url: str = "",
    passphrase: Ask = no_passphrase,
    client: ClientOptions | None = None,
    observer: Observer = ignore,
) -> AttestResult:
    """Attach a signed in-toto statement: `predicate`, of `predicate_type`, about an artifact.

    `predicate_type`: an URI, or one of cosign's short names. `compatible`: write cosign 2's `.att`
    tag as well. To attest the same again changes nothing. Raises the tree of ocimodel.errors.
    """
    from ocimodel.signing import cosign
    from ocimodel.signing.gather import gather
    from ocimodel.spec import policy

    options = client_options(client)
    content = predicate if isinstance(predicate, Mapping) else _read_predicate(predicate)
    kind = policy.predicate_type(predicate_type)
    _load_ahead(reference)
    how = open_signing(key, options, passphrase, timestamp_url=timestamp_url)
    name = parse_full(reference)
    store = _open(name, options, observer)
    root = find(store, name)
    statement = cosign.attestation_statement(root.digest, kind, content)
    found = gather(store, root).evidence
    written = _attach_statement(
        store, root, statement, kind, how, options, found, compatible=compatible
    )
    return AttestResult(
        reference=str(name),
        pinned=str(name.at(root.digest)),
        digest=root.digest,
        predicate_type=kind,
        signer=_signer_name(how.signer),
        written=tuple(written),
    )


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
    """Everything that can be wrong with who signs, found out before anything is sent."""
    from ocimodel.signing.evidence import EXPIRES, REPOSITORY, TAG
    from ocimodel.signing.signer import open_signer

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

        chain = load_chain(_read(certificate_chain))
    signer = open_signer(key, options.environ, passphrase)
    return Signing(signer, format, annotations, chain, expires, timestamp_url)


def sign_document(
    store: Store, name: Reference, root: Document, how: Signing, options: ClientOptions
) -> tuple[str, ...]:
    """Sign `root`, which `store` has, under `name`; what was written for it."""
    from ocimodel.signing import cosign
    from ocimodel.signing.evidence import EXPIRES, REPOSITORY, SIGNATURE, TAG, Form
    from ocimodel.signing.gather import gather
    from ocimodel.signing.signer import BundleSigner

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
        annotations[EXPIRES] = f"{expires_at:%Y-%m-%dT%H:%M:%SZ}"
    found = gather(store, root).evidence
    statement = cosign.signature_statement(root.digest, annotations)
    written = _attach_statement(store, root, statement, SIGNATURE, how, options, found)
    if isinstance(how.signer, BundleSigner):
        return tuple(written)
    docker_reference = name.name if isinstance(name, RegistryReference) else ""
    payload = cosign.simple_payload(root.digest, docker_reference, annotations)
    if not _is_signed(found, Form.SIMPLE, payload, how):
        signature = how.signer.sign(payload)
        cosign.attach_signature_tag(store, root.digest, payload, signature)
        written.append(f"{store.name}:{cosign.signature_tag(root.digest)}")
    return tuple(written)


def _attach_statement(
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
    from ocimodel.signing import cosign
    from ocimodel.signing.evidence import Form
    from ocimodel.spec.bundle import parse_bundle
    from ocimodel.spec.dsse import IN_TOTO, pae

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
        created = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        manifest = cosign.attach_bundle(store, root.descriptor, bundle, predicate_type, created)
        written.append(f"{store.name}@{manifest.digest}")
    if Form.ENVELOPE in missing:
        envelope = parse_bundle(bundle).envelope
        cosign.attach_attestation_tag(store, root.digest, envelope, predicate_type)
        written.append(f"{store.name}:{cosign.attestation_tag(root.digest)}")
    return written


def _is_signed(found: Sequence[Evidence], form: str, message: bytes, how: Signing) -> bool:
    """Whether this very key has signed these very bytes, and has a timestamp if one is wanted."""
    from ocimodel.signing.signer import BundleSigner

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
    from ocimodel.signing.cosign import put_referrer
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
    created = f"{now:%Y-%m-%dT%H:%M:%SZ}"
    manifest, blobs = notation.notation_documents(envelope, how.chain, root.descriptor, created)
    put_referrer(store, manifest, blobs)
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


def _sign_directory(directory: Path, how: Signing, options: ClientOptions) -> SignResult:
    from ocimodel.ops.access import open_memo
    from ocimodel.ops.packing import load_modelfile, wanted_by
    from ocimodel.signing.oms import sign_directory
    from ocimodel.signing.signer import BundleSigner

    if isinstance(how.signer, BundleSigner):
        raise UsageError("model.sig is made with a key here", hint="model_signing sign sigstore")
    if how.annotations or how.expires or how.timestamp_url:
        raise UsageError("a model.sig has no annotations, expiry or timestamps")
    modelfile = load_modelfile(directory)
    done = sign_directory(
        directory,
        how.signer,
        name=modelfile.name,
        chain=how.chain,
        wanted=wanted_by(modelfile),
        memo=open_memo(options),
    )
    return SignResult(
        reference=str(directory),
        pinned="",
        digest="",
        format="oms",
        signer=_signer_name(how.signer),
        written=(str(done.path),),
        left_out=done.left_out,
        links=done.links,
    )


def _signer_name(signer: Signer) -> str:
    from ocimodel.signing.signer import BundleSigner

    if isinstance(signer, BundleSigner):
        return signer.identity
    return f"{signer.public_key.fingerprint} ({signer.public_key.kind})"


def _load_ahead(reference: str) -> None:
    """What writes to a registry takes a tenth of a second to load, and the key's derivation two.

    The latter lets go of the interpreter.
    """
    if not reference.startswith("oci:"):
        Thread(target=import_module, args=("ocimodel.registry.control",), daemon=True).start()


def _open(name: Reference, options: ClientOptions, observer: Observer) -> Store:
    # a layout that is not there is a mistake, nothing to make
    writable = isinstance(name, RegistryReference)
    return open_store(name, options, writable=writable, observer=observer)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_PREDICATE_BYTES + 1)
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {path}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if len(raw) > MAX_PREDICATE_BYTES:
        raise InputError(f"{path} is over the limit of {MAX_PREDICATE_BYTES} bytes")
    return raw


def _read_predicate(path: Path) -> Mapping[str, Any]:
    try:
        return canonical.decode(_read(path), str(path))
    except InputError as error:
        raise InputError(str(error), hint="a predicate is one JSON object") from error
