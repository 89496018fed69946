"""Keys that never leave a KMS or a token, through securesystemslib; extra `kms`.

    awskms:KEY                  an id, an ARN or alias/NAME
    gcpkms:projects/…/cryptoKeyVersions/N
    azurekms://VAULT.vault.azure.net/keys/KEY
    hv:KEY                      HashiCorp Vault's transit engine, Ed25519
    hsm:[ID][?label=TOKEN]      PKCS #11, by the library that PYKCS11LIB names

`//` may follow the scheme. Each backend needs its own client library as well, and takes addresses
and credentials from the process's environment as that one's documentation says.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any, Final, cast
from urllib.parse import parse_qsl, urlsplit

from cryptography.hazmat.primitives.asymmetric import ed25519

from ocimodel.errors import (
    AuthenticationError,
    InputError,
    IntegrityError,
    NotFoundError,
    OcimodelError,
    RegistryError,
    UsageError,
)
from ocimodel.signing.keys import PublicKey, parse_public_key
from ocimodel.signing.signer import Ask, KeySigner

# the library's own name for a key, and its public half
Found = tuple[str, Any]
Pin = Callable[[str], str]

PIN: Final = "COSIGN_PKCS11_PIN"
# scheme of the name → extra of securesystemslib
_EXTRAS: Final = {"hv": "vault"}
# what cosign verifies; for RSA the libraries would choose PSS
_RSA_SCHEME: Final = "rsa-pkcs1v15-sha256"
_SCHEMES: Final = (
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ed25519",
    _RSA_SCHEME,
)
# Five clients, five families of exceptions, none of which can be imported here: by their names.
_MEANINGS: Final = (
    (
        re.compile("Credential|Auth|Expired|Forbidden|Denied|Pin|UnrecognizedClient"),
        AuthenticationError,
    ),
    (re.compile("NotFound|NoSuch|InvalidPath"), NotFoundError),
    (re.compile("Unsupported"), InputError),
    # the library itself refuses a name or a setting with a bare ValueError
    (re.compile("^ValueError|Region|Validation"), UsageError),
)


class KmsSigner:
    """A KeySigner that asks somebody else to sign."""

    def __init__(self, name: str, signer: Any, public_key: PublicKey) -> None:
        self._name = name
        self._signer = signer
        self._public_key = public_key

    @property
    def public_key(self) -> PublicKey:
        return self._public_key

    def sign(self, message: bytes) -> bytes:
        """One request. Raises what the module's errors say, and IntegrityError for a signature
        that this very key does not verify: a key that was rotated, another padding.
        """
        with _errors(self._name):
            signature = bytes.fromhex(self._signer.sign(message).signature)
        if not self._public_key.verify(signature, message):
            raise IntegrityError(f"{self._name} made a signature that its own key does not verify")
        return signature


def open_signer(name: str, environ: Mapping[str, str], ask: Ask) -> KeySigner:
    """The key's public half is fetched now, a signature only when it is wanted.

    `ask`: for the PIN of a token, where COSIGN_PKCS11_PIN is not set. Raises UsageError (no client
    library; a name or a setting that it refuses), AuthenticationError, NotFoundError, InputError (a
    kind of key that cosign could not verify), and RegistryError for all other trouble with a KMS:
    it is a service over the network, worth another try.
    """

    @cache
    def pin(_secret: str) -> str:
        given = environ.get(PIN)
        return ask(name).decode() if given is None else given

    uri, key = _fetch(name, pin)
    with _errors(name):
        signer = _library().Signer.from_priv_key_uri(uri, key, pin)
    return KmsSigner(name, signer, _public_key(key, name))


def open_public_key(name: str) -> PublicKey:
    """The public half of a key. Raises as `open_signer`; asks for no PIN."""
    return _public_key(_fetch(name, None)[1], name)


def _fetch(name: str, pin: Pin | None) -> Found:
    """The key as the library knows it, set to the scheme that we sign with."""
    scheme, _, rest = name.partition(":")
    with _errors(name):
        uri, key = _import(scheme, rest.lstrip("/"), pin)
        if scheme == "awskms" and key.keytype == "rsa":
            # a key of AWS does either padding
            key.scheme = _RSA_SCHEME
    if key.scheme not in _SCHEMES:
        raise InputError(
            f"{name} signs with {key.scheme}, which cosign does not verify",
            hint="ECDSA P-256 is what every tool takes",
        )
    return uri, key


def _import(scheme: str, rest: str, pin: Pin | None) -> Found:
    library = _library()
    if scheme == "awskms":
        return cast(Found, library.AWSSigner.import_(rest))
    if scheme == "gcpkms":
        return cast(Found, library.GCPSigner.import_(rest))
    if scheme == "hsm":
        parts = urlsplit(rest)
        label = dict(parse_qsl(parts.query)).get("label")
        number = int(parts.path) if parts.path else None
        return cast(Found, library.HSMSigner.import_(number, label, pin))
    if scheme == "hv":
        key, _, version = rest.partition("/")
        return _newest(version, library.VaultSigner.import_(key))
    host, *path = rest.split("/")
    vault, _, domain = host.partition(".")
    key, version, *more = [*(path[1:] if path[:1] == ["keys"] else path), "", ""]
    if domain != "vault.azure.net" or any(more) or not key:
        raise UsageError("no key of Azure", hint="azurekms://VAULT.vault.azure.net/keys/KEY")
    return _newest(version, library.AzureSigner.import_(vault, key))


def _newest(version: str, found: Found) -> Found:
    """What the library found, which is always the newest; UsageError if that was not meant."""
    if version and found[0].rpartition("/")[2] != version:
        raise UsageError(f"version {version} is not the newest one, which alone signs: {found[0]}")
    return found


def _library() -> Any:
    """securesystemslib's signers; UsageError where that is not installed."""
    # without a handler, what it logs about errors that we report would be printed
    logging.getLogger("securesystemslib").addHandler(logging.NullHandler())
    try:
        return import_module("securesystemslib.signer")
    except ImportError as error:
        raise UsageError(
            "keys in a KMS need securesystemslib", hint="pip install 'ocimodel[kms]'"
        ) from error


def _public_key(key: Any, name: str) -> PublicKey:
    value = key.keyval["public"]
    if key.keytype == "ed25519":
        return PublicKey.of(ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(value)), name)
    return parse_public_key(value.encode(), name)


@contextmanager
def _errors(name: str) -> Iterator[None]:
    """The library's errors as ours. It lets through whatever its clients raise, so all are met."""
    try:
        yield
    except OcimodelError:
        raise
    except Exception as error:
        raise _declared(error, name) from error


def _declared(error: Exception, name: str) -> OcimodelError:
    kind = type(error).__name__
    if kind == "UnsupportedLibraryError":
        scheme = name.partition(":")[0]
        return UsageError(
            f"{name} needs a client library that is not installed",
            hint=f"pip install 'securesystemslib[{_EXTRAS.get(scheme, scheme)}]'",
        )
    # some have nothing to say but their names
    message = ": ".join(filter(None, (name, kind, str(error))))
    # botocore has one class for most answers, and a code in it
    answer = getattr(error, "response", None)
    code = answer.get("Error", {}).get("Code", "") if isinstance(answer, dict) else ""
    for pattern, declared in _MEANINGS:
        if pattern.search(f"{kind} {code}"):
            return declared(message)
    return RegistryError(message, hint="is the service reachable?")
