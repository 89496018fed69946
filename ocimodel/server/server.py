"""The server itself: an address, a thread per connection, a clean end."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import sys
import threading
from types import TracebackType
from typing import Any, Self

from ocimodel.errors import TargetError, UsageError
from ocimodel.server.api import Api
from ocimodel.server.handler import Handler, Log
from ocimodel.spec.reference import is_loopback
from ocimodel.store.layout import Layout

DEFAULT_ADDRESS = ("127.0.0.1", 5000)


def parse_address(text: str) -> tuple[str, int]:
    """`HOST:PORT`, `[HOST]:PORT`, `:PORT` or `HOST` as (host, port); UsageError otherwise."""
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text, str(DEFAULT_ADDRESS[1])
    if not (port.isascii() and port.isdecimal() and int(port) < 1 << 16):
        raise UsageError(f"{text!r} is no address to listen on", hint="write HOST:PORT")
    bare = host.removeprefix("[").removesuffix("]")
    if ":" in bare and bare == host:
        raise UsageError(f"{text!r} is no address to listen on", hint="write [HOST]:PORT")
    return bare or DEFAULT_ADDRESS[0], int(port)


class RegistryServer:
    """Serves `layout` at `address` from the moment it is made; port 0 takes a free one.

    `log` is called with one line a request, from many threads. As a context manager it serves in
    a thread of its own and shuts down at the end. TargetError when the address cannot be had.
    """

    def __init__(
        self,
        layout: Layout,
        address: tuple[str, int] = DEFAULT_ADDRESS,
        *,
        read_only: bool = False,
        log: Log | None = None,
    ) -> None:
        self._api = Api(layout, read_only=read_only)
        try:
            self._listener = _Listener(address, self._api, log)
        except OSError as error:
            raise TargetError(
                f"cannot listen on {address[0]}:{address[1]}: {error.strerror or error}",
                hint="choose another one: --listen 127.0.0.1:0 takes any free port",
            ) from error
        self._serving: threading.Thread | None = None
        self._ended = threading.Event()

    @property
    def host(self) -> str:
        """`HOST:PORT`, as it goes before the / of a reference."""
        host, port = self._listener.server_address[:2]
        name = str(host)
        return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it. If not, say so: anyone may push and delete."""
        return is_loopback(self.host)

    def serve_forever(self) -> None:
        """Serve until `shutdown` is called, from another thread or a signal handler."""
        self._serving = threading.current_thread()
        try:
            if not self._ended.is_set():
                self._listener.serve_forever(poll_interval=0.1)
        finally:
            self._close()

    def shutdown(self) -> None:
        """Stop, and end all connections. May be called twice, and before serving."""
        self._ended.set()
        if self._serving is None:
            self._close()
        elif self._serving is threading.current_thread():
            # a signal handler: the loop that it interrupted must go on to see the end
            threading.Thread(target=self._listener.shutdown, daemon=True).start()
        elif self._serving.is_alive():
            self._listener.shutdown()

    def _close(self) -> None:
        self._listener.server_close()
        self._listener.hang_up()
        self._api.close()

    def __enter__(self) -> Self:
        thread = threading.Thread(target=self.serve_forever, name="ocimodel-serve", daemon=True)
        self._serving = thread
        thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown()
        if self._serving is not None:
            self._serving.join()


class _Listener(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], api: Api, log: Log | None) -> None:
        self.api = api
        self.log = log
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._open_lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End the connections that are still there; their threads then end too."""
        with self._open_lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if self.log is not None:
            self.log(f"{client_address[0]} failed: {sys.exc_info()[1]!r}")
