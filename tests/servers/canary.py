"""A host that must never see a credential: the target of redirects and foreign Locations."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

from tests.servers.loopback import CREDENTIAL_HEADERS, AnyMethodHandler, LoopbackServer, lower

if TYPE_CHECKING:
    from tests.servers.certs import Certs

RANGE = re.compile(r"bytes=(\d+)-(\d*)$")


@dataclass(frozen=True, slots=True)
class Seen:
    """One request: header names are lower-case; `body_bytes` counts its body."""

    method: str
    path: str
    headers: dict[str, str]
    body_bytes: int


class Canary(LoopbackServer):
    """Serves given bodies by path, single ranges included; records every request.

    Uploads are accepted with 201 and thrown away; other paths answer 404.
    """

    def __init__(self, *, tls: Certs | None = None) -> None:
        super().__init__(tls=tls)
        self._lock = threading.Lock()
        self._bodies: dict[str, bytes] = {}
        self._seen: list[Seen] = []

    def serve(self, path: str, body: bytes) -> str:
        """Serve `body` under `path`, whatever the query; gives the whole URL."""
        with self._lock:
            self._bodies[path] = body
        return self.url + path

    def clear(self) -> None:
        """Forget the requests so far."""
        with self._lock:
            self._seen.clear()

    @property
    def requests(self) -> list[Seen]:
        """Every request so far."""
        with self._lock:
            return list(self._seen)

    def credentials(self) -> list[Seen]:
        """The requests that carried a credential: must stay empty."""
        return [seen for seen in self.requests if CREDENTIAL_HEADERS & seen.headers.keys()]

    def assert_clean(self) -> None:
        """Fail when any request carried a credential."""
        leaked = self.credentials()
        assert not leaked, f"a credential reached a foreign host: {leaked}"

    def record(self, seen: Seen) -> None:
        """Note one request."""
        with self._lock:
            self._seen.append(seen)

    def body_of(self, path: str) -> bytes | None:
        """What is served under `path`."""
        with self._lock:
            return self._bodies.get(path.partition("?")[0])

    def handler(self) -> type[BaseHTTPRequestHandler]:
        """A handler class bound to this canary."""
        return type("CanaryHandler", (_Handler,), {"canary": self})


class _Handler(AnyMethodHandler):
    canary: Canary

    def any(self) -> None:
        n_bytes = sum(len(block) for block in self.body_blocks())
        self.canary.record(Seen(self.command, self.path, lower(self.headers), n_bytes))
        if self.command in {"PUT", "PATCH", "POST"}:
            self.answer(201, {"Location": self.path})
            return
        body = self.canary.body_of(self.path)
        if body is None:
            self.answer(404, {}, b"no such path")
            return
        self._send(body)

    def _send(self, body: bytes) -> None:
        match = RANGE.match(self.headers.get("Range") or "")
        if match is None:
            self.answer(200, self._lengths(body), body)
            return
        start = int(match[1])
        end = min(int(match[2] or len(body) - 1), len(body) - 1)
        if start > end:
            self.answer(416, {"Content-Range": f"bytes */{len(body)}"})
            return
        part = body[start : end + 1]
        extra = {"Content-Range": f"bytes {start}-{end}/{len(body)}"}
        self.answer(206, self._lengths(part) | extra, part)

    def _lengths(self, body: bytes) -> dict[str, str]:
        return {"Accept-Ranges": "bytes", "Content-Length": str(len(body))}
