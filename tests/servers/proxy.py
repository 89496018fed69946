"""A forward proxy: CONNECT for https, absolute-form for http, with a password if asked.

It finds hosts by its own table, so that names which exist nowhere lead to loopback servers.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import select
import socket
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from tests.servers.loopback import BLOCK, AnyMethodHandler, LoopbackServer, lower

HOP = {"connection", "proxy-authorization", "proxy-connection", "transfer-encoding"}


class ForwardProxy(LoopbackServer):
    """`hosts`: `name:port` → `127.0.0.1:port`; others are refused with 502.

    `seen` are the request lines' methods and targets.
    """

    def __init__(self, hosts: Mapping[str, str], *, login: tuple[str, str] | None = None) -> None:
        super().__init__()
        self.hosts = dict(hosts)
        self._login = login
        self._lock = threading.Lock()
        self._seen: list[tuple[str, str]] = []

    def handler(self) -> type[BaseHTTPRequestHandler]:
        return type("ForwardHandler", (_Handler,), {"proxy": self})

    @property
    def seen(self) -> list[tuple[str, str]]:
        with self._lock:
            return list(self._seen)

    def note(self, method: str, target: str) -> None:
        with self._lock:
            self._seen.append((method, target))

    def allows(self, authorization: str) -> bool:
        if self._login is None:
            return True
        pair = base64.b64encode(":".join(self._login).encode()).decode()
        return authorization == f"Basic {pair}"


class _Handler(AnyMethodHandler):
    proxy: ForwardProxy

    def _upstream(self, name: str) -> str | None:
        """Where to go, or an answer that says why not."""
        self.proxy.note(self.command, self.path)
        if not self.proxy.allows(self.headers.get("Proxy-Authorization") or ""):
            self.answer(407, {"Proxy-Authenticate": "Basic realm=proxy", "Connection": "close"})
        elif name not in self.proxy.hosts:
            self.answer(502, {"Connection": "close"})
        else:
            return self.proxy.hosts[name]
        self.close_connection = True
        return None

    def do_CONNECT(self) -> None:
        upstream = self._upstream(self.path)
        if upstream is None:
            return
        host, _, port = upstream.partition(":")
        with socket.create_connection((host, int(port)), timeout=20) as other:
            self.send_response_only(200)
            self.end_headers()
            _relay(self.connection, other)
        self.close_connection = True

    def any(self) -> None:
        parts = urlsplit(self.path)
        name = parts.netloc if parts.port else f"{parts.netloc}:80"
        upstream = self._upstream(name)
        if upstream is None:
            return
        headers = {k: v for k, v in lower(self.headers).items() if k not in HOP}
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        connection = http.client.HTTPConnection(upstream, timeout=20)
        try:
            connection.request(self.command, path, self.body(), headers)
            response = connection.getresponse()
            body = response.read()
            kept = {k: v for k, v in response.getheaders() if k.lower() not in HOP}
            if self.command != "HEAD":
                kept.pop("Content-Length", None)
            self.answer(response.status, kept, body)
        finally:
            connection.close()


def _relay(one: socket.socket, other: socket.socket) -> None:
    """Bytes both ways, until one side ends."""
    with contextlib.suppress(OSError):
        while True:
            for ready in select.select([one, other], [], [])[0]:
                data = ready.recv(BLOCK)
                if not data:
                    return
                (other if ready is one else one).sendall(data)
