"""An access profile: which parts of the files somebody read, in the order of their first reads.

It stands in a file by itself, as `ocimodel trace` writes it, and in an artifact's index by name.
Schema: schemas/profile.schema.json.
"""

from __future__ import annotations

from collections.abc import Iterable

from ocimodel.errors import InputError
from ocimodel.spec import canonical
from ocimodel.spec.paths import check_path

MAX_PROFILE_BYTES = 16 << 20
MAX_RANGES = 100_000
VERSION = 1

# path, start, length in bytes
Range = tuple[str, int, int]


def encode_profile(ranges: Iterable[Range]) -> bytes:
    return canonical.encode({"version": VERSION, "ranges": [list(one) for one in ranges]})


def parse_profile(raw: bytes, what: str = "profile") -> tuple[Range, ...]:
    """InputError for anything that is no profile."""
    if len(raw) > MAX_PROFILE_BYTES:
        raise InputError(f"{what} is over the limit of {MAX_PROFILE_BYTES} bytes")
    document = canonical.decode(raw, what)
    version = canonical.integer(document, "version", what)
    if version != VERSION:
        raise InputError(f"{what} has version {version}, not {VERSION}", hint="upgrade ocimodel")
    return parse_ranges(canonical.sequence(document, "ranges", what), what)


def parse_ranges(items: Iterable[object], what: str) -> tuple[Range, ...]:
    """The ranges of a profile, from JSON; InputError for what is none."""
    found: list[Range] = []
    for item in items:
        match item:
            case [str(path), int(start), int(length)] if _are_natural(start, length):
                found.append((check_path(path), start, length))
            case _:
                raise InputError(f"{what} must list [path, start, length]")
        if len(found) > MAX_RANGES:
            raise InputError(f"{what} has over {MAX_RANGES} ranges")
    return tuple(found)


def _are_natural(*numbers: int) -> bool:
    # bool is an int to Python, not to JSON
    return all(type(n) is int and 0 <= n < 1 << 63 for n in numbers)
