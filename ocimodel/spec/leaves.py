"""A JSON document as its leaves, each under the path of keys that leads to it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ocimodel.errors import InputError

MAX_DEPTH = 32
# of all paths together: a long key above many leaves must not be written out for each of them
MAX_PATH_CHARACTERS = 16 << 20

KeyPath = tuple[str, ...]


def leaves(document: Mapping[str, Any], what: str) -> dict[KeyPath, Any]:
    """Scalars, lists of scalars and what is empty, in the order of the document.

    A list that holds objects or lists counts as an object with the keys "0", "1" and so on. A
    number that is not finite, which JSON cannot say, is given by name.
    InputError, naming `what`, beyond MAX_DEPTH or MAX_PATH_CHARACTERS.
    """
    found: dict[KeyPath, Any] = {}
    n_characters = 0
    waiting: list[tuple[KeyPath, Any]] = [((), document)]
    while waiting:
        path, value = waiting.pop()
        inner = list(_members(value))
        if inner:
            if len(path) == MAX_DEPTH:
                raise InputError(f"{what} is nested deeper than {MAX_DEPTH} levels")
            waiting += [((*path, key), member) for key, member in reversed(inner)]
        elif path:
            n_characters += sum(map(len, path))
            if n_characters > MAX_PATH_CHARACTERS:
                raise InputError(f"{what} has keys of over {MAX_PATH_CHARACTERS} characters")
            found[path] = [*map(_finite, value)] if isinstance(value, list) else _finite(value)
    return found


def _members(value: object) -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        return ((str(i), item) for i, item in enumerate(value))
    return ()


def _finite(value: object) -> object:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
