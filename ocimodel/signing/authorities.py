"""A policy's keyring, opened: from names of keys, certificates and identities to authorities.

Paths are relative to the policy's file. What is not needed is not imported: a policy of keys alone
loads neither X.509 nor sigstore.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from ocimodel.errors import InputError
from ocimodel.signing.authority import RefusedError
from ocimodel.signing.evidence import Evidence
from ocimodel.signing.keys import PublicKey, parse_public_key
from ocimodel.signing.signer import open_public_key
from ocimodel.signing.trust import Key, Stamped
from ocimodel.spec import canonical
from ocimodel.spec.digest import sha256, short
from ocimodel.spec.policy import (
    ANY,
    Expect,
    KeyEntry,
    Policy,
    Requirement,
    Scope,
    Verdict,
    predicate_type,
)

MAX_FILE_BYTES: Final = 1 << 20
_URI: Final = re.compile(r"(?!file:)[a-z][a-z0-9+.-]{1,30}:")
_PEM: Final = "-----BEGIN "


@dataclass(frozen=True, slots=True)
class KeyAuthority:
    """An Authority: whoever holds one key. What certificates say of it does not matter here."""

    public_key: PublicKey

    def identify(self, evidence: Evidence, at: datetime) -> str:
        """`at` does not count: a bare key has no dates of its own."""
        key = self.public_key
        if not key.verify(evidence.signature, evidence.message, evidence.algorithm):
            raise RefusedError("not signed by this key")
        return f"key sha256:{short(key.fingerprint)}… ({key.kind})"


def open_keyring(policy: Policy, base: Path) -> Mapping[str, Key]:
    """All keys of the policy. `base`: the folder that its paths start from.

    Raises InputError for what cannot be read or understood, UsageError for a missing extra.
    """
    return {name: _open(name, entry, base) for name, entry in policy.keyring.items()}


def stamper(policy: Policy, base: Path) -> Stamped:
    """When a signature was there already, by the timestamp authorities that the policy names.

    Raises InputError like `open_keyring`.
    """
    anchors = [
        der
        for index, text in enumerate(policy.timestamp_authorities)
        for der in _certificates(text, base, f"timestampAuthorities[{index}]")
    ]

    def stamped(evidence: Evidence) -> datetime | None:
        if not anchors or not evidence.timestamps:
            return None
        from ocimodel.signing.timestamps import trusted_time

        return trusted_time(evidence.timestamps, evidence.signature, anchors)

    return stamped


def policy_of_key(
    name: str, public_key: PublicKey, types: Sequence[str], annotations: Mapping[str, str]
) -> tuple[Policy, Mapping[str, Key]]:
    """What one key alone stands for: a signature, with `annotations`, and attestations of `types`.

    `name`: of the key, in what is found. Raises InputError for a type that is none.
    """
    by = (name,)
    attested = (Requirement(by, predicate=predicate_type(text)) for text in types)
    scope = Scope(
        (ANY,),
        Verdict.REQUIRE,
        (Requirement(by), *attested),
        expect=Expect(annotations=annotations),
    )
    policy = Policy(keyring={name: KeyEntry(key=name)}, scopes=(scope,))
    return policy, {name: Key(KeyAuthority(public_key), public_key.fingerprint)}


def _open(name: str, entry: KeyEntry, base: Path) -> Key:
    what = f"keyring.{name}"
    dates = (entry.not_before, entry.not_after, entry.revoked)
    if entry.key:
        public_key = _public_key(entry.key, base, what)
        return Key(KeyAuthority(public_key), public_key.fingerprint, *dates)
    if entry.certificates:
        from ocimodel.signing.x509 import CertificateAuthority

        anchors = _certificates(entry.certificates, base, what)
        known = sorted(map(sha256, anchors)), sorted(entry.identities)
        try:
            authority = CertificateAuthority(anchors, entry.identities)
        except InputError as error:
            raise InputError(f"{what}: {error}", hint=error.hint) from error
        return Key(authority, _fingerprint("certificates", *known), *dates)
    if entry.keyless:
        from ocimodel.signing.keyless import KeylessAuthority

        found = entry.keyless
        root = base / found.trusted_root if found.trusted_root else None
        identified = KeylessAuthority(found.identity, found.issuer, root)
        return Key(identified, _fingerprint("keyless", found.identity, found.issuer), *dates)
    raise InputError(f"{what} names nobody")


def _fingerprint(*identity: object) -> str:
    return sha256(canonical.encode(identity))


def _public_key(text: str, base: Path, what: str) -> PublicKey:
    if _PEM not in text and _URI.match(text):
        return open_public_key(text)
    return parse_public_key(*_content(text, base, what))


def _certificates(text: str, base: Path, what: str) -> list[bytes]:
    from ocimodel.signing.x509 import parse_certificates

    return parse_certificates(*_content(text, base, what))


def _content(text: str, base: Path, what: str) -> tuple[bytes, str]:
    """The PEM text itself or the file that is meant, and how to call it in errors."""
    if _PEM in text:
        return text.encode(), what
    path = base / text.removeprefix("file:")
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{what}: cannot read {path}: {reason}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise InputError(f"{what}: {path} is over the limit of {MAX_FILE_BYTES} bytes")
    return raw, f"{what}: {path}"
