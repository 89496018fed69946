"""Durations as people write them: 90d, 12h, 30m."""

from __future__ import annotations

import re
from datetime import timedelta

import typer

_PATTERN = re.compile(r"([0-9]{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_duration(text: str | timedelta) -> timedelta:
    """More than nothing; one number and one unit."""
    if isinstance(text, timedelta):
        return text
    match = _PATTERN.fullmatch(text.strip())
    if not match or not int(match[1]):
        raise typer.BadParameter(f"{text!r} is no duration: write a number with s, m, h, d or w")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})
