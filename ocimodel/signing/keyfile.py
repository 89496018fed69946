"""Keys in files, cosign's encrypted ones among them; the plugin for names without a scheme.

A name is a path, `file:PATH`, or, for a private key, `env://VARIABLE` with PEM in that variable.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from ocimodel.errors import ConflictError, InputError, NotFoundError, UsageError
from ocimodel.signing import secretbox
from ocimodel.signing.keys import MAX_KEY_BYTES, PrivateKey, PublicKey, parse_public_key, pem_block
from ocimodel.signing.pbes2 import MAX_SCRYPT_BYTES, check_cost, scrypt_fits
from ocimodel.signing.signer import Ask
from ocimodel.spec import canonical
from ocimodel.spec.base64text import decode_base64, encode_base64

PASSWORD: Final = "COSIGN_PASSWORD"  # noqa: S105
_SEALED: Final = "ENCRYPTED SIGSTORE PRIVATE KEY"
_SEALED_LABELS: Final = (_SEALED, "ENCRYPTED COSIGN PRIVATE KEY")
_PLAIN_LABELS: Final = ("PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY")
# as cosign writes them: 64 MiB, and some tenths of a second
_SCRYPT: Final = {"N": 65536, "r": 8, "p": 1}
_SALT_BYTES: Final = 32
# RSA of 8192 bits has 4.7 kB; to check the primes of a much larger one takes minutes
_MAX_DER_BYTES: Final = 8 << 10


def open_signer(name: str, environ: Mapping[str, str], ask: Ask) -> PrivateKey:
    """The private key in a file or in the environment.

    Its passphrase is COSIGN_PASSWORD where that is set, empty too; `ask` else. Raises
    NotFoundError, InputError (a wrong passphrase too).
    """

    def passphrase(what: str) -> bytes:
        given = environ.get(PASSWORD)
        return ask(what) if given is None else os.fsencode(given)

    variable = _variable(name)
    if not variable:
        return parse_private_key(_read(name), passphrase, name)
    if variable not in environ:
        raise NotFoundError(f"the environment has no {variable}", hint="it is to hold a PEM key")
    return parse_private_key(os.fsencode(environ[variable]), passphrase, name)


def open_public_key(name: str) -> PublicKey:
    """The public key in a PEM file. Raises NotFoundError, InputError."""
    if _variable(name):
        raise UsageError("a public key is not read from the environment", hint="write it to a file")
    return parse_public_key(_read(name), name)


def parse_private_key(raw: bytes, ask: Ask, what: str = "the key") -> PrivateKey:
    """The key in a PEM file: cosign's, PKCS #8, encrypted or not, SEC 1 or PKCS #1.

    `ask`: called at most once, and only for a key that needs a passphrase. Raises InputError.
    """
    label, content = pem_block(raw, what)
    if label in _SEALED_LABELS:
        return _load(_unseal(content, ask, what), None, what)
    if label in _PLAIN_LABELS:
        return _load(content, None, what)
    if label == "ENCRYPTED PRIVATE KEY":
        check_cost(content, what)
        return _load(content, ask(what), what)
    hint = "sign with its private half, the .key" if label == "PUBLIC KEY" else ""
    raise InputError(f"{what} holds a {label}, not a private key", hint=hint)


def write_key_pair(prefix: Path, passphrase: bytes) -> tuple[Path, Path]:
    """Make a key on P-256: PREFIX.key, encrypted and for its owner alone, and PREFIX.pub.

    Nothing is left of it after a failure. Raises ConflictError when one of them exists,
    TargetError.
    """
    key = PrivateKey.generate()
    contents = {
        Path(f"{prefix}.key"): (encrypted(key, passphrase), 0o600),
        Path(f"{prefix}.pub"): (key.public_key.pem, 0o644),
    }
    written: list[Path] = []
    try:
        for path, (content, mode) in contents.items():
            _create(path, content, mode, written)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    private, public = contents
    return private, public


def encrypted(key: PrivateKey, passphrase: bytes) -> bytes:
    """The key as cosign writes it to a file; the same one looks different each time."""
    salt, nonce = os.urandom(_SALT_BYTES), os.urandom(secretbox.NONCE_BYTES)
    sealed = secretbox.seal(key.pkcs8, nonce, _derived(passphrase, salt, _SCRYPT))
    document = {
        "kdf": {"name": "scrypt", "params": _SCRYPT, "salt": encode_base64(salt)},
        "cipher": {"name": "nacl/secretbox", "nonce": encode_base64(nonce)},
        "ciphertext": encode_base64(sealed),
    }
    # the members in cosign's order
    text = encode_base64(json.dumps(document, separators=(",", ":")).encode())
    lines = [text[i : i + 64] for i in range(0, len(text), 64)]
    return "\n".join(
        [f"-----BEGIN {_SEALED}-----", *lines, f"-----END {_SEALED}-----", ""]
    ).encode()


def _unseal(raw: bytes, ask: Ask, what: str) -> bytes:
    """PKCS #8 out of cosign's document. Everything is checked before the passphrase is asked."""
    document = canonical.decode(raw, what)
    kdf, cipher = (canonical.mapping(document, key, what) for key in ("kdf", "cipher"))
    names = canonical.text(kdf, "name", what), canonical.text(cipher, "name", what)
    if names != ("scrypt", "nacl/secretbox"):
        raise InputError(f"{what} is encrypted in a way that is not read: {' and '.join(names)}")
    parameters = canonical.mapping(kdf, "params", what)
    costs = {name: canonical.integer(parameters, name, what) for name in _SCRYPT}
    if not scrypt_fits(*costs.values()):
        raise InputError(f"{what} asks for too much work to open it: {costs}")
    salt = _bytes(kdf, "salt", what, _SALT_BYTES)
    nonce = _bytes(cipher, "nonce", what, secretbox.NONCE_BYTES)
    sealed = _bytes(document, "ciphertext", what)
    content = secretbox.unseal(sealed, nonce, _derived(ask(what), salt, costs))
    if content is None:
        raise _wrong_passphrase(what)
    return content


def _bytes(document: Mapping[str, Any], key: str, what: str, length: int = -1) -> bytes:
    value = decode_base64(canonical.text(document, key, what), f"{what}: {key}")
    if length >= 0 and len(value) != length:
        raise InputError(f"{what}: {key} has {len(value)} bytes, not {length}")
    return value


def _derived(passphrase: bytes, salt: bytes, costs: Mapping[str, int]) -> bytes:
    n, r, p = costs["N"], costs["r"], costs["p"]
    # OpenSSL needs a little more than 128 * N * r
    limit = 2 * MAX_SCRYPT_BYTES
    return hashlib.scrypt(
        passphrase, salt=salt, n=n, r=r, p=p, maxmem=limit, dklen=secretbox.KEY_BYTES
    )


def _load(der: bytes, passphrase: bytes | None, what: str) -> PrivateKey:
    if len(der) > _MAX_DER_BYTES:
        raise InputError(f"{what} holds a key of {len(der)} bytes, more than {_MAX_DER_BYTES}")
    try:
        key = serialization.load_der_private_key(der, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if passphrase is not None:
            raise _wrong_passphrase(what) from error
        raise InputError(f"{what} holds no private key that is understood") from error
    return PrivateKey(key, what)


def _wrong_passphrase(what: str) -> InputError:
    return InputError(
        f"wrong passphrase for {what}, or the file is damaged",
        hint=f"it is taken from {PASSWORD} where that is set, even to nothing",
    )


def _create(path: Path, content: bytes, mode: int, created: list[Path]) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        created.append(path)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:
        raise ConflictError(f"{path} is there already", hint="choose another name") from error
    except OSError as error:
        from ocimodel.store.growing import target_error

        raise target_error(error, path) from error


def _variable(name: str) -> str:
    """The variable that `env://VARIABLE` names; empty for a file."""
    return name.removeprefix("env://") if name.startswith("env://") else ""


def _read(name: str) -> bytes:
    path = Path(name.removeprefix("file:"))
    try:
        with path.open("rb") as file:
            # a byte more than a key may have, so that its reader sees it
            return file.read(MAX_KEY_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFoundError(
            f"there is no key file {path}", hint="make a pair: ocimodel keygen"
        ) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        # a path with a zero byte
        raise InputError(f"{name!r} is no path") from error
