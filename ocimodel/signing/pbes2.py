"""What an encrypted PKCS #8 key costs to open, told before it is opened.

`cryptography` does whatever the file asks for: 2^31 rounds of PBKDF2, terabytes of scrypt. Source:
RFC 5958, 3 (EncryptedPrivateKeyInfo), RFC 8018, A.2 and A.4 (PBKDF2, PBES2), RFC 7914, 7 (scrypt).
"""

from __future__ import annotations

from typing import Final

from ocimodel.errors import InputError

# OpenSSL writes 2048, OWASP advises 600 000; these take some seconds
MAX_ITERATIONS: Final = 10_000_000
# of memory, 128 * N * r, and of work, which is p times that
MAX_SCRYPT_BYTES: Final = 256 << 20
_INTEGER: Final = 0x02
_PBES2: Final = bytes.fromhex("2a864886f70d01050d")
_PBKDF2: Final = bytes.fromhex("2a864886f70d01050c")
_SCRYPT: Final = bytes.fromhex("2b06010401da47040b")


def check_cost(der: bytes, what: str) -> None:
    """InputError for a key that costs more than the limits above, or tells no cost.

    Reads strict DER only, so that whoever opens the key cannot see other numbers in it.
    """
    try:
        kdf, numbers = _key_derivation(der)
    except ValueError as error:
        raise InputError(f"{what} is no encrypted PKCS #8 key: {error}") from error
    if kdf == _PBKDF2 and numbers:
        fits = max(numbers) <= MAX_ITERATIONS
    elif kdf == _SCRYPT and len(numbers) >= 3:
        fits = scrypt_fits(*numbers[:3])
    else:
        raise InputError(
            f"{what} is encrypted in a way that is not read",
            hint="write it anew: openssl pkcs8 -topk8 -in KEY -out NEW",
        )
    if not fits:
        raise InputError(f"{what} asks for too much work to open it: {numbers}")


def scrypt_fits(n: int, r: int, p: int) -> bool:
    """Whether these are parameters of scrypt, and ones that we can afford."""
    is_power = n > 1 and n & (n - 1) == 0
    return is_power and r >= 1 and p >= 1 and 128 * n * r * p <= MAX_SCRYPT_BYTES


def _key_derivation(der: bytes) -> tuple[bytes, list[int]]:
    """The function's object identifier and its numbers; empty for what is no PBES2."""
    ((_, info),) = _elements(der)
    (_, algorithm), _ciphertext = _elements(info)
    (_, scheme), (_, parameters) = _elements(algorithm)
    if scheme != _PBES2:
        return b"", []
    (_, kdf), _cipher = _elements(parameters)
    (_, name), (_, settings) = _elements(kdf)
    return name, [int.from_bytes(value) for tag, value in _elements(settings) if tag == _INTEGER]


def _elements(raw: bytes) -> list[tuple[int, bytes]]:
    """Tag and content of each DER element in a row. ValueError for a length that is not DER."""
    found = []
    while raw:
        tag, length, start = raw[0], int.from_bytes(raw[1:2]), 2
        if length >= 0x80:
            start += length - 0x80
            length = int.from_bytes(raw[2:start])
            if start > 4 or length < 0x80 or length >> 8 * (start - 3) == 0:
                raise ValueError("a length that is not DER")
        if len(raw) < start + length:
            raise ValueError("it ends too early")
        found.append((tag, raw[start : start + length]))
        raw = raw[start + length :]
    return found
