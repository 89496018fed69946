"""What speaks for an artifact: signatures and attestations, parsed, and nothing of them believed.

Only what lies under the signature is in an `Evidence`'s claims. Annotations of the manifest that
carried it, a key hint, a thumbprint: anybody could have written those, and they are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from ocimodel.errors import InputError
from ocimodel.spec.moment import parse_time

# what cosign writes into a bundle that only says: this digest is signed
SIGNATURE: Final = "https://sigstore.dev/cosign/sign/v1"

# signed annotations of ours: what was signed under which name, and until when it counts
REPOSITORY: Final = "dev.ocimodel.repository"
TAG: Final = "dev.ocimodel.tag"
EXPIRES: Final = "dev.ocimodel.expires"


class Form(StrEnum):
    """How it is written down."""

    BUNDLE = "bundle"  # a Sigstore bundle, in a referrer
    SIMPLE = "simplesigning"  # a layer under cosign's .sig tag
    ENVELOPE = "dsse"  # a layer under cosign's .att tag
    NOTATION = "notation"  # a JWS envelope, in a referrer


@dataclass(frozen=True, slots=True)
class Subject:
    """What a signature is about. `media_type`, `size`: empty and -1 where the form states none."""

    digest: str
    media_type: str = ""
    size: int = -1


@dataclass(frozen=True, slots=True)
class Evidence:
    """One signature or attestation.

    `origin`: where it was found, for people. `predicate_type`: SIGNATURE, or what is attested.
    `annotations`: under the signature. `message`: the bytes that were signed. `algorithm`: a JWS
    name such as ES256, or empty where the key alone decides. `certificates`: DER, the signer's
    first, as the signer sent them. `timestamps`: RFC 3161 responses or tokens, DER, over
    `signature`. `signed_at`: claimed by the signer. `repository`, `tag`: the name under which it
    was signed. `document`: the whole bundle, for who must see it all.
    """

    origin: str
    form: Form
    subjects: tuple[Subject, ...]
    predicate_type: str
    message: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    algorithm: str = ""
    predicate: Mapping[str, Any] = field(default_factory=dict, repr=False)
    annotations: Mapping[str, str] = field(default_factory=dict)
    certificates: tuple[bytes, ...] = field(default=(), repr=False)
    timestamps: tuple[bytes, ...] = field(default=(), repr=False)
    signed_at: datetime | None = None
    expires_at: datetime | None = None
    repository: str = ""
    tag: str = ""
    document: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Something that calls itself evidence and is not. `reason`: why, in one line."""

    origin: str
    reason: str


@dataclass(frozen=True, slots=True)
class Gathered:
    """All that a store has to say about one digest."""

    evidence: tuple[Evidence, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()


def expiry_of(annotations: Mapping[str, str]) -> datetime | None:
    """Until when what carries these counts. InputError for a time that must not pass for none."""
    text = annotations.get(EXPIRES)
    if text is None:
        return None
    if text.endswith("Z"):
        with suppress(InputError):
            return parse_time(text, EXPIRES)
    raise InputError(f"{EXPIRES} is {text[:40]!r}, not a time like 2027-01-31T00:00:00Z")
