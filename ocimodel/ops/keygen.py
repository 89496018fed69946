"""keygen: a key pair in two files, as cosign has them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class KeygenResult:
    """`fingerprint`: sha256 of the public key, as verification names it."""

    private: Path
    public: Path
    fingerprint: str


def keygen(prefix: Path | str = "ocimodel", *, passphrase: bytes = b"") -> KeygenResult:
    """Write PREFIX.key, encrypted with `passphrase` and only for its owner, and PREFIX.pub.

    ECDSA P-256, the one kind of key that every tool takes. ConflictError where one of the files is
    there already.
    """
    from ocimodel.signing.keyfile import write_key_pair
    from ocimodel.signing.signer import open_public_key

    private, public = write_key_pair(Path(prefix), passphrase)
    return KeygenResult(private, public, open_public_key(str(public)).fingerprint)
