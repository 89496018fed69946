"""Which of two versions is the later one, for the ways in which models are numbered."""

from __future__ import annotations

import re
from typing import Any, Final

_VERSION: Final = re.compile(
    r"v?(?P<numbers>\d{1,18}(?:\.\d{1,18}){0,7})"
    r"(?P<suffix>[-.]?[A-Za-z][0-9A-Za-z.-]{0,99}|-[0-9A-Za-z.-]{1,99})?"
    r"(?:\+[0-9A-Za-z.-]{0,99})?",
    re.ASCII,
)


def version_order(text: str) -> tuple[Any, ...] | None:
    """A key that puts versions in order; None for what is no version.

    Dotted numbers compare as numbers and 2.0 is 2.0.0. Any suffix (2.0rc1, 2.0-3) comes before the
    version without it; suffixes compare word by word, numbers before words. What follows a + does
    not matter.
    """
    found = _VERSION.fullmatch(text)
    if not found:
        return None
    numbers = [int(number) for number in found["numbers"].split(".")]
    while numbers[-1:] == [0]:
        numbers.pop()
    words = re.findall(r"\d+|[a-z]+", (found["suffix"] or "").lower())
    suffix = [(0, int(word), "") if word.isdigit() else (1, 0, word) for word in words]
    return (tuple(numbers), found["suffix"] is None, tuple(suffix))
