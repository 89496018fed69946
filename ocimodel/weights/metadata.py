"""Metadata of a weights file as JSON values of bounded size: what is too long leaves its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from ocimodel.errors import InputError
from ocimodel.spec import canonical

# of one value: text in bytes of UTF-8, anything else in bytes of JSON
MAX_VALUE_BYTES: Final = 4096
# of all, as JSON
MAX_BYTES: Final = 64 * 1024
# about what a stand-in takes
_STAND_IN_BYTES: Final = 100
# the key under which a digest stands for everything, where the keys alone are too many
EVERYTHING: Final = "*"


def stand_in(digest: str, length: int) -> dict[str, Any]:
    """What is kept of a long value. `digest`: hex sha256; `length`: of a text in bytes, or items.

    Equal values have equal ones, so that a comparison sees a change.
    """
    return {"sha256": digest, "length": length}


def bounded(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The same with each value over MAX_VALUE_BYTES, then the largest, replaced by its digest.

    InputError for what is no JSON: text that is no Unicode, NaN, keys that are no text.
    """
    found: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    total = 2
    for key, value in metadata.items():
        if not isinstance(key, str):
            raise InputError(f"metadata key {key!r:.40} is no text")
        found[key], sizes[key] = _kept(value, MAX_VALUE_BYTES)
        total += len(_encode(key)) + 2 + sizes[key]
    for key in sorted(sizes, key=lambda key: (-sizes[key], key)):
        if total <= MAX_BYTES or sizes[key] <= _STAND_IN_BYTES:
            break
        found[key], size = _kept(found[key], _STAND_IN_BYTES)
        total -= sizes[key] - size
    if total > MAX_BYTES:
        return {EVERYTHING: _digest(found)}
    return found


def _kept(value: Any, limit: int) -> tuple[Any, int]:
    """The value or its stand-in, and its size as JSON."""
    encoded = _encode(value)
    if len(encoded) > limit and (not isinstance(value, str) or len(value.encode()) > limit):
        value = _digest(value)
        encoded = _encode(value)
    return value, len(encoded)


def _digest(value: Any) -> dict[str, Any]:
    raw = value.encode() if isinstance(value, str) else _encode(value)
    length = len(value) if isinstance(value, list | tuple | dict) else len(raw)
    return stand_in(hashlib.sha256(raw).hexdigest(), length)


def _encode(value: Any) -> bytes:
    try:
        return canonical.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"metadata is no JSON: {error}") from error
