"""Verify Ed25519ph, which cosign 3 writes and `cryptography` does not have.

Source: RFC 8032, 5.1: SHA-512 over the message, an empty context. Everything here is public, so
that no care is taken about time.
"""

from __future__ import annotations

import hashlib
from typing import Final

_P: Final = 2**255 - 19
# the order of the base point
_L: Final = 2**252 + 27742317777372353535851937790883648493
_D: Final = -121665 * pow(121666, -1, _P) % _P
_SQRT_M1: Final = pow(2, (_P - 1) // 4, _P)
# dom2(1, ""): pre-hashed, no context
_PREFIX: Final = b"SigEd25519 no Ed25519 collisions\x01\x00"

# extended homogeneous coordinates: x = X/Z, y = Y/Z, x*y = T/Z
_Point = tuple[int, int, int, int]
_NEUTRAL: Final[_Point] = (0, 1, 1, 0)


def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` is one of `message`; `public_key`: 32 bytes. Raises nothing."""
    if len(public_key) != 32 or len(signature) != 64:
        return False
    key, s = _decode(public_key), int.from_bytes(signature[32:], "little")
    if key is None or s >= _L:
        return False
    digest = hashlib.sha512(message).digest()
    k = hashlib.sha512(_PREFIX + signature[:32] + public_key + digest).digest()
    x, y, z, t = key
    minus_key = (_P - x, y, z, _P - t)
    # R = [S]B - [k]A; its encoding is unique, so that a sloppy one of R fails here
    r = _add(_multiply(s, _base()), _multiply(int.from_bytes(k, "little") % _L, minus_key))
    return _encode(r) == signature[:32]


def _base() -> _Point:
    point = _decode((4 * pow(5, -1, _P) % _P).to_bytes(32, "little"))
    assert point is not None
    return point


def _decode(raw: bytes) -> _Point | None:
    """Source: RFC 8032, 5.1.3."""
    number = int.from_bytes(raw, "little")
    sign, y = number >> 255, number & ~(1 << 255)
    if y >= _P:
        return None
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if x * x % _P != square:
        x = x * _SQRT_M1 % _P
    if x * x % _P != square or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = _P - x
    return x, y, 1, x * y % _P


def _encode(point: _Point) -> bytes:
    inverse = pow(point[2], -1, _P)
    x, y = point[0] * inverse % _P, point[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _add(p: _Point, q: _Point) -> _Point:
    """Complete: of equal points too, and of the neutral one. Source: RFC 8032, 5.1.4."""
    a, b = (p[1] - p[0]) * (q[1] - q[0]), (p[1] + p[0]) * (q[1] + q[0])
    c, d = 2 * p[3] * q[3] * _D, 2 * p[2] * q[2]
    e, f, g, h = (b - a) % _P, (d - c) % _P, (d + c) % _P, (b + a) % _P
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _multiply(n: int, point: _Point) -> _Point:
    result = _NEUTRAL
    while n:
        if n & 1:
            result = _add(result, point)
        point = _add(point, point)
        n >>= 1
    return result
