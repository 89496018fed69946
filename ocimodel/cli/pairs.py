"""`NAME=VALUE` options, as --annotation and --profile take them."""

from __future__ import annotations

from collections.abc import Sequence

from ocimodel.errors import UsageError


def parse_pairs(items: Sequence[str]) -> dict[str, str]:
    """The later of two equal keys is a mistake, not an override."""
    found: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UsageError(f"{item!r} has no name and value", hint="write NAME=VALUE")
        if key in found:
            raise UsageError(f"{key!r} is given twice")
        found[key] = value
    return found
