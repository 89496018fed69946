"""The values of an `ocimodel.yaml`: each reader gives the checked value or InputError saying where.

YAML reads what a person writes without quotes as it likes (`version: 1.0` is a number, `no` is
false, a date is a date): the errors say to quote it, and dates are taken as they were meant.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final, TypeVar

from ocimodel.errors import InputError
from ocimodel.spec.globs import compile_globs
from ocimodel.spec.moment import DATE_TIME

MAX_LINE: Final = 4096  # characters
MAX_PROSE: Final = 65_536
MAX_ITEMS: Final = 1024  # of a list or mapping
MAX_NODES: Final = 10_000  # values inside an opaque mapping
MAX_DEPTH: Final = 32

T = TypeVar("T")

# a bare date means its midnight in UTC
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s\x00-\x1f\x7f]+")
_PARAM_SIZE: Final = re.compile(r"[0-9]+(\.[0-9]+)?[KkMmBbTtQq]?")
_LANGUAGE: Final = re.compile(r"[a-z]{2}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_CONTROL_BUT_BREAKS: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Where:
    """A place in a document: the file and the path of keys, like `capabilities.inputTypes[1]`."""

    source: str
    path: str = ""

    def key(self, name: str) -> Where:
        shown = name[:100]
        return Where(self.source, f"{self.path}.{shown}" if self.path else shown)

    def item(self, index: int) -> Where:
        return Where(self.source, f"{self.path}[{index}]")

    def error(self, message: str, *, hint: str = "") -> InputError:
        place = f"{self.source}: {self.path}" if self.path else self.source
        return InputError(f"{place}: {message}", hint=hint)


def _type_name(value: object) -> str:
    names = {dict: "a mapping", list: "a list", str: "text", bool: "true or false"}
    names |= {int: "a number", float: "a number", type(None): "nothing"}
    return names.get(type(value), f"a {type(value).__name__}")


def _text(value: object, where: Where, limit: int, forbidden: re.Pattern[str]) -> str:
    if not isinstance(value, str):
        quoted = isinstance(value, int | float | date)
        hint = "put it in quotes, so that YAML leaves it as it is" if quoted else ""
        raise where.error(f"expected text, got {_type_name(value)}", hint=hint)
    if not value:
        raise where.error("expected text, got an empty string", hint="leave the key out instead")
    if len(value) > limit:
        raise where.error(f"expected at most {limit} characters, got {len(value)}")
    if forbidden.search(value) or _SURROGATE.search(value):
        raise where.error("control characters are not allowed")
    return value


def line(value: object, where: Where) -> str:
    """One line of text, 1 to 4096 characters, without control characters."""
    return _text(value, where, MAX_LINE, _CONTROL)


def prose(value: object, where: Where) -> str:
    """Text that may have line breaks, 1 to 65,536 characters."""
    return _text(value, where, MAX_PROSE, _CONTROL_BUT_BREAKS)


def _shaped(
    shape: re.Pattern[str], expected: str, hint: str = ""
) -> Callable[[object, Where], str]:
    def read(value: object, where: Where) -> str:
        found = line(value, where)
        if not shape.fullmatch(found):
            raise where.error(f"expected {expected}, got {found[:100]!r}", hint=hint)
        return found

    return read


url = _shaped(_URL, "an URL with a scheme", "write https://… in full")
param_size = _shaped(_PARAM_SIZE, 'a count such as "6.7B" or "135M"')
language = _shaped(_LANGUAGE, 'an ISO 639-1 code such as "en"')


def pattern(value: object, where: Where) -> str:
    """A pattern that `ocimodel.spec.globs` accepts."""
    found = line(value, where)
    try:
        compile_globs([found])
    except InputError as error:
        raise where.error(str(error), hint=error.hint) from error
    return found


def date_time(value: object, where: Where) -> str:
    """An RFC 3339 date and time; a bare date is its midnight in UTC. YAML's own dates too."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise where.error("expected a time zone", hint="end it in Z for UTC")
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        value = value.isoformat()
    found = line(value, where)
    if _DATE.fullmatch(found):
        found += "T00:00:00Z"
    if not DATE_TIME.fullmatch(found) or not _exists(found):
        raise where.error(
            f"expected an RFC 3339 date and time, got {found[:100]!r}",
            hint="write it like 2024-05-21T09:30:00Z",
        )
    return found


def _exists(text: str) -> bool:
    """Whether this is a moment of the calendar; leap seconds (:60) are, fractions do not matter."""
    try:
        datetime.strptime(text[:17] + text[17:19].replace("60", "59"), "%Y-%m-%dT%H:%M:%S").replace(
            tzinfo=UTC
        )
    except ValueError:
        return False
    zone = re.search(r"[+-](\d{2}):(\d{2})$", text)
    return zone is None or (int(zone[1]) < 24 and int(zone[2]) < 60)


def truth(value: object, where: Where) -> bool:
    if not isinstance(value, bool):
        raise where.error(f"expected true or false, got {_type_name(value)}")
    return value


def number(low: int, high: int, *, whole: bool = False) -> Callable[[object, Where], float]:
    """A reader of numbers from `low` to `high`; with `whole` of integers only."""
    expected = f"{'a whole number' if whole else 'a number'} from {low} to {high}"

    def read(value: object, where: Where) -> float:
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise where.error(f"expected {expected}, got {_type_name(value)}")
        if not low <= value <= high:  # a NaN fails too
            raise where.error(f"expected {expected}, got one that is not")
        return value

    return read


def one_of(allowed: Sequence[str]) -> Callable[[object, Where], str]:
    """A reader of one of the words `allowed`."""

    def read(value: object, where: Where) -> str:
        if not isinstance(value, str) or value not in allowed:
            shown = repr(value[:100]) if isinstance(value, str) else _type_name(value)
            raise where.error(f"expected one of {', '.join(allowed)}, got {shown}")
        return value

    return read


def list_of(read: Callable[[object, Where], T]) -> Callable[[object, Where], tuple[T, ...]]:
    """A reader of lists of at most 1024 values."""

    def read_all(value: object, where: Where) -> tuple[T, ...]:
        if not isinstance(value, list):
            hint = f"write it as a list: [{value[:100]}]" if isinstance(value, str) else ""
            raise where.error(f"expected a list, got {_type_name(value)}", hint=hint)
        if len(value) > MAX_ITEMS:
            raise where.error(f"expected at most {MAX_ITEMS} values, got {len(value)}")
        return tuple(read(item, where.item(index)) for index, item in enumerate(value))

    return read_all


def mapping(value: object, where: Where) -> Mapping[str, Any]:
    """A mapping of at most 1024 keys, all of them text."""
    if not isinstance(value, Mapping):
        raise where.error(f"expected a mapping, got {_type_name(value)}")
    if len(value) > MAX_ITEMS:
        raise where.error(f"expected at most {MAX_ITEMS} keys, got {len(value)}")
    for key in value:
        if not isinstance(key, str):
            raise where.error(
                f"expected keys of text, got {_type_name(key)}", hint=f'write "{key!s:.40}":'
            )
    return value


def labels(value: object, where: Where) -> Mapping[str, str]:
    """Free annotations: names to text, which may be empty."""
    found = {}
    for key, item in mapping(value, where).items():
        line(key, where.key(key))
        found[key] = item if item == "" else prose(item, where.key(key))
    return found


def opaque(value: object, where: Where) -> Mapping[str, Any]:
    """A mapping that someone else reads: JSON's types and YAML's dates, bounded in size.

    At most 10,000 values, 32 deep: YAML aliases can make a small file endless.
    """
    found = mapping(value, where)
    waiting: list[tuple[object, int]] = [(found, 1)]
    n_seen = 0
    while waiting:
        item, depth = waiting.pop()
        n_seen += 1
        if depth > MAX_DEPTH:
            raise where.error(f"nested deeper than {MAX_DEPTH}")
        if n_seen + len(waiting) > MAX_NODES:
            raise where.error(f"expected at most {MAX_NODES} values")
        if isinstance(item, Mapping):
            waiting += [(child, depth + 1) for child in mapping(item, where).values()]
        elif isinstance(item, list):
            if len(item) > MAX_NODES:
                raise where.error(f"expected at most {MAX_NODES} values")
            waiting += [(child, depth + 1) for child in item]
        elif isinstance(item, str):
            if len(item) > MAX_PROSE or _SURROGATE.search(item):
                raise where.error(f"a text of {len(item)} characters, or one that is no UTF-8")
        elif isinstance(item, float) and not math.isfinite(item):
            raise where.error(f"{item} is no number that JSON knows")
        elif item is not None and not isinstance(item, bool | int | float | date):
            raise where.error(f"a value of type {type(item).__name__}")
    return found
