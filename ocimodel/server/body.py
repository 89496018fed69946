"""The body of a request as a stream. Source: RFC 9112, 6 and 7.1."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping

from ocimodel.store.streams import thread_buffer

_LENGTH = re.compile(r"\d{1,18}")
_CHUNK = re.compile(rb"[0-9A-Fa-f]{1,15}")
_MAX_LINE = 4096
_MAX_TRAILERS = 100


class Body:
    """The bytes that follow a request's header, no more.

    `length`: in bytes, None when only the stream itself tells (chunked). `proceed` is called once
    before the first byte is read: a client that sent `Expect: 100-continue` waits for it.
    """

    def __init__(
        self,
        stream: io.BufferedIOBase,
        length: int | None,
        proceed: Callable[[], None] | None = None,
    ) -> None:
        self.length = length
        self._stream = stream
        self._proceed = proceed
        # of the whole body, or of the chunk at hand
        self._left = length or 0
        self._chunked = length is None
        self._ended = length == 0
        self._broken = False

    @property
    def ended(self) -> bool:
        return self._ended

    @property
    def awaited(self) -> bool:
        """Whether the client still waits for a word before it sends anything."""
        return self._proceed is not None

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer` as far as possible; 0 only at the end.

        ConnectionError when the client goes away, ValueError when it breaks the chunked coding.
        """
        if self._ended:
            return 0
        if self._proceed is not None:
            proceed, self._proceed = self._proceed, None
            proceed()
        if self._chunked and not self._left:
            self._left = self._chunk_size()
            if not self._left:
                self._skip_trailers()
                return 0
        n = self._stream.readinto(buffer[: self._left])
        if not n:
            raise ConnectionError("the client went away in the middle of a body")
        self._left -= n
        if not self._left:
            self._ended = not self._chunked
            if self._chunked and self._line():
                raise self._malformed("a chunk is longer than it says")
        return n

    def _chunk_size(self) -> int:
        size = self._line().split(b";")[0].strip()
        if not _CHUNK.fullmatch(size):
            raise self._malformed("a chunk has no size")
        return int(size, 16)

    def _skip_trailers(self) -> None:
        for _ in range(_MAX_TRAILERS):
            if not self._line():
                self._ended = True
                return
        raise self._malformed("too many trailers")

    def _line(self) -> bytes:
        line = self._stream.readline(_MAX_LINE)
        if not line:
            raise ConnectionError("the client went away in the middle of a body")
        if not line.endswith(b"\n"):
            raise self._malformed("a line of the chunked coding is too long")
        return line.rstrip(b"\r\n")

    def _malformed(self, why: str) -> ValueError:
        # nobody knows where it ends
        self._broken = True
        return ValueError(why)

    def read(self, limit: int) -> bytes | None:
        """All of it; None when it is over `limit` bytes."""
        if (self.length or 0) > limit:
            return None
        parts: list[bytes] = []
        total = 0
        buffer = thread_buffer()
        while n := self.readinto(buffer):
            total += n
            if total > limit:
                return None
            parts.append(bytes(buffer[:n]))
        return b"".join(parts)

    def discard(self, limit: int) -> bool:
        """Read the rest and throw it away; False where that is over `limit` bytes or malformed."""
        if self._broken or self.awaited or (not self._chunked and self._left > limit):
            return self._ended
        buffer = thread_buffer()
        while limit > 0 and (n := self.readinto(buffer)):
            limit -= n
        return self._ended


def body_length(headers: Mapping[str, str], n_lengths: int) -> int | None:
    """How long the body is, in bytes; None for chunked.

    `headers`: names in lower case. `n_lengths`: how many Content-Length headers there are.
    ValueError for what two readers could understand differently.
    """
    coding = headers.get("transfer-encoding")
    length = headers.get("content-length")
    if coding is not None:
        if length is not None or coding.strip().lower() != "chunked":
            raise ValueError("Transfer-Encoding must be chunked and stand alone")
        return None
    if length is None:
        return 0
    if n_lengths > 1 or not _LENGTH.fullmatch(length.strip()):
        raise ValueError("Content-Length is malformed")
    return int(length)
