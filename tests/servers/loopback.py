"""The base of the in-process HTTP/1.1 servers: a thread, a free port, a clean end."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.servers.process import LOOPBACK

if TYPE_CHECKING:
    from tests.servers.certs import Certs

BLOCK = 64 * 1024
HANDSHAKE_S = 10
CREDENTIAL_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie"})


class _Server(ThreadingHTTPServer):
    """Remembers its open connections, so that a stop ends keep-alive threads too."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, handler: type[BaseHTTPRequestHandler], tls: Certs | None) -> None:
        super().__init__((LOOPBACK, 0), handler)
        self._context = tls.server_context() if tls else None
        self._lock = threading.Lock()
        self._open: set[Any] = set()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve one connection, in its own thread (so is the TLS handshake)."""
        sock = request
        if self._context is not None:
            try:
                request.settimeout(HANDSHAKE_S)
                sock = self._context.wrap_socket(request, server_side=True)
            except OSError:
                return
        with self._lock:
            self._open.add(sock)
        try:
            super().finish_request(sock, client_address)
        finally:
            with self._lock:
                self._open.discard(sock)
            if sock is not request:
                with contextlib.suppress(OSError):
                    sock.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is no error here."""

    def close_connections(self) -> None:
        """Wake every thread that waits on a client."""
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)


class LoopbackServer:
    """An HTTP server in a thread; a context manager with `.host` and `.url`."""

    def __init__(self, *, tls: Certs | None = None) -> None:
        self.tls = tls
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._port = 0

    def handler(self) -> type[BaseHTTPRequestHandler]:
        """The handler class, bound to this server."""
        raise NotImplementedError

    @property
    def host(self) -> str:
        """`127.0.0.1:PORT`."""
        return f"{LOOPBACK}:{self._port}"

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`, or https."""
        return f"{'https' if self.tls else 'http'}://{self.host}"

    def __enter__(self) -> Self:
        self._server = _Server(self.handler(), self.tls)
        self._port = int(self._server.server_address[1])
        serve = self._server.serve_forever
        self._thread = threading.Thread(target=serve, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._server.close_connections()
        self._server.server_close()
        self._thread.join(timeout=5)
        self._server = None


class QuietHandler(BaseHTTPRequestHandler):
    """HTTP/1.1 with keep-alive, no log, and body reading for both framings."""

    protocol_version = "HTTP/1.1"
    server_version = "test"
    disable_nagle_algorithm = True
    timeout = 120

    def log_message(self, *_args: Any) -> None:
        """The tests keep their own log."""

    def body_blocks(self) -> Iterator[bytes]:
        """The request's body in blocks of at most 64 KiB."""
        if "chunked" in (self.headers.get("Transfer-Encoding") or "").lower():
            yield from self._chunked()
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left > 0:
            block = self.rfile.read1(min(left, BLOCK))
            if not block:
                raise ConnectionError("the client left in the middle of its body")
            left -= len(block)
            yield block

    def body(self) -> bytes:
        """The whole request body."""
        return b"".join(self.body_blocks())

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        """Send a complete response; HEAD gets the headers only."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name in headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _chunked(self) -> Iterator[bytes]:
        while True:
            left = int(self.rfile.readline(64).split(b";")[0], 16)
            if left == 0:
                while self.rfile.readline(BLOCK).strip():
                    pass
                return
            while left:
                block = self.rfile.read1(min(left, BLOCK))
                if not block:
                    raise ConnectionError("the client left in the middle of a chunk")
                left -= len(block)
                yield block
            self.rfile.readline(8)


class AnyMethodHandler(QuietHandler):
    """One method for every verb."""

    def any(self) -> None:
        """Answer the request, whatever its verb."""
        raise NotImplementedError

    def do_GET(self) -> None:
        self.any()

    def do_HEAD(self) -> None:
        self.any()

    def do_PUT(self) -> None:
        self.any()

    def do_POST(self) -> None:
        self.any()

    def do_PATCH(self) -> None:
        self.any()

    def do_DELETE(self) -> None:
        self.any()


def lower(headers: Any) -> dict[str, str]:
    """Headers as a plain dict with lower-case names."""
    return {name.lower(): value for name, value in headers.items()}


def cache_root() -> Path:
    """The repository's git-ignored cache folder."""
    return Path(__file__).resolve().parents[2] / ".cache"
