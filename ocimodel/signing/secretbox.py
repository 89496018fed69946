"""NaCl's secretbox, XSalsa20 and Poly1305, which seals the private key in a cosign key file.

The cipher is in Python, for the few hundred bytes of a key; Poly1305 is that of `cryptography`.
Source: "Extending the Salsa20 nonce" (Bernstein 2011), "The Salsa20 family of stream ciphers".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.poly1305 import Poly1305

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 24
TAG_BYTES: Final = 16
_BLOCK_BYTES: Final = 64
_MASK: Final = 0xFFFFFFFF
_CONSTANT: Final = struct.unpack("<4I", b"expand 32-byte k")
# which words a quarter-round mixes: the columns, then the rows
_QUARTERS: Final = (
    *((0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11)),
    *((0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14)),
)


def seal(plaintext: bytes, nonce: bytes, key: bytes) -> bytes:
    """The tag and the ciphertext. A nonce must never be used twice with the same key."""
    one_time_key, stream = _keystream(len(plaintext), nonce, key)
    ciphertext = _xor(plaintext, stream)
    return Poly1305.generate_tag(one_time_key, ciphertext) + ciphertext


def unseal(sealed: bytes, nonce: bytes, key: bytes) -> bytes | None:
    """The plaintext; None when the key is another one, or a bit was changed."""
    tag, ciphertext = sealed[:TAG_BYTES], sealed[TAG_BYTES:]
    one_time_key, stream = _keystream(len(ciphertext), nonce, key)
    try:
        # compares in constant time
        Poly1305.verify_tag(one_time_key, ciphertext, tag)
    except InvalidSignature:
        return None
    return _xor(ciphertext, stream)


def _keystream(n_bytes: int, nonce: bytes, key: bytes) -> tuple[bytes, bytes]:
    """The key of Poly1305, which is the first 32 bytes of XSalsa20's stream, and what follows."""
    if len(key) != KEY_BYTES or len(nonce) != NONCE_BYTES:
        raise ValueError(f"a key of {len(key)} bytes and a nonce of {len(nonce)}, not 32 and 24")
    # HSalsa20: the words that are known beforehand, and nothing added at the end
    mixed = _rounds(_state(key, nonce[:16]))
    words = [mixed[i] for i in (0, 5, 10, 15, 6, 7, 8, 9)]
    subkey = struct.pack("<8I", *words)
    stream = b"".join(_blocks(subkey, nonce[16:], -(-(32 + n_bytes) // _BLOCK_BYTES)))
    return stream[:32], stream[32 : 32 + n_bytes]


def _blocks(key: bytes, nonce: bytes, n: int) -> Iterator[bytes]:
    for counter in range(n):
        state = _state(key, nonce + counter.to_bytes(8, "little"))
        mixed = _rounds(state)
        yield struct.pack("<16I", *((a + b) & _MASK for a, b in zip(state, mixed, strict=True)))


def _state(key: bytes, middle: bytes) -> tuple[int, ...]:
    """Salsa20's matrix. `middle`: nonce and counter, 16 bytes."""
    k, m, c = struct.unpack("<8I", key), struct.unpack("<4I", middle), _CONSTANT
    return (c[0], *k[:4], c[1], *m, c[2], *k[4:], c[3])


def _rounds(state: Sequence[int]) -> list[int]:
    x = list(state)
    for _ in range(10):
        for a, b, c, d in _QUARTERS:
            x[b] ^= _rotated(x[a] + x[d], 7)
            x[c] ^= _rotated(x[b] + x[a], 9)
            x[d] ^= _rotated(x[c] + x[b], 13)
            x[a] ^= _rotated(x[d] + x[c], 18)
    return x


def _rotated(word: int, n_bits: int) -> int:
    word &= _MASK
    return (word << n_bits | word >> (32 - n_bits)) & _MASK


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))
