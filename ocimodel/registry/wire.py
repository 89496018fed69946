"""One HTTP exchange: connections, TLS, proxies. No authorization, redirects or retries.

http.client with `readinto` moves more bytes a CPU second than any other client in Python, for it
copies none of them twice; see bench/README.md.
"""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from ocimodel.errors import InputError
from ocimodel.store.protocol import Advance, Reader
from ocimodel.store.streams import Stream, thread_buffer

# idle connections kept for each origin
MAX_IDLE = 16

NetworkErrors = (OSError, http.client.HTTPException)


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """How to trust and present. `ca_files` add to the system's; `verify` False trusts anyone."""

    ca_files: tuple[Path, ...] = ()
    client_certificates: tuple[tuple[Path, Path | None], ...] = ()
    verify: bool = True


@dataclass(frozen=True, slots=True)
class Body:
    """What to send: `open` starts it from the beginning, `length` is in bytes."""

    open: Callable[[], Reader]
    length: int
    advance: Advance


class Answer(Stream):
    """A response whose body is still on the wire. Header names are lower-case.

    `close` gives the connection back if the body was read to its end, and else closes it.
    """

    def __init__(
        self,
        response: http.client.HTTPResponse,
        give_back: Callable[[bool], None],
        url: str,
        sock: socket.socket,
    ) -> None:
        self.status = response.status
        self.url = url
        self.headers = {k.lower(): v for k, v in response.getheaders()}
        self.challenges = response.headers.get_all("WWW-Authenticate") or []
        self.start = 0
        # None and chunked bodies: as long as it comes
        self.length = -1 if response.length is None else response.length
        self._response = response
        self._give_back: Callable[[bool], None] | None = give_back
        self._sock = sock

    def wait_at_most(self, wait_s: float) -> None:
        """Let a read without any byte fail sooner than the client's timeout; never later."""
        # closed already where there was nothing to read
        with contextlib.suppress(OSError):
            self._sock.settimeout(min(wait_s, self._sock.gettimeout() or wait_s))

    def readinto(self, buffer: memoryview, /) -> int:
        return self._response.readinto(buffer)

    def read(self, limit: int) -> bytes:
        """The whole body; InputError when it is over `limit` bytes."""
        body = self._response.read(limit + 1)
        if len(body) > limit:
            self.close()
            raise InputError(
                f"the answer of {place(self.url)} is over the limit of {limit} bytes",
                hint="no document of a registry is that big: check what the reference names",
            )
        if self.length > len(body) and self._response.length != 0:
            raise http.client.IncompleteRead(body, self.length - len(body))
        self.close()
        return body

    def close(self) -> None:
        give_back, self._give_back = self._give_back, None
        if give_back:
            ended = self._response.isclosed() or self._response.length == 0
            self._response.close()
            give_back(ended and not self._response.will_close)


class Wire:
    """Connections of one client, kept for reuse. Thread-safe.

    `tls_for`: the TLS options for a host, with which its connections are made.
    """

    def __init__(
        self,
        tls_for: Callable[[str], TlsOptions],
        environ: Mapping[str, str],
        *,
        timeout_s: float,
        user_agent: str,
    ) -> None:
        self._tls_for = tls_for
        self._environ = environ
        self._timeout_s = timeout_s
        self._user_agent = user_agent
        self._idle: dict[str, list[http.client.HTTPConnection]] = {}
        self._lock = threading.Lock()

    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: Body | bytes | None = None
    ) -> Answer:
        """Raises NetworkErrors as they come; a stale kept connection is replaced unnoticed."""
        target = urlsplit(url)
        key = f"{target.scheme}://{target.netloc}"
        while True:
            connection, is_fresh = self._take(key, target)
            try:
                return self._exchange(connection, key, method, target, headers, body)
            except BaseException as error:
                connection.close()
                stale = isinstance(
                    error, http.client.RemoteDisconnected | BrokenPipeError | ConnectionResetError
                )
                # the other side may close a kept connection at any moment; a streamed body could
                # have been taken, so that its sender decides
                if is_fresh or not stale or isinstance(body, Body):
                    raise

    def _take(self, key: str, target: SplitResult) -> tuple[http.client.HTTPConnection, bool]:
        with self._lock:
            idle = self._idle.get(key)
            if idle:
                connection = idle.pop()
                connection.sock.settimeout(self._timeout_s)
                return connection, False
        return self._connect(target), True

    def _give(self, key: str, connection: http.client.HTTPConnection, usable: bool) -> None:
        with self._lock:
            idle = self._idle.setdefault(key, [])
            if usable and len(idle) < MAX_IDLE:
                idle.append(connection)
                return
        connection.close()

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        key: str,
        method: str,
        target: SplitResult,
        headers: Mapping[str, str],
        body: Body | bytes | None,
    ) -> Answer:
        path = (target.path or "/") + (f"?{target.query}" if target.query else "")
        if getattr(connection, "through_proxy", False):
            path = key + path
        connection.putrequest(method, path, skip_accept_encoding=True)
        length = body.length if isinstance(body, Body) else len(body or b"")
        if body is not None or method in ("POST", "PUT", "PATCH"):
            connection.putheader("Content-Length", str(length))
        connection.putheader("User-Agent", self._user_agent)
        for name, value in headers.items():
            connection.putheader(name, value)
        for name, value in getattr(connection, "proxy_headers", {}).items():
            connection.putheader(name, value)
        early = False
        if isinstance(body, Body):
            connection.endheaders()
            early = _send_body(connection, body)
        else:
            connection.endheaders(body)
        # the connection forgets it where the answer says that it is the last one
        sock = connection.sock
        response = connection.getresponse()
        return Answer(
            response,
            lambda usable: self._give(key, connection, usable and not early),
            f"{key}{target.path}" + (f"?{target.query}" if target.query else ""),
            sock,
        )

    def _connect(self, target: SplitResult) -> http.client.HTTPConnection:
        host, port = target.hostname or "", target.port
        proxy = _proxy_for(target, self._environ)
        if target.scheme == "https":
            context = _context(self._tls_for(target.netloc))
            if proxy is None:
                return http.client.HTTPSConnection(
                    host, port, timeout=self._timeout_s, context=context
                )
            tunnel = http.client.HTTPSConnection(
                proxy.hostname or "", proxy.port or 80, timeout=self._timeout_s, context=context
            )
            tunnel.set_tunnel(host, port or 443, _proxy_headers(proxy))
            return tunnel
        if proxy is None:
            return http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        connection = http.client.HTTPConnection(
            proxy.hostname or "", proxy.port, timeout=self._timeout_s
        )
        connection.through_proxy = True  # type: ignore[attr-defined]
        connection.proxy_headers = _proxy_headers(proxy)  # type: ignore[attr-defined]
        return connection

    def close(self) -> None:
        with self._lock:
            for connections in self._idle.values():
                for connection in connections:
                    connection.close()
            self._idle.clear()


def _send_body(connection: http.client.HTTPConnection, body: Body) -> bool:
    """Stream the body; True when the other side answered before its end."""
    sock: socket.socket = connection.sock
    buffer = thread_buffer()
    left = body.length
    # under TLS the socket is readable as soon as the server sends its session tickets
    is_plain = not isinstance(sock, ssl.SSLSocket)
    with body.open() as reader:
        while left:
            n = reader.readinto(buffer[:left])
            if n == 0:
                raise InputError("the content ended early: it changed while it was sent")
            if is_plain and select.select([sock], [], [], 0)[0]:
                return True
            try:
                sock.sendall(buffer[:n])
            except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
                # often an answer such as 401 or 413 is there already
                if select.select([sock], [], [], 1)[0]:
                    return True
                raise
            left -= n
            body.advance(n)
    return False


@lru_cache(maxsize=16)
def _context(options: TlsOptions) -> ssl.SSLContext:
    """One context for equal options: loading the system's roots takes tens of milliseconds."""
    try:
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        for path in options.ca_files:
            context.load_verify_locations(cafile=path)
        for certificate, key in options.client_certificates:
            context.load_cert_chain(certificate, key)
    except OSError as error:
        files = [str(p) for p in options.ca_files]
        files += [str(p) for pair in options.client_certificates for p in pair if p]
        raise InputError(f"cannot load the TLS files {', '.join(files)}: {error}") from error
    if not options.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _proxy_for(target: SplitResult, environ: Mapping[str, str]) -> SplitResult | None:
    """The proxy to go through, by the customary variables, in lower or upper case."""
    if not any(k.lower().endswith("_proxy") for k in environ):
        return None
    scheme = target.scheme
    value = environ.get(f"{scheme}_proxy") or environ.get("all_proxy")
    # HTTP_PROXY can be set by a request header under CGI
    if "REQUEST_METHOD" not in environ or scheme != "http":
        value = value or environ.get(f"{scheme.upper()}_PROXY")
    value = value or environ.get("ALL_PROXY")
    if not value or _bypassed(target, environ):
        return None
    proxy = urlsplit(value if "://" in value else f"http://{value}")
    if proxy.scheme != "http" or not proxy.hostname:
        raise InputError(
            f"the proxy {proxy.scheme}://{proxy.hostname} cannot be used",
            hint="set an http:// proxy; HTTPS requests are tunnelled through it",
        )
    return proxy


def _bypassed(target: SplitResult, environ: Mapping[str, str]) -> bool:
    from urllib import request

    no_proxy = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    host = target.hostname or ""
    if host in ("localhost", "::1") or host.startswith("127."):
        return True
    bypass = request.proxy_bypass_environment  # type: ignore[attr-defined]
    return bool(bypass(target.netloc.rpartition("@")[2], {"no": no_proxy}))


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    user = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": "Basic " + b64encode(user.encode()).decode()}


def origin_of(url: str) -> str:
    """`scheme://host:port` with the default port spelled out, in lower case."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    return f"{parts.scheme}://{(parts.hostname or '').lower()}:{port}"


def place(url: str) -> str:
    """A URL for messages: no query, which may hold a signature, and no user."""
    parts = urlsplit(url)
    with contextlib.suppress(ValueError):
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"
    return parts.scheme
