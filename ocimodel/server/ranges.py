"""Range of a GET and Content-Range of an upload, parsed. Pure."""

from __future__ import annotations

import re

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
# the distribution-spec's own form, and HTTP's
_CONTENT_RANGE = re.compile(r"(?:bytes )?(\d{1,18})-(\d{1,18})(?:/(?:\d+|\*))?")


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """(start, length) of the one range asked for; None when all is to be sent.

    ValueError when the range lies outside of the `size` bytes. Several ranges, other units and
    malformed headers count as no range. Source: RFC 9110, 14.2.
    """
    found = _RANGE.fullmatch(header.replace(" ", ""))
    if not found or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1 if last else size)
        if last and int(last) < int(first):
            return None
    if start >= end:
        raise ValueError(f"{header} of {size} bytes")
    return start, end - start


def parse_content_range(header: str) -> tuple[int, int]:
    """(start, length) of an uploaded chunk; ValueError for anything malformed."""
    found = _CONTENT_RANGE.fullmatch(header.strip())
    if not found:
        raise ValueError(header)
    start, last = int(found[1]), int(found[2])
    if last < start:
        raise ValueError(header)
    return start, last - start + 1
