"""Base64 in documents that are signed: one text for one value. Source: RFC 4648, section 4."""

from __future__ import annotations

import base64

from ocimodel.errors import InputError


def encode_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def decode_base64(text: str, what: str) -> bytes:
    """The bytes of padded standard base64; `what` names it in errors.

    Raises InputError for anything but the one text that encodes these bytes: white space, a
    missing padding, stray bits behind the last byte, the URL alphabet.
    """
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise InputError(f"{what} is no base64: {error}") from error
    if encode_base64(content) != text:
        raise InputError(f"{what} is not the canonical base64 of its bytes")
    return content
