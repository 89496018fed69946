"""Requests, responses and errors of the API, without a socket in sight."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from ocimodel.errors import InputError, OcimodelError
from ocimodel.server.body import Body
from ocimodel.server.routes import Route
from ocimodel.spec.digest import parse_digest

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class FileBody:
    """A range of an open file; whoever sends the response closes it."""

    file: BinaryIO
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Response:
    """`content_length`: of an answer to HEAD, which has no body but tells its size."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | FileBody = b""
    content_length: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """`query`: the first value of each key. `headers`: names in lower case."""

    method: str
    route: Route
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Body


class ApiError(OcimodelError):
    """An answer with an error body. `code`: one of distribution-spec v1.1.1, "Error Codes"."""

    kind = "api"

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})

    def response(self) -> Response:
        document = {"errors": [{"code": self.code, "message": str(self)}]}
        return json_response(document, status=self.status, headers=self.headers)


def json_response(
    document: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    body = json.dumps(document).encode()
    return Response(status, {"Content-Type": JSON, **(headers or {})}, body)


def digest_of(text: str) -> str:
    """`text` as a digest; 400 DIGEST_INVALID otherwise."""
    try:
        return parse_digest(text)
    except InputError as error:
        raise ApiError(400, "DIGEST_INVALID", str(error)) from error
