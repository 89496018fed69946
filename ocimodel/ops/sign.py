"""sign and attest: statements about an artifact, signed and stored beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

from ocimodel.errors import InputError, UsageError
from ocimodel.events import Observer, ignore
from ocimodel.ops.access import client_options, find, open_store, parse_full, parse_local
from ocimodel.ops.signatures import (
    Signing,
    attach_statement,
    open_signing,
    read_small,
    sign_document,
    signer_name,
)
from ocimodel.registry.transport import ClientOptions
from ocimodel.signing import cosign
from ocimodel.signing.gather import gather
from ocimodel.signing.signer import Ask, BundleSigner, no_passphrase
from ocimodel.spec import canonical
from ocimodel.spec.policy import predicate_type as full_type
from ocimodel.spec.reference import Reference, RegistryReference
from ocimodel.store.protocol import Store

FORMATS = ("cosign", "notation", "oms")


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
    notation. `timestamp_url`: an RFC 3161 authority. To sign the same again with a key, in cosign's
    forms and without `expires`, changes nothing. Raises the tree of ocimodel.errors.
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
    if directory is None:
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
        signer=signer_name(how.signer),
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
    tag as well. To attest the same again with a key changes nothing. Raises the tree of
    ocimodel.errors.
    """
    options = client_options(client)
    content = predicate if isinstance(predicate, Mapping) else _read_predicate(predicate)
    kind = full_type(predicate_type)
    _load_ahead(reference)
    how = open_signing(key, options, passphrase, timestamp_url=timestamp_url)
    name = parse_full(reference)
    store = _open(name, options, observer)
    root = find(store, name)
    statement = cosign.attestation_statement(root.digest, kind, content)
    found = gather(store, root).evidence
    written = attach_statement(
        store, root, statement, kind, how, options, found, compatible=compatible
    )
    return AttestResult(
        reference=str(name),
        pinned=str(name.at(root.digest)),
        digest=root.digest,
        predicate_type=kind,
        signer=signer_name(how.signer),
        written=tuple(written),
    )


def _sign_directory(directory: Path, how: Signing, options: ClientOptions) -> SignResult:
    from ocimodel.ops.access import open_memo
    from ocimodel.ops.packing import load_modelfile, wanted_by
    from ocimodel.signing.oms import sign_directory

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
        signer=signer_name(how.signer),
        written=(str(done.path),),
        left_out=done.left_out,
        links=done.links,
    )


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


def _read_predicate(path: Path) -> Mapping[str, Any]:
    try:
        return canonical.decode(read_small(path), str(path))
    except InputError as error:
        raise InputError(str(error), hint="a predicate is one JSON object") from error
