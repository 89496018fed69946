"""Sizes as people write them: 500M, 10G, 1.5TiB."""

from __future__ import annotations

import re

import typer

_PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTP]?)(i?)B?", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}


def parse_size(text: str | int) -> int:
    """Bytes. A bare letter counts in powers of 1024, as `du` and `docker` have it."""
    if isinstance(text, int):
        return text
    match = _PATTERN.fullmatch(text.strip())
    if not match:
        raise typer.BadParameter(f"{text!r} is no size: write a number with K, M, G or T")
    return int(float(match[1]) * 1024 ** _POWERS[match[2].upper()])
