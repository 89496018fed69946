"""A model directory signed in place: `model.sig`, as OpenSSF Model Signing writes and reads it.

What is signed are the files that packing takes, so that the signature holds for what is pulled.
Names that packing leaves out are not put into the statement's `ignore_paths`: that would publish
them, and whoever holds the model later could add files of those names, `__pycache__` say.
model_signing then complains about them where they stand, in the author's directory, and about
nothing after a pull.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

from ocimodel.errors import InputError, IntegrityError, NotFoundError, PolicyError, UsageError
from ocimodel.events import HashAdvanced, HashStarted, Observer, ignore
from ocimodel.signing.authority import Authority, RefusedError
from ocimodel.signing.evidence import Evidence, Form
from ocimodel.signing.keys import PrivateKey, PublicKey
from ocimodel.signing.signer import KeySigner
from ocimodel.spec.bundle import MAX_BUNDLE_BYTES, encode_bundle, parse_bundle
from ocimodel.spec.dsse import IN_TOTO, Envelope, pae
from ocimodel.spec.modelsigning import (
    IGNORED,
    PREDICATE_TYPE,
    SIGNATURE_NAME,
    ModelStatement,
    parse_model_statement,
)
from ocimodel.store.files import temporary_beside
from ocimodel.store.hashing import hash_stretches
from ocimodel.store.memo import Memo, identity
from ocimodel.store.tree import Tree, TreeFile, scan
from ocimodel.store.workers import Workers

_HASH_THREADS: Final = 4


@dataclass(frozen=True, slots=True)
class SignedDirectory:
    """`path`: of the signature. `n_files`: signed.

    `left_out`: what stands there and is not signed, since packing leaves it out. `links`: files
    that are links, signed as what they lead to. With either, model_signing refuses the directory
    as it is (of links, unless it is told --allow_symlinks), and takes what is pulled.
    """

    path: Path
    n_files: int
    left_out: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckedDirectory:
    """A directory against its signature, which is `signer`'s; all paths are relative.

    `missing`, `extra`, `changed`: where they differ; `links`: files that are links, where the
    signature knows none. `uncovered`: what the signature ignores, the signature aside; no
    difference, and nobody vouches for it.
    """

    name: str
    signer: str
    n_files: int
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    uncovered: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return not (self.missing or self.extra or self.changed or self.links)


def sign_directory(
    directory: Path,
    signer: KeySigner,
    *,
    name: str = "",
    chain: Sequence[bytes] = (),
    wanted: Callable[[str], bool] = lambda path: True,
    memo: Memo | None = None,
    observer: Observer = ignore,
) -> SignedDirectory:
    """Hash every file and write `directory`/model.sig, in one step: an older one stands until then.

    `name`: of the model, else the directory's. `chain`: certificates, DER, the signer's first; else
    the key signs for itself. `wanted`: as for packing. `memo`: believed where it knows a file.
    Raises UsageError for a key that model_signing does not take, InputError for a directory that
    cannot be packed.
    """
    _check_signer(signer.public_key, chain)
    if not wanted(SIGNATURE_NAME):
        raise InputError(
            f"{SIGNATURE_NAME} would be left out of the artifact",
            hint="check include and exclude in ocimodel.yaml",
        )
    tree = scan(directory, wanted)
    unsigned = ModelStatement("", {})
    files = [f for f in tree.files if not unsigned.ignores(f.path)]
    if not files:
        raise InputError(f"{directory} has no files to sign")
    links = _links(directory, files)
    statement = ModelStatement(
        name or os.fsencode(directory.resolve().name).decode(errors="replace") or "model",
        _digests(files, memo or Memo(None), observer),
        IGNORED,
        bool(links),
    )
    path = directory / SIGNATURE_NAME
    _write(path, _bundle(statement, signer, chain))
    left_out = tuple(p for p in tree.left_out if not statement.ignores(p))
    return SignedDirectory(path, len(files), left_out, links)


def verify_directory(
    directory: Path, authority: Authority, at: datetime, *, observer: Observer = ignore
) -> CheckedDirectory:
    """Every file of `directory` against its model.sig, once `authority` knows who signed that.

    `at`: when certificates must have been valid. Every file counts that stands there, unless the
    signature says to ignore it; modes and empty directories do not. Raises NotFoundError without a
    signature, InputError for one that is malformed and for a directory that no artifact could be,
    PolicyError for a signature by somebody else.
    """
    tree = scan(directory, lambda path: True)
    raw = _signature(tree)
    evidence, statement = read_signature(raw, str(directory / SIGNATURE_NAME))
    try:
        signer = authority.identify(evidence, at)
    except RefusedError as error:
        raise PolicyError(
            f"{evidence.origin}: {error}", hint="verify with the key of whoever signed it"
        ) from error
    files = [f for f in tree.files if not statement.ignores(f.path)]
    ignored = [f.path for f in tree.files if statement.ignores(f.path)]
    found = _digests(files, Memo(None), observer)
    signed = statement.files
    extra = {*(found.keys() - signed.keys())}
    extra |= {path for path in tree.left_out if not statement.ignores(path)}
    ignored += [path for path in tree.left_out if statement.ignores(path)]
    return CheckedDirectory(
        name=statement.name,
        signer=signer,
        n_files=len(signed),
        missing=tuple(sorted(signed.keys() - found.keys())),
        extra=tuple(sorted(extra)),
        changed=tuple(p for p in sorted(signed.keys() & found.keys()) if signed[p] != found[p]),
        links=() if statement.follows_links else _links(directory, files),
        uncovered=tuple(sorted(set(ignored) - {SIGNATURE_NAME})),
    )


def read_signature(raw: bytes, origin: str) -> tuple[Evidence, ModelStatement]:
    """What a model.sig says, and what to check its signature by. Raises InputError.

    The evidence is about no artifact: the digest in it leaves names out, so that it fits several.
    """
    bundle = parse_bundle(raw)
    statement = parse_model_statement(bundle.envelope.payload)
    evidence = Evidence(
        origin=origin,
        form=Form.BUNDLE,
        subjects=(),
        predicate_type=PREDICATE_TYPE,
        message=bundle.envelope.message,
        signature=bundle.envelope.signatures[0],
        certificates=bundle.certificates,
        timestamps=bundle.timestamps,
        document=raw,
    )
    return evidence, statement


def _check_signer(key: PublicKey, chain: Sequence[bytes]) -> None:
    if not key.kind.startswith("ECDSA "):
        raise UsageError(
            f"model_signing takes no {key.kind} keys", hint="sign with P-256, P-384 or P-521"
        )
    if not chain:
        return
    from cryptography import x509

    from ocimodel.signing.x509 import UNREADABLE

    try:
        certificate = x509.load_der_x509_certificate(chain[0])
        certified = PublicKey.of(certificate.public_key(), "the certificate").spki
    except UNREADABLE as error:
        raise UsageError(f"the first certificate cannot be read: {error}") from error
    if certified != key.spki:
        raise UsageError(
            "the first certificate is not the signer's",
            hint="give the certificate of the signing key first, then its issuers",
        )


def _bundle(statement: ModelStatement, signer: KeySigner, chain: Sequence[bytes]) -> bytes:
    payload = statement.encode()
    # model_signing wants the digest of the curve's size; in a KMS the key has that one anyhow
    sign = signer.sign_sized if isinstance(signer, PrivateKey) else signer.sign
    envelope = Envelope(payload, IN_TOTO, (sign(pae(IN_TOTO, payload)),))
    # not the hint that cosign writes: model_signing refuses any other than this
    hint = hashlib.sha256(signer.public_key.pem).hexdigest()
    raw = encode_bundle(envelope, hint=hint, certificates=chain)
    if len(raw) > MAX_BUNDLE_BYTES:
        raise InputError(
            f"the signature of {len(statement.files)} files would have {len(raw)} bytes, over the "
            f"limit of {MAX_BUNDLE_BYTES}",
            hint="pack many small files into one",
        )
    return raw


def _signature(tree: Tree) -> bytes:
    for file in tree.files:
        if file.path == SIGNATURE_NAME:
            with file.real.open("rb") as opened:
                return opened.read(MAX_BUNDLE_BYTES + 1)
    raise NotFoundError(
        f"{tree.root} has no {SIGNATURE_NAME}", hint="ocimodel sign --format oms signs a directory"
    )


def _write(path: Path, raw: bytes) -> None:
    temporary = temporary_beside(path)
    try:
        with temporary.open("xb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _links(directory: Path, files: Sequence[TreeFile]) -> tuple[str, ...]:
    """Files that are links, or lie behind one."""
    root = directory.resolve()
    return tuple(f.path for f in files if f.real.resolve() != root / f.path)


def _digests(files: Sequence[TreeFile], memo: Memo, observer: Observer) -> dict[str, str]:
    observer(HashStarted(sum(f.size for f in files)))
    found: dict[str, str] = {}

    def one(file: TreeFile) -> None:
        found[file.path] = _digest(file, memo, observer)

    # the biggest first, or its thread would still be at it when the others are done
    by_size = sorted(files, key=lambda f: -f.size)
    n_threads = min(_HASH_THREADS, os.cpu_count() or 1)
    Workers((partial(one, f) for f in by_size), n_threads).run()
    memo.save()
    return found


def _digest(file: TreeFile, memo: Memo, observer: Observer) -> str:
    """sha256:hex of a file that holds still. InputError for any other."""
    try:
        with file.real.open("rb", buffering=0) as opened:
            fd = opened.fileno()
            before = os.fstat(fd)
            if known := memo.recall(before):
                observer(HashAdvanced(file.size))
                return known
            whole = (0, before.st_size)
            digests = hash_stretches(fd, [whole], (), lambda n: observer(HashAdvanced(n)))
            if identity(os.fstat(fd)) != identity(before):
                raise IntegrityError("the file changed while it was read")
    except OSError as error:
        raise InputError(f"cannot read {file.real}: {error.strerror}") from error
    except IntegrityError as error:
        raise InputError(
            f"{file.path}: {error}", hint="wait for its writer to finish, then try again"
        ) from error
    digest = f"sha256:{digests[whole].hex()}"
    memo.note(before, digest)
    return digest
