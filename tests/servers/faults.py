"""What a fault proxy can do to one exchange: to the request, to the reply, or instead of both.

An action is a small frozen value; `Fault` says to which requests it applies and how often.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

HOP_HEADERS = frozenset({"connection", "keep-alive", "transfer-encoding"})


class Reset(Exception):  # noqa: N818 - a decision, not an error
    """Close the client's connection with RST, without an answer."""


class Request(Protocol):
    """What an action sees of a request; header names are lower-case."""

    method: str
    path: str
    headers: dict[str, str]

    def length(self) -> int:
        """The announced body length; 0 when there is none."""
        ...

    def body(self) -> bytes:
        """The whole body, buffered; it is still forwarded."""
        ...

    def read(self, n_bytes: int) -> int:
        """Read and throw away at most `n_bytes` of the body; how many came."""
        ...

    def wait(self, release: threading.Event) -> None:
        """Hold until `release` is set, the client leaves (Reset), or the proxy stops (Reset)."""
        ...


@dataclass(frozen=True)
class Reply:
    """What goes to the client; `blocks` is the body, sent as it comes."""

    status: int
    headers: list[tuple[str, str]]
    blocks: Iterator[bytes]
    cut_after: int | None = None  # end the connection after so many body bytes …
    rst: bool = True  # … with RST, else with FIN
    hold_after: int | None = None  # wait for `release` after so many body bytes
    release: threading.Event | None = None
    close: bool = False  # the connection cannot be kept

    def header(self, name: str) -> str | None:
        """The first header of this name."""
        found = (value for key, value in self.headers if key.lower() == name.lower())
        return next(found, None)

    def with_headers(self, changes: Mapping[str, str | None]) -> Reply:
        """The same with headers set, or removed where None."""
        gone = {name.lower() for name in changes}
        kept = [(key, value) for key, value in self.headers if key.lower() not in gone]
        new = [(name, value) for name, value in changes.items() if value is not None]
        return replace(self, headers=kept + new)


@dataclass(frozen=True)
class Action:
    """Does nothing; the base of all."""

    def before(self, request: Request) -> Reply | None:
        """Act before forwarding; a Reply is sent instead of forwarding."""
        return None

    def after(self, _request: Request, reply: Reply) -> Reply:
        """Change the upstream's reply."""
        return reply


@dataclass(frozen=True)
class Drop(Action):
    """Reset the connection after `after_bytes` of the response body."""

    after_bytes: int

    def after(self, _request: Request, reply: Reply) -> Reply:
        """Cut with RST."""
        return replace(reply, cut_after=self.after_bytes, rst=True)


@dataclass(frozen=True)
class ShortBody(Action):
    """Send only `n_bytes` of the body under the full Content-Length, then end cleanly."""

    n_bytes: int

    def after(self, _request: Request, reply: Reply) -> Reply:
        """Cut with FIN."""
        return replace(reply, cut_after=self.n_bytes, rst=False)


@dataclass(frozen=True)
class FlipByte(Action):
    """Change the byte at `offset` of the response body; the length stays."""

    offset: int = 0

    def after(self, _request: Request, reply: Reply) -> Reply:
        """Invert that byte as it passes."""
        return replace(reply, blocks=self._flipped(reply.blocks))

    def _flipped(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        seen = 0
        for block in blocks:
            at = self.offset - seen
            seen += len(block)
            if 0 <= at < len(block):
                yield block[:at] + bytes([block[at] ^ 0xFF]) + block[at + 1 :]
            else:
                yield block


@dataclass(frozen=True)
class Status(Action):
    """Answer `code` without asking the registry; the request body is read first."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b'{"errors":[{"code":"UNKNOWN","message":"injected"}]}'

    def before(self, request: Request) -> Reply | None:
        """Read the body, then answer."""
        request.read(1 << 62)
        return answer(self.code, self.headers, self.body)


@dataclass(frozen=True)
class RefuseMidUpload(Action):
    """Read `after_bytes` of the request body, answer `code` and close."""

    after_bytes: int
    code: int = 401
    headers: Mapping[str, str] = field(default_factory=dict)

    def before(self, request: Request) -> Reply | None:
        """Answer with the body still coming."""
        request.read(self.after_bytes)
        return replace(answer(self.code, self.headers, b""), close=True)


@dataclass(frozen=True)
class ResetBefore(Action):
    """Reset the connection after `after_bytes` of the request body, with no answer."""

    after_bytes: int = 0

    def before(self, request: Request) -> Reply | None:
        """Read so much, then RST."""
        request.read(self.after_bytes)
        raise Reset


@dataclass(frozen=True)
class Stall(Action):
    """Hold the response until `release` is set or the client leaves.

    With `after_bytes` the head and so much of the body are sent first.
    """

    release: threading.Event
    after_bytes: int | None = None

    def before(self, request: Request) -> Reply | None:
        """Hold before anything was sent."""
        if self.after_bytes is None:
            request.wait(self.release)
        return None

    def after(self, _request: Request, reply: Reply) -> Reply:
        """Hold in the middle of the body."""
        return replace(reply, hold_after=self.after_bytes, release=self.release)


@dataclass(frozen=True)
class IgnoreRange(Action):
    """Answer a range request with 200 and the whole."""

    def before(self, request: Request) -> Reply | None:
        """The registry never hears of the range."""
        request.headers.pop("range", None)
        return None


@dataclass(frozen=True)
class Redirect(Action):
    """Send the client to `url`, or to `url(path)`."""

    url: str | Callable[[str], str]
    code: int = 307

    def before(self, request: Request) -> Reply | None:
        """Answer with the Location."""
        request.read(1 << 62)
        target = self.url if isinstance(self.url, str) else self.url(request.path)
        return answer(self.code, {"Location": target}, b"")


@dataclass(frozen=True)
class ForeignLocation(Action):
    """Move the Location of a reply to another origin, the path kept."""

    origin: str

    def after(self, _request: Request, reply: Reply) -> Reply:
        """Replace the origin."""
        location = reply.header("location")
        if location is None:
            return reply
        path = re.sub(r"^https?://[^/]+", "", location)
        return reply.with_headers({"Location": self.origin.rstrip("/") + path})


@dataclass(frozen=True)
class Headers(Action):
    """Set response headers, or remove those that are None; for `request`, the request's."""

    changes: Mapping[str, str | None]
    request: Mapping[str, str | None] = field(default_factory=dict)

    def before(self, request: Request) -> Reply | None:
        """Change what the registry sees."""
        for name, value in self.request.items():
            request.headers.pop(name.lower(), None)
            if value is not None:
                request.headers[name.lower()] = value
        return None

    def after(self, _request: Request, reply: Reply) -> Reply:
        """Change what the client sees."""
        return reply.with_headers(self.changes)


@dataclass(frozen=True)
class ChangeStatus(Action):
    """Turn the status `old` of a real reply into `new`."""

    old: int
    new: int

    def after(self, _request: Request, reply: Reply) -> Reply:
        """Only when it was `old`."""
        return replace(reply, status=self.new) if reply.status == self.old else reply


@dataclass(frozen=True)
class ReplaceBody(Action):
    """Answer with other bytes under the true headers: a tampered manifest or blob."""

    body: bytes

    def after(self, request: Request, reply: Reply) -> Reply:
        """The length follows the new bytes; every other header stays."""
        for _ in reply.blocks:
            pass
        blocks = iter(()) if request.method == "HEAD" else iter((self.body,))
        changed = reply.with_headers({"Content-Length": str(len(self.body))})
        return replace(changed, blocks=blocks)


@dataclass
class Fault:
    """An action for the requests that match `method` and `path` (regex, searched) and `when`.

    It lets `skip` matching requests pass, then acts `times` times (None: for ever).
    """

    action: Action
    method: str = ""
    path: str = ""
    times: int | None = 1
    skip: int = 0
    when: Callable[[Request], bool] | None = None
    hits: int = 0

    def matches(self, request: Request) -> bool:
        """Whether it applies, counts aside."""
        if not re.fullmatch(self.method or ".*", request.method):
            return False
        if not re.search(self.path, request.path):
            return False
        return self.when is None or self.when(request)


def answer(status: int, headers: Mapping[str, str], body: bytes) -> Reply:
    """A reply of the proxy's own."""
    lines = [*headers.items(), ("Content-Length", str(len(body)))]
    return Reply(status, lines, iter((body,)))
