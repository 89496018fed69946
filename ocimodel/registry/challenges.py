"""WWW-Authenticate: what a server wants to see. Source: RFC 9110 section 11.6.1."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

_SCHEME = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]++)(?:[ \t]++|(?=,|\Z))")
_TOKEN68 = re.compile(r"([A-Za-z0-9._~+/-]++=*+)[ \t]*+(?=,|\Z)")
_PARAM_NAME = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]++)[ \t]*+=[ \t]*+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*+)"', re.DOTALL)
_GARBAGE = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*+")*+', re.DOTALL)  # up to a comma outside quotes
_UNQUOTED = re.compile(r'[^ \t,"]*+')  # wider than RFC 9110: realms come as bare URLs
_BETWEEN = re.compile(r"[ \t,]*+")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge. `scheme` and the keys of `params` are lower-case; the first of a name wins."""

    scheme: str
    params: Mapping[str, str] = field(default_factory=dict)
    token68: str = ""


def parse_challenges(values: Sequence[str]) -> list[Challenge]:
    """Return every challenge in these WWW-Authenticate values, in order; never raises.

    What is malformed is left out. Source: RFC 9110 sections 11.2 to 11.6.1.
    """
    return [challenge for value in values for challenge in _parse_value(value)]


def _parse_value(value: str) -> Iterable[Challenge]:
    at = _skip(value, 0)
    while at < len(value):
        scheme = _SCHEME.match(value, at)
        if scheme:
            params: dict[str, str] = {}
            token68 = _TOKEN68.match(value, scheme.end())
            end = token68.end() if token68 else _parse_params(value, scheme.end(), params)
            if end is None:
                return
            yield Challenge(scheme[1].lower(), params, token68[1] if token68 else "")
        else:
            garbage = _GARBAGE.match(value, at)
            end = garbage.end() if garbage else len(value)
            if value.startswith('"', end):
                return  # a quote that never ends
        at = _skip(value, end)


def _parse_params(value: str, at: int, params: dict[str, str]) -> int | None:
    """Read `name=value` pairs into `params`; return where they end, None if a quote never does."""
    at = _skip(value, at)
    while name := _PARAM_NAME.match(value, at):
        if value.startswith('"', name.end()):
            found = _QUOTED.match(value, name.end())
            if not found:
                return None
            text = re.sub(r"\\(.)", r"\1", found[1], flags=re.DOTALL)
        else:
            found = _UNQUOTED.match(value, name.end())
            assert found is not None  # it matches the empty string
            text = found[0]
        params.setdefault(name[1].lower(), text)
        at = _skip(value, found.end())
    return at


def _skip(value: str, at: int) -> int:
    between = _BETWEEN.match(value, at)
    return between.end() if between else at
