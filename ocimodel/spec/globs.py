"""Patterns over relative POSIX paths: those of --include, --exclude and ocimodel.yaml.

    *          any characters but /            weights-*.bin
    ?          one character but /             shard?.safetensors
    [abc]      one of them, [a-z] a range, [!a] or [^a] none of them
    **         any number of directories       onnx/**/*.onnx, checkpoints/**, **
    \\x         the character x itself

A pattern without a slash is compared with the last part of the path, at any depth: `*.json` is
every JSON file. With a slash it is compared with the whole path: `onnx/*.onnx` is not below
`backup/`. A leading slash anchors: `/config.json` is the one at the top. A trailing slash, `dir/`,
is everything below directories of that name, at any depth; `a/dir/` and `/dir/` are anchored.
Case matters. These are gitignore's rules, but for two: a pattern never takes in what lies below a
directory unless it says so with `/` or `**`, and `!` does not negate: exclude is its own list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

from ocimodel.errors import InputError

MAX_PATTERN: Final = 1024  # characters
MAX_PATTERNS: Final = 1024

_Segment = re.Pattern[str] | None  # None: any number of directories
_ANY: Final = re.compile(r"[^/]*")


def compile_globs(patterns: Iterable[str]) -> Callable[[str], bool]:
    """A function that tells whether a relative POSIX path matches any of `patterns`.

    No pattern matches nothing. Its time is bounded by path length x pattern length, whatever the
    pattern. InputError names the pattern that is empty, over-long or malformed.
    """
    compiled: list[tuple[_Segment, ...]] = []
    for pattern in patterns:
        if len(compiled) == MAX_PATTERNS:
            raise InputError(f"more than {MAX_PATTERNS} patterns")
        compiled.append(_compile(pattern))

    def matches(path: str) -> bool:
        parts = path.split("/")
        return any(_match(segments, parts) for segments in compiled)

    return matches


def _compile(pattern: str) -> tuple[_Segment, ...]:
    if not pattern or len(pattern) > MAX_PATTERN:
        raise _invalid(pattern, f"expected 1 to {MAX_PATTERN} characters, got {len(pattern)}")
    if pattern.startswith("!"):
        raise _invalid(pattern, "! does not negate here", "use exclude, or \\! for the character")
    if any(ord(character) < 32 or ord(character) == 127 for character in pattern):
        raise _invalid(pattern, "control characters are not allowed")
    body = pattern.removeprefix("/").removesuffix("/")
    parts = body.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise _invalid(pattern, "it has an empty, '.' or '..' part", "write paths like onnx/*.onnx")
    segments: list[_Segment] = [None if part == "**" else _segment(part, pattern) for part in parts]
    anchored = pattern.startswith("/") or len(parts) > 1
    if not anchored:
        segments.insert(0, None)
    if pattern.endswith("/"):
        segments.append(None)
    if segments[-1] is None:
        # What lies below a directory, not the directory: at least one more part.
        segments.append(_ANY)
    return tuple(segments)


def _segment(part: str, pattern: str) -> re.Pattern[str]:
    """One path part as a regular expression that never backtracks over more than one star."""
    pieces: list[str] = [""]  # between the stars
    position = 0
    while position < len(part):
        character = part[position]
        position += 1
        if character == "*":
            if pieces[-1] or len(pieces) == 1:
                pieces.append("")
        elif character == "?":
            pieces[-1] += "[^/]"
        elif character == "[":
            text, position = _class(part, position, pattern)
            pieces[-1] += text
        elif character == "\\":
            if position == len(part):
                raise _invalid(pattern, "it ends in a backslash")
            pieces[-1] += re.escape(part[position])
            position += 1
        else:
            pieces[-1] += re.escape(character)
    if len(pieces) == 1:
        return re.compile(pieces[0])
    # The leftmost place for each piece is as good as any later one, so it is final: (?>…). Only
    # the last piece is bound to the end.
    middle = "".join(f"(?>[^/]*?{piece})" for piece in pieces[1:-1])
    return re.compile(f"{pieces[0]}{middle}[^/]*{pieces[-1]}")


def _class(part: str, position: int, pattern: str) -> tuple[str, int]:
    """The bracket expression whose content begins at `position`, and where it has ended."""
    negated = part[position : position + 1] in ("!", "^")
    position += negated
    members: list[str] = []
    while True:
        if position >= len(part):
            raise _invalid(pattern, "[ is never closed", "write \\[ for the character itself")
        if part[position] == "]" and members:
            break
        low, position = _member(part, position, pattern)
        if part[position : position + 1] == "-" and part[position + 1 : position + 2] not in (
            "",
            "]",
        ):
            high, position = _member(part, position + 1, pattern)
            if high < low:
                raise _invalid(pattern, f"the range {low}-{high} is backwards")
            members.append(f"{re.escape(low)}-{re.escape(high)}")
        else:
            members.append(re.escape(low))
    sign = "^" if negated else ""
    return f"[{sign}{''.join(members)}]", position + 1


def _member(part: str, position: int, pattern: str) -> tuple[str, int]:
    if part[position] == "\\":
        position += 1
        if position == len(part):
            raise _invalid(pattern, "it ends in a backslash")
    return part[position], position + 1


def _match(segments: tuple[_Segment, ...], parts: list[str]) -> bool:
    """Wildcard matching over path parts: only the last `**` is ever tried again."""
    at = part = 0
    retry_at, retry_part = -1, 0
    while part < len(parts):
        if at < len(segments):
            segment = segments[at]
            if segment is None:
                retry_at, retry_part = at, part
                at += 1
                continue
            if segment.fullmatch(parts[part]):
                at, part = at + 1, part + 1
                continue
        if retry_at < 0:
            return False
        retry_part += 1
        at, part = retry_at + 1, retry_part
    return all(segment is None for segment in segments[at:])


def _invalid(pattern: str, why: str, hint: str = "") -> InputError:
    return InputError(f"pattern {pattern[:200]!r} is invalid: {why}", hint=hint)
