"""Moments as documents have them. Source: RFC 3339, section 5.6, in upper case."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from ocimodel.errors import InputError

DATE_TIME: Final = re.compile(
    r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}:\d{2})", re.ASCII
)


def parse_time(text: str, what: str) -> datetime:
    """A date and time, in UTC; `what` names it in errors. Raises InputError."""
    try:
        if DATE_TIME.fullmatch(text):
            return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise InputError(f"{what} is no RFC 3339 date and time: {text[:100]!r}")


def format_time(moment: datetime) -> str:
    """In UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
