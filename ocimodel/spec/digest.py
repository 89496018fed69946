"""Content digests, `algorithm:hex`. Source: OCI image-spec v1.1, descriptor.md#digests."""

from __future__ import annotations

import hashlib
import re
from typing import Protocol

from ocimodel.errors import InputError

_PATTERN = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


class Hash(Protocol):
    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


def parse_digest(text: str) -> str:
    """`text` itself when it is a sha256 or sha512 digest in lower case; else InputError."""
    if not _PATTERN.fullmatch(text):
        raise InputError(
            f"{text[:100]!r} is no digest",
            hint="a digest looks like sha256: and 64 lower-case hex digits",
        )
    return text


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def hasher_for(digest: str) -> Hash:
    """A fresh hash of the algorithm that `digest` names."""
    return hashlib.new(digest.partition(":")[0])


def finish(hasher: Hash, like: str) -> str:
    """The digest of what `hasher` has seen, written with the algorithm of `like`."""
    return f"{like.partition(':')[0]}:{hasher.hexdigest()}"


def short(digest: str) -> str:
    """The first twelve hex digits, for people."""
    return digest.partition(":")[2][:12]
