"""HTTP/1.1 on one connection: requests in, responses out. Source: RFC 9110, RFC 9112."""

from __future__ import annotations

import socket
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Protocol, cast
from urllib.parse import parse_qs, urlsplit

from ocimodel import errors
from ocimodel.server.api import Api
from ocimodel.server.body import Body, body_length
from ocimodel.server.messages import ApiError, FileBody, Request, Response
from ocimodel.server.routes import find_route

Log = Callable[[str], None]
IDLE_TIMEOUT_S = 120
# an unwanted body up to this size is read, so that the connection lives on
_SKIPPED_BYTES = 1 << 20
# one that is larger gets its answer, some time to take notice, and the end of the connection
_LINGER_BYTES = 64 << 20
_LINGER_S = 2


class Host(Protocol):
    """What a handler needs of its server."""

    api: Api
    log: Log | None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "ocimodel"
    sys_version = ""
    timeout = IDLE_TIMEOUT_S
    disable_nagle_algorithm = True
    # header and small body go out as one; blobs bypass it
    wbufsize = 1 << 16

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            # the client is gone, and its answer with it
            self.close_connection = True

    def handle_expect_100(self) -> bool:
        # not yet: the body says when it wants to be read
        return True

    def _serve(self) -> None:
        body = self._body()
        if body is None:
            return
        try:
            response = self._answer(body)
        except ApiError as error:
            response = error.response()
        self._settle(body, response)

    # http.server's names
    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

    def _body(self) -> Body | None:
        lengths = self.headers.get_all("Content-Length", [])
        try:
            length = body_length(self._lowered(), len(lengths))
        except ValueError as error:
            self.close_connection = True
            self._send(ApiError(400, "UNSUPPORTED", str(error)).response(), closing=True)
            return None
        expected = self.headers.get("Expect", "").lower() == "100-continue"
        proceed = self._proceed if expected and length != 0 else None
        return Body(self.rfile, length, proceed)

    def _proceed(self) -> None:
        self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.wfile.flush()

    def _lowered(self) -> dict[str, str]:
        return {key.lower(): value for key, value in self.headers.items()}

    def _answer(self, body: Body) -> Response:
        try:
            target = urlsplit(self.path)
            query = parse_qs(target.query, keep_blank_values=True, max_num_fields=20)
        except ValueError as error:
            raise ApiError(400, "UNSUPPORTED", f"malformed request target: {error}") from error
        route = find_route(target.path)
        if route is None:
            raise ApiError(404, "UNSUPPORTED", f"there is nothing at {target.path[:300]!r}")
        first = {key: values[0] for key, values in query.items()}
        request = Request(self.command, route, first, self._lowered(), body)
        try:
            return self._host.api.answer(request)
        except ApiError:
            raise
        except errors.TargetError as error:
            raise ApiError(507, "UNKNOWN", str(error)) from error
        except errors.OcimodelError as error:
            raise ApiError(500, "UNKNOWN", f"the layout is damaged: {error}") from error

    @property
    def _host(self) -> Host:
        return cast(Host, self.server)

    def _settle(self, body: Body, response: Response) -> None:
        """Answer, and leave the connection where the next request begins, or closed."""
        alive = False
        try:
            alive = body.discard(_SKIPPED_BYTES)
        except ValueError:
            self.log_message("the body is malformed")
        if not alive:
            self.close_connection = True
        self._send(response, closing=not alive)
        if not alive and not body.awaited:
            self._linger()

    def _linger(self) -> None:
        """Take in what is still under way: closing at once would cost the client its answer."""
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(_LINGER_S)
        n_left = _LINGER_BYTES
        while n_left > 0 and (taken := self.rfile.read1(1 << 16)):
            n_left -= len(taken)

    def _send(self, response: Response, *, closing: bool = False) -> None:
        body = response.body
        length = body.length if isinstance(body, FileBody) else len(body)
        try:
            self.send_response(response.status)
            self.send_header("Docker-Distribution-API-Version", "registry/2.0")
            for key, value in response.headers.items():
                self.send_header(key, value)
            if response.status != 204:
                shown = length if response.content_length is None else response.content_length
                self.send_header("Content-Length", str(shown))
            if closing:
                self.send_header("Connection", "close")
            self._send_body(body)
        finally:
            if isinstance(body, FileBody):
                body.file.close()

    def _send_body(self, body: bytes | FileBody) -> None:
        self.end_headers()
        if self.command == "HEAD":
            return
        if isinstance(body, bytes):
            self.wfile.write(body)
        elif body.length:
            self.wfile.flush()
            if self.connection.sendfile(body.file, body.start, body.length) != body.length:
                raise ConnectionError("the blob's file was cut while it was sent")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server itself finds wrong with a request, in the API's form."""
        self.close_connection = True
        self.command = getattr(self, "command", None) or "GET"
        text = message or explain or "the request is malformed"
        self._send(ApiError(code, "UNSUPPORTED", text).response(), closing=True)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        # the request line is the client's: nothing of it may move the cursor
        self.log_message("%s %s", ascii(self.requestline)[1:-1], int(code))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        if self._host.log is not None:
            self._host.log(f"{self.client_address[0]} {format % args}")
