"""JSON in one place: how we write it, and how strictly we read it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ocimodel.errors import InputError


def encode(document: object) -> bytes:
    """Sorted keys, no spaces, UTF-8: equal values give equal bytes on every machine."""
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def decode(raw: bytes, what: str) -> dict[str, Any]:
    """The JSON object in `raw`; `what` names it in errors.

    Refuses, as InputError: bytes that are no UTF-8 JSON object, duplicate keys (two readers could
    see two documents), NaN and infinities, half surrogate pairs (no bytes could be made of them
    again), nesting that exhausts the parser.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) != len(items):
            raise InputError(f"{what} has a duplicate key")
        return result

    def constant(name: str) -> NoReturn:
        raise InputError(f"{what} holds {name}, which is no JSON")

    try:
        # from str: from bytes, json would take UTF-16 and UTF-32 too
        document = json.loads(raw.decode(), object_pairs_hook=pairs, parse_constant=constant)
        if b"\\ud" in raw or b"\\uD" in raw:
            encode(document)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{what} is a JSON {type(document).__name__}, not an object")
    return document


def text(document: Mapping[str, Any], key: str, what: str, default: str = "") -> str:
    value = document.get(key)
    if value is None:
        return default
    if not isinstance(value, str):
        raise InputError(f"{what}: {key} must be a string, not {type(value).__name__}")
    return value


def integer(document: Mapping[str, Any], key: str, what: str) -> int:
    value = document.get(key)
    # bool is an int to Python, not to JSON
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{what}: {key} must be an integer")
    return value


def mapping(document: Mapping[str, Any], key: str, what: str) -> dict[str, Any]:
    value = document.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{what}: {key} must be an object, not {type(value).__name__}")
    return value


def sequence(document: Mapping[str, Any], key: str, what: str) -> Sequence[Any]:
    value = document.get(key)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise InputError(f"{what}: {key} must be an array, not {type(value).__name__}")
    return value


def strings(document: Mapping[str, Any], key: str, what: str) -> dict[str, str]:
    """An object whose values are all strings, such as `annotations`."""
    value = mapping(document, key, what)
    for name, item in value.items():
        if not isinstance(item, str):
            raise InputError(f"{what}: {key}[{name!r}] must be a string")
    return value
