"""A reverse proxy before a real registry that fails on demand and counts what passes."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import select
import socket
import ssl
import struct
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.servers.faults import HOP_HEADERS, Action, Fault, Reply, Reset
from tests.servers.loopback import BLOCK, AnyMethodHandler, LoopbackServer, lower

if TYPE_CHECKING:
    from tests.servers.certs import Certs

BUFFERED = 64 * 1024 * 1024  # a body without a length is held whole, up to this
LINGER_S = 2.0
HOLD_S = 60.0  # no stall lasts longer, whatever the test forgets


@dataclass
class Exchange:
    """One request and its answer; the counts grow while bytes pass."""

    method: str
    path: str
    headers: dict[str, str]
    status: int = 0
    request_bytes: int = 0
    response_bytes: int = 0
    faults: tuple[str, ...] = ()


class FaultProxy(LoopbackServer):
    """`FaultProxy(registry.url)`: add faults, point the client at `.host`, read the `.log`.

    `cafile` verifies an https upstream; `tls` makes the proxy itself speak TLS.
    """

    def __init__(
        self, upstream: str, *, cafile: Path | None = None, tls: Certs | None = None
    ) -> None:
        super().__init__(tls=tls)
        self.upstream = upstream.rstrip("/")
        self.closing = threading.Event()
        self._context = ssl.create_default_context(cafile=str(cafile)) if cafile else None
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._log: list[Exchange] = []

    def add(
        self,
        action: Action,
        *,
        method: str = "",
        path: str = "",
        times: int | None = 1,
        skip: int = 0,
    ) -> Fault:
        """Do `action` to the requests that match (regexes), `times` times after `skip`."""
        fault = Fault(action, method=method, path=path, times=times, skip=skip)
        self.apply([fault])
        return fault

    def apply(self, faults: Iterable[Fault]) -> None:
        """Add ready-made faults, such as a registry's quirks."""
        with self._lock:
            self._faults.extend(faults)

    def clear(self) -> None:
        """Forget faults and log."""
        with self._lock:
            self._faults.clear()
            self._log.clear()

    @property
    def log(self) -> list[Exchange]:
        """Every exchange so far, in the order in which requests came."""
        with self._lock:
            return list(self._log)

    def select(self, method: str = "", path: str = "") -> list[Exchange]:
        """The exchanges whose method and path match (regexes)."""
        wanted = re.compile(method or ".*")
        return [
            exchange
            for exchange in self.log
            if wanted.fullmatch(exchange.method) and re.search(path, exchange.path)
        ]

    def count(self, method: str = "", path: str = "") -> int:
        """How many requests matched."""
        return len(self.select(method, path))

    def uploaded(self, path: str = "/blobs/") -> int:
        """Request body bytes that came in under `path`."""
        return sum(exchange.request_bytes for exchange in self.select(path=path))

    def downloaded(self, path: str = "/blobs/") -> int:
        """Response body bytes that went out under `path`."""
        return sum(exchange.response_bytes for exchange in self.select(path=path))

    def handler(self) -> type[BaseHTTPRequestHandler]:
        """A handler class bound to this proxy."""
        return type("ProxyHandler", (_Handler,), {"proxy": self})

    def begin(self, exchange: Exchange) -> None:
        """Log a request as it comes in."""
        with self._lock:
            self._log.append(exchange)

    def take(self, request: _Request) -> list[Action]:
        """The actions for this request, their counts used up."""
        with self._lock:
            faults = list(self._faults)
        matching = [fault for fault in faults if fault.matches(request)]
        with self._lock:
            return [fault.action for fault in matching if _use(fault)]

    def connect(self) -> http.client.HTTPConnection:
        """A fresh connection to the upstream."""
        parts = urlsplit(self.upstream)
        if parts.scheme == "https":
            return http.client.HTTPSConnection(parts.netloc, timeout=60, context=self._context)
        return http.client.HTTPConnection(parts.netloc, timeout=60)

    def __exit__(self, *exc: object) -> None:
        self.closing.set()
        super().__exit__(*exc)


def _use(fault: Fault) -> bool:
    """Count one match; whether the fault acts on it."""
    fault.hits += 1
    number = fault.hits - fault.skip
    return number > 0 and (fault.times is None or number <= fault.times)


class _Request:
    """The request as actions see it, and its body as the upstream gets it."""

    def __init__(self, handler: _Handler, exchange: Exchange) -> None:
        self.method = exchange.method
        self.path = exchange.path
        self.headers = dict(exchange.headers)
        self._handler = handler
        self._exchange = exchange
        self._blocks = self._counted()
        self._whole: bytes | None = None
        self._unread = bool(self.length()) or "transfer-encoding" in self.headers

    def length(self) -> int:
        """The announced length."""
        return int(self.headers.get("content-length") or 0)

    def body(self) -> bytes:
        """The whole body; forwarded from the buffer."""
        if self._whole is None:
            self._whole = b"".join(self._blocks)
        return self._whole

    def read(self, n_bytes: int) -> int:
        """Throw away at least this much of the body, to the next block."""
        seen = 0
        while seen < n_bytes:
            block = next(self._blocks, b"")
            if not block:
                break
            seen += len(block)
        return seen

    def wait(self, release: threading.Event) -> None:
        """Hold; Reset when the client leaves or the proxy stops."""
        sock = self._handler.connection
        for _ in range(int(HOLD_S / 0.02)):
            if release.wait(0.02):
                return
            if self._handler.proxy.closing.is_set() or _left(sock):
                raise Reset
        raise Reset

    def unread(self) -> bool:
        """Whether body bytes are still to come, so that the connection cannot be kept."""
        return self._unread

    def forwarded(self) -> Iterator[bytes] | bytes | None:
        """The body for the upstream; None when there is none."""
        if self._whole is not None:
            return self._whole
        return self._blocks if self._unread else None

    def _counted(self) -> Iterator[bytes]:
        for block in self._handler.body_blocks():
            self._exchange.request_bytes += len(block)
            yield block
        self._unread = False


class _Handler(AnyMethodHandler):
    proxy: FaultProxy

    def any(self) -> None:
        exchange = Exchange(self.command, self.path, lower(self.headers))
        self.proxy.begin(exchange)
        request = _Request(self, exchange)
        try:
            actions = self.proxy.take(request)
            exchange.faults = tuple(type(action).__name__ for action in actions)
            self._serve(request, exchange, actions)
        except Reset:
            self._end(rst=True)
        except (OSError, http.client.HTTPException):
            self._end(rst=False)

    def _serve(self, request: _Request, exchange: Exchange, actions: list[Action]) -> None:
        for action in actions:
            reply = action.before(request)
            if reply is not None:
                self._send(request, reply, exchange)
                return
        upstream = self.proxy.connect()
        try:
            reply = self._forward(upstream, request)
            for action in actions:
                reply = action.after(request, reply)
            self._send(request, reply, exchange)
        finally:
            upstream.close()

    def _forward(self, upstream: http.client.HTTPConnection, request: _Request) -> Reply:
        skipped = HOP_HEADERS | {"host", "expect"}
        headers = {key: value for key, value in request.headers.items() if key not in skipped}
        body = request.forwarded()
        chunked = "content-length" not in headers and body is not None
        # An upstream that answers before it has read everything: its answer counts.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            upstream.request(request.method, request.path, body, headers, encode_chunked=chunked)
        response = upstream.getresponse()
        return self._reply_of(response)

    def _reply_of(self, response: http.client.HTTPResponse) -> Reply:
        headers = [(key, value) for key, value in response.getheaders() if _kept(key)]
        blocks: Iterator[bytes] = iter(lambda: response.read(BLOCK), b"")
        reply = Reply(response.status, headers, blocks)
        if reply.header("content-length") is None and response.status not in {204, 304}:
            whole = response.read(BUFFERED)
            reply = replace(reply, blocks=iter((whole,) if whole else ()))
            reply = reply.with_headers({"Content-Length": str(len(whole))})
        location = reply.header("location")
        if location is not None and location.startswith(self.proxy.upstream):
            own = self.proxy.url + location.removeprefix(self.proxy.upstream)
            reply = reply.with_headers({"Location": own})
        return reply

    def _send(self, request: _Request, reply: Reply, exchange: Exchange) -> None:
        exchange.status = reply.status
        self.send_response_only(reply.status)
        for name, value in reply.headers:
            self.send_header(name, value)
        if reply.close:
            self.send_header("Connection", "close")
        self.end_headers()
        announced = int(reply.header("content-length") or 0)
        sent = 0 if request.method == "HEAD" else self._body(request, reply, exchange)
        if reply.cut_after is not None and request.method != "HEAD":
            self._end(rst=reply.rst)
        elif reply.close or request.unread() or (request.method != "HEAD" and sent < announced):
            self._end(rst=False)

    def _body(self, request: _Request, reply: Reply, exchange: Exchange) -> int:
        """Send the body as far as the reply allows; how much went out."""
        sent = 0
        for piece in _cut(reply.blocks, reply.cut_after, reply.hold_after):
            if sent == reply.hold_after and reply.release is not None:
                request.wait(reply.release)
            exchange.response_bytes += len(piece)
            self.wfile.write(piece)
            sent += len(piece)
        return sent

    def _end(self, *, rst: bool) -> None:
        """End the connection: at once with RST, or with FIN after what the client still sends."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            if rst:
                _reset(self.connection)
            else:
                _linger(self.connection)


def _kept(name: str) -> bool:
    return name.lower() not in HOP_HEADERS


def _cut(blocks: Iterator[bytes], end: int | None, hold: int | None) -> Iterator[bytes]:
    """The blocks up to byte `end`, with a block border at byte `hold`."""
    seen = 0
    for block in blocks:
        whole = block if end is None else block[: end - seen]
        at = -1 if hold is None else hold - seen
        parts = (whole[:at], whole[at:]) if 0 < at < len(whole) else (whole,)
        yield from (part for part in parts if part)
        seen += len(whole)
        if seen == end:
            return


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(sock.detach())


def _linger(sock: socket.socket) -> None:
    """FIN, then read on until the client has seen it, so that no RST destroys the answer."""
    sock.shutdown(socket.SHUT_WR)
    sock.settimeout(LINGER_S)
    while sock.recv(BLOCK):
        pass


def _left(sock: socket.socket) -> bool:
    """Whether the client closed its end."""
    if not select.select([sock], [], [], 0)[0]:
        return False
    if isinstance(sock, ssl.SSLSocket):
        return False
    try:
        return sock.recv(1, socket.MSG_PEEK) == b""
    except OSError:
        return True
