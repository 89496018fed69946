"""Who can sign: a key file, a KMS, an identity; ours and anybody's, by entry point.

A plugin is a module or an object with the two functions of `Plugin`, under the entry-point group
`ocimodel.signing`; its entry point's name is the scheme of the names that it opens, as in
`awskms://…`. A name without a scheme is a file. Installing one never widens trust: what counts is
what the policy names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Protocol, cast, runtime_checkable

from ocimodel.errors import UsageError

if TYPE_CHECKING:
    from ocimodel.signing.keys import PublicKey

GROUP: Final = "ocimodel.signing"
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]{1,30}):")
# asked for a passphrase: what for, and the answer
Ask = Callable[[str], bytes]


def no_passphrase(what: str) -> bytes:
    """For whoever has nobody to ask."""
    raise UsageError(f"{what} needs a passphrase", hint="set COSIGN_PASSWORD; it may be empty")


@runtime_checkable
class KeySigner(Protocol):
    """Holds one key, or knows who does."""

    @property
    def public_key(self) -> PublicKey: ...

    def sign(self, message: bytes) -> bytes:
        """A signature over `message`: DER for ECDSA, PKCS #1 v1.5 for RSA, raw for Ed25519."""
        ...


@runtime_checkable
class BundleSigner(Protocol):
    """Signs with a key that lives only once, and has to show a certificate and a log for it."""

    @property
    def identity(self) -> str:
        """Who that is, for people."""
        ...

    def bundle(self, statement: bytes) -> bytes:
        """A whole Sigstore bundle over an in-toto statement."""
        ...


Signer = KeySigner | BundleSigner


class Plugin(Protocol):
    """What opens the names of one scheme."""

    def open_signer(self, name: str, environ: Mapping[str, str], ask: Ask, /) -> Signer:
        """`name`: with its scheme. `ask`: for a passphrase, where the environment has none."""
        ...

    def open_public_key(self, name: str, /) -> PublicKey:
        """The public half of what `name` names."""
        ...


def open_signer(name: str, environ: Mapping[str, str], ask: Ask) -> Signer:
    """Whoever `name` names. UsageError for a scheme that nothing here knows."""
    return _plugin(name).open_signer(name, environ, ask)


def open_public_key(name: str) -> PublicKey:
    """The key that `name` names: a PEM file, or what a plugin makes of it."""
    return _plugin(name).open_public_key(name)


def _plugin(name: str) -> Plugin:
    found = _SCHEME.match(name)
    scheme = found[1] if found else "file"
    if scheme in ("file", "env"):
        # the usual case need not look through all that is installed
        from ocimodel.signing import keyfile

        return cast(Plugin, keyfile)
    from importlib.metadata import entry_points

    entries = list(entry_points(group=GROUP, name=scheme))
    if not entries:
        raise UsageError(
            f"nothing installed here opens keys like {name}",
            hint="a key file, or a scheme of an installed plugin; KMS: pip install ocimodel[kms]",
        )
    return cast(Plugin, entries[0].load())
